//! The steps: raise a stage with its guests; for each system a window of plain sampling, one with a guest
//! stopped, one with all stopped; then the agent before a recorded libvirt with ever more guests.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process};

use super::meter::Meter;
use super::proxy::Proxy;
use super::replay::{Reference, Replay, name};
use super::system::{Running, Site, System, Values};
use crate::guest::{Guest, Pattern};
use crate::stage::{Deadline, HUB_ADDRESS, Node, Stage, StageConfig, pause, wait_until};

/// How often the meters look.
const LOOK_PERIOD: Duration = Duration::from_millis(250);
const LIMIT: Duration = Duration::from_secs(60);
/// With a list that takes longer all is lost anyway.
const LIST_LIMIT: Duration = Duration::from_secs(35);
/// What Nova writes into a domain, without which Ceilometer does not see it.
const NOVA: &str = "<instance><name>x</name><creationTime>2026-01-01 00:00:00</creationTime>\
    <flavor name=\"tiny\"><memory>32</memory><disk>1</disk><swap>0</swap><ephemeral>0</ephemeral>\
    <vcpus>1</vcpus></flavor><owner><user uuid=\"u\">admin</user><project uuid=\"p\">admin</project>\
    </owner></instance>";

/// What is to be measured.
#[derive(Debug, Clone)]
pub struct Order {
    /// How many real guests there are.
    pub guests: u32,
    /// The pace of all.
    pub interval: Duration,
    /// How long each samples in peace.
    pub window: Duration,
    /// How long each samples with one guest stopped.
    pub stuck: Duration,
    /// What is measured; the agent comes first, for its answers are recorded.
    pub systems: Vec<System>,
    /// Before how many recorded guests the agent is put.
    pub recorded: Vec<u32>,
    /// Where the agent, the aggregator and the command are.
    pub programs: PathBuf,
    /// Under which stages are raised.
    pub base: PathBuf,
}

/// What was measured of one system.
#[derive(Debug, Clone, Default)]
pub struct Figures {
    /// Guests there were.
    pub guests: u32,
    /// Samples of a guest that were due in the window.
    pub samples: f64,
    /// Its own processor time in the window.
    pub cpu_ns: u64,
    /// libvirtd's in the same window.
    pub libvirtd_ns: u64,
    /// Calls to libvirt in the window.
    pub calls: u64,
    /// Resident memory at its end.
    pub resident_bytes: u64,
    /// Values of all guests.
    pub guest_values: u64,
    /// Values of the host.
    pub host_values: u64,
    /// The longest time for which nothing was told of one guest while another was stopped.
    pub silence: Duration,
    /// The longest `virsh list` with all guests stopped; absent if it was not answered in time.
    pub list: Option<Duration>,
}

/// What the agent costs before so many recorded guests.
#[derive(Debug, Clone, Copy)]
pub struct Recorded {
    /// How many there were.
    pub guests: u32,
    /// Samples of a guest in the window.
    pub samples: u64,
    /// Processor time of the agent in it.
    pub cpu_ns: u64,
    /// Resident memory at its end.
    pub resident_bytes: u64,
}

/// All of it.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Each system, with its figures or with what it lacks.
    pub systems: Vec<(System, Result<Figures, String>)>,
    /// The agent alone.
    pub recorded: Vec<Recorded>,
}

/// Measures.
///
/// # Errors
///
/// Says what of the stage or of the agent is missing or failed; a peer that is missing is no error.
pub fn run(order: &Order) -> anyhow::Result<Outcome> {
    for program in ["plimsoll-agent", "plimsoll-aggregator", "plimsoll"] {
        let path = order.programs.join(program);
        if !path.exists() {
            bail!("{} is not there; build it first", path.display());
        }
    }
    let stage = Stage::raise(&StageConfig {
        nodes: 1,
        base: order.base.clone(),
        ..StageConfig::default()
    })?;
    let guests = furnish(&stage, order.guests)?;
    start_aggregator(&stage, &order.programs)?;
    let mut scene = Scene {
        order,
        stage: &stage,
        guests: &guests,
        answers: std::collections::BTreeMap::new(),
    };
    let mut outcome = Outcome::default();
    for system in &order.systems {
        let figures = match system.missing() {
            Some(missing) => Err(missing),
            None => Ok(scene.measure(*system)?),
        };
        outcome.systems.push((*system, figures));
    }
    for count in &order.recorded {
        outcome.recorded.push(scene.measure_recorded(*count)?);
    }
    stage.fall()?;
    Ok(outcome)
}

