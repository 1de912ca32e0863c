//! The life of one connection: ticks, answers and events, handled one at a time.

mod act;
mod hear;
mod lanes;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use plimsoll_libvirt::{
    CallError, Connection, DomainRef, EventId, Events, JobStatsFlags, ListFlags, StatsFlags,
    StatsGroups, TypedParams, XmlFlags, calls::NodeInfo, job::JobStats,
};
use plimsoll_model::{Bandwidth, BootId, ByteSize, DomainId, Incarnation, Metric, Window};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use self::lanes::{HUNG_MAX, Lanes};
use super::known::Known;
use super::{Guests, Hypervisor, dirty, process, storage, xml};
use crate::limits::Limit;
use crate::look::{Look, Values};
use crate::source::slow::SlowPaths;

/// Walks through the memory of processes at once: each holds a thread, and one that hangs may hold it long.
const WALKS_MAX: usize = 2;
const JOB_EVERY: Duration = Duration::from_secs(1);
const JOB_DEADLINE: Duration = Duration::from_secs(1);

/// What a call gave.
#[derive(Debug)]
pub(super) enum Done {
    Listed(Result<Vec<DomainRef>, CallError>),
    Described(DomainId, Result<Option<Box<xml::Described>>, CallError>),
    Counted(DomainId, Window, Duration, Result<TypedParams, CallError>),
    Job(DomainId, Window, Option<u32>, Result<JobStats, CallError>),
    Limits(DomainId, Limits),
    Measured(DomainId, dirty::Order, dirty::Outcome),
    /// What /proc tells of the processes of domains.
    Processes(Vec<(DomainId, Window, Values)>),
    /// What /proc tells of a domain's memory, and its resident size when that was asked.
    LookedThrough(DomainId, Option<(Window, Values)>, Option<u64>),
    Host(Box<Hypervisor>, Option<NodeInfo>),
    /// What libvirt started QEMU for.
    Probed(Box<Hypervisor>),
}

/// What libvirt holds a migration to; absent where it does not say.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Limits {
    downtime_ms: Option<u64>,
    bandwidth: Option<Bandwidth>,
}

/// The one list of domains that may be under way.
#[derive(Debug, Default)]
struct Listing {
    is_under_way: bool,
    /// Whether something happened meanwhile that the list may not show.
    is_old: bool,
    /// Whether the last one was given up; the daemon may still work on it.
    was_given_up: bool,
    /// Why it last failed, once that was told.
    told: Option<String>,
}

/// Bandwidth from which libvirt means that there is no cap.
const UNCAPPED_MIB: u64 = 1 << 40;

/// One connection and what is known through it.
pub(super) struct Session<'a> {
    guests: &'a Guests,
    connection: Connection,
    boot: BootId,
    domains: HashMap<DomainId, Known>,
    calls: JoinSet<Done>,
    listing: Listing,
    slow: SlowPaths,
    lanes: Lanes,
    walks: Arc<Semaphore>,
    measuring: usize,
    rounds: u32,
    timed_out: u64,
    slowest: Duration,
    look: Look,
    host: Option<NodeInfo>,
}

impl<'a> Session<'a> {
    pub(super) fn new(guests: &'a Guests, connection: Connection) -> Self {
        Self {
            guests,
            connection,
            boot: process::boot_id(&guests.root).unwrap_or_else(BootId::random),
            domains: HashMap::new(),
            calls: JoinSet::new(),
            listing: Listing::default(),
            slow: SlowPaths::default(),
            lanes: Lanes::new(),
            walks: Arc::new(Semaphore::new(WALKS_MAX)),
            measuring: 0,
            rounds: 0,
            timed_out: 0,
            slowest: Duration::ZERO,
            look: Look::default(),
            host: None,
        }
    }

    /// Works until the connection ends, and says why it did.
    pub(super) async fn run(mut self) -> String {
        let kinds = [
            EventId::Lifecycle,
            EventId::MigrationIteration,
            EventId::JobCompleted,
        ];
        let deadline = self.guests.libvirt.call_deadline;
        let mut events = match self.connection.subscribe(&kinds, deadline).await {
            Ok(events) => events,
            Err(error) => return crate::chain::chain(&error),
        };
        tracing::info!(socket = %super::socket(&self.guests.libvirt).display(), "connected to libvirt");
        self.ask_host();
        let mut ticks = self.guests.beat.ticks(self.guests.config.interval);
        let mut seconds = self.guests.beat.ticks(JOB_EVERY);
        let ended = self.connection.clone();
        loop {
            tokio::select! {
                reason = ended.wait_ended() => return reason.to_string(),
                _ = ticks.tick() => self.tick(),
                _ = seconds.tick() => self.second(),
                event = events.recv() => match event {
                    Some(event) => self.hear(&event),
                    None => return "its events have ended".to_owned(),
                },
                Some(done) = self.calls.join_next() => {
                    if let Ok(done) = done {
                        self.act(done);
                    }
                }
            }
            self.warn_of_lost_events(&events);
            if !self.look.is_empty()
                && self
                    .guests
                    .looks
                    .send(std::mem::take(&mut self.look))
                    .await
                    .is_err()
            {
                return "the sampler has ended".to_owned();
            }
        }
    }

