//! Runs settings on the stage: asks before each migration, moves the guest, keeps both.
//!
//! Not here: judging (see `table`).

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use serde_json::Value;

use super::design::{GROUP, Setting};
use super::record::{self, Answer, Bounds, Host, Outcome, Record, Said};
use crate::cloud::Cloud;
use crate::stage::{Deadline, MigrateOptions, Migration, StageConfig};

/// Settings whose guest moves back as well, so that there is a migration before the last.
const BACK_EVERY: u32 = 3;

/// What is to be run.
#[derive(Debug, Clone)]
pub struct Order {
    /// Settings with numbers below this.
    pub runs: u32,
    /// No setting is begun after this.
    pub within: Duration,
    /// Where records are kept.
    pub records: PathBuf,
    /// Where cargo put the programs.
    pub programs: PathBuf,
    /// Where the aggregator keeps what it learned from one time to the next; on the stage if absent.
    pub data: Option<PathBuf>,
}

/// Runs the settings that have no record yet, as many as fit; returns how many are left.
///
/// # Errors
///
/// Says which part of the stage failed; records kept until then stay.
pub fn run(order: &Order, mut tell: impl FnMut(&Record)) -> anyhow::Result<u32> {
    let deadline = Deadline::after(order.within);
    let kept = record::read(&order.records)?;
    let mut next = kept
        .iter()
        .map(|record| record.setting.id + 1)
        .max()
        .unwrap_or(0);
    while next < order.runs && !deadline.is_over() {
        let config = StageConfig {
            link_mbit: Setting::of(next).link_mbit,
            ..StageConfig::default()
        };
        let cloud = Cloud::raise(&config, &order.programs, order.data.as_deref())?;
        warm(&cloud)?;
        let group = next / GROUP;
        while next < order.runs && next / GROUP == group && !deadline.is_over() {
            run_one(&cloud, &Setting::of(next), &order.records, &mut tell)?;
            next += 1;
        }
    }
    Ok(order.runs.saturating_sub(next))
}

/// Lets each libvirt get to know its QEMU, as every node of a cloud has long done: its first guest costs seconds.
fn warm(cloud: &Cloud) -> anyhow::Result<()> {
    for node in cloud.stage().nodes() {
        node.virsh(&["domcapabilities"])?;
    }
    Ok(())
}

fn run_one(
    cloud: &Cloud,
    setting: &Setting,
    records: &Path,
    tell: &mut impl FnMut(&Record),
) -> anyhow::Result<()> {
    let guest = setting.guest();
    cloud.stage().node(0)?.define_and_start(&guest)?;
    let legs = 1 + u32::from(setting.id % BACK_EVERY == 1);
    for leg in 0..legs {
        let (from, to) = if leg == 0 { (0, 1) } else { (1, 0) };
        let record = move_once(cloud, setting, leg, (from, to))
            .with_context(|| format!("setting {setting:?}"))?;
        record::append(records, &record)?;
        tell(&record);
        let now_on = if record.outcome.converged { to } else { from };
        if leg + 1 == legs || !record.outcome.converged {
            cloud.stage().node(now_on)?.remove(&guest.name)?;
            return Ok(());
        }
    }
    Ok(())
}

fn move_once(
    cloud: &Cloud,
    setting: &Setting,
    leg: u32,
    (from, to): (usize, usize),
) -> anyhow::Result<Record> {
    let name = setting.guest().name;
    let (from, to) = (cloud.stage().node(from)?, cloud.stage().node(to)?);
    let mut question = vec![
        "--to".to_owned(),
        to.name().to_owned(),
        "--downtime-ms".to_owned(),
        setting.downtime_limit_ms.to_string(),
        "--timeout-s".to_owned(),
        setting.timeout_s.to_string(),
    ];
    if let Some(cap) = setting.cap_mib_per_s {
        question.extend(["--bandwidth-cap".to_owned(), format!("{cap}MiB/s")]);
    }
    let words: Vec<&str> = question.iter().map(String::as_str).collect();
    let known = cloud.migrations(&name).len();
    let (said, points) = cloud.estimate_with_points(&name, &words)?;
    let before = Machine::look();
    let options = MigrateOptions {
        max_downtime_ms: Some(setting.downtime_limit_ms),
        bandwidth_mib_per_second: setting.cap_mib_per_s.map(u64::from),
        timeout: Duration::from_secs(setting.timeout_s),
        ..MigrateOptions::default()
    };
    let moved = cloud.stage().migrate_named(&name, from, to, &options)?;
    let host = before.until(&Machine::look(), from.virsh(&["version"])?);
    let ended = cloud.ended(&name, known)?;
    Ok(Record {
        setting: setting.clone(),
        leg,
        points,
        answer: answer(&said),
        baselines: baselines(&said),
        outcome: outcome(&ended, matches!(moved, Migration::Completed(_))),
        host,
    })
}

