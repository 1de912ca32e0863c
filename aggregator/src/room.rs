//! How much room nodes have: gathers what is promised and what is measured, and has
//! `plimsoll_estimate::headroom` do the sum. It holds no formula of its own.

mod ask;
mod ledger;
mod measured;
mod promised;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use plimsoll_estimate::headroom::{
    Flavour, Headroom, HostState, MoveCost, Resource, ResourceHeadroom, ResourceState, headroom,
};
use plimsoll_model::{ByteSize, NodeFacts, NodeId, OvercommitFacts, Ratio, UnixMillis};
use plimsoll_proto::{parse, render, v1};
use tonic::{Code, Status};

use crate::answer;
use crate::known::Known;
use crate::page::{refused, status};
use crate::planner::Input;
use ask::Question;
pub use ledger::{Ledger, Used};
use promised::Promised;

/// One processor, in the unit of the sum.
const CPU: u64 = 1_000_000;

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
    let asked_for = !nodes.is_empty();
    if !asked_for {
        nodes = all;
    }
    nodes.sort();
    let mut answers = Vec::new();
    for node in nodes {
        match of_node(known, node, &question) {
            // Of all nodes, one that did not tell what it has hides no other.
            Err(refusal) if !asked_for && refusal.code() == Code::FailedPrecondition => {
                answers.push(untold(known, node, refusal.message()));
            }
            answer => answers.push(answer?),
        }
    }
    Ok(v1::GetHeadroomResponse { nodes: answers })
}

/// What is answered for a node of which the sum cannot be made.
fn untold(known: &Known, node: NodeId, why: &str) -> v1::NodeHeadroom {
    let quality = v1::Quality::Unspecified.into();
    v1::NodeHeadroom {
        node_id: node.as_bytes().to_vec(),
        hostname: known.hostname(node),
        envelope: Some(answer::envelope(
            known.clock.now(),
            &[],
            vec![quality],
            known.interval * 3,
        )),
        reasons: vec![why.to_owned()],
        ..v1::NodeHeadroom::default()
    }
}

/// What is known of a node's room at an instant.
struct Gathered {
    now: UnixMillis,
    state: HostState,
    sums: Arc<Promised>,
    used: Used,
}

/// Gathers what is known of a node; nothing if it did not tell its processors and memory.
fn gather(
    known: &Known,
    (node, facts): (NodeId, &NodeFacts),
    question: &Question,
) -> Option<Gathered> {
    let (cpus, memory) = facts.cpu_count.zip(facts.memory)?;
    let now = known.clock.now();
    let used = if question.measures_as_usual() {
        known.ledger.used(known, node, now)
    } else {
        Used::measure(known, node, question, now)
    };
    let sums = known.ledger.promised(known, node, now);
    let all = (u64::from(cpus), memory.bytes());
    let state = state(all, question, facts.overcommit, &sums, &used);
    Some(Gathered {
        now,
        state,
        sums,
        used,
    })
}

fn of_node(known: &Known, node: NodeId, question: &Question) -> Result<v1::NodeHeadroom, Status> {
    let unknown = || {
        let message = format!("node {node} has not told its processors and memory yet");
        status(Code::FailedPrecondition, "FACTS_UNKNOWN", message)
    };
    let (facts, seen) = known.node_facts(node).ok_or_else(unknown)?;
    let gathered = gather(known, (node, &facts), question).ok_or_else(unknown)?;
    let room = headroom(&gathered.state, &MoveCost::default())
        .map_err(|error| status(Code::InvalidArgument, "INVALID_INPUT", error.to_string()))?;
    let heard = known.last_heard(node).unwrap_or(seen);
    let silent =
        gathered.sums.is_silent(known, gathered.now) || !known.is_fresh(heard, gathered.now);
    let qualities = silent.then(|| v1::Quality::Stale.into());
    let mut inputs = vec![Input {
        name: "node.facts".to_owned(),
        value: format!(
            "{} processors, {}",
            gathered.state.cpu.total / CPU,
            ByteSize::from_bytes(gathered.state.memory.total)
        ),
        source: "fact",
        read: Some(seen),
    }];
    note_rules(&mut inputs, question, facts.overcommit, &gathered.state);
    note_promises(&mut inputs, &gathered.sums);
    note_use(&mut inputs, question, &gathered);
    Ok(message(
        known,
        (node, &facts),
        question,
        (&gathered, &room),
        (inputs, qualities.into_iter().collect()),
    ))
}

