//! The reason for it all: what is said before a migration, held against what came of it.

use std::collections::BTreeSet;
use std::time::Duration;

use plimsoll_tests::TOTAL_ERROR_MAX;
use plimsoll_tests::cloud::Cloud;
use plimsoll_tests::guest::{Guest, PageSet, Pattern};
use plimsoll_tests::stage::{MigrateOptions, Migration, StageConfig, turn, wait_until};
use serde_json::Value;
use uuid::Uuid;

use crate::house::programs;

const MIB: u32 = 1 << 20;
/// A machine with two cores that do something else as well may spoil a run, so the median of an odd number
/// of moves is judged; each is told.
const MOVES: usize = 3;
/// More than a guest of one processor can spend in a second: its own, and as much again for QEMU's thread
/// that sends.
const CPU_RATE_MAX_NS: f64 = 2.2e9;

fn guest(name: &str, pattern: Pattern) -> Guest {
    Guest {
        name: name.to_owned(),
        uuid: Uuid::new_v4(),
        memory_mib: 256,
        vcpus: 1,
        fill_bytes: 128 * MIB,
        pattern,
        seed: 11,
    }
}

fn writes(mib: u32, rate_mib: u32) -> Pattern {
    Pattern::Uniform(PageSet {
        working_set_bytes: mib * MIB,
        pages_per_second: rate_mib * 256,
    })
}

/// Moves the guest that is said to end, from one node to the other; returns the record of it.
fn move_busy(cloud: &Cloud, from: usize, to: usize) -> Value {
    let (source, target) = (
        cloud.stage().node(from).unwrap(),
        cloud.stage().node(to).unwrap(),
    );
    let known = cloud.migrations("busy").len();
    let said = cloud.estimate("busy", &["--to", target.name()]).unwrap();
    assert_eq!(said["verdict"], "VERDICT_CONVERGES", "{said:#}");
    let options = MigrateOptions::default();
    let moved = cloud
        .stage()
        .migrate_named("busy", source, target, &options)
        .unwrap();
    let Migration::Completed(figures) = moved else {
        panic!("busy stayed: {moved:?}")
    };
    let busy = cloud.ended("busy", known).unwrap();
    let (was, error) = (&busy["outcome"], &busy["error"]);
    assert_eq!(was["end"], "MIGRATION_END_COMPLETED", "{busy:#}");
    assert_eq!(error["verdict_right"], true, "{busy:#}");
    // The source's count, which is stored, and the target's, which virsh tells, end moments apart.
    let told = was["total_ms"].as_u64().unwrap();
    assert!(
        told.abs_diff(figures.time_elapsed_ms.unwrap()) <= 100,
        "{figures:?}; {busy:#}"
    );
    for figure in ["downtime_ms", "memory_processed_bytes", "iteration_count"] {
        assert!(was[figure].is_number(), "no {figure}: {busy:#}");
    }
    busy
}

/// The values of a counter of `busy`, or its growth: one series for each node and each QEMU on it.
fn cpu_time(cloud: &Cloud, rate: bool) -> Vec<Value> {
    let mut question = vec![
        "series",
        "busy",
        "--metric",
        "vm.cpu.time",
        "--since",
        "10m",
    ];
    question.extend(rate.then_some("--rate"));
    let told = cloud.ask(&question).unwrap_or_default();
    told.as_array().cloned().unwrap_or_default()
}

fn samples(series: &Value) -> &[Value] {
    series["samples"].as_array().map_or(&[], Vec::as_slice)
}

/// After it has moved, `busy` is a new series on its node, and no rate was made of two QEMUs' counters.
fn appears_without_a_false_rate(cloud: &Cloud, moves: usize) {
    let what = "rates of busy on its last node";
    let rates = wait_until(what, Duration::from_secs(30), || {
        let rates = cpu_time(cloud, true);
        let told = rates.iter().filter(|one| !samples(one).is_empty());
        Ok((told.count() > moves).then_some(rates))
    });
    let rates = rates.unwrap_or_else(|error| panic!("{error}: {:#?}", cpu_time(cloud, true)));
    let nodes: BTreeSet<&str> = rates
        .iter()
        .filter_map(|one| one["node_id"].as_str())
        .collect();
    assert_eq!(nodes.len(), 2, "{rates:#?}");
    let values = cpu_time(cloud, false);
    assert_eq!(values.len(), moves + 1, "one for each QEMU: {values:#?}");
    let firsts: BTreeSet<(&str, i64)> = values
        .iter()
        .filter_map(|one| {
            let begun = samples(one).first()?["end_time_ms"].as_i64()?;
            Some((one["node_id"].as_str()?, begun))
        })
        .collect();
    assert_eq!(firsts.len(), moves + 1, "{values:#?}");
    for one in &rates {
        let node = one["node_id"].as_str().unwrap();
        for sample in samples(one) {
            // In millionths.
            let rate = sample["value"].as_f64().unwrap() / 1e6;
            assert!((0.0..=CPU_RATE_MAX_NS).contains(&rate), "{rate}: {one:#}");
            let end = sample["end_time_ms"].as_i64().unwrap();
            assert!(
                !firsts.contains(&(node, end)),
                "a rate ends at the first value of a QEMU: {one:#}"
            );
        }
    }
}

