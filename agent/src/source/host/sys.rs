//! Entries of /sys and file systems: lists that change seldom, numbers that change often.

mod slice;

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use plimsoll_model::{Bandwidth, ByteSize, Metric, Part};

use super::files::{KeptFile, KeptLine};
use super::parse::kib;
use crate::look::Values;
use slice::Slice;

/// Room for most texts.
const TEXT_BYTES: usize = 4 << 10;
/// A number of 64 bits, its sign, and the end of the line.
const NUMBER_BYTES: usize = 24;

/// Most entries of one kind.
const ENTRIES_MAX: usize = 512;
/// Most files that stay open; those beyond are opened each time. A service may have 1024 in all.
const OPEN_MAX: usize = 256;

/// File below `statistics`, metric, column in /proc/net/dev. The kernel tells there as dropped what a card had
/// no room for as well.
const NET_COUNTERS: [(&str, Metric, usize); 8] = [
    ("rx_bytes", Metric::HostNetRxBytes, 0),
    ("rx_packets", Metric::HostNetRxPackets, 1),
    ("rx_errors", Metric::HostNetRxErrs, 2),
    ("rx_dropped", Metric::HostNetRxDrop, 3),
    ("tx_bytes", Metric::HostNetTxBytes, 8),
    ("tx_packets", Metric::HostNetTxPackets, 9),
    ("tx_errors", Metric::HostNetTxErrs, 10),
    ("tx_dropped", Metric::HostNetTxDrop, 11),
];

const HUGE_PAGES: [(&str, Metric); 3] = [
    ("nr_hugepages", Metric::HostHugepagesTotal),
    ("free_hugepages", Metric::HostHugepagesFree),
    ("resv_hugepages", Metric::HostHugepagesResv),
];

const NUMA_HUGE_PAGES: [(&str, Metric); 2] = [
    ("nr_hugepages", Metric::HostHugepagesNumaTotal),
    ("free_hugepages", Metric::HostHugepagesNumaFree),
];

const CPU_FREQUENCIES: [(&str, Metric); 2] = [
    ("scaling_cur_freq", Metric::HostCpuFreqCur),
    ("cpuinfo_max_freq", Metric::HostCpuFreqMax),
];

/// File below `sys/kernel/mm/ksm`, metric.
const KSM: [(&str, Metric); 5] = [
    ("pages_shared", Metric::HostKsmShared),
    ("pages_sharing", Metric::HostKsmSharing),
    ("pages_unshared", Metric::HostKsmUnshared),
    ("pages_volatile", Metric::HostKsmVolatile),
    ("full_scans", Metric::HostKsmFullScans),
];

/// What a line says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Says {
    /// A number of units.
    Units(u64),
    /// Mbit/s.
    Speed,
    /// Whether an interface is up.
    Operstate,
}

/// A file with one value.
#[derive(Debug)]
struct Entry {
    line: KeptLine,
    says: Says,
    metric: Metric,
    part: Part,
}

/// What there is to read.
#[derive(Debug)]
pub(super) struct Entries {
    root: PathBuf,
    lines: Vec<Entry>,
    /// Counters of all interfaces of this network.
    net: KeptFile,
    /// The interfaces that are told from it; none where it tells of another network than /sys.
    counted: Vec<Part>,
    numa_nodes: Vec<(u32, KeptFile)>,
    cpu_count: usize,
    slice: Slice,
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
    pub(super) fn new(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
            lines: Vec::new(),
            net: KeptFile::optional(root.join("proc/net/dev")),
            counted: Vec::new(),
            numa_nodes: Vec::new(),
            cpu_count: 0,
            slice: Slice::new(root),
        }
    }

    /// Finds out what there is; what stays the same stays open.
    pub(super) fn relist(&mut self) {
        let root = self.root.clone();
        let before = std::mem::take(&mut self.lines);
        let kept = before.into_iter().map(|entry| entry.line);
        let kept = kept.map(|line| (line.path().to_owned(), line)).collect();
        let mut list = List {
            root: &root,
            kept,
            lines: Vec::new(),
        };
        let nodes = numbered(&root.join("sys/devices/system/node"), "node", "");
        let sizes = numbered(&root.join("sys/kernel/mm/hugepages"), "hugepages-", "kB");
        let cpus = numbered(&root.join("sys/devices/system/cpu"), "cpu", "");
        self.counted = list.interfaces(self.net.read().unwrap_or_default());
        list.huge_pages(&nodes, &sizes);
        for (file, metric) in KSM {
            let path = format!("sys/kernel/mm/ksm/{file}");
            list.add(&path, Says::Units(1), metric, Part::whole());
        }
        for cpu in &cpus {
            for (file, metric) in CPU_FREQUENCIES {
                let path = format!("sys/devices/system/cpu/cpu{cpu}/cpufreq/{file}");
                list.add(&path, Says::Units(1_000), metric, Part::index(*cpu));
            }
        }
        self.lines = list.lines;
        let same = |(old, _): &(u32, KeptFile)| nodes.contains(old);
        self.numa_nodes.retain(same);
        for node in nodes {
            if !self.numa_nodes.iter().any(|(old, _)| *old == node) {
                let path = root.join(format!("sys/devices/system/node/node{node}/meminfo"));
                self.numa_nodes.push((node, KeptFile::optional(path)));
            }
        }
        self.cpu_count = cpus.len();
        self.slice.look_again();
    }

    pub(super) fn read(&mut self, values: &mut Values) {
        if !self.counted.is_empty() {
            read_counters(self.net.read().unwrap_or_default(), &self.counted, values);
        }
        for entry in &mut self.lines {
            if let Some(value) = entry.read() {
                values.add(entry.metric, entry.part.clone(), value);
            }
        }
        if self.cpu_count > 0 {
            let count = u64::try_from(self.cpu_count).unwrap_or(0);
            values.whole(Metric::HostCpuCount, count);
        }
        for (node, file) in &mut self.numa_nodes {
            read_numa_node(file.read().unwrap_or_default(), *node, values);
        }
        self.slice.read(values);
    }
}

