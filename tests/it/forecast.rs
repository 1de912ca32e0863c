//! The reason for it all: what is said before a migration, held against what came of it.

use std::path::Path;
use std::time::Duration;

use plimsoll_tests::guest::{Guest, PageSet, Pattern};
use plimsoll_tests::stage::{
    Daemon, HUB_ADDRESS, MigrateOptions, Migration, Stage, StageConfig, turn, wait_until,
};
use serde_json::Value;
use uuid::Uuid;

use crate::house::program;

const MIB: u32 = 1 << 20;
/// Boot, fill, two windows of the dirty rate for each guest, and two slow cores.
const SEEN_LIMIT: Duration = Duration::from_secs(120);

/// A stage with an aggregator in its hub and an agent on each node.
struct Cloud {
    stage: Stage,
    _daemons: Vec<Daemon>,
}

impl Cloud {
    fn raise() -> Self {
        let stage = Stage::raise(&StageConfig::default()).unwrap();
        let data = stage.directory().join("aggregator-data");
        let mut daemons = Vec::new();
        let aggregator =
            stage.spawn_in_hub("aggregator", program("plimsoll-aggregator"), |command| {
                command.args([
                    "run",
                    "--allow-plaintext-listen",
                    "--interval",
                    "2s",
                    "--listen",
                ]);
                command
                    .arg(format!("{HUB_ADDRESS}:7077"))
                    .arg("--data-dir")
                    .arg(&data);
            });
        daemons.push(aggregator.unwrap());
        for index in 0..2 {
            let config = agent_config(&stage, index);
            let agent = stage.spawn_in_node(
                index,
                &format!("agent-{index}"),
                program("plimsoll-agent"),
                |command| {
                    command.args(["run", "--config"]).arg(&config);
                },
            );
            daemons.push(agent.unwrap());
        }
        Self {
            stage,
            _daemons: daemons,
        }
    }

    fn ask(&self, args: &[&str]) -> Result<Value, String> {
        let mut command = self.stage.hub_command(program("plimsoll")).unwrap();
        command
            .args(["--json", "--server"])
            .arg(format!("http://{HUB_ADDRESS}:7077"))
            .args(args);
        let output = command.output().unwrap();
        if output.status.success() {
            Ok(serde_json::from_slice(&output.stdout).unwrap())
        } else {
            Err(String::from_utf8_lossy(&output.stderr).into_owned())
        }
    }

    /// Asks until the answer names both windows of the guest's dirty rate.
    fn estimate(&self, guest: &str) -> Value {
        let what = format!("an estimate of {guest} from two windows");
        let asked = wait_until(&what, SEEN_LIMIT, || {
            let answer = self.ask(&["estimate", guest, "--to", "node-b"]).ok();
            Ok(answer.filter(|answer| dirty_windows(answer) >= 2))
        });
        asked.unwrap_or_else(|error| {
            let last = self.ask(&["estimate", guest, "--to", "node-b"]);
            panic!("{error}; last answer: {last:#?}; {}", self.logs())
        })
    }

    fn ended(&self, guest: &str) -> Value {
        let found = wait_until(
            "the outcome of the migration",
            Duration::from_secs(20),
            || {
                let all = self.ask(&["migrations"]).unwrap_or_default();
                let mut rows = all.as_array().cloned().unwrap_or_default().into_iter();
                Ok(rows.find(|row| row["domain_name"] == guest && !row["outcome"].is_null()))
            },
        );
        found.unwrap_or_else(|error| {
            panic!("{error}; {:#?}; {}", self.ask(&["migrations"]), self.logs())
        })
    }

    fn logs(&self) -> String {
        self._daemons
            .iter()
            .map(|one| format!("{}: {}\n", one.name(), one.log().unwrap_or_default()))
            .collect()
    }
}

