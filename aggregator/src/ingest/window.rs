//! The time that samples may tell of: not long gone, not to come.

use std::time::Duration;

use plimsoll_model::{Batch, UnixMillis};
use plimsoll_proto::parse::{Excess, ParseError};

/// How old a sample may be: longer than any agent keeps them.
const OLD_MAX: Duration = Duration::from_secs(7 * 24 * 3_600);
/// How far the clocks of nodes may be ahead.
const AHEAD_MAX: Duration = Duration::from_secs(60);

/// Refuses a batch with a sample outside of that time.
pub(super) fn check(batch: &Batch, now: UnixMillis) -> Result<(), ParseError> {
    let (first, last) = (now.minus(OLD_MAX), now.plus(AHEAD_MAX));
    let ends = batch.rows.iter().map(|row| row.window.end);
    for end in ends {
        if end < first || end > last {
            let problem = format!(
                "lies outside of the time that is taken: {} of {} to {} (ms since 1970); is the clock \
                 of the node right?",
                end.millis(),
                first.millis(),
                last.millis()
            );
            let refusal = ParseError::new("batch.body.sweeps.end_time", problem);
            return Err(refusal.exceeding(Excess::Time));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use plimsoll_model::{Metric, NodeId, Part, SessionId, Subject, Sweep, Window};

    use super::*;
    use crate::guard::limits::Limit;

    fn batch(end: UnixMillis) -> Batch {
        let node = NodeId::random();
        let sweep = Sweep {
            subject: Subject::Node(node),
            window: Window::between(end.minus(Duration::from_secs(1)), end),
            values: vec![(Metric::HostMemAvailable, Part::whole(), 1)],
        };
        Batch {
            node,
            session: SessionId::random(),
            sequence: 1,
            made: end,
            body_crc: 0,
            rows: [sweep].into_iter().collect(),
            facts: Vec::new(),
            events: Vec::new(),
        }
    }

    #[test]
    fn a_sample_at_the_edge_is_taken_and_one_a_millisecond_beyond_is_not() {
        let now = UnixMillis::from_millis(1_795_000_000_000);
        let step = Duration::from_millis(1);
        let (first, last) = (now.minus(OLD_MAX), now.plus(AHEAD_MAX));
        for end in [first, first.plus(step), now, last.minus(step), last] {
            assert_eq!(check(&batch(end), now), Ok(()));
        }
        for end in [first.minus(step), last.plus(step)] {
            let error = check(&batch(end), now).unwrap_err();
            assert_eq!(Limit::of(&error), Limit::TimeWindow, "{error}");
        }
    }
}
