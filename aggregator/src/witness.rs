//! Watches migrations: takes the prediction made before each one, follows its passes, and keeps both
//! beside the outcome. It makes no estimate itself; the planner does.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use plimsoll_estimate::{DowntimeProfile, Policy};
use plimsoll_model::{
    Bandwidth, DomainId, Event, EventKind, MigrationEnd, MigrationEnded, MigrationMode,
    MigrationRole, NodeId, UnixMillis,
};
use plimsoll_proto::{render, v1};
use plimsoll_store::{AppendError, Document, Store};
use prost::Message as _;

use crate::answer;
use crate::known::Known;
use crate::planner::{self, Question};

/// Name space of migrations among the store's documents.
pub const DOCUMENT_MIGRATION: u8 = 1;
/// A prediction somebody asked for is held against a migration that begins within this time.
const ASKED_LIFETIME: Duration = Duration::from_secs(600);
/// Predictions remembered at most; beyond that the oldest is forgotten.
const ASKED_MAX: usize = 50_000;
/// Passes kept of one migration.
const ITERATIONS_MAX: usize = 1_000;

#[derive(Debug)]
struct Asked {
    at: UnixMillis,
    answer: v1::EstimateMigrationResponse,
}

#[derive(Debug, Default)]
struct Open {
    asked: HashMap<DomainId, Asked>,
    running: HashMap<DomainId, v1::Migration>,
}

/// The witness.
#[derive(Debug)]
pub struct Witness {
    store: Arc<Store>,
    known: Known,
    assumed: Bandwidth,
    open: Mutex<Open>,
}

