//! What finished migrations teach those to come: which of them are alike, and what each kind amounts to.
//! It keeps nothing of its own; after a restart the witness has it learn anew from its records.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use plimsoll_estimate::{Calibration, Interval, Lessons, Observed, Raw};
use plimsoll_model::{Accelerator, Bandwidth, MigrationMode, NodeId};
use plimsoll_proto::v1;

use crate::reached::Reached;

/// Kinds that are kept apart; migrations of further ones teach only what is kept already.
const KINDS_MAX: usize = 4_096;

/// Migrations that teach each other, the closer ones first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Kind {
    /// Those between the same two nodes.
    Path {
        source: NodeId,
        target: NodeId,
        mode: MigrationMode,
    },
    /// Those of guests that are run the same way, over links of the same class.
    Sort {
        accelerator: Option<Accelerator>,
        /// Logarithm to base 2 of the bytes per second, so a class spans a factor of two.
        bandwidth_class: u32,
        mode: MigrationMode,
    },
}

/// What makes migrations alike.
#[derive(Debug, Clone, Copy)]
pub struct Likeness {
    /// Where it begins.
    pub source: NodeId,
    /// Where it ends; absent if that is not said.
    pub target: Option<NodeId>,
    /// What runs the guest.
    pub accelerator: Option<Accelerator>,
    /// What the link is taken to carry.
    pub link: Bandwidth,
    /// How memory is carried over.
    pub mode: MigrationMode,
}

impl Likeness {
    fn kinds(&self) -> impl Iterator<Item = Kind> {
        let Self { source, mode, .. } = *self;
        let path = self.target.map(|target| Kind::Path {
            source,
            target,
            mode,
        });
        let sort = Kind::Sort {
            accelerator: self.accelerator,
            bandwidth_class: self.link.bytes_per_second().checked_ilog2().unwrap_or(0),
            mode,
        };
        path.into_iter().chain(std::iter::once(sort))
    }
}

/// What was learned, shared by who learns and who asks.
#[derive(Debug, Clone, Default)]
pub struct Learned {
    /// What the ways between nodes gave.
    pub reached: Reached,
    kinds: Arc<Mutex<HashMap<Kind, Lessons>>>,
}

impl Learned {
    /// Learns from a migration that has an outcome, and of bounds from one that has a prediction as well.
    pub fn learn(&self, migration: &v1::Migration, accelerator: Option<Accelerator>) {
        self.reached.learn(migration);
        let Some((likeness, said, was)) = lesson(migration, accelerator) else {
            return;
        };
        let mut kinds = self.kinds.lock().unwrap_or_else(PoisonError::into_inner);
        for kind in likeness.kinds() {
            if kinds.len() < KINDS_MAX || kinds.contains_key(&kind) {
                kinds.entry(kind).or_default().learn(said, &was);
            }
        }
    }

    /// Returns what the closest kind that has taught enough amounts to.
    pub fn calibration(&self, likeness: &Likeness) -> Calibration {
        let kinds = self.kinds.lock().unwrap_or_else(PoisonError::into_inner);
        let mut corrections = likeness
            .kinds()
            .filter_map(|kind| kinds.get(&kind)?.correction());
        corrections
            .next()
            .map_or(Calibration::Prior, Calibration::Learned)
    }
}

/// Reads from a record what it teaches. Post-copy and cold moves are asked for, but an outcome does not
/// say that they came about, so they teach nothing.
fn lesson(
    migration: &v1::Migration,
    accelerator: Option<Accelerator>,
) -> Option<(Likeness, Raw, Observed)> {
    let said = migration.prediction.as_ref()?.estimate.as_ref()?;
    let was = migration.outcome.as_ref()?;
    let mode = match said.mode() {
        v1::MigrationMode::Precopy => MigrationMode::Precopy,
        v1::MigrationMode::PrecopyAutoConverge => MigrationMode::PrecopyAutoConverge,
        _ => return None,
    };
    let link = u64::try_from(said.link_bytes_per_second?).ok()?;
    let likeness = Likeness {
        source: NodeId::from_slice(&migration.source_node_id).ok()?,
        target: NodeId::from_slice(&migration.target_node_id).ok(),
        accelerator,
        link: Bandwidth::from_bytes_per_second(link),
        mode,
    };
    let raw = Raw {
        total_ms: said.raw_total_ms.as_ref().and_then(interval),
        downtime_ms: said.raw_downtime_ms.as_ref().and_then(interval),
        bytes: said.raw_wire_bytes.as_ref().and_then(interval),
    };
    let whole = |value: Option<i64>| value.and_then(|value| u64::try_from(value).ok());
    let observed = Observed {
        converged: was.end() == v1::MigrationEnd::Completed,
        total_ms: whole(was.total_ms),
        downtime_ms: whole(was.downtime_ms),
        bytes: whole(was.memory_processed_bytes),
    };
    Some((likeness, raw, observed))
}

