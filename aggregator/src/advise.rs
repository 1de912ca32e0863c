//! The planner service: which moves may be made, which are best, how a node is emptied, and where one
//! id runs twice. It gathers and sorts; judgements come from `plimsoll-estimate`.

mod evacuate;
mod rank;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use plimsoll_estimate::MODEL_VERSION;
use plimsoll_estimate::feasibility::{Finding, Limits, Outcome, overall};
use plimsoll_model::{Bandwidth, NodeId};
use plimsoll_proto::parse::{self, ParseError};
use plimsoll_proto::v1;
use plimsoll_proto::v1::planner_service_server::PlannerService;
use tonic::{Code, Request, Response, Status};

use crate::config::Config;
use crate::known::{DomainRow, Known};
use crate::page::{refused, status};
use crate::weigh::{Scales, Weighed};
use crate::witness::Witness;
use crate::{answer, conflict};

/// The service.
#[derive(Debug, Clone)]
pub struct Advise {
    /// What is known.
    pub known: Known,
    /// Who knows the moves under way.
    pub witness: Arc<Witness>,
    /// Bandwidth where none is known.
    pub assumed: Bandwidth,
    /// What a feasible move may cost, unless a caller says otherwise.
    pub limits: Limits,
}

impl Advise {
    /// Makes the service; the configuration was checked.
    pub fn new(config: &Config, known: &Known, witness: &Arc<Witness>, assumed: Bandwidth) -> Self {
        Self {
            known: known.clone(),
            witness: Arc::clone(witness),
            assumed,
            limits: limits(config),
        }
    }

    fn row(&self, field: &str, id: &[u8]) -> Result<DomainRow, Status> {
        let domain = parse::domain_id(field, id).map_err(|error| refused(&error))?;
        self.known.owner(domain).ok_or_else(|| {
            let message = format!("no node ever told of domain {domain}; ListDomains lists them");
            status(Code::NotFound, "DOMAIN_NOT_FOUND", message)
        })
    }

    fn nodes(&self) -> BTreeSet<NodeId> {
        let seen = self.known.store.nodes().into_iter();
        seen.map(|seen| seen.node).collect()
    }

    /// Reads candidates: those that are named, or all nodes, but never the one that is left.
    fn candidates(
        &self,
        field: &str,
        ids: &[Vec<u8>],
        source: NodeId,
    ) -> Result<BTreeSet<NodeId>, Status> {
        let all = self.nodes();
        let mut named = BTreeSet::new();
        for id in ids {
            let node = parse::node_id(field, id).map_err(|error| refused(&error))?;
            if !all.contains(&node) {
                let message = format!("no node {node} ever reported; ListNodes lists them");
                return Err(status(Code::NotFound, "NODE_NOT_FOUND", message));
            }
            named.insert(node);
        }
        if ids.is_empty() {
            named = all;
        }
        named.remove(&source);
        Ok(named)
    }

    fn limits(&self, asked: Option<v1::FeasibilityLimits>) -> Result<Limits, Status> {
        read_limits(self.limits, asked.unwrap_or_default()).map_err(|error| refused(&error))
    }

    fn scales<'a>(&'a self, row: &'a DomainRow, limits: Limits) -> Scales<'a> {
        Scales::new(&self.known, row, &self.witness, limits, self.assumed)
    }

    /// Surrounds an answer of a model of this name.
    fn envelope(&self, model: &str, stale: bool) -> v1::Envelope {
        let mut qualities = Vec::new();
        if stale {
            qualities.push(v1::Quality::Stale.into());
        }
        let now = self.known.clock.now();
        v1::Envelope {
            model_name: model.to_owned(),
            model_version: MODEL_VERSION.to_owned(),
            calibration: "none needed: facts against limits; estimates carry their own".to_owned(),
            ..answer::envelope(now, &[], qualities, self.known.interval * 3)
        }
    }

    fn check(
        &self,
        request: &v1::CheckFeasibilityRequest,
    ) -> Result<v1::CheckFeasibilityResponse, Status> {
        let row = self.row("domain_id", &request.domain_id)?;
        let source = row.facts.node;
        let targets = self.candidates("target_node_ids", &request.target_node_ids, source)?;
        let scales = self.scales(&row, self.limits(request.limits)?);
        let targets = targets
            .into_iter()
            .map(|target| judged(&scales.weigh(target)));
        Ok(v1::CheckFeasibilityResponse {
            envelope: Some(self.envelope("feasibility", !row.fresh)),
            source_node_id: source.as_bytes().to_vec(),
            targets: targets.collect(),
        })
    }
}

