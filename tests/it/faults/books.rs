//! The books: what agents produced, held against what the store has and what is still in their spools.
//!
//! Both are opened once the programs have ended; the spool as a copy, for opening it begins a run.

use std::collections::BTreeSet;
use std::path::Path;

use plimsoll_agent::spool::Spool;
use plimsoll_model::{
    Clock as _, Metric, NodeId, Part, SeriesKey, SessionId, Subject, SystemClock, UnixMillis,
};
use plimsoll_proto::v1;
use plimsoll_proto::v1::query_service_client::QueryServiceClient;
use plimsoll_store::{Store, StoreOptions};

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
        let (begin, end) = (0, i64::MAX);
        let readings = store.range(
            &key,
            UnixMillis::from_millis(begin),
            UnixMillis::from_millis(end),
        );
        let windows = readings.iter();
        let ends: Vec<i64> = windows
            .map(|(window, _)| window.end.millis())
            .collect();
        let distinct: BTreeSet<i64> = ends.iter().copied().collect();
        assert_eq!(distinct.len(), ends.len(), "a reading of {node} is there twice");
        count.readings += u64::try_from(distinct.len()).unwrap();
        let steps = ends.windows(2).map(|pair| pair[1] - pair[0]);
        count.silence_ms = steps.fold(count.silence_ms, i64::max);
    }
    let mut durable_of_all = 0;
    for agent in agents {
        for (session, first, next) in sessions(&agent.join("state/spool")) {
            let durables = nodes.iter().map(|node| store.durable_sequence(*node, session));
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
    }
    assert_eq!(
        count.stored + count.gap,
        durable_of_all,
        "each number up to the durable one is stored once or in one gap: {count:?}"
    );
    assert_eq!(count.produced, count.stored + count.gap + count.in_flight);
    assert!(count.readings >= count.stored, "{count:?}");
    count
}

/// The sessions of a spool: the first number that is not trimmed and the next that would be given.
fn sessions(spool: &Path) -> Vec<(SessionId, u64, u64)> {
    let copy = tempfile::tempdir().unwrap();
    copy_all(spool, copy.path());
    let now = SystemClock::new().now();
    let mut spool = Spool::open(copy.path(), u64::MAX, now);
    let current = spool.current();
    let mut found = Vec::new();
    for id in spool.sessions() {
        if Some(id) != current {
            let (first, next) = spool.range(id).unwrap();
            found.push((id, first, next));
        }
    }
    for finished in spool.finished(now) {
        let id = <[u8; 16]>::try_from(finished.session_id.as_slice()).unwrap();
        let next = u64::try_from(finished.last_sequence).unwrap() + 1;
        found.push((SessionId::from_bytes(id).unwrap(), next, next));
    }
    found
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
