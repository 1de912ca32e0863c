//! Many agents that come back at once, and more load than there is memory for.
//!
//! `PLIMSOLL_AGENTS` says how many come back, `PLIMSOLL_OUTAGE_SECONDS` after how long.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use plimsoll_agent::body::Body;
use plimsoll_agent::sampler::Latest;
use plimsoll_agent::spool::Spool;
use plimsoll_agent::uplink::{Dial, Line, Network, SharedSpool, StreamError, Uplink};
use plimsoll_model::{
    Clock as _, DomainId, Metric, NodeId, SessionId, Subject, SystemClock, UnixMillis,
};
use plimsoll_proto::v1;
use plimsoll_store::{SeriesFilter, Store, StoreOptions};
use plimsoll_tests::stage::Deadline;
use plimsoll_tests::synthetic::{Identity, Stream};
use prost::Message as _;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::chaos::setting;
use super::{Way, free_address, memory_bytes};

const BACK_MAX: Duration = Duration::from_secs(35);
/// Of all connections that are tried in a tenth of a second.
const AT_ONCE_MAX: usize = 50;

/// The network, with a note of when it was dialled.
#[derive(Debug)]
struct Counted {
    network: Network,
    dials: Arc<Mutex<Vec<Duration>>>,
    clock: Deadline,
}

#[tonic::async_trait]
impl Dial for Counted {
    async fn dial(&self) -> Result<Line, StreamError> {
        self.dials.lock().unwrap().push(self.clock.elapsed());
        self.network.dial().await
    }

    fn url(&self) -> &str {
        self.network.url()
    }
}

/// An uplink of its own, with one batch to send.
struct One {
    spool: SharedSpool,
    added: watch::Sender<u64>,
    _dir: tempfile::TempDir,
}

impl One {
    fn push(&self) {
        let now_s = SystemClock::new().now().millis() / 1_000;
        let body = v1::BatchBody {
            made_time: Some(prost_types::Timestamp {
                seconds: now_s,
                nanos: 0,
            }),
            ..v1::BatchBody::default()
        };
        let body = Body {
            bytes: body.encode_to_vec(),
            numbers: Vec::new(),
            reading_count: 0,
            sweeps: Vec::new(),
        };
        self.spool.lock().push(&body).unwrap();
        self.added.send_modify(|count| *count += 1);
    }
}

fn all_are_sent(all: &[One]) -> bool {
    all.iter().all(|one| !one.spool.lock().has_unacknowledged())
}

async fn come_true(within: Duration, mut is_so: impl FnMut() -> bool) -> bool {
    let over = Deadline::after(within);
    let mut looks = tokio::time::interval(Duration::from_millis(20));
    while !is_so() && !over.is_over() {
        looks.tick().await;
    }
    is_so()
}

#[test]
fn a_crowd_comes_back_spread_over_time_and_loses_nothing() {
    let count = usize::try_from(setting("PLIMSOLL_AGENTS", 200)).unwrap();
    let outage = Duration::from_secs(setting("PLIMSOLL_OUTAGE_SECONDS", 6));
    let (dir, address) = (tempfile::tempdir().unwrap(), free_address());
    let start = || {
        Way::default()
            .aggregator(&address, &dir.path().join("data"), "")
            .0
    };
    let house = start();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let (dials, clock) = (Arc::default(), Deadline::after(Duration::MAX));
        let (mut all, mut running) = (Vec::new(), JoinSet::new());
        for _ in 0..count {
            let dir = tempfile::tempdir().unwrap();
            let now = SystemClock::new().now();
            let spool = SharedSpool::new(Spool::open(dir.path(), 1 << 20, now));
            let (added, on_added) = watch::channel(0);
            let uplink = Uplink {
                way: Arc::new(Counted {
                    network: Network {
                        url: format!("http://{address}"),
                        credentials: None,
                    },
                    dials: Arc::clone(&dials),
                    clock,
                }),
                node: NodeId::random(),
                spool: spool.clone(),
                clock: Arc::new(SystemClock::new()),
                added: on_added,
                latest: Latest::default(),
            };
            running.spawn(uplink.run());
            let one = One {
                spool,
                added,
                _dir: dir,
            };
            one.push();
            all.push(one);
        }
        assert!(come_true(BACK_MAX, || all_are_sent(&all)).await, "all have come");
        drop(house);
        all.iter().for_each(One::push);
        come_true(outage, || false).await;
        let begun = clock.elapsed();
        let _house = start();
        let back = Deadline::after(BACK_MAX);
        assert!(come_true(BACK_MAX, || all_are_sent(&all)).await, "all are back");
        let back = back.elapsed();
        let dials = dials.lock().unwrap();
        let tenths = dials.iter().filter(|at| **at >= begun).map(|at| at.as_millis() / 100);
        let tenths: Vec<u128> = tenths.collect();
        let of = |tenth: &u128| tenths.iter().filter(|other| *other == tenth).count();
        let most = tenths.iter().map(of).max().unwrap_or(0);
        println!("{count} agents back {back:?} after an outage of {outage:?}; at most {most} dials in 100 ms");
        assert!(most <= AT_ONCE_MAX, "{most}");
    });
}

