//! Watches migrations: takes the prediction made before each one, follows its passes, and keeps both
//! beside the outcome. It makes no estimate itself; the planner does.

mod lost;
mod open;
mod recover;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use plimsoll_estimate::{DowntimeProfile, Policy};
use plimsoll_model::{
    Bandwidth, DomainId, Event, EventKind, Incarnation, MigrationEnd, MigrationEnded,
    MigrationMode, MigrationRole, NodeId, UnixMillis,
};
use plimsoll_proto::{parse, render, v1};
use plimsoll_store::{AppendError, Document, Store};
use prost::Message as _;

use self::open::{Asked, Open};
use crate::answer;
use crate::known::Known;
use crate::planner::{self, Question};

/// Name space of migrations among the store's documents.
pub const DOCUMENT_MIGRATION: u8 = 1;
/// A prediction somebody asked for is held against a migration that begins within this time; so far
/// apart, at most, the two ends of a migration see its start.
const ASKED_LIFETIME: Duration = Duration::from_secs(600);
/// Passes kept of one migration.
const ITERATIONS_MAX: usize = 1_000;

/// The witness.
#[derive(Debug)]
pub struct Witness {
    store: Arc<Store>,
    known: Known,
    assumed: Bandwidth,
    open: Mutex<Open>,
}

impl Witness {
    /// Makes a witness that keeps what it sees in the store, and takes up what was open there.
    pub fn new(known: Known, assumed: Bandwidth) -> Self {
        let store = Arc::clone(&known.store);
        let witness = Self {
            store,
            known,
            assumed,
            open: Mutex::default(),
        };
        witness.recover();
        witness
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers a prediction that somebody asked for.
    pub fn asked(&self, domain: DomainId, at: UnixMillis, answer: v1::EstimateMigrationResponse) {
        self.open().ask(domain, Asked { at, answer });
    }

    /// Lists the moves under way: domain, source, and the target if it told.
    pub fn moves(&self) -> Vec<(DomainId, NodeId, Option<NodeId>)> {
        let open = self.open();
        let ends = |one: &v1::Migration| {
            let source = NodeId::from_slice(&one.source_node_id).ok()?;
            Some((source, NodeId::from_slice(&one.target_node_id).ok()))
        };
        open.running
            .iter()
            .filter_map(|(domain, one)| ends(one).map(|(source, target)| (*domain, source, target)))
            .collect()
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
                incarnation,
                downtime_limit_ms,
                bandwidth_cap,
            } => match role {
                MigrationRole::Source => {
                    let policy = seen_policy(*downtime_limit_ms, *bandwidth_cap);
                    self.begin(event, (*domain, *incarnation), Some(policy))
                }
                MigrationRole::Target => self.arrive(*domain, event.node, event.seen),
            },
            EventKind::MigrationIteration {
                domain, iteration, ..
            } => {
                let pass = render::iteration(iteration);
                if let Some(running) = self.open().running.get_mut(domain)
                    && running.iterations.len() < ITERATIONS_MAX
                    && !running.iterations.contains(&pass)
                {
                    running.iterations.push(pass);
                }
                Ok(())
            }
            EventKind::MigrationEnded { domain, end, .. } => self.end(event, *domain, end),
        }
    }

    /// Opens a migration; without a policy no prediction is made, because its time has passed.
    fn begin(
        &self,
        event: &Event,
        (domain, incarnation): (DomainId, Incarnation),
        policy: Option<Policy>,
    ) -> Result<(), AppendError> {
        let start = Some(render::timestamp(event.seen));
        let (asked, older, target) = {
            let mut open = self.open();
            if open.knows(domain, start.as_ref()) {
                return Ok(());
            }
            let older = open.running.remove(&domain);
            let target = open.arrival(domain, event);
            (open.asked.remove(&domain), older, target)
        };
        if let Some(older) = older {
            let why = "a later migration of the domain began before its end was told";
            self.give_up(older, event.seen, why.to_owned())?;
        }
        let asked = asked
            .filter(|asked| asked.at <= event.seen && event.seen.since(asked.at) <= ASKED_LIFETIME);
        let (prediction, origin) = match (asked, policy) {
            (Some(asked), _) => (Some(asked.answer), v1::PredictionOrigin::Asked),
            (None, Some(policy)) => self.predict(domain, event, policy),
            (None, None) => (None, v1::PredictionOrigin::Unspecified),
        };
        let row = self.known.domain(domain).into_iter().next();
        let migration = v1::Migration {
            domain_id: domain.as_bytes().to_vec(),
            domain_name: row.map(|row| row.facts.name.clone()).unwrap_or_default(),
            source_node_id: event.node.as_bytes().to_vec(),
            target_node_id: target.map_or_else(Vec::new, |node| node.as_bytes().to_vec()),
            start_time: start,
            prediction,
            prediction_origin: origin.into(),
            source_incarnation: Some(render::incarnation(incarnation)),
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

    /// Takes the word of the target, which may come before the source's or after the end.
    fn arrive(
        &self,
        domain: DomainId,
        target: NodeId,
        seen: UnixMillis,
    ) -> Result<(), AppendError> {
        let Some(migration) = self.open().meet(domain, target, seen) else {
            return Ok(());
        };
        self.keep(&migration, began(&migration).unwrap_or(seen))
    }

    fn end(
        &self,
        event: &Event,
        domain: DomainId,
        end: &MigrationEnded,
    ) -> Result<(), AppendError> {
        let Some(mut migration) = self.open().take_ending(domain, event, end) else {
            return Ok(());
        };
        let began = began(&migration).unwrap_or(end.started);
        migration.end_time = Some(render::timestamp(event.seen));
        migration.outcome = Some(render::migration_ended(end));
        migration.unknown_end_reason.clear();
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
        self.teach(domain, &migration);
        self.open().finish(domain, migration.clone());
        self.keep(&migration, began)
    }

    /// Lets the estimates to come learn from a migration that has ended.
    fn teach(&self, domain: DomainId, migration: &v1::Migration) {
        let row = self.known.domain(domain).into_iter().next();
        let accelerator = row.and_then(|row| row.facts.accelerator);
        self.known.learned.learn(migration, accelerator);
    }

    /// Closes a migration whose end nobody told.
    fn give_up(
        &self,
        mut migration: v1::Migration,
        at: UnixMillis,
        why: String,
    ) -> Result<(), AppendError> {
        let Ok(domain) = DomainId::from_slice(&migration.domain_id) else {
            return Ok(());
        };
        tracing::warn!(domain = %domain, why, "the end of a migration was not told");
        migration.end_time = Some(render::timestamp(at));
        migration.unknown_end_reason = why;
        self.open().finish(domain, migration.clone());
        self.keep(&migration, began(&migration).unwrap_or(at))
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

/// Returns when a migration began.
fn began(migration: &v1::Migration) -> Option<UnixMillis> {
    parse::timestamp("start_time", migration.start_time.as_ref()).ok()
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
