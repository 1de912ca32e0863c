//! What an estimate is made from. Fetches nothing and fills in nothing silently: what is missing
//! is `None`, and the estimate says so.

use plimsoll_model::{Accelerator, Bandwidth, ByteSize, MigrationMode, Ratio};

use crate::dirty::{DIRTY_POINTS_MAX, DirtyPoint, WINDOW_MS_MAX};
use crate::error::InputError;
use crate::learn::Correction;
use crate::profile::DowntimeProfile;

/// The largest guest that is taken, 64 TiB: beyond it a wrong unit is likelier.
const MEMORY_MAX: ByteSize = ByteSize::from_mib(64 << 20);

/// Memory of the devices of a `pc` machine with VGA: 16 MiB of video memory and some ROMs, which
/// QEMU sends along (measured on QEMU 7.2).
pub const DEVICE_MEMORY_PC_VGA: ByteSize = ByteSize::from_kib(17_203);

/// The same without a screen: some ROMs (measured on QEMU 7.2 under libvirt, `-display none`).
pub const DEVICE_MEMORY_PC: ByteSize = ByteSize::from_kib(520);

/// Where a bandwidth comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BandwidthSource {
    /// Throughput of finished migrations between the same nodes.
    Measured,
    /// Speed of the link less its other traffic.
    Capacity,
    /// A guess or a setting that nobody measured.
    Assumed,
}

/// What the link between source and target can carry for this migration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LinkBandwidth {
    /// Payload bytes that TCP can carry, above 0; see [`crate::network`] for links told in bits.
    pub rate: Bandwidth,
    /// Relative standard deviation, 0 to 1; absent takes the prior of the source.
    pub uncertainty: Option<Ratio>,
    /// Where it comes from.
    pub source: BandwidthSource,
}

/// How the migration is told to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// How memory is carried over.
    pub mode: MigrationMode,
    /// How long the guest may stand still.
    pub downtime: DowntimeProfile,
    /// Cap while the guest runs; absent is none, as libvirt sets it unless told. Lifted at the switch-over.
    pub max_bandwidth: Option<Bandwidth>,
    /// When the migration is given up; absent is never.
    pub timeout_ms: Option<u64>,
    /// When a post-copy migration is switched over; absent is after the first pass. Other modes ignore it.
    pub postcopy_after_ms: Option<u64>,
}

impl Policy {
    /// Pre-copy as QEMU does it by itself: 300 ms, no cap, no timeout.
    pub fn qemu(mode: MigrationMode) -> Self {
        Self {
            mode,
            downtime: DowntimeProfile::Qemu,
            max_bandwidth: None,
            timeout_ms: None,
            postcopy_after_ms: None,
        }
    }
}

/// Whether the errors of the model were learned from finished migrations.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Calibration {
    /// No: the bounds are widened by the cold-start table.
    Prior,
    /// Yes: the bounds of total, downtime and bytes are corrected by it.
    Learned(Correction),
}

/// What every migration between two nodes costs, whatever its size. The defaults are priors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FixedCosts {
    /// Time before the first byte, in which libvirt starts QEMU on the target; libvirt counts it in the total.
    pub setup_us: u64,
    /// Time to stop the guest.
    pub stop_us: u64,
    /// Time to load the devices on the target.
    pub device_load_us: u64,
    /// State of the devices without their memory.
    pub device_state: ByteSize,
    /// Time to fetch the dirty bitmap of each GiB.
    pub sync_us_per_gib: u64,
    /// What libvirt adds after QEMU is done: it lies outside the total.
    pub api_overhead_ms: u64,
}

impl Default for FixedCosts {
    /// The priors, measured on QEMU 7.2 and libvirt 9.0, whose target had run QEMU before.
    fn default() -> Self {
        Self {
            setup_us: 350_000,
            stop_us: 2_000,
            device_load_us: 15_000,
            device_state: ByteSize::from_bytes(300_000),
            sync_us_per_gib: 2_000,
            api_overhead_ms: 2_000,
        }
    }
}

