//! The ceiling of memory: near it questions are refused, nearer to it samples too, so that the kernel
//! never has to choose. It frees nothing.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use plimsoll_model::ByteSize;

/// How often memory is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Hundredths of the ceiling from which questions are refused.
const QUESTIONS_UNTIL: u64 = 80;
/// Hundredths of the ceiling from which samples are refused; agents keep them.
const SAMPLES_UNTIL: u64 = 95;
/// Hundredths of what the machine has that are taken where no ceiling is told.
const OF_MACHINE: u64 = 75;

/// How scarce memory is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scarcity {
    /// There is enough.
    None,
    /// Questions are refused.
    Questions,
    /// Samples are refused as well.
    Samples,
}

/// The ceiling and what is used of it.
#[derive(Debug)]
pub struct Ceiling {
    max: u64,
    used: AtomicU64,
}

impl Ceiling {
    /// Takes what is told, else three quarters of what the machine or the control group has.
    pub fn new(told: Option<ByteSize>) -> Self {
        let of_machine = || available(Path::new("/")).saturating_mul(OF_MACHINE) / 100;
        Self {
            max: told.map_or_else(of_machine, ByteSize::bytes),
            used: AtomicU64::new(0),
        }
    }

    /// Returns the ceiling.
    pub fn max(&self) -> ByteSize {
        ByteSize::from_bytes(self.max)
    }

    /// Returns what was used when it was looked last.
    pub fn used(&self) -> ByteSize {
        ByteSize::from_bytes(self.used.load(Ordering::Relaxed))
    }

    /// Says how scarce memory was when it was looked last.
    pub fn scarcity(&self) -> Scarcity {
        judge(self.used.load(Ordering::Relaxed), self.max)
    }

    /// Looks once.
    pub fn look(&self) {
        if let Some(used) = used(Path::new("/")) {
            self.used.store(used, Ordering::Relaxed);
        }
    }

    /// Looks again and again. Ends only when dropped.
    pub async fn follow(self: Arc<Self>) {
        let mut looks = tokio::time::interval(LOOK_EVERY);
        looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut before = Scarcity::None;
        loop {
            looks.tick().await;
            self.look();
            let now = self.scarcity();
            if now != before {
                tracing::warn!(scarcity = ?now, used = %self.used(), ceiling = %self.max(), "memory");
                before = now;
            }
        }
    }
}

fn judge(used: u64, max: u64) -> Scarcity {
    let share = |hundredths: u64| max / 100 * hundredths;
    if used >= share(SAMPLES_UNTIL) {
        Scarcity::Samples
    } else if used >= share(QUESTIONS_UNTIL) {
        Scarcity::Questions
    } else {
        Scarcity::None
    }
}

/// Reads the memory that is this process' own: what is resident and is no file. The kernel takes files back.
fn used(root: &Path) -> Option<u64> {
    let text = std::fs::read_to_string(root.join("proc/self/statm")).ok()?;
    let mut pages = text.split_whitespace().skip(1);
    let resident: u64 = pages.next()?.parse().ok()?;
    let of_files: u64 = pages.next()?.parse().ok()?;
    let page_bytes = u64::try_from(rustix::param::page_size()).ok()?;
    Some(resident.saturating_sub(of_files).saturating_mul(page_bytes))
}

/// Returns what there is: the machine's memory, or what the control group may have of it.
fn available(root: &Path) -> u64 {
    let system = rustix::system::sysinfo();
    let total = u64::from(system.mem_unit).saturating_mul(system.totalram);
    granted(root).map_or(total, |granted| granted.min(total))
}

fn granted(root: &Path) -> Option<u64> {
    let groups = std::fs::read_to_string(root.join("proc/self/cgroup")).ok()?;
    let own = groups.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let limit = root.join("sys/fs/cgroup").join(own).join("memory.max");
    std::fs::read_to_string(limit).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_are_refused_before_samples_and_each_right_at_its_limit() {
        let judged = |used: &[u64]| -> Vec<Scarcity> {
            used.iter().map(|used| judge(*used, 1_000)).collect()
        };
        assert_eq!(
            judged(&[0, 799, 800, 801]),
            [
                Scarcity::None,
                Scarcity::None,
                Scarcity::Questions,
                Scarcity::Questions
            ]
        );
        assert_eq!(
            judged(&[949, 950, 951, 5_000]),
            [
                Scarcity::Questions,
                Scarcity::Samples,
                Scarcity::Samples,
                Scarcity::Samples
            ]
        );
    }

    #[test]
    fn files_are_not_counted_and_a_control_group_lowers_what_there_is() {
        let root = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        write("proc/self/statm", "900 50 20 1 0 30 0\n");
        let page_bytes = u64::try_from(rustix::param::page_size()).unwrap();
        assert_eq!(used(root.path()), Some(30 * page_bytes));
        let whole = available(root.path());
        assert!(whole > 1 << 20);
        write("proc/self/cgroup", "0::/system.slice/a.service\n");
        write("sys/fs/cgroup/system.slice/a.service/memory.max", "max\n");
        assert_eq!(available(root.path()), whole);
        write(
            "sys/fs/cgroup/system.slice/a.service/memory.max",
            "1048576\n",
        );
        assert_eq!(available(root.path()), 1 << 20);
    }

    #[test]
    fn this_process_uses_something() {
        let ceiling = Ceiling::new(Some(ByteSize::from_mib(1)));
        assert_eq!(ceiling.scarcity(), Scarcity::None);
        ceiling.look();
        assert_eq!(ceiling.scarcity(), Scarcity::Samples);
    }
}
