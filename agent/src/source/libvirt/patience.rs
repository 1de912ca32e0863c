//! How soon a daemon is tried again whose connections end, and what of that is told.

use std::time::Duration;

const BACKOFF_MIN: Duration = Duration::from_millis(500);
const BACKOFF_MAX: Duration = Duration::from_secs(30);
/// A connection that lived so long was good, whatever ended it.
const HEALTHY: Duration = Duration::from_secs(60);

/// What became of the connections so far.
#[derive(Debug)]
pub(super) struct Patience {
    backoff: Duration,
    told: Option<String>,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            backoff: BACKOFF_MIN,
            told: None,
        }
    }
}

impl Patience {
    /// Notes why a connection ended after it lived so long; says whether that is worth a line.
    pub(super) fn is_news(&mut self, lived: Duration, reason: &str) -> bool {
        if lived >= HEALTHY {
            *self = Self::default();
        }
        if self.told.as_deref() == Some(reason) {
            return false;
        }
        self.told = Some(reason.to_owned());
        true
    }

    /// Says how long to wait; longer each time, and never as long as others who wait.
    pub(super) fn wait(&mut self) -> Duration {
        let wait = self.backoff.mul_f64(0.5 + fastrand::f64() / 2.0);
        self.backoff = (self.backoff * 2).min(BACKOFF_MAX);
        wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_daemon_that_accepts_and_then_refuses_is_told_once_and_tried_seldom() {
        let mut patience = Patience::default();
        let short = Duration::from_millis(5);
        let mut waited = Duration::ZERO;
        let mut lines = 0;
        for _ in 0..20 {
            lines += u32::from(patience.is_news(short, "events are refused"));
            waited += patience.wait();
        }
        assert_eq!(lines, 1);
        assert!(waited > Duration::from_secs(120), "{waited:?}");
        assert!(
            patience.is_news(short, "the daemon is gone"),
            "another reason"
        );
    }

    #[test]
    fn a_connection_that_lived_long_is_taken_up_again_at_once() {
        let mut patience = Patience::default();
        for _ in 0..10 {
            patience.is_news(Duration::ZERO, "gone");
            patience.wait();
        }
        assert!(patience.is_news(HEALTHY, "gone"));
        assert!(patience.wait() <= BACKOFF_MIN);
    }
}
