//! How a guest writes: not a number but a curve, the unique bytes made dirty within a time.
//! Measures nothing, and makes no model from nothing.

use plimsoll_model::{ByteSize, DirtyRate};

use crate::nnls::{Equation, solve, solve_adding_up_to};
use crate::number::round_u64;

/// The most points that are taken.
pub const DIRTY_POINTS_MAX: usize = 256;
/// The longest window that is taken: one hour.
pub const WINDOW_MS_MAX: u32 = 3_600_000;
/// Writers are told apart by so many speeds.
pub(crate) const CLASSES: usize = 8;
/// Points of the same window are merged into so many windows at most.
pub(crate) const WINDOWS_MAX: usize = 8;

const MIB: f64 = 1_048_576.0;
/// Half of the whole MiB/s to which QEMU rounds down (QEMU migration/dirtyrate.c).
const FLOOR_MEAN: f64 = 0.5 * MIB;
/// Standard deviation of what the rounding takes away, which is spread evenly.
const FLOOR_SD: f64 = MIB * 0.288_675;
/// Samples per GiB that libvirt asks QEMU for, which cannot be changed through libvirt.
pub const LIBVIRT_SAMPLES_PER_GIB: u32 = 512;
/// Writing differs from one moment to the next by so much of itself; a prior.
const UNSTEADY: f64 = 0.10;

/// How a point was measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DirtySource {
    /// QEMU compared random pages and told whole MiB/s, rounded down.
    PageSampling {
        /// How many pages of each GiB; libvirt asks for 512.
        pages_per_gib: u32,
    },
    /// Pages were counted, as a pass of a migration or the dirty ring does.
    Counted,
}

/// Unique memory made dirty within a window, as a rate over that window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DirtyPoint {
    /// Length of the window, 1 ms to one hour.
    pub window_ms: u32,
    /// Unique bytes over the window's length.
    pub rate: DirtyRate,
    /// Standard deviation of the rate where it is known; absent takes the noise of the source.
    pub sample_sd: Option<DirtyRate>,
    /// How it was measured.
    pub source: DirtySource,
}

impl DirtyPoint {
    /// A point as libvirt tells it: 512 samples per GiB, whole MiB/s.
    pub fn libvirt(window_ms: u32, rate: DirtyRate) -> Self {
        Self {
            window_ms,
            rate,
            sample_sd: None,
            source: DirtySource::PageSampling {
                pages_per_gib: LIBVIRT_SAMPLES_PER_GIB,
            },
        }
    }

    /// A point whose pages were counted.
    pub fn counted(window_ms: u32, rate: DirtyRate) -> Self {
        Self {
            window_ms,
            rate,
            sample_sd: None,
            source: DirtySource::Counted,
        }
    }
}

/// A group of writers that touch each of their pages at the same rate.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct DirtyClass {
    /// Memory that they write to.
    pub bytes: f64,
    /// Writes to each page in a second.
    pub writes_per_s: f64,
}

/// Unique bytes made dirty within a window, merged from all points of that window.
#[derive(Debug, Clone, Copy)]
pub(crate) struct WindowMean {
    pub(crate) window_s: f64,
    pub(crate) unique_bytes: f64,
    pub(crate) count: f64,
    /// Standard deviation of `unique_bytes`.
    pub(crate) deviation: f64,
}

/// The curve U(t) = sum of w_g (1 - exp(-lambda_g t)).
#[derive(Debug, Clone, PartialEq)]
pub struct DirtyModel {
    classes: [DirtyClass; CLASSES],
}

impl DirtyModel {
    /// Fits the curve to the points; absent without points, for no model is made from nothing.
    ///
    /// `memory` is what the sampling spread over, `nonzero` the memory that can be dirty at all.
    pub fn fit(points: &[DirtyPoint], memory: ByteSize, nonzero: ByteSize) -> Option<Self> {
        let windows = merge(points, memory.bytes() as f64);
        Self::fit_windows(&windows, nonzero.bytes() as f64)
    }

    pub(crate) fn fit_windows(windows: &[WindowMean], nonzero_bytes: f64) -> Option<Self> {
        let shortest = windows.first()?.window_s;
        let longest = windows.last()?.window_s;
        let speeds = speeds(shortest, longest);
        let equations: Vec<Equation<CLASSES>> = windows
            .iter()
            .map(|window| Equation {
                coefficients: speeds.map(|speed| -(-speed * window.window_s).exp_m1()),
                value: window.unique_bytes,
                deviation: window.deviation,
            })
            .collect();
        let mut weights = solve(&equations);
        if weights.iter().sum::<f64>() > nonzero_bytes {
            // Slow writers over more memory than there is look like faster ones over all of it: solved
            // again under that bound, for a model that is only cut to it contradicts its own windows.
            weights = solve_adding_up_to(&equations, nonzero_bytes);
        }
        let mut classes = [DirtyClass::default(); CLASSES];
        for ((class, bytes), writes_per_s) in classes.iter_mut().zip(weights).zip(speeds) {
            *class = DirtyClass {
                bytes,
                writes_per_s,
            };
        }
        Some(Self::from_classes(classes, nonzero_bytes))
    }

