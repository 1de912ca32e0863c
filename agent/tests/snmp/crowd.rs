//! A thousand devices of which three in ten are dead: the others must not wait for them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use plimsoll_agent::look::Look;
use plimsoll_agent::source::snmp::udp::Udp;
use plimsoll_agent::source::snmp::{Devices, Pace};
use plimsoll_model::{Metric, NodeId, SystemClock, UnixMillis};
use tokio::net::UdpSocket;
use tokio::sync::mpsc;

use crate::fake::{Fake, pace, target};

const HEALTHY: usize = 700;
const DEAD: usize = 300;
const ROUNDS: u32 = 3;
/// How late a poll may be and is still on time.
const LATE_MAX: Duration = Duration::from_secs(1);

/// Says of each device when it was asked, and whether it answered.
fn told(look: &Look) -> impl Iterator<Item = (String, UnixMillis, bool)> + '_ {
    look.sweeps.iter().flat_map(|sweep| {
        let up = sweep
            .values
            .iter()
            .filter(|(metric, _, _)| *metric == Metric::HostSnmpUp);
        up.map(|(_, part, value)| (part.as_str().to_owned(), sweep.window.end, *value == 1))
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_thousand_devices_with_three_in_ten_dead_the_others_are_polled_on_time() {
    let pace = Pace {
        timeout: Duration::from_secs(1),
        ..pace()
    };
    let mut fakes = Vec::new();
    for _ in 0..HEALTHY {
        fakes.push(Fake::honest(2).await);
    }
    let silent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let nowhere = silent.local_addr().unwrap();
    let healthy = fakes
        .iter()
        .zip(0..)
        .map(|(fake, n)| target(&format!("up-{n}"), fake.address));
    let dead = (0..DEAD).map(|n| target(&format!("dead-{n}"), nowhere));
    let devices = Devices {
        met: plimsoll_agent::limits::Met::default(),
        node: NodeId::random(),
        pace,
        targets: healthy.chain(dead).collect(),
        dial: Arc::new(Udp::new(pace)),
        clock: Arc::new(SystemClock::new()),
    };
    let (looks, mut inbox) = mpsc::channel(64);
    let polling = tokio::spawn(devices.run(looks));
    let mut polls: BTreeMap<String, Vec<(UnixMillis, bool)>> = BTreeMap::new();
    let listening = async {
        while let Some(look) = inbox.recv().await {
            for (name, at, up) in told(&look) {
                polls.entry(name).or_default().push((at, up));
            }
        }
    };
    // The first polls spread over one interval; then so many rounds, and what the last may be late.
    let length = pace.interval * (ROUNDS + 1) + LATE_MAX;
    assert!(tokio::time::timeout(length, listening).await.is_err());
    polling.abort();

    let (mut due, mut on_time, mut worst) = (0_u32, 0_u32, Duration::ZERO);
    for number in 0..HEALTHY {
        let all = polls.remove(&format!("up-{number}")).unwrap_or_default();
        for round in 0..ROUNDS as usize {
            due += 1;
            let pair = all.get(round).zip(all.get(round + 1));
            let Some(((before, _), (after, true))) = pair else {
                continue;
            };
            let late = after.since(*before).saturating_sub(pace.interval);
            worst = worst.max(late);
            on_time += u32::from(late <= LATE_MAX);
        }
    }
    let asked_dead: usize = polls.values().map(Vec::len).sum();
    println!(
        "{HEALTHY} devices answer, {DEAD} are dead: {on_time} of {due} polls on time \
         ({:.2} %), the latest {worst:?} late; the dead were asked {asked_dead} times",
        f64::from(on_time) * 100.0 / f64::from(due)
    );
    assert_eq!(polls.len(), DEAD);
    assert!(polls.values().flatten().all(|(_, up)| !up));
    assert!(on_time * 1_000 >= due * 999, "{on_time} of {due}");
}