fn interval(one: &v1::Interval) -> Option<Interval> {
    let whole = |value: f64| {
        // Up to here every whole number has a float of its own.
        let is_whole = value.is_finite() && (0.0..=9e15).contains(&value);
        is_whole.then(|| format!("{value:.0}").parse().ok())?
    };
    Some(Interval {
        p10: whole(one.p10)?,
        p50: whole(one.p50)?,
        p90: whole(one.p90)?,
    })
}

#[cfg(test)]
mod tests {
    use plimsoll_estimate::LEARNED_SAMPLES_MIN;

    use super::*;

    fn bounds(middle: f64) -> Option<v1::Interval> {
        Some(v1::Interval {
            p10: middle * 0.9,
            p50: middle,
            p90: middle * 1.1,
        })
    }

    fn finished(source: NodeId, target: NodeId, mode: v1::MigrationMode) -> v1::Migration {
        let estimate = v1::MigrationEstimate {
            raw_total_ms: bounds(10_000.0),
            raw_downtime_ms: bounds(100.0),
            raw_wire_bytes: bounds(1e9),
            link_bytes_per_second: Some(117_000_000),
            mode: mode.into(),
            ..v1::MigrationEstimate::default()
        };
        v1::Migration {
            source_node_id: source.as_bytes().to_vec(),
            target_node_id: target.as_bytes().to_vec(),
            prediction: Some(v1::EstimateMigrationResponse {
                estimate: Some(estimate),
                ..v1::EstimateMigrationResponse::default()
            }),
            outcome: Some(v1::MigrationEnded {
                end: v1::MigrationEnd::Completed.into(),
                total_ms: Some(12_000),
                downtime_ms: Some(100),
                memory_processed_bytes: Some(1_000_000_000),
                ..v1::MigrationEnded::default()
            }),
            ..v1::Migration::default()
        }
    }

    fn alike(source: NodeId, target: Option<NodeId>) -> Likeness {
        Likeness {
            source,
            target,
            accelerator: Some(Accelerator::Kvm),
            link: Bandwidth::from_bytes_per_second(118_000_000),
            mode: MigrationMode::Precopy,
        }
    }

    #[test]
    fn migrations_teach_their_path_and_their_sort_and_no_other() {
        let learned = Learned::default();
        let (a, b, c) = (NodeId::random(), NodeId::random(), NodeId::random());
        let count = |likeness: &Likeness| match learned.calibration(likeness) {
            Calibration::Prior => 0,
            Calibration::Learned(correction) => correction.sample_count,
        };
        let enough = u32::try_from(LEARNED_SAMPLES_MIN).unwrap();
        for target in [b, c] {
            let one = finished(a, target, v1::MigrationMode::Precopy);
            (0..enough).for_each(|_| learned.learn(&one, Some(Accelerator::Kvm)));
        }
        assert_eq!(count(&alike(a, Some(b))), enough, "the path is closer");
        assert_eq!(count(&alike(b, Some(a))), 2 * enough, "its sort is known");
        assert_eq!(count(&alike(b, None)), 2 * enough);
        let emulated = Likeness {
            accelerator: Some(Accelerator::Tcg),
            ..alike(b, None)
        };
        assert_eq!(count(&emulated), 0);
        let fast = Likeness {
            link: Bandwidth::from_bytes_per_second(1_170_000_000),
            ..alike(b, None)
        };
        assert_eq!(count(&fast), 0);
    }

    #[test]
    fn a_record_without_outcome_or_of_another_mode_teaches_nothing() {
        let learned = Learned::default();
        let (a, b) = (NodeId::random(), NodeId::random());
        let cold = finished(a, b, v1::MigrationMode::StopCopy);
        let mut open = finished(a, b, v1::MigrationMode::Precopy);
        open.outcome = None;
        let mut odd = finished(a, b, v1::MigrationMode::Precopy);
        let said = odd.prediction.as_mut().unwrap().estimate.as_mut().unwrap();
        said.raw_total_ms = bounds(f64::NAN);
        for migration in [cold, open, odd] {
            (0..LEARNED_SAMPLES_MIN)
                .for_each(|_| learned.learn(&migration, Some(Accelerator::Kvm)));
        }
        assert_eq!(learned.calibration(&alike(a, Some(b))), Calibration::Prior);
    }
}
