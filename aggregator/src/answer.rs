//! Turns an answer of the planner into its message. It decides nothing.

use std::time::Duration;

use plimsoll_estimate::{
    Calibration, Formula, Interval, MODEL_NAME, MODEL_VERSION, Quality, Verdict,
};
use plimsoll_model::{MigrationMode, UnixMillis};
use plimsoll_proto::{render, v1};

use crate::planner::{Answer, Input};

/// Renders an answer; it should not be used `lifetime` after its as-of time.
pub fn migration(answer: &Answer, lifetime: Duration) -> v1::EstimateMigrationResponse {
    let estimate = &answer.estimate;
    let mut qualities: Vec<i32> = estimate
        .quality
        .iter()
        .map(|one| quality(*one).into())
        .collect();
    if answer.stale && !qualities.contains(&v1::Quality::Stale.into()) {
        qualities.push(v1::Quality::Stale.into());
    }
    v1::EstimateMigrationResponse {
        envelope: Some(v1::Envelope {
            model_name: MODEL_NAME.to_owned(),
            model_version: MODEL_VERSION.to_owned(),
            calibration: match estimate.calibration {
                Calibration::Prior => "prior".to_owned(),
                Calibration::Learned(learned) => {
                    format!("learned from {}", learned.sample_count)
                }
            },
            ..envelope(answer.as_of, &answer.inputs, qualities, lifetime)
        }),
        estimate: Some(v1::MigrationEstimate {
            mode: mode(estimate.mode).into(),
            verdict: verdict(estimate.verdict).into(),
            convergence_probability: estimate.probability.map(|p| p.as_f64()),
            total_ms: estimate.total_ms.map(interval),
            downtime_ms: estimate.downtime_ms.map(interval),
            wire_bytes: estimate.bytes.map(interval),
            iteration_count: estimate.iterations.map(interval),
            bandwidth_needed_bytes_per_second: estimate
                .bandwidth_needed
                .map(|rate| render::int(rate.bytes_per_second())),
            downtime_limit_needed_ms: estimate.downtime_limit_needed_ms.map(render::int),
            api_overhead_ms: Some(estimate.api_overhead_ms as f64),
            degraded_ms: estimate.postcopy.map(|risk| interval(risk.risk_window_ms)),
            remote_fault_count: estimate.postcopy.map(|risk| interval(risk.remote_faults)),
            raw_total_ms: estimate.raw.total_ms.map(interval),
            raw_downtime_ms: estimate.raw.downtime_ms.map(interval),
            raw_wire_bytes: estimate.raw.bytes.map(interval),
            throttle_millionths: estimate
                .throttle
                .map(|share| render::int(share.millionths())),
            link_bytes_per_second: Some(render::int(estimate.link.bytes_per_second())),
        }),
        baselines: estimate.baselines.iter().map(baseline).collect(),
        reasons: estimate.reasons.clone(),
        source_node_id: answer.source.as_bytes().to_vec(),
    }
}

/// Renders what surrounds an answer; the model is the caller's to name.
pub fn envelope(
    as_of: UnixMillis,
    inputs: &[Input],
    mut qualities: Vec<i32>,
    lifetime: Duration,
) -> v1::Envelope {
    if qualities.is_empty() {
        qualities.push(v1::Quality::Ok.into());
    }
    let oldest = inputs.iter().filter_map(|input| input.read).min();
    v1::Envelope {
        as_of_time: Some(render::timestamp(as_of)),
        data_age_max: oldest.map(|read| render::duration(as_of.since(read))),
        qualities,
        inputs: inputs.iter().map(|one| input(one, as_of)).collect(),
        expire_time: Some(render::timestamp(as_of.plus(lifetime))),
        ..v1::Envelope::default()
    }
}

fn input(input: &Input, as_of: UnixMillis) -> v1::Input {
    v1::Input {
        name: input.name.clone(),
        value: input.value.clone(),
        source: input.source.to_owned(),
        age: input.read.map(|read| render::duration(as_of.since(read))),
    }
}

fn interval(bounds: Interval) -> v1::Interval {
    v1::Interval {
        p10: bounds.p10 as f64,
        p50: bounds.p50 as f64,
        p90: bounds.p90 as f64,
    }
}

/// Renders a mode.
pub fn mode(mode: MigrationMode) -> v1::MigrationMode {
    match mode {
        MigrationMode::Precopy => v1::MigrationMode::Precopy,
        MigrationMode::PrecopyAutoConverge => v1::MigrationMode::PrecopyAutoConverge,
        MigrationMode::Postcopy => v1::MigrationMode::Postcopy,
        MigrationMode::StopCopy => v1::MigrationMode::StopCopy,
    }
}

fn verdict(verdict: Verdict) -> v1::Verdict {
    match verdict {
        Verdict::Converges => v1::Verdict::Converges,
        Verdict::AtRisk => v1::Verdict::AtRisk,
        Verdict::DoesNotConverge => v1::Verdict::DoesNotConverge,
        Verdict::Unknown => v1::Verdict::Unspecified,
    }
}

fn quality(quality: Quality) -> v1::Quality {
    match quality {
        Quality::Stale => v1::Quality::Stale,
        Quality::NoDirtyRate => v1::Quality::NoDirtyRate,
        Quality::OneDirtyWindow => v1::Quality::OneDirtyWindow,
        Quality::NoBalloon => v1::Quality::NoBalloon,
        Quality::Uncalibrated => v1::Quality::Uncalibrated,
        Quality::Extrapolated => v1::Quality::Extrapolated,
        Quality::NoZeroFraction => v1::Quality::NoZeroFraction,
        Quality::AssumedBandwidth => v1::Quality::AssumedBandwidth,
        Quality::NoAccelerator => v1::Quality::NoAccelerator,
        Quality::BusySource => v1::Quality::BusySource,
    }
}

fn baseline(baseline: &plimsoll_estimate::Baseline) -> v1::Baseline {
    let answer = baseline.answer;
    v1::Baseline {
        name: match baseline.formula {
            Formula::MemoryOverBandwidth => "ram-over-bandwidth",
            Formula::Passes => "seed-formula",
            Formula::PassesWithoutZero => "seed-formula-without-zero-pages",
        }
        .to_owned(),
        converges: answer.is_some(),
        total_ms: answer.map(|said| said.total_ms as f64),
        downtime_ms: answer.and_then(|said| said.downtime_ms).map(|ms| ms as f64),
        wire_bytes: answer.map(|said| said.bytes as f64),
    }
}