/// All that is known before a migration.
#[derive(Debug, Clone, PartialEq)]
pub struct Inputs {
    /// Memory of the guest, above 0; what the balloon has taken counts, for QEMU sends it as zero pages.
    pub memory_total: ByteSize,
    /// Memory of its devices; see [`DEVICE_MEMORY_PC_VGA`].
    pub device_memory: ByteSize,
    /// Share of the guest's memory that is all zero, 0 to 1.
    pub zero_fraction: Option<Ratio>,
    /// Standard deviation of that share, 0 to 1; absent takes one fiftieth of what is not zero.
    pub zero_deviation: Option<Ratio>,
    /// Measurements of how fast memory is made dirty, in any order; two windows tell more than two measurements of one.
    pub dirty_points: Vec<DirtyPoint>,
    /// How old the newest of them is.
    pub telemetry_age_ms: Option<u64>,
    /// What the link can carry.
    pub bandwidth: LinkBandwidth,
    /// How the migration is told to run.
    pub policy: Policy,
    /// What runs the guest's instructions.
    pub accelerator: Option<Accelerator>,
    /// What every migration costs.
    pub fixed: FixedCosts,
    /// Whether errors were learned.
    pub calibration: Calibration,
    /// Whether the guest's balloon driver tells of its memory.
    pub has_balloon: bool,
    /// Processors of the source that are idle, in millionths of one; under one the sending thread is starved.
    pub idle_cpus: Option<Ratio>,
    /// Round trip between the nodes, for the faults of post-copy.
    pub round_trip_us: Option<u64>,
}

impl Inputs {
    /// Makes inputs of which only the necessary is known; the caller sets what else it knows.
    pub fn new(memory_total: ByteSize, bandwidth: LinkBandwidth, policy: Policy) -> Self {
        Self {
            memory_total,
            device_memory: DEVICE_MEMORY_PC_VGA,
            zero_fraction: None,
            zero_deviation: None,
            dirty_points: Vec::new(),
            telemetry_age_ms: None,
            bandwidth,
            policy,
            accelerator: None,
            fixed: FixedCosts::default(),
            calibration: Calibration::Prior,
            has_balloon: false,
            idle_cpus: None,
            round_trip_us: None,
        }
    }

    /// Refuses what no migration can have.
    pub fn check(&self) -> Result<(), InputError> {
        if self.memory_total.bytes() == 0 {
            return Err(InputError::MemoryZero);
        }
        let bytes = self.memory_total.saturating_add(self.device_memory).bytes();
        if bytes > MEMORY_MAX.bytes() {
            return Err(InputError::MemoryTooLarge {
                bytes,
                limit_bytes: MEMORY_MAX.bytes(),
            });
        }
        if self.bandwidth.rate.bytes_per_second() == 0 {
            return Err(InputError::BandwidthZero);
        }
        if self.policy.max_bandwidth.map(Bandwidth::bytes_per_second) == Some(0) {
            return Err(InputError::BandwidthCapZero);
        }
        if self.policy.timeout_ms == Some(0) {
            return Err(InputError::TimeoutZero);
        }
        check_share("zero_fraction", self.zero_fraction)?;
        check_share("zero_deviation", self.zero_deviation)?;
        check_share("bandwidth.uncertainty", self.bandwidth.uncertainty)?;
        self.policy.downtime.check()?;
        self.check_points()
    }

    fn check_points(&self) -> Result<(), InputError> {
        let count = self.dirty_points.len();
        if count > DIRTY_POINTS_MAX {
            return Err(InputError::DirtyPointsTooMany {
                count,
                limit: DIRTY_POINTS_MAX,
            });
        }
        for point in &self.dirty_points {
            if point.window_ms == 0 || point.window_ms > WINDOW_MS_MAX {
                return Err(InputError::DirtyWindow {
                    window_ms: point.window_ms,
                });
            }
        }
        Ok(())
    }
}

fn check_share(field: &'static str, share: Option<Ratio>) -> Result<(), InputError> {
    match share {
        Some(share) if share > Ratio::ONE => Err(InputError::ShareAboveOne {
            field,
            millionths: share.millionths(),
        }),
        _ => Ok(()),
    }
}
