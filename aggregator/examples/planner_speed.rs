//! Prints how long planners wait: RankTargets over all nodes and GetHeadroom of all nodes.
//!
//! `cargo run --release -p plimsoll-aggregator --example planner_speed -- [NODES] [DOMAINS_PER_NODE] [ROUNDS]`
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a program for developers that ends where something is wrong"
)]

use std::sync::Arc;
use std::time::Duration;

use plimsoll_aggregator::advise::Advise;
use plimsoll_aggregator::config::Config;
use plimsoll_aggregator::known::Known;
use plimsoll_aggregator::lessons::Learned;
use plimsoll_aggregator::room;
use plimsoll_aggregator::roster::Roster;
use plimsoll_aggregator::witness::Witness;
use plimsoll_model::{
    Accelerator, Bandwidth, Batch, BootId, ByteSize, Clock, DomainFacts, DomainId, Fact,
    HardwareFacts, Incarnation, Metric, NodeFacts, NodeId, Part, SessionId, Subject, Sweep,
    SystemClock, Window,
};
use plimsoll_proto::v1;
use plimsoll_proto::v1::planner_service_server::PlannerService as _;
use plimsoll_store::{Record, Store, StoreOptions};

fn main() {
    let mut args = std::env::args()
        .skip(1)
        .map(|arg| arg.parse::<usize>().unwrap());
    let nodes = args.next().unwrap_or(1_000);
    let guests = args.next().unwrap_or(50);
    let rounds = args.next().unwrap_or(10);
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = Store::open(dir.path(), StoreOptions::default()).unwrap();
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let mut first = None;
    for number in 0..nodes {
        let batch = batch(number, guests, clock.as_ref());
        let domain = batch.facts.iter().find_map(|fact| match fact {
            Fact::Domain { facts, .. } => Some(facts.domain),
            Fact::Node { .. } | Fact::Device { .. } => None,
        });
        first = first.or(domain);
        store.append(&[Record::Batch(batch)]).unwrap();
    }
    let known = Known {
        store: Arc::new(store),
        roster: Arc::new(Roster::default()),
        clock: Arc::clone(&clock),
        // Nothing grows stale while the program runs.
        interval: Duration::from_secs(3_600),
        learned: Learned::default(),
        ledger: Arc::default(),
        met: Arc::default(),
    };
    let assumed = Bandwidth::from_mbit_per_second(1_000);
    let witness = Arc::new(Witness::new(known.clone(), assumed));
    let advise = Advise::new(&Config::default(), &known, &witness, assumed);
    println!("{nodes} nodes, {} domains, {rounds} rounds", nodes * guests);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let rank = v1::RankTargetsRequest {
        domain_id: first.unwrap().as_bytes().to_vec(),
        ..Default::default()
    };
    measure("RankTargets", rounds, clock.as_ref(), || {
        let request = tonic::Request::new(rank.clone());
        let answer = runtime.block_on(advise.rank_targets(request)).unwrap();
        assert!(!answer.into_inner().targets.is_empty());
    });
    measure("GetHeadroom", rounds, clock.as_ref(), || {
        let answer = room::answer(&known, &v1::GetHeadroomRequest::default()).unwrap();
        assert_eq!(answer.nodes.len(), nodes);
    });
}

fn measure(name: &str, rounds: usize, clock: &dyn Clock, mut call: impl FnMut()) {
    let mut spans: Vec<Duration> = (0..rounds)
        .map(|_| {
            let begun = clock.monotonic();
            call();
            clock.monotonic().since(begun)
        })
        .collect();
    spans.sort();
    let at = |percent: usize| spans.get((spans.len() - 1) * percent / 100).copied();
    println!(
        "{name}: p50 {:?}, p99 {:?}",
        at(50).unwrap(),
        at(99).unwrap()
    );
}

#[expect(clippy::too_many_lines, reason = "it is a list of facts")]
fn batch(number: usize, guests: usize, clock: &dyn Clock) -> Batch {
    let (node, now) = (NodeId::random(), clock.now());
    let window = Window {
        end: now,
        width_ms: 1,
    };
    let sweep = |subject, values: &[(Metric, u64)]| Sweep {
        subject,
        window,
        values: values
            .iter()
            .map(|(metric, value)| (*metric, Part::whole(), *value))
            .collect(),
    };
    let memory = [
        (Metric::HostMemTotal, 1 << 40),
        (Metric::HostMemAvailable, 1 << 39),
    ];
    let mut sweeps = vec![sweep(Subject::Node(node), &memory)];
    let mut facts = vec![Fact::Node {
        seen: now,
        facts: NodeFacts {
            hostname: format!("node{number}"),
            cpu_flags: vec!["avx".to_owned(), "sse2".to_owned()],
            cpu_count: Some(256),
            memory: Some(ByteSize::from_mib(1 << 20)),
            hypervisor_type: Some("QEMU".to_owned()),
            qemu_version: Some("10.0.0".to_owned()),
            migration_bandwidth: Some(Bandwidth::from_mbit_per_second(10_000)),
            ..NodeFacts::default()
        },
    }];
    for guest in 0..guests {
        let domain = DomainId::random();
        let incarnation = Incarnation {
            boot: BootId::random(),
            started_ms: 5_000,
        };
        let subject = Subject::Domain {
            domain,
            node,
            incarnation,
        };
        let values = [
            (Metric::VmState, 1),
            (Metric::VmMemMax, 4 << 30),
            (Metric::VmMemRss, 1 << 30),
        ];
        sweeps.push(sweep(subject, &values));
        let mut dirty = sweep(subject, &[]);
        dirty.window.width_ms = 1_000;
        let part = Part::named("1000").unwrap();
        dirty.values.push((Metric::VmDirtyRate, part, 10 << 20));
        sweeps.push(dirty);
        facts.push(Fact::Domain {
            seen: now,
            facts: DomainFacts {
                domain,
                node,
                incarnation,
                name: format!("guest{number}-{guest}"),
                accelerator: Some(Accelerator::Kvm),
                machine: Some("pc-q35-10.0".to_owned()),
                cpu_model: Some("host-model".to_owned()),
                vcpu_count: Some(2),
                memory_max: Some(ByteSize::from_mib(4 << 10)),
                huge_pages: Some(false),
                disks: Vec::new(),
                network_cards: Vec::new(),
                host_device_count: 0,
                hardware: HardwareFacts::default(),
                project: None,
            },
        });
    }
    Batch {
        node,
        session: SessionId::random(),
        sequence: 1,
        made: now,
        body_crc: 1,
        rows: sweeps.into_iter().collect(),
        facts,
        events: Vec::new(),
    }
}
