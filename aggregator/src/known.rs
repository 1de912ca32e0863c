//! What is known of a domain or node at an instant, read from the store and the roster. It computes
//! nothing; a value that was never read is absent.

use std::sync::Arc;
use std::time::Duration;

use plimsoll_model::{
    Clock, DomainFacts, DomainId, Metric, NodeFacts, NodeId, Part, Reading, SeriesKey, Subject,
    UnixMillis,
};
use plimsoll_store::{SeriesFilter, Store, Told};

use crate::guard::limits::Met;
use crate::lessons::Learned;
use crate::room::Ledger;
use crate::roster::Roster;

/// Libvirt's number of a domain that runs.
pub const STATE_RUNNING: u64 = 1;
/// How many intervals may pass before what was read is stale.
const STALE_INTERVALS: u32 = 3;

/// A domain on one node.
#[derive(Debug, Clone)]
pub struct DomainRow {
    /// Facts as last told.
    pub facts: Arc<DomainFacts>,
    /// When they were seen.
    pub facts_seen: UnixMillis,
    /// Libvirt's number of the state.
    pub state: Option<u64>,
    /// End of the newest reading, or when the facts were seen.
    pub last_seen: UnixMillis,
    /// Whether that is within three intervals.
    pub fresh: bool,
}

impl DomainRow {
    /// Returns the subject of its series.
    pub fn subject(&self) -> Subject {
        Subject::Domain {
            domain: self.facts.domain,
            node: self.facts.node,
            incarnation: self.facts.incarnation,
        }
    }

    /// Tells whether it runs there now, as far as is known.
    pub fn runs(&self) -> bool {
        self.fresh && self.state == Some(STATE_RUNNING)
    }
}

/// The door to what is known.
#[derive(Debug, Clone)]
pub struct Known {
    /// The store.
    pub store: Arc<Store>,
    /// Values that came beside a backlog.
    pub roster: Arc<Roster>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Interval of the agents.
    pub interval: Duration,
    /// What finished migrations taught.
    pub learned: Learned,
    /// What nodes use and were promised.
    pub ledger: Arc<Ledger>,
    /// How often limits were met.
    pub met: Arc<Met>,
}

impl Known {
    /// Tells whether what was read at `seen` is recent enough at `now`.
    pub fn is_fresh(&self, seen: UnixMillis, now: UnixMillis) -> bool {
        now.since(seen) <= self.interval * STALE_INTERVALS
    }

    /// Returns when a node was last heard of.
    pub fn last_heard(&self, node: NodeId) -> Option<UnixMillis> {
        self.store.last_heard(node)
    }

    /// Returns the newest value of a series, stored or live.
    pub fn latest(&self, key: &SeriesKey) -> Option<Reading> {
        let stored = self.store.latest(key);
        let live = self.roster.live(key);
        match (stored, live) {
            (Some(stored), Some(live)) if live.window > stored.window => Some(live),
            (Some(stored), _) => Some(stored),
            (None, live) => live,
        }
    }

    /// Returns the newest value of each stored series that is meant, stored or live, sorted by series.
    pub fn latest_of_all(&self, filter: &SeriesFilter) -> Vec<Reading> {
        let mut all = self.store.latest_of_all(filter);
        self.roster.replace_older(&mut all);
        all
    }

    /// Returns the newest value of a metric of the whole subject.
    pub fn whole(&self, subject: Subject, metric: Metric) -> Option<Reading> {
        self.latest(&SeriesKey {
            subject,
            metric,
            part: Part::whole(),
        })
    }

    /// Returns the newest facts about a node and when they were seen.
    pub fn node_facts(&self, node: NodeId) -> Option<(Arc<NodeFacts>, UnixMillis)> {
        let told = self.store.latest_facts(node)?;
        Some((told.facts, told.seen))
    }

    /// Returns the name people give a node; its id where none was told.
    pub fn hostname(&self, node: NodeId) -> String {
        self.node_facts(node)
            .map(|(facts, _)| facts.hostname.clone())
            .filter(|name| !name.is_empty())
            .unwrap_or_else(|| node.to_string())
    }

    fn row(&self, told: Told<DomainFacts>, now: UnixMillis) -> DomainRow {
        let Told { seen, facts } = told;
        let mut row = DomainRow {
            facts,
            facts_seen: seen,
            state: None,
            last_seen: seen,
            fresh: false,
        };
        if let Some(state) = self.whole(row.subject(), Metric::VmState) {
            row.state = Some(state.value);
            row.last_seen = row.last_seen.max(state.window.end);
        }
        row.fresh = self.is_fresh(row.last_seen, now);
        row
    }

    /// Lists a domain on every node that told of it, the newest first.
    pub fn domain(&self, domain: DomainId) -> Vec<DomainRow> {
        let now = self.clock.now();
        let rows = self.store.facts_of(domain).into_iter();
        rows.map(|told| self.row(told, now)).collect()
    }

    /// Lists the domains that a node told of.
    pub fn domains_on(&self, node: NodeId) -> Vec<DomainRow> {
        let now = self.clock.now();
        let rows = self.store.domain_facts_on(node).into_iter();
        rows.map(|told| self.row(told, now)).collect()
    }

    /// Returns the row on which a domain runs: the fresh running one, else the one last seen.
    pub fn owner(&self, domain: DomainId) -> Option<DomainRow> {
        let rows = self.domain(domain);
        let running = rows
            .iter()
            .filter(|row| row.runs())
            .max_by_key(|row| row.last_seen);
        let last = rows.iter().max_by_key(|row| row.last_seen);
        running.or(last).cloned()
    }

    /// Returns the mean growth per second of a counter in a span; nothing if it was not read twice.
    pub fn mean_rate(&self, key: &SeriesKey, from: UnixMillis, to: UnixMillis) -> Option<f64> {
        let rates = self.store.rate(key, from, to);
        let lengths = rates.iter().map(|rate| rate.end.since(rate.begin));
        let seconds: f64 = lengths.map(|length| length.as_secs_f64()).sum();
        let grown: f64 = rates.iter().map(|rate| rate.increase as f64).sum();
        (seconds > 0.0).then(|| grown / seconds)
    }

    /// Lists the series of a metric of one subject.
    pub fn parts(&self, subject: Subject, metric: Metric) -> Vec<SeriesKey> {
        let parts = self.store.parts(subject, metric).into_iter();
        let of_part = |part| SeriesKey {
            subject,
            metric,
            part,
        };
        parts.map(of_part).collect()
    }
}
