//! What the agent says it sees, held against what /proc and `virsh domstats` say before and after.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use plimsoll_model::{Clock as _, SystemClock};
use plimsoll_tests::cloud::Cloud;
use plimsoll_tests::guest::{Guest, Pattern};
use plimsoll_tests::stage::{Node, StageConfig, turn, turn_on_newer, wait_until};
use serde_json::Value;
use uuid::Uuid;

use crate::house::{aggregator, program, programs};

const MIB: u32 = 1 << 20;
/// The name of the guest's network card on its node, which changes when it moves.
const CARD: &str = "seen0";
/// Its hardware address, by which its series are named.
const MAC: &str = "52:54:00:00:00:01";
/// Resident memory of QEMU, as virsh calls it.
const RSS: &str = "balloon.rss";
/// How far resident memory may lie beyond what it was before and after: some stacks of threads.
const SLACK_BYTES: u64 = 8 << 20;
const LIMIT: Duration = Duration::from_secs(60);

/// Field of `virsh domstats`, metric, part, factor. All of them grow or stay, or waver
/// within [`SLACK_BYTES`] as the memory of a process does.
const DOMSTATS: [(&str, &str, &str, u64); 18] = [
    ("state.state", "vm.state", "", 1),
    ("cpu.time", "vm.cpu.time", "", 1),
    ("cpu.user", "vm.cpu.user", "", 1),
    ("cpu.system", "vm.cpu.system", "", 1),
    ("vcpu.current", "vm.vcpu.count", "", 1),
    ("vcpu.maximum", "vm.vcpu.max", "", 1),
    ("balloon.current", "vm.mem.current", "", 1024),
    ("balloon.maximum", "vm.mem.max", "", 1024),
    ("vcpu.0.time", "vm.vcpu.time", "0", 1),
    ("block.0.rd.reqs", "vm.block.rd.reqs", "vda", 1),
    ("block.0.rd.bytes", "vm.block.rd.bytes", "vda", 1),
    ("block.0.wr.bytes", "vm.block.wr.bytes", "vda", 1),
    ("block.0.capacity", "vm.block.capacity", "vda", 1),
    ("net.0.rx.bytes", "vm.net.rx.bytes", MAC, 1),
    ("net.0.rx.pkts", "vm.net.rx.packets", MAC, 1),
    ("net.0.tx.bytes", "vm.net.tx.bytes", MAC, 1),
    ("net.0.tx.pkts", "vm.net.tx.packets", MAC, 1),
    (RSS, "vm.mem.rss", "", 1024),
];

fn run(command: &mut Command) -> (Option<i32>, String) {
    let output = command.output().unwrap();
    let err = String::from_utf8_lossy(&output.stderr).into_owned();
    let out = String::from_utf8(output.stdout).unwrap();
    assert!(!out.is_empty(), "{command:?}: {err}");
    (output.status.code(), out)
}

fn json(command: &mut Command) -> Value {
    serde_json::from_str(&run(command).1).unwrap()
}

fn agent(order: &str, dir: &Path) -> Command {
    let mut command = Command::new(program("plimsoll-agent"));
    command.arg(order).arg("--state-dir").arg(dir.join("state"));
    command
}

/// The value of a metric in what `once` printed or in what `plimsoll series` answered.
fn value(readings: &Value, metric: &str, part: &str) -> Option<u64> {
    let mut all = readings.as_array().unwrap().iter();
    let found = all.find(|reading| reading["metric"] == metric && reading["part"] == part);
    found.and_then(|reading| reading["value"].as_u64())
}

