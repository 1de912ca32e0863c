//! When the sources look: at the same instants, so that what they see makes one batch and wakes the agent
//! once. It reads no clock but the runtime's.

use std::time::Duration;

use tokio::time::{Instant, Interval, MissedTickBehavior};

/// Agents that were started together must not look together.
const JITTER_MAX: Duration = Duration::from_secs(2);

/// The instants at which the sources of one agent look.
#[derive(Debug, Clone, Copy)]
pub struct Beat {
    begin: Instant,
}

#[expect(
    clippy::disallowed_methods,
    reason = "ticks are the runtime's, whose hands a test can turn"
)]
fn now() -> Instant {
    Instant::now()
}

impl Beat {
    /// Begins at a random instant within half an interval.
    pub fn begin(interval: Duration) -> Self {
        let jitter = interval.mul_f64(fastrand::f64() * 0.5);
        Self {
            begin: now() + jitter.min(JITTER_MAX),
        }
    }

    /// Begins now.
    pub fn now() -> Self {
        Self { begin: now() }
    }

    /// Ticks at once, if the beginning is past, and at each whole period since it; what is missed is left out.
    pub fn ticks(&self, period: Duration) -> Interval {
        let mut ticks = tokio::time::interval_at(self.begin, period);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        ticks
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_comes_later_looks_at_the_same_instants() {
        let beat = Beat::now();
        let (ten, one) = (Duration::from_secs(10), Duration::from_secs(1));
        let mut early = beat.ticks(ten);
        early.tick().await;
        tokio::time::advance(Duration::from_millis(13_700)).await;
        let (mut late, mut seconds) = (beat.ticks(ten), beat.ticks(one));
        assert_eq!(early.tick().await, beat.begin + ten, "it was due");
        for ticks in [&mut late, &mut seconds] {
            assert_eq!(ticks.tick().await, beat.begin, "at once");
        }
        assert_eq!(seconds.tick().await, beat.begin + one * 14);
        let second = beat.begin + ten * 2;
        assert_eq!((early.tick().await, late.tick().await), (second, second));
    }

    #[tokio::test(start_paused = true)]
    async fn agents_that_start_together_begin_within_two_seconds() {
        let now = now();
        for _ in 0..100 {
            let begin = Beat::begin(Duration::from_secs(60)).begin;
            assert!(begin >= now && begin <= now + JITTER_MAX);
        }
    }
}
