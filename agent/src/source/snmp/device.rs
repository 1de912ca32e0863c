//! One device: asked at its own pace, and given up for a while when it is silent.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use plimsoll_model::{
    Clock, DeviceId, Metric, Monotonic, NodeId, Part, PolledFacts, Subject, Sweep, UnixMillis,
    Window,
};
use plimsoll_proto::limits;
use tokio::sync::{Semaphore, mpsc};

use super::count::{Asked, Long, Run};
use super::oid::Oid;
use super::profile::{self, DESCRIPTION, NAME, Profile, UPTIME};
use super::reading::{self, Sheet};
use super::session::{AskError, Dial, Said, Session};
use super::walk::{Asker, Column};
use super::{Pace, Target};
use crate::limits::Met;
use crate::look::Look;

/// Time between two tellings of facts that have not changed.
const FACTS_EVERY: Duration = Duration::from_secs(3_600);
/// How many intervals a silent device is waited for at most.
const BACK_OFF_MAX: u32 = 3;

/// What all devices of a node share.
#[derive(Debug, Clone)]
pub struct Shared {
    /// The node that polls.
    pub node: NodeId,
    /// How often, and how long.
    pub pace: Pace,
    /// Who opens sessions.
    pub dial: Arc<dyn Dial>,
    /// Questions that are under way.
    pub slots: Arc<Semaphore>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Counts the limits that are met.
    pub met: Met,
}

/// A device and what is remembered of it.
#[derive(Debug)]
pub struct Device {
    target: Arc<Target>,
    shared: Shared,
    id: DeviceId,
    session: Option<Box<dyn Session>>,
    run: Option<Run>,
    long: Long,
    told: Option<(PolledFacts, Monotonic)>,
    failures: u32,
    error: Option<AskError>,
}

impl Device {
    /// Makes a device that was not asked yet.
    pub fn new(target: Arc<Target>, shared: Shared) -> Self {
        Self {
            id: DeviceId::named(&target.name),
            target,
            shared,
            session: None,
            run: None,
            long: Long::default(),
            told: None,
            failures: 0,
            error: None,
        }
    }

