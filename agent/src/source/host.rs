//! The host itself: /proc and /sys, read through files that stay open.
//!
//! Every source fails alone: it gives no reading and one line in the log until it works again. It
//! reads nothing about guests.

pub mod facts;
mod files;
pub mod mounts;
pub mod parse;
mod sys;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use plimsoll_model::{Clock, Metric, Monotonic, NodeId, Part, Subject, Sweep, UnixMillis, Window};

use crate::look::Values;
use files::KeptFile;

/// Time between two lists of interfaces, processors and huge pages.
const RELIST_EVERY: Duration = Duration::from_secs(30);

/// A parser of one file.
type Parser = fn(&str, &mut Values, u64);

/// The files of which each is a source: path below the root and parser.
const SOURCES: [(&str, Parser); 8] = [
    ("proc/stat", parse::stat),
    ("proc/meminfo", parse::meminfo),
    ("proc/loadavg", parse::loadavg),
    ("proc/vmstat", parse::vmstat),
    ("proc/diskstats", parse::diskstats),
    ("proc/pressure/cpu", parse::psi_cpu),
    ("proc/pressure/memory", parse::psi_memory),
    ("proc/pressure/io", parse::psi_io),
];

/// Lists the sources that cannot be read.
pub fn unreadable(root: &Path) -> Vec<&'static str> {
    let opens = |path: &&str| std::fs::read(root.join(path)).is_ok();
    let paths = SOURCES.iter().map(|(path, _)| *path);
    paths.filter(|path| !opens(path)).collect()
}

/// Reads the host.
#[derive(Debug)]
pub struct Host {
    root: PathBuf,
    node: NodeId,
    clock: Arc<dyn Clock>,
    ticks_per_second: u64,
    files: Vec<(KeptFile, Parser)>,
    entries: sys::Entries,
    mounted: mounts::Mounted,
    listed: Option<Monotonic>,
}

impl Host {
    /// Makes a reader of the host whose file system begins at `root`.
    pub fn new(root: &Path, node: NodeId, clock: Arc<dyn Clock>) -> Self {
        let files = SOURCES
            .iter()
            .map(|(path, parser)| (KeptFile::new(root.join(path)), *parser))
            .collect();
        Self {
            root: root.to_owned(),
            node,
            clock,
            ticks_per_second: rustix::param::clock_ticks_per_second(),
            files,
            entries: sys::Entries::new(root),
            mounted: mounts::Mounted::new(root),
            listed: None,
        }
    }

    /// Reads all sources; each gives a sweep of its own, with its own window. File systems of the network
    /// are no part of it: [`mounts::read_shared`] asks them, for they may hang.
    pub fn read(&mut self) -> Vec<Sweep> {
        let now = self.clock.monotonic();
        if self
            .listed
            .is_none_or(|listed| now.since(listed) >= RELIST_EVERY)
        {
            self.entries.relist();
            self.listed = Some(now);
        }
        let mut sweeps = Vec::with_capacity(self.files.len() + 2);
        let subject = Subject::Node(self.node);
        for (file, parser) in &mut self.files {
            let begin = self.clock.now();
            let mut values = Values::default();
            if let Some(text) = file.read() {
                parser(text, &mut values, self.ticks_per_second);
            }
            sweeps.extend(values.sweep(subject, Window::between(begin, self.clock.now())));
        }
        let begin = self.clock.now();
        let mut values = Values::default();
        self.entries.read(&mut values);
        for mount in self.mounted.local() {
            let path = self.root.join(mount.trim_start_matches('/'));
            if let Some(told) = mounts::room(&path) {
                mounts::put(mount, told, &mut values);
            }
        }
        sweeps.extend(values.sweep(subject, Window::between(begin, self.clock.now())));
        sweeps
    }

    /// Lists the file systems of the network that were there at the last look.
    pub fn shared_mounts(&self) -> &[String] {
        self.mounted.shared()
    }
}

/// Reads a counter from a file of its own; absent where there is none.
pub fn count(path: &Path) -> Option<u64> {
    sys::number(path)
}

