//! What is known of a domain or node at an instant, read from the store and the roster. It computes
//! nothing; a value that was never read is absent.

use std::sync::Arc;
use std::time::Duration;

use plimsoll_model::{
    Clock, DomainFacts, DomainId, Fact, Metric, NodeFacts, NodeId, Part, Reading, SeriesKey,
    Subject, UnixMillis,
};
use plimsoll_store::{SeriesFilter, Store};

use crate::lessons::Learned;
use crate::roster::Roster;

/// Libvirt's number of a domain that runs.
pub const STATE_RUNNING: u64 = 1;
/// How many intervals may pass before what was read is stale.
const STALE_INTERVALS: u32 = 3;

/// A domain on one node.
#[derive(Debug, Clone)]
pub struct DomainRow {
    /// Facts as last told.
    pub facts: DomainFacts,
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
}

impl Known {
    /// Tells whether what was read at `seen` is recent enough at `now`.
    pub fn is_fresh(&self, seen: UnixMillis, now: UnixMillis) -> bool {
        now.since(seen) <= self.interval * STALE_INTERVALS
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
    pub fn node_facts(&self, node: NodeId) -> Option<(NodeFacts, UnixMillis)> {
        match self.store.latest_facts(node)? {
            Fact::Node { seen, facts } => Some((facts, seen)),
            Fact::Domain { .. } => None,
        }
    }

    /// Returns the name people give a node; its id where none was told.
    pub fn hostname(&self, node: NodeId) -> String {
        self.node_facts(node)
            .map(|(facts, _)| facts.hostname)
            .filter(|name| !name.is_empty())
            .unwrap_or_else(|| node.to_string())
    }

    fn row(&self, fact: Fact, now: UnixMillis) -> Option<DomainRow> {
        let Fact::Domain { seen, facts } = fact else {
            return None;
        };
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
        Some(row)
    }

    /// Lists a domain on every node that told of it, the newest first.
    pub fn domain(&self, domain: DomainId) -> Vec<DomainRow> {
        let now = self.clock.now();
        let rows = self.store.facts_of(domain).into_iter();
        rows.filter_map(|fact| self.row(fact, now)).collect()
    }

    /// Lists the domains that a node told of.
    pub fn domains_on(&self, node: NodeId) -> Vec<DomainRow> {
        let now = self.clock.now();
        let rows = self.store.domain_facts_on(node).into_iter();
        rows.filter_map(|fact| self.row(fact, now)).collect()
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

    /// Lists the series of a metric of one subject.
    pub fn parts(&self, subject: Subject, metric: Metric) -> Vec<SeriesKey> {
        let filter = SeriesFilter {
            node: Some(subject.node()),
            domain: subject.domain(),
            metric: Some(metric),
            part: None,
        };
        self.store
            .series(&filter)
            .into_iter()
            .filter(|key| key.subject == subject)
            .collect()
    }
}
