//! Certificates that change again and again while samples flow; `PLIMSOLL_ROTATIONS` says how often.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use plimsoll_tests::stage::wait_until;

use super::chaos::setting;
use super::{LIMIT, Way, books, last};
use crate::house::program;

const NODE: &str = "6f9d1c52-70a8-4f0c-9a55-3c1f3a1d7e33";

/// Makes new certificates of the server and of the node, and puts each in the place of the one before.
fn rotate(authority: &Path, live: &Path) {
    let server = ["issue", "--server", "127.0.0.1"];
    for (words, name) in [
        (&server[..], "server-127.0.0.1"),
        (&["issue", "--node", NODE], &format!("node-{NODE}")),
    ] {
        for end in ["pem", "key"] {
            std::fs::remove_file(authority.join(format!("{name}.{end}"))).ok();
        }
        pki(authority, words);
        for end in ["key", "pem"] {
            let name = format!("{name}.{end}");
            let next = live.join(format!("{name}.next"));
            std::fs::copy(authority.join(&name), &next).unwrap();
            std::fs::rename(next, live.join(name)).unwrap();
        }
    }
}

fn pki(authority: &Path, words: &[&str]) {
    let mut command = Command::new(program("plimsoll-aggregator"));
    let (order, rest) = words.split_first().unwrap();
    command.args(["pki", order]).arg(authority).args(rest);
    let made = command.output().unwrap();
    assert!(made.status.success(), "{made:?}");
}

#[test]
fn certificates_that_change_again_and_again_cost_no_sample() {
    let dir = tempfile::tempdir().unwrap();
    let (authority, live) = (dir.path().join("pki"), dir.path().join("live"));
    let data = dir.path().join("data");
    std::fs::create_dir(&live).unwrap();
    pki(&authority, &["init"]);
    rotate(&authority, &live);
    let place = |name: &str| live.join(name).display().to_string();
    let ca = authority.join("ca.pem").display().to_string();
    let tls = format!(
        "connection_age_max = \"1s\"\n[tls]\nlook_every = \"100ms\"\nclient_ca = {ca:?}\ncertificate = {:?}\nkey = {:?}\n",
        place("server-127.0.0.1.pem"),
        place("server-127.0.0.1.key")
    );
    let (house, address) = Way::default().aggregator("127.0.0.1:0", &data, &tls);
    let tls = format!(
        "[tls]\nca = {ca:?}\ncertificate = {:?}\nkey = {:?}",
        place(&format!("node-{NODE}.pem")),
        place(&format!("node-{NODE}.key"))
    );
    let url = format!("https://{address}");
    let agent = Way::default().agent_of(NODE, &url, &dir.path().join("agent"), &tls);
    agent.says("connected to the aggregator", 1);
    let opened = || house.log().matches("stream opened").count();
    let rotations = setting("PLIMSOLL_ROTATIONS", 5);
    for _ in 0..rotations {
        let before = opened();
        rotate(&authority, &live);
        // The stream ends because it is old, and the next one shows the new certificates.
        wait_until("streams with the new certificates", LIMIT, || {
            Ok((opened() >= before + 2).then_some(()))
        })
        .unwrap();
    }
    last(Duration::from_secs(2));
    let agent_log = agent.log();
    let agent = agent.end();
    let log = house.end();
    let count = books::settle(&data, &[&agent]);
    println!(
        "{rotations} rotations, {} streams: {count:?}",
        log.matches("stream opened").count()
    );
    assert!(!log.contains("connection refused"), "{log}");
    assert!(!agent_log.contains("cannot reach"), "{agent_log}");
    assert_eq!((count.gap, count.in_flight), (0, 0), "{count:?}");
    assert!(
        count.readings >= 10 && count.silence_ms < 2_500,
        "{count:?}"
    );
}
