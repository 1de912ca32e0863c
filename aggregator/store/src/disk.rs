//! The two calls on which an acknowledgement hangs, so that a test can let them fail as no real disk
//! does on demand.

use std::fs::File;
use std::io::{self, Write as _};

/// Writes and makes durable.
pub(crate) trait Disk: std::fmt::Debug + Send + Sync {
    /// Writes all bytes at the end of the file.
    fn write(&self, file: &mut File, bytes: &[u8]) -> io::Result<()>;

    /// Makes durable what was written.
    fn sync(&self, file: &File) -> io::Result<()>;
}

/// The disk of the machine.
#[derive(Debug)]
pub(crate) struct RealDisk;

impl Disk for RealDisk {
    fn write(&self, file: &mut File, bytes: &[u8]) -> io::Result<()> {
        file.write_all(bytes)
    }

    fn sync(&self, file: &File) -> io::Result<()> {
        file.sync_data()
    }
}
