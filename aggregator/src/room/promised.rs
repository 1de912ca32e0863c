//! What the guests of a node were promised: summed over those that are heard of, and never less than its
//! libvirt last told in one sum, so that a node that falls silent does not look empty.

use plimsoll_model::{ByteSize, Metric, NodeId, Reading, Subject, UnixMillis};

use crate::known::Known;

/// Sums over the guests of a node.
#[derive(Debug, Default)]
pub(super) struct Promised {
    pub(super) vcpus: u64,
    pub(super) memory: u64,
    pub(super) arriving_vcpus: u64,
    pub(super) arriving_memory: u64,
    /// When the node's libvirt last told its own sum.
    pub(super) told: Option<UnixMillis>,
    /// Whether the node said that its libvirt does not answer.
    down: bool,
}

impl Promised {
    /// Sums up what is known of a node at an instant.
    pub(super) fn on(known: &Known, node: NodeId) -> Self {
        let mut sum = Self::default();
        for row in known.domains_on(node).iter().filter(|row| row.fresh) {
            let vcpus = u64::from(row.facts.vcpu_count.unwrap_or(0));
            let memory = row.facts.memory_max.map_or(0, ByteSize::bytes);
            if known
                .owner(row.facts.domain)
                .is_some_and(|owner| owner.facts.node == node)
            {
                sum.vcpus += vcpus;
                sum.memory += memory;
            } else {
                // Fresh here and running elsewhere: it is on its way.
                sum.arriving_vcpus += vcpus;
                sum.arriving_memory += memory;
            }
        }
        let last = |metric| known.whole(Subject::Node(node), metric);
        if let Some(told) = last(Metric::HostAllocVcpuUsed) {
            // Libvirt's sum does not tell those apart that are on their way.
            sum.vcpus = sum.vcpus.max(told.value.saturating_sub(sum.arriving_vcpus));
            sum.told = Some(told.window.end);
        }
        if let Some(told) = last(Metric::HostAllocMemUsed) {
            let here = told.value.saturating_sub(sum.arriving_memory);
            sum.memory = sum.memory.max(here);
        }
        let is_down = |up: Reading| up.value == 0;
        sum.down = last(Metric::HostLibvirtUp).is_some_and(is_down);
        sum
    }

    /// Tells whether guests may have come or gone without anybody telling.
    pub(super) fn is_silent(&self, known: &Known, now: UnixMillis) -> bool {
        self.down || self.told.is_some_and(|told| !known.is_fresh(told, now))
    }

    /// Says what weakens the sums.
    pub(super) fn weakness(&self, known: &Known, now: UnixMillis) -> Option<String> {
        match (self.is_silent(known, now), self.told) {
            (false, _) => None,
            (true, Some(told)) => Some(format!(
                "the node's libvirt does not answer; what its guests were promised is as told {} s ago",
                now.since(told).as_secs()
            )),
            (true, None) => Some(
                "the node's libvirt does not answer and never told of guests; there may be some"
                    .to_owned(),
            ),
        }
    }
}
