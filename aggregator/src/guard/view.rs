//! What of the cloud a caller sees: all, or the domains of one project. What it does not see is not there
//! for it: no answer tells the two apart.

use plimsoll_model::{DomainFacts, DomainId, SeriesKey};
use tonic::Request;

use super::caller::{Caller, Role};
use crate::known::Known;

/// What a caller sees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum View {
    /// Everything.
    All,
    /// The domains of a project.
    Project(String),
    /// Nothing.
    Nothing,
}

impl View {
    /// Reads it from who calls.
    pub(crate) fn of<T>(request: &Request<T>) -> Self {
        match request.extensions().get::<Caller>() {
            None => Self::Nothing,
            Some(Caller::Local) => Self::All,
            Some(Caller::Certified { role, .. }) => match role {
                Role::Planner | Role::Operator => Self::All,
                Role::Tenant(project) => Self::Project(project.clone()),
                Role::Node(_) => Self::Nothing,
            },
        }
    }

    /// Whether that is everything.
    pub(crate) fn is_all(&self) -> bool {
        *self == Self::All
    }

    /// Whether a domain is seen, by what is told of it.
    pub(crate) fn sees(&self, facts: &DomainFacts) -> bool {
        match self {
            Self::All => true,
            Self::Project(project) => facts.project.as_ref() == Some(project),
            Self::Nothing => false,
        }
    }

    /// Whether a domain is seen, by what its owner tells of it.
    pub(crate) fn sees_domain(&self, known: &Known, domain: DomainId) -> bool {
        let seen = |owner: crate::known::DomainRow| self.sees(&owner.facts);
        self.is_all() || known.owner(domain).is_some_and(seen)
    }

