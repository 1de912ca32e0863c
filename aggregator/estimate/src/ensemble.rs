//! A fixed set of worlds that fit the inputs: the same 64 each time, so that answers repeat and two
//! answers differ only where their inputs do. Judges nothing.

use crate::dirty::{CLASSES, DirtyClass, DirtyModel, WINDOWS_MAX, WindowMean, merge};
use crate::inputs::Inputs;
use crate::prior;
use crate::scene::Scene;

/// Worlds of an ensemble.
pub(crate) const MEMBERS: u32 = 64;
/// Coordinates of a world that are not windows: pace, bandwidth, fixed costs, zero share, starved sender.
const SHARED_AXES: usize = 5;
const AXES: usize = SHARED_AXES + WINDOWS_MAX;
/// The only positive root of x^14 = x + 1, which spreads points evenly in 13 dimensions (Roberts' sequence).
const ROOT: f64 = 1.052_710_920_147_558;
/// Draws beyond this many standard deviations are pulled in: a linear model is wrong out there.
const NORMAL_MOST: f64 = 2.5;

/// The ensemble of one set of inputs.
#[derive(Debug)]
pub(crate) struct Ensemble<'a> {
    inputs: &'a Inputs,
    windows: Vec<WindowMean>,
}

impl<'a> Ensemble<'a> {
    pub(crate) fn new(inputs: &'a Inputs) -> Self {
        Self {
            inputs,
            windows: merge(&inputs.dirty_points, inputs.memory_total.bytes() as f64),
        }
    }

    /// Returns the windows that were measured, shortest first.
    pub(crate) fn windows(&self) -> &[WindowMean] {
        &self.windows
    }

    /// The world in which every input is as told.
    pub(crate) fn centre(&self) -> Scene {
        self.scene(&[0.5; AXES])
    }

    /// All worlds.
    pub(crate) fn members(&self) -> impl Iterator<Item = Scene> + '_ {
        (1..=MEMBERS).map(|index| self.scene(&point(index)))
    }

    fn scene(&self, uniform: &[f64; AXES]) -> Scene {
        let [pace, bandwidth, fixed, zero, starved, noises @ ..] = uniform;
        let inputs = self.inputs;
        let touched = prior::touched_share(inputs, normal(*zero), *zero);
        let nonzero = touched * inputs.memory_total.bytes() as f64;
        let pace_sd = prior::pace_sd(inputs.telemetry_age_ms);
        let dirty = self
            .dirty(noises, nonzero)
            .scaled_speed((pace_sd * normal(*pace)).exp());
        let mut scene = Scene::new(inputs, 1.0 - touched, dirty);
        let bandwidth_sd = prior::bandwidth_sd(&inputs.bandwidth);
        scene.line_rate *= (bandwidth_sd * normal(*bandwidth)).exp();
        if let Some(most) = prior::starved_rate(inputs, *starved) {
            scene.line_rate = scene.line_rate.min(most);
        }
        let costs = (prior::FIXED_SD * normal(*fixed)).exp();
        scene.setup_s *= costs;
        scene.stop_s *= costs;
        scene.load_s *= costs;
        scene.sync_s *= costs;
        scene
    }

    fn dirty(&self, noises: &[f64], nonzero_bytes: f64) -> DirtyModel {
        let mut windows = self.windows.clone();
        for (window, noise) in windows.iter_mut().zip(noises) {
            let noisy = window.unique_bytes + window.deviation * normal(*noise);
            window.unique_bytes = noisy.clamp(0.0, nonzero_bytes);
        }
        if let Some(model) = DirtyModel::fit_windows(&windows, nonzero_bytes) {
            return model;
        }
        let (set_uniform, rate_uniform) = match noises {
            [first, second, ..] => (*first, *second),
            _ => (0.5, 0.5),
        };
        let (share, rate) = prior::unknown_writer(set_uniform, rate_uniform);
        let bytes = share * nonzero_bytes;
        let mut classes = [DirtyClass::default(); CLASSES];
        if let Some(class) = classes.last_mut() {
            *class = DirtyClass {
                bytes,
                writes_per_s: rate / bytes.max(1.0),
            };
        }
        DirtyModel::from_classes(classes, nonzero_bytes)
    }
}

fn point(index: u32) -> [f64; AXES] {
    let mut step = 1.0;
    [(); AXES].map(|()| {
        step /= ROOT;
        (0.5 + f64::from(index) * step).fract()
    })
}

/// Turns a share between 0 and 1 into a standard normal value (Abramowitz and Stegun, 26.2.23; off by less than 0.00045).
pub(crate) fn normal(uniform: f64) -> f64 {
    let tail = uniform.min(1.0 - uniform).max(1e-9);
    let t = (-2.0 * tail.ln()).sqrt();
    let above = t
        - (2.515_517 + t * (0.802_853 + t * 0.010_328))
            / (1.0 + t * (1.432_788 + t * (0.189_269 + t * 0.001_308)));
    let value = above.clamp(0.0, NORMAL_MOST);
    if uniform < 0.5 { -value } else { value }
}

/// Returns p10, p50 and p90 of the values, interpolated; absent without values.
pub(crate) fn quantiles(mut values: Vec<f64>) -> Option<[f64; 3]> {
    values.sort_by(f64::total_cmp);
    let at = |share: f64| -> Option<f64> {
        let place = share * (values.len().checked_sub(1)? as f64);
        let below = values.get(usize::try_from(crate::number::round_u64(place.floor())).ok()?)?;
        let above = values.get(usize::try_from(crate::number::round_u64(place.ceil())).ok()?)?;
        Some(below + (above - below) * place.fract())
    };
    Some([at(0.1)?, at(0.5)?, at(0.9)?])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_points_are_spread_evenly_over_every_axis() {
        assert!((ROOT.powi(14) - ROOT - 1.0).abs() < 1e-9);
        for axis in 0..AXES {
            let mean: f64 = (1..=MEMBERS).map(|i| point(i)[axis]).sum::<f64>() / f64::from(MEMBERS);
            assert!((mean - 0.5).abs() < 0.06, "axis {axis}: {mean}");
        }
    }

    #[test]
    fn normal_values_are_those_of_the_tables() {
        assert!(normal(0.5).abs() < 1e-3);
        assert!((normal(0.9) - 1.2816).abs() < 1e-3);
        assert!((normal(0.1) + 1.2816).abs() < 1e-3);
        assert!(normal(0.0).is_finite() && normal(1.0).is_finite());
    }

    #[test]
    fn quantiles_interpolate_and_nothing_has_none() {
        assert_eq!(quantiles(vec![]), None);
        let [low, middle, high] = quantiles((0..=100).map(f64::from).collect()).unwrap();
        assert!((low - 10.0).abs() + (middle - 50.0).abs() + (high - 90.0).abs() < 1e-9);
    }
}
