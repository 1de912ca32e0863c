//! A small cloud for tests: a real store on disk, a clock whose hands a test turns, nodes and domains
//! that tell what the test says.

use std::collections::HashMap;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use plimsoll_model::{
    Accelerator, Bandwidth, Batch, BootId, ByteSize, Clock, DomainFacts, DomainId, Event,
    EventKind, Fact, HardwareFacts, Incarnation, InterfaceFacts, Metric, Monotonic, NodeFacts,
    NodeId, Part, SessionId, Subject, Sweep, UnixMillis, Window,
};
use plimsoll_store::{Record, Store, StoreOptions};

use crate::known::Known;
use crate::lessons::Learned;
use crate::roster::Roster;

/// When stories begin.
const BEGINNING_MS: i64 = 1_795_000_000_000;

/// A clock that a test turns.
#[derive(Debug)]
pub(crate) struct Hands(AtomicI64);

impl Clock for Hands {
    fn now(&self) -> UnixMillis {
        UnixMillis::from_millis(self.0.load(Ordering::SeqCst))
    }

    fn monotonic(&self) -> Monotonic {
        let since = self.0.load(Ordering::SeqCst) - BEGINNING_MS;
        Monotonic::from_duration(Duration::from_millis(u64::try_from(since).unwrap()))
    }
}

/// The cloud.
pub(crate) struct Scene {
    dir: tempfile::TempDir,
    pub(crate) hands: Arc<Hands>,
    pub(crate) known: Known,
    sessions: Mutex<HashMap<NodeId, (SessionId, u64)>>,
}

