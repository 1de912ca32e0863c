//! What the witness has in its head: predictions that were asked for, migrations under way, and the
//! last one of each domain, to which a late word may still belong. It writes nothing.

use std::collections::HashMap;
use std::time::Duration;

use plimsoll_model::{DomainId, Event, MigrationEnded, NodeId, UnixMillis};
use plimsoll_proto::{render, v1};

use super::{ASKED_LIFETIME, began};

/// Predictions remembered at most; beyond that the oldest is forgotten.
const ASKED_MAX: usize = 50_000;
/// Arrivals without a departure remembered at most; beyond that the oldest is forgotten.
const ARRIVED_MAX: usize = 10_000;
/// Finished migrations remembered at most; beyond that the oldest is forgotten.
const FINISHED_MAX: usize = 10_000;

/// A prediction that somebody asked for.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) at: UnixMillis,
    pub(super) answer: v1::EstimateMigrationResponse,
}

#[derive(Debug, Default)]
pub(super) struct Open {
    pub(super) asked: HashMap<DomainId, Asked>,
    pub(super) running: HashMap<DomainId, v1::Migration>,
    arrived: HashMap<DomainId, (NodeId, UnixMillis)>,
    finished: HashMap<DomainId, v1::Migration>,
}

fn forget_oldest<T>(
    map: &mut HashMap<DomainId, T>,
    max: usize,
    time: impl Fn(&T) -> Option<UnixMillis>,
) {
    if map.len() >= max
        && let Some(oldest) = map
            .iter()
            .min_by_key(|(_, one)| time(one))
            .map(|(id, _)| *id)
    {
        map.remove(&oldest);
    }
}

/// Tells whether the two ends of one migration may have seen its start at these instants.
fn near(one: UnixMillis, other: UnixMillis) -> bool {
    one.since(other).max(other.since(one)) <= ASKED_LIFETIME
}

impl Open {
    /// Remembers a prediction.
    pub(super) fn ask(&mut self, domain: DomainId, asked: Asked) {
        forget_oldest(&mut self.asked, ASKED_MAX, |one| Some(one.at));
        self.asked.insert(domain, asked);
    }

    /// Remembers a migration that ended.
    pub(super) fn finish(&mut self, domain: DomainId, migration: v1::Migration) {
        forget_oldest(&mut self.finished, FINISHED_MAX, began);
        self.finished.insert(domain, migration);
    }

    /// Tells whether the migration that began at `start` is known already.
    pub(super) fn knows(&self, domain: DomainId, start: Option<&prost_types::Timestamp>) -> bool {
        let both = [self.running.get(&domain), self.finished.get(&domain)];
        both.into_iter()
            .flatten()
            .any(|one| one.start_time.as_ref() == start)
    }

    /// Returns the node that told that the domain comes, if it told so at about the time of `start`.
    pub(super) fn arrival(&mut self, domain: DomainId, start: &Event) -> Option<NodeId> {
        let (target, seen) = self.arrived.remove(&domain)?;
        (target != start.node && near(seen, start.seen)).then_some(target)
    }

    /// Finds the migration by which a domain comes to `target` and names the target in it; remembers
    /// the arrival if the departure was not told yet.
    pub(super) fn meet(
        &mut self,
        domain: DomainId,
        target: NodeId,
        seen: UnixMillis,
    ) -> Option<v1::Migration> {
        let fits = |one: &&mut v1::Migration| {
            one.source_node_id != target.as_bytes()
                && began(one).is_some_and(|start| near(start, seen))
        };
        let open = self.running.get_mut(&domain).filter(fits);
        let late = self
            .finished
            .get_mut(&domain)
            .filter(fits)
            .filter(|one| one.target_node_id.is_empty());
        if let Some(migration) = open.or(late) {
            migration.target_node_id = target.as_bytes().to_vec();
            return Some(migration.clone());
        }
        forget_oldest(&mut self.arrived, ARRIVED_MAX, |(_, seen)| Some(*seen));
        self.arrived.insert(domain, (target, seen));
        None
    }

    /// Takes out the migration that ends: the one under way, or one that was given up too early, or a
    /// new one whose start was not seen. Nothing if this end is known.
    pub(super) fn take_ending(
        &mut self,
        domain: DomainId,
        event: &Event,
        end: &MigrationEnded,
    ) -> Option<v1::Migration> {
        if let Some(running) = self.running.remove(&domain) {
            return Some(running);
        }
        let started = Some(render::timestamp(end.started));
        if let Some(last) = self.finished.get(&domain) {
            let given_up = !last.unknown_end_reason.is_empty()
                && last.source_node_id == event.node.as_bytes()
                && began(last)
                    .is_some_and(|start| near(start, end.started) || start <= end.started);
            if given_up {
                return Some(last.clone());
            }
            let known = last.end_time == Some(render::timestamp(event.seen))
                || last.outcome == Some(render::migration_ended(end));
            if known {
                return None;
            }
        }
        Some(v1::Migration {
            domain_id: domain.as_bytes().to_vec(),
            source_node_id: event.node.as_bytes().to_vec(),
            start_time: started,
            ..v1::Migration::default()
        })
    }

    /// Lists the migrations under way for longer than `age`.
    pub(super) fn older_than(&self, age: Duration, now: UnixMillis) -> Vec<v1::Migration> {
        let old = |one: &&v1::Migration| began(one).is_some_and(|start| now.since(start) > age);
        self.running.values().filter(old).cloned().collect()
    }
}
