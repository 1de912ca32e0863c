//! The systemd units: how little they leave open, and that the programs need no more than that.
//!
//! systemd need not run here: the exposure is told offline, and what a program asks of the kernel is seen by
//! strace and held against the filter that its unit sets.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use plimsoll_tests::stage::wait_until;

use crate::house::{Running, asked_json, listening, program};

/// Set to 1 where nothing may be left out.
const COMPLETE: &str = "PLIMSOLL_TESTS_COMPLETE";
const LIMIT: Duration = Duration::from_secs(60);
const UNITS: [&str; 3] = [
    "plimsoll-agent",
    "plimsoll-aggregator",
    "plimsoll-dirty-helper",
];

/// Whether a story is told: where nothing may be left out, it must.
pub(crate) fn told(story: &str, programs: &[&str]) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let there = |name: &&str| std::env::split_paths(&path).any(|dir| dir.join(name).is_file());
    let Some(missing) = programs.iter().find(|name| !there(name)) else {
        return true;
    };
    let complete = std::env::var_os(COMPLETE).is_some_and(|value| value == "1");
    assert!(!complete, "story {story} cannot be told: no {missing}");
    // Not through the test harness, which would swallow it.
    drop(writeln!(
        std::io::stderr(),
        "left out: {story}: no {missing}"
    ));
    false
}

fn packaging() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/systemd")
}

fn exposed(unit: &Path, threshold: &str) -> bool {
    let output = Command::new("systemd-analyze")
        .args(["security", "--offline=true", "--no-pager", "--threshold"])
        .arg(threshold)
        .arg(unit.canonicalize().unwrap())
        .output()
        .unwrap();
    let out = String::from_utf8_lossy(&output.stdout);
    assert!(out.contains("Overall exposure level"), "{output:?}");
    !output.status.success()
}

#[test]
fn no_unit_is_exposed_more_than_one_and_a_half() {
    if !told("units", &["systemd-analyze"]) {
        return;
    }
    for name in UNITS {
        let unit = packaging().join(format!("{name}.service"));
        assert!(!exposed(&unit, "15"), "{name}");
    }
    let dir = tempfile::tempdir().unwrap();
    let bare = dir.path().join("bare.service");
    std::fs::write(&bare, "[Service]\nExecStart=/bin/true\n").unwrap();
    assert!(exposed(&bare, "15"), "one that closes nothing is exposed");
}

/// The values of a key in a unit, in their order.
fn values(unit: &str, key: &str) -> Vec<String> {
    let text = std::fs::read_to_string(packaging().join(format!("{unit}.service"))).unwrap();
    let lines = text.lines().filter_map(|line| line.split_once('='));
    lines
        .filter(|(name, _)| *name == key)
        .flat_map(|(_, value)| value.split_whitespace())
        .map(str::to_owned)
        .collect()
}

/// The system calls that systemd means by each of its names.
fn groups() -> BTreeMap<String, Vec<String>> {
    let output = Command::new("systemd-analyze")
        .args(["syscall-filter", "--no-pager"])
        .output()
        .unwrap();
    let mut groups: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut group = String::new();
    for line in String::from_utf8(output.stdout).unwrap().lines() {
        let name = line.trim();
        if line.starts_with('@') {
            name.clone_into(&mut group);
        } else if !name.is_empty() && !name.starts_with('#') {
            groups
                .entry(group.clone())
                .or_default()
                .push(name.to_owned());
        }
    }
    groups
}

fn expand(name: &str, groups: &BTreeMap<String, Vec<String>>) -> BTreeSet<String> {
    match groups.get(name) {
        None => BTreeSet::from([name.to_owned()]),
        Some(parts) => parts.iter().flat_map(|part| expand(part, groups)).collect(),
    }
}

/// The system calls that the filter of a unit lets pass.
fn let_pass(unit: &str) -> BTreeSet<String> {
    let groups = groups();
    let mut calls = BTreeSet::new();
    let mut takes = false;
    for word in values(unit, "SystemCallFilter") {
        // A line that begins with a tilde takes away, as a whole.
        let name = word.strip_prefix('~');
        takes = name.is_some() || (takes && word != "@system-service");
        let meant = expand(name.unwrap_or(&word), &groups);
        if takes {
            calls.retain(|call| !meant.contains(call));
        } else {
            calls.extend(meant);
        }
    }
    calls
}

