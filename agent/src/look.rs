//! What one look at the world gave: the word that sources hand to the sampler. It is not yet a batch.

use plimsoll_model::{
    DomainFacts, Event, Metric, NodeFacts, Part, PolledFacts, Subject, Sweep, Window,
};

/// Readings, facts and events that were seen together.
#[derive(Debug, Clone, Default)]
pub struct Look {
    /// Readings.
    pub sweeps: Vec<Sweep>,
    /// Facts about the node, if they are new.
    pub node_facts: Option<NodeFacts>,
    /// Facts about domains that are new.
    pub domain_facts: Vec<DomainFacts>,
    /// Facts about polled devices that are new.
    pub device_facts: Vec<PolledFacts>,
    /// Things that happened.
    pub events: Vec<Event>,
}

impl Look {
    /// Whether nothing was seen.
    pub fn is_empty(&self) -> bool {
        self.sweeps.is_empty()
            && self.node_facts.is_none()
            && self.domain_facts.is_empty()
            && self.device_facts.is_empty()
            && self.events.is_empty()
    }

    /// Adds what another look gave.
    pub fn merge(&mut self, other: Self) {
        self.sweeps.extend(other.sweeps);
        if other.node_facts.is_some() {
            self.node_facts = other.node_facts;
        }
        self.domain_facts.extend(other.domain_facts);
        self.device_facts.extend(other.device_facts);
        self.events.extend(other.events);
    }

    /// Counts the readings.
    pub fn reading_count(&self) -> usize {
        self.sweeps.iter().map(|sweep| sweep.values.len()).sum()
    }
}

/// Collects readings of one subject; what could not be read is simply not pushed.
#[derive(Debug, Clone, Default)]
pub struct Values(Vec<(Metric, Part, u64)>);

impl Values {
    /// Adds a value of the whole subject.
    pub fn whole(&mut self, metric: Metric, value: u64) {
        self.0.push((metric, Part::whole(), value));
    }

    /// Adds a value of a part.
    pub fn add(&mut self, metric: Metric, part: Part, value: u64) {
        self.0.push((metric, part, value));
    }

    /// Adds a value of a numbered part.
    pub fn indexed(&mut self, metric: Metric, index: u32, value: u64) {
        self.0.push((metric, Part::index(index), value));
    }

    /// Adds a value of a named part; a name that cannot be a part's is left out.
    pub fn named(&mut self, metric: Metric, name: &str, value: u64) {
        if let Ok(part) = Part::named(name) {
            self.0.push((metric, part, value));
        }
    }

    /// Whether nothing was added.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Makes the sweep; of a metric and part that was added twice the first value stays.
    pub fn sweep(mut self, subject: Subject, window: Window) -> Option<Sweep> {
        self.0.sort_by(|a, b| (a.0, &a.1).cmp(&(b.0, &b.1)));
        self.0.dedup_by(|b, a| a.0 == b.0 && a.1 == b.1);
        (!self.0.is_empty()).then_some(Sweep {
            subject,
            window,
            values: self.0,
        })
    }
}
