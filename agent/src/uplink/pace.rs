//! How fast a backlog is sent: so many times faster than it was sampled, so that a fleet that comes back
//! does not drown the aggregator. What was just sampled never waits.

use std::time::Duration;

use plimsoll_model::Monotonic;
use plimsoll_proto::v1;
use prost::Message as _;

/// A pause in the sampling, as of a suspended machine, costs no more than this.
const STEP_MAX_MS: i64 = 60_000;
/// What was not sent in time may be sent at once, up to so much.
const BURST: Duration = Duration::from_secs(1);

/// The head of a batch's body.
#[derive(Clone, PartialEq, prost::Message)]
struct Head {
    #[prost(message, optional, tag = "1")]
    made_time: Option<prost_types::Timestamp>,
}

/// The pace of one stream.
#[derive(Debug)]
pub(super) struct Pace {
    /// How many times faster than time; 0 for as fast as it goes.
    rate: u32,
    made_ms: Option<i64>,
    due: Option<Monotonic>,
}

impl Pace {
    pub(super) fn new(rate: i32) -> Self {
        let rate = u32::try_from(rate).unwrap_or(0);
        let (made_ms, due) = (None, None);
        Self { rate, made_ms, due }
    }

    /// Returns how long the next batch has to wait.
    pub(super) fn wait(&self, now: Monotonic) -> Option<Duration> {
        let wait = self.due?.since(now);
        (!wait.is_zero()).then_some(wait)
    }

    /// Books a batch that is sent.
    pub(super) fn depart(&mut self, batch: &v1::Batch, now: Monotonic) {
        let made = Head::decode(batch.body.clone()).ok();
        let Some(made) = made.and_then(|head| head.made_time) else {
            return;
        };
        let made_ms = made.seconds.saturating_mul(1_000) + i64::from(made.nanos) / 1_000_000;
        let before = self.made_ms.replace(made_ms).unwrap_or(made_ms);
        let step = made_ms.saturating_sub(before).clamp(0, STEP_MAX_MS);
        let Some(step) = Duration::from_millis(step.unsigned_abs()).checked_div(self.rate) else {
            return;
        };
        let late = self.due.map_or(Duration::ZERO, |due| now.since(due));
        let due = self.due.filter(|_| late <= BURST);
        let begin = due.unwrap_or(now);
        self.due = Some(begin.plus(step));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(made_s: i64) -> v1::Batch {
        let made_time = Some(prost_types::Timestamp {
            seconds: made_s,
            nanos: 0,
        });
        let body = v1::BatchBody {
            made_time,
            ..v1::BatchBody::default()
        };
        v1::Batch {
            body: body.encode_to_vec().into(),
            ..v1::Batch::default()
        }
    }

    const NOW: Monotonic = Monotonic::from_duration(Duration::from_secs(100));

    #[test]
    fn a_backlog_goes_as_many_times_faster_as_it_may() {
        let mut pace = Pace::new(20);
        for made_s in 0..=60 {
            pace.depart(&batch(made_s), NOW);
        }
        assert_eq!(pace.wait(NOW), Some(Duration::from_secs(3)));
        assert_eq!(pace.wait(NOW.plus(Duration::from_secs(3))), None);
    }

    #[test]
    fn what_comes_as_it_is_sampled_never_waits() {
        let mut pace = Pace::new(20);
        for made_s in 0..60 {
            let now = NOW.plus(Duration::from_secs(made_s));
            assert_eq!(pace.wait(now), None);
            pace.depart(&batch(made_s.cast_signed()), now);
        }
    }

    #[test]
    fn a_night_in_which_nothing_was_sampled_is_not_waited_for() {
        let mut pace = Pace::new(20);
        pace.depart(&batch(0), NOW);
        pace.depart(&batch(40_000), NOW);
        assert_eq!(pace.wait(NOW), Some(Duration::from_secs(3)));
    }

    #[test]
    fn without_a_limit_nothing_waits() {
        let mut pace = Pace::new(0);
        pace.depart(&batch(0), NOW);
        pace.depart(&batch(60), NOW);
        assert_eq!(pace.wait(NOW), None);
    }
}
