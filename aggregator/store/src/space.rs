//! How much room is left on the file system of the store: a question that a test may answer.

use std::io;
use std::path::Path;

/// Room on a file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// Bytes that are left to the process.
    pub free: u64,
    /// Bytes there are in all.
    pub total: u64,
}

/// Tells how much room is left.
pub trait Space: std::fmt::Debug + Send + Sync {
    /// Returns the room on the file system that holds a directory.
    fn room(&self, dir: &Path) -> io::Result<Room>;
}

/// The file systems of the machine.
#[derive(Debug, Clone, Copy)]
pub struct RealSpace;

impl Space for RealSpace {
    fn room(&self, dir: &Path) -> io::Result<Room> {
        let found = rustix::fs::statvfs(dir)?;
        let bytes = |blocks: u64| blocks.saturating_mul(found.f_frsize);
        Ok(Room {
            free: bytes(found.f_bavail),
            total: bytes(found.f_blocks),
        })
    }
}
