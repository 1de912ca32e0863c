//! What is kept in memory: samples that are not sealed yet, and the state that decides about the next
//! record. It writes nothing; whenever the store is opened it is made anew from the log and the files.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use plimsoll_model::{
    Batch, DomainId, Event, EventKind, Fact, GapReason, NodeId, SampleGap, SessionId, Sweep,
    UnixMillis, Window,
};

use crate::block::{self, Columns, Place, Rows};
use crate::files::Files;
use crate::kept::Kept;
use crate::log::Begin;
use crate::record::{Document, Record};
use crate::sessions::{self, Sessions};

/// Rows of a lane that are packed together while they wait to be sealed.
const PACK_ROWS: usize = 128;
/// What a lane costs beside its rows, about.
const LANE_BYTES: usize = 256;

/// Rows of one subject that were read together.
#[derive(Debug, Clone, Default)]
pub(crate) struct Held {
    /// Packed rows: last instant and block. They came before `rows`.
    pub(crate) packed: Vec<(UnixMillis, Arc<[u8]>)>,
    /// Rows as they came.
    pub(crate) rows: Rows,
}

/// A set of columns of one subject.
#[derive(Debug)]
pub(crate) struct Lane {
    pub(crate) columns: Columns,
    /// The newest row, which stays when the others are sealed.
    pub(crate) last: (Window, Vec<u64>),
    pub(crate) held: Held,
}

/// Data on its way to sealed files. It does not change any more.
#[derive(Debug)]
pub(crate) struct Frozen {
    /// Where the log begins once this is sealed.
    pub(crate) begin: Begin,
    pub(crate) subjects: BTreeMap<Place, Vec<(Columns, Held)>>,
    pub(crate) kept: Vec<Kept>,
    pub(crate) documents: BTreeMap<(u8, Vec<u8>), Document>,
}

/// The memory.
#[derive(Debug, Default)]
pub(crate) struct Head {
    pub(crate) sessions: Sessions,
    touched: HashSet<(NodeId, SessionId)>,
    /// Nodes heard of since they were sealed last.
    pub(crate) nodes: BTreeMap<NodeId, UnixMillis>,
    pub(crate) subjects: BTreeMap<Place, Vec<Lane>>,
    pub(crate) node_facts: HashMap<NodeId, Fact>,
    pub(crate) domain_facts: BTreeMap<(NodeId, DomainId), Fact>,
    /// Facts, events and gaps that are not sealed yet.
    pub(crate) pending: Vec<Kept>,
    pub(crate) gaps: BTreeMap<NodeId, Vec<SampleGap>>,
    /// Documents that are not sealed yet.
    pub(crate) documents: BTreeMap<(u8, Vec<u8>), Document>,
    pub(crate) frozen: Option<Arc<Frozen>>,
    pub(crate) files: Arc<Files>,
    /// The newest sealed instant of each subject when the store was opened: of what came since,
    /// memory knows the newest row.
    pub(crate) sealed_last: HashMap<Place, UnixMillis>,
    /// Samples that end before it are forgotten.
    pub(crate) horizon: Option<UnixMillis>,
    /// About what the samples and the rest that is not sealed take.
    pub(crate) bytes: usize,
}

impl Head {
    /// Takes a record that is in the log.
    pub(crate) fn take(&mut self, record: &Record) {
        match record {
            Record::Batch(batch) => self.take_batch(batch),
            Record::Gap(gap) => {
                sessions::take_gap(&mut self.sessions, gap);
                self.touched.insert((gap.node, gap.session));
                self.take_gap(gap.clone());
            }
            Record::Document(document) => {
                self.bytes += document.payload.len() + document.key.len() + 64;
                let key = (document.kind, document.key.clone());
                self.documents.insert(key, document.clone());
            }
        }
    }

    fn take_gap(&mut self, gap: SampleGap) {
        self.gaps.entry(gap.node).or_default().push(gap.clone());
        self.keep(Kept::Gap(gap));
    }

    fn keep(&mut self, kept: Kept) {
        self.bytes += size_of::<Kept>();
        self.pending.push(kept);
    }

    fn take_batch(&mut self, batch: &Batch) {
        // Below what is durable lies only what a file holds already.
        let key = (batch.node, batch.session);
        if let Some(session) = self.sessions.get(&key)
            && batch.sequence <= session.durable
        {
            return;
        }
        // Only a hole in the log brings a batch that does not follow; it never passes in silence.
        if let Some((first, last)) = sessions::take_batch(&mut self.sessions, batch) {
            self.take_gap(SampleGap {
                node: batch.node,
                session: batch.session,
                first_sequence: first,
                last_sequence: last,
                reading_count: None,
                declared: batch.made,
                reason: GapReason::ServerRollback,
            });
        }
        self.touched.insert(key);
        let seen = self.nodes.entry(batch.node).or_insert(batch.made);
        *seen = batch.made.max(*seen);
        for sweep in &batch.sweeps {
            self.take_sweep(sweep);
        }
        for fact in &batch.facts {
            self.know(batch.node, fact.clone());
            self.keep(Kept::Fact(batch.node, fact.clone()));
        }
        for event in &batch.events {
            self.keep(Kept::Event(event.clone()));
        }
    }

    fn know(&mut self, node: NodeId, fact: Fact) {
        match &fact {
            Fact::Node { .. } => {
                self.node_facts.insert(node, fact);
            }
            Fact::Domain { facts, .. } => {
                self.domain_facts.insert((node, facts.domain), fact);
            }
        }
    }

