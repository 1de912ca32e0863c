//! How much room nodes have: gathers what is promised and what is measured, and has
//! `plimsoll_estimate::headroom` do the sum. It holds no formula of its own.

use std::collections::BTreeMap;
use std::time::Duration;

use plimsoll_estimate::headroom::{
    Flavour, Headroom, HostState, MoveCost, Resource, ResourceHeadroom, ResourceState, headroom,
};
use plimsoll_model::{
    ByteSize, Metric, NodeFacts, NodeId, OvercommitFacts, Ratio, Subject, UnixMillis,
};
use plimsoll_proto::parse::{self, ParseError};
use plimsoll_proto::{render, v1};
use tonic::{Code, Status};

use crate::answer;
use crate::known::Known;
use crate::page::{refused, status};
use crate::planner::Input;

/// One processor, in the unit of the sum.
const CPU: u64 = 1_000_000;
/// Use is measured over this span unless asked otherwise.
const HORIZON_USUAL: Duration = Duration::from_secs(3_600);
/// Use is taken at this percentile unless asked otherwise.
const PERCENTILE_USUAL: i32 = 95;

/// What a caller asks, checked.
#[derive(Debug)]
struct Question {
    cpu_ratio: Option<Ratio>,
    memory_ratio: Option<Ratio>,
    reserved_cpus: Option<u64>,
    reserved_memory: Option<u64>,
    margin: Ratio,
    horizon: Duration,
    percentile: i32,
    flavours: Vec<(String, Flavour)>,
}

/// Answers for the nodes that are asked for, or for all.
pub fn answer(
    known: &Known,
    request: &v1::GetHeadroomRequest,
) -> Result<v1::GetHeadroomResponse, Status> {
    let question = Question::read(request).map_err(|error| refused(&error))?;
    let all: Vec<NodeId> = known
        .store
        .nodes()
        .into_iter()
        .map(|seen| seen.node)
        .collect();
    let mut nodes = Vec::new();
    for id in &request.node_ids {
        let node = parse::node_id("node_ids", id).map_err(|error| refused(&error))?;
        if !all.contains(&node) {
            let message = format!("no node {node} ever reported; ListNodes lists them");
            return Err(status(Code::NotFound, "NODE_NOT_FOUND", message));
        }
        nodes.push(node);
    }
    if nodes.is_empty() {
        nodes = all;
    }
    nodes.sort();
    let nodes = nodes
        .into_iter()
        .map(|node| of_node(known, node, &question));
    Ok(v1::GetHeadroomResponse {
        nodes: nodes.collect::<Result<_, _>>()?,
    })
}

impl Question {
    /// What is asked where the caller says nothing.
    fn usual() -> Self {
        Self {
            cpu_ratio: None,
            memory_ratio: None,
            reserved_cpus: None,
            reserved_memory: None,
            margin: Ratio::from_millionths(0),
            horizon: HORIZON_USUAL,
            percentile: PERCENTILE_USUAL,
            flavours: Vec::new(),
        }
    }

