//! Holds a prediction against what came of it. Keeps no history; the aggregator does.

use crate::answer::{Estimate, Interval};

/// What came of a migration. Absent means it was not told.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Observed {
    /// Whether it ended by itself; false for one that was given up.
    pub converged: bool,
    /// Total, as QEMU counts it.
    pub total_ms: Option<u64>,
    /// Time in which the guest did not run.
    pub downtime_ms: Option<u64>,
    /// Bytes on the wire.
    pub bytes: Option<u64>,
}

/// How far a prediction was off. Absent where either side is missing.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Accuracy {
    /// |predicted - observed| / observed of the middle of the total.
    pub total_relative_error: Option<f64>,
    /// The same of the bytes.
    pub bytes_relative_error: Option<f64>,
    /// |predicted - observed| of the middle of the downtime.
    pub downtime_error_ms: Option<u64>,
    /// Whether the total lay within p10 and p90.
    pub total_inside: Option<bool>,
    /// Whether the downtime lay within p10 and p90.
    pub downtime_inside: Option<bool>,
    /// Whether "likelier to end than not" was right; absent for an unknown verdict.
    pub verdict_right: Option<bool>,
    /// Whether it was said to end and did not: the error that hurts.
    pub false_promise: bool,
}

/// Compares a prediction with its outcome.
pub fn compare(prediction: &Estimate, outcome: &Observed) -> Accuracy {
    let finished = |value: Option<u64>| value.filter(|_| outcome.converged);
    let total = prediction.total_ms.zip(finished(outcome.total_ms));
    let downtime = prediction.downtime_ms.zip(finished(outcome.downtime_ms));
    let bytes = prediction.bytes.zip(finished(outcome.bytes));
    let likely = prediction.likely_converges();
    Accuracy {
        total_relative_error: total.and_then(|(said, was)| relative_error(said.p50, was)),
        bytes_relative_error: bytes.and_then(|(said, was)| relative_error(said.p50, was)),
        downtime_error_ms: downtime.map(|(said, was)| said.p50.abs_diff(was)),
        total_inside: total.map(|(said, was)| inside(said, was)),
        downtime_inside: downtime.map(|(said, was)| inside(said, was)),
        verdict_right: likely.map(|likely| likely == outcome.converged),
        false_promise: likely == Some(true) && !outcome.converged,
    }
}

fn inside(said: Interval, was: u64) -> bool {
    (said.p10..=said.p90).contains(&was)
}

/// Returns |said - was| / was; absent where nothing was observed.
pub fn relative_error(said: u64, was: u64) -> Option<f64> {
    (was > 0).then(|| said.abs_diff(was) as f64 / was as f64)
}

#[cfg(test)]
mod tests {
    use plimsoll_model::{Bandwidth, ByteSize, MigrationMode};

    use super::*;
    use crate::inputs::{BandwidthSource, Inputs, LinkBandwidth, Policy};

    fn prediction() -> Estimate {
        let link = LinkBandwidth {
            rate: Bandwidth::from_mbit_per_second(1_000),
            uncertainty: None,
            source: BandwidthSource::Measured,
        };
        let policy = Policy::qemu(MigrationMode::StopCopy);
        crate::estimate(&Inputs::new(ByteSize::from_mib(1024), link, policy)).unwrap()
    }

    #[test]
    fn a_prediction_is_held_against_what_came_of_it() {
        let said = prediction();
        let total = said.total_ms.unwrap();
        let seen = Observed {
            converged: true,
            total_ms: Some(total.p50 * 2),
            downtime_ms: Some(total.p50 + 7),
            bytes: None,
        };
        let accuracy = compare(&said, &seen);
        assert!((accuracy.total_relative_error.unwrap() - 0.5).abs() < 1e-3);
        assert_eq!(accuracy.downtime_error_ms, Some(7));
        assert_eq!(accuracy.downtime_inside, Some(true));
        assert_eq!(accuracy.total_inside, Some(false));
        assert_eq!(accuracy.bytes_relative_error, None);
        assert_eq!(
            (accuracy.verdict_right, accuracy.false_promise),
            (Some(true), false)
        );
    }

    #[test]
    fn a_migration_that_was_given_up_has_no_total_and_breaks_a_promise() {
        let seen = Observed {
            converged: false,
            total_ms: Some(60_000),
            ..Observed::default()
        };
        let accuracy = compare(&prediction(), &seen);
        assert_eq!(accuracy.total_relative_error, None);
        assert_eq!(
            (accuracy.verdict_right, accuracy.false_promise),
            (Some(false), true)
        );
    }
}
