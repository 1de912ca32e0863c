//! What is kept in memory: samples that are not sealed yet, and the state that decides about the next
//! record. It writes nothing; whenever the store is opened it is made anew from the log and the files.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use plimsoll_model::{
    Batch, BootId, Columns, DomainId, Event, EventKind, GapReason, Incarnation, NodeId, Row,
    SampleGap, SessionId, UnixMillis, Window,
};

use crate::block::Place;
use crate::files::Files;
use crate::held::Held;
use crate::inventory::Inventory;
use crate::kept::Kept;
use crate::log::Begin;
use crate::record::{Document, Record};
use crate::sessions::{self, Sessions};

/// What a lane costs beside its rows, about.
const LANE_BYTES: usize = 256;

/// A set of columns of one subject.
#[derive(Debug)]
pub(crate) struct Lane {
    pub(crate) columns: Columns,
    /// The newest row, which stays when the others are sealed.
    pub(crate) last: (Window, Box<[u64]>),
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
    /// Where each domain is, so that asking for one does not go through all subjects.
    domains: BTreeSet<(DomainId, NodeId, Incarnation)>,
    pub(crate) inventory: Inventory,
    /// How many batches of a node were taken since the store was opened.
    pub(crate) batch_counts: HashMap<NodeId, u64>,
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
    /// The longest span of samples of one subject that are not sealed; late ones do not count.
    pub(crate) span: Duration,
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
        *self.batch_counts.entry(batch.node).or_default() += 1;
        let seen = self.nodes.entry(batch.node).or_insert(batch.made);
        *seen = batch.made.max(*seen);
        for row in batch.rows.iter() {
            self.take_row(&row);
        }
        for fact in &batch.facts {
            self.inventory.know(batch.node, fact.clone());
            self.keep(Kept::Fact(batch.node, Box::new(fact.clone())));
        }
        for event in &batch.events {
            self.keep(Kept::Event(event.clone()));
        }
    }

    /// Takes what a file of events holds; files come in the order in which they were sealed.
    pub(crate) fn recall(&mut self, kept: Kept) {
        match kept {
            Kept::Session(node, id, session) => {
                self.sessions.insert((node, id), session);
            }
            Kept::Fact(node, fact) => self.inventory.know(node, *fact),
            Kept::Gap(gap) => self.gaps.entry(gap.node).or_default().push(gap),
            Kept::Node(..) | Kept::Event(_) | Kept::Document(_) => {}
        }
    }

    /// Lists the subjects of a node or domain, or all.
    pub(crate) fn places(&self, node: Option<NodeId>, domain: Option<DomainId>) -> Vec<Place> {
        let of_node = |place: &&Place| node.is_none_or(|node| place.node == node);
        if let Some(domain) = domain {
            let incarnation = Incarnation {
                boot: BootId::LOWEST,
                started_ms: 0,
            };
            let first = (domain, node.unwrap_or(NodeId::LOWEST), incarnation);
            let of_domain = self.domains.range(first..);
            let of_domain = of_domain.take_while(|(of, _, _)| *of == domain);
            let places = of_domain.map(|(domain, node, incarnation)| Place {
                domain: Some((*domain, *incarnation)),
                ..Place::of_node(*node)
            });
            return places.take_while(|place| of_node(&place)).collect();
        }
        let all = match node {
            Some(node) => self.subjects.range(Place::of_node(node)..),
            None => self.subjects.range(..),
        };
        let places = all.map(|(place, _)| place);
        places.take_while(of_node).copied().collect()
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

    fn take_row(&mut self, row: &Row<'_>) {
        if row.values.is_empty() {
            return;
        }
        let place = row.subject.into();
        let lanes = self.subjects.entry(place).or_default();
        if lanes.is_empty()
            && let Some((domain, incarnation)) = place.domain
        {
            self.domains.insert((domain, place.node, incarnation));
        }
        match lanes
            .iter_mut()
            .find_map(|lane| lane.has_columns_of(row).then_some(lane))
        {
            Some(lane) => {
                let before = lane.held.bytes();
                lane.take(row);
                self.span = self.span.max(lane.held.span(lane.last.0.end));
                self.bytes += lane.held.bytes() - before;
            }
            None => {
                let lane = Lane::new(row);
                self.bytes += LANE_BYTES + lane.held.bytes() + row.values.len() * 8;
                // Nearly all subjects have one.
                lanes.reserve_exact(1);
                lanes.push(lane);
            }
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
            let full = lanes.iter_mut().filter(|lane| !lane.held.is_empty());
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
        self.span = Duration::ZERO;
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
            lanes.retain(|lane| lane.last.0.end >= before || !lane.held.is_empty());
        }
        let domains = &mut self.domains;
        self.subjects.retain(|place, lanes| {
            if lanes.is_empty()
                && let Some((domain, incarnation)) = place.domain
            {
                domains.remove(&(domain, place.node, incarnation));
            }
            !lanes.is_empty()
        });
    }

    /// Returns when a node was last heard of, as far as no index knows it yet.
    pub(crate) fn last_heard(&self, node: NodeId) -> Option<UnixMillis> {
        let frozen = self.frozen.iter().flat_map(|frozen| &frozen.kept);
        let of_node = |kept: &Kept| match kept {
            Kept::Node(one, last) if *one == node => Some(*last),
            _ => None,
        };
        let frozen = frozen.filter_map(of_node).max();
        self.nodes.get(&node).copied().max(frozen)
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
    /// Begins with its first row.
    fn new(row: &Row<'_>) -> Self {
        let mut held = Held::default();
        held.push((row.window, &[]), (row.window, row.values));
        Self {
            columns: Arc::clone(row.columns),
            last: (row.window, row.values.into()),
            held,
        }
    }

    fn has_columns_of(&mut self, row: &Row<'_>) -> bool {
        if Arc::ptr_eq(&self.columns, row.columns) {
            return true;
        }
        let same = self.columns == *row.columns;
        if same {
            // The names of the one stream it comes by now: the next row is known by their address.
            self.columns = Arc::clone(row.columns);
        }
        same
    }

    fn take(&mut self, row: &Row<'_>) {
        let (last, newest) = (self.last.0, &mut self.last.1);
        if row.window > last {
            self.held.push((last, newest), (row.window, row.values));
            self.last.0 = row.window;
            newest.copy_from_slice(row.values);
        } else if row.window < last {
            self.held.push_late((row.window, row.values));
        }
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
