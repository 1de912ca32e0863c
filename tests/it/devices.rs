//! A real snmpd, polled by the real agent and asked for by the real command.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use plimsoll_tests::snmpd::{self, AUTHENTICATION, COMMUNITY, PRIVACY, Snmpd, USER};
use plimsoll_tests::stage::wait_until;
use serde_json::Value;

use crate::house::{Running, aggregator, ask, asked_json, program};

const LIMIT: Duration = Duration::from_secs(90);

/// Writes a configuration: credentials that are right and wrong, and targets as told.
fn config(dir: &Path, url: &str, targets: &[(&str, &str, &str)]) -> PathBuf {
    let file = |name: &str, word: &str| snmpd::secret(dir, name, word).unwrap();
    let (authentication, privacy) = (file("one", AUTHENTICATION), file("two", PRIVACY));
    let (community, wrong) = (file("three", COMMUNITY), file("four", "canary-of-another"));
    let mut text = format!(
        "aggregator = {url:?}\nstate_dir = {:?}\ninterval = \"1s\"\n[libvirt]\nenabled = false\n\
         [snmp]\ninterval = \"1s\"\ntimeout = \"300ms\"\ndeadline = \"5s\"\nwarm_up = \"8s\"\n",
        dir.join("state")
    );
    let mut user = |name: &str, authentication: &Path, privacy: &Path| {
        text.push_str(&format!(
            "[[snmp.credential]]\nname = {name:?}\nuser = {USER:?}\n\
             authentication_password_file = {authentication:?}\nprivacy_password_file = {privacy:?}\n"
        ));
    };
    user("right", &authentication, &privacy);
    user("wrong-authentication", &wrong, &privacy);
    user("wrong-privacy", &authentication, &wrong);
    for (name, path) in [("clear", &community), ("wrong-clear", &wrong)] {
        text.push_str(&format!(
            "[[snmp.credential]]\nname = {name:?}\ncommunity_file = {path:?}\n"
        ));
    }
    for (name, address, credential) in targets {
        text.push_str(&format!(
            "[[snmp.target]]\nname = {name:?}\naddress = {address:?}\nprofile = \"host\"\n\
             credential = {credential:?}\nallow_insecure = true\n"
        ));
    }
    let path = dir.join("agent.toml");
    std::fs::write(&path, text).unwrap();
    path
}

/// Runs an order of the agent to its end; what it said must hold no secret.
fn printed(order: &[&str], config: &Path) -> (Option<i32>, String) {
    let output = Command::new(program("plimsoll-agent"))
        .args(order)
        .arg("--config")
        .arg(config)
        .env("RUST_LOG", "trace")
        .output()
        .unwrap();
    let out = String::from_utf8_lossy(&output.stdout).into_owned();
    let err = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        !out.contains("canary") && !err.contains("canary"),
        "a secret was shown"
    );
    (output.status.code(), out)
}

fn meminfo_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap();
    text.split_whitespace()
        .nth(1)
        .unwrap()
        .parse::<u64>()
        .unwrap()
        * 1_024
}

#[test]
fn once_and_the_doctor_tell_devices_that_answer_from_those_that_reject_and_those_that_are_silent() {
    if !snmpd::told("devices") {
        return;
    }
    let device = Snmpd::start().unwrap();
    let address = device.address();
    let silent = format!("127.0.0.1:{}", snmpd::free_port().unwrap());
    let dir = tempfile::tempdir().unwrap();
    let targets = [
        ("by-user", address.as_str(), "right"),
        ("by-community", address.as_str(), "clear"),
        (
            "bad-authentication",
            address.as_str(),
            "wrong-authentication",
        ),
        ("bad-privacy", address.as_str(), "wrong-privacy"),
        ("bad-community", address.as_str(), "wrong-clear"),
        ("silent", silent.as_str(), "right"),
    ];
    let config = config(dir.path(), "http://127.0.0.1:1", &targets);

    let (_, text) = printed(&["doctor"], &config);
    assert!(text.contains("OK   devices     2 answer"), "{text}");
    for rejected in ["bad-authentication", "bad-privacy"] {
        let line = format!(
            "WARN devices     {rejected} ({address}): the device answers, credentials rejected"
        );
        assert!(text.contains(&line), "{line}: {text}");
    }
    let line = format!("WARN devices     bad-community ({address}): no answer");
    assert!(text.contains(&line), "{text}");
    assert!(text.contains("a wrong community is silence, too"), "{text}");
    assert!(
        text.contains(&format!("WARN devices     silent ({silent}): no answer")),
        "{text}"
    );

    let (code, text) = printed(&["once"], &config);
    assert_eq!(code, Some(0));
    let total = meminfo_bytes();
    for name in ["by-user", "by-community"] {
        assert!(
            text.contains(&format!("\n{name} host.mem.total {total} B\n")),
            "{text}"
        );
        assert!(
            text.contains(&format!("\n{name}:1 host.net.operstate[lo] ")),
            "{text}"
        );
        assert!(
            text.contains(&format!("\nnode host.snmp.up[{name}] 1 1\n")),
            "{text}"
        );
    }
    for name in [
        "bad-authentication",
        "bad-privacy",
        "bad-community",
        "silent",
    ] {
        assert!(
            text.contains(&format!("\nnode host.snmp.up[{name}] 0 1\n")),
            "{text}"
        );
    }
    let (code, text) = printed(&["check-config"], &config);
    assert!(
        code == Some(0) && text.contains("[[snmp.target]]"),
        "{text}"
    );
}