impl Witness {
    /// Makes a witness that keeps what it sees in the store.
    pub fn new(known: Known, assumed: Bandwidth) -> Self {
        let store = Arc::clone(&known.store);
        Self {
            store,
            known,
            assumed,
            open: Mutex::default(),
        }
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers a prediction that somebody asked for.
    pub fn asked(&self, domain: DomainId, at: UnixMillis, answer: v1::EstimateMigrationResponse) {
        let asked = &mut self.open().asked;
        if asked.len() >= ASKED_MAX
            && let Some(oldest) = asked
                .iter()
                .min_by_key(|(_, asked)| asked.at)
                .map(|(id, _)| *id)
        {
            asked.remove(&oldest);
        }
        asked.insert(domain, Asked { at, answer });
    }

    /// Takes events in the order in which a node saw them.
    pub fn see(&self, events: Vec<Event>) {
        for event in events {
            if let Err(error) = self.see_one(&event) {
                tracing::error!(error = %error, "a migration was not recorded");
            }
        }
    }

    fn see_one(&self, event: &Event) -> Result<(), AppendError> {
        match &event.kind {
            EventKind::DomainState { .. } => Ok(()),
            EventKind::MigrationStarted {
                domain,
                role,
                downtime_limit_ms,
                bandwidth_cap,
                ..
            } => {
                let policy = seen_policy(*downtime_limit_ms, *bandwidth_cap);
                match role {
                    MigrationRole::Source => self.begin(event, *domain, policy),
                    MigrationRole::Target => self.arrive(*domain, event.node),
                }
            }
            EventKind::MigrationIteration {
                domain, iteration, ..
            } => {
                if let Some(running) = self.open().running.get_mut(domain)
                    && running.iterations.len() < ITERATIONS_MAX
                {
                    running.iterations.push(render::iteration(iteration));
                }
                Ok(())
            }
            EventKind::MigrationEnded { domain, end, .. } => self.end(event, *domain, end),
        }
    }

    fn begin(&self, event: &Event, domain: DomainId, policy: Policy) -> Result<(), AppendError> {
        let asked = self.open().asked.remove(&domain);
        let asked = asked
            .filter(|asked| asked.at <= event.seen && event.seen.since(asked.at) <= ASKED_LIFETIME);
        let (prediction, origin) = match asked {
            Some(asked) => (Some(asked.answer), v1::PredictionOrigin::Asked),
            None => self.predict(domain, event, policy),
        };
        let row = self.known.domain(domain).into_iter().next();
        let migration = v1::Migration {
            domain_id: domain.as_bytes().to_vec(),
            domain_name: row.map(|row| row.facts.name).unwrap_or_default(),
            source_node_id: event.node.as_bytes().to_vec(),
            start_time: Some(render::timestamp(event.seen)),
            prediction,
            prediction_origin: origin.into(),
            ..v1::Migration::default()
        };
        self.open().running.insert(domain, migration.clone());
        self.keep(&migration, event.seen)
    }

    fn predict(
        &self,
        domain: DomainId,
        event: &Event,
        policy: Policy,
    ) -> (Option<v1::EstimateMigrationResponse>, v1::PredictionOrigin) {
        let rows = self.known.domain(domain);
        let Some(row) = rows.iter().find(|row| row.facts.node == event.node) else {
            return (None, v1::PredictionOrigin::Unspecified);
        };
        let question = Question {
            target: None,
            policy,
            path_bandwidth: None,
        };
        match planner::plan(&self.known, row, &question, event.seen, self.assumed) {
            Ok(made) => {
                let prediction = answer::migration(&made, ASKED_LIFETIME);
                (Some(prediction), v1::PredictionOrigin::Automatic)
            }
            Err(error) => {
                tracing::warn!(domain = %domain, error = %error, "no prediction could be made");
                (None, v1::PredictionOrigin::Unspecified)
            }
        }
    }

    fn arrive(&self, domain: DomainId, target: NodeId) -> Result<(), AppendError> {
        let mut open = self.open();
        let Some(running) = open.running.get_mut(&domain) else {
            return Ok(());
        };
        running.target_node_id = target.as_bytes().to_vec();
        Ok(())
    }

    fn end(
        &self,
        event: &Event,
        domain: DomainId,
        end: &MigrationEnded,
    ) -> Result<(), AppendError> {
        let running = self.open().running.remove(&domain);
        let mut migration = running.unwrap_or_else(|| v1::Migration {
            domain_id: domain.as_bytes().to_vec(),
            source_node_id: event.node.as_bytes().to_vec(),
            start_time: Some(render::timestamp(end.started)),
            ..v1::Migration::default()
        });
        let began = plimsoll_proto::parse::timestamp("start_time", migration.start_time.as_ref())
            .unwrap_or(end.started);
        migration.end_time = Some(render::timestamp(event.seen));
        migration.outcome = Some(render::migration_ended(end));
        migration.error = migration
            .prediction
            .as_ref()
            .map(|said| hold_against(said, end, event.seen.since(began)));
        if migration.target_node_id.is_empty() && end.end == MigrationEnd::Completed {
            let rows = self.known.domain(domain);
            let target = rows.iter().find(|row| row.facts.node != event.node);
            migration.target_node_id = target
                .map(|row| row.facts.node.as_bytes().to_vec())
                .unwrap_or_default();
        }
        self.keep(&migration, began)
    }

    fn keep(&self, migration: &v1::Migration, began: UnixMillis) -> Result<(), AppendError> {
        let mut key = migration.domain_id.clone();
        key.extend(began.millis().to_be_bytes());
        self.store.put_document(Document {
            kind: DOCUMENT_MIGRATION,
            key,
            time: began,
            payload: migration.encode_to_vec(),
        })
    }
}

fn seen_policy(downtime_limit_ms: Option<u64>, cap: Option<Bandwidth>) -> Policy {
    let mut policy = Policy::qemu(MigrationMode::Precopy);
    if let Some(limit_ms) = downtime_limit_ms.filter(|ms| *ms > 0) {
        policy.downtime = DowntimeProfile::Constant { limit_ms };
    }
    policy.max_bandwidth = cap.filter(|rate| rate.bytes_per_second() > 0);
    policy
}

/// Holds a prediction against an outcome.
fn hold_against(
    said: &v1::EstimateMigrationResponse,
    was: &MigrationEnded,
    ran: Duration,
) -> v1::MigrationError {
    let ran_ms = ran.as_secs_f64() * 1e3;
    let Some(estimate) = &said.estimate else {
        return v1::MigrationError::default();
    };
    let completed = was.end == MigrationEnd::Completed;
    let finished = |value: Option<u64>| value.filter(|_| completed).map(|value| value as f64);
    let ratio = |said: Option<&v1::Interval>, was: Option<f64>| {
        said.zip(was.filter(|was| *was > 0.0))
            .map(|(said, was)| (said.p50 - was) / was)
    };
    let total = finished(was.total_ms);
    let downtime = estimate.downtime_ms.as_ref().zip(finished(was.downtime_ms));
    let wire = finished(was.memory_processed.map(|size| size.bytes()));
    // Called off before it was said to be over, a migration proves nothing.
    let called_off_early = was.end == MigrationEnd::Aborted
        && estimate
            .total_ms
            .as_ref()
            .is_none_or(|said| ran_ms < said.p90);
    let verdict_right = match estimate.verdict() {
        v1::Verdict::Converges if called_off_early => None,
        v1::Verdict::Converges => Some(completed),
        v1::Verdict::DoesNotConverge => Some(!completed),
        v1::Verdict::AtRisk | v1::Verdict::Unspecified => None,
    };
    v1::MigrationError {
        total_error_ratio: ratio(estimate.total_ms.as_ref(), total),
        downtime_error_ms: downtime.map(|(said, was)| said.p50 - was),
        wire_error_ratio: ratio(estimate.wire_bytes.as_ref(), wire),
        total_within_bounds: estimate
            .total_ms
            .as_ref()
            .zip(total)
            .map(|(said, was)| (said.p10..=said.p90).contains(&was)),
        verdict_right,
    }
}
