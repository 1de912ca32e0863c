//! Answers of libvirt, and what is due each second.

use std::sync::Arc;
use std::time::Duration;

use plimsoll_libvirt::{CallError, DomainRef, TypedParams, job::JobStats, state};
use plimsoll_model::{ByteSize, DomainFacts, DomainId, EventKind, Metric, MigrationRole, Window};

use super::{Done, Session};
use crate::look::Values;
use crate::measure::MeasureError;
use crate::source::libvirt::known::Seen;
use crate::source::libvirt::{dirty, migration, process, table, touched, xml};

/// A handful of files for each virtual processor.
const SURVEY_EVERY: Duration = Duration::from_secs(60);

impl Session<'_> {
    pub(super) fn act(&mut self, done: Done) {
        match done {
            Done::Listed(result) => {
                self.listing.is_under_way = false;
                self.list_ended(result);
                if std::mem::take(&mut self.listing.is_old) {
                    self.list();
                }
            }
            Done::Described(id, result) => self.described(id, result),
            Done::Counted(id, window, took, result) => self.counted(id, window, took, result),
            Done::Job(id, window, pass, result) => self.job(id, window, pass, result),
            Done::Limits(id, limits) => self.tell_start(id, MigrationRole::Source, limits),
            Done::Measured(id, order, outcome) => {
                self.measured(id, &order, outcome);
                self.begin_measurements();
            }
            Done::Processes(told) => {
                for (id, window, values) in told {
                    self.told_by_process(id, window, values);
                }
            }
            Done::LookedThrough(id, walked, resident) => self.looked_through(id, walked, resident),
            Done::Host(told, host) => {
                self.host = host;
                self.guests.hypervisor.send_modify(|known| {
                    known.kind = told.kind;
                    known.libvirt_version = told.libvirt_version;
                });
            }
            Done::Probed(told) => self.guests.hypervisor.send_modify(|known| {
                known.qemu_version = told.qemu_version;
                known.tsc_hz = told.tsc_hz;
                known.tsc_scaling = told.tsc_scaling;
            }),
        }
    }

    fn list_ended(&mut self, result: Result<Vec<DomainRef>, CallError>) {
        match result {
            Ok(domains) => {
                self.listing.was_given_up = false;
                self.listing.told = None;
                self.listed(&domains);
            }
            Err(error) => {
                self.listing.was_given_up = matches!(error, CallError::TimedOut { .. });
                let text = crate::chain::chain(&error);
                if self.listing.told.as_ref() != Some(&text) {
                    tracing::warn!(error = text, "guests cannot be listed");
                    self.listing.told = Some(text);
                }
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

    fn described(&mut self, id: DomainId, result: Result<Option<Box<xml::Described>>, CallError>) {
        let Some(known) = self.domains.get_mut(&id) else {
            return;
        };
        match result {
            // It may be that of a process that was followed by another meanwhile.
            Ok(Some(described)) if described.facts.incarnation != known.incarnation => {}
            Ok(Some(described)) => {
                known.macs = described.macs;
                known.throttles = described.throttles;
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
                if params.u64("block.count").is_some() {
                    known.local_disk_bytes = local_disks(&params, known.facts.as_ref());
                    for (disk, metric, limit) in &known.throttles {
                        values.named(*metric, disk, *limit);
                    }
                }
                if let Some(kib) = params.u64("balloon.rss") {
                    known.resident_bytes = Some(ByteSize::from_kib(kib).bytes());
                }
                if let Some(now) = params.i64("state.state") {
                    known.running = now == i64::from(state::RUNNING);
                }
                self.look
                    .sweeps
                    .extend(values.sweep(known.subject(), window));
                let is_looked_for = known.job_known;
                let reshaped = known.reshape(table::shape(&params));
                if reshaped || known.facts.is_none() {
                    let domain = known.domain.clone();
                    self.describe(id, domain);
                }
                if !is_looked_for {
                    self.look_for_job(id);
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
        // An error is an answer too: on the target of a migration the question is refused.
        let is_late = matches!(result, Err(CallError::TimedOut { .. }));
        known.job_known |= !is_late;
        if known.migration.is_none() {
            if is_late {
                known.quarantine(self.guests.clock.monotonic());
            }
            if let Some(elapsed) = result.as_ref().ok().and_then(migration::leaving_since) {
                self.found_leaving(id, elapsed);
            }
            return;
        }
        let (domain, incarnation, subject) = (id, known.incarnation, known.subject());
        let Some(migration) = known.migration.as_mut() else {
            return;
        };
        if let Some(number) = pass {
            let params = result.as_ref().ok().map(|stats| &stats.params);
            let iteration = migration::iteration(number, params);
            let mut values = Values::default();
            let dirtied = migration.pass(&iteration, params, &mut values);
            let end = window.end;
            self.look.sweeps.extend(values.sweep(subject, window));
            self.look
                .sweeps
                .extend(dirtied.and_then(|pass| pass.sweep(subject, end)));
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
        self.survey();
    }

    /// Tells how much of each guest's memory was ever touched, where that is due; reads it anew where its
    /// resident size says that it may have changed.
    fn look_through_memory(&mut self) {
        let now = self.guests.clock.monotonic();
        for (id, known) in &mut self.domains {
            let memory = known.facts.as_ref().and_then(|facts| facts.memory_max);
            let every = memory.and_then(|memory| Some((memory, touched::every(memory)?)));
            let Some((memory, every)) = every else {
                continue;
            };
            let is_due = known.touched_due.is_none_or(|due| due <= now);
            if known.migration.is_some() || known.walked || !is_due {
                continue;
            }
            known.touched_due = Some(now.plus(every.max(self.guests.config.interval)));
            if let Some(values) = known.still_seen(memory, now) {
                let at = self.guests.clock.now();
                let sweep = values.sweep(known.subject(), Window::between(at, at));
                self.look.sweeps.extend(sweep);
                continue;
            }
            let (id, domain, resident) = (*id, known.domain.clone(), known.resident_bytes);
            let (clock, root) = (Arc::clone(&self.guests.clock), self.guests.root.clone());
            let places = Arc::clone(&self.walks);
            known.walked = true;
            self.calls.spawn(async move {
                let place = places.acquire_owned().await;
                let walk = tokio::task::spawn_blocking(move || {
                    let begin = clock.now();
                    let mut values = Values::default();
                    touched::read(&root, &domain, memory, &mut values);
                    (Window::between(begin, clock.now()), values)
                });
                let walked = walk.await.ok();
                drop(place);
                Done::LookedThrough(id, walked, resident)
            });
        }
    }

    fn looked_through(
        &mut self,
        id: DomainId,
        walked: Option<(Window, Values)>,
        resident_bytes: Option<u64>,
    ) {
        let Some(known) = self.domains.get_mut(&id) else {
            return;
        };
        known.walked = false;
        let Some((window, values)) = walked else {
            return;
        };
        known.seen = Some(Seen {
            values: values.clone(),
            resident_bytes,
            at: self.guests.clock.monotonic(),
        });
        self.told_by_process(id, window, values);
    }

    /// Looks at the processes of the guests, where that is due.
    fn survey(&mut self) {
        let now = self.guests.clock.monotonic();
        let mut due = Vec::new();
        for (id, known) in &mut self.domains {
            if known.survey_due.is_none_or(|due| due <= now) {
                known.survey_due = Some(now.plus(SURVEY_EVERY));
                due.push((*id, known.domain.clone()));
            }
        }
        if due.is_empty() {
            return;
        }
        let (clock, root) = (Arc::clone(&self.guests.clock), self.guests.root.clone());
        self.calls.spawn_blocking(move || {
            let survey = |(id, domain): (DomainId, DomainRef)| {
                let begin = clock.now();
                let mut values = Values::default();
                process::survey(&root, &domain, &mut values);
                (id, Window::between(begin, clock.now()), values)
            };
            Done::Processes(due.into_iter().map(survey).collect())
        });
    }

    fn told_by_process(&mut self, id: DomainId, window: Window, values: Values) {
        let Some(known) = self.domains.get(&id) else {
            return;
        };
        self.look
            .sweeps
            .extend(values.sweep(known.subject(), window));
    }

    fn begin_measurements(&mut self) {
        let config = &self.guests.config.dirty;
        let Some(way) = dirty::way(&self.guests.libvirt, config) else {
            return;
        };
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
            let (deadline, way) = (self.guests.libvirt.call_deadline, way.clone());
            self.measuring += 1;
            self.calls.spawn(async move {
                let outcome = dirty::measure(&connection, &order, &way, deadline).await;
                Done::Measured(id, order, outcome.map(|measured| (measured, clock.now())))
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
        let (measured, ended) = match outcome {
            Ok(measured) => measured,
            Err(error) => {
                tell_failure(&known.domain, &error);
                known.dirty.end(None, now, settings);
                return;
            }
        };
        // A migration that began meanwhile slowed the guest or stopped it.
        if known.migration.is_some() || !known.running {
            known.dirty.end(None, now, settings);
            return;
        }
        let memory = known.facts.as_ref().and_then(|facts| facts.memory_max);
        let point = Some((order.window, measured.rate));
        let turn = known.dirty.end(point, now, settings);
        let subject = known.subject();
        self.look
            .sweeps
            .extend(dirty::sweep(subject, (order, &measured), ended, memory));
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

/// Adds up the disks that no other node reaches; those of which that is not known do not count.
fn local_disks(params: &TypedParams, facts: Option<&DomainFacts>) -> Option<u64> {
    let facts = facts?;
    let is_local = |name: &str| {
        let mut disks = facts.disks.iter();
        disks.any(|disk| disk.target == name && disk.shared == Some(false))
    };
    table::local_disks(params, is_local)
}

fn tell_failure(domain: &DomainRef, error: &MeasureError) {
    let text = crate::chain::chain(error);
    if error.is_denied() {
        tracing::warn!(%domain, error = text, "dirty rates cannot be measured; check `access` in [libvirt] and `helper` in [dirty]");
    } else {
        tracing::debug!(%domain, error = text, "a dirty rate was not measured");
    }
}
