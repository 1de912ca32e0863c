//! Events of libvirt, made into events of ours.

use std::time::Duration;

use plimsoll_libvirt::{DomainEvent, DomainEventKind, TypedParams, job, lifecycle};
use plimsoll_model::{
    DomainId, DomainState, Event, EventKind, Metric, MigrationEnded, MigrationRole, Window,
};

use super::{Limits, Session};
use crate::look::Values;
use crate::source::libvirt::migration::Migration;

impl Session<'_> {
    pub(super) fn tell(&mut self, kind: EventKind) {
        let seen = self.guests.clock.now();
        self.look.events.push(Event {
            node: self.guests.node,
            seen,
            kind,
        });
    }

    pub(super) fn hear(&mut self, event: &DomainEvent) {
        match &event.kind {
            DomainEventKind::Lifecycle {
                event: what,
                detail,
            } => {
                self.hear_lifecycle(event, *what, *detail);
            }
            DomainEventKind::MigrationIteration { iteration } => {
                let Some(id) = self.meet(&event.domain) else {
                    return;
                };
                let number = u32::try_from(*iteration).unwrap_or(0);
                self.begin(id, MigrationRole::Source);
                self.look_at_job(id, Some(number));
            }
            DomainEventKind::JobCompleted { params } => self.hear_completion(event, params),
            _ => {}
        }
    }

    fn hear_lifecycle(&mut self, event: &DomainEvent, what: i32, detail: i32) {
        let Ok(id) = DomainId::from_bytes(event.domain.uuid) else {
            return;
        };
        let state = match what {
            lifecycle::DEFINED => DomainState::Defined,
            lifecycle::UNDEFINED => DomainState::Undefined,
            lifecycle::STARTED => DomainState::Started,
            lifecycle::SUSPENDED => DomainState::Suspended,
            lifecycle::RESUMED => DomainState::Resumed,
            lifecycle::STOPPED => DomainState::Stopped,
            lifecycle::SHUTDOWN => DomainState::Shutdown,
            lifecycle::PM_SUSPENDED => DomainState::PowerSuspended,
            lifecycle::CRASHED => DomainState::Crashed,
            _ => return,
        };
        if state == DomainState::Started {
            self.meet(&event.domain);
            if detail == lifecycle::started::MIGRATED {
                self.begin(id, MigrationRole::Target);
            }
        }
        let now = self.guests.clock.now();
        if let Some(known) = self.domains.get_mut(&id) {
            known.running = match state {
                DomainState::Started | DomainState::Resumed => true,
                DomainState::Defined | DomainState::Undefined => known.running,
                _ => false,
            };
            let arrived = state == DomainState::Resumed
                && known
                    .migration
                    .as_ref()
                    .is_some_and(|m| m.role == MigrationRole::Target);
            if arrived {
                known.migration = None;
            }
            if let Some(migration) = known.migration.as_mut()
                && state == DomainState::Stopped
            {
                migration.stopped(now, detail == lifecycle::stopped::MIGRATED);
            }
        }
        let incarnation = self.domains.get(&id).map(|known| known.incarnation);
        let detail = u32::try_from(detail).unwrap_or(0);
        self.tell(EventKind::DomainState {
            domain: id,
            incarnation,
            state,
            detail,
        });
        self.list();
    }

    /// Notes the start of a migration that was not known to run.
    pub(super) fn begin(&mut self, id: DomainId, role: MigrationRole) {
        let now = self.guests.clock.now();
        let Some(known) = self.domains.get_mut(&id) else {
            return;
        };
        if known.migration.is_some() {
            return;
        }
        known.migration = Some(Migration::begin(role, now));
        tracing::info!(domain = %known.domain, ?role, "a migration began");
        match role {
            // The limit is asked for first; the start is told with it, or without it at once after.
            MigrationRole::Source => self.ask_limits(id),
            MigrationRole::Target => self.tell_start(id, role, Limits::default()),
        }
    }

    /// Notes a migration that began before anybody listened.
    pub(super) fn found_leaving(&mut self, id: DomainId, elapsed: Duration) {
        self.begin(id, MigrationRole::Source);
        let now = self.guests.clock.now();
        let known = self.domains.get_mut(&id);
        if let Some(migration) = known.and_then(|known| known.migration.as_mut()) {
            migration.started = now.minus(elapsed);
        }
    }

    /// Tells the start of a migration under way, once.
    pub(super) fn tell_start(&mut self, id: DomainId, role: MigrationRole, limits: Limits) {
        let Some(known) = self.domains.get_mut(&id) else {
            return;
        };
        let Some(migration) = known
            .migration
            .as_mut()
            .filter(|migration| !migration.announced)
        else {
            return;
        };
        migration.announced = true;
        let kind = EventKind::MigrationStarted {
            domain: id,
            incarnation: known.incarnation,
            role,
            downtime_limit_ms: limits.downtime_ms,
            bandwidth_cap: limits.bandwidth,
        };
        let seen = migration.started;
        let node = self.guests.node;
        self.look.events.push(Event { node, seen, kind });
    }

    fn hear_completion(&mut self, event: &DomainEvent, params: &TypedParams) {
        let migrated = params.i64(job::OPERATION) == Some(i64::from(job::operation::MIGRATION_OUT));
        let Some(id) = self.meet(&event.domain).filter(|_| migrated) else {
            return;
        };
        // Of a migration too short for an event of a pass, this is also the start.
        let missed = self
            .domains
            .get(&id)
            .is_some_and(|known| known.migration.is_none());
        if missed {
            self.begin(id, MigrationRole::Source);
        }
        let end = self
            .domains
            .get(&id)
            .and_then(|known| known.migration.as_ref());
        if let Some(end) = end.map(|migration| migration.completed(params)) {
            self.end(id, end);
        }
    }

    /// Tells the end of a migration, once.
    pub(super) fn end(&mut self, id: DomainId, end: MigrationEnded) {
        self.tell_start(id, MigrationRole::Source, Limits::default());
        let Some(known) = self.domains.get_mut(&id) else {
            return;
        };
        if known.migration.take().is_none() {
            return;
        }
        let (incarnation, subject) = (known.incarnation, known.subject());
        // However it ended: the last value of the series must not say for ever that it runs.
        let now = self.guests.clock.now();
        let mut values = Values::default();
        values.whole(Metric::VmMigActive, 0);
        let ended = values.sweep(subject, Window::between(now, now));
        self.look.sweeps.extend(ended);
        tracing::info!(domain = %known.domain, end = ?end.end, total_ms = end.total_ms, downtime_ms = end.downtime_ms, "a migration ended");
        self.tell(EventKind::MigrationEnded {
            domain: id,
            incarnation,
            end,
        });
    }
}
