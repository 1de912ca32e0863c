//! The newest facts about nodes, domains and devices, found by either. It forgets nothing and judges nothing.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use plimsoll_model::{
    DeviceId, DomainFacts, DomainId, Fact, NodeFacts, NodeId, PolledFacts, UnixMillis,
};

/// Facts as last told; shared, for many ask and few change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told<T> {
    /// When they were seen.
    pub seen: UnixMillis,
    /// The facts.
    pub facts: Arc<T>,
}

/// The newest facts.
#[derive(Debug, Default)]
pub(crate) struct Inventory {
    nodes: HashMap<NodeId, Told<NodeFacts>>,
    domains: BTreeMap<NodeId, BTreeMap<DomainId, Told<DomainFacts>>>,
    devices: BTreeMap<(NodeId, DeviceId), Told<PolledFacts>>,
    /// Which nodes told of a domain.
    tellers: HashMap<DomainId, BTreeSet<NodeId>>,
}

impl Inventory {
    /// Takes a fact that a node told; it replaces the one before it.
    pub(crate) fn know(&mut self, node: NodeId, fact: Fact) {
        match fact {
            Fact::Node { seen, facts } => {
                let facts = Arc::new(facts);
                self.nodes.insert(node, Told { seen, facts });
            }
            Fact::Domain { seen, facts } => {
                let (domain, facts) = (facts.domain, Arc::new(facts));
                self.tellers.entry(domain).or_default().insert(node);
                let of_node = self.domains.entry(node).or_default();
                of_node.insert(domain, Told { seen, facts });
            }
            Fact::Device { seen, facts } => {
                let (device, facts) = (facts.device, Arc::new(facts));
                self.devices.insert((node, device), Told { seen, facts });
            }
        }
    }

    /// Returns the facts about a node.
    pub(crate) fn node(&self, node: NodeId) -> Option<&Told<NodeFacts>> {
        self.nodes.get(&node)
    }

    /// Lists the facts about the domains that a node told of, by domain.
    pub(crate) fn domains_on(&self, node: NodeId) -> impl Iterator<Item = &Told<DomainFacts>> {
        let of_node = self.domains.get(&node).into_iter();
        of_node.flat_map(BTreeMap::values)
    }

    /// Lists the facts about devices, by node and device.
    pub(crate) fn devices(&self) -> impl Iterator<Item = &Told<PolledFacts>> {
        self.devices.values()
    }

    /// Lists the facts about a domain, by the node that told them.
    pub(crate) fn of(&self, domain: DomainId) -> impl Iterator<Item = &Told<DomainFacts>> {
        let tellers = self.tellers.get(&domain).into_iter().flatten();
        tellers.filter_map(move |node| self.domains.get(node)?.get(&domain))
    }
}