    /// Makes a model of known writers, slowest first, trimmed like a fitted one.
    pub fn from_classes(mut classes: [DirtyClass; CLASSES], nonzero_bytes: f64) -> Self {
        let mut excess =
            classes.iter().map(|class| class.bytes).sum::<f64>() - nonzero_bytes.max(0.0);
        // The slowest are the least certain, and shrinking the fast ones would promise convergence.
        for class in &mut classes {
            let cut = excess.clamp(0.0, class.bytes);
            class.bytes -= cut;
            excess -= cut;
        }
        Self { classes }
    }

    /// Returns the writers, slowest first.
    pub fn classes(&self) -> &[DirtyClass; CLASSES] {
        &self.classes
    }

    /// Returns the unique bytes made dirty within a time, in seconds.
    pub fn unique_bytes(&self, seconds: f64) -> f64 {
        self.classes
            .iter()
            .map(|class| class.bytes * -(-class.writes_per_s * seconds.max(0.0)).exp_m1())
            .sum()
    }

    /// Returns all memory that is ever written to.
    pub fn working_set(&self) -> ByteSize {
        let bytes = self.classes.iter().map(|class| class.bytes).sum();
        ByteSize::from_bytes(round_u64(bytes))
    }

    /// Returns the rate at which clean memory becomes dirty in the first instant: the slope of the curve at zero.
    pub fn hot_rate(&self) -> DirtyRate {
        let slope = self
            .classes
            .iter()
            .map(|class| class.bytes * class.writes_per_s)
            .sum();
        DirtyRate::from_bytes_per_second(round_u64(slope))
    }

    /// Returns the same writers at `factor` times their speed.
    #[must_use]
    pub fn scaled_speed(&self, factor: f64) -> Self {
        let mut classes = self.classes;
        for class in &mut classes {
            class.writes_per_s *= factor;
        }
        Self { classes }
    }
}

/// Speeds of the classes, evenly spaced on a logarithmic scale: from a quarter of a write in the longest
/// window, slower than which writers look like a straight line to the windows, to five writes in the
/// shortest, beyond which 99 pages of 100 are dirty in each window and nothing tells them apart.
fn speeds(shortest_s: f64, longest_s: f64) -> [f64; CLASSES] {
    let slowest = 0.25 / longest_s;
    let fastest = 5.0 / shortest_s;
    let step = (fastest / slowest).powf(1.0 / (CLASSES as f64 - 1.0));
    let mut speed = slowest;
    [(); CLASSES].map(|()| {
        let this = speed;
        speed *= step;
        this
    })
}

/// Merges points into windows, shortest first, with the noise of each.
pub(crate) fn merge(points: &[DirtyPoint], memory_bytes: f64) -> Vec<WindowMean> {
    let mut sorted = points.to_vec();
    sorted.sort_by_key(|point| point.window_ms);
    let (first, last) = match (sorted.first(), sorted.last()) {
        (Some(first), Some(last)) => (f64::from(first.window_ms), f64::from(last.window_ms)),
        _ => return Vec::new(),
    };
    // Windows within a tenth of each other count as one; more where the span is so wide that too many were left.
    let ratio = (last / first)
        .powf(1.0 / (WINDOWS_MAX as f64 - 1.0))
        .max(1.1);
    let distinct = sorted.chunk_by(|a, b| a.window_ms == b.window_ms).count();
    let ratio = if distinct <= WINDOWS_MAX { 1.0 } else { ratio };
    let mut windows: Vec<WindowMean> = Vec::new();
    let mut group_begin = 0.0;
    for point in &sorted {
        let window_ms = f64::from(point.window_ms);
        let (unique, variance) = unique_with_noise(point, memory_bytes);
        match windows.last_mut() {
            Some(window) if window_ms <= group_begin * ratio => {
                window.unique_bytes += unique;
                window.deviation += variance;
                window.window_s += window_ms / 1e3;
                window.count += 1.0;
            }
            _ => {
                group_begin = window_ms;
                windows.push(WindowMean {
                    window_s: window_ms / 1e3,
                    unique_bytes: unique,
                    count: 1.0,
                    deviation: variance,
                });
            }
        }
    }
    for window in &mut windows {
        window.unique_bytes /= window.count;
        window.window_s /= window.count;
        window.deviation = window.deviation.sqrt() / window.count;
    }
    windows
}