fn at<'a>(value: &'a Value, path: &str) -> &'a Value {
    value.pointer(path).unwrap_or(&Value::Null)
}

fn text(value: &Value, path: &str) -> String {
    at(value, path).as_str().unwrap_or_default().to_owned()
}

fn bounds(value: &Value, path: &str) -> Option<Bounds> {
    serde_json::from_value(at(value, path).clone()).ok()
}

fn answer(said: &Value) -> Answer {
    let list = |path: &str| at(said, path).as_array().cloned().unwrap_or_default();
    let qualities = list("/envelope/qualities").into_iter();
    Answer {
        verdict: text(said, "/verdict"),
        probability: at(said, "/convergence_probability").as_f64(),
        total_ms: bounds(said, "/total_ms"),
        downtime_ms: bounds(said, "/downtime_ms"),
        wire_bytes: bounds(said, "/wire_bytes"),
        calibration: text(said, "/envelope/calibration"),
        model: text(said, "/envelope/model_version"),
        qualities: qualities
            .filter_map(|one| one.as_str().map(str::to_owned))
            .collect(),
        inputs: list("/envelope/inputs"),
    }
}

fn baselines(said: &Value) -> Vec<Said> {
    let rows = at(said, "/baselines").as_array().into_iter().flatten();
    rows.map(|row| Said {
        name: text(row, "/name"),
        converges: at(row, "/converges").as_bool(),
        total_ms: at(row, "/total_ms").as_f64(),
        downtime_ms: at(row, "/downtime_ms").as_f64(),
        wire_bytes: at(row, "/wire_bytes").as_f64(),
    })
    .collect()
}

fn outcome(ended: &Value, converged: bool) -> Outcome {
    let number = |path: &str| at(ended, path).as_f64();
    let mut record = ended.clone();
    if let Some(object) = record.as_object_mut() {
        // The prediction is kept beside it already.
        object.remove("prediction");
        object.remove("iterations");
    }
    Outcome {
        converged,
        total_ms: number("/outcome/total_ms"),
        downtime_ms: number("/outcome/downtime_ms"),
        wire_bytes: number("/outcome/memory_processed_bytes"),
        iterations: at(ended, "/iterations")
            .as_array()
            .cloned()
            .unwrap_or_default(),
        record,
    }
}

/// What the machine's own counters stand at.
struct Machine {
    begin: Deadline,
    idle_ticks: f64,
    all_ticks: f64,
    waited_us: f64,
    load1: f64,
}

impl Machine {
    fn look() -> Self {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let stat = read("/proc/stat");
        let first = stat.lines().next().unwrap_or_default().to_owned();
        let ticks: Vec<f64> = first
            .split_ascii_whitespace()
            .skip(1)
            .filter_map(|word| word.parse().ok())
            .collect();
        let pressure = read("/proc/pressure/cpu");
        let waited = pressure
            .lines()
            .find(|line| line.starts_with("some"))
            .and_then(|line| line.rsplit_once("total="));
        let load = read("/proc/loadavg");
        Self {
            begin: Deadline::after(Duration::ZERO),
            idle_ticks: ticks.iter().skip(3).take(2).sum(),
            all_ticks: ticks.iter().take(8).sum(),
            waited_us: waited.and_then(|(_, us)| us.parse().ok()).unwrap_or(0.0),
            load1: load
                .split_ascii_whitespace()
                .next()
                .and_then(|word| word.parse().ok())
                .unwrap_or(0.0),
        }
    }

    fn until(&self, later: &Self, versions: String) -> Host {
        let took_us = self.begin.elapsed().as_secs_f64() * 1e6;
        let ticks = (later.all_ticks - self.all_ticks).max(1.0);
        let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Host {
            cpus: u32::try_from(cpus).unwrap_or(u32::MAX),
            idle_share: (later.idle_ticks - self.idle_ticks) / ticks,
            pressure_share: (later.waited_us - self.waited_us) / took_us.max(1.0),
            load1: self.load1,
            versions,
        }
    }
}
