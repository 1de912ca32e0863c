//! What an estimate says. Holds results only; [`crate::estimate`] makes them.

use plimsoll_model::{Bandwidth, MigrationMode, Ratio};

use crate::baseline::Baseline;
use crate::inputs::Calibration;

/// Name of the model, told with every answer.
pub const MODEL_NAME: &str = "plimsoll-rounds";
/// Version of the model; changes whenever the same inputs may give other numbers.
pub const MODEL_VERSION: &str = "0.1.0";

/// Bounds of a value: p10 <= p50 <= p90, in the unit of the field that holds it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Interval {
    /// One in ten lies below.
    pub p10: u64,
    /// The middle.
    pub p50: u64,
    /// One in ten lies above.
    pub p90: u64,
}

/// Whether the migration comes to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// With a probability of at least 0.9.
    Converges,
    /// Perhaps.
    AtRisk,
    /// With a probability of at most 0.1.
    DoesNotConverge,
    /// Nothing is known of how the guest writes.
    Unknown,
}

/// Why an answer deserves less trust; none of them is the best quality.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Quality {
    /// The dirty rate is older than 5 minutes, or of unknown age.
    Stale,
    /// No dirty rate was measured.
    NoDirtyRate,
    /// Only one window was measured, which cannot tell a fast writer from a large one.
    OneDirtyWindow,
    /// The guest's balloon driver tells nothing.
    NoBalloon,
    /// Costs and errors are priors.
    Uncalibrated,
    /// The answer depends on times far beyond what was measured.
    Extrapolated,
    /// The share of zero pages is unknown.
    NoZeroFraction,
    /// The bandwidth is a guess.
    AssumedBandwidth,
    /// Nobody knows what runs the guest.
    NoAccelerator,
    /// The source has less than one idle processor for the sending thread, so the bandwidth may not be reached.
    BusySource,
}

/// What post-copy risks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PostcopyRisk {
    /// When the guest is switched over.
    pub switch_ms: Interval,
    /// How long the guest then runs while its memory is fetched; a lost link in this time loses the guest.
    pub risk_window_ms: Interval,
    /// Pages the guest is expected to wait for; a lower bound, for reads are not measured.
    pub remote_faults: Interval,
    /// What one of them costs; absent where the round trip is unknown.
    pub fault_latency_us: Option<u64>,
}

/// Bounds that were neither widened nor corrected.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Raw {
    /// Of the total, in milliseconds.
    pub total_ms: Option<Interval>,
    /// Of the downtime, in milliseconds.
    pub downtime_ms: Option<Interval>,
    /// Of the bytes on the wire.
    pub bytes: Option<Interval>,
}

/// The answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Estimate {
    /// How memory is carried over.
    pub mode: MigrationMode,
    /// Whether it ends.
    pub verdict: Verdict,
    /// Probability that it ends by itself before the timeout; absent if unknown.
    pub probability: Option<Ratio>,
    /// From the start to the end as QEMU counts it, in milliseconds; absent if it does not end.
    ///
    /// At risk, all four intervals speak of the cases that end.
    pub total_ms: Option<Interval>,
    /// Time in which the guest does not run, in milliseconds.
    pub downtime_ms: Option<Interval>,
    /// Bytes on the wire.
    pub bytes: Option<Interval>,
    /// Times that the dirty bitmap is fetched.
    pub iterations: Option<Interval>,
    /// The total, the downtime and the bytes as the worlds of the ensemble gave them, before they were
    /// widened or corrected; what is learned is learned from these.
    pub raw: Raw,
    /// What the link was taken to carry.
    pub link: Bandwidth,
    /// What libvirt adds after the total.
    pub api_overhead_ms: u64,
    /// The least bandwidth with which it would end; present where it does not, and some bandwidth helps.
    pub bandwidth_needed: Option<Bandwidth>,
    /// The least constant downtime limit with which it would end; present like the bandwidth.
    pub downtime_limit_needed_ms: Option<u64>,
    /// Share of processor time that auto-converge takes away at last; absent in other modes.
    pub throttle: Option<Ratio>,
    /// What post-copy risks; absent in other modes.
    pub postcopy: Option<PostcopyRisk>,
    /// Whether errors were learned.
    pub calibration: Calibration,
    /// What weakens the answer, in order, each once.
    pub quality: Vec<Quality>,
    /// The same and the verdict's reason, in plain words.
    pub reasons: Vec<String>,
    /// What simpler formulas say.
    pub baselines: Vec<Baseline>,
}

impl Estimate {
    /// Whether it is likelier to end than not; absent if unknown.
    pub fn likely_converges(&self) -> Option<bool> {
        self.probability
            .map(|p| p.millionths().saturating_mul(2) >= Ratio::ONE.millionths())
    }
}
