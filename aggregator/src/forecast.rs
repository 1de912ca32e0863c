//! The estimate service: reads what is asked, has the planner or the accountant answer, remembers
//! predictions for the witness. It holds no formula.

use std::sync::Arc;
use std::time::Duration;

use plimsoll_estimate::{DowntimeProfile, Policy};
use plimsoll_model::{Bandwidth, DomainId, MigrationMode};
use plimsoll_proto::parse::{self, ParseError};
use plimsoll_proto::v1;
use plimsoll_proto::v1::estimate_service_server::EstimateService;
use tonic::{Code, Request, Response, Status};

use crate::guard::view::View;
use crate::known::{DomainRow, Known};
use crate::page::{refused, status};
use crate::planner::{self, PlanError, Question};
use crate::witness::Witness;
use crate::{answer, past, room, truth};

/// The service.
#[derive(Debug, Clone)]
pub struct Forecast {
    /// What is known.
    pub known: Known,
    /// Who remembers predictions.
    pub witness: Arc<Witness>,
    /// Bandwidth where none is known.
    pub assumed: Bandwidth,
}

impl Forecast {
    fn row(&self, domain: DomainId, view: &View) -> Result<DomainRow, Status> {
        let owner = self.known.owner(domain);
        let owner = owner.filter(|owner| view.sees(&owner.facts));
        owner.ok_or_else(|| {
            let message = format!("no node ever told of domain {domain}; ListDomains lists them");
            status(Code::NotFound, "DOMAIN_NOT_FOUND", message)
        })
    }

    /// Reads what is asked about which domain.
    fn read(
        &self,
        request: &v1::EstimateMigrationRequest,
        view: &View,
    ) -> Result<(DomainRow, Question), Status> {
        let domain =
            parse::domain_id("domain_id", &request.domain_id).map_err(|error| refused(&error))?;
        let row = self.row(domain, view)?;
        let memory = row.facts.memory_max.map_or(0, |size| size.bytes());
        let question = question(request, memory).map_err(|error| refused(&error))?;
        // Who sees no node cannot name one.
        if let Some(target) = question.target
            && !(view.is_all()
                && self
                    .known
                    .store
                    .nodes()
                    .iter()
                    .any(|seen| seen.node == target))
        {
            let message = format!("no node {target} ever reported; ListNodes lists them");
            return Err(status(Code::NotFound, "NODE_NOT_FOUND", message));
        }
        Ok((row, question))
    }

    fn estimate(
        &self,
        request: &v1::EstimateMigrationRequest,
        view: &View,
    ) -> Result<v1::EstimateMigrationResponse, Status> {
        let (row, question) = self.read(request, view)?;
        let now = self.known.clock.now();
        let made = planner::plan(&self.known, &row, &question, now, self.assumed)
            .map_err(|error| unplanned(&error))?;
        let response = answer::migration(&made, self.known.interval * 3);
        self.witness.asked(row.facts.domain, now, response.clone());
        Ok(response)
    }

    fn compare(
        &self,
        request: &v1::CompareModesRequest,
    ) -> Result<v1::CompareModesResponse, Status> {
        let field = |field: &str, said: &str| refused(&ParseError::new(field, said));
        let asked = request
            .question
            .as_ref()
            .ok_or_else(|| field("question", "is missing"))?;
        if asked.mode() != v1::MigrationMode::Unspecified {
            let said = "must not be set: all modes are compared";
            return Err(field("question.mode", said));
        }
        let borne = request
            .downtime_max_ms
            .map(|limit| parse::sequence("downtime_max_ms", limit))
            .transpose()
            .map_err(|error| refused(&error))?;
        // Not for tenants.
        let (row, question) = self.read(asked, &View::All)?;
        let now = self.known.clock.now();
        let made = planner::compare(&self.known, &row, &question, now, self.assumed)
            .map_err(|error| unplanned(&error))?;
        let estimates: Vec<_> = made.iter().map(|one| one.estimate.clone()).collect();
        let choice = plimsoll_estimate::choose(&estimates, borne);
        let lifetime = self.known.interval * 3;
        Ok(v1::CompareModesResponse {
            answers: made
                .iter()
                .map(|one| answer::migration(one, lifetime))
                .collect(),
            recommended_mode: choice
                .mode
                .map_or(v1::MigrationMode::Unspecified, answer::mode)
                .into(),
            reasons: choice.reasons,
        })
    }
}

