//! The QEMU process behind a domain: its id, its start, and what /proc tells when libvirt does not
//! answer. It sends no signals.

use std::path::{Path, PathBuf};

use plimsoll_libvirt::DomainRef;
use plimsoll_model::{BootId, ByteSize, CpuTime, Incarnation, Metric};

use crate::look::Values;

/// Reads the boot of this node.
pub(super) fn boot_id(root: &Path) -> Option<BootId> {
    let text = std::fs::read_to_string(root.join("proc/sys/kernel/random/boot_id")).ok()?;
    text.trim().parse().ok()
}

/// Reads the id of a domain's process; absent where its file cannot be read.
pub(super) fn pid(root: &Path, domain: &DomainRef) -> Option<u32> {
    // A name with a slash cannot lead out of the directory.
    if domain.name.contains('/') {
        return None;
    }
    let path: PathBuf = root
        .join("run/libvirt/qemu")
        .join(format!("{}.pid", domain.name));
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// The fields of /proc/PID/stat after the name, which may hold anything.
fn stat_fields(root: &Path, pid: u32) -> Option<Vec<String>> {
    fields_of(&root.join(format!("proc/{pid}/stat")))
}

fn fields_of(stat: &Path) -> Option<Vec<String>> {
    let text = std::fs::read_to_string(stat).ok()?;
    let (_, rest) = text.rsplit_once(')')?;
    Some(rest.split_ascii_whitespace().map(str::to_owned).collect())
}

/// Field of /proc/PID/stat by its number in the manual page.
fn field(fields: &[String], number: usize) -> Option<u64> {
    fields.get(number.checked_sub(3)?)?.parse().ok()
}

/// Names the process by boot and start; absent where the process cannot be seen.
pub(super) fn incarnation(root: &Path, boot: BootId, domain: &DomainRef) -> Option<Incarnation> {
    let fields = stat_fields(root, pid(root, domain)?)?;
    let ticks = rustix::param::clock_ticks_per_second();
    let started = CpuTime::from_ticks(field(&fields, 22)?, ticks);
    Some(Incarnation {
        boot,
        started_ms: started.ns() / 1_000_000,
    })
}

/// Most threads of a process that are looked at, and most virtual processors that are told.
const THREADS_MAX: usize = 4_096;
const VCPUS_MAX: usize = 512;

/// Lists the threads that run virtual processors, as QEMU names them: `CPU 3/KVM`.
fn vcpus(root: &Path, pid: u32) -> Vec<(u32, PathBuf)> {
    let Ok(threads) = std::fs::read_dir(root.join(format!("proc/{pid}/task"))) else {
        return Vec::new();
    };
    let vcpu = |path: PathBuf| {
        let name = std::fs::read_to_string(path.join("comm")).ok()?;
        let (number, _) = name.strip_prefix("CPU ")?.split_once('/')?;
        Some((number.parse().ok()?, path))
    };
    let paths = threads.flatten().map(|thread| thread.path());
    paths
        .take(THREADS_MAX)
        .filter_map(vcpu)
        .take(VCPUS_MAX)
        .collect()
}

/// Reads what the process alone tells: what the host swapped out of it, and where its virtual
/// processors run.
pub(super) fn survey(root: &Path, domain: &DomainRef, values: &mut Values) {
    let Some(pid) = pid(root, domain) else {
        return;
    };
    let status = |path: PathBuf, key: &str| {
        let text = std::fs::read_to_string(path).ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix(key))?;
        Some(line.trim().to_owned())
    };
    let swap = status(root.join(format!("proc/{pid}/status")), "VmSwap:");
    if let Some(kib) = swap.and_then(|swap| swap.strip_suffix("kB")?.trim_end().parse().ok()) {
        values.whole(Metric::VmMemSwappedByHost, ByteSize::from_kib(kib).bytes());
    }
    for (vcpu, path) in vcpus(root, pid) {
        let fields = fields_of(&path.join("stat")).unwrap_or_default();
        if let Some(cpu) = field(&fields, 39) {
            values.indexed(Metric::VmVcpuPcpu, vcpu, cpu);
        }
        let allowed = status(path.join("status"), "Cpus_allowed_list:");
        if let Some(count) = allowed.and_then(|list| count_of(&list)) {
            values.indexed(Metric::VmVcpuAffinity, vcpu, count);
        }
    }
}

/// Counts the numbers of a list such as `0-3,8`.
fn count_of(list: &str) -> Option<u64> {
    let mut count = 0_u64;
    for range in list.split(',') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last): (u64, u64) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        count = count.checked_add(last.checked_sub(first)?.checked_add(1)?)?;
    }
    Some(count)
}

