//! Processor time and memory of processes, as /proc tells them.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Context;

/// Processor time of some processes and their children since it was made. Threads are told apart, for the
/// sum that the kernel keeps of a process counts in steps of 10 ms; of a thread that ended what it used
/// since the last look is lost.
#[derive(Debug)]
pub(super) struct Meter {
    processes: Vec<u32>,
    first: BTreeMap<(u32, u32), u64>,
    last: BTreeMap<(u32, u32), u64>,
}

impl Meter {
    /// Begins to count.
    pub(super) fn of(processes: &[u32]) -> Self {
        let mut all = Vec::new();
        for process in processes {
            gather(*process, &mut all);
        }
        let first = threads(&all);
        Self {
            processes: all,
            last: first.clone(),
            first,
        }
    }

    /// Looks again.
    pub(super) fn look(&mut self) {
        self.last.append(&mut threads(&self.processes));
    }

    /// Nanoseconds until the last look.
    pub(super) fn used_ns(&self) -> u64 {
        let used = self.last.iter().map(|(thread, last)| {
            let first = self.first.get(thread).copied().unwrap_or(0);
            last.saturating_sub(first)
        });
        used.sum()
    }

    /// Resident memory now, in bytes.
    pub(super) fn resident_bytes(&self) -> anyhow::Result<u64> {
        let mut bytes = 0;
        for process in &self.processes {
            let status = std::fs::read_to_string(format!("/proc/{process}/status"))
                .context("a process that is measured has ended")?;
            let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
            let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
            bytes += kib.context("/proc does not tell its memory")? * 1_024;
        }
        Ok(bytes)
    }
}

/// Adds a process and all that came of it.
fn gather(process: u32, all: &mut Vec<u32>) {
    all.push(process);
    for thread in numbers(Path::new(&format!("/proc/{process}/task"))) {
        let children = format!("/proc/{process}/task/{thread}/children");
        let children = std::fs::read_to_string(children).unwrap_or_default();
        for child in children
            .split_whitespace()
            .filter_map(|one| one.parse().ok())
        {
            gather(child, all);
        }
    }
}

/// Nanoseconds that each thread has run.
fn threads(processes: &[u32]) -> BTreeMap<(u32, u32), u64> {
    let mut all = BTreeMap::new();
    for process in processes {
        for thread in numbers(Path::new(&format!("/proc/{process}/task"))) {
            let path = format!("/proc/{process}/task/{thread}/schedstat");
            // A thread that ended in between is left as it was last seen.
            let text = std::fs::read_to_string(path).unwrap_or_default();
            let ran = text
                .split_whitespace()
                .next()
                .and_then(|one| one.parse().ok());
            if let Some(ran) = ran {
                all.insert((*process, thread), ran);
            }
        }
    }
    all
}

fn numbers(directory: &Path) -> Vec<u32> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    names.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_of_this_process_is_counted_and_its_memory_is_known() {
        let mut meter = Meter::of(&[std::process::id()]);
        let mut sum = 0_u64;
        while meter.used_ns() < 20_000_000 {
            sum = (0..100_000_u64).fold(sum, |sum, one| sum.wrapping_mul(31) ^ one);
            meter.look();
        }
        assert!(meter.resident_bytes().unwrap() > 1 << 20, "{sum}");
    }
}
