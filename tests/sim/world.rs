//! One world: agents, an aggregator, a bad way between them, and what befalls them. First anything may
//! happen; then nothing does, and all that is left must arrive within a bound.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use plimsoll_agent::spool::Bounds;
use plimsoll_model::{BootId, Clock as _, NodeId, SessionId};

use crate::house::{Agent, Aggregator, Habits, Hands, Seat};
use crate::ledger::{Count, Ledger};
use crate::wire::{Badness, Wire};

/// How long anything may happen.
const BAD_TIMES: Duration = Duration::from_secs(90);
/// How long the rest may take to arrive; two agents of one node part each other's streams.
const GOOD_TIMES_MAX: Duration = Duration::from_secs(900);

/// What a world was drawn to be.
#[derive(Debug, Clone)]
pub(crate) struct Nature {
    badness: Badness,
    habits: Habits,
    agents: usize,
    /// Two agents of one node from the start, in one session.
    is_forked: bool,
    is_rolled_back: bool,
    is_copied: bool,
    has_power_cuts: bool,
}

impl Nature {
    pub(crate) fn draw(rng: &mut fastrand::Rng) -> Self {
        let is_forked = rng.u8(0..10) == 0;
        let is_small = !is_forked && rng.bool();
        let bounds = Bounds {
            bytes_max: if is_small {
                rng.u64(1_500..12_000)
            } else {
                64 << 20
            },
            segment_bytes_max: rng.u64(300..3_000),
        };
        Self {
            badness: Badness {
                refused: rng.u32(0..400),
                delay_max_ms: rng.u64(0..400),
                frames_max: rng.u32(2..60),
                stalled: rng.u32(0..30),
            },
            habits: Habits {
                interval: Duration::from_millis(rng.u64(200..2_000)),
                bounds,
                poisoned: if is_forked || rng.bool() {
                    0
                } else {
                    rng.u32(0..60)
                },
            },
            agents: rng.usize(1..=3),
            is_forked,
            is_rolled_back: !is_forked && rng.u8(0..3) == 0,
            is_copied: !is_forked && rng.u8(0..5) == 0,
            has_power_cuts: !is_forked && rng.bool(),
        }
    }
}

/// One agent's machine, with or without the agent on it.
struct Machine {
    dir: PathBuf,
    node: NodeId,
    boot: BootId,
    agent: Option<Agent>,
}

/// What came of a world.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) count: Count,
    /// When all had arrived.
    pub(crate) after: Duration,
    /// What befell it, in order.
    pub(crate) tale: Vec<String>,
}

struct World {
    rng: fastrand::Rng,
    hands: Hands,
    nature: Nature,
    wire: Wire,
    ledger: Ledger,
    root: PathBuf,
    aggregator: Option<Aggregator>,
    machines: Vec<Machine>,
    runs: u32,
    has_backup: bool,
    tale: Vec<String>,
}

/// Lets a world of a seed take its course.
pub(crate) fn run(seed: u64) -> Result<Outcome, String> {
    // Jitter of the uplinks.
    fastrand::seed(seed);
    let memory = Path::new("/dev/shm");
    let root = match memory.is_dir() {
        true => tempfile::tempdir_in(memory),
        false => tempfile::tempdir(),
    };
    let root = root.unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(async {
        let mut world = World::new(seed, root.path());
        world.begin();
        world.suffer().await;
        world.recover().await
    })
}

/// By then each agent has been greeted.
const ALL_BACK: Duration = Duration::from_secs(60);

