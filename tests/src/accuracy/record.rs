//! One migration as it is kept: what was asked, what was said, what came of it; one JSON object a line.

use std::io::Write;
use std::path::Path;

use anyhow::Context;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::design::Setting;

/// Bounds as the aggregator tells them.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Bounds {
    /// One in ten lies below.
    pub p10: f64,
    /// The middle.
    pub p50: f64,
    /// One in ten lies above.
    pub p90: f64,
}

/// What an estimator says before a migration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Said {
    /// Who says so.
    pub name: String,
    /// Whether it is likelier to end than not; absent if nothing was said.
    pub converges: Option<bool>,
    /// Total time; absent if it does not end.
    pub total_ms: Option<f64>,
    /// Time in which the guest does not run.
    pub downtime_ms: Option<f64>,
    /// Bytes on the wire.
    pub wire_bytes: Option<f64>,
}

/// What the aggregator said.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// The verdict's name on the wire.
    pub verdict: String,
    /// Chance that it ends.
    pub probability: Option<f64>,
    /// Total time.
    pub total_ms: Option<Bounds>,
    /// Time in which the guest does not run.
    pub downtime_ms: Option<Bounds>,
    /// Bytes on the wire.
    pub wire_bytes: Option<Bounds>,
    /// Where the bounds come from.
    pub calibration: String,
    /// Version of the model.
    pub model: String,
    /// What weakens it.
    pub qualities: Vec<String>,
    /// What it was made from.
    pub inputs: Vec<Value>,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// Whether it ended by itself before the timeout.
    pub converged: bool,
    /// Total time, as libvirt counts it.
    pub total_ms: Option<f64>,
    /// Time in which the guest did not run.
    pub downtime_ms: Option<f64>,
    /// Bytes on the wire.
    pub wire_bytes: Option<f64>,
    /// Passes that the aggregator saw.
    pub iterations: Vec<Value>,
    /// All that the aggregator kept of it.
    pub record: Value,
}

/// What else the machine did meanwhile.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Host {
    /// Processors.
    pub cpus: u32,
    /// Share of their time in which they had nothing to do while the guest moved.
    pub idle_share: f64,
    /// Share of the time in which some task waited for a processor.
    pub pressure_share: f64,
    /// Load average of the last minute, before.
    pub load1: f64,
    /// Versions of QEMU and libvirt as virsh tells them.
    pub versions: String,
}

/// One migration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Its setting.
    pub setting: Setting,
    /// The how-manieth migration of this guest, from 0.
    pub leg: u32,
    /// Measurements of the dirty rate that the aggregator had: window in ms, text of the value.
    pub points: Vec<(u64, String)>,
    /// What the aggregator said.
    pub answer: Answer,
    /// What simpler formulas say, as the aggregator tells them.
    pub baselines: Vec<Said>,
    /// What came of it.
    pub outcome: Outcome,
    /// What else the machine did.
    pub host: Host,
}

/// Reads all records of a file; none if there is no file.
///
/// # Errors
///
/// Names the line that is none.
pub fn read(path: &Path) -> anyhow::Result<Vec<Record>> {
    if !path.exists() {
        return Ok(Vec::new());
    }
    let text =
        std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let line = |(index, line): (usize, &str)| {
        serde_json::from_str(line)
            .with_context(|| format!("line {} of {} is no record", index + 1, path.display()))
    };
    text.lines().enumerate().map(line).collect()
}

/// Adds a record to a file.
///
/// # Errors
///
/// Says that it cannot be written.
pub fn append(path: &Path, record: &Record) -> anyhow::Result<()> {
    let what = || format!("cannot write {}", path.display());
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory).with_context(what)?;
    }
    let mut line = serde_json::to_vec(record)?;
    line.push(b'\n');
    std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .and_then(|mut file| file.write_all(&line))
        .with_context(what)
}
