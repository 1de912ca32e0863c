//! The books: what agents produced, held against what the store has and what is still in their spools.
//!
//! Both are opened once the programs have ended; the spool as a copy, for opening it begins a run.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use plimsoll_agent::spool::Spool;
use plimsoll_model::{
    Clock as _, Metric, NodeId, Part, SeriesKey, SessionId, Subject, SystemClock, UnixMillis,
    Window,
};
use plimsoll_proto::v1;
use plimsoll_proto::v1::query_service_client::QueryServiceClient;
use plimsoll_store::{Rate, Store, StoreOptions};

const BEGIN: UnixMillis = UnixMillis::from_millis(0);
const END: UnixMillis = UnixMillis::from_millis(i64::MAX);

/// What became of all batches.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Count {
    pub(super) produced: u64,
    pub(super) stored: u64,
    pub(super) gap: u64,
    /// In the spool, and not in the store.
    pub(super) in_flight: u64,
    /// Distinct readings of the memory that is left.
    pub(super) readings: u64,
    /// The longest time between two of them that follow each other.
    pub(super) silence_ms: i64,
}

/// Holds the store against the spools of agents, one directory each.
pub(super) fn settle(data: &Path, agents: &[&Path]) -> Count {
    settle_with(data, agents, "")
}

/// The same, where sessions may have left nothing on a disk of their own; the log of the aggregator names them.
pub(super) fn settle_with(data: &Path, agents: &[&Path], log: &str) -> Count {
    let (store, report) = Store::open(data, StoreOptions::default()).unwrap();
    assert!(report.holes.is_empty(), "{report:?}");
    let mut count = Count::default();
    let nodes: Vec<NodeId> = store.nodes().iter().map(|seen| seen.node).collect();
    assert!(nodes.len() <= agents.len(), "{nodes:?}");
    for node in &nodes {
        count.stored += store.batch_count(*node);
        let gaps = store.gaps(*node);
        let within = |gap: &plimsoll_model::SampleGap| gap.last_sequence + 1 - gap.first_sequence;
        count.gap += gaps.iter().map(within).sum::<u64>();
        let key = SeriesKey {
            subject: Subject::Node(*node),
            metric: Metric::HostMemAvailable,
            part: Part::whole(),
        };
        let readings = store.range(&key, BEGIN, END);
        let windows = readings.iter();
        let ends: Vec<i64> = windows.map(|(window, _)| window.end.millis()).collect();
        let distinct: BTreeSet<i64> = ends.iter().copied().collect();
        assert_eq!(
            distinct.len(),
            ends.len(),
            "a reading of {node} is there twice"
        );
        count.readings += u64::try_from(distinct.len()).unwrap();
        let steps = ends.windows(2).map(|pair| pair[1] - pair[0]);
        count.silence_ms = steps.fold(count.silence_ms, i64::max);
    }
    let mut durable_of_all = 0;
    let spools = agents.iter().map(|agent| agent.join("state/spool"));
    let mut found: BTreeMap<SessionId, (u64, u64)> = named(log);
    found.extend(spools.flat_map(|spool| sessions(&spool)));
    for (session, (first, next)) in found {
        let durables = nodes
            .iter()
            .map(|node| store.durable_sequence(*node, session));
        let durable = durables.flatten().max().unwrap_or(0);
        durable_of_all += durable;
        // What was trimmed was acknowledged, and what was acknowledged is there.
        assert!(
            first <= durable + 1,
            "{session} lacks {}..{first} of {next}",
            durable + 1
        );
        let pending = next.saturating_sub(durable + 1);
        count.in_flight += pending;
        count.produced += durable + pending;
    }
    assert_eq!(
        count.stored + count.gap,
        durable_of_all,
        "each number up to the durable one is stored once or in one gap: {count:?}"
    );
    assert_eq!(count.produced, count.stored + count.gap + count.in_flight);
    count
}

/// The sessions that were opened; nothing is known of their spools.
fn named(log: &str) -> BTreeMap<SessionId, (u64, u64)> {
    let opened = log.lines().filter(|line| line.contains("stream opened"));
    let ids = opened.filter_map(|line| line.split_once("session=")?.1.split_whitespace().next());
    ids.map(|id| (id.parse().unwrap(), (0, 0))).collect()
}

/// The sessions of a spool: the first number that is not trimmed and the next that would be given.
fn sessions(spool: &Path) -> Vec<(SessionId, (u64, u64))> {
    let copy = tempfile::tempdir().unwrap();
    copy_all(spool, copy.path());
    let now = SystemClock::new().now();
    let mut spool = Spool::open(copy.path(), u64::MAX, now);
    let current = spool.current();
    let mut found = Vec::new();
    for id in spool.sessions() {
        if Some(id) != current {
            let (first, next) = spool.range(id).unwrap();
            found.push((id, (first, next)));
        }
    }
    for finished in spool.finished(now) {
        let id = <[u8; 16]>::try_from(finished.session_id.as_slice()).unwrap();
        let next = u64::try_from(finished.last_sequence).unwrap() + 1;
        found.push((SessionId::from_bytes(id).unwrap(), (next, next)));
    }
    found
}

/// The time that one processor spent in all modes together, as the steepest growth between neighbours tells
/// it, by the time that passed. It is one, unless samples stand where they do not belong.
pub(super) fn steepest(data: &Path) -> f64 {
    const MODES: [Metric; 8] = [
        Metric::HostCpuTimeUser,
        Metric::HostCpuTimeNice,
        Metric::HostCpuTimeSystem,
        Metric::HostCpuTimeIdle,
        Metric::HostCpuTimeIowait,
        Metric::HostCpuTimeIrq,
        Metric::HostCpuTimeSoftirq,
        Metric::HostCpuTimeSteal,
    ];
    let (store, _) = Store::open(data, StoreOptions::default()).unwrap();
    let mut steepest = 0.0;
    for seen in store.nodes() {
        let mut sums: BTreeMap<i64, (Window, u64)> = BTreeMap::new();
        for metric in MODES {
            let key = SeriesKey {
                subject: Subject::Node(seen.node),
                metric,
                part: Part::index(0),
            };
            for (window, value) in store.range(&key, BEGIN, END) {
                let sum = sums.entry(window.end.millis()).or_insert((window, 0));
                sum.1 += value;
            }
        }
        let sums: Vec<(Window, u64)> = sums.into_values().collect();
        let rates = Rate::between(&sums);
        assert!(rates.len() > 5, "{rates:?}");
        let all = rates.iter().map(|rate| rate.per_second() / 1e9);
        steepest = all.fold(steepest, f64::max);
    }
    steepest
}

fn copy_all(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).into_iter().flatten() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_all(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// How many nodes have a reading of their memory that ended after an instant, as the aggregator tells now.
pub(super) fn ends_ms(url: &str, since_ms: i64) -> usize {
    let request = v1::GetLatestRequest {
        selector: Some(v1::SeriesSelector {
            metric: "host.mem.available".to_owned(),
            ..v1::SeriesSelector::default()
        }),
        ..v1::GetLatestRequest::default()
    };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let answer = runtime.block_on(async {
        let mut client = QueryServiceClient::connect(url.to_owned()).await.ok()?;
        client.get_latest(request).await.ok()
    });
    let readings = answer.map(|answer| answer.into_inner().readings);
    let after = |one: &&v1::LatestReading| {
        let end = one.sample.and_then(|sample| sample.end_time);
        end.is_some_and(|end| end.seconds * 1_000 + i64::from(end.nanos) / 1_000_000 > since_ms)
    };
    let readings = readings.unwrap_or_default();
    readings.iter().filter(after).count()
}
