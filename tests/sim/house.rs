//! The two programs without their sockets: the aggregator's store, writer and ingest, and the agent's spool
//! and uplink. Each can die at any await.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use plimsoll_agent::body::{self, Body};
use plimsoll_agent::look::Look;
use plimsoll_agent::sampler::Latest;
use plimsoll_agent::spool::{Bounds, Run, Spool};
use plimsoll_agent::uplink::{SharedSpool, Uplink};
use plimsoll_aggregator::guard::limits::Met;
use plimsoll_aggregator::guard::memory::Ceiling;
use plimsoll_aggregator::ingest::{Ingest, Nursery};
use plimsoll_aggregator::known::Known;
use plimsoll_aggregator::lessons::Learned;
use plimsoll_aggregator::roster::Roster;
use plimsoll_aggregator::witness::Witness;
use plimsoll_aggregator::writer::Writer;
use plimsoll_model::{
    Bandwidth, BootId, Clock, DomainId, DomainState, Event, EventKind, Metric, Monotonic, NodeId,
    Part, SessionId, Subject, Sweep, UnixMillis, Window,
};
use plimsoll_store::{Store, StoreOptions};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::ledger::{Ledger, Produced};
use crate::wire::Wire;

const BEGIN: UnixMillis = UnixMillis::from_millis(1_700_000_000_000);
const SYNC_EVERY: Duration = Duration::from_secs(1);

/// The runtime's own time, which stands still until all wait for it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Hands(pub(crate) tokio::time::Instant);

impl Clock for Hands {
    fn now(&self) -> UnixMillis {
        BEGIN.plus(self.0.elapsed())
    }

    fn monotonic(&self) -> Monotonic {
        Monotonic::from_duration(self.0.elapsed())
    }
}

/// An aggregator that runs.
pub(crate) struct Aggregator {
    pub(crate) store: Arc<Store>,
    writing: JoinHandle<()>,
}

/// No stream of a world becomes as old.
const OLDEST: Duration = Duration::from_secs(86_400 * 365);

impl Aggregator {
    pub(crate) fn start(dir: &Path, clock: Arc<dyn Clock>, wire: &Wire) -> Self {
        let (store, report) = Store::open(dir, StoreOptions::default()).unwrap();
        assert!(report.holes.is_empty(), "{report:?}");
        let store = Arc::new(store);
        let (writer, work) = Writer::at_once(Arc::clone(&store));
        let roster = Arc::new(Roster::default());
        let known = Known {
            store: Arc::clone(&store),
            roster: Arc::clone(&roster),
            clock: Arc::clone(&clock),
            interval: Duration::from_secs(1),
            learned: Learned::default(),
            ledger: Arc::default(),
            met: Arc::default(),
        };
        let assumed = Bandwidth::from_mbit_per_second(1_000);
        let met = Arc::<Met>::default();
        let nursery = Nursery::new(Arc::clone(&store), Arc::clone(&met), Arc::clone(&clock));
        wire.connect(Some(Ingest {
            store: Arc::clone(&store),
            writer,
            roster,
            witness: Arc::new(Witness::new(known, assumed)),
            clock,
            credits: plimsoll_aggregator::credit::Credits::default(),
            greetings: plimsoll_aggregator::ingest::Greetings::default(),
            met,
            nursery,
            ceiling: Arc::new(Ceiling::new(None)),
            age_max: OLDEST,
        }));
        Self {
            store,
            writing: tokio::spawn(work),
        }
    }

    /// Dies: nothing more is written, and what was on its way to anybody is gone.
    pub(crate) async fn die(self, wire: &Wire) {
        wire.connect(None);
        wire.cut_all();
        self.writing.abort();
        let gone = Arc::downgrade(&self.store);
        drop(self.store);
        drop(self.writing.await);
        let released = async {
            while gone.strong_count() > 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        let released = tokio::time::timeout(Duration::from_secs(60), released).await;
        released.expect("no stream outlives its aggregator");
    }
}

/// What an agent is told.
#[derive(Debug, Clone)]
pub(crate) struct Habits {
    pub(crate) interval: Duration,
    pub(crate) bounds: Bounds,
    /// Parts of a thousand of the batches that the aggregator will never take.
    pub(crate) poisoned: u32,
}

/// How far the files of a spool were safe when it was synced last, and the last number within.
#[derive(Debug, Clone, Default)]
struct Safe {
    lengths: BTreeMap<PathBuf, u64>,
    number: u32,
}

/// An agent that runs.
pub(crate) struct Agent {
    pub(crate) spool: SharedSpool,
    pub(crate) run: u32,
    making: JoinHandle<()>,
    sending: JoinHandle<()>,
    safe: Arc<Mutex<Safe>>,
}

/// Where and as whom an agent runs.
pub(crate) struct Seat<'a> {
    pub(crate) dir: &'a Path,
    pub(crate) node: NodeId,
    pub(crate) boot: BootId,
    pub(crate) session: SessionId,
    pub(crate) run: u32,
}

/// Makes batches.
struct Maker {
    node: NodeId,
    session: SessionId,
    run: u32,
    dir: PathBuf,
    habits: Habits,
    spool: SharedSpool,
    latest: Latest,
    added: watch::Sender<u64>,
    clock: Arc<dyn Clock>,
    ledger: Ledger,
    safe: Arc<Mutex<Safe>>,
    rng: fastrand::Rng,
}