    fn warn_of_lost_events(&self, events: &Events) {
        if events.dropped() > 0 {
            tracing::debug!(dropped = events.dropped(), "events of libvirt were lost");
        }
    }

    fn deadline(&self) -> Duration {
        self.guests.libvirt.call_deadline
    }

    /// Asks what libvirt says of itself and of the host. What it may have to start QEMU for is asked apart,
    /// for the rest is not to wait for it.
    fn ask_host(&mut self) {
        let (connection, deadline) = (self.connection.clone(), self.deadline());
        self.calls.spawn(async move {
            let kind = connection.hypervisor_type(deadline).await.ok();
            let libvirt = connection.lib_version(deadline).await.ok();
            let told = Hypervisor {
                kind,
                libvirt_version: libvirt.map(super::version),
                ..Hypervisor::default()
            };
            Done::Host(Box::new(told), connection.node_info(deadline).await.ok())
        });
        let connection = self.connection.clone();
        let deadline = super::probe_deadline(&self.guests.libvirt);
        self.calls.spawn(async move {
            let qemu = connection.hypervisor_version(deadline).await.ok();
            let capabilities = connection.capabilities_xml(deadline).await.ok();
            let counter = capabilities.and_then(|xml| xml::time_stamp_counter(&xml));
            Done::Probed(Box::new(Hypervisor {
                qemu_version: qemu.map(super::version),
                tsc_hz: counter.map(|(hz, _)| hz),
                tsc_scaling: counter.and_then(|(_, scaling)| scaling),
                ..Hypervisor::default()
            }))
        });
    }

    /// Lists the domains; never while a list is under way or hangs in the daemon.
    pub(super) fn list(&mut self) {
        if self.listing.is_under_way {
            self.listing.is_old = true;
            return;
        }
        if self.listing.was_given_up && self.connection.abandoned_calls() > 0 {
            return;
        }
        self.listing.is_under_way = true;
        let (connection, deadline) = (self.connection.clone(), self.deadline());
        self.calls.spawn(async move {
            Done::Listed(
                connection
                    .list_all_domains(ListFlags::ACTIVE, deadline)
                    .await,
            )
        });
    }

    fn tick(&mut self) {
        self.list();
        self.tell_health();
        let dear = self.rounds.is_multiple_of(self.guests.libvirt.dear_every);
        self.rounds = self.rounds.wrapping_add(1);
        let now = self.guests.clock.monotonic();
        let abandoned = self.connection.abandoned_calls();
        self.lanes.free(abandoned);
        let hung = abandoned >= HUNG_MAX || self.lanes.are_hung();
        let ids: Vec<DomainId> = self.domains.keys().copied().collect();
        for id in ids {
            let Some(known) = self.domains.get_mut(&id) else {
                continue;
            };
            if hung {
                // Not asked, or waiting for a place that is not to be had.
                self.guests.met.note(Limit::HungCalls);
                self.fall_back(id);
                continue;
            }
            if known.busy {
                continue;
            }
            if abandoned == 0 {
                known.give_second_chance();
            }
            if known.is_quarantined(now) {
                self.fall_back(id);
                continue;
            }
            known.busy = true;
            let domain = known.domain.clone();
            self.count(id, domain, dear);
        }
    }

    fn tell_health(&mut self) {
        let now = self.guests.clock.now();
        let mut values = Values::default();
        values.whole(Metric::HostLibvirtUp, 1);
        values.whole(Metric::HostLibvirtCallsTimedOut, self.timed_out);
        let slowest = std::mem::take(&mut self.slowest);
        if !slowest.is_zero() {
            values.whole(
                Metric::HostLibvirtCallLatency,
                u64::try_from(slowest.as_nanos()).unwrap_or(u64::MAX),
            );
        }
        self.tell_promises(&mut values);
        let subject = plimsoll_model::Subject::Node(self.guests.node);
        self.look
            .sweeps
            .extend(values.sweep(subject, Window::between(now, now)));
    }

