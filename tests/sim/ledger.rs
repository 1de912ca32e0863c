//! What was produced, and whether all of it is accounted for: stored once, or in a gap, or, after a power
//! cut of an agent, in the second that is not promised.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};

use plimsoll_model::{
    Event, EventKind, Metric, NodeId, Part, SampleGap, SeriesKey, SessionId, Subject, UnixMillis,
};
use plimsoll_store::{EventFilter, Store};

/// One batch, which holds one reading and one event; both carry its number.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Produced {
    pub(crate) node: NodeId,
    /// The run of the agent, which the series is told by.
    pub(crate) run: u32,
    pub(crate) session: SessionId,
    pub(crate) sequence: u64,
    /// What the aggregator will never take.
    pub(crate) is_poisoned: bool,
    /// Whether it was still in the agent's cache when the power was cut.
    pub(crate) may_be_lost: bool,
}

/// Fates of all that was produced.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Count {
    pub(crate) produced: usize,
    pub(crate) stored: usize,
    pub(crate) gap: usize,
    pub(crate) lost_unsynced: usize,
}

/// The book of one world.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ledger(Arc<Mutex<BTreeMap<u32, Produced>>>);

impl Ledger {
    fn all(&self) -> MutexGuard<'_, BTreeMap<u32, Produced>> {
        self.0.lock().unwrap()
    }

    pub(crate) fn next(&self) -> u32 {
        u32::try_from(self.all().len()).unwrap() + 1
    }

    pub(crate) fn note(&self, number: u32, produced: Produced) {
        self.all().insert(number, produced);
    }

    /// The power of an agent was cut: what it had made after a number was nowhere but in its cache.
    pub(crate) fn cut(&self, run: u32, synced: u32) {
        for (number, produced) in self.all().iter_mut() {
            produced.may_be_lost |= produced.run == run && *number > synced;
        }
    }

    /// Holds the store against the book. Where agents were copied while they ran, sessions get new names
    /// and only what is stored can be told.
    pub(crate) fn settle(&self, store: &Store, is_forked: bool) -> Result<Count, String> {
        let all = self.all().clone();
        let nodes: BTreeSet<NodeId> = all.values().map(|produced| produced.node).collect();
        let (mut events, mut gaps) = (BTreeMap::new(), Vec::new());
        for node in &nodes {
            for number in numbers(store, *node) {
                *events.entry(number).or_insert(0) += 1;
            }
            gaps.extend(store.gaps(*node));
        }
        let mut count = Count {
            produced: all.len(),
            ..Count::default()
        };
        for (number, produced) in &all {
            let times = events.get(number).copied().unwrap_or(0);
            let sampled = samples(store, produced, *number);
            if times != sampled || times > 1 {
                return Err(format!(
                    "{number} is stored {times} times by event, {sampled} by sample: {produced:?}"
                ));
            }
            let in_gaps = gaps.iter().filter(|gap| covers(gap, produced)).count();
            match (times, in_gaps) {
                (1, 0) if !produced.is_poisoned => count.stored += 1,
                (0, 1) => count.gap += 1,
                (0, 0) if produced.may_be_lost => count.lost_unsynced += 1,
                _ => {
                    return Err(format!(
                        "{number} is stored {times} times and in {in_gaps} gaps: {produced:?} of {gaps:?}"
                    ));
                }
            }
        }
        if is_forked {
            return Ok(count);
        }
        gaps.iter()
            .try_for_each(|gap| is_counted(gap, &all))
            .map(|()| count)
    }
}

fn covers(gap: &SampleGap, produced: &Produced) -> bool {
    gap.session == produced.session
        && (gap.first_sequence..=gap.last_sequence).contains(&produced.sequence)
}

/// Holds the count of a gap, if it has one, against what was produced.
fn is_counted(gap: &SampleGap, all: &BTreeMap<u32, Produced>) -> Result<(), String> {
    let within = all.values().filter(|produced| covers(gap, produced));
    let readings = u64::try_from(within.count()).unwrap();
    match gap.reading_count {
        Some(told) if told != readings => Err(format!("{gap:?} holds {readings} readings")),
        _ => Ok(()),
    }
}

fn numbers(store: &Store, node: NodeId) -> Vec<u32> {
    let filter = EventFilter {
        node: Some(node),
        domain: None,
    };
    let (from, to) = (
        UnixMillis::from_millis(0),
        UnixMillis::from_millis(i64::MAX),
    );
    let events = store.events(from, to, &filter);
    let number = |event: &Event| match event.kind {
        EventKind::DomainState { detail, .. } => Some(detail),
        _ => None,
    };
    events.iter().filter_map(number).collect()
}

fn samples(store: &Store, produced: &Produced, number: u32) -> usize {
    let key = SeriesKey {
        subject: Subject::Node(produced.node),
        metric: Metric::HostCpuTimeUser,
        part: Part::index(produced.run),
    };
    let all = store.range(
        &key,
        UnixMillis::from_millis(0),
        UnixMillis::from_millis(i64::MAX),
    );
    let is_it = |(_, value): &&(_, u64)| *value == u64::from(number);
    all.iter().filter(is_it).count()
}
