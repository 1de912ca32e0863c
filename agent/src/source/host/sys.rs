//! Entries of /sys and file systems: lists that change seldom, numbers that change often.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use plimsoll_model::{Bandwidth, ByteSize, Metric};

use super::mounts;
use super::parse::kib;
use crate::look::Values;

/// Room for most texts.
const TEXT_BYTES: usize = 4 << 10;
/// A number of 64 bits, its sign, and the end of the line.
const NUMBER_BYTES: usize = 24;

/// Most entries of one kind.
const ENTRIES_MAX: usize = 512;

const NET_COUNTERS: [(&str, Metric); 8] = [
    ("rx_bytes", Metric::HostNetRxBytes),
    ("rx_packets", Metric::HostNetRxPackets),
    ("rx_errors", Metric::HostNetRxErrs),
    ("rx_dropped", Metric::HostNetRxDrop),
    ("tx_bytes", Metric::HostNetTxBytes),
    ("tx_packets", Metric::HostNetTxPackets),
    ("tx_errors", Metric::HostNetTxErrs),
    ("tx_dropped", Metric::HostNetTxDrop),
];

const HUGE_PAGES: [(&str, Metric); 3] = [
    ("nr_hugepages", Metric::HostHugepagesTotal),
    ("free_hugepages", Metric::HostHugepagesFree),
    ("resv_hugepages", Metric::HostHugepagesResv),
];

/// File below `sys/kernel/mm/ksm`, metric.
const KSM: [(&str, Metric); 5] = [
    ("pages_shared", Metric::HostKsmShared),
    ("pages_sharing", Metric::HostKsmSharing),
    ("pages_unshared", Metric::HostKsmUnshared),
    ("pages_volatile", Metric::HostKsmVolatile),
    ("full_scans", Metric::HostKsmFullScans),
];

/// Where the control groups of guests lie.
const SLICE: &str = "sys/fs/cgroup/machine.slice";

/// What there is to read.
#[derive(Debug, Default)]
pub(super) struct Entries {
    interfaces: Vec<String>,
    numa_nodes: Vec<u32>,
    huge_page_sizes_kib: Vec<u32>,
    cpus: Vec<u32>,
    mounts: Vec<String>,
}

/// Reads a small text; absent if there is none. The kernel does not tell the size of what it makes up, so
/// there is room from the start.
pub(super) fn text(path: &Path) -> Option<String> {
    let mut text = String::with_capacity(TEXT_BYTES);
    File::open(path).ok()?.read_to_string(&mut text).ok()?;
    Some(text.trim().to_owned())
}

/// Reads a number that is not negative, in one go; drivers say -1 for what they do not know.
pub(super) fn number(path: &Path) -> Option<u64> {
    let mut bytes = [0; NUMBER_BYTES];
    let length = File::open(path).ok()?.read(&mut bytes).ok()?;
    let text = std::str::from_utf8(bytes.get(..length)?).ok()?;
    text.trim().parse().ok()
}

/// Lists the names in a directory.
pub(super) fn names(path: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(path) else {
        return Vec::new();
    };
    let mut names: Vec<String> = entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .take(ENTRIES_MAX)
        .collect();
    names.sort_unstable();
    names
}

fn numbered(path: &Path, prefix: &str, suffix: &str) -> Vec<u32> {
    let names = names(path);
    let number = |name: &String| {
        name.strip_prefix(prefix)?
            .strip_suffix(suffix)?
            .parse()
            .ok()
    };
    names.iter().filter_map(number).collect()
}

impl Entries {
    pub(super) fn relist(&mut self, root: &Path) {
        self.interfaces = interfaces(root);
        self.numa_nodes = numbered(&root.join("sys/devices/system/node"), "node", "");
        self.huge_page_sizes_kib =
            numbered(&root.join("sys/kernel/mm/hugepages"), "hugepages-", "kB");
        self.cpus = numbered(&root.join("sys/devices/system/cpu"), "cpu", "");
        let mut mounts = mounts::list(root);
        // Those of the network are asked apart: one that hangs would silence the host.
        mounts.retain(|mount| mounts::is_shared(&mount.kind) == Some(false));
        self.mounts = mounts.into_iter().map(|mount| mount.mount).collect();
    }