    /// Takes what a file of events holds; files come in the order in which they were sealed.
    pub(crate) fn recall(&mut self, kept: Kept) {
        match kept {
            Kept::Session(node, id, session) => {
                self.sessions.insert((node, id), session);
            }
            Kept::Fact(node, fact) => self.know(node, fact),
            Kept::Gap(gap) => self.gaps.entry(gap.node).or_default().push(gap),
            Kept::Node(..) | Kept::Event(_) | Kept::Document(_) => {}
        }
    }

    /// Notes how far the subjects of the files have come.
    pub(crate) fn note_sealed(&mut self) {
        for sealed in &self.files.blocks {
            for (place, blocks) in &sealed.footer.blocks {
                for block in blocks {
                    let last = self.sealed_last.entry(*place).or_insert(block.last);
                    *last = block.last.max(*last);
                }
            }
        }
    }

    fn take_sweep(&mut self, sweep: &Sweep) {
        if sweep.values.is_empty() {
            return;
        }
        let lanes = self.subjects.entry(sweep.subject.into()).or_default();
        let same = |lane: &Lane| {
            let read = sweep.values.iter();
            lane.columns.len() == sweep.values.len()
                && lane
                    .columns
                    .iter()
                    .zip(read)
                    .all(|((metric, part), value)| *metric == value.0 && *part == value.1)
        };
        let values = sweep.values.iter().map(|(_, _, value)| *value);
        let Some(lane) = lanes.iter_mut().find(|lane| same(lane)) else {
            let of_value =
                |(metric, part, _): &(_, plimsoll_model::Part, _)| (*metric, part.clone());
            let rows = Rows {
                windows: vec![sweep.window],
                values: values.clone().collect(),
            };
            self.bytes += LANE_BYTES + (sweep.values.len() * 2 + 2) * 8;
            lanes.push(Lane {
                columns: sweep.values.iter().map(of_value).collect(),
                last: (sweep.window, values.collect()),
                held: Held {
                    packed: Vec::new(),
                    rows,
                },
            });
            return;
        };
        if lane.last.0 == sweep.window {
            return;
        }
        if lane.last.0 < sweep.window {
            lane.last.0 = sweep.window;
            lane.last.1.clear();
            lane.last.1.extend(values.clone());
        }
        lane.held.rows.windows.push(sweep.window);
        lane.held.rows.values.extend(values);
        let row_bytes = (sweep.values.len() + 2) * 8;
        self.bytes += row_bytes;
        if lane.held.rows.windows.len() >= PACK_ROWS {
            let before = lane.held.rows.windows.len() * row_bytes;
            let after = lane.pack(sweep.subject.into());
            self.bytes = self.bytes.saturating_sub(before) + after;
        }
    }

    /// Tells whether there is nothing to seal.
    pub(crate) fn is_sealed(&self) -> bool {
        self.bytes == 0 && self.pending.is_empty() && self.touched.is_empty()
    }

    /// Moves everything that is not sealed aside; the log before `begin` holds the same.
    pub(crate) fn freeze(&mut self, begin: Begin) {
        sessions::prune(&mut self.sessions);
        let mut subjects = BTreeMap::new();
        for (place, lanes) in &mut self.subjects {
            let full = lanes
                .iter_mut()
                .filter(|lane| !(lane.held.packed.is_empty() && lane.held.rows.windows.is_empty()));
            let held: Vec<_> = full
                .map(|lane| (Arc::clone(&lane.columns), std::mem::take(&mut lane.held)))
                .collect();
            if !held.is_empty() {
                subjects.insert(*place, held);
            }
        }
        let mut kept = std::mem::take(&mut self.pending);
        for key in std::mem::take(&mut self.touched) {
            if let Some(session) = self.sessions.get(&key) {
                kept.push(Kept::Session(key.0, key.1, session.clone()));
            }
        }
        kept.extend(
            self.nodes
                .iter()
                .map(|(node, last)| Kept::Node(*node, *last)),
        );
        self.nodes.clear();
        self.bytes = 0;
        self.frozen = Some(Arc::new(Frozen {
            begin,
            subjects,
            kept,
            documents: std::mem::take(&mut self.documents),
        }));
    }

    /// Forgets lanes that are sealed and whose newest row is too old.
    pub(crate) fn forget(&mut self, before: UnixMillis) {
        for lanes in self.subjects.values_mut() {
            lanes.retain(|lane| {
                lane.last.0.end >= before
                    || !lane.held.packed.is_empty()
                    || !lane.held.rows.windows.is_empty()
            });
        }
        self.subjects.retain(|_, lanes| !lanes.is_empty());
    }

    /// Returns the nodes heard of that no index knows yet.
    pub(crate) fn young_nodes(&self) -> BTreeMap<NodeId, UnixMillis> {
        let frozen = self.frozen.iter().flat_map(|frozen| &frozen.kept);
        let mut nodes: BTreeMap<NodeId, UnixMillis> = frozen
            .filter_map(|kept| match kept {
                Kept::Node(node, last) => Some((*node, *last)),
                _ => None,
            })
            .collect();
        for (node, last) in &self.nodes {
            let seen = nodes.entry(*node).or_insert(*last);
            *seen = (*seen).max(*last);
        }
        nodes
    }
}

impl Lane {
    fn pack(&mut self, place: Place) -> usize {
        let mut rows = std::mem::take(&mut self.held.rows);
        rows.settle(self.columns.len());
        let mut bytes = 0;
        let packed = &mut self.held.packed;
        block::encode(place, &self.columns, &rows, &mut |block| {
            bytes += block.bytes.len() + 32;
            packed.push((block.last, block.bytes.into()));
        });
        bytes
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