/// Starts the guests and gives each a disk, a card, and what Nova writes.
fn furnish(stage: &Stage, count: u32) -> anyhow::Result<Vec<Guest>> {
    let node = stage.node(0)?;
    let mut guests = Vec::new();
    for number in 0..count {
        let mut guest = Guest::new(&name(number), 32, Pattern::Idle);
        guest.fill_bytes = 4 << 20;
        node.define_and_start(&guest)?;
        let file = |ending: &str| stage.directory().join(format!("{}.{ending}", guest.name));
        let (disk, card) = (file("disk"), file("card"));
        std::fs::write(&disk, vec![0; 1 << 20])?;
        std::fs::write(
            &card,
            format!(
                "<interface type='ethernet'><target dev='card{number}'/><model type='virtio'/>\
                 <driver name='qemu'/></interface>"
            ),
        )?;
        let (disk, card) = (disk.display().to_string(), card.display().to_string());
        let namespace = "http://openstack.org/xmlns/libvirt/nova/1.1";
        for words in [
            vec![
                "metadata",
                &guest.name,
                namespace,
                "--live",
                "--key",
                "nova",
                "--set",
                NOVA,
            ],
            vec![
                "attach-disk",
                &guest.name,
                &disk,
                "vda",
                "--targetbus",
                "virtio",
                "--live",
            ],
            vec!["attach-device", &guest.name, &card, "--live"],
        ] {
            node.virsh(&words)?;
        }
        guests.push(guest);
    }
    Ok(guests)
}

fn start_aggregator(stage: &Stage, programs: &Path) -> anyhow::Result<()> {
    let program = programs.join("plimsoll-aggregator");
    let data = stage.directory().join("aggregator-data");
    stage.spawn_in_hub("aggregator", program, |command| {
        command.args(["run", "--allow-plaintext-listen", "--interval", "2s"]);
        command.args(["--listen", &format!("{HUB_ADDRESS}:7077"), "--data-dir"]);
        command.arg(data);
    })?;
    Ok(())
}

struct Scene<'a> {
    order: &'a Order,
    stage: &'a Stage,
    guests: &'a [Guest],
    /// What libvirt answered the agent.
    answers: std::collections::BTreeMap<super::proxy::Question, super::proxy::Answer>,
}

