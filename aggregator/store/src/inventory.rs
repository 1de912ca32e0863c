//! The newest facts about nodes and domains, found by either. It forgets nothing and judges nothing.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use plimsoll_model::{DomainId, Fact, NodeId};

/// The newest facts.
#[derive(Debug, Default)]
pub(crate) struct Inventory {
    nodes: HashMap<NodeId, Fact>,
    domains: BTreeMap<NodeId, BTreeMap<DomainId, Fact>>,
    /// Which nodes told of a domain.
    tellers: HashMap<DomainId, BTreeSet<NodeId>>,
}

impl Inventory {
    /// Takes a fact that a node told; it replaces the one before it.
    pub(crate) fn know(&mut self, node: NodeId, fact: Fact) {
        match &fact {
            Fact::Node { .. } => {
                self.nodes.insert(node, fact);
            }
            Fact::Domain { facts, .. } => {
                let domain = facts.domain;
                self.tellers.entry(domain).or_default().insert(node);
                self.domains.entry(node).or_default().insert(domain, fact);
            }
        }
    }

    /// Returns the facts about a node.
    pub(crate) fn node(&self, node: NodeId) -> Option<&Fact> {
        self.nodes.get(&node)
    }

    /// Lists the facts about the domains that a node told of, by domain.
    pub(crate) fn domains_on(&self, node: NodeId) -> impl Iterator<Item = &Fact> {
        self.domains
            .get(&node)
            .into_iter()
            .flat_map(BTreeMap::values)
    }

    /// Lists the facts about a domain, by the node that told them.
    pub(crate) fn of(&self, domain: DomainId) -> impl Iterator<Item = &Fact> {
        let tellers = self.tellers.get(&domain).into_iter().flatten();
        tellers.filter_map(move |node| self.domains.get(node)?.get(&domain))
    }
}
