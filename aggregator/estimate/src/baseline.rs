//! The simple formulas that the simulator must beat; shown beside every answer.
//! They know no thresholds, no caps and no carried-over pages, by design.

use crate::number::{millis, round_u64};
use crate::scene::Scene;

/// Page size of the formulas.
const PAGE_BYTES: f64 = 4096.0;
/// Header of a page in the formulas.
const HEADER_BYTES: f64 = 8.0;
/// The formula gives up after so many passes, as the seed paper does.
const ITERATIONS_MAX: u32 = 1_000;
/// What is left when the formula stops the guest, in seconds of bandwidth.
const STOP_SECONDS: f64 = 0.3;

/// Which formula.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Formula {
    /// Memory over bandwidth.
    MemoryOverBandwidth,
    /// Sum of passes, each as large as what the one before let become dirty, all memory counted.
    Passes,
    /// The same without zero pages.
    PassesWithoutZero,
}

/// What a formula says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Baseline {
    /// Which formula.
    pub formula: Formula,
    /// Its answer; absent if it says the migration does not converge.
    pub answer: Option<BaselineAnswer>,
}

/// The answer of a formula.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BaselineAnswer {
    /// Total time.
    pub total_ms: u64,
    /// Downtime, for the formulas that know one.
    pub downtime_ms: Option<u64>,
    /// Bytes on the wire.
    pub bytes: u64,
}

/// Computes all baselines; `dirty_rate` is one number in bytes per second, for they know no curve;
/// without it only the first is given.
pub fn baselines(scene: &Scene, dirty_rate: Option<f64>) -> Vec<Baseline> {
    let all = scene.guest_bytes + scene.device_bytes;
    let bandwidth = scene.wire_rate();
    let simple = BaselineAnswer {
        total_ms: millis(all / bandwidth),
        downtime_ms: None,
        bytes: round_u64(all),
    };
    let mut all_baselines = vec![Baseline {
        formula: Formula::MemoryOverBandwidth,
        answer: Some(simple),
    }];
    if let Some(dirty_rate) = dirty_rate {
        all_baselines.push(Baseline {
            formula: Formula::Passes,
            answer: passes(all, bandwidth, dirty_rate),
        });
        all_baselines.push(Baseline {
            formula: Formula::PassesWithoutZero,
            answer: passes(scene.touched_bytes, bandwidth, dirty_rate),
        });
    }
    all_baselines
}

/// The seed formula: t = ((P + H) / b) * sum of n_k + t_d, where n_0 is all pages and
/// n_k the pages made dirty while n_(k-1) were sent, never more than n_0.
fn passes(bytes: f64, bandwidth: f64, dirty_rate: f64) -> Option<BaselineAnswer> {
    let pages = bytes / PAGE_BYTES;
    let page_s = (PAGE_BYTES + HEADER_BYTES) / bandwidth;
    let shrink = dirty_rate / PAGE_BYTES * page_s;
    let stop_pages = STOP_SECONDS / page_s;
    let mut pass = pages;
    let mut sent = 0.0;
    for _ in 0..ITERATIONS_MAX {
        if pass <= stop_pages {
            let downtime_s = pass * page_s;
            return Some(BaselineAnswer {
                total_ms: millis(sent * page_s + downtime_s),
                downtime_ms: Some(millis(downtime_s)),
                bytes: round_u64((sent + pass) * (PAGE_BYTES + HEADER_BYTES)),
            });
        }
        if shrink >= 1.0 {
            return None;
        }
        sent += pass;
        pass *= shrink;
    }
    None
}
