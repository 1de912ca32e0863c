//! Answers of libvirt, and what is due each second.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use plimsoll_libvirt::{CallError, DomainRef, TypedParams, job::JobStats, state};
use plimsoll_model::{DomainId, EventKind, Metric, MigrationRole, Window};

use super::{Done, Session};
use crate::config::Access;
use crate::look::Values;
use crate::source::libvirt::{Hypervisor, dirty, migration, table, touched, version, xml};

impl Session<'_> {
    pub(super) fn act(&mut self, done: Done) {
        match done {
            Done::Listed(Ok(domains)) => self.listed(&domains),
            Done::Listed(Err(error)) => {
                tracing::warn!(
                    error = crate::chain::chain(&error),
                    "guests cannot be listed"
                );
            }
            Done::Described(id, result) => self.described(id, result),
            Done::Counted(id, window, took, result) => self.counted(id, window, took, result),
            Done::Job(id, window, pass, result) => self.job(id, window, pass, result),
            Done::Limits(id, limits) => self.tell_start(id, MigrationRole::Source, limits),
            Done::Measured(id, order, outcome) => {
                self.measured(id, &order, outcome);
                self.begin_measurements();
            }
            Done::Touched(id, window, bytes) => self.touched(id, window, bytes),
            Done::Host(kind, libvirt, qemu, host) => {
                self.host = host;
                self.guests.hypervisor.send_replace(Hypervisor {
                    kind,
                    libvirt_version: libvirt.map(version),
                    qemu_version: qemu.map(version),
                });
            }
        }
    }

    fn listed(&mut self, domains: &[DomainRef]) {
        let ids: Vec<DomainId> = domains
            .iter()
            .filter_map(|domain| self.meet(domain))
            .collect();
        // A migrating domain is kept until its end was told.
        self.domains
            .retain(|id, known| ids.contains(id) || known.migration.is_some());
        for known in self.domains.values_mut() {
            if !ids.contains(&known.id) {
                let now = self.guests.clock.now();
                if let Some(migration) = known.migration.as_mut() {
                    migration.stopped(now, false);
                }
            }
        }
    }

    fn described(&mut self, id: DomainId, result: Result<String, CallError>) {
        let Some(known) = self.domains.get_mut(&id) else {
            return;
        };
        let about = xml::About {
            domain: id,
            node: known.node,
            incarnation: known.incarnation,
        };
        match result.map(|text| xml::domain(&text, about)) {
            Ok(Some(described)) => {
                known.macs = described.macs;
                known.facts = Some(described.facts.clone());
                self.look.domain_facts.push(described.facts);
                if !known.busy {
                    known.busy = true;
                    let domain = known.domain.clone();
                    self.count(id, domain, true);
                }
            }
            Ok(None) => {
                tracing::warn!(domain = %known.domain, "the description of a domain cannot be understood")
            }
            Err(error) => {
                tracing::debug!(domain = %known.domain, error = crate::chain::chain(&error), "a domain cannot be described");
            }
        }
    }

    fn counted(
        &mut self,
        id: DomainId,
        window: Window,
        took: Duration,
        result: Result<TypedParams, CallError>,
    ) {
        self.slowest = self.slowest.max(took);
        let now = self.guests.clock.monotonic();
        let Some(known) = self.domains.get_mut(&id) else {
            return;
        };
        known.busy = false;
        match result {
            Ok(params) => {
                known.answered();
                let mut values = Values::default();
                table::stats(&params, &known.macs, &mut values);
                let huge_pages = known.facts.as_ref().and_then(|facts| facts.huge_pages);
                if let Some(share) = table::zero_fraction(&params, huge_pages) {
                    values.whole(Metric::VmMemZeroFraction, share);
                }
                if let Some(now) = params.i64("state.state") {
                    known.running = now == i64::from(state::RUNNING);
                }
                self.look
                    .sweeps
                    .extend(values.sweep(known.subject(), window));
                let reshaped = known.reshape(table::shape(&params));
                if reshaped || known.facts.is_none() {
                    let domain = known.domain.clone();
                    self.describe(id, domain);
                }
            }
            Err(CallError::TimedOut { .. }) => {
                known.quarantine(now);
                self.timed_out = self.timed_out.saturating_add(1);
                self.fall_back(id);
            }
            Err(error) => {
                tracing::debug!(domain = %known.domain, error = crate::chain::chain(&error), "a domain is left out of this round");
            }
        }
    }

    fn job(
        &mut self,
        id: DomainId,
        window: Window,
        pass: Option<u32>,
        result: Result<JobStats, CallError>,
    ) {
        let Some(known) = self.domains.get_mut(&id) else {
            return;
        };
        known.job_busy = false;
        let (domain, incarnation, subject) = (id, known.incarnation, known.subject());
        let Some(migration) = known.migration.as_mut() else {
            return;
        };
        if let Some(number) = pass {
            migration.pass(number);
            let params = result.as_ref().ok().map(|stats| &stats.params);
            let iteration = migration::iteration(number, params);
            self.tell(EventKind::MigrationIteration {
                domain,
                incarnation,
                iteration,
            });
        }
        let Ok(stats) = result else { return };
        let mut values = Values::default();
        values.whole(
            Metric::VmMigActive,
            u64::from(stats.kind != plimsoll_libvirt::job::kind::NONE),
        );
        table::job(&stats.params, &mut values);
        self.look.sweeps.extend(values.sweep(subject, window));
        let known = self.domains.get_mut(&id);
        let migration = known.and_then(|known| known.migration.as_mut());
        if let Some(end) =
            migration.and_then(|migration| migration.looked(stats.kind, stats.params))
        {
            self.end(id, end);
        }
    }

    /// Does what is due each second: looks at jobs, ends what is overdue, begins measurements.
    pub(super) fn second(&mut self) {
        let now = self.guests.clock.now();
        let mut outgoing = Vec::new();
        let mut overdue = Vec::new();
        for (id, known) in &mut self.domains {
            let Some(migration) = &known.migration else {
                continue;
            };
            if let Some(end) = migration.overdue(now) {
                overdue.push((*id, end));
            } else if migration.role == MigrationRole::Source {
                outgoing.push(*id);
            }
            if migration.is_stale(now) {
                known.migration = None;
            }
        }
        for id in outgoing {
            self.look_at_job(id, None);
        }
        for (id, end) in overdue {
            let role = self
                .domains
                .get(&id)
                .and_then(|known| Some(known.migration.as_ref()?.role));
            if role == Some(MigrationRole::Source) {
                self.end(id, end);
            } else if let Some(known) = self.domains.get_mut(&id) {
                // The source tells the end; here the domain only stopped coming.
                known.migration = None;
            }
        }
        self.begin_measurements();
        self.look_through_memory();
    }

    /// Reads how much of each guest's memory was ever touched, where that is due.
    fn look_through_memory(&mut self) {
        let now = self.guests.clock.monotonic();
        for (id, known) in &mut self.domains {
            let memory = known.facts.as_ref().and_then(|facts| facts.memory_max);
            let every = memory.and_then(|memory| Some((memory, touched::every(memory)?)));
            let Some((memory, every)) = every else {
                continue;
            };
            if known.migration.is_some() || known.touched_due.is_some_and(|due| due > now) {
                continue;
            }
            known.touched_due = Some(now.plus(every));
            let (id, domain) = (*id, known.domain.clone());
            let clock = Arc::clone(&self.guests.clock);
            self.calls.spawn_blocking(move || {
                let begin = clock.now();
                let bytes = touched::read(Path::new("/"), &domain, memory);
                let window = Window::between(begin, clock.now());
                Done::Touched(id, window, bytes.map(|size| size.bytes()))
            });
        }
    }

    fn touched(&mut self, id: DomainId, window: Window, bytes: Option<u64>) {
        let (Some(known), Some(bytes)) = (self.domains.get(&id), bytes) else {
            return;
        };
        let mut values = Values::default();
        values.whole(Metric::VmMemTouched, bytes);
        self.look
            .sweeps
            .extend(values.sweep(known.subject(), window));
    }

    fn begin_measurements(&mut self) {
        let config = &self.guests.config.dirty;
        if self.guests.libvirt.access != Access::ReadWrite {
            return;
        }
        let now = self.guests.clock.monotonic();
        while self.measuring < config.concurrent_max {
            let due = |known: &&mut super::Known| {
                known.may_be_measured(now) && known.dirty.due().is_some_and(|due| due <= now)
            };
            let next = self
                .domains
                .values_mut()
                .filter(due)
                .min_by_key(|known| known.dirty.due());
            let Some(known) = next else { return };
            let Some(window) = known.dirty.begin(&config.windows) else {
                return;
            };
            let (id, domain) = (known.id, known.domain.clone());
            let order = dirty::Order {
                domain,
                window,
                started: self.guests.clock.now(),
            };
            let (connection, clock) = (self.connection.clone(), Arc::clone(&self.guests.clock));
            let deadline = self.guests.libvirt.call_deadline;
            self.measuring += 1;
            self.calls.spawn(async move {
                let outcome = dirty::measure(connection, order.clone(), deadline, clock).await;
                Done::Measured(id, order, outcome)
            });
        }
    }

    fn measured(&mut self, id: DomainId, order: &dirty::Order, outcome: dirty::Outcome) {
        self.measuring = self.measuring.saturating_sub(1);
        let config = &self.guests.config.dirty;
        let now = self.guests.clock.monotonic();
        let Some(known) = self.domains.get_mut(&id) else {
            return;
        };
        let settings = (config.windows.len(), config.every);
        let dirty::Outcome::Measured(rate, ended) = outcome else {
            if let dirty::Outcome::Failed(error) = outcome {
                tell_failure(&known.domain, &error);
            }
            known.dirty.end(None, now, settings);
            return;
        };
        // A migration that began meanwhile slowed the guest or stopped it.
        if known.migration.is_some() || !known.running {
            known.dirty.end(None, now, settings);
            return;
        }
        let memory = known.facts.as_ref().and_then(|facts| facts.memory_max);
        let turn = known.dirty.end(Some((order.window, rate)), now, settings);
        let subject = known.subject();
        self.look
            .sweeps
            .extend(dirty::sweep(subject, (order, rate), ended, memory));
        if let Some(turn) = turn {
            let window = Window {
                end: ended,
                width_ms: 0,
            };
            self.look
                .sweeps
                .extend(dirty::fit(&turn).sweep(subject, window));
        }
    }
}

fn tell_failure(domain: &DomainRef, error: &CallError) {
    let text = crate::chain::chain(error);
    if error.is_denied() {
        tracing::warn!(%domain, error = text, "dirty rates cannot be measured; check `access` in [libvirt]");
    } else {
        tracing::debug!(%domain, error = text, "a dirty rate was not measured");
    }
}
