//! Makes the answer: runs the simulators over the ensemble and puts what they say into bounds and words.
//! Simulates nothing itself.

use plimsoll_model::{Bandwidth, MigrationMode, Ratio};

use crate::answer::{Estimate, Interval, PostcopyRisk, Raw, Verdict};
use crate::baseline::baselines;
use crate::ensemble::{Ensemble, quantiles};
use crate::error::InputError;
use crate::inputs::{Calibration, Inputs};
use crate::number::{round_u64, seconds};
use crate::postcopy::{postcopy, stop_copy};
use crate::precopy::simulate;
use crate::prior::{self, Answered};
use crate::profile::DowntimeProfile;
use crate::reason;
use crate::scene::{PAGE_WIRE_BYTES, Scene};

/// From this probability on a migration is said to end.
const CONVERGES_FROM: f64 = 0.9;
/// Up to this one it is said not to.
const FAILS_UP_TO: f64 = 0.1;
/// Bisection looks no further than so many times the bandwidth.
const BANDWIDTH_FACTOR_MAX: f64 = 4_096.0;
/// The longest downtime limit that is ever proposed; QEMU takes no more (migration/options.c).
const DOWNTIME_LIMIT_MAX_MS: f64 = 2_000_000.0;
/// Halvings of a bisection on a logarithmic scale: the answer is true to a thousandth.
const HALVINGS: u32 = 16;

/// What one world came to, whatever the mode.
#[derive(Debug, Clone, Copy)]
struct Run {
    ended: bool,
    total_s: f64,
    downtime_s: f64,
    bytes: f64,
    syncs: f64,
    throttle: f64,
    switch_s: f64,
    degraded_s: f64,
    remote_faults: f64,
}

/// Estimates a migration. Refuses only what no migration can have; what is missing widens the bounds and raises a flag.
pub fn estimate(inputs: &Inputs) -> Result<Estimate, InputError> {
    inputs.check()?;
    let ensemble = Ensemble::new(inputs);
    let centre = ensemble.centre();
    let runs: Vec<Run> = ensemble
        .members()
        .map(|scene| run(inputs, &scene))
        .collect();
    let ended: Vec<Run> = runs.iter().copied().filter(|run| run.ended).collect();
    let share = ended.len() as f64 / runs.len().max(1) as f64;
    let always_ends = matches!(
        inputs.policy.mode,
        MigrationMode::Postcopy | MigrationMode::StopCopy
    );
    let known = always_ends || !ensemble.windows().is_empty();
    let verdict = match (known, share) {
        (false, _) => Verdict::Unknown,
        (true, share) if share >= CONVERGES_FROM => Verdict::Converges,
        (true, share) if share > FAILS_UP_TO => Verdict::AtRisk,
        (true, _) => Verdict::DoesNotConverge,
    };
    let answers = Answers {
        runs: if verdict == Verdict::DoesNotConverge {
            &[]
        } else {
            &ended
        },
    };
    let mut answer = Estimate {
        mode: inputs.policy.mode,
        verdict,
        probability: known.then(|| Ratio::from_millionths(round_u64(share * 1e6))),
        total_ms: answers.of(Answered::TotalMs, |run| run.total_s * 1e3),
        downtime_ms: answers.of(Answered::DowntimeMs, |run| run.downtime_s * 1e3),
        bytes: answers.of(Answered::Bytes, |run| run.bytes),
        iterations: answers.of(Answered::Iterations, |run| run.syncs),
        raw: Raw {
            total_ms: answers.raw(|run| run.total_s * 1e3),
            downtime_ms: answers.raw(|run| run.downtime_s * 1e3),
            bytes: answers.raw(|run| run.bytes),
        },
        link: inputs.bandwidth.rate,
        api_overhead_ms: inputs.fixed.api_overhead_ms,
        bandwidth_needed: None,
        downtime_limit_needed_ms: None,
        throttle: throttle(inputs, &runs),
        postcopy: risk(inputs, &answers),
        calibration: inputs.calibration,
        quality: Vec::new(),
        reasons: Vec::new(),
        baselines: baselines(&centre, shortest_rate(&ensemble)),
    };
    if matches!(verdict, Verdict::DoesNotConverge | Verdict::AtRisk) && !always_ends {
        answer.bandwidth_needed = bandwidth_needed(&centre);
        answer.downtime_limit_needed_ms = downtime_limit_needed_ms(&centre);
    }
    if let Calibration::Learned(learned) = inputs.calibration {
        let raw = answer.raw;
        answer.total_ms = raw.total_ms.map(|raw| learned.total_ms(raw));
        answer.downtime_ms = raw.downtime_ms.map(|raw| learned.downtime_ms(raw));
        answer.bytes = raw.bytes.map(|raw| learned.bytes(raw));
    }
    if inputs.policy.mode == MigrationMode::StopCopy {
        // The guest stands still from the first byte to the last: one number, one interval.
        answer.downtime_ms = answer.total_ms;
        answer.raw.downtime_ms = answer.raw.total_ms;
    }
    answer.quality = reason::quality(inputs, &centre, &answer);
    answer.reasons = reason::sentences(inputs, &centre, &answer);
    Ok(answer)
}