    /// Polls until nobody takes looks any more.
    pub async fn run(mut self, looks: mpsc::Sender<Look>) {
        let interval = self.shared.pace.interval;
        // Devices that are listed together must not be asked together.
        tokio::time::sleep(interval.mul_f64(fastrand::f64())).await;
        let mut ticks = tokio::time::interval(interval);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let look = self.look().await;
            if looks.send(look).await.is_err() {
                return;
            }
            if let Some(wait) = self.back_off() {
                ticks.reset_after(wait);
            }
        }
    }

    /// How long to leave a silent device alone: up to three intervals, each device another time.
    fn back_off(&self) -> Option<Duration> {
        let most = self.failures.min(BACK_OFF_MAX).saturating_sub(1);
        let more = f64::from(most) * fastrand::f64();
        (self.failures > 0).then(|| self.shared.pace.interval.mul_f64(1.0 + more))
    }

    /// Polls once. Of a device that does not answer it is told just that.
    pub async fn look(&mut self) -> Look {
        let begin = self.shared.clock.monotonic();
        let deadline = self.shared.pace.deadline;
        let polled = tokio::time::timeout(deadline, self.poll()).await;
        let mut look = Look::default();
        let part = Part::named(&self.target.name).unwrap_or_default();
        let at = self.shared.clock.now();
        let mut values = vec![(Metric::HostSnmpUp, part.clone(), 0)];
        match polled.unwrap_or(Err(AskError::Slow)) {
            Ok(seen) => {
                let took = self.shared.clock.monotonic().since(begin);
                let took = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
                values = vec![
                    (Metric::HostSnmpUp, part.clone(), 1),
                    (Metric::HostSnmpPollTime, part, took),
                ];
                look = seen;
                self.succeeded();
            }
            Err(error) => {
                let now = self.shared.clock.monotonic();
                look.device_facts = self.tell(self.facts(None, None), now);
                self.failed(error);
            }
        }
        look.sweeps.push(Sweep {
            subject: Subject::Node(self.shared.node),
            window: Window::between(at, at),
            values,
        });
        look
    }

    /// Why the device was not read when it was asked last; absent if it was.
    pub fn error(&self) -> Option<&AskError> {
        self.error.as_ref()
    }

    fn succeeded(&mut self) {
        if self.failures > 0 {
            tracing::info!(device = self.target.name, "the device answers again");
        }
        (self.failures, self.error) = (0, None);
    }

    fn failed(&mut self, error: AskError) {
        self.failures = self.failures.saturating_add(1);
        if self.error.as_ref() != Some(&error) {
            let (device, address) = (&self.target.name, &self.target.address);
            tracing::warn!(device, address, %error, "the device cannot be read");
        }
        self.error = Some(error);
        // A device may have become another: with a new engine id, or behind a new address.
        if self.failures.is_multiple_of(self.shared.pace.rebuild_after) {
            self.session = None;
        }
    }

    async fn poll(&mut self) -> Result<Look, AskError> {
        let session = match self.session.take() {
            Some(session) => session,
            None => self.shared.dial.dial(&self.target).await?,
        };
        let session = self.session.insert(session);
        let mut asker = Asker::new(session.as_ref(), &self.shared.slots, &self.shared.met);
        let told = Told::ask(&mut asker, &self.target.profile, &*self.shared.clock).await?;
        let run = Run::read(self.run, told.ticks, told.asked);
        if self.run.is_some_and(|before| before.since != run.since) {
            let device = &self.target.name;
            tracing::info!(device, "the device's SNMP agent was started anew");
            self.long.clear();
        }
        self.run = Some(run);
        let facts = self.facts(told.name.as_ref(), told.description.as_ref());
        let device_facts = self.tell(facts, told.asked.end);
        Ok(Look {
            sweeps: self.sweeps(run, &told),
            device_facts,
            ..Look::default()
        })
    }

    fn sweeps(&mut self, run: Run, told: &Told) -> Vec<Sweep> {
        let subject = self.subject(run.since);
        let scalars = &self.target.profile.scalars;
        let mut sheet = Sheet {
            run,
            long: &mut self.long,
            warm_up: self.shared.pace.warm_up,
        };
        let (values, window) = &told.scalars;
        let whole = sheet.scalars(subject, scalars, values);
        let mut sweeps: Vec<Sweep> = whole.sweep(subject, *window).into_iter().collect();
        let (columns, window) = &told.ports;
        sweeps.extend(sheet.ports(subject, columns, *window));
        let (columns, window) = &told.disks;
        sweeps.extend(sheet.disks(subject, columns).sweep(subject, *window));
        sweeps
    }

    fn subject(&self, counting_since: UnixMillis) -> Subject {
        Subject::Device {
            device: self.id,
            node: self.shared.node,
            counting_since,
        }
    }

    /// What is known of the device; what it does not say now it may have said before.
    fn facts(&self, name: Option<&Said>, description: Option<&Said>) -> PolledFacts {
        let before = self.told.as_ref().map(|(facts, _)| facts.clone());
        let (old_name, old_description) =
            before.map_or((None, None), |facts| (facts.system_name, facts.description));
        PolledFacts {
            device: self.id,
            node: self.shared.node,
            name: self.target.name.clone(),
            address: self.target.address.clone(),
            profile: self.target.profile.name.clone(),
            interval: self.shared.pace.interval,
            system_name: reading::text(name, limits::NAME_BYTES_MAX).or(old_name),
            description: reading::text(description, limits::DESCRIPTION_BYTES_MAX)
                .or(old_description),
        }
    }

    /// Returns facts that are new, or were told long ago.
    fn tell(&mut self, facts: PolledFacts, now: Monotonic) -> Vec<PolledFacts> {
        let known =
            |(old, at): &(PolledFacts, Monotonic)| *old == facts && now.since(*at) < FACTS_EVERY;
        if self.told.as_ref().is_some_and(known) {
            return Vec::new();
        }
        self.told = Some((facts.clone(), now));
        vec![facts]
    }
}

/// What a device said in one poll, each part with its window.
#[derive(Debug)]
struct Told {
    ticks: u32,
    asked: Asked,
    name: Option<Said>,
    description: Option<Said>,
    scalars: (BTreeMap<Oid, Said>, Window),
    ports: (Vec<Column>, Window),
    disks: (Vec<Column>, Window),
}

impl Told {
    async fn ask(
        asker: &mut Asker<'_>,
        profile: &Profile,
        clock: &dyn Clock,
    ) -> Result<Self, AskError> {
        let own = [UPTIME, NAME, DESCRIPTION].map(Oid::new);
        let begin = clock.monotonic();
        let mut first = asker.values(&own).await?;
        let asked = Asked {
            begin,
            end: clock.monotonic(),
            at: clock.now(),
        };
        let [uptime, name, description] = own;
        let Some(Said::Ticks(ticks)) = first.get(&uptime) else {
            let what = "no sysUpTime";
            return Err(AskError::Nonsense { what });
        };
        let names: Vec<Oid> = profile.scalars.iter().map(|one| one.oid.clone()).collect();
        let scalars_from = clock.now();
        let scalars = asker.values(&names).await?;
        let ports_from = clock.now();
        let mut columns = Vec::new();
        if profile.ports {
            columns = profile::port_columns();
        }
        let ports = asker.columns(&columns).await?;
        let disks_from = clock.now();
        let mut columns = Vec::new();
        if profile.disks {
            columns = profile::disk_columns();
        }
        let disks = asker.columns(&columns).await?;
        Ok(Self {
            ticks: *ticks,
            asked,
            name: first.remove(&name),
            description: first.remove(&description),
            scalars: (scalars, Window::between(scalars_from, ports_from)),
            ports: (ports, Window::between(ports_from, disks_from)),
            disks: (disks, Window::between(disks_from, clock.now())),
        })
    }
}
