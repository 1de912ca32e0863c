//! Orders targets. Each term of a score is shown with what it rests on.

use plimsoll_estimate::feasibility::Outcome;
use plimsoll_estimate::headroom::{Headroom, HostState};
use plimsoll_proto::parse::ParseError;
use plimsoll_proto::v1;
use tonic::Status;

use super::{Advise, finding, may};
use crate::answer;
use crate::known::DomainRow;
use crate::page::refused;
use crate::weigh::Weighed;

/// Targets listed where the caller does not say, and at most.
const TARGETS: (usize, usize) = (10, 1_000);
/// A move that takes so long is worth half of one that takes no time: an operator's minute.
const HALF_TIME_MS: f64 = 60_000.0;
/// A downtime that is worth half of none: QEMU's own limit.
const HALF_DOWNTIME_MS: f64 = 300.0;

/// Shares of the four terms, which add up to 1.
struct Weights {
    time: f64,
    downtime: f64,
    headroom: f64,
    certainty: f64,
}

impl Weights {
    fn read(asked: Option<v1::RankWeights>) -> Result<Self, ParseError> {
        let asked = asked.unwrap_or_default();
        let all = [asked.time, asked.downtime, asked.headroom, asked.certainty];
        if all
            .iter()
            .any(|weight| !weight.is_finite() || *weight < 0.0)
        {
            return Err(ParseError::new("weights", "must be numbers of 0 or more"));
        }
        let sum: f64 = all.iter().sum();
        let share = |weight: f64| if sum > 0.0 { weight / sum } else { 0.25 };
        Ok(Self {
            time: share(asked.time),
            downtime: share(asked.downtime),
            headroom: share(asked.headroom),
            certainty: share(asked.certainty),
        })
    }
}

impl Advise {
    pub(super) fn rank(
        &self,
        request: &v1::RankTargetsRequest,
    ) -> Result<v1::RankTargetsResponse, Status> {
        let weights = Weights::read(request.weights).map_err(|error| refused(&error))?;
        let count = crate::page::size(request.target_count_max, TARGETS)
            .map_err(|_| ParseError::new("target_count_max", "must lie in 0 to 1000"))
            .map_err(|error| refused(&error))?;
        let row = self.row("domain_id", &request.domain_id)?;
        let source = row.facts.node;
        let ids = &request.candidate_node_ids;
        let candidates = self.candidates("candidate_node_ids", ids, source)?;
        let scales = self.scales(&row, self.limits(request.limits)?);
        let (mut targets, mut excluded) = (Vec::new(), Vec::new());
        for candidate in candidates {
            let weighed = scales.weigh(candidate);
            if may(&weighed.findings, request.strict) {
                let terms = terms(&row, &weighed, &weights);
                let score: f64 = terms.iter().map(|term| term.value * term.weight).sum();
                targets.push((score, terms, weighed));
            } else {
                excluded.push(left_out(&weighed, request.strict));
            }
        }
        targets.sort_by(|(one, _, a), (other, _, b)| {
            let by_score = other.total_cmp(one);
            by_score.then_with(|| a.target.node.cmp(&b.target.node))
        });
        targets.truncate(count);
        let targets = targets
            .into_iter()
            .map(|(score, terms, weighed)| self.ranked(score, terms, &weighed))
            .collect();
        Ok(v1::RankTargetsResponse {
            envelope: Some(self.envelope("rank", !row.fresh)),
            source_node_id: source.as_bytes().to_vec(),
            targets,
            excluded,
        })
    }

    fn ranked(&self, score: f64, terms: Vec<v1::ScoreTerm>, weighed: &Weighed) -> v1::RankedTarget {
        let lifetime = self.known.interval * 3;
        let estimate = weighed.estimate.as_ref();
        let estimate = estimate.map(|made| answer::migration(made, lifetime));
        let concerns = weighed
            .findings
            .iter()
            .filter(|one| one.outcome != Outcome::Pass);
        v1::RankedTarget {
            node_id: weighed.target.node.as_bytes().to_vec(),
            hostname: weighed.target.host.name.clone(),
            score,
            terms,
            estimate,
            concerns: concerns.map(finding).collect(),
        }
    }
}

fn left_out(weighed: &Weighed, strict: bool) -> v1::ExcludedTarget {
    let against = weighed.findings.iter().filter(|one| match one.outcome {
        Outcome::Fail => true,
        Outcome::Unknown => strict,
        Outcome::Pass | Outcome::Warn => false,
    });
    v1::ExcludedTarget {
        node_id: weighed.target.node.as_bytes().to_vec(),
        hostname: weighed.target.host.name.clone(),
        reasons: against.map(finding).collect(),
    }
}

/// What is not known counts as the worst: a guess must not win over a fact.
fn terms(row: &DomainRow, weighed: &Weighed, weights: &Weights) -> Vec<v1::ScoreTerm> {
    let term = |name: &str, value: Option<f64>, weight, evidence: Option<String>| v1::ScoreTerm {
        name: name.to_owned(),
        value: value.unwrap_or(0.0).clamp(0.0, 1.0),
        weight,
        evidence: evidence.unwrap_or_else(|| "not known, so it counts as the worst".to_owned()),
    };
    let estimate = weighed.estimate.as_ref().map(|made| &made.estimate);
    let total = estimate
        .and_then(|said| said.total_ms)
        .map(|bounds| bounds.p50 as f64);
    let downtime = estimate
        .and_then(|said| said.downtime_ms)
        .map(|bounds| bounds.p50 as f64);
    let sure = estimate
        .and_then(|said| said.probability)
        .map(|p| p.as_f64());
    let left = weighed
        .target
        .state
        .as_ref()
        .and_then(|(state, room)| share_left(row, state, room));
    let half = |value: f64, half: f64| half / (half + value);
    vec![
        term(
            "time",
            total.map(|ms| half(ms, HALF_TIME_MS)),
            weights.time,
            total.map(|ms| format!("{:.1} s", ms / 1e3)),
        ),
        term(
            "downtime",
            downtime.map(|ms| half(ms, HALF_DOWNTIME_MS)),
            weights.downtime,
            downtime.map(|ms| format!("{ms:.0} ms")),
        ),
        term(
            "headroom",
            left,
            weights.headroom,
            left.map(|left| format!("{:.0} % of the scarcer resource left", left * 100.0)),
        ),
        term(
            "certainty",
            sure,
            weights.certainty,
            sure.map(|sure| format!("{:.0} % that the move ends", sure * 100.0)),
        ),
    ]
}

/// Returns the share of the scarcer of processors and memory that is left once the guest is there.
fn share_left(row: &DomainRow, state: &HostState, room: &Headroom) -> Option<f64> {
    let (vcpus, memory) = row.facts.vcpu_count.zip(row.facts.memory_max)?;
    let cpu = room.cpu.allocation - i128::from(vcpus) * 1_000_000;
    let promised = room.memory.allocation;
    let free = room
        .memory
        .physical
        .map_or(promised, |free| free.min(promised));
    let memory = free - i128::from(memory.bytes());
    let whole_cpu = state.cpu.total as f64 * state.cpu.ratio.as_f64();
    let whole_memory = state.memory.total as f64;
    Some((cpu as f64 / whole_cpu.max(1.0)).min(memory as f64 / whole_memory.max(1.0)))
}
