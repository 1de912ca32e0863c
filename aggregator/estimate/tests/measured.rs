//! Holds the estimator against real migrations between two QEMU 7.2 processes (tests/data/README.md)
//! and prints its errors beside those of the simple formulas.
//!
//! TCG on two busy cores is no production cloud: the figures say how well the loop of QEMU is
//! understood, not how a KVM host behaves.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot read its own data must stop"
)]

use std::io::Write as _;

use plimsoll_estimate::{
    BandwidthSource, Calibration, DirtyClass, DirtyModel, DirtyPoint, DowntimeProfile, Estimate,
    Formula, Inputs, Lessons, LinkBandwidth, Observed, Policy, Scene, compare, estimate,
    relative_error, simulate, zero_share_from_touched,
};
use plimsoll_model::{Accelerator, Bandwidth, ByteSize, DirtyRate, MigrationMode, Ratio};
use serde_json::Value;

const LINES: &str = include_str!("data/migrations-qemu72-tcg.jsonl");
/// What QEMU under TCG sends over loopback once the cap is lifted; a round figure, known to a factor of two.
const LOOPBACK: Bandwidth = Bandwidth::from_bytes_per_second(1_000_000_000);
/// Resident memory of these processes that was not their guest's; the data tell no mapping apart.
const PROCESS_OVERHEAD: ByteSize = ByteSize::from_mib(123);
/// Runs were given up after this.
const TIMEOUT_MS: u64 = 60_000;

struct Line {
    inputs: Inputs,
    observed: Observed,
    guest: Value,
}

fn number(value: &Value) -> u64 {
    value
        .as_u64()
        .unwrap_or_else(|| panic!("not a whole number: {value}"))
}

fn lines(link: impl Fn(Bandwidth) -> Bandwidth) -> Vec<Line> {
    LINES.lines().map(|text| line(text, &link)).collect()
}

fn line(text: &str, link: &impl Fn(Bandwidth) -> Bandwidth) -> Line {
    let value: Value = serde_json::from_str(text).unwrap();
    let (guest, policy) = (&value["guest"], &value["policy"]);
    let (telemetry, outcome) = (&value["telemetry"], &value["outcome"]);
    let memory = ByteSize::from_mib(number(&guest["ram_mib"]));
    let cap = Bandwidth::from_bytes_per_second(number(&policy["max_bandwidth_bytes_per_s"]));
    let mut inputs = Inputs::new(
        memory,
        LinkBandwidth {
            rate: link(cap),
            uncertainty: None,
            source: BandwidthSource::Capacity,
        },
        Policy {
            mode: MigrationMode::Precopy,
            downtime: DowntimeProfile::Constant {
                limit_ms: number(&policy["downtime_limit_ms"]),
            },
            max_bandwidth: Some(cap),
            timeout_ms: Some(TIMEOUT_MS),
            postcopy_after_ms: None,
        },
    );
    inputs.accelerator = Some(Accelerator::Tcg);
    inputs.telemetry_age_ms = Some(0);
    // Without libvirt there is no return path, so QEMU's downtime ends when the source has sent all.
    inputs.fixed.device_load_us = 0;
    inputs.fixed.setup_us = 5_000;
    let rss = ByteSize::from_kib(number(&telemetry["qemu_rss_kib"]));
    let touched = rss.saturating_sub(PROCESS_OVERHEAD);
    inputs.zero_fraction = zero_share_from_touched(touched, memory).map(|zero| zero.share);
    inputs.dirty_points = telemetry["dirty_rate"]
        .as_array()
        .unwrap()
        .iter()
        .map(|point| {
            let window_ms = u32::try_from(number(&point["window_s"]) * 1000).unwrap();
            let rate = DirtyRate::from_mib_per_second(number(&point["mib_per_s"]));
            DirtyPoint::libvirt(window_ms, rate)
        })
        .collect();
    let observed = Observed {
        converged: outcome["converged"].as_bool().unwrap(),
        total_ms: outcome["observed_ms"].as_u64(),
        downtime_ms: outcome["downtime_ms"].as_u64(),
        bytes: outcome["wire_bytes"].as_u64(),
    };
    Line {
        inputs,
        observed,
        guest: value["guest"].clone(),
    }
}

/// Middle and nine-tenths point of errors; not a number, printed as such, where a formula says nothing.
fn spread(mut errors: Vec<f64>) -> (f64, f64) {
    errors.sort_by(f64::total_cmp);
    let at = |share: usize| errors.get((errors.len().max(1) - 1) * share / 10).copied();
    (at(5).unwrap_or(f64::NAN), at(9).unwrap_or(f64::NAN))
}

#[derive(Default)]
struct Row {
    total: Vec<f64>,
    bytes: Vec<f64>,
    downtime: Vec<f64>,
    right: u32,
    promises_broken: u32,
    lines: u32,
}

/// What any of the estimators says of one line.
struct Said {
    converges: bool,
    total_ms: Option<u64>,
    bytes: Option<u64>,
    downtime_ms: Option<u64>,
}

