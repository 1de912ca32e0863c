//! The newest facts about nodes, domains and devices, found by either. It judges nothing.

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

    /// Forgets domains and devices of which nobody told since; who is there is told of every hour. Nodes stay.
    pub(crate) fn forget(&mut self, before: UnixMillis) {
        let tellers = &mut self.tellers;
        self.domains.retain(|node, domains| {
            domains.retain(|domain, told| {
                let stays = told.seen >= before;
                if !stays && let Some(of_domain) = tellers.get_mut(domain) {
                    of_domain.remove(node);
                }
                stays
            });
            !domains.is_empty()
        });
        tellers.retain(|_, nodes| !nodes.is_empty());
        self.devices.retain(|_, told| told.seen >= before);
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use plimsoll_model::{BootId, HardwareFacts, Incarnation};

    use super::*;

    fn guest(node: NodeId, domain: DomainId, seen: i64) -> Fact {
        let facts = DomainFacts {
            domain,
            node,
            incarnation: Incarnation {
                boot: BootId::LOWEST,
                started_ms: 5,
            },
            name: "web".to_owned(),
            accelerator: None,
            machine: None,
            cpu_model: None,
            vcpu_count: None,
            memory_max: None,
            huge_pages: None,
            disks: Vec::new(),
            network_cards: Vec::new(),
            host_device_count: 0,
            hardware: HardwareFacts::default(),
            project: None,
        };
        let seen = UnixMillis::from_millis(seen);
        Fact::Domain { seen, facts }
    }

    fn switch(node: NodeId, device: DeviceId, seen: i64) -> Fact {
        let facts = PolledFacts {
            device,
            node,
            name: "switch-1".to_owned(),
            address: "192.0.2.1:161".to_owned(),
            profile: "switch".to_owned(),
            interval: Duration::from_secs(30),
            system_name: None,
            description: None,
        };
        let seen = UnixMillis::from_millis(seen);
        Fact::Device { seen, facts }
    }

    #[test]
    fn who_left_is_forgotten_and_who_is_still_told_of_stays() {
        let mut inventory = Inventory::default();
        let (old, new) = (NodeId::random(), NodeId::random());
        let (moved, gone) = (DomainId::random(), DomainId::random());
        let (kept, removed) = (DeviceId::random(), DeviceId::random());
        for (node, fact) in [
            (old, guest(old, moved, 9)),
            (new, guest(new, moved, 10)),
            (old, guest(old, gone, 9)),
            (old, switch(old, removed, 9)),
            (new, switch(new, kept, 10)),
        ] {
            inventory.know(node, fact);
        }
        inventory.forget(UnixMillis::from_millis(10));
        let of = |domain| -> Vec<NodeId> {
            let told = inventory.of(domain);
            told.map(|told| told.facts.node).collect()
        };
        assert_eq!((of(moved), of(gone)), (vec![new], Vec::new()));
        assert_eq!(inventory.domains_on(old).count(), 0);
        let devices: Vec<_> = inventory.devices().map(|told| told.facts.device).collect();
        assert_eq!(devices, [kept]);
        assert!(inventory.domains.len() == 1 && inventory.tellers.len() == 1);
    }
}