/// The incarnations of a counter, with their samples.
fn runs(url: &str, metric: &str, part: &str, rate: bool) -> Vec<Value> {
    let mut args = vec![
        "--json",
        "series",
        "storage-1",
        "--metric",
        metric,
        "--since",
        "10m",
    ];
    args.extend(["--part", part]);
    if rate {
        args.push("--rate");
    }
    // Where nothing was told yet the question is refused.
    match ask(url, &args) {
        (Some(0), out, _) => serde_json::from_str(&out).unwrap(),
        _ => Vec::new(),
    }
}

/// No rate of any run is one that cannot be.
fn hold_rates(url: &str) {
    for metric in ["host.net.rx.bytes", "host.net.rx.packets"] {
        for run in runs(url, metric, "lo", true) {
            assert_eq!(run["port_index"], 1, "{run:#}");
            for sample in run["samples"].as_array().unwrap() {
                let per_second = sample["value"].as_u64().unwrap() / 1_000_000;
                assert!(per_second < 1 << 30, "{metric}: {run:#}");
            }
        }
    }
    for run in runs(url, "host.cpu.time.idle", "", true) {
        for sample in run["samples"].as_array().unwrap() {
            // snmpd looks at its processors only now and then, so one second may bring what several idled;
            // what came since the boot of the machine it must never bring.
            let most =
                1_000_000_000_u64 * std::thread::available_parallelism().unwrap().get() as u64;
            let per_second = sample["value"].as_u64().unwrap() / 1_000_000;
            assert!(per_second < most * 20, "{run:#}");
        }
    }
}

/// The device in the list, once it has answered.
fn listed(url: &str) -> Value {
    let listed = wait_until("the device in the list", LIMIT, || {
        let devices = asked_json(url, &["--json", "devices"]);
        let first = devices.get(0).cloned();
        Ok(first.filter(|device| device["answers"] == true && device["system_name"].is_string()))
    })
    .unwrap();
    assert_eq!(listed["name"], "storage-1");
    assert_eq!(listed["freshness"], "FRESHNESS_FRESH");
    listed
}

#[test]
fn what_a_device_tells_travels_the_whole_way_and_a_restart_of_its_agent_is_no_false_rate() {
    if !snmpd::told("devices") {
        return;
    }
    let mut device = Snmpd::start().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let (_house, url) = aggregator(&dir.path().join("data"));
    let targets = [("storage-1", device.address(), "right")];
    let targets: Vec<_> = targets
        .iter()
        .map(|(a, b, c)| (*a, b.as_str(), *c))
        .collect();
    let config = config(dir.path(), &url, &targets);
    let log = std::fs::File::create(dir.path().join("log")).unwrap();
    let agent = Command::new(program("plimsoll-agent"))
        .args(["run", "--config"])
        .arg(&config)
        .env("RUST_LOG", "debug")
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .unwrap();
    let agent = Running(agent);

    let listed = listed(&url);
    assert_eq!(listed["profile"], "host");
    let memory = asked_json(
        &url,
        &[
            "--json",
            "series",
            "storage-1",
            "--metric",
            "host.mem.total",
        ],
    );
    assert_eq!(
        memory[0]["value"].as_u64(),
        Some(meminfo_bytes()),
        "{memory:#}"
    );
    assert_eq!(memory[0]["device_id"], listed["device_id"]);

    let counted = |count: usize| {
        move |url: &str| {
            let runs = runs(url, "host.net.rx.bytes", "lo", false);
            let last = runs
                .last()
                .map_or(0, |run| run["samples"].as_array().unwrap().len());
            (runs.len() == count && last >= 3).then_some(())
        }
    };
    wait_until("bytes of the loopback", LIMIT, || Ok(counted(1)(&url))).unwrap();
    device.restart().unwrap();
    wait_until("bytes of the second run", LIMIT, || Ok(counted(2)(&url))).unwrap();
    hold_rates(&url);

    drop(device);
    wait_until("silence to be told", LIMIT, || {
        let devices = asked_json(&url, &["--json", "devices"]);
        Ok((devices[0]["answers"] == false).then_some(()))
    })
    .unwrap();
    drop(agent);
    let log = std::fs::read_to_string(dir.path().join("log")).unwrap();
    assert!(log.contains("started anew"), "{log}");
    assert!(!log.contains("canary"), "a secret was logged");
}