    fn read(request: &v1::GetHeadroomRequest) -> Result<Self, ParseError> {
        let optional = |field, value: Option<i64>| {
            value.map(|value| parse::unsigned(field, value)).transpose()
        };
        let ratio = |field, value: Option<i64>| {
            value
                .map(|value| parse::sequence(field, value).map(Ratio::from_millionths))
                .transpose()
        };
        let margin = parse::unsigned("margin_millionths", request.margin_millionths)?;
        if margin > 999_999 {
            return Err(ParseError::new(
                "margin_millionths",
                "must lie in 0 to 999999",
            ));
        }
        let percentile = match request.percentile {
            0 => PERCENTILE_USUAL,
            one @ 1..=100 => one,
            _ => {
                return Err(ParseError::new(
                    "percentile",
                    "must lie in 1 to 100, or be 0 for 95",
                ));
            }
        };
        let horizon = match request.horizon {
            None => HORIZON_USUAL,
            Some(span) => Duration::try_from(span)
                .map_err(|_| ParseError::new("horizon", "must be 0 or longer"))?,
        };
        let flavour = |flavor: &v1::Flavor| {
            let vcpus = parse::sequence("flavors.vcpu_count", i64::from(flavor.vcpu_count))?;
            let memory = parse::sequence("flavors.memory_bytes", flavor.memory_bytes)?;
            let vcpu_count = u32::try_from(vcpus).unwrap_or(u32::MAX);
            let memory = ByteSize::from_bytes(memory);
            Ok((flavor.name.clone(), Flavour { vcpu_count, memory }))
        };
        Ok(Self {
            cpu_ratio: ratio("cpu_ratio_millionths", request.cpu_ratio_millionths)?,
            memory_ratio: ratio("memory_ratio_millionths", request.memory_ratio_millionths)?,
            reserved_cpus: optional(
                "reserved_cpu_count",
                request.reserved_cpu_count.map(i64::from),
            )?,
            reserved_memory: optional("reserved_memory_bytes", request.reserved_memory_bytes)?,
            margin: Ratio::from_millionths(margin),
            horizon,
            percentile,
            flavours: request
                .flavors
                .iter()
                .map(flavour)
                .collect::<Result<_, _>>()?,
        })
    }
}

/// Sums over the guests of a node.
#[derive(Debug, Default)]
struct Promised {
    vcpus: u64,
    memory: u64,
    arriving_vcpus: u64,
    arriving_memory: u64,
}

fn promised(known: &Known, node: NodeId) -> Promised {
    let mut sum = Promised::default();
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
    sum
}

fn of_node(known: &Known, node: NodeId, question: &Question) -> Result<v1::NodeHeadroom, Status> {
    let now = known.clock.now();
    let facts = known.node_facts(node);
    let unknown = || {
        let message = format!("node {node} has not told its processors and memory yet");
        status(Code::FailedPrecondition, "FACTS_UNKNOWN", message)
    };
    let (facts, seen) = facts.ok_or_else(unknown)?;
    let (cpus, memory) = facts.cpu_count.zip(facts.memory).ok_or_else(unknown)?;
    let sums = promised(known, node);
    let from = now.minus(question.horizon);
    let mut inputs = vec![Input {
        name: "node.facts".to_owned(),
        value: format!("{cpus} processors, {memory}"),
        source: "fact",
        read: Some(seen),
    }];
    let cpu_used = cpu_used(
        known,
        node,
        u64::from(cpus),
        (from, now),
        question.percentile,
    );
    let memory_used = memory_used(known, node, (from, now), question.percentile);
    note_use(&mut inputs, question, cpu_used, memory_used);
    let used = (
        cpu_used.map(|(used, _)| used),
        memory_used.map(|(used, _)| used),
    );
    let state = state(
        (u64::from(cpus), memory.bytes()),
        question,
        facts.overcommit,
        &sums,
        used,
    );
    let room = headroom(&state, &MoveCost::default())
        .map_err(|error| status(Code::InvalidArgument, "INVALID_INPUT", error.to_string()))?;
    let mut qualities = Vec::new();
    if !known.is_fresh(
        known
            .store
            .nodes()
            .iter()
            .find(|s| s.node == node)
            .map_or(seen, |s| s.last),
        now,
    ) {
        qualities.push(v1::Quality::Stale.into());
    }
    Ok(message(
        known,
        (node, &facts),
        question,
        (&state, &room),
        (now, inputs, qualities),
    ))
}

/// Returns what a node has and the room it has while it bears the cost of a move; nothing if it did
/// not tell its processors and memory.
pub(crate) fn while_moving(
    known: &Known,
    (node, facts): (NodeId, &NodeFacts),
    cost: &MoveCost,
) -> Option<(HostState, Headroom)> {
    let question = Question::usual();
    let (cpus, memory) = facts.cpu_count.zip(facts.memory)?;
    let cpus = u64::from(cpus);
    let now = known.clock.now();
    let span = (now.minus(question.horizon), now);
    let cpu = cpu_used(known, node, cpus, span, question.percentile);
    let used = (
        cpu.map(|(used, _)| used),
        memory_used(known, node, span, question.percentile).map(|(used, _)| used),
    );
    let sums = promised(known, node);
    let all = (cpus, memory.bytes());
    let state = state(all, &question, facts.overcommit, &sums, used);
    let room = headroom(&state, cost).ok()?;
    Some((state, room))
}

