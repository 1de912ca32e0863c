//! Names of job statistics, kinds of jobs and the answer to a question about them.
//!
//! The unit of a value stands with its name, because libvirt mixes bytes, pages, milliseconds and
//! percents; nothing here converts them.

use crate::typed::TypedParams;

/// What kind of job there is, by its number on the wire.
pub mod kind {
    /// No job.
    pub const NONE: i32 = 0;
    /// A job with a known end.
    pub const BOUNDED: i32 = 1;
    /// A job without a known end.
    pub const UNBOUNDED: i32 = 2;
    /// A job that has completed.
    pub const COMPLETED: i32 = 3;
    /// A job that has failed.
    pub const FAILED: i32 = 4;
    /// A job that was cancelled.
    pub const CANCELLED: i32 = 5;
}

/// What the job does, by the value of [`OPERATION`].
pub mod operation {
    /// Unknown.
    pub const UNKNOWN: i32 = 0;
    /// The domain starts.
    pub const START: i32 = 1;
    /// The domain is saved.
    pub const SAVE: i32 = 2;
    /// The domain is restored.
    pub const RESTORE: i32 = 3;
    /// The domain comes from another host.
    pub const MIGRATION_IN: i32 = 4;
    /// The domain goes to another host.
    pub const MIGRATION_OUT: i32 = 5;
    /// A snapshot is taken.
    pub const SNAPSHOT: i32 = 6;
    /// A snapshot is restored.
    pub const SNAPSHOT_REVERT: i32 = 7;
    /// Memory is dumped.
    pub const DUMP: i32 = 8;
    /// A backup is made.
    pub const BACKUP: i32 = 9;
}

/// What the job does: one of [`operation`].
pub const OPERATION: &str = "operation";
/// Milliseconds since the job began, without the finish phase.
pub const TIME_ELAPSED: &str = "time_elapsed";
/// Milliseconds since the job began, without the clock difference of the hosts.
pub const TIME_ELAPSED_NET: &str = "time_elapsed_net";
/// Milliseconds the job still needs.
pub const TIME_REMAINING: &str = "time_remaining";
/// Milliseconds the guest stands still: expected while running, real once completed.
pub const DOWNTIME: &str = "downtime";
/// Milliseconds the guest stood still, without the clock difference of the hosts.
pub const DOWNTIME_NET: &str = "downtime_net";
/// Milliseconds of preparation.
pub const SETUP_TIME: &str = "setup_time";
/// Bytes in all.
pub const DATA_TOTAL: &str = "data_total";
/// Bytes done.
pub const DATA_PROCESSED: &str = "data_processed";
/// Bytes left.
pub const DATA_REMAINING: &str = "data_remaining";
/// Bytes of memory in all, zero pages included.
pub const MEMORY_TOTAL: &str = "memory_total";
/// Bytes of memory sent; may exceed the total.
pub const MEMORY_PROCESSED: &str = "memory_processed";
/// Bytes of memory left.
pub const MEMORY_REMAINING: &str = "memory_remaining";
/// Pages of one repeated byte, sent as a note only.
pub const MEMORY_CONSTANT: &str = "memory_constant";
/// Pages sent whole.
pub const MEMORY_NORMAL: &str = "memory_normal";
/// Bytes of pages sent whole.
pub const MEMORY_NORMAL_BYTES: &str = "memory_normal_bytes";
/// Bytes of memory sent each second.
pub const MEMORY_BPS: &str = "memory_bps";
/// Pages dirtied each second; zero in the first iteration.
pub const MEMORY_DIRTY_RATE: &str = "memory_dirty_rate";
/// Bytes in a page.
pub const MEMORY_PAGE_SIZE: &str = "memory_page_size";
/// Passes over memory so far.
pub const MEMORY_ITERATION: &str = "memory_iteration";
/// Pages the target asked for in the post-copy phase.
pub const MEMORY_POSTCOPY_REQUESTS: &str = "memory_postcopy_requests";
/// Bytes of disks in all.
pub const DISK_TOTAL: &str = "disk_total";
/// Bytes of disks sent.
pub const DISK_PROCESSED: &str = "disk_processed";
/// Bytes of disks left.
pub const DISK_REMAINING: &str = "disk_remaining";
/// Bytes of disks sent each second.
pub const DISK_BPS: &str = "disk_bps";
/// Percent of CPU time taken away from the guest.
pub const AUTO_CONVERGE_THROTTLE: &str = "auto_converge_throttle";
/// Whether a completed job succeeded.
pub const SUCCESS: &str = "success";
/// Why a completed job failed.
pub const ERROR_MESSAGE: &str = "errmsg";

/// The kind of a job and its statistics.
#[derive(Debug, Clone, PartialEq)]
pub struct JobStats {
    /// One of [`kind`].
    pub kind: i32,
    /// Values under the names of this module.
    pub params: TypedParams,
}

/// The fixed set of job figures that every daemon gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JobInfo {
    /// One of [`kind`].
    pub kind: i32,
    /// Milliseconds since the job began.
    pub time_elapsed_ms: u64,
    /// Milliseconds the job still needs, when it is [`kind::BOUNDED`].
    pub time_remaining_ms: u64,
    /// Bytes in all.
    pub data_total_bytes: u64,
    /// Bytes done.
    pub data_processed_bytes: u64,
    /// Bytes left.
    pub data_remaining_bytes: u64,
    /// Bytes of memory in all.
    pub memory_total_bytes: u64,
    /// Bytes of memory sent.
    pub memory_processed_bytes: u64,
    /// Bytes of memory left.
    pub memory_remaining_bytes: u64,
    /// Bytes of disks in all.
    pub disk_total_bytes: u64,
    /// Bytes of disks sent.
    pub disk_processed_bytes: u64,
    /// Bytes of disks left.
    pub disk_remaining_bytes: u64,
}
