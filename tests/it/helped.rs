//! The helper measures for an agent that only reads, and what it gives are its own windows: a stranger leaves
//! a result of the same shape before it, and each point is held against what the guest wrote by its own count.

use std::path::PathBuf;
use std::time::Duration;

use plimsoll_model::{Clock as _, SystemClock};
use plimsoll_tests::cloud::{Cloud, Measuring};
use plimsoll_tests::guest::Guest;
use plimsoll_tests::stage::{
    MigrateOptions, Migration, Node, StageConfig, StageError, turn, turn_on_newer, wait_until,
};
use serde_json::Value;

use crate::curve::{SAMPLE_PAGES, judge, points, writer};
use crate::diary::Diary;
use crate::house::programs;

const BELOW_A_SECOND: Duration = Duration::from_millis(500);
const WHOLE: [Duration; 2] = [Duration::from_secs(2), Duration::from_secs(6)];
const LIMIT: Duration = Duration::from_secs(60);
/// What the log of the agent that has lost its helper says.
const NOBODY: &str = "nobody measures at";

fn raise(programs_laid_over: Option<PathBuf>) -> Cloud {
    let config = StageConfig {
        programs: programs_laid_over,
        ..StageConfig::default()
    };
    let measuring = Measuring {
        windows: [&[BELOW_A_SECOND], WHOLE.as_slice()].concat(),
        sample_pages: Some(SAMPLE_PAGES),
        at_once: 1,
        by_helper: true,
    };
    Cloud::raise_measuring(&config, &programs(), None, &measuring).unwrap()
}

fn monitor(node: &Node, guest: &str, command: &str) -> Result<String, StageError> {
    node.virsh(&["qemu-monitor-command", guest, command])
}

