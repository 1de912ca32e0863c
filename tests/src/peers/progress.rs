//! How far a long feed has come, told now and then.

use std::io::Write as _;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::stage::Deadline;

const EVERY: Duration = Duration::from_secs(5);

/// Counts what is done and tells about every five seconds how long the rest takes.
#[derive(Debug)]
pub(super) struct Progress {
    what: String,
    all: u64,
    done: AtomicU64,
    began: Deadline,
    pause: Mutex<Deadline>,
}

impl Progress {
    pub(super) fn new(what: String, all: u64) -> Self {
        Self {
            what,
            all,
            done: AtomicU64::new(0),
            began: Deadline::after(Duration::MAX),
            pause: Mutex::new(Deadline::after(EVERY)),
        }
    }

    /// Time since the beginning.
    pub(super) fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    /// Adds what was done.
    pub(super) fn add(&self, count: u64) {
        let done = self.done.fetch_add(count, Ordering::Relaxed) + count;
        let mut pause = self.pause.lock().unwrap_or_else(PoisonError::into_inner);
        if !pause.is_over() {
            return;
        }
        *pause = Deadline::after(EVERY);
        drop(pause);
        let elapsed = self.elapsed().as_secs_f64();
        let left = elapsed / done.max(1) as f64 * self.all.saturating_sub(done) as f64;
        tell(&format!(
            "{}: {:.1} of {:.1} M samples, {:.0} k/s, {left:.0} s left",
            self.what,
            done as f64 / 1e6,
            self.all as f64 / 1e6,
            done as f64 / elapsed / 1e3,
        ));
    }
}

/// Tells something that is no part of the result.
pub(super) fn tell(line: &str) {
    // Nobody is there to be told if it cannot be written.
    drop(writeln!(std::io::stderr().lock(), "{line}"));
}
