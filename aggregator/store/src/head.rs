//! What is kept in memory: everything the log holds, arranged for questions. It writes nothing and is
//! made anew from the log whenever the store is opened.

use std::collections::{BTreeMap, HashMap, VecDeque};

use plimsoll_model::{
    Batch, DomainId, Event, EventKind, Fact, NodeId, SampleGap, SeriesKey, SessionId, UnixMillis,
    Window,
};

use crate::record::{Appended, Document, Record};

/// Checksums remembered of one session, to tell a repeated batch from a forked one.
const CHECKSUMS_PER_SESSION: usize = 1_024;

#[derive(Debug, Default)]
struct Session {
    durable: u64,
    checksums: VecDeque<(u64, u32)>,
}

/// The memory.
#[derive(Debug, Default)]
pub(crate) struct Head {
    sessions: HashMap<(NodeId, SessionId), Session>,
    pub(crate) nodes: BTreeMap<NodeId, UnixMillis>,
    pub(crate) series: BTreeMap<SeriesKey, Vec<(Window, u64)>>,
    pub(crate) node_facts: HashMap<NodeId, Fact>,
    pub(crate) domain_facts: BTreeMap<(NodeId, DomainId), Fact>,
    pub(crate) events: Vec<Event>,
    pub(crate) gaps: Vec<SampleGap>,
    pub(crate) documents: BTreeMap<(u8, Vec<u8>), Document>,
}

impl Head {
    /// Says what is to become of a record; [`Appended::Stored`] means it is to be written.
    pub(crate) fn judge(&self, record: &Record) -> Appended {
        match record {
            Record::Document(_) => Appended::Stored,
            Record::Batch(batch) => self.judge_batch(batch),
            Record::Gap(gap) => {
                let expected = self.durable(gap.node, gap.session).unwrap_or(0) + 1;
                if gap.last_sequence < expected {
                    Appended::Duplicate
                } else if gap.first_sequence > expected {
                    Appended::OutOfOrder { expected }
                } else {
                    Appended::Stored
                }
            }
        }
    }

    fn judge_batch(&self, batch: &Batch) -> Appended {
        let session = self.sessions.get(&(batch.node, batch.session));
        let expected = session.map_or(0, |session| session.durable) + 1;
        if batch.sequence == expected {
            return Appended::Stored;
        }
        if batch.sequence > expected {
            return Appended::OutOfOrder { expected };
        }
        let known = session.and_then(|session| {
            session
                .checksums
                .iter()
                .find(|(sequence, _)| *sequence == batch.sequence)
        });
        match known {
            Some((_, checksum)) if *checksum != batch.body_crc => Appended::Forked,
            _ => Appended::Duplicate,
        }
    }

    /// Returns the last sequence number of a session that is stored or declared lost.
    pub(crate) fn durable(&self, node: NodeId, session: SessionId) -> Option<u64> {
        self.sessions
            .get(&(node, session))
            .map(|session| session.durable)
    }

    /// Takes a record that is in the log.
    pub(crate) fn take(&mut self, record: Record) {
        match record {
            Record::Batch(batch) => self.take_batch(batch),
            Record::Gap(gap) => {
                let session = self.sessions.entry((gap.node, gap.session)).or_default();
                session.durable = session.durable.max(gap.last_sequence);
                self.gaps.push(gap);
            }
            Record::Document(document) => {
                self.documents
                    .insert((document.kind, document.key.clone()), document);
            }
        }
    }

    fn take_batch(&mut self, batch: Batch) {
        let session = self
            .sessions
            .entry((batch.node, batch.session))
            .or_default();
        session.durable = batch.sequence;
        session
            .checksums
            .push_back((batch.sequence, batch.body_crc));
        if session.checksums.len() > CHECKSUMS_PER_SESSION {
            session.checksums.pop_front();
        }
        let seen = self.nodes.entry(batch.node).or_insert(batch.made);
        *seen = batch.made.max(*seen);
        for sweep in batch.sweeps {
            for (metric, part, value) in sweep.values {
                let key = SeriesKey {
                    subject: sweep.subject,
                    metric,
                    part,
                };
                insert(self.series.entry(key).or_default(), sweep.window, value);
            }
        }
        for fact in batch.facts {
            match &fact {
                Fact::Node { .. } => {
                    self.node_facts.insert(batch.node, fact);
                }
                Fact::Domain { facts, .. } => {
                    self.domain_facts.insert((batch.node, facts.domain), fact);
                }
            }
        }
        self.events.extend(batch.events);
    }

    /// Forgets samples that end before an instant, and series that have none left.
    pub(crate) fn forget(&mut self, before: UnixMillis) {
        self.series.retain(|_, samples| {
            let first = samples.partition_point(|(window, _)| window.end < before);
            samples.drain(..first);
            !samples.is_empty()
        });
    }
}

/// Puts a sample in its place; nearly always that is the end. A window has one value, the first.
fn insert(samples: &mut Vec<(Window, u64)>, window: Window, value: u64) {
    match samples.binary_search_by_key(&window, |(window, _)| *window) {
        Ok(_) => {}
        Err(place) => samples.insert(place, (window, value)),
    }
}

/// Returns the domain an event is about.
pub(crate) fn domain_of(event: &Event) -> DomainId {
    match &event.kind {
        EventKind::DomainState { domain, .. }
        | EventKind::MigrationStarted { domain, .. }
        | EventKind::MigrationIteration { domain, .. }
        | EventKind::MigrationEnded { domain, .. } => *domain,
    }
}