/// Reads time and steal of the virtual processors in steps of the kernel's ticks.
fn vcpu_times(root: &Path, pid: u32, ticks_per_second: u64, values: &mut Values) {
    for (vcpu, path) in vcpus(root, pid) {
        let fields = fields_of(&path.join("stat")).unwrap_or_default();
        if let (Some(user), Some(system)) = (field(&fields, 14), field(&fields, 15)) {
            let time = CpuTime::from_ticks(user.saturating_add(system), ticks_per_second);
            values.indexed(Metric::VmVcpuTime, vcpu, time.ns());
        }
        let scheduled = std::fs::read_to_string(path.join("schedstat")).unwrap_or_default();
        let mut words = scheduled.split_ascii_whitespace();
        if let Some(delay_ns) = words.nth(1).and_then(|delay| delay.parse().ok()) {
            values.indexed(Metric::VmVcpuDelay, vcpu, delay_ns);
        }
    }
}

/// Reads processor time and resident memory without libvirt.
pub(super) fn fallback(root: &Path, domain: &DomainRef, values: &mut Values) {
    let Some(pid) = pid(root, domain) else {
        return;
    };
    let Some(fields) = stat_fields(root, pid) else {
        return;
    };
    let ticks = rustix::param::clock_ticks_per_second();
    vcpu_times(root, pid, ticks, values);
    if let (Some(user), Some(system)) = (field(&fields, 14), field(&fields, 15)) {
        values.whole(
            Metric::VmCpuTime,
            CpuTime::from_ticks(user.saturating_add(system), ticks).ns(),
        );
    }
    if let Some(pages) = field(&fields, 24) {
        let page_bytes = u64::try_from(rustix::param::page_size()).unwrap_or(4_096);
        let resident = ByteSize::from_bytes(pages.saturating_mul(page_bytes));
        values.whole(Metric::VmMemRss, resident.bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_whose_name_holds_brackets_is_read_all_the_same() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(root.path().join("proc/42")).unwrap();
        std::fs::create_dir_all(root.path().join("run/libvirt/qemu")).unwrap();
        let rest: Vec<String> = (3..=30).map(|number| (number * 100).to_string()).collect();
        std::fs::write(
            root.path().join("proc/42/stat"),
            format!("42 (a) b (c) {}\n", rest.join(" ")),
        )
        .unwrap();
        std::fs::write(root.path().join("run/libvirt/qemu/web.pid"), "42\n").unwrap();
        let domain = DomainRef {
            name: "web".to_owned(),
            uuid: [1; 16],
            id: Some(1),
        };

        let found = incarnation(root.path(), BootId::random(), &domain).unwrap();

        let ticks = rustix::param::clock_ticks_per_second();
        assert_eq!(found.started_ms, 2_200 * 1_000 / ticks);
        let mut values = Values::default();
        fallback(root.path(), &domain, &mut values);
        assert!(!values.is_empty());
    }

    #[test]
    fn a_process_tells_of_its_virtual_processors_and_its_swap() {
        let root = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        write("run/libvirt/qemu/web.pid", "42\n");
        write("proc/42/status", "Name:\tqemu\nVmSwap:\t      12 kB\n");
        let numbers: Vec<String> = (3..=45).map(|number| number.to_string()).collect();
        let stat = format!("42 (qemu) {}\n", numbers.join(" "));
        write("proc/42/stat", &stat);
        write("proc/42/task/42/comm", "qemu-system-x86\n");
        write("proc/42/task/44/comm", "CPU 1/TCG\n");
        write("proc/42/task/44/stat", &stat);
        write("proc/42/task/44/status", "Cpus_allowed_list:\t0-3,8\n");
        write("proc/42/task/44/schedstat", "900 77 5\n");
        let domain = DomainRef {
            name: "web".to_owned(),
            uuid: [1; 16],
            id: Some(1),
        };
        let told = |values: Values| {
            let at = plimsoll_model::UnixMillis::from_millis(1);
            let node = plimsoll_model::Subject::Node(plimsoll_model::NodeId::random());
            let sweep = values.sweep(node, plimsoll_model::Window::between(at, at));
            let values = sweep.unwrap().values.into_iter();
            values
                .map(|(metric, part, value)| (metric, part.as_str().to_owned(), value))
                .collect::<Vec<_>>()
        };

        let mut values = Values::default();
        survey(root.path(), &domain, &mut values);
        let row = |metric, part: &str, value| (metric, part.to_owned(), value);
        let expected = [
            row(Metric::VmMemSwappedByHost, "", 12 << 10),
            row(Metric::VmVcpuPcpu, "1", 39),
            row(Metric::VmVcpuAffinity, "1", 5),
        ];
        assert_eq!(told(values), expected);

        let mut values = Values::default();
        fallback(root.path(), &domain, &mut values);
        let values = told(values);
        let ticks = rustix::param::clock_ticks_per_second();
        let time = CpuTime::from_ticks(14 + 15, ticks).ns();
        assert!(values.contains(&row(Metric::VmVcpuTime, "1", time)));
        assert!(
            values.contains(&row(Metric::VmVcpuDelay, "1", 77)),
            "steal apart"
        );
    }

    #[test]
    fn a_name_cannot_lead_out_of_the_directory() {
        let domain = DomainRef {
            name: "../../etc/x".to_owned(),
            uuid: [1; 16],
            id: None,
        };
        assert_eq!(pid(Path::new("/"), &domain), None);
    }
}
