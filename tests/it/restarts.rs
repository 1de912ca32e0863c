//! Programs that die without a word: nothing acknowledged is lost, and what was not is sent again.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use plimsoll_model::{Clock as _, SystemClock};
use plimsoll_proto::v1;
use plimsoll_proto::v1::query_service_client::QueryServiceClient;
use plimsoll_tests::stage::wait_until;
use plimsoll_tests::synthetic::{Identity, Stream};

use crate::house::{Running, aggregator, aggregator_on, program};

const LIMIT: Duration = Duration::from_secs(40);

fn now_ms() -> i64 {
    SystemClock::new().now().millis()
}

fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Runtime::new().unwrap().block_on(work)
}

/// The readings of the one series that matches, by the end of their window.
fn readings(url: &str, selector: &v1::SeriesSelector) -> Vec<(i64, i64)> {
    let request = v1::QueryRangeRequest {
        selector: Some(selector.clone()),
        start_time: Some(prost_types::Timestamp {
            seconds: now_ms() / 1_000 - 600,
            nanos: 0,
        }),
        ..v1::QueryRangeRequest::default()
    };
    let answer = block_on(async {
        let mut client = QueryServiceClient::connect(url.to_owned()).await.ok()?;
        client.query_range(request).await.ok()
    });
    let series = answer
        .map(|answer| answer.into_inner().series)
        .unwrap_or_default();
    let samples = series.into_iter().flat_map(|one| one.samples);
    samples
        .map(|sample| {
            let end = sample.end_time.unwrap();
            (
                end.seconds * 1_000 + i64::from(end.nanos) / 1_000_000,
                sample.value,
            )
        })
        .collect()
}

fn gaps(url: &str) -> Vec<v1::SeenGap> {
    block_on(async {
        let mut client = QueryServiceClient::connect(url.to_owned()).await.unwrap();
        let answer = client
            .list_gaps(v1::ListGapsRequest::default())
            .await
            .unwrap();
        answer.into_inner().gaps
    })
}

#[test]
fn an_aggregator_killed_right_after_an_acknowledgement_has_all_it_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let mut identity = Identity::new(3);
    let selector = v1::SeriesSelector {
        domain_id: identity.domain().unwrap().as_bytes().to_vec(),
        metric: "vm.cpu.time".to_owned(),
        ..v1::SeriesSelector::default()
    };
    let begin_ms = now_ms() - 60_000;
    let mut acknowledged = Vec::new();
    for round in 1..=3_i64 {
        let (house, url) = aggregator(dir.path());
        block_on(async {
            let mut stream = Stream::open(&url, &identity).await.unwrap();
            let durable = i64::try_from(acknowledged.len()).unwrap();
            assert_eq!(stream.durable_sequence, durable, "round {round}");
            for _ in 0..20 {
                let at_ms = begin_ms + 1_000 * identity.next_sequence;
                stream.deliver(&mut identity, at_ms).await.unwrap();
                acknowledged.push(at_ms);
            }
            // SIGKILL, with the stream open and the last acknowledgement just read.
            drop(house);
        });
    }
    let (_house, url) = aggregator(dir.path());
    let kept: Vec<i64> = readings(&url, &selector)
        .iter()
        .map(|(end_ms, _)| *end_ms)
        .collect();
    assert_eq!(kept, acknowledged);
    assert!(gaps(&url).is_empty());
}

/// A port that nobody listens on now, so that an aggregator can come back where it was.
fn free_address() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().to_string()
}

fn agent(url: &str, dir: &Path) -> Running {
    let agent = Command::new(program("plimsoll-agent"))
        .args([
            "run",
            "--interval",
            "1s",
            "--libvirt-socket",
            "/nonexistent/libvirt-sock",
        ])
        .args(["--aggregator", url, "--state-dir"])
        .arg(dir)
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    Running(agent)
}

/// Readings of the one agent there is.
fn agent_readings(url: &str) -> Vec<(i64, i64)> {
    let selector = v1::SeriesSelector {
        metric: "host.mem.available".to_owned(),
        ..v1::SeriesSelector::default()
    };
    readings(url, &selector)
}

fn wait_for(
    what: &str,
    url: &str,
    mut is_there: impl FnMut(&[(i64, i64)]) -> bool,
) -> Vec<(i64, i64)> {
    wait_until(what, LIMIT, || {
        let all = agent_readings(url);
        Ok(is_there(&all).then_some(all))
    })
    .unwrap()
}

fn steps_ms(readings: &[(i64, i64)]) -> Vec<i64> {
    readings
        .windows(2)
        .map(|pair| pair[1].0 - pair[0].0)
        .collect()
}

#[test]
fn an_agent_bridges_the_time_in_which_the_aggregator_was_dead() {
    let dir = tempfile::tempdir().unwrap();
    let (address, data) = (free_address(), dir.path().join("data"));
    let (house, url) = aggregator_on(&address, &data);
    let _agent = agent(&url, &dir.path().join("agent"));
    let before = wait_for("three readings", &url, |all| all.len() >= 3);
    drop(house);
    let dead_ms = now_ms();
    wait_until("four seconds without an aggregator", LIMIT, || {
        Ok((now_ms() - dead_ms > 4_000).then_some(()))
    })
    .unwrap();
    let alive_ms = now_ms();
    let (_house, url) = aggregator_on(&address, &data);
    let after = wait_for("a reading from afterwards", &url, |all| {
        all.last().is_some_and(|(end_ms, _)| *end_ms > alive_ms)
    });
    assert!(
        after.starts_with(&before),
        "what was there is there: {before:?} {after:?}"
    );
    let within = |(end_ms, _): &&(i64, i64)| (dead_ms..alive_ms).contains(end_ms);
    assert!(after.iter().filter(within).count() >= 3, "{after:?}");
    assert!(
        steps_ms(&after)
            .iter()
            .all(|step| (500..2_500).contains(step)),
        "{after:?}"
    );
    assert!(gaps(&url).is_empty());
}

#[test]
fn an_agent_killed_while_nobody_listened_sends_what_it_had_seen_after_its_restart() {
    let dir = tempfile::tempdir().unwrap();
    let (address, data) = (free_address(), dir.path().join("data"));
    let (house, url) = aggregator_on(&address, &data);
    let first = agent(&url, &dir.path().join("agent"));
    let before = wait_for("two readings", &url, |all| all.len() >= 2);
    drop(house);
    let dead_ms = now_ms();
    wait_until("five seconds without an aggregator", LIMIT, || {
        Ok((now_ms() - dead_ms > 5_000).then_some(()))
    })
    .unwrap();
    drop(first);
    let killed_ms = now_ms();
    let (_house, url) = aggregator_on(&address, &data);
    let _second = agent(&url, &dir.path().join("agent"));
    let after = wait_for("a reading of the second agent", &url, |all| {
        all.last().is_some_and(|(end_ms, _)| *end_ms > killed_ms)
    });
    assert!(after.starts_with(&before), "{before:?} {after:?}");
    let spooled = |(end_ms, _): &&(i64, i64)| (dead_ms..killed_ms).contains(end_ms);
    assert!(
        after.iter().filter(spooled).count() >= 4,
        "{dead_ms}..{killed_ms}: {after:?}"
    );
    let mut times: Vec<i64> = after.iter().map(|(end_ms, _)| *end_ms).collect();
    times.dedup();
    assert_eq!(times.len(), after.len(), "none is there twice");
}
