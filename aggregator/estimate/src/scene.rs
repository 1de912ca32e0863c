//! One migration in floats, as the simulators take it. Checks nothing: [`crate::inputs`] did.

use plimsoll_model::{Accelerator, MigrationMode};

use crate::dirty::DirtyModel;
use crate::inputs::Inputs;
use crate::number::seconds;
use crate::profile::DowntimeProfile;

/// Page size of the guests that are migrated (x86).
pub(crate) const PAGE_BYTES: f64 = 4096.0;
/// A page on the wire with its header (QEMU migration/ram.c).
pub(crate) const PAGE_WIRE_BYTES: f64 = 4096.0 + 8.0;
/// A page of zeroes on the wire (QEMU migration/ram.c).
pub(crate) const ZERO_WIRE_BYTES: f64 = 9.0;
/// Time to see that a page is all zero and to write its header; a prior measured on QEMU 7.2.
pub(crate) const ZERO_SCAN_S: f64 = 1e-6;
/// A migration without a timeout is watched for so long.
pub(crate) const HORIZON_S: f64 = 14_400.0;

/// One migration, all of it known.
#[derive(Debug, Clone)]
pub struct Scene {
    /// Memory of the guest.
    pub guest_bytes: f64,
    /// Memory of its devices, which lies behind the guest's and is nearly all zero.
    pub device_bytes: f64,
    /// Memory of the guest that is not zero.
    pub touched_bytes: f64,
    /// How the guest writes.
    pub dirty: DirtyModel,
    /// What the link carries, in bytes per second.
    pub line_rate: f64,
    /// Cap while the guest runs, in bytes per second.
    pub cap_rate: Option<f64>,
    /// How long the guest may stand still.
    pub profile: DowntimeProfile,
    /// When it is given up.
    pub timeout_s: f64,
    /// Whether the dirty log is cleared piece by piece as it is sent (KVM) rather than at the sync (TCG).
    pub clears_in_chunks: bool,
    /// Whether the guest is slowed until it converges.
    pub auto_converge: bool,
    /// Time before the first byte.
    pub setup_s: f64,
    /// Time to stop the guest.
    pub stop_s: f64,
    /// Time to load the devices.
    pub load_s: f64,
    /// State of the devices.
    pub state_bytes: f64,
    /// Time of one sync.
    pub sync_s: f64,
}

impl Scene {
    /// Makes the scene of checked inputs with the given share of zero pages and dirty model.
    pub fn new(inputs: &Inputs, zero_fraction: f64, dirty: DirtyModel) -> Self {
        let guest_bytes = inputs.memory_total.bytes() as f64;
        let gib = guest_bytes / f64::from(1 << 30);
        let fixed = &inputs.fixed;
        Self {
            guest_bytes,
            device_bytes: inputs.device_memory.bytes() as f64,
            touched_bytes: guest_bytes * (1.0 - zero_fraction),
            dirty,
            line_rate: inputs.bandwidth.rate.bytes_per_second() as f64,
            cap_rate: inputs
                .policy
                .max_bandwidth
                .map(|cap| cap.bytes_per_second() as f64),
            profile: inputs.policy.downtime,
            timeout_s: inputs.policy.timeout_ms.map_or(HORIZON_S, seconds),
            clears_in_chunks: inputs.accelerator != Some(Accelerator::Tcg),
            auto_converge: inputs.policy.mode == MigrationMode::PrecopyAutoConverge,
            setup_s: fixed.setup_us as f64 / 1e6,
            stop_s: fixed.stop_us as f64 / 1e6,
            load_s: fixed.device_load_us as f64 / 1e6,
            state_bytes: fixed.device_state.bytes() as f64,
            sync_s: fixed.sync_us_per_gib as f64 / 1e6 * gib,
        }
    }

    /// Returns what crosses the wire while the guest runs, in bytes per second.
    pub fn wire_rate(&self) -> f64 {
        match self.cap_rate {
            Some(cap) => cap.min(self.line_rate),
            None => self.line_rate,
        }
    }

    /// Returns the downtime that no amount of bandwidth for memory removes.
    pub fn fixed_downtime_s(&self) -> f64 {
        self.stop_s + self.sync_s + self.load_s + self.state_bytes / self.line_rate
    }
}