fn tell(text: &str) {
    // Not through the test harness, which would swallow it.
    drop(std::io::Write::write_fmt(
        &mut std::io::stderr(),
        format_args!("{text}\n"),
    ));
}

fn summary(busy: &Value) -> String {
    let (said, was) = (&busy["prediction"], &busy["outcome"]);
    format!(
        "busy: total said {} was {} ({:+.0} %), downtime said {} was {}, bytes said {} was {}",
        said["total_ms"],
        was["total_ms"],
        busy["error"]["total_error_ratio"]
            .as_f64()
            .unwrap_or(f64::NAN)
            * 100.0,
        said["downtime_ms"],
        was["downtime_ms"],
        said["wire_bytes"],
        was["memory_processed_bytes"],
    )
}

/// The errors of `busy`'s moves and of the wild guest's are added up for whoever asks.
fn errors_are_published(cloud: &Cloud, moves: usize) {
    let told = cloud.ask(&["accuracy"]).unwrap();
    let overall = &told[0];
    assert_eq!(overall["migration_count"], moves + 1, "{told:#}");
    let own = &overall["formulas"][0];
    assert_eq!(own["name"], "plimsoll-rounds", "{told:#}");
    assert_eq!(own["total_error_ratio"]["count"], moves, "{told:#}");
    assert_eq!(own["verdict_right_count"], moves + 1, "{told:#}");
    assert!(
        overall["formulas"].as_array().unwrap().len() > 1,
        "the baselines: {told:#}"
    );
    tell(&cloud.ask_in_words(&["accuracy"]).unwrap());
}

#[test]
fn a_converging_and_a_wild_guest_are_each_called_right_before_they_move() {
    let Some(_turn) = turn("a_converging_and_a_wild_guest_are_each_called_right_before_they_move")
    else {
        return;
    };
    let cloud = Cloud::raise(&StageConfig::default(), &programs(), None).unwrap();
    let node = cloud.stage().node(0).unwrap();
    let target = cloud.stage().node(1).unwrap();
    // One after the other: on two cores a wild guest would slow the sender.
    node.define_and_start(&guest("wild", writes(112, 100)))
        .unwrap();
    let wild = cloud.estimate("wild", &["--to", target.name()]).unwrap();
    assert_eq!(wild["verdict"], "VERDICT_DOES_NOT_CONVERGE", "{wild:#}");
    let options = MigrateOptions {
        timeout: Duration::from_secs(20),
        ..MigrateOptions::default()
    };
    let stayed = cloud
        .stage()
        .migrate_named("wild", node, target, &options)
        .unwrap();
    assert!(matches!(stayed, Migration::Aborted { .. }), "{stayed:?}");
    let wild = cloud.ended("wild", 0).unwrap();
    assert_eq!(wild["outcome"]["end"], "MIGRATION_END_ABORTED", "{wild:#}");
    assert_eq!(wild["error"]["verdict_right"], true, "{wild:#}");
    node.remove("wild").unwrap();

    node.define_and_start(&guest("busy", writes(16, 4)))
        .unwrap();
    let mut told = Vec::new();
    let mut errors = Vec::new();
    for attempt in 0..MOVES {
        let (from, to) = if attempt % 2 == 0 { (0, 1) } else { (1, 0) };
        let busy = move_busy(&cloud, from, to);
        tell(&summary(&busy));
        told.push(summary(&busy));
        errors.push(busy["error"]["total_error_ratio"].as_f64().unwrap());
        appears_without_a_false_rate(&cloud, told.len());
    }
    errors_are_published(&cloud, told.len());
    errors.sort_by(f64::total_cmp);
    let median = errors[MOVES / 2];
    assert!(
        median.abs() <= TOTAL_ERROR_MAX,
        "the median error of {MOVES} totals is {median:+.2}: {told:#?}"
    );
}