/// Has QEMU keep the result of somebody else, over one of our windows with as many pages: 0 MiB/s, for the
/// guest stood still meanwhile.
fn leave_a_stranger_s_result(node: &Node, guest: &str) {
    node.virsh(&["suspend", guest]).unwrap();
    let begin = format!(
        r#"{{"execute":"calc-dirty-rate","arguments":{{"calc-time":2,"sample-pages":{SAMPLE_PAGES}}}}}"#
    );
    wait_until("a stranger's measurement", LIMIT, || {
        // Refused while the helper measures.
        let told = monitor(node, guest, &begin)?;
        Ok((!told.contains("error")).then_some(()))
    })
    .unwrap();
    let told = wait_until("a stranger's result", LIMIT, || {
        let told = monitor(node, guest, r#"{"execute":"query-dirty-rate"}"#)?;
        Ok(told.contains(r#""measured""#).then_some(told))
    })
    .unwrap();
    assert!(told.contains(r#""dirty-rate":0"#), "{told}");
    node.virsh(&["resume", guest]).unwrap();
}

/// Begins a guest beside a stranger's result and judges the windows that can be measured here.
fn measured(cloud: &Cloud, guest: &Guest, windows: &[Duration]) {
    let node = cloud.stage().node(0).unwrap();
    node.define_and_start(guest).unwrap();
    let diary = Diary::begin(node, &[&guest.name]);
    leave_a_stranger_s_result(node, &guest.name);
    let judged = judge(cloud, &diary, guest, 2, windows);
    assert!(judged.iter().all(|one| one.rate_mib > 0.0), "{judged:?}");
    let ways: Vec<i64> = judged.iter().map(|one| one.window_ms).collect();
    let is_wanted = |window: &i64| {
        windows
            .iter()
            .any(|one| one.as_millis() == u128::from(window.unsigned_abs()))
    };
    assert!(ways.iter().all(is_wanted), "{ways:?}");
    // Each stands in the helper's log, so nobody else has measured it.
    let log = cloud.log("dirty-helper-0").unwrap();
    let told = log.matches(" measured ").count();
    assert!(told >= judged.len(), "{told} of {judged:?}: {log}");
}

/// Without the helper nothing is measured any more: the agent itself only reads.
fn ends_with_the_helper(cloud: &Cloud, guest: &str) {
    cloud.stop("dirty-helper-0").unwrap();
    let stopped_ms = SystemClock::new().now().millis();
    wait_until("the agent to miss its helper", LIMIT, || {
        Ok(cloud.log("agent-0")?.contains(NOBODY).then_some(()))
    })
    .unwrap();
    let late = points(cloud, guest);
    let late: Vec<_> = late
        .iter()
        .filter(|one| one.began_ms > stopped_ms)
        .collect();
    assert!(late.is_empty(), "{late:?}");
}

#[test]
fn an_agent_that_only_reads_gets_its_curve_of_the_helper_and_takes_no_stranger_s_result_for_it() {
    let story = "an_agent_that_only_reads_gets_its_curve_of_the_helper_and_takes_no_stranger_s_result_for_it";
    let Some(_turn) = turn(story) else {
        return;
    };
    let cloud = raise(None);
    let guest = writer("helped", 160, 20);
    measured(&cloud, &guest, &WHOLE);
    // QEMU 7.2 knows no milliseconds: that window is refused, and keeps the others not back.
    let log = cloud.log("dirty-helper-0").unwrap();
    assert!(
        log.contains("a window of 500ms cannot be measured this way"),
        "{log}"
    );
    ends_with_the_helper(&cloud, "helped");
}

/// What a node told of a migration.
type Side = (String, String);

/// The roles in which nodes told of the beginning of a migration, and how they said it ended.
fn sides(cloud: &Cloud) -> (Vec<Side>, Vec<Side>) {
    let told = cloud
        .ask(&["events", "--domain", "helped", "--since", "10m"])
        .unwrap();
    let of = |kind: &str, what: &str| {
        let all = told
            .as_array()
            .unwrap()
            .iter()
            .filter(|event| event["kind"] == kind);
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let mut sides: Vec<Side> = all
            .map(|event| (text(&event["node_id"]), text(&event["what"][what])))
            .collect();
        sides.sort();
        sides.dedup();
        sides
    };
    (
        of("migration_started", "role"),
        of("migration_ended", "end"),
    )
}

/// Moves the guest, and asserts that both nodes told of it and the guest is seen where it went.
fn move_and_see(cloud: &Cloud, guest: &Guest) {
    let stage = cloud.stage();
    let moved = stage
        .migrate_live(guest, 0, 1, &MigrateOptions::default())
        .unwrap();
    let Migration::Completed(figures) = moved else {
        panic!("it stayed: {moved:?}")
    };
    let row = cloud.ended(&guest.name, 0).unwrap();
    let was = &row["outcome"];
    assert_eq!(was["end"], "MIGRATION_END_COMPLETED", "{row:#}");
    let told = was["total_ms"].as_u64().unwrap();
    let figure = figures.time_elapsed_ms.unwrap();
    // The source's count and the target's end moments apart, and a busy machine stretches moments.
    assert!(told.abs_diff(figure) <= 1_000, "{figures:?}; {row:#}");
    for figure in ["downtime_ms", "memory_processed_bytes", "iteration_count"] {
        assert!(was[figure].is_number(), "no {figure}: {row:#}");
    }
    let [source, target] = [0, 1].map(|index| stage.node(index).unwrap().uuid().to_string());
    let side = |node: &str, what: &str| (node.to_owned(), what.to_owned());
    let mut roles = vec![
        side(&source, "MIGRATION_ROLE_SOURCE"),
        side(&target, "MIGRATION_ROLE_TARGET"),
    ];
    roles.sort();
    let (started, ended) = wait_until("both ends of the migration", LIMIT, || {
        let told = sides(cloud);
        Ok((told.0.len() >= 2 && !told.1.is_empty()).then_some(told))
    })
    .unwrap_or_else(|error| panic!("{error}: {:#?}", cloud.ask(&["events"])));
    assert_eq!(started, roles);
    assert!(
        ended
            .iter()
            .all(|(_, end)| end == "MIGRATION_END_COMPLETED"),
        "{ended:?}"
    );
    wait_until("samples of the guest on its new node", LIMIT, || {
        let told = cloud.ask(&["series", &guest.name]).unwrap_or_default();
        let told = told.as_array().cloned().unwrap_or_default();
        let is_there = |one: &Value| one["node_id"] == *target && one["metric"] == "vm.cpu.time";
        Ok(told.iter().any(is_there).then_some(()))
    })
    .unwrap();
    let said = format!("moved on newer daemons: {was}\n");
    drop(std::io::Write::write_all(
        &mut std::io::stderr(),
        said.as_bytes(),
    ));
}

#[test]
fn newer_daemons_are_measured_below_a_second_and_seen_at_both_ends_of_a_migration() {
    let story = "newer_daemons_are_measured_below_a_second_and_seen_at_both_ends_of_a_migration";
    let Some((_turn, newer)) = turn_on_newer(story) else {
        return;
    };
    let cloud = raise(Some(newer));
    let node = cloud.stage().node(0).unwrap();
    let versions = node.virsh(&["version"]).unwrap();
    for release in ["libvirt 11.", "QEMU 10."] {
        assert!(versions.contains(release), "{release}: {versions}");
    }
    let guest = writer("helped", 160, 20);
    let windows = [&[BELOW_A_SECOND], WHOLE.as_slice()].concat();
    measured(&cloud, &guest, &windows);
    move_and_see(&cloud, &guest);
}
