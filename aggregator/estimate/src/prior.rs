//! What is assumed where nothing was learned. Every number here is a prior and is told as such.

use plimsoll_model::Ratio;

use crate::answer::Interval;
use crate::inputs::{BandwidthSource, Inputs, LinkBandwidth};
use crate::number::round_u64;

/// Telemetry older than this is stale; writing is hard to foresee beyond about a minute.
pub(crate) const STALE_AFTER_MS: u64 = 300_000;
/// How a value is widened: the low bound times `low`, the high bound times `high` plus `slack`.
struct Widening {
    low: f64,
    high: f64,
    slack: f64,
}

/// Which answer is widened.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Answered {
    TotalMs,
    DowntimeMs,
    Bytes,
    Iterations,
}

/// The cold-start table. Raw ensembles cover half of what they promise, because the model itself errs: about
/// 4 % of the total and 2 % of the bytes in the middle, three times as much in one of ten (60 migrations
/// between QEMU 7.2 processes under TCG). Downtimes are a few milliseconds, so their slack is absolute.
fn widening(answered: Answered) -> Widening {
    let (low, high, slack) = match answered {
        Answered::TotalMs => (0.94, 1.10, 50.0),
        Answered::DowntimeMs => (0.25, 1.50, 30.0),
        Answered::Bytes => (0.95, 1.06, 1e6),
        Answered::Iterations => (0.75, 1.50, 1.0),
    };
    Widening { low, high, slack }
}

/// Makes the interval of three ordered values and widens it by the table.
pub(crate) fn interval(answered: Answered, values: [f64; 3]) -> Interval {
    let [mut low, middle, mut high] = values;
    let widening = widening(answered);
    low *= widening.low;
    high = high * widening.high + widening.slack;
    let p50 = round_u64(middle);
    Interval {
        p10: round_u64(low).min(p50),
        p50,
        p90: round_u64(high).max(p50),
    }
}

/// Relative standard deviation of the bandwidth.
pub(crate) fn bandwidth_sd(bandwidth: &LinkBandwidth) -> f64 {
    match (bandwidth.uncertainty, bandwidth.source) {
        (Some(told), _) => told.as_f64(),
        (None, BandwidthSource::Measured) => 0.03,
        (None, BandwidthSource::Capacity) => 0.08,
        (None, BandwidthSource::Assumed) => 0.25,
    }
}

/// Relative standard deviation of how fast the guest writes when it migrates, seen from when it was measured.
pub(crate) fn pace_sd(age_ms: Option<u64>) -> f64 {
    match age_ms {
        Some(age) => (0.05 + 0.15 * (age as f64 / STALE_AFTER_MS as f64).sqrt()).min(0.8),
        None => 0.4,
    }
}

/// Standard deviation of the logarithm of the fixed costs.
pub(crate) const FIXED_SD: f64 = 0.5;

/// Share of the guest's memory that is touched, at a point between 0 and 1 of its distribution; unknown shares
/// are spread evenly from four tenths to the whole.
pub(crate) fn touched_share(inputs: &Inputs, normal: f64, uniform: f64) -> f64 {
    let Some(zero) = inputs.zero_fraction else {
        return 0.4 + 0.6 * uniform;
    };
    let touched = 1.0 - zero.as_f64();
    let deviation = inputs.zero_deviation.map_or(0.02 * touched, Ratio::as_f64);
    (touched + deviation * normal).clamp(0.0, 1.0)
}

/// Whether how much of the memory is zero is known to a fifth.
pub(crate) fn is_zero_known(inputs: &Inputs) -> bool {
    inputs.zero_fraction.is_some_and(|zero| {
        let deviation = inputs.zero_deviation.map_or(0.0, Ratio::as_f64);
        deviation <= 0.2 * (1.0 - zero.as_f64())
    })
}

/// What one thread sends when it has a processor to itself, in bytes per second: a prior, about 10 Gbit/s.
const SENDER_RATE: f64 = 1.2e9;

/// What the sending thread can carry where it gets less than a whole processor, in bytes per second; absent
/// where processors are idle, or nobody told.
pub(crate) fn starved_rate(inputs: &Inputs, uniform: f64) -> Option<f64> {
    let idle = inputs.idle_cpus.filter(|idle| *idle < Ratio::ONE)?;
    // At worst it gets what is idle or its fair share, at best it is served like any other thread.
    let worst = idle.as_f64().max(0.5);
    Some(SENDER_RATE * (worst + (1.0 - worst) * uniform))
}

/// A guest of which no dirty rate is known: memory it writes to, as a share of what it touched, and
/// unique bytes it makes dirty in a second. Both are spread evenly on a logarithmic scale.
pub(crate) fn unknown_writer(set_uniform: f64, rate_uniform: f64) -> (f64, f64) {
    let share = 0.001 * 500.0_f64.powf(set_uniform);
    let rate = 100e3 * 1_000.0_f64.powf(rate_uniform);
    (share, rate)
}