fn run(inputs: &Inputs, scene: &Scene) -> Run {
    match inputs.policy.mode {
        MigrationMode::Precopy | MigrationMode::PrecopyAutoConverge => {
            let run = simulate(scene);
            Run {
                ended: run.converged,
                total_s: run.total_s,
                downtime_s: run.downtime_s,
                bytes: run.bytes,
                syncs: run.syncs as f64,
                throttle: run.throttle,
                switch_s: run.total_s,
                degraded_s: 0.0,
                remote_faults: 0.0,
            }
        }
        MigrationMode::Postcopy => {
            let run = postcopy(scene, inputs.policy.postcopy_after_ms.map(seconds));
            Run {
                ended: run.total_s <= scene.timeout_s,
                total_s: run.total_s,
                downtime_s: run.downtime_s,
                bytes: run.bytes,
                syncs: run.syncs as f64,
                throttle: 0.0,
                switch_s: run.switch_s,
                degraded_s: run.degraded_s,
                remote_faults: run.remote_faults,
            }
        }
        MigrationMode::StopCopy => {
            let run = stop_copy(scene);
            Run {
                ended: run.total_s <= scene.timeout_s,
                total_s: run.total_s,
                downtime_s: run.total_s,
                bytes: run.bytes,
                syncs: 1.0,
                throttle: 0.0,
                switch_s: run.total_s,
                degraded_s: 0.0,
                remote_faults: 0.0,
            }
        }
    }
}

/// The worlds that ended, as intervals.
struct Answers<'a> {
    runs: &'a [Run],
}

impl Answers<'_> {
    fn of(&self, answered: Answered, value: impl Fn(&Run) -> f64) -> Option<Interval> {
        let values = quantiles(self.runs.iter().map(value).collect())?;
        Some(prior::interval(answered, values))
    }

    fn raw(&self, value: impl Fn(&Run) -> f64) -> Option<Interval> {
        let [p10, p50, p90] = quantiles(self.runs.iter().map(value).collect())?.map(round_u64);
        Some(Interval { p10, p50, p90 })
    }
}

fn throttle(inputs: &Inputs, runs: &[Run]) -> Option<Ratio> {
    if inputs.policy.mode != MigrationMode::PrecopyAutoConverge {
        return None;
    }
    let [_, middle, _] = quantiles(runs.iter().map(|run| run.throttle).collect())?;
    Some(Ratio::from_millionths(round_u64(middle * 1e6)))
}

fn risk(inputs: &Inputs, answers: &Answers<'_>) -> Option<PostcopyRisk> {
    if inputs.policy.mode != MigrationMode::Postcopy {
        return None;
    }
    let page_us = PAGE_WIRE_BYTES / inputs.bandwidth.rate.bytes_per_second() as f64 * 1e6;
    Some(PostcopyRisk {
        switch_ms: answers.of(Answered::TotalMs, |run| run.switch_s * 1e3)?,
        risk_window_ms: answers.of(Answered::TotalMs, |run| run.degraded_s * 1e3)?,
        remote_faults: answers.of(Answered::Iterations, |run| run.remote_faults)?,
        fault_latency_us: inputs
            .round_trip_us
            .map(|trip| trip.saturating_add(round_u64(page_us.ceil()))),
    })
}

fn shortest_rate(ensemble: &Ensemble<'_>) -> Option<f64> {
    let window = ensemble.windows().first()?;
    Some(window.unique_bytes / window.window_s)
}

/// Finds the least bandwidth with which the central world ends; absent if it ends already or no bandwidth helps.
fn bandwidth_needed(centre: &Scene) -> Option<Bandwidth> {
    let ends = |factor: f64| {
        let rate = centre.wire_rate() * factor;
        let mut scene = centre.clone();
        scene.line_rate = scene.line_rate.max(rate);
        scene.cap_rate = scene.cap_rate.map(|cap| cap.max(rate));
        simulate(&scene).converged
    };
    let factor = least(1.0, BANDWIDTH_FACTOR_MAX, ends)?;
    let rate = (centre.wire_rate() * factor).ceil();
    Some(Bandwidth::from_bytes_per_second(round_u64(rate)))
}

/// Finds the least constant downtime limit with which the central world ends.
fn downtime_limit_needed_ms(centre: &Scene) -> Option<u64> {
    let ends = |limit_ms: f64| {
        let mut scene = centre.clone();
        scene.profile = DowntimeProfile::Constant {
            limit_ms: round_u64(limit_ms),
        };
        simulate(&scene).converged
    };
    if simulate(centre).converged {
        return None;
    }
    least(1.0, DOWNTIME_LIMIT_MAX_MS, ends).map(|limit| round_u64(limit.ceil()))
}

/// Finds the least value above `low` for which `holds` holds, which must go on holding above it.
fn least(low: f64, high: f64, holds: impl Fn(f64) -> bool) -> Option<f64> {
    if holds(low) || !holds(high) {
        return None;
    }
    let (mut low, mut high) = (low.ln(), high.ln());
    for _ in 0..HALVINGS {
        let middle = f64::midpoint(low, high);
        if holds(middle.exp()) {
            high = middle;
        } else {
            low = middle;
        }
    }
    Some(high.exp())
}