/// Puts together what is told, asked and measured.
fn state(
    (cpus, memory): (u64, u64),
    question: &Question,
    own: Option<OvercommitFacts>,
    sums: &Promised,
    used: (Option<u64>, Option<u64>),
) -> HostState {
    HostState {
        cpu: ResourceState {
            total: cpus * CPU,
            reserved: cpu_reserve(question, own) * CPU,
            ratio: question
                .cpu_ratio
                .or(own.map(|own| own.cpu_ratio))
                .unwrap_or(Ratio::ONE),
            allocated: sums.vcpus * CPU,
            in_flight: sums.arriving_vcpus * CPU,
            used: used.0,
            margin: question.margin,
        },
        memory: ResourceState {
            total: memory,
            reserved: question
                .reserved_memory
                .or(own.map(|own| own.reserved_memory.bytes()))
                .unwrap_or(0),
            ratio: question
                .memory_ratio
                .or(own.map(|own| own.memory_ratio))
                .unwrap_or(Ratio::ONE),
            allocated: sums.memory,
            in_flight: sums.arriving_memory,
            used: used.1,
            margin: question.margin,
        },
        network: None,
    }
}

fn cpu_reserve(question: &Question, own: Option<OvercommitFacts>) -> u64 {
    let own = own.map(|own| u64::from(own.reserved_cpu_count));
    question.reserved_cpus.or(own).unwrap_or(0)
}

fn note_use(
    inputs: &mut Vec<Input>,
    question: &Question,
    cpu: Option<(u64, UnixMillis)>,
    memory: Option<(u64, UnixMillis)>,
) {
    let what = format!(
        "p{} over {} s",
        question.percentile,
        question.horizon.as_secs()
    );
    if let Some((used, read)) = cpu {
        let value = format!("{:.2} processors, {what}", used as f64 / CPU as f64);
        inputs.push(Input {
            name: "cpu.used".to_owned(),
            value,
            source: "measured",
            read: Some(read),
        });
    }
    if let Some((used, read)) = memory {
        let value = format!("{}, {what}", ByteSize::from_bytes(used));
        let name = "memory.used".to_owned();
        inputs.push(Input {
            name,
            value,
            source: "measured",
            read: Some(read),
        });
    }
}

/// The wall of one percentile: the value below which so many hundredths lie.
fn percentile(mut values: Vec<u64>, percent: i32) -> Option<u64> {
    values.sort_unstable();
    let last = values.len().checked_sub(1)?;
    let at = (last * usize::try_from(percent).unwrap_or(100)).div_ceil(100);
    values.get(at.min(last)).copied()
}

fn cpu_used(
    known: &Known,
    node: NodeId,
    cpus: u64,
    span: (UnixMillis, UnixMillis),
    percent: i32,
) -> Option<(u64, UnixMillis)> {
    // Idle and waiting time per second, summed over processors that were read together.
    let mut idle: BTreeMap<UnixMillis, f64> = BTreeMap::new();
    for metric in [Metric::HostCpuTimeIdle, Metric::HostCpuTimeIowait] {
        for key in known.parts(Subject::Node(node), metric) {
            for rate in known.store.rate(&key, span.0, span.1) {
                *idle.entry(rate.end).or_default() += rate.per_second() / 1e9;
            }
        }
    }
    let last = idle.keys().next_back().copied();
    let used = |idle: &f64| {
        let busy = (1.0 - (idle / cpus as f64).clamp(0.0, 1.0)) * 1e6;
        Ratio::from_millionths(format!("{busy:.0}").parse().unwrap_or(0)).of(cpus * CPU)
    };
    percentile(idle.values().map(used).collect(), percent).zip(last)
}

