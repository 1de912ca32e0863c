//! Numbers of lifecycle events and of their details.
//!
//! A newer daemon may use numbers that are not here; they are not an error.

/// A definition was stored.
pub const DEFINED: i32 = 0;
/// A definition was removed.
pub const UNDEFINED: i32 = 1;
/// The domain started.
pub const STARTED: i32 = 2;
/// The domain was paused.
pub const SUSPENDED: i32 = 3;
/// The domain was resumed.
pub const RESUMED: i32 = 4;
/// The domain stopped.
pub const STOPPED: i32 = 5;
/// The guest finished shutting down.
pub const SHUTDOWN: i32 = 6;
/// The guest suspended itself.
pub const PM_SUSPENDED: i32 = 7;
/// The guest crashed.
pub const CRASHED: i32 = 8;

/// Details of [`STARTED`].
pub mod started {
    /// It was started.
    pub const BOOTED: i32 = 0;
    /// It comes from another host.
    pub const MIGRATED: i32 = 1;
    /// It was restored from a file.
    pub const RESTORED: i32 = 2;
    /// It was started from a snapshot.
    pub const FROM_SNAPSHOT: i32 = 3;
    /// The guest woke up.
    pub const WAKEUP: i32 = 4;
}

/// Details of [`SUSPENDED`].
pub mod suspended {
    /// A user paused it.
    pub const PAUSED: i32 = 0;
    /// It is paused for a migration.
    pub const MIGRATED: i32 = 1;
    /// A disk failed.
    pub const IO_ERROR: i32 = 2;
    /// Its watchdog fired.
    pub const WATCHDOG: i32 = 3;
    /// It was restored paused from a file.
    pub const RESTORED: i32 = 4;
    /// It was restored paused from a snapshot.
    pub const FROM_SNAPSHOT: i32 = 5;
    /// A call failed and left it paused.
    pub const API_ERROR: i32 = 6;
    /// It is paused for the post-copy phase.
    pub const POSTCOPY: i32 = 7;
    /// Post-copy failed.
    pub const POSTCOPY_FAILED: i32 = 8;
}

/// Details of [`RESUMED`].
pub mod resumed {
    /// A user resumed it.
    pub const UNPAUSED: i32 = 0;
    /// It runs after a migration.
    pub const MIGRATED: i32 = 1;
    /// It was resumed from a snapshot.
    pub const FROM_SNAPSHOT: i32 = 2;
    /// It runs in the post-copy phase.
    pub const POSTCOPY: i32 = 3;
    /// It runs although post-copy failed.
    pub const POSTCOPY_FAILED: i32 = 4;
}

/// Details of [`STOPPED`].
pub mod stopped {
    /// It shut down.
    pub const SHUTDOWN: i32 = 0;
    /// It was destroyed.
    pub const DESTROYED: i32 = 1;
    /// It crashed.
    pub const CRASHED: i32 = 2;
    /// It went to another host.
    pub const MIGRATED: i32 = 3;
    /// It was saved to a file.
    pub const SAVED: i32 = 4;
    /// The hypervisor failed.
    pub const FAILED: i32 = 5;
    /// A snapshot of a domain that was off was restored.
    pub const FROM_SNAPSHOT: i32 = 6;
}