    /// Tells what the guests were promised, and what may be promised.
    fn tell_promises(&self, values: &mut Values) {
        let sum = |of: &dyn Fn(&Known) -> Option<u64>| -> Option<u64> {
            let mut promised = self.domains.values().map(of);
            promised.try_fold(0_u64, |sum, one| sum.checked_add(one?))
        };
        // A sum over guests that are not all described yet would be too small.
        if self.rounds > 0 && self.domains.values().all(|known| known.facts.is_some()) {
            let vcpus =
                sum(&|known| Some(u64::from(known.facts.as_ref()?.vcpu_count.unwrap_or(0))));
            let memory = sum(&|known| {
                let size = known.facts.as_ref()?.memory_max;
                Some(size.map_or(0, |size| size.bytes()))
            });
            let bound = sum(&|known| Some(known.bound_vcpus()));
            for (metric, value) in [
                (Metric::HostAllocVcpuUsed, vcpus),
                (Metric::HostAllocMemUsed, memory),
                (Metric::HostAllocPcpuUsed, bound),
                (
                    Metric::HostAllocDiskUsed,
                    sum(&|known| known.local_disk_bytes),
                ),
            ] {
                if let Some(value) = value {
                    values.whole(metric, value);
                }
            }
        }
        if let Some(host) = &self.host {
            values.whole(Metric::HostAllocVcpuTotal, u64::from(host.cpus));
            values.whole(
                Metric::HostAllocMemTotal,
                ByteSize::from_kib(host.memory_kib).bytes(),
            );
        }
        if let Some(told) = self.guests.config.overcommit {
            values.whole(
                Metric::HostAllocVcpuReserved,
                u64::from(told.reserved_cpu_count),
            );
            values.whole(Metric::HostAllocVcpuRatio, told.cpu_ratio.millionths());
            values.whole(Metric::HostAllocMemReserved, told.reserved_memory.bytes());
            values.whole(Metric::HostAllocMemRatio, told.memory_ratio.millionths());
        }
        let promises = &self.guests.config.promises;
        let told = [
            (
                Metric::HostAllocPcpuTotal,
                promises.dedicated_cpu_count.map(u64::from),
            ),
            (
                Metric::HostAllocDiskRatio,
                promises.disk_ratio.map(|ratio| ratio.millionths()),
            ),
            (
                Metric::HostAllocDiskReserved,
                promises.reserved_disk.map(|size| size.bytes()),
            ),
        ];
        for (metric, value) in told {
            if let Some(value) = value {
                values.whole(metric, value);
            }
        }
    }

    fn fall_back(&mut self, id: DomainId) {
        let Some(known) = self.domains.get(&id) else {
            return;
        };
        let begin = self.guests.clock.now();
        let mut values = Values::default();
        process::fallback(&self.guests.root, &known.domain, &mut values);
        let window = Window::between(begin, self.guests.clock.now());
        self.look
            .sweeps
            .extend(values.sweep(known.subject(), window));
    }

    fn count(&mut self, id: DomainId, domain: DomainRef, dear: bool) {
        let mut groups = StatsGroups::STATE | StatsGroups::BALLOON | StatsGroups::INTERFACE;
        if dear {
            groups = groups | StatsGroups::CPU_TOTAL | StatsGroups::VCPU | StatsGroups::BLOCK;
            groups = groups | StatsGroups::PERF;
        }
        let (connection, deadline) = (self.connection.clone(), self.deadline());
        let (clock, lanes) = (Arc::clone(&self.guests.clock), self.lanes.clone());
        self.calls.spawn(async move {
            // The deadline is the call's, not that of the queue before it.
            let place = lanes.take().await;
            let (begin, start) = (clock.now(), clock.monotonic());
            let result = connection
                .domain_stats(&domain, groups, StatsFlags::NOWAIT, deadline)
                .await;
            lanes.leave(place, &result);
            let window = Window::between(begin, clock.now());
            Done::Counted(id, window, clock.monotonic().since(start), result)
        });
    }