fn memory_used(
    known: &Known,
    node: NodeId,
    span: (UnixMillis, UnixMillis),
    percent: i32,
) -> Option<(u64, UnixMillis)> {
    let key = |metric| known.parts(Subject::Node(node), metric).into_iter().next();
    let (total, available) = key(Metric::HostMemTotal).zip(key(Metric::HostMemAvailable))?;
    let totals: BTreeMap<_, _> = known
        .store
        .range(&total, span.0, span.1)
        .into_iter()
        .collect();
    let mut last = None;
    let mut used = Vec::new();
    for (window, available) in known.store.range(&available, span.0, span.1) {
        if let Some(total) = totals.get(&window) {
            used.push(total.saturating_sub(available));
            last = Some(window.end);
        }
    }
    percentile(used, percent).zip(last)
}

fn name(resource: Resource) -> &'static str {
    match resource {
        Resource::Cpu => "cpu",
        Resource::Memory => "memory",
        Resource::Network => "network",
    }
}

fn message(
    known: &Known,
    (node, facts): (NodeId, &NodeFacts),
    question: &Question,
    (state, room): (&HostState, &Headroom),
    (now, inputs, qualities): (UnixMillis, Vec<Input>, Vec<i32>),
) -> v1::NodeHeadroom {
    let binding = |flavour: &Flavour| {
        let alone = |resource| {
            let mut other = *room;
            match resource {
                Resource::Cpu => {
                    other.memory = ResourceHeadroom {
                        allocation: i128::from(i64::MAX),
                        physical: None,
                    }
                }
                _ => {
                    other.cpu = ResourceHeadroom {
                        allocation: i128::from(i64::MAX),
                        physical: None,
                    }
                }
            }
            other.fits(flavour)
        };
        if alone(Resource::Cpu) <= alone(Resource::Memory) {
            Resource::Cpu
        } else {
            Resource::Memory
        }
    };
    let mut reasons = vec![format!("{} runs out first", name(room.binding))];
    if state.cpu.used.is_none() || state.memory.used.is_none() {
        reasons
            .push("use was not measured in the horizon, so physical room is not told".to_owned());
    }
    v1::NodeHeadroom {
        node_id: node.as_bytes().to_vec(),
        hostname: facts.hostname.clone(),
        resources: vec![
            resource("cpu", "millicores", 1_000, &state.cpu, &room.cpu),
            resource("memory", "bytes", 1, &state.memory, &room.memory),
        ],
        binding_resource: name(room.binding).to_owned(),
        fits: question
            .flavours
            .iter()
            .map(|(title, flavour)| v1::FlavorFit {
                name: title.clone(),
                count: render::int(room.fits(flavour)),
                binding_resource: name(binding(flavour)).to_owned(),
            })
            .collect(),
        envelope: Some(v1::Envelope {
            model_name: "headroom".to_owned(),
            model_version: plimsoll_estimate::MODEL_VERSION.to_owned(),
            calibration: "none needed: a sum of what was told and measured".to_owned(),
            ..answer::envelope(now, &inputs, qualities, known.interval * 3)
        }),
        reasons,
    }
}

fn resource(
    name: &str,
    unit: &str,
    divisor: u64,
    state: &ResourceState,
    room: &ResourceHeadroom,
) -> v1::ResourceHeadroom {
    let amount = |value: u64| render::int(value / divisor);
    let signed = |value: i128| {
        let value = value.div_euclid(i128::from(divisor));
        i64::try_from(value).unwrap_or(if value < 0 { i64::MIN } else { i64::MAX })
    };
    v1::ResourceHeadroom {
        resource: name.to_owned(),
        unit: unit.to_owned(),
        total: amount(state.total),
        reserved: amount(state.reserved),
        ratio_millionths: render::int(state.ratio.millionths()),
        allocated: amount(state.allocated),
        in_flight: amount(state.in_flight),
        allocation_headroom: signed(room.allocation),
        used: state.used.map(amount),
        physical_headroom: room.physical.map(signed),
    }
}