    /// Whether a series is seen: that of a domain that is.
    pub(crate) fn sees_series(&self, known: &Known, key: &SeriesKey) -> bool {
        let domain = key.subject.domain();
        self.is_all() || domain.is_some_and(|domain| self.sees_domain(known, domain))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use plimsoll_model::{Bandwidth, Metric, UnixMillis};
    use plimsoll_proto::v1;
    use plimsoll_proto::v1::estimate_service_server::EstimateService as _;
    use plimsoll_proto::v1::query_service_server::QueryService as _;
    use plimsoll_store::Document;
    use prost::Message as _;
    use tonic::{Code, Status};

    use super::*;
    use crate::forecast::Forecast;
    use crate::query::Query;
    use crate::scene::Scene;
    use crate::witness::{DOCUMENT_MIGRATION, Witness};

    /// Two guests of two projects and one of none on one node, each with a migration of long ago.
    struct Projects {
        scene: Scene,
        guests: [DomainFacts; 3],
    }

    fn projects() -> Projects {
        let scene = Scene::new();
        let node = scene.node("compute-1", |_| {});
        let guests = [Some("red"), Some("blue"), None].map(|project| {
            let mut facts = scene.guest("web", node);
            facts.project = project.map(str::to_owned);
            scene.sees(&facts, 1);
            let migration = v1::Migration {
                domain_id: facts.domain.as_bytes().to_vec(),
                ..v1::Migration::default()
            };
            let document = Document {
                kind: DOCUMENT_MIGRATION,
                key: facts.domain.as_bytes().to_vec(),
                time: UnixMillis::from_millis(1),
                payload: migration.encode_to_vec(),
            };
            scene.known.store.put_document(document).unwrap();
            facts
        });
        Projects { scene, guests }
    }

    fn by<T>(role: Role, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.extensions_mut().insert(Caller::Certified {
            role,
            name: "spiffe://site-a/x/y".to_owned(),
        });
        request
    }

    fn forecast(scene: &Scene) -> Forecast {
        let assumed = Bandwidth::from_bytes_per_second(1 << 27);
        Forecast {
            known: scene.known.clone(),
            witness: Arc::new(Witness::new(scene.known.clone(), assumed)),
            assumed,
        }
    }

    /// The domains that each list names to a role: domains, series, latest values, migrations.
    async fn listed(projects: &Projects, role: &Role) -> [Vec<Vec<u8>>; 4] {
        let query = Query {
            known: projects.scene.known.clone(),
        };
        let domains = by(role.clone(), v1::ListDomainsRequest::default());
        let domains = query.list_domains(domains).await.unwrap().into_inner();
        let series = by(role.clone(), v1::ListSeriesRequest::default());
        let series = query.list_series(series).await.unwrap().into_inner();
        let latest = by(role.clone(), v1::GetLatestRequest::default());
        let latest = query.get_latest(latest).await.unwrap().into_inner();
        let migrations = by(role.clone(), v1::ListMigrationsRequest::default());
        let forecast = forecast(&projects.scene);
        let migrations = forecast.list_migrations(migrations).await.unwrap();
        let facts = domains.domains.into_iter().map(|one| one.facts.unwrap());
        let readings = latest.readings.into_iter().map(|one| one.series.unwrap());
        let migrations = migrations.into_inner().migrations.into_iter();
        let mut all = [
            facts.map(|one| one.domain_id).collect::<Vec<_>>(),
            series.series.into_iter().map(|one| one.domain_id).collect(),
            readings.map(|one| one.domain_id).collect(),
            migrations.map(|one| one.domain_id).collect(),
        ];
        for list in &mut all {
            list.sort();
            list.dedup();
        }
        all
    }

    #[tokio::test]
    async fn a_tenant_is_told_of_its_own_domains_and_of_nothing_else() {
        let projects = projects();
        let own = vec![projects.guests[0].domain.as_bytes().to_vec()];
        let red = Role::Tenant("red".to_owned());
        for list in listed(&projects, &red).await {
            assert_eq!(list, own);
        }
        for list in listed(&projects, &Role::Tenant("green".to_owned())).await {
            assert!(list.is_empty());
        }
        for list in listed(&projects, &Role::Operator).await {
            assert!(list.len() >= 3, "an operator is told of all");
        }
    }

    #[tokio::test]
    async fn where_a_domain_runs_is_not_for_tenants() {
        let projects = projects();
        let query = Query {
            known: projects.scene.known.clone(),
        };
        let asked = by(
            Role::Tenant("red".to_owned()),
            v1::ListDomainsRequest::default(),
        );
        let told = query.list_domains(asked).await.unwrap().into_inner();
        let domain = &told.domains[0];
        assert!(domain.hostname.is_empty());
        assert!(domain.facts.as_ref().unwrap().node_id.is_empty());
    }

    /// What a tenant hears who asks about a domain by name: an estimate, and samples.
    async fn asked(projects: &Projects, domain: DomainId) -> [Result<(), Status>; 2] {
        let red = || Role::Tenant("red".to_owned());
        let estimate = v1::EstimateMigrationRequest {
            domain_id: domain.as_bytes().to_vec(),
            ..v1::EstimateMigrationRequest::default()
        };
        let forecast = forecast(&projects.scene);
        let estimate = forecast.estimate_migration(by(red(), estimate)).await;
        let range = v1::QueryRangeRequest {
            selector: Some(v1::SeriesSelector {
                domain_id: domain.as_bytes().to_vec(),
                metric: Metric::VmState.name().to_owned(),
                ..v1::SeriesSelector::default()
            }),
            start_time: Some(prost_types::Timestamp::default()),
            ..v1::QueryRangeRequest::default()
        };
        let query = Query {
            known: projects.scene.known.clone(),
        };
        let range = query.query_range(by(red(), range)).await;
        [estimate.map(drop), range.map(drop)]
    }

    #[tokio::test]
    async fn a_foreign_domain_is_answered_as_one_that_is_not_there() {
        let projects = projects();
        let nobody = asked(&projects, DomainId::random()).await;
        for foreign in &projects.guests[1..] {
            let heard = asked(&projects, foreign.domain).await;
            for (heard, nobody) in heard.iter().zip(&nobody) {
                let (heard, nobody) = (heard.as_ref().unwrap_err(), nobody.as_ref().unwrap_err());
                assert_eq!(heard.code(), Code::NotFound);
                assert_eq!(heard.code(), nobody.code());
                let without_id = |status: &Status| {
                    let words = status
                        .message()
                        .split(' ')
                        .filter(|word| !word.contains('-'));
                    words.collect::<Vec<_>>().join(" ")
                };
                assert_eq!(without_id(heard), without_id(nobody));
            }
        }
        let own = asked(&projects, projects.guests[0].domain).await;
        for heard in own {
            let found = heard.as_ref().map_or_else(Status::code, |()| Code::Ok);
            assert_ne!(found, Code::NotFound, "{heard:?}");
        }
    }

    #[test]
    fn who_is_not_known_sees_nothing() {
        assert_eq!(View::of(&Request::new(())), View::Nothing);
        let node = "0f0e7c4a-3f10-4a55-9d0e-3a1f7c1b2d11".parse().unwrap();
        assert_eq!(View::of(&by(Role::Node(node), ())), View::Nothing);
    }
}