/// What a unit would have refused of a record of strace.
fn refused(unit: &str, record: &str) -> BTreeSet<String> {
    let calls = let_pass(unit);
    let families = values(unit, "RestrictAddressFamilies");
    let mut refused = BTreeSet::new();
    for line in record.lines() {
        let Some((_, call)) = line.trim_start().split_once(' ') else {
            continue;
        };
        let Some((name, arguments)) = call.trim_start().split_once('(') else {
            continue;
        };
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        if !name.chars().all(plain) {
            continue;
        }
        if !calls.contains(name) {
            refused.insert(name.to_owned());
        }
        let family = arguments.split([',', ')']).next().unwrap();
        if name == "socket" && !families.iter().any(|known| known == family) {
            refused.insert(format!("socket {family}"));
        }
        let makes_code = name == "mprotect" || (name == "mmap" && arguments.contains("PROT_WRITE"));
        if makes_code && arguments.contains("PROT_EXEC") {
            refused.insert(format!("{name} of memory that is code"));
        }
        if name.starts_with("clone") && arguments.contains("CLONE_NEW") {
            refused.insert("a namespace".to_owned());
        }
    }
    refused
}

#[test]
fn what_a_unit_forbids_is_seen_in_a_record() {
    if !told("records", &["systemd-analyze"]) {
        return;
    }
    let record = "7 openat(AT_FDCWD, \"/proc/stat\", O_RDONLY) = 3\n\
                  7 mount(\"a\", \"b\") = 0\n\
                  8 <... epoll_wait resumed>) = 1\n\
                  8 socket(AF_PACKET, SOCK_RAW) = 4\n\
                  8 socket(AF_INET, SOCK_STREAM) = 4\n\
                  8 mprotect(0x1, 4096, PROT_READ|PROT_EXEC) = 0\n\
                  8 chown(\"a\", 0, 0) = 0\n\
                  8 +++ exited with 0 +++\n";
    let seen: Vec<String> = refused("plimsoll-aggregator", record).into_iter().collect();
    assert_eq!(
        seen,
        [
            "chown",
            "mount",
            "mprotect of memory that is code",
            "socket AF_PACKET"
        ]
    );
}

/// A program under strace.
fn traced(name: &str, record: &Path) -> Command {
    let mut command = Command::new("strace");
    command.args(["-f", "-qq", "-s", "8", "-o"]).arg(record);
    command.arg(program(name));
    command
}

/// Tells the program that is traced to end, and waits until it has.
fn end(record: &Path) {
    let text = std::fs::read_to_string(record).unwrap();
    let pid = text.split_whitespace().next().unwrap();
    let told = rustix::process::Pid::from_raw(pid.parse().unwrap()).unwrap();
    rustix::process::kill_process(told, rustix::process::Signal::TERM).unwrap();
    wait_until("the end of the program", LIMIT, || {
        Ok((!Path::new("/proc").join(pid).exists()).then_some(()))
    })
    .unwrap();
}

#[test]
fn the_programs_need_nothing_that_their_units_forbid() {
    if !told("system calls", &["systemd-analyze", "strace"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let of_aggregator = dir.path().join("aggregator.strace");
    let mut aggregator = traced("plimsoll-aggregator", &of_aggregator);
    aggregator.args(["run", "--listen", "127.0.0.1:0", "--interval", "1s"]);
    aggregator.arg("--data-dir").arg(dir.path().join("data"));
    let (house, address) = listening(&mut aggregator);
    let url = format!("http://{address}");

    let of_agent = dir.path().join("agent.strace");
    let mut agent = traced("plimsoll-agent", &of_agent);
    agent.args(["run", "--interval", "1s", "--aggregator", &url]);
    agent.arg("--state-dir").arg(dir.path().join("state"));
    let agent = Running(agent.stderr(Stdio::null()).spawn().unwrap());
    wait_until("a reading of the node", LIMIT, || {
        let of_memory = ["--json", "series", "--metric", "host.mem.available"];
        let series = asked_json(&url, &of_memory);
        Ok((!series.as_array().unwrap().is_empty()).then_some(()))
    })
    .unwrap();
    end(&of_agent);
    end(&of_aggregator);
    drop(agent);
    drop(house);
    for (unit, record) in [
        ("plimsoll-agent", &of_agent),
        ("plimsoll-aggregator", &of_aggregator),
    ] {
        let text = std::fs::read_to_string(record).unwrap();
        assert!(text.lines().count() > 500, "{unit}: too little was seen");
        assert_eq!(refused(unit, &text), BTreeSet::new(), "{unit}");
    }
}

#[test]
fn each_user_of_a_unit_is_made_and_each_program_is_built() {
    let users = std::fs::read_to_string(packaging().join("plimsoll.sysusers")).unwrap();
    for unit in UNITS {
        let user = values(unit, "User");
        assert!(users.contains(&format!("u {} ", user[0])), "{user:?}");
        let command = values(unit, "ExecStart");
        assert_eq!(command[0], format!("/usr/bin/{unit}"));
        assert!(program(unit).is_file());
    }
}