    fn describe(&mut self, id: DomainId, domain: DomainRef) {
        let Some(known) = self.domains.get(&id) else {
            return;
        };
        let about = xml::About {
            domain: id,
            node: known.node,
            incarnation: known.incarnation,
        };
        let (connection, deadline) = (self.connection.clone(), self.deadline());
        let (lanes, slow) = (self.lanes.clone(), self.slow.clone());
        let root = self.guests.root.clone();
        self.calls.spawn(async move {
            let place = lanes.take().await;
            let result = connection
                .domain_xml(&domain, XmlFlags::NONE, deadline)
                .await;
            lanes.leave(place, &result);
            let mut result = result.map(|text| xml::domain(&text, about).map(Box::new));
            if let Ok(Some(described)) = &mut result {
                let xml::Described { files, facts, .. } = &mut **described;
                storage::tell(&root, files, &mut facts.disks, &slow).await;
            }
            Done::Described(id, result)
        });
    }

    /// Looks whether a domain that was just met has a job already, in the queue of the statistics. Asked
    /// of those only that answer: one that hangs may not hold two calls.
    pub(super) fn look_for_job(&mut self, id: DomainId) {
        let Some(known) = self.domains.get_mut(&id).filter(|known| !known.job_busy) else {
            return;
        };
        known.job_busy = true;
        let (connection, domain) = (self.connection.clone(), known.domain.clone());
        let (clock, lanes) = (Arc::clone(&self.guests.clock), self.lanes.clone());
        self.calls.spawn(async move {
            let place = lanes.take().await;
            let begin = clock.now();
            let result = connection
                .job_stats(&domain, JobStatsFlags::NONE, JOB_DEADLINE)
                .await;
            lanes.leave(place, &result);
            Done::Job(id, Window::between(begin, clock.now()), None, result)
        });
    }

    /// Looks at the job of a domain; with the number of a pass if one just began.
    pub(super) fn look_at_job(&mut self, id: DomainId, pass: Option<u32>) {
        let Some(known) = self.domains.get_mut(&id) else {
            return;
        };
        if known.job_busy && pass.is_none() {
            return;
        }
        known.job_busy = true;
        let (connection, domain) = (self.connection.clone(), known.domain.clone());
        let clock = Arc::clone(&self.guests.clock);
        self.calls.spawn(async move {
            let begin = clock.now();
            let result = connection
                .job_stats(&domain, JobStatsFlags::NONE, JOB_DEADLINE)
                .await;
            Done::Job(id, Window::between(begin, clock.now()), pass, result)
        });
    }

    pub(super) fn ask_limits(&mut self, id: DomainId) {
        let Some(known) = self.domains.get(&id) else {
            return;
        };
        let (connection, domain) = (self.connection.clone(), known.domain.clone());
        self.calls.spawn(async move {
            let (downtime, bandwidth) = tokio::join!(
                connection.migrate_max_downtime_ms(&domain, JOB_DEADLINE),
                connection.migrate_max_speed_mib_per_second(&domain, JOB_DEADLINE),
            );
            let capped = |mib: &u64| (1..UNCAPPED_MIB).contains(mib);
            let limits = Limits {
                downtime_ms: downtime.ok(),
                bandwidth: bandwidth
                    .ok()
                    .filter(capped)
                    .map(|mib| Bandwidth::from_bytes_per_second(mib << 20)),
            };
            Done::Limits(id, limits)
        });
    }

    /// Returns what is known of a domain; gets to know it at first sight.
    pub(super) fn meet(&mut self, domain: &DomainRef) -> Option<DomainId> {
        let id = DomainId::from_bytes(domain.uuid).ok()?;
        let met = self.domains.get_mut(&id);
        if met.is_some_and(|known| known.is_surely(domain)) {
            return Some(id);
        }
        let seen = process::incarnation(&self.guests.root, self.boot, domain);
        let same = self.domains.get_mut(&id).is_some_and(|known| {
            known.trusted = 0;
            // A process that cannot be seen is told apart by libvirt's number, within this connection; a
            // domain that just stopped has none, and is still the one whose migration is under way.
            let numbered = domain.id.is_none() || known.domain.id == domain.id;
            seen.map_or(numbered, |seen| known.incarnation == seen)
        });
        if same {
            return Some(id);
        }
        let incarnation = seen.unwrap_or_else(|| Incarnation {
            boot: self.boot,
            // Where the process cannot be seen, the instant of first sight stands for its start.
            started_ms: u64::try_from(self.guests.clock.now().millis()).unwrap_or(0),
        });
        let mut known = Known::new(domain.clone(), id, self.guests.node, incarnation);
        known.is_seen = seen.is_some();
        self.domains.insert(id, known);
        self.describe(id, domain.clone());
        Some(id)
    }
}

#[cfg(test)]
mod tests;