impl Row {
    fn add(&mut self, said: &Said, observed: &Observed) {
        self.lines += 1;
        self.right += u32::from(said.converges == observed.converged);
        self.promises_broken += u32::from(said.converges && !observed.converged);
        if !observed.converged {
            return;
        }
        let relative = |said: Option<u64>, was: Option<u64>| {
            said.zip(was)
                .and_then(|(said, was)| relative_error(said, was))
        };
        self.total
            .extend(relative(said.total_ms, observed.total_ms));
        self.bytes.extend(relative(said.bytes, observed.bytes));
        if let (Some(said), Some(was)) = (said.downtime_ms, observed.downtime_ms) {
            self.downtime.push(said.abs_diff(was) as f64);
        }
    }

    fn share_right(&self) -> f64 {
        f64::from(self.right) / f64::from(self.lines)
    }

    fn print(&self, name: &str) {
        let (total, bytes, downtime) = (
            spread(self.total.clone()),
            spread(self.bytes.clone()),
            spread(self.downtime.clone()),
        );
        let mut out = std::io::stdout().lock();
        writeln!(
            out,
            "| {name:<38} | {:5.1} / {:5.1} % | {:5.1} / {:5.1} % | {:4.0} / {:4.0} ms | {:.2} | {} | {} |",
            total.0 * 100.0,
            total.1 * 100.0,
            bytes.0 * 100.0,
            bytes.1 * 100.0,
            downtime.0,
            downtime.1,
            self.share_right(),
            self.promises_broken,
            self.total.len(),
        )
        .unwrap();
    }
}

fn said_by_estimate(answer: &Estimate) -> Said {
    Said {
        converges: answer.likely_converges().unwrap(),
        total_ms: answer.total_ms.map(|interval| interval.p50),
        bytes: answer.bytes.map(|interval| interval.p50),
        downtime_ms: answer.downtime_ms.map(|interval| interval.p50),
    }
}

fn said_by_formula(answer: &Estimate, formula: Formula) -> Said {
    let answer = answer
        .baselines
        .iter()
        .find(|baseline| baseline.formula == formula)
        .unwrap()
        .answer;
    Said {
        converges: answer.is_some_and(|answer| answer.total_ms <= TIMEOUT_MS),
        total_ms: answer.map(|answer| answer.total_ms),
        bytes: answer.map(|answer| answer.bytes),
        downtime_ms: answer.and_then(|answer| answer.downtime_ms),
    }
}

fn said_by_scene(scene: &Scene) -> Said {
    let run = simulate(scene);
    let whole = |value: f64| Some(format!("{value:.0}").parse().unwrap());
    Said {
        converges: run.converged,
        total_ms: whole(run.total_s * 1e3).filter(|_| run.converged),
        bytes: whole(run.bytes).filter(|_| run.converged),
        downtime_ms: whole(run.downtime_s * 1e3).filter(|_| run.converged),
    }
}

fn zero_share(inputs: &Inputs) -> f64 {
    inputs.zero_fraction.map_or(0.0, Ratio::as_f64)
}

/// The single run of the simulator on the telemetry as told.
fn central(line: &Line) -> Said {
    let inputs = &line.inputs;
    let zero = zero_share(inputs);
    let nonzero = (inputs.memory_total.bytes() as f64 * (1.0 - zero)).round();
    let nonzero = ByteSize::from_bytes(format!("{nonzero:.0}").parse().unwrap());
    let dirty = DirtyModel::fit(&inputs.dirty_points, inputs.memory_total, nonzero).unwrap();
    said_by_scene(&Scene::new(inputs, zero, dirty))
}

/// The simulator given the true workload, which parts its own error from that of the telemetry.
fn oracle(line: &Line) -> Said {
    let mib = 1_048_576.0;
    let part = |set: &str, rate: &str| DirtyClass {
        bytes: number(&line.guest[set]) as f64 * mib,
        writes_per_s: number(&line.guest[rate]) as f64
            / (number(&line.guest[set]) as f64 * 256.0).max(1.0),
    };
    let mut classes = [DirtyClass::default(); 8];
    classes[0] = part("cold_mib", "cold_pages_per_s");
    classes[1] = part("hot_mib", "hot_pages_per_s");
    let nonzero = line.inputs.memory_total.bytes() as f64 * (1.0 - zero_share(&line.inputs));
    let dirty = DirtyModel::from_classes(classes, nonzero);
    said_by_scene(&Scene::new(&line.inputs, zero_share(&line.inputs), dirty))
}