    pub(super) fn read(&self, root: &Path, values: &mut Values) {
        for name in &self.interfaces {
            read_interface(&root.join("sys/class/net").join(name), name, values);
        }
        if !self.cpus.is_empty() {
            values.whole(
                Metric::HostCpuCount,
                u64::try_from(self.cpus.len()).unwrap_or(0),
            );
        }
        for cpu in &self.cpus {
            let path = root.join(format!("sys/devices/system/cpu/cpu{cpu}/cpufreq"));
            for (file, metric) in [
                ("scaling_cur_freq", Metric::HostCpuFreqCur),
                ("cpuinfo_max_freq", Metric::HostCpuFreqMax),
            ] {
                if let Some(khz) = number(&path.join(file)) {
                    values.indexed(metric, *cpu, khz.saturating_mul(1_000));
                }
            }
        }
        for node in &self.numa_nodes {
            let path = root.join(format!("sys/devices/system/node/node{node}/meminfo"));
            read_numa_node(&text(&path).unwrap_or_default(), *node, values);
            for size in &self.huge_page_sizes_kib {
                read_numa_pages(root, *node, *size, values);
            }
        }
        for size in &self.huge_page_sizes_kib {
            let path = root.join(format!("sys/kernel/mm/hugepages/hugepages-{size}kB"));
            for (file, metric) in HUGE_PAGES {
                if let Some(pages) = number(&path.join(file)) {
                    values.indexed(metric, *size, pages);
                }
            }
        }
        for mount in &self.mounts {
            let path = root.join(mount.trim_start_matches('/'));
            if let Some(told) = mounts::room(&path) {
                mounts::put(mount, told, values);
            }
        }
        for (file, metric) in KSM {
            if let Some(value) = number(&root.join("sys/kernel/mm/ksm").join(file)) {
                values.whole(metric, value);
            }
        }
        read_slice(&root.join(SLICE), values);
    }
}

/// Lists the interfaces of the host; taps of guests are told as their guests' cards.
pub(super) fn interfaces(root: &Path) -> Vec<String> {
    let of_a_guest = |name: &String| name.starts_with("vnet") || name.starts_with("tap");
    let mut names = names(&root.join("sys/class/net"));
    names.retain(|name| name != "lo" && !of_a_guest(name));
    names
}

fn read_numa_pages(root: &Path, node: u32, size_kib: u32, values: &mut Values) {
    let path = root.join(format!(
        "sys/devices/system/node/node{node}/hugepages/hugepages-{size_kib}kB"
    ));
    for (file, metric) in [
        ("nr_hugepages", Metric::HostHugepagesNumaTotal),
        ("free_hugepages", Metric::HostHugepagesNumaFree),
    ] {
        if let Some(pages) = number(&path.join(file)) {
            values.named(metric, &format!("{node}:{size_kib}"), pages);
        }
    }
}

/// Reads what all guests take together; absent where guests have no control groups of the second kind.
fn read_slice(slice: &Path, values: &mut Values) {
    let stat = text(&slice.join("cpu.stat")).unwrap_or_default();
    for (name, metric) in [
        ("usage_usec", Metric::HostSliceQemuCpuUsage),
        ("throttled_usec", Metric::HostSliceQemuCpuThrottled),
    ] {
        let line = stat.lines().find_map(|line| line.strip_prefix(name));
        if let Some(us) = line.and_then(|us| us.trim().parse::<u64>().ok()) {
            values.whole(metric, us.saturating_mul(1_000));
        }
    }
    if let Some(bytes) = number(&slice.join("memory.current")) {
        values.whole(Metric::HostSliceQemuMemCurrent, bytes);
    }
    let Some(io) = text(&slice.join("io.stat")).filter(|io| !io.is_empty()) else {
        return;
    };
    for (name, metric) in [
        ("rbytes=", Metric::HostSliceQemuIoRdBytes),
        ("wbytes=", Metric::HostSliceQemuIoWrBytes),
        ("rios=", Metric::HostSliceQemuIoRdOps),
        ("wios=", Metric::HostSliceQemuIoWrOps),
    ] {
        let of_all = io.split_ascii_whitespace();
        let numbers = of_all.filter_map(|word| word.strip_prefix(name)?.parse::<u64>().ok());
        values.whole(metric, numbers.fold(0, u64::saturating_add));
    }
}

fn read_interface(path: &Path, name: &str, values: &mut Values) {
    for (file, metric) in NET_COUNTERS {
        if let Some(count) = number(&path.join("statistics").join(file)) {
            values.named(metric, name, count);
        }
    }
    if let Some(speed) = speed(path) {
        values.named(Metric::HostNetSpeed, name, speed.bytes_per_second());
    }
    if let Some(mtu) = number(&path.join("mtu")) {
        values.named(Metric::HostNetMtu, name, mtu);
    }
    if let Some(up) = is_up(path) {
        values.named(Metric::HostNetOperstate, name, u64::from(up));
    }
}

/// Reads the speed that a card tells; absent where its driver does not know.
pub(super) fn speed(interface: &Path) -> Option<Bandwidth> {
    number(&interface.join("speed"))
        .filter(|mbit| (1..u64::from(u32::MAX)).contains(mbit))
        .map(Bandwidth::from_mbit_per_second)
}

/// Reads whether an interface is up; absent where its driver does not know.
pub(super) fn is_up(interface: &Path) -> Option<bool> {
    match text(&interface.join("operstate"))?.as_str() {
        "up" => Some(true),
        "unknown" => None,
        _ => Some(false),
    }
}

fn read_numa_node(text: &str, node: u32, values: &mut Values) {
    for line in text.lines() {
        let Some((name, rest)) = line.split_once(':') else {
            continue;
        };
        let metric = match name.rsplit_once(' ').map(|(_, name)| name) {
            Some("MemTotal") => Metric::HostMemNumaTotal,
            Some("MemFree") => Metric::HostMemNumaFree,
            _ => continue,
        };
        if let Some(kib) = kib(rest) {
            values.indexed(metric, node, ByteSize::from_kib(kib).bytes());
        }
    }
}
