//! Networks that drop, lose, delay, and are narrow.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use plimsoll_agent::body::Body;
use plimsoll_agent::spool::Spool;
use plimsoll_model::{Clock as _, SystemClock};
use plimsoll_proto::v1;
use plimsoll_tests::stage::{Deadline, run, wait_until};
use prost::Message as _;

use super::line::Line;
use super::{Agent, LIMIT, Way, books, hears_anew, last};
use crate::house::{Aggregator, Running};
use crate::units::told;

/// Both sides ask for a sign of life after 10 s, and wait 5 s for it.
const NOTICED_MAX: Duration = Duration::from_secs(15);
/// What a busy machine may add.
const SLACK: Duration = Duration::from_secs(5);

/// Two hosts of their own, joined by a wire.
struct Wire {
    hosts: [Running; 2],
}

const AGGREGATOR: &str = "10.77.0.1";
const AGENT: &str = "10.77.0.2";

impl Wire {
    fn lay() -> Self {
        let host = || {
            let mut host = Command::new("unshare");
            host.args(["--net", "--", "sleep", "600"]);
            Running(host.stdin(Stdio::null()).spawn().unwrap())
        };
        let this = Self {
            hosts: [host(), host()],
        };
        let [of_aggregator, of_agent] = this.hosts.each_ref().map(|host| host.0.id().to_string());
        let own = std::fs::read_link("/proc/self/ns/net").unwrap();
        for pid in [&of_aggregator, &of_agent] {
            let theirs = format!("/proc/{pid}/ns/net");
            wait_until("a network of its own", LIMIT, || {
                Ok((std::fs::read_link(&theirs).unwrap() != own).then_some(()))
            })
            .unwrap();
        }
        let mut wire = Command::new("ip");
        wire.args([
            "link",
            "add",
            "wire",
            "netns",
            &of_aggregator,
            "type",
            "veth",
        ])
        .args(["peer", "name", "wire", "netns", &of_agent]);
        run(&mut wire, LIMIT).unwrap();
        for (host, address) in [(0, AGGREGATOR), (1, AGENT)] {
            this.on(host, &["ip", "link", "set", "lo", "up"]);
            let address = format!("{address}/24");
            this.on(host, &["ip", "address", "add", &address, "dev", "wire"]);
            this.on(host, &["ip", "link", "set", "wire", "up"]);
        }
        this
    }

    fn way(&self, host: usize) -> Way {
        let pid = self.hosts[host].0.id().to_string();
        Way::through(&["nsenter", "--net", "--target", &pid, "--"])
    }

    /// Runs a program on a host.
    fn on(&self, host: usize, words: &[&str]) {
        let before = self.way(host).before;
        let mut command = Command::new(&before[0]);
        run(command.args(&before[1..]).args(words), LIMIT).unwrap();
    }

    /// Lets packets vanish in both directions: a part of them, or all.
    fn drop_packets(&self, order: &str, part: Option<&str>) {
        for host in [0, 1] {
            let mut words = vec![
                "iptables",
                "--wait",
                order,
                "INPUT",
                "--in-interface",
                "wire",
            ];
            if let Some(part) = part {
                let random = ["-m", "statistic", "--mode", "random", "--probability", part];
                words.extend(random);
            }
            words.extend(["--jump", "DROP"]);
            self.on(host, &words);
        }
    }

    fn raise(&self, dir: &Path) -> (Aggregator, Agent) {
        let data = dir.join("data");
        let (house, address) = self.way(0).aggregator("0.0.0.0:0", &data, "");
        let port = address.rsplit_once(':').unwrap().1;
        let url = format!("http://{AGGREGATOR}:{port}");
        (house, self.way(1).agent(&url, &dir.join("agent"), ""))
    }
}

#[test]
fn a_network_that_drops_all_is_noticed_by_both_sides_in_15_seconds_and_bridged() {
    if !told(
        "a network that drops",
        &["unshare", "nsenter", "ip", "iptables"],
    ) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let wire = Wire::lay();
    let (house, agent) = wire.raise(dir.path());
    agent.says("connected to the aggregator", 1);
    last(Duration::from_secs(2));
    // An established flow of which neither end hears that it has ended.
    wire.drop_packets("--append", None);
    let dropped = Deadline::after(NOTICED_MAX + SLACK);
    let given_up = "the aggregator to give the stream up";
    wait_until(given_up, NOTICED_MAX + SLACK, || {
        Ok(house.log().contains("stream ended").then_some(()))
    })
    .unwrap_or_else(|error| panic!("{error}: {} {}", house.log(), agent.log()));
    let by_aggregator = dropped.elapsed();
    agent.says("samples are kept in the spool", 1);
    let by_agent = dropped.elapsed();
    assert!(by_agent <= NOTICED_MAX + SLACK, "{by_agent:?}");
    wire.drop_packets("--delete", None);
    let healed = Deadline::after(LIMIT);
    agent.says("connected to the aggregator", 2);
    println!(
        "noticed by the aggregator after {by_aggregator:?}, by the agent after {by_agent:?}; back \
         {:?} after the network",
        healed.elapsed()
    );
    let agent = agent.end();
    drop(house);
    let count = books::settle(&dir.path().join("data"), &[&agent]);
    println!("{count:?}");
    assert_eq!((count.gap, count.in_flight), (0, 0), "{count:?}");
    assert!(
        count.readings >= 15 && count.silence_ms < 2_500,
        "{count:?}"
    );
}

