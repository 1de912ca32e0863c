//! One measurement of a dirty rate, and the proof that its result is its own: QEMU shows the result of
//! last week just as readily.
//!
//! It samples pages and nothing else. The other two modes end a guest without KVM on QEMU 7.2, and slow
//! one with it. It does not decide when a domain is measured.

mod qmp;

use std::path::PathBuf;
use std::time::Duration;

use plimsoll_libvirt::{
    CallError, Connection, DirtyRateMode, DomainRef, JobStatsFlags, StatsFlags, StatsGroups,
    TypedParams, job,
};
use plimsoll_model::DirtyRate;

/// Pages of each GiB that QEMU looks at when libvirt asks.
pub const LIBVIRT_PAGES_PER_GIB: u32 = 512;
/// Fewest and most pages of each GiB that QEMU takes.
pub const PAGES_PER_GIB: std::ops::RangeInclusive<u32> = 128..=16_384;
/// Shortest window that QEMU takes.
pub const WINDOW_MIN: Duration = Duration::from_millis(50);
/// Longest window that QEMU takes.
pub const WINDOW_MAX: Duration = Duration::from_secs(60);

/// Number of page sampling among the modes of the catalogue.
const MODE_PAGE_SAMPLING: u64 = 0;
const STATUS_MEASURED: u64 = 2;
const START_DEADLINE: Duration = Duration::from_secs(5);
const RESULT_LOOKS: u32 = 8;
const RESULT_PAUSE: Duration = Duration::from_millis(250);

/// How pages are sampled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sampling {
    /// As libvirt does: 512 pages of each GiB, whole seconds.
    Libvirt,
    /// By the monitor of QEMU, so many pages of each GiB; libvirt marks such a guest as tainted.
    Qmp(u32),
}

/// What is to be measured.
#[derive(Debug, Clone, Copy)]
pub struct Order<'a> {
    /// The domain.
    pub domain: &'a DomainRef,
    /// For how long.
    pub window: Duration,
    /// How.
    pub sampling: Sampling,
    /// Longest wait for one answer of libvirt.
    pub deadline: Duration,
}

/// A result that is proven to be that of its order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Measured {
    /// Unique memory made dirty within the window, per second.
    pub rate: DirtyRate,
    /// Pages of each GiB that were looked at.
    pub pages_per_gib: u32,
    /// How it was measured, by the catalogue's number.
    pub mode: u64,
    /// State of the measurement, by the catalogue's number.
    pub status: u64,
}

impl Measured {
    /// A result of page sampling.
    pub const fn sampled(rate: DirtyRate, pages_per_gib: u32) -> Self {
        Self {
            rate,
            pages_per_gib,
            mode: MODE_PAGE_SAMPLING,
            status: STATUS_MEASURED,
        }
    }
}

/// Why there is no result.
#[derive(Debug, thiserror::Error)]
pub enum MeasureError {
    /// The domain has a job, such as a migration, that a measurement would wait for.
    #[error("the domain has a job")]
    HasJob,
    /// What came is not proven to be the result of this measurement.
    #[error("the result is not proven to be that of this measurement")]
    NotOurs,
    /// The window is not one that this way can measure.
    #[error(
        "a window of {0:?} cannot be measured this way; sub-second ones need QEMU 8.2 and `sample_pages`"
    )]
    Window(Duration),
    /// Libvirt did not do what was asked.
    #[error("libvirt did not measure")]
    Libvirt(#[from] CallError),
    /// QEMU refused, in its own words.
    #[error("QEMU did not measure: {0}")]
    Qemu(String),
    /// The helper refused, in its own words.
    #[error("the helper did not measure: {0}")]
    Refused(String),
    /// The helper is not there, or does not answer.
    #[error("nobody measures at {}; start plimsoll-dirty-helper, or correct `helper` in [dirty]", socket.display())]
    Unreachable {
        /// Its socket.
        socket: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
}

impl MeasureError {
    /// Whether somebody has to change something before it can work.
    pub fn is_denied(&self) -> bool {
        match self {
            Self::Libvirt(error) => error.is_denied(),
            Self::Window(_) | Self::Unreachable { .. } => true,
            Self::HasJob | Self::NotOurs | Self::Qemu(_) | Self::Refused(_) => false,
        }
    }
}

/// Measures one domain once, unless it has a job.
///
/// # Errors
/// If there is no result that is proven to be that of this order.
pub async fn measure(connection: &Connection, order: &Order<'_>) -> Result<Measured, MeasureError> {
    // A measurement takes the job that changes a domain: while it migrates it would hang until the end.
    let job = connection
        .job_stats(order.domain, JobStatsFlags::NONE, order.deadline)
        .await?;
    if !matches!(job.kind, job::kind::NONE | job::kind::COMPLETED) {
        return Err(MeasureError::HasJob);
    }
    match order.sampling {
        Sampling::Libvirt => by_libvirt(connection, order).await,
        Sampling::Qmp(pages) => qmp::measure(connection, order, pages).await,
    }
}

async fn by_libvirt(connection: &Connection, order: &Order<'_>) -> Result<Measured, MeasureError> {
    let window = order.window;
    let seconds = u8::try_from(window.as_secs()).unwrap_or(u8::MAX);
    if window.subsec_nanos() != 0 || !(1..=60).contains(&seconds) {
        return Err(MeasureError::Window(window));
    }
    let look = || {
        connection.domain_stats(
            order.domain,
            StatsGroups::DIRTYRATE,
            StatsFlags::NOWAIT,
            order.deadline,
        )
    };
    let before = look().await?.i64("dirtyrate.calc_start_time");
    connection
        .start_dirty_rate_calc(
            order.domain,
            seconds,
            DirtyRateMode::PageSampling,
            START_DEADLINE,
        )
        .await?;
    tokio::time::sleep(window).await;
    for _ in 0..RESULT_LOOKS {
        tokio::time::sleep(RESULT_PAUSE).await;
        if let Some(measured) = proven(&look().await?, before, u64::from(seconds)) {
            return Ok(measured);
        }
    }
    Err(MeasureError::NotOurs)
}

/// Takes a result that was measured by sampling pages, over the window asked for, and began after the one
/// before. When it began is compared with nothing else: QEMU 7.2 counts from the start of the node.
fn proven(params: &TypedParams, before: Option<i64>, seconds: u64) -> Option<Measured> {
    let status = params.u64("dirtyrate.calc_status")?;
    let asked = params.u64("dirtyrate.calc_period") == Some(seconds);
    let started = params.i64("dirtyrate.calc_start_time");
    // Releases of libvirt that do not tell the mode know this one only.
    let mode = params.str("dirtyrate.calc_mode").unwrap_or("page-sampling");
    if status != STATUS_MEASURED || !asked || mode != "page-sampling" {
        return None;
    }
    if started.is_none() || started == before {
        return None;
    }
    params
        .u64("dirtyrate.megabytes_per_second")
        .map(DirtyRate::from_mib_per_second)
        .map(|rate| Measured::sampled(rate, LIBVIRT_PAGES_PER_GIB))
}

#[cfg(test)]
mod tests;