impl Scene {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (store, _) = Store::open(dir.path(), StoreOptions::default()).unwrap();
        let hands = Arc::new(Hands(AtomicI64::new(BEGINNING_MS)));
        let known = Known {
            store: Arc::new(store),
            roster: Arc::new(Roster::default()),
            clock: Arc::clone(&hands) as Arc<dyn Clock>,
            interval: Duration::from_secs(10),
            learned: Learned::default(),
            ledger: Arc::default(),
            met: Arc::default(),
        };
        Self {
            dir,
            hands,
            known,
            sessions: Mutex::default(),
        }
    }

    /// Ends the aggregator and starts it anew on the same store.
    pub(crate) fn restarted(self) -> Self {
        self.restarted_with(StoreOptions::default())
    }

    /// Ends the aggregator and starts it anew with a store that is kept otherwise.
    pub(crate) fn restarted_with(self, options: StoreOptions) -> Self {
        let Self {
            dir,
            hands,
            known,
            sessions,
        } = self;
        let Known {
            store,
            clock,
            interval,
            ..
        } = known;
        // Frees the lock of the directory.
        drop(store);
        let (store, _) = Store::open(dir.path(), options).unwrap();
        let known = Known {
            store: Arc::new(store),
            roster: Arc::new(Roster::default()),
            clock,
            interval,
            learned: Learned::default(),
            ledger: Arc::default(),
            met: Arc::default(),
        };
        Self {
            dir,
            hands,
            known,
            sessions,
        }
    }

    /// The directory of the store.
    pub(crate) fn path(&self) -> &std::path::Path {
        self.dir.path()
    }

    pub(crate) fn now(&self) -> UnixMillis {
        self.hands.now()
    }

    pub(crate) fn pass(&self, seconds: i64) {
        self.hands.0.fetch_add(seconds * 1_000, Ordering::SeqCst);
    }

    pub(crate) fn tell(
        &self,
        node: NodeId,
        sweeps: Vec<Sweep>,
        facts: Vec<Fact>,
        events: &[Event],
    ) {
        let mut sessions = self.sessions.lock().unwrap();
        let (session, sequence) = sessions.entry(node).or_insert((SessionId::random(), 0));
        *sequence += 1;
        let batch = Batch {
            node,
            session: *session,
            sequence: *sequence,
            made: self.now(),
            body_crc: 1,
            rows: sweeps.into_iter().collect(),
            facts,
            events: events.to_vec(),
        };
        self.known.store.append(&[Record::Batch(batch)]).unwrap();
    }

    /// Makes a node with 16 processors, 64 GiB and a card of 10 Gbit/s that tells what `change` leaves.
    pub(crate) fn node(&self, hostname: &str, change: impl FnOnce(&mut NodeFacts)) -> NodeId {
        let node = NodeId::random();
        let mut facts = NodeFacts {
            hostname: hostname.to_owned(),
            agent_version: "0".to_owned(),
            cpu_model: Some("Some Processor".to_owned()),
            cpu_flags: vec!["avx".to_owned(), "sse2".to_owned()],
            cpu_count: Some(16),
            memory: Some(ByteSize::from_mib(64 << 10)),
            hypervisor_type: Some("QEMU".to_owned()),
            libvirt_version: Some("11.3.0".to_owned()),
            qemu_version: Some("10.0.0".to_owned()),
            migration_interface: Some("eth1".to_owned()),
            migration_address: Some("10.0.0.5/24".to_owned()),
            migration_bandwidth: Some(Bandwidth::from_mbit_per_second(10_000)),
            interfaces: vec![InterfaceFacts {
                name: "eth1".to_owned(),
                speed: Some(Bandwidth::from_mbit_per_second(10_000)),
                mtu_bytes: Some(9_000),
                up: Some(true),
                ..InterfaceFacts::default()
            }],
            ..NodeFacts::default()
        };
        change(&mut facts);
        let seen = self.now();
        self.tell(node, Vec::new(), vec![Fact::Node { seen, facts }], &[]);
        node
    }

    /// Makes a running guest of 2 processors and 4 GiB.
    pub(crate) fn guest(&self, name: &str, node: NodeId) -> DomainFacts {
        let facts = DomainFacts {
            domain: DomainId::random(),
            node,
            incarnation: Incarnation {
                boot: BootId::random(),
                started_ms: 5_000,
            },
            name: name.to_owned(),
            accelerator: Some(Accelerator::Kvm),
            machine: Some("pc-i440fx-7.2".to_owned()),
            cpu_model: Some("host-model".to_owned()),
            vcpu_count: Some(2),
            memory_max: Some(ByteSize::from_mib(4 << 10)),
            huge_pages: Some(false),
            disks: Vec::new(),
            network_cards: Vec::new(),
            host_device_count: 0,
            hardware: HardwareFacts::default(),
            project: None,
        };
        self.sees(&facts, 1);
        facts
    }

    /// The node of the facts sees the guest in a state now.
    pub(crate) fn sees(&self, facts: &DomainFacts, state: u64) {
        let fact = Fact::Domain {
            seen: self.now(),
            facts: facts.clone(),
        };
        let subject = subject(facts);
        let sweep = self.sweep(subject, &[(Metric::VmState, state)]);
        self.tell(facts.node, vec![sweep], vec![fact], &[]);
    }

    /// The same guest as another node sees it, in a process of its own.
    pub(crate) fn arrives(&self, facts: &DomainFacts, node: NodeId, state: u64) -> DomainFacts {
        let facts = DomainFacts {
            node,
            incarnation: Incarnation {
                boot: BootId::random(),
                started_ms: 9_000,
            },
            ..facts.clone()
        };
        self.sees(&facts, state);
        facts
    }

    /// Values of a subject that were read just now.
    pub(crate) fn sweep(&self, subject: Subject, values: &[(Metric, u64)]) -> Sweep {
        Sweep {
            subject,
            window: Window {
                end: self.now(),
                width_ms: 1,
            },
            values: values
                .iter()
                .map(|(metric, value)| (*metric, Part::whole(), *value))
                .collect(),
        }
    }

    /// An event that a node sees now, stored as its batch would store it.
    pub(crate) fn event(&self, node: NodeId, kind: EventKind) -> Event {
        let event = Event {
            node,
            seen: self.now(),
            kind,
        };
        self.tell(node, Vec::new(), Vec::new(), std::slice::from_ref(&event));
        event
    }
}

/// The subject of a guest's series.
pub(crate) fn subject(facts: &DomainFacts) -> Subject {
    Subject::Domain {
        domain: facts.domain,
        node: facts.node,
        incarnation: facts.incarnation,
    }
}