impl Scene<'_> {
    fn node(&self) -> anyhow::Result<&Node> {
        Ok(self.stage.node(0)?)
    }

    fn site(&self, what: &str, socket: PathBuf) -> Site<'_> {
        Site {
            stage: self.stage,
            programs: &self.order.programs,
            directory: self.stage.directory().join(format!("cost-{what}")),
            socket,
            interval: self.order.interval,
        }
    }

    fn measure(&mut self, system: System) -> anyhow::Result<Figures> {
        let socket = self
            .stage
            .directory()
            .join(format!("{}.sock", system.name()));
        let upstream = self
            .node()?
            .place()
            .directory()
            .join("run/libvirt/libvirt-sock");
        let proxy = Proxy::open(&socket, &upstream)?;
        let mut figures = Figures {
            guests: self.order.guests,
            ..Figures::default()
        };
        let site = self.site(system.name(), socket);
        let mut running = Running::start(system, &site)?;
        // It may have begun, and all that is done once is done, when it has asked in two intervals.
        self.pass(
            2 * self.order.interval + Duration::from_secs(3),
            &running,
            || {},
        )?;
        if proxy.calls() == 0 {
            bail!("{} asks libvirt nothing", system.name());
        }
        self.sample(&running, &proxy, &mut figures)?;
        self.stop_guests(&running, &proxy, &mut figures)?;
        // Those that hung must have come back before they are asked what they have.
        self.pass(2 * self.order.interval, &running, || {})?;
        let Values { guests, host } = running.values()?;
        (figures.guest_values, figures.host_values) = (guests, host);
        running.stop()?;
        drop(running);
        if system == System::Plimsoll {
            self.answers = proxy.take_answers();
        }
        Ok(figures)
    }

    /// A window in peace.
    fn sample(
        &self,
        running: &Running<'_>,
        proxy: &Proxy,
        figures: &mut Figures,
    ) -> anyhow::Result<()> {
        let libvirtd = self.node()?.place().directory().join("run/libvirtd.pid");
        let mut own = Meter::of(&running.processes());
        let mut daemon = Meter::of(&[pid(&libvirtd)?]);
        let calls = proxy.calls();
        self.pass(self.order.window, running, || {
            own.look();
            daemon.look();
        })?;
        figures.cpu_ns = own.used_ns();
        figures.libvirtd_ns = daemon.used_ns();
        figures.calls = proxy.calls() - calls;
        figures.resident_bytes = own.resident_bytes()?;
        let rounds = self.order.window.as_secs_f64() / self.order.interval.as_secs_f64();
        figures.samples = rounds * f64::from(self.order.guests);
        Ok(())
    }

    /// A window with one guest stopped, then a list with all of them stopped.
    fn stop_guests(
        &self,
        running: &Running<'_>,
        proxy: &Proxy,
        figures: &mut Figures,
    ) -> anyhow::Result<()> {
        let (first, others) = self.guests.split_first().context("there are no guests")?;
        let one = Stopped::these(self.node()?, std::slice::from_ref(first))?;
        let others: Vec<[u8; 16]> = others.iter().map(|guest| *guest.uuid.as_bytes()).collect();
        proxy.watch(&others);
        self.pass(self.order.stuck, running, || {})?;
        figures.silence = proxy.longest_silence();
        drop(one);
        let all = Stopped::these(self.node()?, self.guests)?;
        let mut longest = Some(Duration::ZERO);
        self.pass(2 * self.order.interval, running, || {})?;
        for _ in 0..3 {
            let watch = Deadline::after(LIST_LIMIT);
            let list = self.node()?.virsh_within(&["list", "--name"], LIST_LIMIT);
            let took = list.is_ok().then(|| watch.elapsed());
            longest = longest.zip(took).map(|(longest, took)| longest.max(took));
        }
        figures.list = longest;
        drop(all);
        Ok(())
    }

    /// Lets time pass, scrapes what must be scraped at the pace, and looks now and then.
    fn pass(
        &self,
        length: Duration,
        running: &Running<'_>,
        mut look: impl FnMut(),
    ) -> anyhow::Result<()> {
        let deadline = Deadline::after(length);
        let mut next = Duration::ZERO;
        while !deadline.is_over() {
            if deadline.elapsed() >= next {
                running.scrape()?;
                next += self.order.interval;
            }
            look();
            pause(LOOK_PERIOD);
        }
        look();
        Ok(())
    }

    /// The agent before so many guests that are all like the first.
    fn measure_recorded(&self, count: u32) -> anyhow::Result<Recorded> {
        let first = self.guests.first().context("there are no guests")?;
        let number = self.node()?.virsh(&["domid", &first.name])?;
        let model = Reference {
            name: first.name.clone(),
            uuid: first.uuid,
            number: number.trim().parse().context("virsh tells no number")?,
        };
        let socket = self
            .stage
            .directory()
            .join(format!("recorded-{count}.sock"));
        let replay = Replay::open(&socket, self.answers.clone(), model, count)?;
        let pretended = Pretended::make(self.node()?, self.guests, count)?;
        let site = self.site(&format!("recorded-{count}"), socket);
        let mut running = Running::start(System::Plimsoll, &site)?;
        wait_until(
            "the agent to have asked for all guests twice",
            LIMIT,
            || Ok((replay.stats() >= 2 * u64::from(count)).then_some(())),
        )?;
        self.pass(self.order.interval, &running, || {})?;
        let (mut meter, before) = (Meter::of(&running.processes()), replay.stats());
        self.pass(self.order.window, &running, || meter.look())?;
        let recorded = Recorded {
            guests: count,
            samples: replay.stats() - before,
            cpu_ns: meter.used_ns(),
            resident_bytes: meter.resident_bytes()?,
        };
        running.stop()?;
        drop(pretended);
        Ok(recorded)
    }
}

fn pid(file: &Path) -> anyhow::Result<u32> {
    let text =
        std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    text.trim().parse().context("that is no process")
}

fn pid_file(node: &Node, guest: &str) -> PathBuf {
    let run = node.place().directory().join("run/libvirt/qemu");
    run.join(format!("{guest}.pid"))
}

/// Guests whose QEMU is stopped; it goes on when this is dropped.
#[derive(Debug)]
struct Stopped(Vec<Pid>);

impl Stopped {
    fn these(node: &Node, guests: &[Guest]) -> anyhow::Result<Self> {
        let mut stopped = Self(Vec::new());
        for guest in guests {
            let number = i32::try_from(pid(&pid_file(node, &guest.name))?)?;
            let pid = Pid::from_raw(number).context("that is no process")?;
            kill_process(pid, Signal::STOP)?;
            stopped.0.push(pid);
        }
        Ok(stopped)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        for pid in &self.0 {
            // One that is gone needs not go on.
            kill_process(*pid, Signal::CONT).ok();
        }
    }
}

/// Files that give recorded guests the processes of real ones, so that looking at /proc costs what it costs.
#[derive(Debug)]
struct Pretended(Vec<PathBuf>);

impl Pretended {
    fn make(node: &Node, guests: &[Guest], count: u32) -> anyhow::Result<Self> {
        let mut pretended = Self(Vec::new());
        let real = guests.iter().cycle();
        for (number, guest) in (0..count).zip(real) {
            let path = pid_file(node, &name(number));
            if !path.exists() {
                std::fs::copy(pid_file(node, &guest.name), &path)?;
                pretended.0.push(path);
            }
        }
        Ok(pretended)
    }
}

impl Drop for Pretended {
    fn drop(&mut self) {
        for path in &self.0 {
            std::fs::remove_file(path).ok();
        }
    }
}
