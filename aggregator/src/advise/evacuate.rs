//! Empties a node: finds each guest a place, then the waves in which all are gone soonest over the links
//! they share.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use plimsoll_estimate::batch::{Lasting, Schedule, Wave, schedule};
use plimsoll_estimate::feasibility::{Finding, Outcome};
use plimsoll_estimate::{Verdict, network};
use plimsoll_model::{Bandwidth, Metric, NodeId, Subject};
use plimsoll_proto::parse::{self, ParseError};
use plimsoll_proto::{render, v1};
use tonic::{Code, Status};

use super::{Advise, may};
use crate::known::DomainRow;
use crate::page::{refused, status};
use crate::weigh::{Scales, Weighed};

/// Moves at once where the caller does not say, and at most.
const CONCURRENCY: (usize, usize) = (4, 16);
/// Packets of a network whose cards tell no size.
const MTU_BYTES_USUAL: u32 = 1_500;

/// What was promised to a node by earlier places of the same plan.
#[derive(Debug, Clone, Copy, Default)]
struct Planned {
    vcpus: u64,
    memory: u64,
}

/// A guest and where it goes.
struct Place<'a> {
    scales: Scales<'a>,
    row: &'a DomainRow,
    target: NodeId,
    hostname: String,
    bandwidth: Bandwidth,
}

impl Advise {
    /// Whether a node, or its libvirt, is silent: then nobody knows what runs there, and an empty plan says
    /// nothing.
    fn is_silent(&self, node: NodeId) -> bool {
        let now = self.known.clock.now();
        let heard = self.known.last_heard(node);
        let libvirt = self.known.whole(Subject::Node(node), Metric::HostLibvirtUp);
        !heard.is_some_and(|heard| self.known.is_fresh(heard, now))
            || libvirt.is_some_and(|up| up.value == 0)
    }

    pub(super) fn evacuate(
        &self,
        request: &v1::EstimateEvacuationRequest,
    ) -> Result<v1::EstimateEvacuationResponse, Status> {
        let source = parse::node_id("node_id", &request.node_id).map_err(|e| refused(&e))?;
        if !self.nodes().contains(&source) {
            let message = format!("no node {source} ever reported; ListNodes lists them");
            return Err(status(Code::NotFound, "NODE_NOT_FOUND", message));
        }
        let concurrency = crate::page::size(request.concurrent_max, CONCURRENCY)
            .map_err(|_| ParseError::new("concurrent_max", "must lie in 0 to 16"))
            .map_err(|error| refused(&error))?;
        let deadline = request.deadline.map(Duration::try_from).transpose();
        let deadline =
            deadline.map_err(|_| refused(&ParseError::new("deadline", "must be 0 or longer")))?;
        let ids = &request.candidate_node_ids;
        let candidates = self.candidates("candidate_node_ids", ids, source)?;
        let limits = self.limits(request.limits)?;
        let mut rows = self.known.domains_on(source);
        rows.retain(|row| row.runs());
        // Who needs most is placed first.
        rows.sort_by_key(|row| std::cmp::Reverse((row.facts.memory_max, row.facts.domain)));
        let (mut places, mut stuck) = (Vec::new(), Vec::new());
        let mut planned = BTreeMap::new();
        for row in &rows {
            let scales = self.scales(row, limits);
            match find_place(&scales, row, &candidates, (&mut planned, request.strict)) {
                Ok(weighed) => places.push(self.place(scales, row, &weighed)),
                Err(reasons) => stuck.push(stuck_domain(row, reasons)),
            }
        }
        let (schedule, late) = self.waves(source, &places, concurrency);
        stuck.extend(late);
        let stale = self.is_silent(source);
        let done_ms = Duration::from_millis(schedule.makespan.p90_ms);
        Ok(v1::EstimateEvacuationResponse {
            envelope: Some(self.envelope("evacuation", stale)),
            waves: schedule
                .waves
                .iter()
                .map(|one| wave(one, &places))
                .collect(),
            makespan_p50_ms: render::int(schedule.makespan.p50_ms),
            makespan_p90_ms: render::int(schedule.makespan.p90_ms),
            concurrent_count: i32::try_from(schedule.concurrency).unwrap_or(i32::MAX),
            meets_deadline: deadline.map(|deadline| stuck.is_empty() && done_ms <= deadline),
            stuck,
        })
    }

    fn place<'a>(&self, scales: Scales<'a>, row: &'a DomainRow, weighed: &Weighed) -> Place<'a> {
        Place {
            scales,
            row,
            target: weighed.target.node,
            hostname: weighed.target.host.name.clone(),
            bandwidth: self.payload(weighed.target.bandwidth, weighed.target.host.mtu_bytes),
        }
    }

    /// What a card leaves for the payload of migrations.
    fn payload(&self, card: Option<Bandwidth>, mtu_bytes: Option<u32>) -> Bandwidth {
        network::ethernet_goodput(
            card.unwrap_or(self.assumed),
            mtu_bytes.unwrap_or(MTU_BYTES_USUAL),
        )
    }