fn kib_of_meminfo(name: &str) -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap();
    let line = text.lines().find(|line| line.starts_with(name)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Processor time in user mode of processor 0, in the ns that /proc/stat counts in steps of 10 ms.
fn user_ns() -> u64 {
    let text = std::fs::read_to_string("/proc/stat").unwrap();
    let line = text.lines().find(|line| line.starts_with("cpu0 ")).unwrap();
    let ticks: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    ticks * 10_000_000
}

#[test]
fn one_look_prints_what_proc_says_as_json_and_as_text() {
    let dir = tempfile::tempdir().unwrap();
    let absent = ["--libvirt-socket", "/nonexistent/libvirt-sock"];
    let before = user_ns();
    let seen = json(
        agent("once", dir.path())
            .args(absent)
            .args(["--format", "json"]),
    );
    let after = user_ns();
    let readings = &seen["readings"];
    let total = kib_of_meminfo("MemTotal:") * 1024;
    assert_eq!(
        value(readings, "host.mem.total", ""),
        Some(total),
        "{seen:#}"
    );
    let user = value(readings, "host.cpu.time.user", "0").unwrap();
    assert!((before..=after).contains(&user), "{before} {user} {after}");
    assert_eq!(value(readings, "host.libvirt.up", ""), Some(0));
    let (code, text) = run(agent("once", dir.path()).args(absent));
    assert_eq!(code, Some(0));
    assert!(
        text.contains(&format!("\nnode host.mem.total {total} B\n")),
        "{text}"
    );
}

#[test]
fn the_doctor_names_what_is_missing_and_how_to_mend_it_and_is_content_with_a_host_alone() {
    let dir = tempfile::tempdir().unwrap();
    let mut ill = agent("doctor", dir.path());
    ill.args(["--libvirt-socket", "/nonexistent/libvirt-sock"]);
    let (code, text) = run(ill.args(["--aggregator", "http://127.0.0.1:1"]));
    assert_eq!(code, Some(1), "{text}");
    for words in [
        "FAIL libvirt",
        "/nonexistent/libvirt-sock",
        "FAIL aggregator",
        "127.0.0.1:1",
    ] {
        assert!(text.contains(words), "{words}: {text}");
    }
    let failures = text.matches("FAIL").count() + text.matches("WARN").count();
    assert_eq!(
        text.matches("-> ").count(),
        failures,
        "each has a remedy: {text}"
    );

    let (_house, url) = aggregator(&dir.path().join("data"));
    let config = dir.path().join("agent.toml");
    let node = Uuid::new_v4();
    let told =
        format!("aggregator = {url:?}\n[node]\nid = \"{node}\"\n[libvirt]\nenabled = false\n");
    std::fs::write(&config, told).unwrap();
    let mut well = agent("doctor", dir.path());
    let (code, text) = run(well.arg("--config").arg(&config).args(["--format", "json"]));
    assert_eq!(code, Some(0), "{text}");
    let report: Value = serde_json::from_str(&text).unwrap();
    let findings = report["findings"].as_array().unwrap();
    let verdict = |check: &str| {
        let found = findings.iter().find(|finding| finding["check"] == check);
        found.unwrap()["verdict"].clone()
    };
    for check in ["identity", "libvirt", "state", "aggregator"] {
        assert_eq!(verdict(check), "ok", "{check}: {text}");
    }
}

/// The statistics of a guest, as virsh prints them.
fn domstats(node: &Node, guest: &str) -> BTreeMap<String, String> {
    let text = node.virsh(&["domstats", guest]).unwrap();
    let fields = text.lines().filter_map(|line| line.trim().split_once('='));
    fields
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

/// Asserts that each reading lies between the statistics taken before and after it.
fn lies_between(
    readings: &Value,
    before: &BTreeMap<String, String>,
    after: &BTreeMap<String, String>,
) {
    for (field, metric, part, factor) in DOMSTATS {
        let told = |stats: &BTreeMap<String, String>| {
            let text = stats
                .get(field)
                .unwrap_or_else(|| panic!("{field}: {stats:#?}"));
            text.parse::<u64>().unwrap() * factor
        };
        let seen = value(readings, metric, part);
        let seen = seen.unwrap_or_else(|| panic!("{metric}[{part}]: {readings:#}"));
        let (mut least, mut most) = (told(before), told(after));
        if field == RSS {
            (least, most) = (least.min(most), least.max(most));
            (least, most) = (least.saturating_sub(SLACK_BYTES), most + SLACK_BYTES);
        }
        assert!(
            (least..=most).contains(&seen),
            "{metric}[{part}]: {least} <= {seen} <= {most}"
        );
    }
}

fn attach_disk(cloud: &Cloud, guest: &str) {
    let image = cloud.stage().directory().join("second.img");
    std::fs::write(&image, vec![0_u8; MIB as usize]).unwrap();
    let path = image.to_str().unwrap();
    let node = cloud.stage().node(0).unwrap();
    node.virsh(&[
        "attach-disk",
        guest,
        path,
        "vda",
        "--targetbus",
        "virtio",
        "--live",
    ])
    .unwrap();
}

/// Adds a network card, and sends something to it, so that its counters are not all zero.
fn attach_card(cloud: &Cloud, guest: &str) {
    let node = cloud.stage().node(0).unwrap();
    let path = cloud.stage().directory().join("card.xml");
    let xml = format!(
        "<interface type='ethernet'><mac address='{MAC}'/><target dev='{CARD}'/>\
         <model type='virtio'/><driver name='qemu'/></interface>"
    );
    std::fs::write(&path, xml).unwrap();
    node.virsh(&["attach-device", guest, path.to_str().unwrap(), "--live"])
        .unwrap();
    let place = node.place();
    for words in [
        vec!["link", "set", CARD, "up"],
        vec!["address", "add", "192.0.2.1/24", "dev", CARD],
        vec![
            "neighbour",
            "add",
            "192.0.2.2",
            "lladdr",
            "52:54:00:00:00:02",
            "dev",
            CARD,
        ],
    ] {
        place.run("ip", &words, LIMIT).unwrap();
    }
    let send = "for i in 1 2 3; do echo hello > /dev/udp/192.0.2.2/9; done";
    place.run("bash", &["-c", send], LIMIT).unwrap();
}

/// Waits until all of a guest's latest readings at the aggregator are younger than `since_ms`.
fn latest_since(cloud: &Cloud, guest: &str, since_ms: i64) -> Value {
    wait_until("readings of the guest", LIMIT, || {
        let readings = cloud.ask(&["series", guest]).unwrap();
        let fresh = DOMSTATS.iter().all(|(_, metric, part, _)| {
            let mut all = readings.as_array().unwrap().iter();
            all.any(|reading| {
                reading["metric"] == *metric
                    && reading["part"] == *part
                    && reading["end_time_ms"].as_i64().unwrap() > since_ms
            })
        });
        Ok(fresh.then_some(readings))
    })
    .unwrap()
}

/// The verdict on the round trip from the guest to a node.
fn latency(cloud: &Cloud, target: &str) -> Option<String> {
    let told = cloud
        .ask(&["feasible", "seen", "--to", target, "--all"])
        .ok()?;
    let findings = told.pointer("/0/findings")?.as_array()?;
    let found = findings.iter().find(|one| one["constraint"] == "latency")?;
    Some(found["outcome"].as_str()?.to_owned())
}

#[test]
fn samples_of_a_guest_equal_what_virsh_says_and_a_new_disk_is_told() {
    let Some(_turn) = turn("samples_of_a_guest_equal_what_virsh_says_and_a_new_disk_is_told")
    else {
        return;
    };
    see(&StageConfig::default());
}

#[test]
fn samples_of_a_guest_equal_what_virsh_says_on_newer_daemons_too() {
    let story = "samples_of_a_guest_equal_what_virsh_says_on_newer_daemons_too";
    let Some((_turn, newer)) = turn_on_newer(story) else {
        return;
    };
    see(&StageConfig {
        programs: Some(newer),
        ..StageConfig::default()
    });
}

fn see(config: &StageConfig) {
    let cloud = Cloud::raise(config, &programs(), None).unwrap();
    let node = cloud.stage().node(0).unwrap();
    let target = cloud.stage().node(1).unwrap();
    let guest = Guest {
        name: "seen".to_owned(),
        uuid: Uuid::new_v4(),
        memory_mib: 256,
        vcpus: 1,
        fill_bytes: 32 * MIB,
        pattern: Pattern::Idle,
        seed: 3,
    };
    node.define_and_start(&guest).unwrap();
    let storage = || {
        let told = cloud.ask(&["feasible", "seen", "--to", target.name(), "--all"]);
        Ok(told
            .ok()
            .map(|told| told.to_string())
            .filter(|told| told.contains("torage")))
    };
    let diskless = wait_until("an opinion on the guest", LIMIT, storage).unwrap();
    wait_until("the round trip between the nodes", LIMIT, || {
        Ok(latency(&cloud, target.name()).filter(|outcome| outcome == "OUTCOME_PASS"))
    })
    .unwrap();
    assert!(!diskless.contains("vda"), "{diskless}");

    attach_card(&cloud, "seen");
    attach_disk(&cloud, "seen");
    wait_until("the new disk to be told", LIMIT, || {
        Ok(storage()?.filter(|told| told.contains("vda")))
    })
    .unwrap();

    let state = cloud.stage().directory().join("once");
    let before = domstats(node, "seen");
    let mut once = node.command(program("plimsoll-agent"));
    once.args(["once", "--format", "json", "--state-dir"])
        .arg(&state);
    let seen = json(&mut once);
    let after = domstats(node, "seen");
    assert_eq!(seen["domains"][0]["name"], "seen", "{seen:#}");
    assert_eq!(seen["node"]["id"], node.uuid().to_string());
    lies_between(&seen["readings"], &before, &after);
    let arrived = value(&seen["readings"], "vm.net.rx.packets", MAC);
    // The guest has no driver for it, so how many of them arrive is not told.
    assert!(arrived >= Some(1), "{arrived:?}");

    let (before, since_ms) = (domstats(node, "seen"), SystemClock::new().now().millis());
    let latest = latest_since(&cloud, "seen", since_ms);
    lies_between(&latest, &before, &domstats(node, "seen"));

    let mut doctor = node.command(program("plimsoll-agent"));
    doctor.args(["doctor", "--libvirt-access", "read-write", "--state-dir"]);
    let (_, text) = run(doctor.arg(&state));
    for words in [
        "1 running, all answer",
        "OK   processes",
        "OK   dirty rates",
    ] {
        assert!(text.contains(words), "{words}: {text}");
    }
}