impl World {
    #[expect(clippy::disallowed_methods, reason = "the time of a paused runtime")]
    fn new(seed: u64, root: &Path) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let nature = Nature::draw(&mut rng);
        Self {
            hands: Hands(tokio::time::Instant::now()),
            wire: Wire::new(nature.badness, rng.u64(..)),
            rng,
            tale: vec![format!("{nature:?}")],
            nature,
            ledger: Ledger::default(),
            root: root.to_owned(),
            aggregator: None,
            machines: Vec::new(),
            runs: 0,
            has_backup: false,
        }
    }

    fn say(&mut self, what: String) {
        let at = self.hands.0.elapsed().as_millis();
        self.tale.push(format!("{at} ms: {what}"));
    }

    fn id<T>(&mut self, make: impl Fn([u8; 16]) -> T) -> T {
        make(self.rng.u128(1..).to_le_bytes())
    }

    fn machine(&mut self, node: NodeId) {
        let boot = self.id(|bytes| BootId::from_bytes(bytes).unwrap());
        self.machines.push(Machine {
            dir: self.root.join(format!("agent-{}", self.machines.len())),
            node,
            boot,
            agent: None,
        });
    }

    fn begin(&mut self) {
        self.start_aggregator();
        for _ in 0..self.nature.agents {
            let node = self.id(|bytes| NodeId::from_bytes(bytes).unwrap());
            self.machine(node);
        }
        let session = self.id(|bytes| SessionId::from_bytes(bytes).unwrap());
        if self.nature.is_forked {
            self.machine(self.machines[0].node);
            self.start_agent(0, session);
            let twin = self.machines.len() - 1;
            self.start_agent(twin, session);
        }
        for at in 0..self.machines.len() {
            if self.machines[at].agent.is_none() {
                let session = self.id(|bytes| SessionId::from_bytes(bytes).unwrap());
                self.start_agent(at, session);
            }
        }
    }

    fn start_aggregator(&mut self) {
        let dir = self.root.join("store");
        self.aggregator = Some(Aggregator::start(&dir, Arc::new(self.hands), &self.wire));
    }

    fn start_agent(&mut self, at: usize, session: SessionId) {
        self.runs += 1;
        let rng = self.rng.fork();
        let machine = &mut self.machines[at];
        let seat = Seat {
            dir: &machine.dir,
            node: machine.node,
            boot: machine.boot,
            session,
            run: self.runs,
        };
        let house = (Arc::new(self.hands) as _, &self.wire, &self.ledger);
        machine.agent = Some(Agent::start(&seat, &self.nature.habits, house, rng));
    }

    /// Lets anything happen.
    async fn suffer(&mut self) {
        while self.hands.0.elapsed() < BAD_TIMES {
            let pause = self.rng.u64(100..8_000);
            tokio::time::sleep(Duration::from_millis(pause)).await;
            match self.rng.u8(0..12) {
                0 | 1 => self.crash_aggregator().await,
                2 => self.save_or_set_back().await,
                3..=5 => self.end_agent().await,
                6 | 7 => {
                    self.say("all lines break".to_owned());
                    self.wire.cut_all();
                }
                8 => self.keep_in_order(),
                9 => self.copy_agent().await,
                _ => {}
            }
            let (agent, aggregator) = (self.rng.usize(0..self.machines.len()), self.rng.bool());
            if aggregator && self.aggregator.is_none() {
                self.say("the aggregator starts".to_owned());
                self.start_aggregator();
            }
            self.start_if_down(agent);
        }
    }

    fn start_if_down(&mut self, at: usize) {
        if self.machines[at].agent.is_none() {
            self.say(format!("agent {at} starts"));
            let session = self.id(|bytes| SessionId::from_bytes(bytes).unwrap());
            self.start_agent(at, session);
        }
    }

    async fn crash_aggregator(&mut self) {
        if let Some(aggregator) = self.aggregator.take() {
            self.say("the aggregator dies".to_owned());
            aggregator.die(&self.wire).await;
        }
    }

    /// Ends the aggregator and copies its store, or puts the copy in its place.
    async fn save_or_set_back(&mut self) {
        if !self.nature.is_rolled_back {
            return;
        }
        self.crash_aggregator().await;
        let (store, backup) = (self.root.join("store"), self.root.join("backup"));
        if self.has_backup && self.rng.bool() {
            self.say("the store is set back".to_owned());
            std::fs::remove_dir_all(&store).unwrap();
            copy(&backup, &store);
        } else {
            self.say("the store is saved".to_owned());
            if self.has_backup {
                std::fs::remove_dir_all(&backup).unwrap();
            }
            copy(&store, &backup);
            self.has_backup = true;
        }
        self.start_aggregator();
    }

    async fn end_agent(&mut self) {
        let at = self.rng.usize(0..self.machines.len());
        // A copied run goes on: its session must not be drained by two as an earlier one.
        if self.nature.is_forked {
            return;
        }
        let Some(agent) = self.machines[at].agent.take() else {
            return;
        };
        if self.nature.has_power_cuts && self.rng.bool() {
            self.say(format!("agent {at} loses its power"));
            let boot = self.id(|bytes| BootId::from_bytes(bytes).unwrap());
            let machine = &mut self.machines[at];
            machine.boot = boot;
            agent
                .lose_power(&machine.dir, &self.ledger, &mut self.rng)
                .await;
        } else {
            self.say(format!("agent {at} is killed"));
            agent.die().await;
        }
    }

    fn keep_in_order(&mut self) {
        if let Some(aggregator) = &self.aggregator {
            aggregator.store.seal().unwrap();
            aggregator.store.maintain(self.hands.now()).unwrap();
            self.say("the store is sealed".to_owned());
        }
    }

    /// A machine is copied with the disk of its agent, which is dead at that time.
    async fn copy_agent(&mut self) {
        if !self.nature.is_copied || self.machines.len() > 4 {
            return;
        }
        let at = self.rng.usize(0..self.machines.len());
        if let Some(agent) = self.machines[at].agent.take() {
            agent.die().await;
        }
        self.say(format!("agent {at} is copied"));
        self.machine(self.machines[at].node);
        let boot = self.machines[at].boot;
        let twin = self.machines.last_mut().unwrap();
        let to = twin.dir.clone();
        twin.boot = boot;
        if self.machines[at].dir.exists() {
            copy(&self.machines[at].dir, &to);
        }
        self.start_if_down(self.machines.len() - 1);
    }

    /// Nothing happens any more: all must arrive.
    async fn recover(mut self) -> Result<Outcome, String> {
        self.wire.mend();
        self.say("all is well".to_owned());
        if self.aggregator.is_none() {
            self.start_aggregator();
        }
        for at in 0..self.machines.len() {
            self.start_if_down(at);
        }
        let agents = || {
            self.machines
                .iter()
                .filter_map(|machine| machine.agent.as_ref())
        };
        agents().for_each(Agent::rest);
        let begun = self.hands.0.elapsed();
        // Until then an agent may not know yet that the store was set back.
        tokio::time::sleep(ALL_BACK).await;
        while !agents().all(Agent::is_drained) {
            tokio::time::sleep(Duration::from_millis(100)).await;
            if self.hands.0.elapsed() - begun > GOOD_TIMES_MAX {
                let told = agents().map(|agent| format!("{:?}", agent.spool.lock().sessions()));
                let told: Vec<String> = told.collect();
                return Err(format!("it does not arrive: {told:?}\n{:#?}", self.tale));
            }
        }
        let after = self.hands.0.elapsed() - begun;
        for machine in &mut self.machines {
            machine.agent.take().unwrap().die().await;
        }
        // What is told must be told by what is on the disk.
        self.crash_aggregator().await;
        self.start_aggregator();
        let store = &self.aggregator.as_ref().unwrap().store;
        let settled = self.ledger.settle(store, self.nature.is_forked);
        let count = settled.map_err(|error| format!("{error}\n{:#?}", self.tale))?;
        self.crash_aggregator().await;
        Ok(Outcome {
            count,
            after,
            tale: self.tale,
        })
    }
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &target);
        } else {
            std::fs::copy(&path, &target).unwrap();
        }
    }
}
