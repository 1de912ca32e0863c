//! Gathers what is known of a guest and of both ends of its move, and has
//! `plimsoll_estimate::feasibility` judge it. It holds no constraint of its own.

use std::time::Duration;

use plimsoll_estimate::feasibility::{
    self, Constraint, Device, Disk, Finding, Guest, Host, Limits, Move, Path,
};
use plimsoll_estimate::headroom::{Headroom, HostState, MoveCost};
use plimsoll_estimate::{Policy, round_u64};
use plimsoll_model::{
    Bandwidth, ByteSize, DeviceFacts, DomainId, Metric, MigrationMode, NodeFacts, NodeId, Part,
    PinningFacts, SeriesKey, Subject,
};

use crate::known::{DomainRow, Known};
use crate::planner::{Answer, Prepared, Question};
use crate::room;
use crate::witness::Witness;

/// One thread sends and one receives, and each fills one processor at most.
const MOVE_CPU_MILLIONTHS: u64 = 1_000_000;
/// Requests to disks are counted over this span.
const REQUESTS_SPAN: Duration = Duration::from_secs(600);

/// One end of a move.
pub(crate) struct End {
    pub(crate) node: NodeId,
    pub(crate) host: Host,
    pub(crate) bandwidth: Option<Bandwidth>,
    pub(crate) state: Option<(HostState, Headroom)>,
}

/// What a move to one node was judged from, and the judgement.
pub(crate) struct Weighed {
    pub(crate) target: End,
    pub(crate) findings: Vec<Finding>,
    pub(crate) estimate: Option<Answer>,
}

/// Weighs the moves of one domain.
pub(crate) struct Scales<'a> {
    known: &'a Known,
    limits: Limits,
    assumed: Bandwidth,
    moves: Vec<(DomainId, NodeId, Option<NodeId>)>,
    guest: Guest,
    /// Nodes that see the guest now.
    seen_by: Vec<NodeId>,
    /// Absent where too little is known of the guest to estimate anything.
    prepared: Option<Prepared<'a>>,
    pub(crate) source: End,
}

impl<'a> Scales<'a> {
    pub(crate) fn new(
        known: &'a Known,
        row: &'a DomainRow,
        witness: &Witness,
        limits: Limits,
        assumed: Bandwidth,
    ) -> Self {
        let moves = witness.moves();
        let rows = known.domain(row.facts.domain);
        let runs_on = rows.iter().filter(|row| row.runs());
        let pinning = row.facts.hardware.pinning.as_ref();
        let guest = Guest {
            vcpu_count: row.facts.vcpu_count,
            memory: row.facts.memory_max,
            machine: row.facts.machine.clone(),
            cpu_model: row.facts.cpu_model.clone(),
            huge_pages: row.facts.huge_pages,
            cpu_features: row.facts.hardware.cpu_features.clone(),
            tsc_hz: row.facts.hardware.tsc_hz,
            launch_security: row.facts.hardware.launch_security.clone(),
            pinned: pinning.map(PinningFacts::is_bound),
            bound_to: pinning.map(bound_to).unwrap_or_default(),
            host_device_count: row.facts.host_device_count,
            devices: row.facts.hardware.devices.iter().map(device).collect(),
            disks: row
                .facts
                .disks
                .iter()
                .filter(|disk| disk.source.is_some())
                .map(disk)
                .collect(),
            iops: guest_requests(known, row),
            runs_on: runs_on.map(|row| known.hostname(row.facts.node)).collect(),
            moving: moves.iter().any(|(domain, ..)| *domain == row.facts.domain),
        };
        let fresh = rows.iter().filter(|row| row.fresh);
        let seen_by: Vec<NodeId> = fresh.map(|row| row.facts.node).collect();
        let source = end(known, row.facts.node, &seen_by, &moves);
        let policy = Policy::qemu(MigrationMode::Precopy);
        let prepared = Prepared::new(known, row, policy, known.clock.now());
        Self {
            known,
            limits,
            assumed,
            moves,
            guest,
            seen_by,
            prepared: prepared.ok(),
            source,
        }
    }

    /// Judges the move to one node.
    pub(crate) fn weigh(&self, target: NodeId) -> Weighed {
        self.weigh_with(target, self.estimate(target, None))
    }

    /// Judges the move to one node by everything but whether it would come to an end.
    pub(crate) fn weigh_without_estimate(&self, target: NodeId) -> Weighed {
        let mut weighed = self.weigh_with(target, None);
        weighed
            .findings
            .retain(|one| one.constraint != Constraint::Convergence);
        weighed
    }

    fn weigh_with(&self, target: NodeId, estimate: Option<Answer>) -> Weighed {
        let target = end(self.known, target, &self.seen_by, &self.moves);
        let rtt = self.known.latest(&SeriesKey {
            subject: Subject::Node(self.source.node),
            metric: Metric::HostNetPathRttP50,
            part: Part::named(&target.node.to_string()).unwrap_or_else(|_| Part::whole()),
        });
        let path = Path {
            rtt_ns: rtt.map(|rtt| rtt.value),
            verdict: estimate.as_ref().map(|made| made.estimate.verdict),
            bandwidth_needed: estimate
                .as_ref()
                .and_then(|made| made.estimate.bandwidth_needed),
        };
        let one = Move {
            guest: &self.guest,
            source: &self.source.host,
            target: &target.host,
            path,
        };
        let findings = feasibility::check(&one, &self.limits);
        Weighed {
            target,
            findings,
            estimate,
        }
    }

