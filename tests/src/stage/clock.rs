//! The only place of this crate that looks at the clock, and the bounded wait built on it.
//!
//! Not here: turned hands. The stage is made of real processes, so its time is real.

use std::time::{Duration, Instant};

use super::error::StageError;

/// How often a waiting story looks again.
const POLL_PERIOD: Duration = Duration::from_millis(10);

/// A moment from which a limit counts.
#[derive(Debug, Clone, Copy)]
pub struct Deadline {
    begin: Instant,
    limit: Duration,
}

impl Deadline {
    /// A deadline `limit` from now.
    pub fn after(limit: Duration) -> Self {
        Self {
            begin: now(),
            limit,
        }
    }

    /// Whether the limit has passed.
    pub fn is_over(&self) -> bool {
        self.elapsed() >= self.limit
    }

    /// The time since the deadline was set.
    pub fn elapsed(&self) -> Duration {
        now().saturating_duration_since(self.begin)
    }
}

#[expect(clippy::disallowed_methods, reason = "this is the stage's clock")]
fn now() -> Instant {
    Instant::now()
}

#[expect(clippy::disallowed_methods, reason = "this is the stage's clock")]
/// Sleeps: for questions too dear to be asked all the time.
pub fn pause(length: Duration) {
    std::thread::sleep(length);
}

/// Asks again and again until there is an answer, and gives up after the limit.
///
/// # Errors
///
/// Passes on the first error of the question, or says what was waited for in vain.
pub fn wait_until<T>(
    what: &str,
    limit: Duration,
    mut question: impl FnMut() -> Result<Option<T>, StageError>,
) -> Result<T, StageError> {
    let deadline = Deadline::after(limit);
    loop {
        if let Some(answer) = question()? {
            return Ok(answer);
        }
        if deadline.is_over() {
            return Err(StageError::TimedOut {
                what: what.to_owned(),
                limit,
            });
        }
        pause(POLL_PERIOD);
    }
}
