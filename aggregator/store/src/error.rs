//! Why the store cannot do what it was asked: one variant per decision of the caller.

use std::io;
use std::path::PathBuf;

/// Why a store cannot be opened. Nothing was deleted.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it open.
    #[error("{} is in use by another process; stop it first", path.display())]
    Locked {
        /// The lock file.
        path: PathBuf,
    },
    /// A file was written by a later release.
    #[error(
        "{} has format {found} at byte 8, this release reads up to {known}; start the newer release again",
        path.display()
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// The format found.
        found: u16,
        /// The newest format this release reads.
        known: u16,
    },
    /// A file that everything else hangs on is damaged.
    #[error("{} is damaged at byte {offset}: {what}; {remedy}", path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// Where.
        offset: u64,
        /// What is wrong.
        what: &'static str,
        /// What to do.
        remedy: &'static str,
    },
    /// The system refused.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// Why nothing was appended. Nothing of the slice may be acknowledged.
#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    /// The disk is full; the store goes on when there is space.
    #[error("no space left for {}; free space on its file system or shorten the retention", path.display())]
    Full {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Too little room is left; the store goes on when upkeep finds more.
    #[error(
        "{free_bytes} bytes are free around {}, less than the floor of {floor_bytes}; free space on \
         its file system or shorten the retention",
        path.display()
    )]
    LowSpace {
        /// The directory of the store.
        path: PathBuf,
        /// What was free.
        free_bytes: u64,
        /// What is to be free.
        floor_bytes: u64,
    },
    /// The disk failed; writes have stopped, reads go on.
    #[error("writes to {} have stopped after a failure: {reason}; check the disk, then restart", path.display())]
    Poisoned {
        /// The file.
        path: PathBuf,
        /// The first failure.
        reason: String,
    },
    /// Samples come faster than they can be sealed, or sealing fails; the store goes on when memory
    /// is sealed.
    #[error(
        "memory holds {bytes} bytes that are not sealed, twice what it may; see why sealing fails"
    )]
    HeadFull {
        /// How many bytes wait.
        bytes: usize,
    },
    /// A record is too large or holds what cannot be kept; those after it are not written either.
    #[error("record {index} cannot be kept: {what}")]
    Unfit {
        /// Its place in the slice.
        index: usize,
        /// What is wrong.
        what: &'static str,
    },
}

/// Why the store could not be kept in order. Nothing is lost; the next upkeep tries again.
#[derive(Debug, thiserror::Error)]
pub enum UpkeepError {
    /// A file could not be written or removed.
    #[error("cannot seal, merge or expire files")]
    Files(#[from] OpenError),
    /// The log could not go on to its next segment.
    #[error("cannot begin the next segment of the log")]
    Log(#[from] AppendError),
}

/// What opening a store found and did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RecoveryReport {
    /// Frames of the log that were read again.
    pub frames: u64,
    /// Samples read again from the log.
    pub samples: u64,
    /// Files of sealed blocks, and the samples in them.
    pub sealed_files: u64,
    /// Samples in sealed blocks.
    pub sealed_samples: u64,
    /// Files removed that no manifest names, left by a seal that did not come to its end.
    pub strays: u64,
    /// Whether the index had to be made anew.
    pub index_rebuilt: bool,
    /// The torn end of the last segment: what was cut off and where the copy is.
    pub torn: Option<Torn>,
    /// Holes in what should be whole; what follows them was read.
    pub holes: Vec<Hole>,
}

/// The end of the last segment, cut off because a frame in it was not whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Torn {
    /// The segment.
    pub path: PathBuf,
    /// Where it was cut.
    pub offset: u64,
    /// How many bytes were cut off.
    pub bytes: u64,
    /// The copy of the whole segment as it was found.
    pub copy: PathBuf,
}

/// A damaged place.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Hole {
    /// The file.
    pub path: PathBuf,
    /// Where the damage begins.
    pub offset: u64,
    /// What is wrong.
    pub what: &'static str,
}