    /// Finds the waves; also tells who would not be gone even alone.
    fn waves(
        &self,
        source: NodeId,
        places: &[Place<'_>],
        concurrency: usize,
    ) -> (Schedule, Vec<v1::StuckDomain>) {
        // Link 0 leads out of the source; each target has one of its own.
        let out = places.first().map(|place| &place.scales.source);
        let out = out.map(|end| self.payload(end.bandwidth, end.host.mtu_bytes));
        let mut links = vec![out.unwrap_or(self.assumed)];
        let mut link_of = BTreeMap::from([(source, 0)]);
        let mut paths = Vec::new();
        for place in places {
            let link = *link_of.entry(place.target).or_insert_with(|| {
                links.push(place.bandwidth);
                links.len() - 1
            });
            paths.push(vec![0, link]);
        }
        let mut known: BTreeMap<(usize, Bandwidth), Option<Lasting>> = BTreeMap::new();
        let lasting = |one: usize, share: Bandwidth| {
            let place = places.get(one)?;
            *known
                .entry((one, share))
                .or_insert_with(|| takes(place, share))
        };
        let schedule = schedule(&links, &paths, concurrency, lasting);
        let late = schedule.stuck.iter().filter_map(|one| places.get(*one));
        let late = late.map(|place| {
            let why = format!("the move to {} would not come to an end", place.hostname);
            stuck_domain(place.row, vec![why])
        });
        let late = late.collect();
        (schedule, late)
    }
}

/// Estimates a move with a bandwidth; nothing if it would not end.
fn takes(place: &Place<'_>, share: Bandwidth) -> Option<Lasting> {
    let made = place.scales.estimate(place.target, Some(share))?;
    let total = made.estimate.total_ms?;
    if made.estimate.verdict == Verdict::DoesNotConverge {
        return None;
    }
    let overhead = made.estimate.api_overhead_ms;
    Some(Lasting {
        p50_ms: total.p50.saturating_add(overhead),
        p90_ms: total.p90.saturating_add(overhead),
    })
}

/// Finds the node with most room left for a guest, and promises it; else says why there is none.
fn find_place(
    scales: &Scales<'_>,
    row: &DomainRow,
    candidates: &BTreeSet<NodeId>,
    (planned, strict): (&mut BTreeMap<NodeId, Planned>, bool),
) -> Result<Weighed, Vec<String>> {
    let vcpus = u64::from(row.facts.vcpu_count.unwrap_or(0));
    let memory = row.facts.memory_max.map_or(0, |size| size.bytes());
    let mut best: Option<(i128, Weighed)> = None;
    let mut reasons = Vec::new();
    for candidate in candidates {
        let weighed = scales.weigh_without_estimate(*candidate);
        if !may(&weighed.findings, strict) {
            reasons.push(against(&weighed, strict));
            continue;
        }
        let before = planned.get(candidate).copied().unwrap_or_default();
        let room = weighed.target.state.as_ref().map(|(_, room)| {
            let promised = room.memory.allocation;
            let memory_left = room
                .memory
                .physical
                .map_or(promised, |free| free.min(promised));
            let cpu_left = room.cpu.allocation - i128::from(before.vcpus + vcpus) * 1_000_000;
            (cpu_left, memory_left - i128::from(before.memory + memory))
        });
        match room {
            Some((cpu, left)) if cpu < 0 || left < 0 => {
                let name = &weighed.target.host.name;
                reasons.push(format!("{name}: guests placed before take its room"));
            }
            room => {
                let left = room.map_or(i128::MIN, |(_, left)| left);
                if best.as_ref().is_none_or(|(most, _)| left > *most) {
                    best = Some((left, weighed));
                }
            }
        }
    }
    let Some((_, weighed)) = best else {
        if reasons.is_empty() {
            reasons.push("no other node is known".to_owned());
        }
        return Err(reasons);
    };
    let promised = planned.entry(weighed.target.node).or_default();
    promised.vcpus += vcpus;
    promised.memory += memory;
    Ok(weighed)
}

/// Says in one sentence what speaks against a node.
fn against(weighed: &Weighed, strict: bool) -> String {
    let fatal = |one: &&Finding| {
        one.outcome == Outcome::Fail || (strict && one.outcome == Outcome::Unknown)
    };
    let all = weighed.findings.iter().filter(fatal);
    let all: Vec<String> = all
        .map(|one| format!("{}: {}", one.constraint.name(), one.evidence))
        .collect();
    format!("{}: {}", weighed.target.host.name, all.join("; "))
}

fn stuck_domain(row: &DomainRow, reasons: Vec<String>) -> v1::StuckDomain {
    v1::StuckDomain {
        domain_id: row.facts.domain.as_bytes().to_vec(),
        domain_name: row.facts.name.clone(),
        reasons,
    }
}

fn wave(wave: &Wave, places: &[Place<'_>]) -> v1::PlannedWave {
    let planned = |(one, share, takes): &(usize, Bandwidth, Lasting)| {
        let place = places.get(*one)?;
        Some(v1::PlannedMove {
            domain_id: place.row.facts.domain.as_bytes().to_vec(),
            domain_name: place.row.facts.name.clone(),
            target_node_id: place.target.as_bytes().to_vec(),
            target_hostname: place.hostname.clone(),
            bandwidth_bytes_per_second: render::int(share.bytes_per_second()),
            total_p50_ms: render::int(takes.p50_ms),
            total_p90_ms: render::int(takes.p90_ms),
        })
    };
    v1::PlannedWave {
        moves: wave.moves.iter().filter_map(planned).collect(),
        total_p50_ms: render::int(wave.lasting.p50_ms),
        total_p90_ms: render::int(wave.lasting.p90_ms),
    }
}