impl Agent {
    pub(crate) fn start(
        seat: &Seat<'_>,
        habits: &Habits,
        (clock, wire, ledger): (Arc<dyn Clock>, &Wire, &Ledger),
        rng: fastrand::Rng,
    ) -> Self {
        let run = Run {
            session: seat.session,
            boot: Some(seat.boot),
            now: clock.now(),
        };
        let spool = SharedSpool::at_once(Spool::open_run(seat.dir, habits.bounds, run));
        let safe = Arc::new(Mutex::new(Safe {
            lengths: lengths(seat.dir),
            number: u32::MAX,
        }));
        let (added, on_added) = watch::channel(0);
        let latest = Latest::default();
        let uplink = Uplink {
            way: Arc::new(wire.clone()),
            node: seat.node,
            spool: spool.clone(),
            clock: Arc::clone(&clock),
            added: on_added,
            latest: latest.clone(),
        };
        safe.lock().unwrap().number = ledger.next() - 1;
        let maker = Maker {
            node: seat.node,
            session: seat.session,
            run: seat.run,
            dir: seat.dir.to_owned(),
            habits: habits.clone(),
            spool: spool.clone(),
            latest,
            added,
            clock,
            ledger: ledger.clone(),
            safe: Arc::clone(&safe),
            rng,
        };
        Self {
            spool,
            run: seat.run,
            making: tokio::spawn(maker.work()),
            sending: tokio::spawn(uplink.run()),
            safe,
        }
    }

    /// Makes no more.
    pub(crate) fn rest(&self) {
        self.making.abort();
    }

    pub(crate) fn is_drained(&self) -> bool {
        let spool = self.spool.lock();
        spool.sessions().len() == 1 && !spool.has_unacknowledged()
    }

    /// Is killed; its files are as it left them.
    pub(crate) async fn die(self) {
        self.making.abort();
        self.sending.abort();
        drop((self.making.await, self.sending.await));
    }

    /// Loses its power: of what was not synced, any part is left.
    pub(crate) async fn lose_power(self, dir: &Path, ledger: &Ledger, rng: &mut fastrand::Rng) {
        let (safe, run) = (self.safe.lock().unwrap().clone(), self.run);
        self.die().await;
        ledger.cut(run, safe.number);
        for (path, length) in lengths(dir) {
            let synced = safe.lengths.get(&path).copied().unwrap_or(0).min(length);
            let left = rng.u64(synced..=length);
            let file = std::fs::File::options().write(true).open(&path).unwrap();
            file.set_len(left).unwrap();
            if rng.bool() {
                // The file grew on the disk and its content did not come.
                file.set_len(rng.u64(left..=length)).unwrap();
            }
        }
    }
}

/// Lengths of the segments below a directory.
fn lengths(dir: &Path) -> BTreeMap<PathBuf, u64> {
    let mut found = BTreeMap::new();
    for session in std::fs::read_dir(dir).into_iter().flatten() {
        let path = session.unwrap().path();
        for file in std::fs::read_dir(&path).into_iter().flatten() {
            let path = file.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "seg") {
                found.insert(path.clone(), path.metadata().unwrap().len());
            }
        }
    }
    found
}

impl Maker {
    async fn work(mut self) {
        let mut sync = tokio::time::interval(SYNC_EVERY);
        let mut looks = tokio::time::interval(self.habits.interval);
        looks.tick().await;
        loop {
            tokio::select! {
                biased;
                _ = looks.tick() => self.make(),
                _ = sync.tick() => self.sync(),
            }
        }
    }

    fn sync(&self) {
        self.spool.lock().sync();
        *self.safe.lock().unwrap() = Safe {
            lengths: lengths(&self.dir),
            number: self.ledger.next() - 1,
        };
    }

    fn make(&mut self) {
        let number = self.ledger.next();
        let is_poisoned = self.rng.u32(0..1_000) < self.habits.poisoned;
        let body = match is_poisoned {
            true => Body {
                bytes: number
                    .to_le_bytes()
                    .repeat(3)
                    .into_iter()
                    .map(|b| b | 7)
                    .collect(),
                numbers: Vec::new(),
                reading_count: 1,
                sweeps: Vec::new(),
            },
            false => self.body(number),
        };
        self.latest.put(body.sweeps.clone());
        let sequence = self.spool.lock().push(&body);
        let produced = Produced {
            node: self.node,
            run: self.run,
            session: self.session,
            sequence: sequence.unwrap_or(0),
            is_poisoned,
            may_be_lost: false,
        };
        self.ledger.note(number, produced);
        self.added.send_modify(|count| *count += 1);
    }

    fn body(&self, number: u32) -> Body {
        let now = self.clock.now();
        let look = Look {
            sweeps: vec![Sweep {
                subject: Subject::Node(self.node),
                window: Window::between(now, now),
                values: vec![(
                    Metric::HostCpuTimeUser,
                    Part::index(self.run),
                    u64::from(number),
                )],
            }],
            events: vec![Event {
                node: self.node,
                seen: now,
                kind: EventKind::DomainState {
                    domain: DomainId::from_bytes([7; 16]).unwrap(),
                    incarnation: None,
                    state: DomainState::Started,
                    detail: number,
                },
            }],
            ..Look::default()
        };
        let made = body::bodies(look, now, self.spool.lock().book());
        made.into_iter().next().unwrap()
    }
}