fn dirty_windows(answer: &Value) -> usize {
    let inputs = answer["envelope"]["inputs"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    let dirty = |input: &&Value| {
        input["name"]
            .as_str()
            .is_some_and(|n| n.starts_with("vm.dirty.rate"))
    };
    inputs.iter().filter(dirty).count()
}

fn agent_config(stage: &Stage, index: usize) -> std::path::PathBuf {
    let directory: &Path = stage.directory();
    let path = directory.join(format!("agent-{index}.toml"));
    let state = directory.join(format!("agent-{index}-state"));
    let node = stage.node(index).unwrap().uuid();
    let text = format!(
        "aggregator = \"http://{HUB_ADDRESS}:7077\"\nstate_dir = {state:?}\ninterval = \"2s\"\n\
         [node]\nid = \"{node}\"\n[libvirt]\naccess = \"read-write\"\n[migration]\nbandwidth = \"400Mbit/s\"\n\
         [dirty]\nwindows = [\"1s\", \"3s\"]\nevery = \"10s\"\n"
    );
    std::fs::write(&path, text).unwrap();
    path
}

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

#[test]
fn a_converging_and_a_wild_guest_are_each_called_right_before_they_move() {
    let Some(_turn) = turn("a_converging_and_a_wild_guest_are_each_called_right_before_they_move")
    else {
        return;
    };
    let cloud = Cloud::raise();
    let writes = |mib: u32, rate_mib: u32| {
        Pattern::Uniform(PageSet {
            working_set_bytes: mib * MIB,
            pages_per_second: rate_mib * 256,
        })
    };
    let node = cloud.stage.node(0).unwrap();
    node.define_and_start(&guest("busy", writes(16, 4)))
        .unwrap();
    node.define_and_start(&guest("wild", writes(112, 100)))
        .unwrap();

    let busy = cloud.estimate("busy");
    let wild = cloud.estimate("wild");
    assert_eq!(busy["verdict"], "VERDICT_CONVERGES", "{busy:#}");
    assert_eq!(wild["verdict"], "VERDICT_DOES_NOT_CONVERGE", "{wild:#}");

    // Measured alone: on two cores a wild guest would slow the sender.
    let options = MigrateOptions {
        timeout: Duration::from_secs(20),
        ..MigrateOptions::default()
    };
    let stayed = cloud
        .stage
        .migrate_named("wild", node, cloud.stage.node(1).unwrap(), &options)
        .unwrap();
    assert!(matches!(stayed, Migration::Aborted { .. }), "{stayed:?}");
    let wild = cloud.ended("wild");
    assert_eq!(wild["outcome"]["end"], "MIGRATION_END_ABORTED", "{wild:#}");
    assert_eq!(wild["error"]["verdict_right"], true, "{wild:#}");
    node.remove("wild").unwrap();

    let moved = cloud
        .stage
        .migrate_named("busy", node, cloud.stage.node(1).unwrap(), &options)
        .unwrap();
    let Migration::Completed(figures) = moved else {
        panic!("busy stayed: {moved:?}")
    };
    let busy = cloud.ended("busy");
    let (said, was, error) = (&busy["prediction"], &busy["outcome"], &busy["error"]);
    let summary = format!(
        "busy: total said {} was {}, downtime said {} was {}, verdict right {}",
        said["total_ms"],
        was["total_ms"],
        said["downtime_ms"],
        was["downtime_ms"],
        error["verdict_right"]
    );
    assert_eq!(was["end"], "MIGRATION_END_COMPLETED", "{busy:#}");
    // The source's count, which is stored, and the target's, which virsh tells, end moments apart.
    let told = was["total_ms"].as_u64().unwrap();
    assert!(
        told.abs_diff(figures.time_elapsed_ms.unwrap()) <= 100,
        "{figures:?}; {summary}"
    );
    assert_eq!(error["verdict_right"], true, "{summary}");
    assert!(error["total_error_ratio"].is_number(), "{summary}");
    drop(std::io::Write::write_fmt(
        &mut std::io::stderr(),
        format_args!("{summary}\n"),
    ));
}