/// Returns what a node has and the room it has while it bears the cost of a move; nothing if it did
/// not tell its processors and memory.
pub(crate) fn while_moving(
    known: &Known,
    (node, facts): (NodeId, &NodeFacts),
    cost: &MoveCost,
) -> Option<(HostState, Headroom)> {
    let gathered = gather(known, (node, facts), &Question::usual())?;
    let room = headroom(&gathered.state, cost).ok()?;
    Some((gathered.state, room))
}

/// Puts together what is told, asked and measured.
fn state(
    (cpus, memory): (u64, u64),
    question: &Question,
    own: Option<OvercommitFacts>,
    sums: &Promised,
    used: &Used,
) -> HostState {
    let amount = |used: Option<(u64, UnixMillis)>| used.map(|(used, _)| used);
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
            used: amount(used.cpu),
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
            used: amount(used.memory),
            margin: question.margin,
        },
        network: None,
    }
}

fn cpu_reserve(question: &Question, own: Option<OvercommitFacts>) -> u64 {
    let own = own.map(|own| u64::from(own.reserved_cpu_count));
    question.reserved_cpus.or(own).unwrap_or(0)
}

/// Tells by which ratios and reserves the promises are counted, and who set them.
fn note_rules(
    inputs: &mut Vec<Input>,
    question: &Question,
    own: Option<OvercommitFacts>,
    state: &HostState,
) {
    let source = |asked: bool| match (asked, own) {
        (true, _) => "request",
        (false, Some(_)) => "fact",
        (false, None) => "prior",
    };
    let ratio = |state: &ResourceState| format!("{:.2}", state.ratio.as_f64());
    let rules = [
        (
            "cpu.ratio",
            ratio(&state.cpu),
            source(question.cpu_ratio.is_some()),
        ),
        (
            "memory.ratio",
            ratio(&state.memory),
            source(question.memory_ratio.is_some()),
        ),
        (
            "cpu.reserved",
            format!("{} processors", state.cpu.reserved / CPU),
            source(question.reserved_cpus.is_some()),
        ),
        (
            "memory.reserved",
            ByteSize::from_bytes(state.memory.reserved).to_string(),
            source(question.reserved_memory.is_some()),
        ),
        (
            "margin",
            format!("{:.1} % of each", question.margin.as_f64() * 100.0),
            "request",
        ),
    ];
    inputs.extend(rules.map(|(name, value, source)| Input {
        name: name.to_owned(),
        value,
        source,
        read: None,
    }));
}

fn note_promises(inputs: &mut Vec<Input>, sums: &Promised) {
    let promises = [
        (
            "cpu.promised",
            format!(
                "{} processors, {} more arriving",
                sums.vcpus, sums.arriving_vcpus
            ),
        ),
        (
            "memory.promised",
            format!(
                "{}, {} more arriving",
                ByteSize::from_bytes(sums.memory),
                ByteSize::from_bytes(sums.arriving_memory)
            ),
        ),
    ];
    inputs.extend(promises.map(|(name, value)| Input {
        name: name.to_owned(),
        value,
        source: "measured",
        read: sums.told,
    }));
}

fn note_use(inputs: &mut Vec<Input>, question: &Question, gathered: &Gathered) {
    let what = format!(
        "p{} over {} s",
        question.percentile,
        question.horizon.as_secs()
    );
    let mut push = |name: &str, value: String, read| {
        inputs.push(Input {
            name: name.to_owned(),
            value,
            source: "measured",
            read: Some(read),
        });
    };
    if let Some((used, read)) = gathered.used.cpu {
        let used = used as f64 / CPU as f64;
        push("cpu.used", format!("{used:.2} processors, {what}"), read);
    }
    if let Some((used, read)) = gathered.used.memory {
        let used = ByteSize::from_bytes(used);
        push("memory.used", format!("{used}, {what}"), read);
    }
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
    (gathered, room): (&Gathered, &Headroom),
    (inputs, qualities): (Vec<Input>, Vec<i32>),
) -> v1::NodeHeadroom {
    let state = &gathered.state;
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
    reasons.extend(gathered.sums.weakness(known, gathered.now));
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
            ..answer::envelope(gathered.now, &inputs, qualities, known.interval * 3)
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
