//! What all guests take together: the control group that libvirt puts them in.
//!
//! It tells nothing where guests have no control groups of the second kind.

use std::path::Path;

use plimsoll_model::Metric;

use super::super::files::{KeptFile, KeptLine};
use crate::look::Values;

/// Where the control groups of guests lie.
const SLICE: &str = "sys/fs/cgroup/machine.slice";

#[derive(Debug)]
pub(super) struct Slice {
    cpu: KeptFile,
    memory: KeptLine,
    io: KeptFile,
}

impl Slice {
    pub(super) fn new(root: &Path) -> Self {
        let slice = root.join(SLICE);
        Self {
            cpu: KeptFile::optional(slice.join("cpu.stat")),
            memory: KeptLine::new(slice.join("memory.current"), true),
            io: KeptFile::optional(slice.join("io.stat")),
        }
    }

    /// Looks for what was not there.
    pub(super) fn look_again(&mut self) {
        self.memory.look_again();
    }

    pub(super) fn read(&mut self, values: &mut Values) {
        let stat = self.cpu.read().unwrap_or_default();
        for (name, metric) in [
            ("usage_usec", Metric::HostSliceQemuCpuUsage),
            ("throttled_usec", Metric::HostSliceQemuCpuThrottled),
        ] {
            let line = stat.lines().find_map(|line| line.strip_prefix(name));
            if let Some(us) = line.and_then(|us| us.trim().parse::<u64>().ok()) {
                values.whole(metric, us.saturating_mul(1_000));
            }
        }
        if let Some(bytes) = self.memory.number() {
            values.whole(Metric::HostSliceQemuMemCurrent, bytes);
        }
        let Some(io) = self.io.read().filter(|io| !io.trim().is_empty()) else {
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
}