fn question(
    request: &v1::EstimateMigrationRequest,
    memory_bytes: u64,
) -> Result<Question, ParseError> {
    let positive = |field: &str, value: Option<i64>| match value {
        None => Ok(None),
        Some(value) if value >= 1 => Ok(u64::try_from(value)
            .ok()
            .map(Bandwidth::from_bytes_per_second)),
        Some(value) => Err(ParseError::new(
            field,
            format!("must be 1 or more, got {value}"),
        )),
    };
    let mode = match request.mode() {
        v1::MigrationMode::Unspecified | v1::MigrationMode::Precopy => MigrationMode::Precopy,
        v1::MigrationMode::PrecopyAutoConverge => MigrationMode::PrecopyAutoConverge,
        v1::MigrationMode::Postcopy => MigrationMode::Postcopy,
        v1::MigrationMode::StopCopy => MigrationMode::StopCopy,
    };
    let timeout = match &request.completion_timeout {
        None => None,
        Some(span) => Some(millis("completion_timeout", span)?),
    };
    Ok(Question {
        target: parse::node_id_opt("target_node_id", &request.target_node_id)?,
        policy: Policy {
            mode,
            downtime: profile(request.downtime_profile.as_ref(), memory_bytes)?,
            max_bandwidth: positive(
                "bandwidth_cap_bytes_per_second",
                request.bandwidth_cap_bytes_per_second,
            )?,
            timeout_ms: timeout,
            postcopy_after_ms: None,
        },
        path_bandwidth: positive(
            "path_bandwidth_bytes_per_second",
            request.path_bandwidth_bytes_per_second,
        )?,
    })
}

fn millis(field: &str, span: &prost_types::Duration) -> Result<u64, ParseError> {
    Duration::try_from(*span)
        .ok()
        .and_then(|span| u64::try_from(span.as_millis()).ok())
        .filter(|millis| *millis > 0)
        .ok_or_else(|| ParseError::new(field, "must be longer than 0"))
}

fn profile(
    message: Option<&v1::DowntimeProfile>,
    memory_bytes: u64,
) -> Result<DowntimeProfile, ParseError> {
    use v1::downtime_profile::Profile;
    Ok(match message.and_then(|message| message.profile.as_ref()) {
        None => DowntimeProfile::Qemu,
        Some(Profile::ConstantMs(limit)) => DowntimeProfile::Constant {
            limit_ms: parse::sequence("downtime_profile.constant_ms", *limit)?,
        },
        Some(Profile::NovaRamp(ramp)) => DowntimeProfile::NovaRamp {
            downtime_ms: parse::sequence(
                "downtime_profile.nova_ramp.downtime_ms",
                ramp.downtime_ms,
            )?,
            steps: u32::try_from(ramp.step_count).map_err(|_| {
                ParseError::new("downtime_profile.nova_ramp.step_count", "must be 3 or more")
            })?,
            delay_ms_per_gib: match &ramp.delay_per_gib {
                Some(span) => millis("downtime_profile.nova_ramp.delay_per_gib", span)?,
                None => 75_000,
            },
            gib: memory_bytes.div_ceil(1 << 30).max(2),
        },
        Some(Profile::Kubevirt(_)) => DowntimeProfile::Kubevirt,
        Some(Profile::Ovirt(_)) => DowntimeProfile::Ovirt,
        Some(Profile::Proxmox(_)) => DowntimeProfile::Proxmox,
    })
}

fn unplanned(error: &PlanError) -> Status {
    match error {
        PlanError::Missing { .. } => {
            status(Code::FailedPrecondition, "INPUT_UNKNOWN", error.to_string())
        }
        PlanError::AlreadyThere { .. } => status(
            Code::FailedPrecondition,
            "ALREADY_ON_TARGET",
            error.to_string(),
        ),
        PlanError::Input(source) => status(
            Code::InvalidArgument,
            "INVALID_INPUT",
            format!("{error}: {source}"),
        ),
    }
}

#[tonic::async_trait]
impl EstimateService for Forecast {
    async fn estimate_migration(
        &self,
        request: Request<v1::EstimateMigrationRequest>,
    ) -> Result<Response<v1::EstimateMigrationResponse>, Status> {
        let view = View::of(&request);
        self.estimate(&request.into_inner(), &view)
            .map(Response::new)
    }

    async fn compare_modes(
        &self,
        request: Request<v1::CompareModesRequest>,
    ) -> Result<Response<v1::CompareModesResponse>, Status> {
        self.compare(&request.into_inner()).map(Response::new)
    }

    async fn get_headroom(
        &self,
        request: Request<v1::GetHeadroomRequest>,
    ) -> Result<Response<v1::GetHeadroomResponse>, Status> {
        room::answer(&self.known, &request.into_inner()).map(Response::new)
    }

    async fn get_model_accuracy(
        &self,
        request: Request<v1::GetModelAccuracyRequest>,
    ) -> Result<Response<v1::GetModelAccuracyResponse>, Status> {
        truth::answer(&self.known.store, &request.into_inner())
            .map(Response::new)
            .map_err(|error| refused(&error))
    }

    async fn list_migrations(
        &self,
        request: Request<v1::ListMigrationsRequest>,
    ) -> Result<Response<v1::ListMigrationsResponse>, Status> {
        let view = View::of(&request);
        let request = request.into_inner();
        let wanted = past::Wanted::read(&request).map_err(|error| refused(&error))?;
        let (migrations, next_page_token) =
            past::page(&self.known, &wanted, &view).map_err(|error| refused(&error))?;
        Ok(Response::new(v1::ListMigrationsResponse {
            migrations,
            next_page_token,
        }))
    }
}

#[cfg(test)]
mod tests;
