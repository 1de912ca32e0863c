//! Parsers of /proc: text in, values out. They open nothing; what they do not understand they leave out.

use plimsoll_model::{ByteSize, CpuTime, Metric, Ratio};

use crate::look::Values;

const CPU_MODES: [Metric; 10] = [
    Metric::HostCpuTimeUser,
    Metric::HostCpuTimeNice,
    Metric::HostCpuTimeSystem,
    Metric::HostCpuTimeIdle,
    Metric::HostCpuTimeIowait,
    Metric::HostCpuTimeIrq,
    Metric::HostCpuTimeSoftirq,
    Metric::HostCpuTimeSteal,
    Metric::HostCpuTimeGuest,
    Metric::HostCpuTimeGuestNice,
];

const MEMINFO: [(&str, Metric); 9] = [
    ("MemTotal", Metric::HostMemTotal),
    ("MemAvailable", Metric::HostMemAvailable),
    ("MemFree", Metric::HostMemFree),
    ("Buffers", Metric::HostMemBuffers),
    ("Cached", Metric::HostMemCached),
    ("Slab", Metric::HostMemSlab),
    ("Committed_AS", Metric::HostMemCommitted),
    ("SwapTotal", Metric::HostMemSwapTotal),
    ("SwapFree", Metric::HostMemSwapFree),
];

/// Bytes of the sector that /proc/diskstats counts in, whatever the disk's own.
const SECTOR_BYTES: u64 = 512;
const NS_PER_MS: u64 = 1_000_000;
const NS_PER_US: u64 = 1_000;

/// Parses /proc/stat: time of each processor in each mode.
pub fn stat(text: &str, values: &mut Values, ticks_per_second: u64) {
    let mut online = 0_u64;
    for line in text.lines() {
        let Some(rest) = line.strip_prefix("cpu") else {
            continue;
        };
        let mut fields = rest.split_ascii_whitespace();
        if rest.starts_with(' ') {
            continue;
        }
        let Some(cpu) = fields.next().and_then(|cpu| cpu.parse::<u32>().ok()) else {
            continue;
        };
        online += 1;
        for (metric, field) in CPU_MODES.iter().zip(fields) {
            if let Ok(ticks) = field.parse::<u64>() {
                let time = CpuTime::from_ticks(ticks, ticks_per_second);
                values.indexed(*metric, cpu, time.ns());
            }
        }
    }
    if online > 0 {
        values.whole(Metric::HostCpuOnline, online);
    }
}

/// Parses /proc/meminfo.
pub fn meminfo(text: &str, values: &mut Values, _ticks_per_second: u64) {
    for line in text.lines() {
        let Some((name, rest)) = line.split_once(':') else {
            continue;
        };
        let Some((_, metric)) = MEMINFO.iter().find(|(known, _)| *known == name) else {
            continue;
        };
        if let Some(kib) = kib(rest) {
            values.whole(*metric, ByteSize::from_kib(kib).bytes());
        }
    }
}

/// Parses a number followed by `kB`, by which the kernel means KiB.
pub(super) fn kib(text: &str) -> Option<u64> {
    text.trim().strip_suffix("kB")?.trim_end().parse().ok()
}

/// Parses /proc/loadavg.
pub fn loadavg(text: &str, values: &mut Values, _ticks_per_second: u64) {
    let metrics = [Metric::HostLoad1, Metric::HostLoad5, Metric::HostLoad15];
    for (metric, field) in metrics.into_iter().zip(text.split_ascii_whitespace()) {
        if let Ok(load) = field.parse::<Ratio>() {
            values.whole(metric, load.millionths());
        }
    }
}

/// Parses /proc/vmstat.
pub fn vmstat(text: &str, values: &mut Values, _ticks_per_second: u64) {
    for line in text.lines() {
        let Some((name, count)) = line.split_once(' ') else {
            continue;
        };
        let metric = match name {
            "pgmajfault" => Metric::HostVmstatPgmajfault,
            "pswpin" => Metric::HostVmstatPswpin,
            "pswpout" => Metric::HostVmstatPswpout,
            "oom_kill" => Metric::HostVmstatOomKill,
            _ => continue,
        };
        if let Ok(count) = count.trim().parse() {
            values.whole(metric, count);
        }
    }
}

/// Parses /proc/diskstats: whole disks that were ever used; neither partitions nor loop and RAM disks.
pub fn diskstats(text: &str, values: &mut Values, _ticks_per_second: u64) {
    for line in text.lines() {
        let mut fields = line.split_ascii_whitespace().skip(2);
        let Some(name) = fields.next() else { continue };
        if is_partition(name) || name.starts_with("loop") || name.starts_with("ram") {
            continue;
        }
        let numbers: Option<Vec<u64>> = fields.map(|field| field.parse().ok()).collect();
        let Some(numbers) = numbers else { continue };
        let [
            reads,
            _,
            read_sectors,
            read_ms,
            writes,
            _,
            written,
            write_ms,
            inflight,
            busy_ms,
            weighted_ms,
            ..,
        ] = numbers.as_slice()
        else {
            continue;
        };
        if *reads == 0 && *writes == 0 {
            continue;
        }
        let ns = |ms: u64| ms.saturating_mul(NS_PER_MS);
        let bytes = |sectors: u64| sectors.saturating_mul(SECTOR_BYTES);
        values.named(Metric::HostDiskRdOps, name, *reads);
        values.named(Metric::HostDiskRdBytes, name, bytes(*read_sectors));
        values.named(Metric::HostDiskRdTime, name, ns(*read_ms));
        values.named(Metric::HostDiskWrOps, name, *writes);
        values.named(Metric::HostDiskWrBytes, name, bytes(*written));
        values.named(Metric::HostDiskWrTime, name, ns(*write_ms));
        values.named(Metric::HostDiskInflight, name, *inflight);
        values.named(Metric::HostDiskIoTime, name, ns(*busy_ms));
        values.named(Metric::HostDiskWeighted, name, ns(*weighted_ms));
    }
}

