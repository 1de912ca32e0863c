//! How far each session of each agent has come: what was stored, what is a repeat, what is a fork.

use std::collections::{BTreeMap, HashMap, VecDeque};

use plimsoll_model::{Batch, NodeId, SampleGap, SessionId, UnixMillis};

use crate::record::{Appended, Record};

/// Checksums remembered of one session, to tell a repeated batch from a forked one. An agent has at
/// most 32 batches under way.
const CHECKSUMS_MAX: usize = 128;
/// Sessions remembered of one node; the one that was silent longest is forgotten first.
const PER_NODE_MAX: usize = 16;

/// How far a session has come.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Session {
    /// Last sequence number that is stored or declared lost.
    pub(crate) durable: u64,
    /// When its newest batch was made.
    pub(crate) last: UnixMillis,
    /// Checksums of its newest batches, by sequence number.
    pub(crate) checksums: VecDeque<(u64, u32)>,
}

impl Session {
    fn note(&mut self, batch: &Batch) {
        self.durable = batch.sequence;
        self.last = self.last.max(batch.made);
        self.checksums.push_back((batch.sequence, batch.body_crc));
        if self.checksums.len() > CHECKSUMS_MAX {
            self.checksums.pop_front();
        }
    }

    pub(crate) fn checksum(&self, sequence: u64) -> Option<u32> {
        let mut known = self.checksums.iter();
        known
            .find(|(known, _)| *known == sequence)
            .map(|(_, crc)| *crc)
    }
}

/// All sessions.
pub(crate) type Sessions = HashMap<(NodeId, SessionId), Session>;

/// Judges the records of one slice, each after those before it, before any of them is written.
#[derive(Debug)]
pub(crate) struct Judge<'a> {
    known: &'a Sessions,
    // What the slice itself adds.
    ahead: Sessions,
}

impl<'a> Judge<'a> {
    pub(crate) fn new(known: &'a Sessions) -> Self {
        let ahead = Sessions::new();
        Self { known, ahead }
    }

    fn durable(&self, key: (NodeId, SessionId)) -> u64 {
        let session = self.ahead.get(&key).or_else(|| self.known.get(&key));
        session.map_or(0, |session| session.durable)
    }

    /// Says what is to become of a record; [`Appended::Stored`] means it is to be written, a gap as
    /// the second part of the answer says.
    pub(crate) fn judge(&mut self, record: &Record) -> (Appended, Option<SampleGap>) {
        match record {
            Record::Document(_) => (Appended::Stored, None),
            Record::Batch(batch) => (self.batch(batch), None),
            Record::Gap(gap) => self.gap(gap),
        }
    }

    fn batch(&mut self, batch: &Batch) -> Appended {
        let key = (batch.node, batch.session);
        let durable = self.durable(key);
        if batch.sequence <= durable {
            let both = [self.ahead.get(&key), self.known.get(&key)];
            let mut both = both.into_iter().flatten();
            return match both.find_map(|session| session.checksum(batch.sequence)) {
                Some(checksum) if checksum != batch.body_crc => Appended::Forked,
                _ => Appended::Duplicate,
            };
        }
        if batch.sequence - 1 > durable {
            let expected = durable + 1;
            return Appended::OutOfOrder { expected };
        }
        self.ahead.entry(key).or_default().note(batch);
        Appended::Stored
    }

    fn gap(&mut self, gap: &SampleGap) -> (Appended, Option<SampleGap>) {
        let key = (gap.node, gap.session);
        let durable = self.durable(key);
        if gap.last_sequence <= durable {
            return (Appended::Duplicate, None);
        }
        let expected = durable + 1;
        if gap.first_sequence > expected {
            return (Appended::OutOfOrder { expected }, None);
        }
        let mut clipped = gap.clone();
        if clipped.first_sequence < expected {
            // An agent also counts batches whose acknowledgement was lost; how many readings of the
            // rest are missing is not known then.
            clipped.first_sequence = expected;
            clipped.reading_count = None;
        }
        self.ahead.entry(key).or_default().durable = gap.last_sequence;
        (Appended::Stored, Some(clipped))
    }
}

/// Takes a batch that is in the log; tells which numbers before it are in no batch and no gap.
pub(crate) fn take_batch(sessions: &mut Sessions, batch: &Batch) -> Option<(u64, u64)> {
    let session = sessions.entry((batch.node, batch.session)).or_default();
    let before = session.durable;
    session.note(batch);
    let expected = before.saturating_add(1);
    (batch.sequence > expected).then(|| (expected, batch.sequence - 1))
}

/// Takes a gap that is in the log.
pub(crate) fn take_gap(sessions: &mut Sessions, gap: &SampleGap) {
    let session = sessions.entry((gap.node, gap.session)).or_default();
    session.durable = session.durable.max(gap.last_sequence);
    session.last = session.last.max(gap.declared);
}

/// Forgets the oldest sessions of nodes that have too many. An agent sends its oldest first and each to its end,
/// so what is forgotten was finished. One that comes back all the same is welcomed as one of which nothing is
/// durable: what the agent has left is stored, and of two samples in one window the first is told; what it has
/// no more becomes a gap.
pub(crate) fn prune(sessions: &mut Sessions) {
    let mut by_node: BTreeMap<NodeId, Vec<(UnixMillis, SessionId)>> = BTreeMap::new();
    for ((node, id), session) in sessions.iter() {
        by_node.entry(*node).or_default().push((session.last, *id));
    }
    for (node, mut ids) in by_node {
        ids.sort();
        let surplus = ids.len().saturating_sub(PER_NODE_MAX);
        for (_, id) in ids.into_iter().take(surplus) {
            sessions.remove(&(node, id));
        }
    }
}
