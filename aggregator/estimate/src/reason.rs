//! Puts the verdict and what weakens it into plain words. Computes no numbers.

use plimsoll_model::{MigrationMode, Ratio};

use crate::answer::{Estimate, Quality, Verdict};
use crate::inputs::{BandwidthSource, Calibration, Inputs};
use crate::prior;
use crate::scene::Scene;

/// Totals beyond this rest on how the guest will write then, which nobody measured.
const FORESEEN_MS: u64 = 300_000;
/// A first pass longer than so many of the longest window sees writers that no window saw.
const WINDOWS_FORESEEN: f64 = 4.0;

/// Lists what weakens the answer, in order, each once.
pub(crate) fn quality(inputs: &Inputs, centre: &Scene, answer: &Estimate) -> Vec<Quality> {
    let dirty_matters = inputs.policy.mode != MigrationMode::StopCopy;
    let measured = !inputs.dirty_points.is_empty();
    let fresh = inputs
        .telemetry_age_ms
        .is_some_and(|age| age <= prior::STALE_AFTER_MS);
    let windows = inputs.dirty_points.iter().map(|point| point.window_ms);
    let one_window = windows.clone().min() == windows.max();
    let starved = inputs.idle_cpus.is_some_and(|idle| idle < Ratio::ONE);
    let checks = [
        (dirty_matters && measured && !fresh, Quality::Stale),
        (dirty_matters && !measured, Quality::NoDirtyRate),
        (
            dirty_matters && measured && one_window,
            Quality::OneDirtyWindow,
        ),
        (!inputs.has_balloon, Quality::NoBalloon),
        (
            inputs.calibration == Calibration::Prior,
            Quality::Uncalibrated,
        ),
        (
            dirty_matters && measured && extrapolated(inputs, centre, answer),
            Quality::Extrapolated,
        ),
        (!prior::is_zero_known(inputs), Quality::NoZeroFraction),
        (
            inputs.bandwidth.source == BandwidthSource::Assumed,
            Quality::AssumedBandwidth,
        ),
        (inputs.accelerator.is_none(), Quality::NoAccelerator),
        (starved, Quality::BusySource),
    ];
    let raised = checks.into_iter().filter(|(raised, _)| *raised);
    raised.map(|(_, quality)| quality).collect()
}

fn extrapolated(inputs: &Inputs, centre: &Scene, answer: &Estimate) -> bool {
    let longest_ms = inputs
        .dirty_points
        .iter()
        .map(|point| point.window_ms)
        .max();
    let longest_s = longest_ms.map_or(0.0, |ms| f64::from(ms) / 1e3);
    let first_pass_s = centre.touched_bytes / centre.wire_rate();
    let seen = centre.dirty.unique_bytes(longest_s);
    let believed = centre.dirty.unique_bytes(first_pass_s);
    let beyond = first_pass_s > WINDOWS_FORESEEN * longest_s && believed > 1.5 * seen;
    beyond || answer.total_ms.is_some_and(|total| total.p50 > FORESEEN_MS)
}

/// Says why, the verdict first.
pub(crate) fn sentences(inputs: &Inputs, centre: &Scene, answer: &Estimate) -> Vec<String> {
    let mut sentences = vec![verdict(centre, answer)];
    if let Some(needed) = answer.bandwidth_needed {
        sentences.push(format!(
            "It would end with {needed} instead of {:.1} Mbit/s.",
            centre.wire_rate() * 8.0 / 1e6
        ));
    }
    if let Some(limit) = answer.downtime_limit_needed_ms {
        sentences.push(format!(
            "It would end with a downtime limit of {limit} ms instead of at most {} ms.",
            inputs.policy.downtime.largest_limit_ms()
        ));
    }
    if let Some(risk) = &answer.postcopy {
        sentences.push(format!(
            "If the link is lost in the {:.1} s after the switch-over, the guest is lost.",
            risk.risk_window_ms.p50 as f64 / 1e3
        ));
    }
    for quality in &answer.quality {
        sentences.push(weakness(*quality).to_owned());
    }
    sentences
}

fn verdict(centre: &Scene, answer: &Estimate) -> String {
    let slope = centre.dirty.hot_rate();
    let set = centre.dirty.working_set();
    let wire = centre.wire_rate() * 8.0 / 1e6;
    match answer.verdict {
        _ if answer.mode == MigrationMode::StopCopy => {
            "The guest stands still while its memory is copied.".to_owned()
        }
        _ if answer.mode == MigrationMode::Postcopy => {
            "Post-copy ends however fast the guest writes.".to_owned()
        }
        Verdict::Converges => format!(
            "It ends: the guest writes to {set} of its memory, at first at {slope}, and {wire:.1} Mbit/s carry it away faster."
        ),
        Verdict::AtRisk => format!(
            "It may not end: what is left stays near the downtime limit, for the guest writes to {set} at {slope} against {wire:.1} Mbit/s."
        ),
        Verdict::DoesNotConverge => format!(
            "It does not end: the guest writes to {set} at {slope}, and {wire:.1} Mbit/s never leave less than the downtime limit allows before the timeout."
        ),
        Verdict::Unknown => {
            "Whether it ends is unknown, for nobody measured how fast the guest writes.".to_owned()
        }
    }
}

fn weakness(quality: Quality) -> &'static str {
    match quality {
        Quality::Stale => "The dirty rate is older than 5 minutes or of unknown age.",
        Quality::NoDirtyRate => {
            "No dirty rate was measured; the bounds hold for a wide range of guests."
        }
        Quality::OneDirtyWindow => {
            "Only one window was measured, which cannot tell a fast writer from a large one."
        }
        Quality::NoBalloon => "The guest's balloon driver tells nothing of its memory.",
        Quality::Uncalibrated => "Costs and errors are priors; the bounds are widened.",
        Quality::Extrapolated => {
            "The migration takes much longer than the dirty rate was measured for."
        }
        Quality::NoZeroFraction => {
            "How much memory is zero is known badly or not at all; the bounds allow for it."
        }
        Quality::AssumedBandwidth => "The bandwidth was assumed, not measured.",
        Quality::NoAccelerator => {
            "Whether KVM runs the guest is unknown; its dirty log is taken to be cleared in chunks."
        }
        Quality::BusySource => {
            "The source has less than one idle processor, so the bandwidth may not be reached."
        }
    }
}