#[test]
fn with_little_memory_load_is_refused_for_a_while_and_then_taken_and_nothing_acknowledged_is_lost()
{
    const CEILING: u64 = 40 << 20;
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let more = "memory_size_max = \"40MiB\"\n";
    let (house, address) = Way::default().aggregator("127.0.0.1:0", &data, more);
    let url = format!("http://{address}");
    let pid = house.program.0.id();
    let mut identity = Identity::new(800);
    let (mut at_ms, mut acknowledged, mut refused, mut most) = (0, 0, 0, 0);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let over = Deadline::after(Duration::from_secs(setting("PLIMSOLL_LOAD_SECONDS", 14)));
    let mut taken_again = false;
    runtime.block_on(async {
        while !over.is_over() {
            let opened = Stream::open(&url, &identity).await;
            let Ok(mut stream) = opened else { continue };
            assert!(
                stream.durable_sequence >= acknowledged,
                "what was acknowledged is there"
            );
            // A batch of which nobody knows is made anew under the same number.
            acknowledged = stream.durable_sequence;
            identity.next_sequence = acknowledged + 1;
            while !over.is_over() {
                at_ms = SystemClock::new().now().millis().max(at_ms + 1);
                let sent = stream.deliver(&mut identity, at_ms).await;
                most = memory_bytes(pid).max(most);
                if let Err(error) = sent {
                    assert!(format!("{error:#}").contains("memory"), "{error:#}");
                    refused += 1;
                    come_true(Duration::from_millis(200), || false).await;
                    break;
                }
                taken_again |= refused > 0;
                acknowledged = identity.next_sequence - 1;
            }
        }
    });
    drop(house);
    println!(
        "{acknowledged} batches of {} readings, {refused} refused; at most {} MiB of {}",
        identity.readings(),
        most >> 20,
        CEILING >> 20
    );
    is_kept(&data, &identity, acknowledged);
    assert!(refused > 0, "the load was too little");
    assert!(taken_again, "samples are taken again by itself");
    assert!(most < CEILING * 3 / 2, "{most}");
}

/// Asserts that a store has all batches of an agent that were acknowledged, once.
fn is_kept(data: &Path, identity: &Identity, acknowledged: i64) {
    let node = NodeId::from_bytes(*identity.node.as_bytes()).unwrap();
    let session = SessionId::from_bytes(*identity.session.as_bytes()).unwrap();
    let domain = DomainId::from_bytes(*identity.domain().unwrap().as_bytes()).unwrap();
    let (store, _) = Store::open(data, StoreOptions::default()).unwrap();
    let durable = store.durable_sequence(node, session).unwrap_or(0);
    let durable = i64::try_from(durable).unwrap();
    // Of the last one its agent may not have heard.
    assert!(
        (acknowledged..=acknowledged + 1).contains(&durable),
        "{durable}"
    );
    let filter = SeriesFilter {
        node: Some(node),
        domain: Some(domain),
        metric: Some(Metric::VmCpuTime),
        ..SeriesFilter::default()
    };
    let key = store.series(&filter).remove(0);
    assert!(matches!(key.subject, Subject::Domain { .. }), "{key:?}");
    let (begin, end) = (
        UnixMillis::from_millis(0),
        UnixMillis::from_millis(i64::MAX),
    );
    let readings = store.range(&key, begin, end);
    let ends: BTreeSet<_> = readings.iter().map(|(window, _)| window.end).collect();
    assert_eq!(ends.len(), readings.len(), "none is there twice");
    assert_eq!(i64::try_from(ends.len()).unwrap(), durable);
}