    /// Estimates the move to one node, over a path of a bandwidth if it is told.
    pub(crate) fn estimate(&self, target: NodeId, bandwidth: Option<Bandwidth>) -> Option<Answer> {
        let question = Question {
            target: Some(target),
            policy: Policy::qemu(MigrationMode::Precopy),
            path_bandwidth: bandwidth,
        };
        self.prepared.as_ref()?.answer(&question, self.assumed).ok()
    }
}

fn disk(disk: &plimsoll_model::DiskFacts) -> Disk {
    Disk {
        target: disk.target.clone(),
        shared: disk.shared,
        storage: disk.storage.clone(),
    }
}

fn device(device: &DeviceFacts) -> Device {
    Device {
        kind: device.kind.clone(),
        address: device.address.clone(),
    }
}

fn bound_to(pinning: &PinningFacts) -> String {
    let parts = [
        ("processors", &pinning.cpus),
        ("memory nodes", &pinning.memory_nodes),
    ];
    let words = parts
        .into_iter()
        .filter_map(|(what, set)| Some(format!("{what} {}", set.as_ref()?)));
    words.collect::<Vec<_>>().join(" and ")
}

/// Lists the shared file systems that a node mounts; absent if it did not tell what it mounts.
fn storages(facts: &NodeFacts) -> Option<Vec<String>> {
    let mounts = &facts.file_systems;
    let shared = mounts.iter().filter_map(|mount| mount.shared_id.clone());
    (!mounts.is_empty()).then(|| shared.collect())
}

fn end(
    known: &Known,
    node: NodeId,
    seen_by: &[NodeId],
    moves: &[(DomainId, NodeId, Option<NodeId>)],
) -> End {
    let now = known.clock.now();
    let heard = known.last_heard(node);
    let silent = heard.map_or(Duration::MAX, |heard| now.since(heard));
    let facts = known
        .node_facts(node)
        .map(|(facts, _)| facts)
        .unwrap_or_default();
    let cost = MoveCost {
        cpu_millionths: MOVE_CPU_MILLIONTHS,
        ..MoveCost::default()
    };
    let state = room::while_moving(known, (node, &facts), &cost);
    let touches = |(_, source, target): &&(DomainId, NodeId, Option<NodeId>)| {
        *source == node || *target == Some(node)
    };
    let host = Host {
        name: known.hostname(node),
        silent_ms: u64::try_from(silent.as_millis()).unwrap_or(u64::MAX),
        hypervisor: facts.hypervisor_type.clone(),
        qemu_version: facts.qemu_version.clone(),
        cpu_model: facts.cpu_model.clone(),
        mtu_bytes: migration_mtu(&facts),
        tsc_hz: facts.tsc_hz,
        tsc_scaling: facts.tsc_scaling,
        storages: storages(&facts),
        huge_pages_free: huge_pages_free(known, node),
        room: state.as_ref().map(|(_, room)| *room),
        iops_free: known.ledger.used(known, node, now).requests_free,
        move_count: u32::try_from(moves.iter().filter(touches).count()).unwrap_or(u32::MAX),
        sees_guest: seen_by.contains(&node),
        cpu_flags: facts.cpu_flags.clone(),
        migration_address: facts.migration_address.clone(),
    };
    End {
        node,
        host,
        bandwidth: facts.migration_bandwidth,
        state,
    }
}

fn migration_mtu(facts: &NodeFacts) -> Option<u32> {
    let name = facts.migration_interface.as_ref()?;
    let card = facts.interfaces.iter().find(|card| card.name == *name)?;
    card.mtu_bytes
}

/// Adds up free huge pages of all sizes; each part is the size of a page in KiB.
fn huge_pages_free(known: &Known, node: NodeId) -> Option<ByteSize> {
    let mut bytes = None;
    for key in known.parts(Subject::Node(node), Metric::HostHugepagesFree) {
        let (kib, pages) = key
            .part
            .as_str()
            .parse::<u64>()
            .ok()
            .zip(known.latest(&key))?;
        let size = kib.saturating_mul(1_024).saturating_mul(pages.value);
        bytes = Some(bytes.unwrap_or(0_u64).saturating_add(size));
    }
    bytes.map(ByteSize::from_bytes)
}

fn sum_rates(known: &Known, subject: Subject, metrics: [Metric; 2]) -> Option<f64> {
    let now = known.clock.now();
    let mut sum = None;
    for metric in metrics {
        for key in known.parts(subject, metric) {
            let rate = known.mean_rate(&key, now.minus(REQUESTS_SPAN), now)?;
            sum = Some(sum.unwrap_or(0.0) + rate);
        }
    }
    sum
}

fn guest_requests(known: &Known, row: &DomainRow) -> Option<u64> {
    if row.facts.disks.iter().all(|disk| disk.source.is_none()) {
        return Some(0);
    }
    let metrics = [Metric::VmBlockRdReqs, Metric::VmBlockWrReqs];
    sum_rates(known, row.subject(), metrics).map(round_u64)
}
