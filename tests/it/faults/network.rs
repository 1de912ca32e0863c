//! Networks that drop, lose, delay, and are narrow.

use std::process::{Command, Stdio};
use std::time::Duration;

use plimsoll_tests::stage::{Deadline, run, wait_until};

use super::line::Line;
use super::{Agent, LIMIT, Way, books, free_address, hears_anew, last};
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
        wire.args(["link", "add", "wire", "netns", &of_aggregator, "type", "veth"])
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
            let mut words = vec!["iptables", "--wait", order, "INPUT", "--in-interface", "wire"];
            if let Some(part) = part {
                let random = ["-m", "statistic", "--mode", "random", "--probability", part];
                words.extend(random);
            }
            words.extend(["--jump", "DROP"]);
            self.on(host, &words);
        }
    }

    fn raise(&self, dir: &std::path::Path) -> (Aggregator, Agent) {
        let data = dir.join("data");
        let (house, address) = self.way(0).aggregator("0.0.0.0:0", &data, "");
        let port = address.rsplit_once(':').unwrap().1;
        let url = format!("http://{AGGREGATOR}:{port}");
        (house, self.way(1).agent(&url, &dir.join("agent"), ""))
    }
}

#[test]
fn a_network_that_drops_all_is_noticed_by_both_sides_in_15_seconds_and_bridged() {
    if !told("a network that drops", &["unshare", "nsenter", "ip", "iptables"]) {
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
    assert!(count.readings >= 15 && count.silence_ms < 2_500, "{count:?}");
}