fn is_partition(name: &str) -> bool {
    let stem = name.trim_end_matches(|c: char| c.is_ascii_digit());
    if stem.len() == name.len() {
        return false;
    }
    match stem.strip_suffix('p') {
        Some(disk) if name.starts_with("nvme") || name.starts_with("mmcblk") => {
            disk.ends_with(|c: char| c.is_ascii_digit())
        }
        _ => ["sd", "vd", "hd", "xvd"]
            .iter()
            .any(|prefix| name.starts_with(prefix)),
    }
}

/// Parses /proc/pressure/cpu.
pub fn psi_cpu(text: &str, values: &mut Values, _ticks_per_second: u64) {
    psi(
        text,
        values,
        [Metric::HostPsiCpuSome, Metric::HostPsiCpuFull],
    );
}

/// Parses /proc/pressure/memory.
pub fn psi_memory(text: &str, values: &mut Values, _ticks_per_second: u64) {
    psi(
        text,
        values,
        [Metric::HostPsiMemorySome, Metric::HostPsiMemoryFull],
    );
}

/// Parses /proc/pressure/io.
pub fn psi_io(text: &str, values: &mut Values, _ticks_per_second: u64) {
    psi(text, values, [Metric::HostPsiIoSome, Metric::HostPsiIoFull]);
}

fn psi(text: &str, values: &mut Values, [some, full]: [Metric; 2]) {
    for line in text.lines() {
        let Some((kind, rest)) = line.split_once(' ') else {
            continue;
        };
        let metric = match kind {
            "some" => some,
            "full" => full,
            _ => continue,
        };
        let total = rest
            .rsplit_once("total=")
            .and_then(|(_, us)| us.trim().parse::<u64>().ok());
        if let Some(us) = total {
            values.whole(metric, us.saturating_mul(NS_PER_US));
        }
    }
}

#[cfg(test)]
mod tests {
    use plimsoll_model::{NodeId, Subject, UnixMillis, Window};
    use proptest::prelude::{any, proptest};

    use super::*;

    fn values(parse: fn(&str, &mut Values, u64), text: &str) -> Vec<(Metric, String, u64)> {
        let mut values = Values::default();
        parse(text, &mut values, 100);
        let at = UnixMillis::from_millis(1);
        let sweep = values.sweep(Subject::Node(NodeId::random()), Window::between(at, at));
        let found = sweep.map(|sweep| sweep.values).unwrap_or_default();
        found
            .into_iter()
            .map(|(m, p, v)| (m, p.as_str().to_owned(), v))
            .collect()
    }

    #[test]
    fn ticks_become_nanoseconds_and_the_sum_line_is_left_out() {
        let found = values(stat, "cpu  9 9 9 9\ncpu0 1 2 3 4 5 6 7 8 9 10\nintr 5\n");
        assert!(found.contains(&(Metric::HostCpuTimeUser, "0".to_owned(), 10_000_000)));
        assert!(found.contains(&(Metric::HostCpuTimeGuestNice, "0".to_owned(), 100_000_000)));
        assert!(found.contains(&(Metric::HostCpuOnline, String::new(), 1)));
        assert_eq!(found.len(), 11);
    }

    #[test]
    fn an_older_kernel_with_fewer_columns_gives_fewer_readings() {
        assert_eq!(values(stat, "cpu0 1 2 3 4\n").len(), 5);
    }

    #[test]
    fn kib_become_bytes() {
        let found = values(
            meminfo,
            "MemTotal:  16 kB\nHugePages_Total: 4\nMemFree: junk\n",
        );
        assert_eq!(found, [(Metric::HostMemTotal, String::new(), 16_384)]);
    }

    #[test]
    fn microseconds_of_pressure_become_nanoseconds() {
        let found = values(psi_io, "some avg10=0.00 avg60=0.00 avg300=0.00 total=7\n");
        assert_eq!(found, [(Metric::HostPsiIoSome, String::new(), 7_000)]);
    }

    #[test]
    fn of_the_many_counters_of_memory_four_are_told() {
        let text = "nr_free_pages 9\npswpin 3\npgmajfault 7\npgmajfault_x 8\noom_kill 1\n";
        let found = values(vmstat, text);
        let row = |metric, value| (metric, String::new(), value);
        let expected = [
            row(Metric::HostVmstatPgmajfault, 7),
            row(Metric::HostVmstatPswpin, 3),
            row(Metric::HostVmstatOomKill, 1),
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn disks_are_told_and_partitions_are_not() {
        let line = |name: &str| format!(" 8 0 {name} 1 0 8 2 3 0 16 4 5 6 7\n");
        let text: String = ["sda", "sda1", "nvme0n1", "nvme0n1p2", "dm-0", "loop3"]
            .map(line)
            .concat();
        let found = values(diskstats, &text);
        let parts: std::collections::BTreeSet<_> =
            found.iter().map(|(_, p, _)| p.as_str()).collect();
        assert_eq!(
            parts.into_iter().collect::<Vec<_>>(),
            ["dm-0", "nvme0n1", "sda"]
        );
        assert!(found.contains(&(Metric::HostDiskWrBytes, "sda".to_owned(), 8_192)));
        assert!(found.contains(&(Metric::HostDiskIoTime, "sda".to_owned(), 6_000_000)));
    }

    proptest! {
        #[test]
        fn no_text_makes_a_parser_panic(text in any::<String>()) {
            for parse in [stat, meminfo, loadavg, vmstat, diskstats, psi_cpu] {
                values(parse, &text);
            }
        }
    }
}