fn read_limits(own: Limits, asked: v1::FeasibilityLimits) -> Result<Limits, ParseError> {
    let mut limits = own;
    if let Some(rtt) = asked.rtt_max_ns {
        limits.rtt_max_ns = parse::sequence("limits.rtt_max_ns", rtt)?;
    }
    if let Some(loss) = asked.iops_loss_max_millionths {
        limits.iops_loss_max_millionths = parse::unsigned("limits.iops_loss_max_millionths", loss)?;
        if limits.iops_loss_max_millionths > 1_000_000 {
            let problem = "must lie in 0 to 1000000";
            return Err(ParseError::new("limits.iops_loss_max_millionths", problem));
        }
    }
    if let Some(moves) = asked.moves_max {
        limits.moves_max = u32::try_from(moves)
            .map_err(|_| ParseError::new("limits.moves_max", "must be 0 or more"))?;
    }
    Ok(limits)
}

/// Makes the configured limits of a checked configuration.
fn limits(config: &Config) -> Limits {
    let share = config.limits.iops_loss_max.parse::<plimsoll_model::Ratio>();
    let whole =
        |span: Duration, unit: u128| u64::try_from(span.as_nanos() / unit).unwrap_or(u64::MAX);
    Limits {
        rtt_max_ns: whole(config.limits.rtt_max, 1),
        iops_loss_max_millionths: share.map_or(0, |share| share.millionths()),
        moves_max: config.limits.moves_max,
        silent_max_ms: whole(config.interval * 3, 1_000_000),
    }
}

fn outcome(outcome: Outcome) -> v1::Outcome {
    match outcome {
        Outcome::Pass => v1::Outcome::Pass,
        Outcome::Warn => v1::Outcome::Warn,
        Outcome::Unknown => v1::Outcome::Unknown,
        Outcome::Fail => v1::Outcome::Fail,
    }
}

fn finding(one: &Finding) -> v1::ConstraintFinding {
    v1::ConstraintFinding {
        constraint: one.constraint.name().to_owned(),
        outcome: outcome(one.outcome).into(),
        evidence: one.evidence.clone(),
    }
}

fn judged(weighed: &Weighed) -> v1::TargetFeasibility {
    v1::TargetFeasibility {
        node_id: weighed.target.node.as_bytes().to_vec(),
        hostname: weighed.target.host.name.clone(),
        outcome: outcome(overall(&weighed.findings)).into(),
        findings: weighed.findings.iter().map(finding).collect(),
    }
}

/// Tells whether a move may be made: nothing fails, and if it is asked for, nothing is unknown.
fn may(findings: &[Finding], strict: bool) -> bool {
    match overall(findings) {
        Outcome::Fail => false,
        Outcome::Unknown => !strict,
        Outcome::Pass | Outcome::Warn => true,
    }
}

/// Reads the store and simulates on the thread that the turnstile gave the question.
#[tonic::async_trait]
impl PlannerService for Advise {
    async fn check_feasibility(
        &self,
        request: Request<v1::CheckFeasibilityRequest>,
    ) -> Result<Response<v1::CheckFeasibilityResponse>, Status> {
        self.check(request.get_ref()).map(Response::new)
    }

    async fn rank_targets(
        &self,
        request: Request<v1::RankTargetsRequest>,
    ) -> Result<Response<v1::RankTargetsResponse>, Status> {
        self.rank(request.get_ref()).map(Response::new)
    }

    async fn estimate_evacuation(
        &self,
        request: Request<v1::EstimateEvacuationRequest>,
    ) -> Result<Response<v1::EstimateEvacuationResponse>, Status> {
        self.evacuate(request.get_ref()).map(Response::new)
    }

    async fn list_conflicts(
        &self,
        _request: Request<v1::ListConflictsRequest>,
    ) -> Result<Response<v1::ListConflictsResponse>, Status> {
        let conflicts = conflict::list(&self.known);
        Ok(Response::new(v1::ListConflictsResponse { conflicts }))
    }
}
