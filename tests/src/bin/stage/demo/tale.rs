//! What the demo does: two guests, two predictions, two migrations, one table.
//!
//! Not here: what to do when it is interrupted (see `demo`).

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use plimsoll_tests::TOTAL_ERROR_MAX;
use plimsoll_tests::cloud::Cloud;
use plimsoll_tests::guest::{Guest, PAGE_BYTES, PageSet, Pattern};
use plimsoll_tests::stage::{MigrateOptions, Migration, StageConfig};
use serde_json::Value;

use super::table::{self, Row};
use crate::say;

/// Slow enough that a guest outruns it without taking the cores from the one who sends.
const LINK_MBIT: u32 = 200;
/// After this a migration is aborted, and the prediction was made for that.
const TIMEOUT: Duration = Duration::from_secs(25);
const MIB: u32 = 1 << 20;

/// A guest of the demo, and what it is there to show.
struct Part {
    name: &'static str,
    working_set_mib: u32,
    rate_mib_s: u32,
}

const PARTS: [Part; 2] = [
    Part {
        name: "calm",
        working_set_mib: 16,
        rate_mib_s: 2,
    },
    Part {
        name: "wild",
        working_set_mib: 112,
        rate_mib_s: 60,
    },
];

impl Part {
    fn guest(&self) -> Guest {
        let pattern = Pattern::Uniform(PageSet {
            working_set_bytes: self.working_set_mib * MIB,
            pages_per_second: self.rate_mib_s * (MIB / PAGE_BYTES),
        });
        let mut guest = Guest::new(self.name, 256, pattern);
        guest.fill_bytes = 128 * MIB;
        guest
    }
}

/// Tells the tale to its end; success means that both guests were called right.
pub(super) fn tell(base: &Path, programs: &Path) -> anyhow::Result<ExitCode> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    say(&format!(
        "Two nodes, real libvirt and QEMU, guests emulated (TCG, no KVM) on {cores} cores, \
         a link of {LINK_MBIT} Mbit/s.\n"
    ))?;
    let cloud = Cloud::raise(
        &StageConfig {
            nodes: 2,
            link_mbit: LINK_MBIT,
            base: base.to_owned(),
            programs: None,
        },
        programs,
        None,
    )?;
    let target = cloud.stage().node(1)?.name().to_owned();
    start_guests(&cloud)?;
    say(&format!(
        "\n$ plimsoll nodes\n{}",
        cloud.ask_in_words(&["nodes"])?
    ))?;
    let mut said = Vec::new();
    for part in &PARTS {
        said.push(predict(&cloud, part, &target)?);
    }
    let mut rows = Vec::new();
    for (part, said) in PARTS.iter().zip(said) {
        rows.push(migrate(&cloud, part, said)?);
    }
    say(&table::render(&rows))?;
    let right = rows.iter().filter(|row| row.is_right()).count();
    say(&format!(
        "{right} of {} guests were called right (verdict, and total within {:.0} %); taking everything down",
        rows.len(),
        TOTAL_ERROR_MAX * 100.0
    ))?;
    cloud.fall().context("the stage did not fall")?;
    Ok(if rows.iter().all(Row::is_right) {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn start_guests(cloud: &Cloud) -> anyhow::Result<()> {
    let node = cloud.stage().node(0)?;
    for part in &PARTS {
        node.define_and_start(&part.guest())?;
        say(&format!(
            "guest {} runs on {}: 256 MiB, writes {} MiB/s over {} MiB",
            part.name,
            node.name(),
            part.rate_mib_s,
            part.working_set_mib
        ))?;
    }
    Ok(())
}

/// Waits until the dirty rate of a guest is known, and asks what a migration would cost.
fn predict(cloud: &Cloud, part: &Part, target: &str) -> anyhow::Result<Value> {
    say(&format!("Waiting for dirty rates of {}:", part.name))?;
    let timeout_s = TIMEOUT.as_secs().to_string();
    let question = ["--to", target, "--timeout-s", timeout_s.as_str()];
    let (said, _) = cloud.estimate_telling(part.name, &question, |window_ms, rate| {
        // A closed output ends the demo at the next sentence that matters.
        say(&format!("  window of {window_ms} ms: {rate}")).ok();
    })?;
    let words: Vec<&str> = ["estimate", part.name]
        .iter()
        .chain(&question)
        .copied()
        .collect();
    let answer = cloud.ask_in_words(&words)?;
    say(&format!("$ plimsoll {}\n{answer}", words.join(" ")))?;
    Ok(said)
}

fn migrate(cloud: &Cloud, part: &Part, said: Value) -> anyhow::Result<Row> {
    let (from, to) = (cloud.stage().node(0)?, cloud.stage().node(1)?);
    say(&format!(
        "Moving {} from {} to {}, {} s at most ...",
        part.name,
        from.name(),
        to.name(),
        TIMEOUT.as_secs()
    ))?;
    let options = MigrateOptions {
        timeout: TIMEOUT,
        ..MigrateOptions::default()
    };
    let moved = cloud.stage().migrate_named(part.name, from, to, &options)?;
    say(match moved {
        Migration::Completed(_) => "  it moved",
        Migration::Aborted { .. } => "  it did not end in time and was aborted",
    })?;
    let ended = cloud.ended(part.name, 0)?;
    Ok(Row {
        name: part.name,
        said,
        moved,
        outcome: ended.get("outcome").cloned().unwrap_or_default(),
    })
}
