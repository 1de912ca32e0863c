//! The newest readings and facts, side by side, as rows of tables. What was not read again for some
//! intervals goes: an old number would be taken for a new one.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_snmp::Value;
use plimsoll_model::{Clock, DomainFacts, DomainId, Metric, Monotonic, NodeFacts, Part, Subject};

use super::tables;
use crate::look::Look;

/// Rows by name.
pub(super) type Rows = BTreeMap<Vec<u32>, Value>;

/// How many intervals may pass before what was read goes.
const STALE_INTERVALS: u32 = 3;
/// Dirty rates are measured at a slower pace.
const SLOW: Duration = Duration::from_secs(600);
/// Most readings that stand on the board.
const READINGS_MAX: usize = 200_000;
/// Most guests of which it is known what they are.
const GUESTS_MAX: usize = 4_096;
/// Most guests that ever get a row while the agent runs.
const INDEXES_MAX: usize = 1 << 20;

/// What stands on the board of one subject: the node, or a guest.
#[derive(Debug, Default, Clone)]
pub(super) struct Readings(BTreeMap<(Metric, Part), (u64, Monotonic)>);

impl Readings {
    pub(super) fn whole(&self, metric: Metric) -> Option<u64> {
        self.part(metric, &Part::whole())
    }

    pub(super) fn part(&self, metric: Metric, part: &Part) -> Option<u64> {
        self.0.get(&(metric, part.clone())).map(|(value, _)| *value)
    }

    /// The parts of which a metric was read.
    pub(super) fn parts(&self, metric: Metric) -> impl Iterator<Item = (&Part, u64)> {
        let all = self
            .0
            .iter()
            .filter(move |((other, _), _)| *other == metric);
        all.map(|((_, part), (value, _))| (part, *value))
    }
}

/// A guest: its row, what it is, what was read.
#[derive(Debug, Clone)]
pub(super) struct Guest {
    pub(super) index: u32,
    pub(super) facts: DomainFacts,
    pub(super) readings: Readings,
}

/// What is on the board.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub(super) node: Option<NodeFacts>,
    pub(super) readings: Readings,
    pub(super) guests: BTreeMap<DomainId, Guest>,
    facts: BTreeMap<DomainId, DomainFacts>,
    // A guest keeps its number as long as the agent runs.
    indexes: BTreeMap<DomainId, u32>,
    rows: Arc<Rows>,
}

/// The board; all its copies are the same.
#[derive(Debug, Clone)]
pub struct Board {
    seen: Arc<Mutex<Seen>>,
    clock: Arc<dyn Clock>,
    keep: Duration,
}

impl Board {
    /// Makes an empty board for looks at an interval.
    pub fn new(interval: Duration, clock: Arc<dyn Clock>) -> Self {
        Self {
            seen: Arc::default(),
            clock,
            keep: interval * STALE_INTERVALS,
        }
    }

    /// Takes what a look gave; what other nodes' devices told does not stand here.
    pub fn see(&self, look: &Look) {
        let now = self.clock.monotonic();
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if look.node_facts.is_some() {
            seen.node.clone_from(&look.node_facts);
        }
        for facts in &look.domain_facts {
            seen.facts.insert(facts.domain, facts.clone());
        }
        for sweep in &look.sweeps {
            let Some(readings) = seen.readings_of(&sweep.subject) else {
                continue;
            };
            for (metric, part, value) in &sweep.values {
                if readings.0.len() < READINGS_MAX {
                    readings.0.insert((*metric, part.clone()), (*value, now));
                }
            }
        }
        seen.forget(now, self.keep);
        seen.rows = Arc::new(tables::rows(&seen));
    }

    /// The rows as they stand now.
    pub(super) fn rows(&self) -> Arc<Rows> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&seen.rows)
    }
}

impl Seen {
    fn readings_of(&mut self, subject: &Subject) -> Option<&mut Readings> {
        let domain = match subject {
            Subject::Node(_) => return Some(&mut self.readings),
            Subject::Domain { domain, .. } => *domain,
            Subject::Device { .. } | Subject::Port { .. } => return None,
        };
        let facts = self.facts.get(&domain)?;
        if self.indexes.len() >= INDEXES_MAX && !self.indexes.contains_key(&domain) {
            return None;
        }
        let next = u32::try_from(self.indexes.len()).ok()?.checked_add(1)?;
        let index = *self.indexes.entry(domain).or_insert(next);
        let guest = self.guests.entry(domain).or_insert_with(|| Guest {
            index,
            facts: facts.clone(),
            readings: Readings::default(),
        });
        guest.facts.clone_from(facts);
        Some(&mut guest.readings)
    }

    fn forget(&mut self, now: Monotonic, keep: Duration) {
        let fresh = |(metric, _): &(Metric, Part), (_, at): &mut (u64, Monotonic)| {
            let slow = metric.name().starts_with("vm.dirty.");
            now.since(*at) <= if slow { keep.max(SLOW) } else { keep }
        };
        self.readings.0.retain(fresh);
        for guest in self.guests.values_mut() {
            guest.readings.0.retain(fresh);
        }
        // A guest whose state nobody reads any more is gone, whatever was measured of it.
        self.guests
            .retain(|_, guest| guest.readings.whole(Metric::VmState).is_some());
        // What a guest is stays known for when it is read again, unless there are too many.
        if self.facts.len() > GUESTS_MAX {
            let guests = &self.guests;
            self.facts.retain(|domain, _| guests.contains_key(domain));
        }
    }
}
