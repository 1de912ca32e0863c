//! After a restart: the migrations that were open are taken up again, and what was stored but not yet
//! witnessed is made up for. No prediction is made here: its time has passed.

use std::collections::HashSet;

use plimsoll_model::{DomainId, Event, EventKind, MigrationRole, UnixMillis};
use plimsoll_proto::{parse, v1};
use plimsoll_store::{AppendError, EventFilter};
use prost::Message as _;

use super::{ASKED_LIFETIME, DOCUMENT_MIGRATION, Witness, began};

/// The instants at which the migrations of each domain that are on record began and ended.
#[derive(Default)]
struct Recorded {
    starts: HashSet<(DomainId, UnixMillis)>,
    ends: HashSet<(DomainId, UnixMillis)>,
}

impl Witness {
    /// Reads back migrations and goes through the events since the oldest that is open.
    pub(super) fn recover(&self) {
        let mut recorded = Recorded::default();
        let mut newest = UnixMillis::from_millis(0);
        let mut oldest_open: Option<UnixMillis> = None;
        let mut documents = self.store.documents(DOCUMENT_MIGRATION);
        documents.sort_by_key(|document| document.time);
        for document in documents {
            let Ok(migration) = v1::Migration::decode(document.payload.as_slice()) else {
                tracing::error!("a migration record cannot be read");
                continue;
            };
            let Ok(domain) = DomainId::from_slice(&migration.domain_id) else {
                continue;
            };
            recorded.starts.insert((domain, document.time));
            let end = parse::timestamp("end_time", migration.end_time.as_ref());
            recorded.ends.extend(end.ok().map(|end| (domain, end)));
            newest = newest.max(document.time);
            let mut open = self.open();
            if migration.end_time.is_none() {
                oldest_open.get_or_insert(document.time);
                open.running.insert(domain, migration);
            } else {
                self.teach(domain, &migration);
                open.finish(domain, migration);
            }
        }
        let from = oldest_open.unwrap_or(newest).minus(ASKED_LIFETIME);
        let last = UnixMillis::from_millis(i64::MAX);
        for event in self.store.events(from, last, &EventFilter::default()) {
            if let Err(error) = self.see_again(&event, &recorded) {
                tracing::error!(error = %error, "a migration was not recorded");
            }
        }
        let count = self.open().running.len();
        if count > 0 {
            tracing::info!(count, "took up open migrations");
        }
    }

    fn see_again(&self, event: &Event, recorded: &Recorded) -> Result<(), AppendError> {
        let begins_after = |domain: DomainId| {
            let open = self.open();
            let running = open.running.get(&domain);
            running
                .and_then(began)
                .is_some_and(|start| event.seen < start)
        };
        match &event.kind {
            EventKind::DomainState { .. } => Ok(()),
            EventKind::MigrationStarted {
                domain,
                role: MigrationRole::Source,
                incarnation,
                ..
            } if !recorded.starts.contains(&(*domain, event.seen)) => {
                self.begin(event, (*domain, *incarnation), None)
            }
            EventKind::MigrationStarted {
                role: MigrationRole::Source,
                ..
            } => Ok(()),
            // What belongs to an earlier migration of the domain is in that one's record.
            EventKind::MigrationIteration { domain, .. }
            | EventKind::MigrationEnded { domain, .. }
                if begins_after(*domain) =>
            {
                Ok(())
            }
            EventKind::MigrationEnded { domain, .. }
                if recorded.ends.contains(&(*domain, event.seen)) =>
            {
                Ok(())
            }
            EventKind::MigrationStarted { .. }
            | EventKind::MigrationIteration { .. }
            | EventKind::MigrationEnded { .. } => self.see_one(event),
        }
    }
}