/// Returns the unique bytes of a point and their variance.
fn unique_with_noise(point: &DirtyPoint, memory_bytes: f64) -> (f64, f64) {
    let window_s = f64::from(point.window_ms) / 1e3;
    let told = point.rate.bytes_per_second() as f64;
    let (rate, noise) = match point.source {
        DirtySource::PageSampling { pages_per_gib } => {
            let rate = told + FLOOR_MEAN;
            let unique = (rate * window_s).min(memory_bytes);
            // Each sampled page stands for `grain` bytes, and dirty ones are counted: a binomial count.
            let grain = f64::from(1 << 30) / f64::from(pages_per_gib.max(1));
            let clean_share = 1.0 - unique / memory_bytes.max(1.0);
            let counting = (unique + grain) * grain * clean_share.max(0.05);
            (rate, counting + (FLOOR_SD * window_s).powi(2))
        }
        DirtySource::Counted => (told, 0.0),
    };
    let unique = (rate * window_s).min(memory_bytes);
    let told_sd = point
        .sample_sd
        .map(|sd| (sd.bytes_per_second() as f64 * window_s).powi(2));
    let unsteady = (unique * UNSTEADY).powi(2).max(PAGE_VARIANCE);
    (unique, told_sd.unwrap_or(noise) + unsteady)
}

/// A count of pages is never surer than one page.
const PAGE_VARIANCE: f64 = 4096.0 * 4096.0;

#[cfg(test)]
mod tests {
    use super::*;

    fn mib(rate: u64) -> DirtyRate {
        DirtyRate::from_mib_per_second(rate)
    }

    #[test]
    fn two_windows_tell_a_fast_writer_from_a_slow_one() {
        let memory = ByteSize::from_mib(512);
        let nonzero = ByteSize::from_mib(256);
        // One writer over 64 MiB: 20 MiB/s and 200 MiB/s, as measured on QEMU 7.2.
        let slow = [
            DirtyPoint::libvirt(1_000, mib(19)),
            DirtyPoint::libvirt(5_000, mib(12)),
        ];
        let fast = [
            DirtyPoint::libvirt(1_000, mib(64)),
            DirtyPoint::libvirt(5_000, mib(12)),
        ];
        let slow = DirtyModel::fit(&slow, memory, nonzero).unwrap();
        let fast = DirtyModel::fit(&fast, memory, nonzero).unwrap();
        assert!(fast.hot_rate() > mib(60));
        assert!(slow.hot_rate() < mib(45), "{}", slow.hot_rate());
        let set = fast.working_set().bytes() as f64 / MIB;
        assert!((45.0..90.0).contains(&set), "{set}");
    }

    #[test]
    fn no_points_make_no_model_and_classes_fit_into_the_nonzero_memory() {
        let memory = ByteSize::from_mib(512);
        assert!(DirtyModel::fit(&[], memory, memory).is_none());
        let points = [
            DirtyPoint::libvirt(1_000, mib(100)),
            DirtyPoint::libvirt(5_000, mib(100)),
        ];
        let model = DirtyModel::fit(&points, memory, ByteSize::from_mib(64)).unwrap();
        assert!(model.working_set() <= ByteSize::from_mib(64));
    }

    #[test]
    fn a_model_held_to_the_memory_that_there_is_still_tells_what_the_windows_told() {
        let memory = ByteSize::from_mib(256);
        // A writer of 60 MiB/s over 112 MiB, as sampled: the two windows lie on a straight line.
        let points = [
            DirtyPoint::libvirt(1_000, mib(36)),
            DirtyPoint::libvirt(3_000, mib(35)),
        ];
        let model = DirtyModel::fit(&points, memory, ByteSize::from_mib(134)).unwrap();
        assert!(model.working_set() <= ByteSize::from_mib(134));
        let unique = model.unique_bytes(3.0) / MIB;
        assert!((80.0..115.0).contains(&unique), "{unique}");
    }

    #[test]
    fn a_zero_at_the_longest_window_is_little_but_not_nothing() {
        let memory = ByteSize::from_mib(512);
        let points = [
            DirtyPoint::libvirt(1_000, mib(0)),
            DirtyPoint::libvirt(5_000, mib(0)),
        ];
        let model = DirtyModel::fit(&points, memory, memory).unwrap();
        let unique = model.unique_bytes(5.0) / MIB;
        assert!((0.5..5.0).contains(&unique), "{unique}");
    }

    #[test]
    fn many_windows_are_merged_into_a_few() {
        let points: Vec<DirtyPoint> = (1..=200)
            .map(|n| DirtyPoint::counted(n * 37, mib(10)))
            .collect();
        let windows = merge(&points, 1e9);
        assert!(windows.len() <= WINDOWS_MAX, "{}", windows.len());
        assert!(windows.is_sorted_by(|a, b| a.window_s < b.window_s));
    }
}