#[test]
fn the_simulator_beats_the_formulas_on_real_migrations() {
    let mut estimator = Row::default();
    let mut capped_line = Row::default();
    let (mut single, mut truth) = (Row::default(), Row::default());
    let formulas = [
        (Formula::MemoryOverBandwidth, "memory / bandwidth"),
        (Formula::Passes, "seed formula"),
        (
            Formula::PassesWithoutZero,
            "seed formula without zero pages",
        ),
    ];
    let mut rows = [Row::default(), Row::default(), Row::default()];
    let (mut inside, mut inside_downtime, mut judged) = (0u32, 0u32, 0u32);
    for line in lines(|_| LOOPBACK) {
        let answer = estimate(&line.inputs).unwrap();
        estimator.add(&said_by_estimate(&answer), &line.observed);
        single.add(&central(&line), &line.observed);
        truth.add(&oracle(&line), &line.observed);
        for ((formula, _), row) in formulas.iter().zip(&mut rows) {
            row.add(&said_by_formula(&answer, *formula), &line.observed);
        }
        let accuracy = compare(&answer, &line.observed);
        if let (Some(total), Some(downtime)) = (accuracy.total_inside, accuracy.downtime_inside) {
            judged += 1;
            inside += u32::from(total);
            inside_downtime += u32::from(downtime);
        }
    }
    for line in lines(|cap| cap) {
        let answer = estimate(&line.inputs).unwrap();
        capped_line.add(&said_by_estimate(&answer), &line.observed);
    }
    let mut out = std::io::stdout().lock();
    writeln!(out, "\n| estimator | total p50/p90 | bytes p50/p90 | downtime error p50/p90 | convergence right | promised and did not | judged |").unwrap();
    writeln!(out, "|---|---|---|---|---|---|---|").unwrap();
    drop(out);
    estimator.print("estimate, link 1 GB/s, capped");
    capped_line.print("estimate, link taken as the cap");
    single.print("one simulation of the telemetry");
    truth.print("one simulation of the true workload");
    for ((_, name), row) in formulas.iter().zip(&rows) {
        row.print(name);
    }
    let mut out = std::io::stdout().lock();
    writeln!(out, "10-90 % intervals held the total {inside} and the downtime {inside_downtime} of {judged} times").unwrap();
    drop(out);

    assert!(
        estimator.share_right() >= 0.88,
        "{}",
        estimator.share_right()
    );
    for (row, most) in [(&estimator, 0.035), (&capped_line, 0.08), (&truth, 0.025)] {
        let (middle, _) = spread(row.total.clone());
        assert!(middle <= most, "median error of the total: {middle}");
    }
    let formula_best = rows
        .iter()
        .map(|row| spread(row.total.clone()).1)
        .fold(f64::INFINITY, f64::min);
    assert!(spread(estimator.total.clone()).1 < formula_best);
    assert!(
        f64::from(inside) >= 0.7 * f64::from(judged),
        "{inside} of {judged}"
    );
}

/// Each migration is foretold with what all the others taught; so few runs, over one kind of link, only show
/// that learning is worth it.
#[test]
fn what_the_others_taught_narrows_the_bounds_of_each_and_they_still_hold() {
    let lines: Vec<Line> = lines(|_| LOOPBACK)
        .into_iter()
        .filter(|line| line.observed.converged)
        .collect();
    let told = |line: &Line| estimate(&line.inputs).unwrap();
    let (mut cold, mut learned) = (Held::default(), Held::default());
    for (at, line) in lines.iter().enumerate() {
        let others = lines.iter().enumerate().filter(|(other, _)| *other != at);
        let mut lessons = Lessons::default();
        others.for_each(|(_, other)| lessons.learn(told(other).raw, &other.observed));
        let mut inputs = line.inputs.clone();
        cold.add(&told(line), &line.observed);
        inputs.calibration = Calibration::Learned(lessons.correction().unwrap());
        learned.add(&estimate(&inputs).unwrap(), &line.observed);
    }
    cold.print("cold-start table");
    learned.print("learned from the others");
    assert!(learned.share() >= 0.7, "{}", learned.share());
    assert!(learned.width() < cold.width());
}

/// How often bounds of the total held, and how wide they were.
#[derive(Default)]
struct Held {
    inside: u32,
    widths: Vec<f64>,
    errors: Vec<f64>,
}

impl Held {
    fn add(&mut self, answer: &Estimate, observed: &Observed) {
        let (Some(said), Some(was)) = (answer.total_ms, observed.total_ms) else {
            return;
        };
        self.inside += u32::from((said.p10..=said.p90).contains(&was));
        self.widths.push((said.p90 - said.p10) as f64 / was as f64);
        self.errors.extend(relative_error(said.p50, was));
    }

    fn share(&self) -> f64 {
        f64::from(self.inside) / self.widths.len() as f64
    }

    fn width(&self) -> f64 {
        spread(self.widths.clone()).0
    }

    fn print(&self, name: &str) {
        let (error, error_most) = spread(self.errors.clone());
        let mut out = std::io::stdout().lock();
        writeln!(
            out,
            "{name}: bounds of the total held {} of {} times, median width {:.1} % of it; error {:.1} / {:.1} %",
            self.inside,
            self.widths.len(),
            self.width() * 100.0,
            error * 100.0,
            error_most * 100.0
        )
        .unwrap();
    }
}
