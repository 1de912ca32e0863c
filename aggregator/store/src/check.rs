//! Verifies every checksum of a store that nobody has open. It changes nothing.

use std::path::Path;

use crate::codec;
use crate::error::{Hole, OpenError};
use crate::log;

/// What a check found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Files read.
    pub files: u64,
    /// Bytes read.
    pub bytes: u64,
    /// Frames of the log that are whole.
    pub frames: u64,
    /// What is damaged.
    pub holes: Vec<Hole>,
}

/// Reads all files of the store and verifies every checksum.
pub fn check(dir: &Path) -> Result<Report, OpenError> {
    let mut report = Report::default();
    for (id, path) in log::segments(&dir.join("log"))? {
        let bytes = std::fs::read(&path).map_err(|source| OpenError::Io {
            action: "read",
            path: path.clone(),
            source,
        })?;
        let scan = log::scan(&path, id, &bytes, |payload| {
            codec::decode(payload)
                .map(|_| ())
                .map_err(|error| error.what)
        })?;
        report.files += 1;
        report.bytes += bytes.len() as u64;
        report.frames += scan.frames;
        if let Some(what) = scan.damage {
            report.holes.push(Hole {
                path,
                offset: scan.end as u64,
                what,
            });
        }
    }
    Ok(report)
}
