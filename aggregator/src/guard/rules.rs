//! Which role may make which call. One table; a call that is not in it is refused.

use std::sync::Arc;
use std::task::{Context, Poll};

use plimsoll_model::Clock;
use tonic::body::Body;
use tonic::codegen::http::{Request, Response};
use tonic::{Code, Status};
use tower::{Layer, Service};

use super::caller::{Caller, Role};
use super::limits::{Limit, Met};
use crate::page::status;

/// Who may make a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum May {
    /// Whoever got in.
    All,
    /// Agents.
    Nodes,
    /// Planners and operators.
    Planners,
    /// Operators.
    Operators,
    /// Planners and operators, and tenants for what is theirs; the service leaves out the rest.
    PlannersAndTenants,
    /// Operators, and tenants for what is theirs; the service leaves out the rest.
    OperatorsAndTenants,
}

/// Path of a call, or the beginning of the paths of a whole service (ends in `/`). Each call of ours
/// has a line of its own, so that a new one is refused until somebody thought about it.
const RULES: &[(&str, May)] = &[
    ("/grpc.health.v1.Health/", May::All),
    ("/grpc.reflection.v1.ServerReflection/", May::Planners),
    ("/grpc.reflection.v1alpha.ServerReflection/", May::Planners),
    ("/plimsoll.v1.IngestService/Ingest", May::Nodes),
    (
        "/plimsoll.v1.EstimateService/EstimateMigration",
        May::PlannersAndTenants,
    ),
    ("/plimsoll.v1.EstimateService/CompareModes", May::Planners),
    ("/plimsoll.v1.EstimateService/GetHeadroom", May::Planners),
    (
        "/plimsoll.v1.EstimateService/ListMigrations",
        May::PlannersAndTenants,
    ),
    (
        "/plimsoll.v1.EstimateService/GetModelAccuracy",
        May::Planners,
    ),
    (
        "/plimsoll.v1.PlannerService/CheckFeasibility",
        May::Planners,
    ),
    ("/plimsoll.v1.PlannerService/RankTargets", May::Planners),
    (
        "/plimsoll.v1.PlannerService/EstimateEvacuation",
        May::Planners,
    ),
    ("/plimsoll.v1.PlannerService/ListConflicts", May::Planners),
    ("/plimsoll.v1.QueryService/ListNodes", May::Planners),
    (
        "/plimsoll.v1.QueryService/ListDomains",
        May::PlannersAndTenants,
    ),
    (
        "/plimsoll.v1.QueryService/ListSeries",
        May::OperatorsAndTenants,
    ),
    (
        "/plimsoll.v1.QueryService/GetLatest",
        May::OperatorsAndTenants,
    ),
    (
        "/plimsoll.v1.QueryService/QueryRange",
        May::OperatorsAndTenants,
    ),
    ("/plimsoll.v1.QueryService/QueryColumns", May::Operators),
    ("/plimsoll.v1.QueryService/ListEvents", May::Operators),
    ("/plimsoll.v1.QueryService/ListDevices", May::Operators),
    ("/plimsoll.v1.QueryService/ListGaps", May::Operators),
];

fn rule(path: &str) -> Option<May> {
    let fits = |rule: &str| match rule.strip_suffix('/') {
        Some(_) => path.starts_with(rule),
        None => path == rule,
    };
    RULES
        .iter()
        .find(|(pattern, _)| fits(pattern))
        .map(|(_, may)| *may)
}

/// Says whether a caller may make a call; the first fitting line of the table decides.
pub fn allowed(caller: &Caller, path: &str) -> bool {
    let role = match caller {
        Caller::Local => return true,
        Caller::Certified { role, .. } => role,
    };
    match rule(path) {
        None => false,
        Some(May::All) => true,
        Some(May::Nodes) => matches!(role, Role::Node(_)),
        Some(May::Planners) => matches!(role, Role::Planner | Role::Operator),
        Some(May::Operators) => matches!(role, Role::Operator),
        Some(May::PlannersAndTenants) => !matches!(role, Role::Node(_)),
        Some(May::OperatorsAndTenants) => matches!(role, Role::Operator | Role::Tenant(_)),
    }
}

