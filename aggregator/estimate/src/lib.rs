//! What is thought about a migration before it runs: how long it takes, how long the guest stands
//! still, whether it ends at all, and how much room a host has.
//!
//! Pure mathematics. This crate does no input or output, reads no clock, draws no random numbers and
//! knows neither the wire nor the store: the same inputs always give the same answer.

mod accuracy;
mod answer;
mod baseline;
pub mod batch;
mod choice;
mod dirty;
mod ensemble;
mod error;
mod estimate;
pub mod feasibility;
pub mod headroom;
mod inputs;
mod learn;
mod memory;
pub mod network;
mod nnls;
mod number;
mod postcopy;
mod precopy;
mod prior;
mod profile;
mod reason;
mod scene;
mod zero;

pub use accuracy::{Accuracy, Observed, compare, relative_error};
pub use answer::{
    Estimate, Interval, MODEL_NAME, MODEL_VERSION, PostcopyRisk, Quality, Raw, Verdict,
};
pub use baseline::{Baseline, BaselineAnswer, Formula, baselines};
pub use choice::{Choice, choose};
pub use dirty::{
    DIRTY_POINTS_MAX, DirtyClass, DirtyModel, DirtyPoint, DirtySource, LIBVIRT_SAMPLES_PER_GIB,
    WINDOW_MS_MAX,
};
pub use error::InputError;
pub use estimate::estimate;
pub use inputs::{
    BandwidthSource, Calibration, DEVICE_MEMORY_PC, DEVICE_MEMORY_PC_VGA, FixedCosts, Inputs,
    LinkBandwidth, Policy,
};
pub use learn::{Correction, LEARNED_SAMPLES_MIN, Lessons};
pub use number::round_u64;
pub use postcopy::{PostcopyRun, StopCopyRun, postcopy, stop_copy};
pub use precopy::{PrecopyRun, simulate};
pub use profile::DowntimeProfile;
pub use scene::Scene;
pub use zero::{ZeroShare, zero_share_from_rss, zero_share_from_touched};