/// Makes a sweep of one value of the node.
pub fn node_value(node: NodeId, metric: Metric, value: u64, at: UnixMillis) -> Sweep {
    Sweep {
        subject: Subject::Node(node),
        window: Window::between(at, at),
        values: vec![(metric, Part::whole(), value)],
    }
}

#[cfg(test)]
mod tests {
    use plimsoll_model::SystemClock;

    use super::*;

    fn found(sweeps: &[Sweep], metric: Metric, part: &str) -> Option<u64> {
        let mut values = sweeps.iter().flat_map(|sweep| &sweep.values);
        values
            .find(|(m, p, _)| *m == metric && p.as_str() == part)
            .map(|(_, _, value)| *value)
    }

    fn write(root: &Path, path: &str, text: &str) {
        let path = root.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    fn host(root: &Path) -> Host {
        let mut host = Host::new(root, NodeId::random(), Arc::new(SystemClock::new()));
        host.ticks_per_second = 100;
        host
    }

    #[test]
    fn a_host_with_a_few_files_gives_just_their_readings() {
        let root = tempfile::tempdir().unwrap();
        write(root.path(), "proc/loadavg", "0.50 1.25 2.00 1/100 12345\n");
        write(
            root.path(),
            "sys/class/net/eth0/statistics/rx_bytes",
            "42\n",
        );
        write(root.path(), "sys/class/net/eth0/speed", "-1\n");
        write(root.path(), "sys/class/net/eth0/mtu", "1500\n");
        write(root.path(), "sys/class/net/eth0/operstate", "up\n");

        let sweeps = host(root.path()).read();

        assert_eq!(found(&sweeps, Metric::HostLoad5, ""), Some(1_250_000));
        assert_eq!(found(&sweeps, Metric::HostNetRxBytes, "eth0"), Some(42));
        assert_eq!(found(&sweeps, Metric::HostNetMtu, "eth0"), Some(1500));
        assert_eq!(found(&sweeps, Metric::HostNetOperstate, "eth0"), Some(1));
        assert_eq!(
            found(&sweeps, Metric::HostNetSpeed, "eth0"),
            None,
            "-1 is no speed"
        );
        assert_eq!(found(&sweeps, Metric::HostMemTotal, ""), None);
    }

    #[test]
    fn huge_pages_of_a_numa_node_pages_alike_and_the_guests_slice_are_told() {
        let root = tempfile::tempdir().unwrap();
        let pages = "hugepages/hugepages-2048kB";
        write(
            root.path(),
            &format!("sys/kernel/mm/{pages}/nr_hugepages"),
            "8\n",
        );
        let node = format!("sys/devices/system/node/node1/{pages}/free_hugepages");
        write(root.path(), &node, "3\n");
        write(root.path(), "sys/kernel/mm/ksm/pages_sharing", "12\n");
        let slice = |file: &str| format!("sys/fs/cgroup/machine.slice/{file}");
        let stat = "usage_usec 7\nuser_usec 5\nthrottled_usec 2\n";
        write(root.path(), &slice("cpu.stat"), stat);
        write(root.path(), &slice("memory.current"), "4096\n");
        let io = "8:0 rbytes=1 wbytes=2 rios=3 wios=4\n8:16 rbytes=10 wbytes=0 rios=0 wios=1\n";
        write(root.path(), &slice("io.stat"), io);

        let sweeps = host(root.path()).read();

        for (metric, part, value) in [
            (Metric::HostHugepagesTotal, "2048", 8),
            (Metric::HostHugepagesNumaFree, "1:2048", 3),
            (Metric::HostKsmSharing, "", 12),
            (Metric::HostSliceQemuCpuUsage, "", 7_000),
            (Metric::HostSliceQemuCpuThrottled, "", 2_000),
            (Metric::HostSliceQemuMemCurrent, "", 4_096),
            (Metric::HostSliceQemuIoRdBytes, "", 11),
            (Metric::HostSliceQemuIoWrOps, "", 5),
        ] {
            assert_eq!(found(&sweeps, metric, part), Some(value), "{metric}");
        }
    }

    const DEV: &str = "Inter-|   Receive                |  Transmit\n \
        face |bytes packets errs drop fifo frame compressed multicast|bytes packets errs drop fifo colls \
        carrier compressed\n    lo: 1 1 0 0 0 0 0 0 1 1 0 0 0 0 0 0\n";

    fn card(root: &Path, name: &str) {
        write(root, &format!("sys/class/net/{name}/mtu"), "1500\n");
        let rx = format!("sys/class/net/{name}/statistics/rx_bytes");
        write(root, &rx, "42\n");
    }

    #[test]
    fn counters_of_all_interfaces_come_from_one_file_of_the_same_network() {
        let root = tempfile::tempdir().unwrap();
        let eth0 = "  eth0: 101 102 103 104 105 106 107 108 109 110 111 112 113 114 115 116\n";
        write(root.path(), "proc/net/dev", &format!("{DEV}{eth0}"));
        card(root.path(), "lo");
        card(root.path(), "eth0");
        let mut host = host(root.path());
        let sweeps = host.read();
        for (metric, value) in [
            (Metric::HostNetRxBytes, 101),
            (Metric::HostNetRxPackets, 102),
            (Metric::HostNetRxErrs, 103),
            (Metric::HostNetRxDrop, 104),
            (Metric::HostNetTxBytes, 109),
            (Metric::HostNetTxPackets, 110),
            (Metric::HostNetTxErrs, 111),
            (Metric::HostNetTxDrop, 112),
            (Metric::HostNetMtu, 1500),
        ] {
            assert_eq!(found(&sweeps, metric, "eth0"), Some(value), "{metric}");
            assert_eq!(found(&sweeps, metric, "lo"), None);
        }

        // A card that is plugged in is told with the next list, one that is pulled at once no more.
        let eth1 = eth0.replace("eth0", "eth1");
        write(root.path(), "proc/net/dev", &format!("{DEV}{eth1}"));
        card(root.path(), "eth1");
        std::fs::remove_dir_all(root.path().join("sys/class/net/eth0")).unwrap();
        let sweeps = host.read();
        assert_eq!(found(&sweeps, Metric::HostNetRxBytes, "eth0"), None);
        host.listed = None;
        let sweeps = host.read();
        assert_eq!(found(&sweeps, Metric::HostNetRxBytes, "eth1"), Some(101));
        assert_eq!(found(&sweeps, Metric::HostNetMtu, "eth0"), None);
    }

    #[test]
    fn counters_of_another_network_are_not_taken_for_those_of_the_host() {
        let root = tempfile::tempdir().unwrap();
        let eth0 = "  eth0: 9 9 9 9 9 9 9 9 9 9 9 9 9 9 9 9\n";
        write(root.path(), "proc/net/dev", &format!("{DEV}{eth0}"));
        for name in ["lo", "eth0", "eth1"] {
            card(root.path(), name);
        }
        let sweeps = host(root.path()).read();
        for name in ["eth0", "eth1"] {
            assert_eq!(found(&sweeps, Metric::HostNetRxBytes, name), Some(42));
        }
    }

    #[test]
    fn a_file_that_vanishes_gives_no_reading_and_comes_back() {
        let root = tempfile::tempdir().unwrap();
        let mut host = host(root.path());
        assert_eq!(host.read(), []);
        write(root.path(), "proc/loadavg", "1.00 1.00 1.00 1/1 1\n");
        assert_eq!(found(&host.read(), Metric::HostLoad1, ""), Some(1_000_000));
    }

    #[test]
    fn this_machine_can_be_read() {
        let sweeps = host(Path::new("/")).read();
        assert!(found(&sweeps, Metric::HostMemTotal, "").is_some_and(|bytes| bytes > 0));
        assert!(found(&sweeps, Metric::HostCpuTimeUser, "0").is_some());
    }
}