/// Puts the table before all services.
#[derive(Debug, Clone)]
pub struct Rules {
    /// Counts what was refused.
    pub met: Arc<Met>,
    /// Tells the time.
    pub clock: Arc<dyn Clock>,
}

impl<S> Layer<S> for Rules {
    type Service = Ruled<S>;

    fn layer(&self, inner: S) -> Ruled<S> {
        let rules = self.clone();
        Ruled { inner, rules }
    }
}

/// A service behind the table.
#[derive(Debug, Clone)]
pub struct Ruled<S> {
    inner: S,
    rules: Rules,
}

impl<S> Service<Request<Body>> for Ruled<S>
where
    S: Service<Request<Body>, Response = Response<Body>>,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = futures_util::future::Either<
        S::Future,
        std::future::Ready<Result<Self::Response, Self::Error>>,
    >;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let path = request.uri().path();
        let refused = match request.extensions().get::<Caller>() {
            None => Status::unauthenticated("nobody is known at this connection"),
            Some(caller) if allowed(caller, path) => {
                return futures_util::future::Either::Left(self.inner.call(request));
            }
            Some(caller) => {
                if self.rules.met.note(Limit::Role, &*self.rules.clock) {
                    tracing::info!(caller = %caller, path, "call refused");
                }
                not_allowed(caller, path)
            }
        };
        futures_util::future::Either::Right(std::future::ready(Ok(refused.into_http())))
    }
}

fn not_allowed(caller: &Caller, path: &str) -> Status {
    let role = match caller {
        Caller::Local => "local",
        Caller::Certified { role, .. } => role.word(),
    };
    let message = format!("role {role} may not call {path}; use a certificate of another role");
    status(Code::PermissionDenied, "ROLE_NOT_ALLOWED", message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost::Message as _;

    fn certified(role: Role) -> Caller {
        Caller::Certified {
            role,
            name: "spiffe://test/x/y".to_owned(),
        }
    }

    fn own_calls() -> Vec<String> {
        let set = prost_types::FileDescriptorSet::decode(plimsoll_proto::DESCRIPTORS).unwrap();
        let mut calls = Vec::new();
        for file in set.file {
            for service in file.service {
                for method in service.method {
                    let package = file.package.clone().unwrap();
                    let (service, method) = (service.name.clone().unwrap(), method.name.unwrap());
                    calls.push(format!("/{package}.{service}/{method}"));
                }
            }
        }
        calls
    }

    #[test]
    fn every_call_of_ours_has_a_rule() {
        let calls = own_calls();
        assert!(calls.len() >= 8, "{calls:?}");
        for call in calls {
            assert!(rule(&call).is_some(), "{call} has no rule");
        }
    }

    #[test]
    fn an_agent_sends_and_reads_nothing() {
        let node = certified(Role::Node(
            "0f0e7c4a-3f10-4a55-9d0e-3a1f7c1b2d11".parse().unwrap(),
        ));
        for call in own_calls() {
            assert_eq!(allowed(&node, &call), call.ends_with("/Ingest"), "{call}");
        }
    }

    #[test]
    fn only_agents_send() {
        for role in [Role::Planner, Role::Operator, Role::Tenant("a".to_owned())] {
            assert!(!allowed(
                &certified(role),
                "/plimsoll.v1.IngestService/Ingest"
            ));
        }
    }

    #[test]
    fn a_planner_sees_no_raw_series() {
        let planner = certified(Role::Planner);
        assert!(allowed(
            &planner,
            "/plimsoll.v1.EstimateService/GetHeadroom"
        ));
        assert!(!allowed(&planner, "/plimsoll.v1.QueryService/QueryRange"));
    }

    #[test]
    fn what_is_not_in_the_table_is_refused() {
        let operator = certified(Role::Operator);
        for path in [
            "/plimsoll.v1.Nothing/Get",
            "/",
            "",
            "/plimsoll.v1.IngestService/Ingest/",
        ] {
            assert!(!allowed(&operator, path), "{path}");
        }
    }
}