#[test]
fn over_a_network_that_loses_one_packet_of_twenty_and_is_narrow_all_comes_through() {
    if !told(
        "a lossy network",
        &["unshare", "nsenter", "ip", "iptables", "tc"],
    ) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let wire = Wire::lay();
    for host in [0, 1] {
        let narrow = [
            "tc", "qdisc", "add", "dev", "wire", "root", "tbf", "rate", "1mbit",
        ];
        wire.on(
            host,
            &[&narrow[..], &["burst", "4k", "latency", "400ms"]].concat(),
        );
    }
    wire.drop_packets("--append", Some("0.05"));
    let (house, agent) = wire.raise(dir.path());
    agent.says("connected to the aggregator", 1);
    last(Duration::from_secs(8));
    let log = agent.log();
    let agent = agent.end();
    drop(house);
    let count = books::settle(&dir.path().join("data"), &[&agent]);
    println!("{count:?}");
    assert_eq!((count.gap, count.in_flight), (0, 0), "{count:?}");
    assert!(count.readings >= 7 && count.silence_ms < 2_500, "{count:?}");
    assert!(
        !log.contains("samples are kept"),
        "no storm of new connections: {log}"
    );
}

#[test]
fn lost_acknowledgements_make_batches_come_twice_and_none_is_stored_twice() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let (house, address) = Way::default().aggregator("127.0.0.1:0", &data, "");
    let (line, url) = (Line::to(&address), format!("http://{address}"));
    let agent = Way::default().agent(&line.url(), &dir.path().join("agent"), "");
    hears_anew(&url, 1);
    for _ in 0..3 {
        line.swallow(true);
        // They are stored, and the agent does not hear of it.
        hears_anew(&url, 1);
        last(Duration::from_secs(1));
        line.cut();
        line.swallow(false);
        hears_anew(&url, 1);
    }
    let agent = agent.end();
    drop(house);
    let count = books::settle(&data, &[&agent]);
    println!("{count:?}");
    assert_eq!((count.gap, count.in_flight), (0, 0), "{count:?}");
    assert!(count.silence_ms < 2_500, "{count:?}");
}

/// Leaves a backlog in a spool, of batches that were made at one time, so that no pace is kept; returns its
/// bytes.
fn backlog(spool: &Path) -> u64 {
    let now = SystemClock::new().now();
    let body = v1::BatchBody {
        made_time: Some(prost_types::Timestamp {
            seconds: now.millis() / 1_000,
            nanos: 0,
        }),
        ..v1::BatchBody::default()
    };
    // A field of ten thousand bytes that nobody knows.
    let filler = [vec![0xc2, 0x3e, 0x90, 0x4e], vec![7; 10_000]].concat();
    let body = Body {
        bytes: [body.encode_to_vec(), filler].concat(),
        numbers: Vec::new(),
        reading_count: 0,
        sweeps: Vec::new(),
    };
    let mut spool = Spool::open(spool, 64 << 20, now);
    for _ in 0..100 {
        spool.push(&body).unwrap();
    }
    spool.close();
    spool.disk_bytes()
}

#[test]
fn a_backlog_fills_nine_tenths_of_a_narrow_line_with_a_long_delay() {
    const BYTES_PER_SECOND: u64 = 1_000_000 / 8;
    let dir = tempfile::tempdir().unwrap();
    let (data, of_agent) = (dir.path().join("data"), dir.path().join("agent"));
    let (house, address) = Way::default().aggregator("127.0.0.1:0", &data, "");
    let line = Line::to(&address);
    let backlog = backlog(&of_agent.join("state/spool"));
    line.shape(Duration::from_millis(100), BYTES_PER_SECOND);
    let agent = Way::default().agent(&line.url(), &of_agent, "");
    wait_until("the line to be busy", LIMIT, || {
        Ok((line.up_bytes() > 100_000).then_some(()))
    })
    .unwrap();
    let (began, before) = (Deadline::after(LIMIT), line.up_bytes());
    wait_until("most of the backlog", LIMIT, || {
        Ok((line.up_bytes() > backlog * 8 / 10).then_some(()))
    })
    .unwrap();
    let rate = (line.up_bytes() - before) as f64 / began.elapsed().as_secs_f64();
    let share = rate / BYTES_PER_SECOND as f64;
    println!(
        "{:.1} hundredths of a line of 1 Mbit/s with 200 ms",
        share * 100.0
    );
    line.shape(Duration::ZERO, 0);
    hears_anew(&format!("http://{address}"), 1);
    let agent = agent.end();
    drop(house);
    let count = books::settle(&data, &[&agent]);
    println!("{count:?}");
    assert_eq!((count.gap, count.in_flight), (0, 0), "{count:?}");
    assert!(count.stored > 100, "{count:?}");
    assert!(share >= 0.9, "{share}");
}
