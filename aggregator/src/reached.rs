//! What finished migrations reached on the way from one node to another: where none of many got what the cards
//! promise, something else binds the way, such as a cap, a slower switch or a thread that is full. It knows no
//! cards and keeps nothing of its own.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use plimsoll_model::{Bandwidth, NodeId};
use plimsoll_proto::v1;

/// Ways that are remembered; migrations on further ones teach nothing.
const WAYS_MAX: usize = 65_536;
/// Migrations of each way that are remembered, the newest.
const MOVES_KEPT: usize = 20;
/// Migrations from which on the best is believed: one alone may have had a cap or a busy source.
const MOVES_MIN: usize = 3;
/// A shorter migration tells more of its beginning and its end than of the way.
const TOTAL_MS_MIN: i64 = 2_000;
/// Zero pages cost time and hardly any bytes, and migrations tell them by this size.
const PAGE_BYTES: i64 = 4_096;

/// The best of what finished migrations reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Best {
    /// Payload bytes.
    pub rate: Bandwidth,
    /// Migrations it is the best of.
    pub count: usize,
}

/// From one node to another; the way back is another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Way {
    source: NodeId,
    target: NodeId,
}

/// What was reached, shared by who learns and who asks.
#[derive(Debug, Clone, Default)]
pub struct Reached(Arc<Mutex<HashMap<Way, VecDeque<Bandwidth>>>>);

impl Reached {
    /// Learns from a migration that filled its way; from no other.
    pub fn learn(&self, migration: &v1::Migration) {
        let Some((way, rate)) = lesson(migration) else {
            return;
        };
        let mut ways = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if ways.len() >= WAYS_MAX && !ways.contains_key(&way) {
            return;
        }
        let moves = ways.entry(way).or_default();
        moves.push_back(rate);
        if moves.len() > MOVES_KEPT {
            moves.pop_front();
        }
    }

    /// Returns the best of what was reached between two nodes; absent until enough have moved.
    pub fn best(&self, source: NodeId, target: NodeId) -> Option<Best> {
        let ways = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let moves = ways.get(&Way { source, target })?;
        let count = moves.len();
        let rate = moves.iter().max().copied().filter(|_| count >= MOVES_MIN)?;
        Some(Best { rate, count })
    }
}

fn lesson(migration: &v1::Migration) -> Option<(Way, Bandwidth)> {
    let was = migration.outcome.as_ref()?;
    let zero_bytes = was.zero_page_count.unwrap_or(0).saturating_mul(PAGE_BYTES);
    let has_filled = was.end() == v1::MigrationEnd::Completed
        && was.total_ms? >= TOTAL_MS_MIN
        && was.memory_normal_bytes? >= zero_bytes;
    let rate = u64::try_from(was.throughput_bytes_per_second?).ok()?;
    let way = Way {
        source: NodeId::from_slice(&migration.source_node_id).ok()?,
        target: NodeId::from_slice(&migration.target_node_id).ok()?,
    };
    (has_filled && rate > 0).then_some((way, Bandwidth::from_bytes_per_second(rate)))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// The record of a migration that filled its way.
    pub(crate) fn moved(source: NodeId, target: NodeId, rate: i64) -> v1::Migration {
        v1::Migration {
            source_node_id: source.as_bytes().to_vec(),
            target_node_id: target.as_bytes().to_vec(),
            outcome: Some(v1::MigrationEnded {
                end: v1::MigrationEnd::Completed.into(),
                total_ms: Some(10_000),
                memory_normal_bytes: Some(rate * 10),
                zero_page_count: Some(100),
                throughput_bytes_per_second: Some(rate),
                ..v1::MigrationEnded::default()
            }),
            ..v1::Migration::default()
        }
    }

    #[test]
    fn the_best_of_the_last_moves_on_a_way_is_told_once_there_are_enough() {
        let reached = Reached::default();
        let (a, b) = (NodeId::random(), NodeId::random());
        for (rate, best) in [(900_000, None), (700_000, None), (800_000, Some(900_000))] {
            reached.learn(&moved(a, b, rate));
            assert_eq!(
                reached.best(a, b).map(|best| best.rate.bytes_per_second()),
                best
            );
        }
        assert_eq!(reached.best(b, a), None, "the way back is another one");
        // What was reached long ago is no promise.
        for _ in 0..MOVES_KEPT {
            reached.learn(&moved(a, b, 600_000));
        }
        let rate = Bandwidth::from_bytes_per_second(600_000);
        let count = MOVES_KEPT;
        assert_eq!(reached.best(a, b), Some(Best { rate, count }));
    }

    #[test]
    fn a_move_that_did_not_fill_its_way_teaches_nothing() {
        let reached = Reached::default();
        let (a, b) = (NodeId::random(), NodeId::random());
        let bent = |bend: fn(&mut v1::MigrationEnded)| {
            let mut migration = moved(a, b, 900_000);
            bend(migration.outcome.as_mut().unwrap());
            migration
        };
        let hollow = [
            bent(|was| was.end = v1::MigrationEnd::Aborted.into()),
            bent(|was| was.total_ms = Some(TOTAL_MS_MIN - 1)),
            bent(|was| was.zero_page_count = Some(1 << 30)),
            bent(|was| was.throughput_bytes_per_second = None),
            bent(|was| was.throughput_bytes_per_second = Some(0)),
            v1::Migration {
                target_node_id: Vec::new(),
                ..moved(a, b, 900_000)
            },
        ];
        for migration in hollow {
            for _ in 0..MOVES_MIN {
                reached.learn(&migration);
            }
            assert_eq!(reached.best(a, b), None, "{migration:?}");
        }
    }
}
