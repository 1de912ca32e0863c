//! Numbers of domain states and of the reasons for them.
//!
//! A newer daemon may use numbers that are not here; they are not an error.

/// The state is unknown.
pub const NO_STATE: i32 = 0;
/// The domain runs.
pub const RUNNING: i32 = 1;
/// The domain is blocked on a resource.
pub const BLOCKED: i32 = 2;
/// The domain is paused.
pub const PAUSED: i32 = 3;
/// The domain is being shut down.
pub const SHUTDOWN: i32 = 4;
/// The domain is off.
pub const SHUTOFF: i32 = 5;
/// The domain has crashed.
pub const CRASHED: i32 = 6;
/// The guest suspended itself.
pub const PM_SUSPENDED: i32 = 7;

/// Reasons for [`RUNNING`].
pub mod running {
    /// The reason is unknown.
    pub const UNKNOWN: i32 = 0;
    /// It was started.
    pub const BOOTED: i32 = 1;
    /// It came from another host.
    pub const MIGRATED: i32 = 2;
    /// It was restored from a file.
    pub const RESTORED: i32 = 3;
    /// It was started from a snapshot.
    pub const FROM_SNAPSHOT: i32 = 4;
    /// It was resumed.
    pub const UNPAUSED: i32 = 5;
    /// Its migration was cancelled.
    pub const MIGRATION_CANCELED: i32 = 6;
    /// Its saving was cancelled.
    pub const SAVE_CANCELED: i32 = 7;
    /// The guest woke up.
    pub const WAKEUP: i32 = 8;
    /// It was resumed after a crash.
    pub const CRASHED: i32 = 9;
    /// It runs here in the post-copy phase of a migration.
    pub const POSTCOPY: i32 = 10;
    /// It runs here after post-copy failed.
    pub const POSTCOPY_FAILED: i32 = 11;
}

/// Reasons for [`PAUSED`].
pub mod paused {
    /// The reason is unknown.
    pub const UNKNOWN: i32 = 0;
    /// A user paused it.
    pub const USER: i32 = 1;
    /// It is migrating.
    pub const MIGRATION: i32 = 2;
    /// It is being saved.
    pub const SAVE: i32 = 3;
    /// Its memory is being dumped.
    pub const DUMP: i32 = 4;
    /// A disk failed.
    pub const IO_ERROR: i32 = 5;
    /// Its watchdog fired.
    pub const WATCHDOG: i32 = 6;
    /// It was restored from a snapshot of a paused domain.
    pub const FROM_SNAPSHOT: i32 = 7;
    /// It is shutting down.
    pub const SHUTTING_DOWN: i32 = 8;
    /// A snapshot is being taken.
    pub const SNAPSHOT: i32 = 9;
    /// The guest crashed.
    pub const CRASHED: i32 = 10;
    /// It is being started.
    pub const STARTING_UP: i32 = 11;
    /// The source of a post-copy migration.
    pub const POSTCOPY: i32 = 12;
    /// Post-copy failed.
    pub const POSTCOPY_FAILED: i32 = 13;
    /// A call failed and left it paused.
    pub const API_ERROR: i32 = 14;
}

/// Reasons for [`SHUTOFF`].
pub mod shutoff {
    /// The reason is unknown.
    pub const UNKNOWN: i32 = 0;
    /// It shut down.
    pub const SHUTDOWN: i32 = 1;
    /// It was destroyed.
    pub const DESTROYED: i32 = 2;
    /// It crashed.
    pub const CRASHED: i32 = 3;
    /// It went to another host.
    pub const MIGRATED: i32 = 4;
    /// It was saved to a file.
    pub const SAVED: i32 = 5;
    /// It failed to start.
    pub const FAILED: i32 = 6;
    /// It was restored from a snapshot of a domain that was off.
    pub const FROM_SNAPSHOT: i32 = 7;
    /// The daemon found it gone.
    pub const DAEMON: i32 = 8;
}