impl Entry {
    fn read(&mut self) -> Option<u64> {
        match self.says {
            Says::Units(one) => Some(self.line.number()?.saturating_mul(one)),
            Says::Speed => {
                let speed = speed_of(self.line.number()?)?;
                Some(speed.bytes_per_second())
            }
            Says::Operstate => operstate(&self.line.word()?).map(u64::from),
        }
    }
}

/// What is found anew.
struct List<'a> {
    root: &'a Path,
    kept: HashMap<PathBuf, KeptLine>,
    lines: Vec<Entry>,
}

impl List<'_> {
    fn add(&mut self, path: &str, says: Says, metric: Metric, part: Part) {
        let path = self.root.join(path);
        let line = match self.kept.remove(&path) {
            Some(mut line) => {
                line.look_again();
                line
            }
            None => KeptLine::new(path, self.lines.len() < OPEN_MAX),
        };
        self.lines.push(Entry {
            line,
            says,
            metric,
            part,
        });
    }

    /// Adds what is told of each interface; returns those whose counters are in /proc/net/dev. That may be of
    /// another network than /sys is, where cards of the same name are others.
    fn interfaces(&mut self, net: &str) -> Vec<Part> {
        let directory = self.root.join("sys/class/net");
        let all = names(&directory);
        let counted: HashSet<&str> = counters(net).map(|(name, _)| name).collect();
        let mut cards = all.iter().filter(|name| directory.join(name).is_dir());
        let is_whole = all.len() >= ENTRIES_MAX || cards.clone().count() == counted.len();
        let is_same = is_whole && cards.all(|name| counted.contains(name.as_str()));
        let mut parts = Vec::new();
        for name in all.iter().filter(|name| is_of_the_host(name)) {
            let Ok(part) = Part::named(name) else {
                continue;
            };
            if !is_same {
                for (file, metric, _) in NET_COUNTERS {
                    let path = format!("sys/class/net/{name}/statistics/{file}");
                    self.add(&path, Says::Units(1), metric, part.clone());
                }
            }
            for (file, says, metric) in [
                ("speed", Says::Speed, Metric::HostNetSpeed),
                ("mtu", Says::Units(1), Metric::HostNetMtu),
                ("operstate", Says::Operstate, Metric::HostNetOperstate),
            ] {
                let path = format!("sys/class/net/{name}/{file}");
                self.add(&path, says, metric, part.clone());
            }
            parts.push(part);
        }
        parts.retain(|_| is_same);
        parts
    }

    fn huge_pages(&mut self, nodes: &[u32], sizes_kib: &[u32]) {
        for size in sizes_kib {
            let pages = format!("hugepages/hugepages-{size}kB");
            for (file, metric) in HUGE_PAGES {
                let path = format!("sys/kernel/mm/{pages}/{file}");
                self.add(&path, Says::Units(1), metric, Part::index(*size));
            }
            for node in nodes {
                let Ok(part) = Part::named(&format!("{node}:{size}")) else {
                    continue;
                };
                for (file, metric) in NUMA_HUGE_PAGES {
                    let path = format!("sys/devices/system/node/node{node}/{pages}/{file}");
                    self.add(&path, Says::Units(1), metric, part.clone());
                }
            }
        }
    }
}

/// Lists the interfaces of the host; taps of guests are told as their guests' cards.
pub(super) fn interfaces(root: &Path) -> Vec<String> {
    let mut names = names(&root.join("sys/class/net"));
    names.retain(|name| is_of_the_host(name));
    names
}

fn is_of_the_host(interface: &str) -> bool {
    interface != "lo" && !interface.starts_with("vnet") && !interface.starts_with("tap")
}

/// Names and columns of /proc/net/dev.
fn counters(net: &str) -> impl Iterator<Item = (&str, &str)> {
    let lines = net.lines().skip(2);
    lines.filter_map(|line| {
        let (name, columns) = line.split_once(':')?;
        Some((name.trim_start(), columns))
    })
}

fn read_counters(net: &str, told: &[Part], values: &mut Values) {
    for (name, columns) in counters(net) {
        let Some(part) = told.iter().find(|part| part.as_str() == name) else {
            continue;
        };
        let mut wanted = NET_COUNTERS.iter().peekable();
        for (column, field) in columns.split_ascii_whitespace().enumerate() {
            let Some((_, metric, _)) = wanted.next_if(|(_, _, at)| *at == column) else {
                continue;
            };
            if let Ok(count) = field.parse() {
                values.add(*metric, part.clone(), count);
            }
        }
    }
}

/// Reads the speed that a card tells; absent where its driver does not know.
pub(super) fn speed(interface: &Path) -> Option<Bandwidth> {
    speed_of(number(&interface.join("speed"))?)
}

fn speed_of(mbit: u64) -> Option<Bandwidth> {
    let is_told = (1..u64::from(u32::MAX)).contains(&mbit);
    is_told.then(|| Bandwidth::from_mbit_per_second(mbit))
}

/// Reads whether an interface is up; absent where its driver does not know.
pub(super) fn is_up(interface: &Path) -> Option<bool> {
    operstate(&text(&interface.join("operstate"))?)
}

fn operstate(word: &str) -> Option<bool> {
    match word {
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
