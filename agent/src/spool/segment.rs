//! One segment: a file of records, or a piece of memory where the disk fails.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::record::{self, Next, Record};

/// Most bytes of a segment.
pub const SEGMENT_BYTES_MAX: u64 = 4 << 20;
/// Bytes after which a segment is made safe without waiting for the next second.
const UNSYNCED_BYTES_MAX: u64 = 256 << 10;

#[derive(Debug)]
enum Place {
    Disk { path: PathBuf, file: Option<File> },
    Memory(Vec<u8>),
}

/// A run of sequence numbers and where its records are.
#[derive(Debug)]
pub(super) struct Segment {
    /// First sequence number, which names the file.
    pub(super) first: u64,
    /// Last sequence number; one less than the first while it is empty.
    pub(super) last: u64,
    /// Bytes of whole records.
    pub(super) bytes: u64,
    /// Series that were declared within.
    pub(super) declared: HashSet<u32>,
    place: Place,
    unsynced: u64,
}

/// What a scan of a segment found.
#[derive(Debug)]
pub(super) struct Scan {
    pub(super) segment: Segment,
    /// Whether bytes after the last batch could not be read.
    pub(super) tail_lost: bool,
}

impl Segment {
    /// Creates a segment on the disk.
    pub(super) fn create(directory: &Path, first: u64) -> io::Result<Self> {
        if !directory.exists() {
            std::fs::create_dir_all(directory)?;
            // Else a power cut could take the directory with all that was made safe in it.
            if let Some(parent) = directory.parent() {
                File::open(parent)?.sync_all()?;
            }
        }
        let path = directory.join(format!("{first:020}.seg"));
        let file = File::options()
            .create_new(true)
            .append(true)
            .read(true)
            .open(&path)?;
        File::open(directory)?.sync_all()?;
        let file = Some(file);
        Ok(Self::new(first, Place::Disk { path, file }))
    }

    /// Makes a segment in memory.
    pub(super) fn in_memory(first: u64) -> Self {
        Self::new(first, Place::Memory(Vec::new()))
    }

    fn new(first: u64, place: Place) -> Self {
        Self {
            first,
            last: first.saturating_sub(1),
            bytes: 0,
            declared: HashSet::new(),
            place,
            unsynced: 0,
        }
    }

    /// Finds out what an earlier run left in a file.
    pub(super) fn scan(path: PathBuf, first: u64) -> io::Result<Scan> {
        let bytes = std::fs::read(&path)?;
        // A run that was killed may have left it in the cache of the system.
        File::open(&path)?.sync_data()?;
        let mut segment = Self::new(first, Place::Disk { path, file: None });
        segment.bytes = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        let (mut offset, mut tail_lost) = (0, false);
        loop {
            match record::next(&bytes, offset) {
                Next::Record(found, after) => {
                    if let Record::Batch { batch, .. } = *found {
                        segment.last = u64::try_from(batch.sequence).unwrap_or(segment.last);
                        tail_lost = false;
                    }
                    offset = after;
                }
                Next::Broken(after) => {
                    (offset, tail_lost) = (after, true);
                }
                Next::Torn => {
                    tail_lost = true;
                    break;
                }
                Next::End => break,
            }
        }
        Ok(Scan { segment, tail_lost })
    }

    pub(super) fn is_in_memory(&self) -> bool {
        matches!(self.place, Place::Memory(_))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.last < self.first
    }

    /// Appends records that belong together; leaves the segment as it was if that fails.
    pub(super) fn append(&mut self, records: &[u8]) -> io::Result<()> {
        match &mut self.place {
            Place::Memory(held) => held.extend_from_slice(records),
            Place::Disk { file: None, .. } => return Err(io::ErrorKind::ReadOnlyFilesystem.into()),
            Place::Disk {
                file: Some(file), ..
            } => {
                if let Err(error) = file.write_all(records) {
                    // A half-written record reads as torn; cutting it off is only tidier.
                    drop(file.set_len(self.bytes));
                    return Err(error);
                }
            }
        }
        let length = u64::try_from(records.len()).unwrap_or(u64::MAX);
        self.bytes = self.bytes.saturating_add(length);
        self.unsynced = self.unsynced.saturating_add(length);
        if self.unsynced >= UNSYNCED_BYTES_MAX {
            self.sync()?;
        }
        Ok(())
    }

    /// Makes the records survive a power cut.
    pub(super) fn sync(&mut self) -> io::Result<()> {
        if self.unsynced > 0
            && let Place::Disk {
                file: Some(file), ..
            } = &self.place
        {
            file.sync_data()?;
        }
        self.unsynced = 0;
        Ok(())
    }

    /// Closes the file for appending.
    pub(super) fn seal(&mut self) -> io::Result<()> {
        let synced = self.sync();
        if let Place::Disk { file, .. } = &mut self.place {
            *file = None;
        }
        self.declared = HashSet::new();
        synced
    }

    /// Reads the bytes from an offset to the end.
    pub(super) fn load(&self, offset: usize) -> io::Result<Vec<u8>> {
        match &self.place {
            Place::Memory(held) => Ok(held.get(offset..).unwrap_or_default().to_vec()),
            Place::Disk { path, file } => {
                let start = u64::try_from(offset).unwrap_or(u64::MAX);
                let length = usize::try_from(self.bytes.saturating_sub(start)).unwrap_or(0);
                let mut bytes = vec![0; length];
                match file {
                    Some(file) => file.read_exact_at(&mut bytes, start)?,
                    None => File::open(path)?.read_exact_at(&mut bytes, start)?,
                }
                Ok(bytes)
            }
        }
    }

    /// Counts the readings of batches after a sequence number; absent where some cannot be read.
    pub(super) fn readings_after(&self, sequence: u64) -> Option<u64> {
        let bytes = self.load(0).ok()?;
        let (mut offset, mut sum, mut batches) = (0, 0_u64, 0_u64);
        while let Next::Record(found, after) = record::next(&bytes, offset) {
            if let Record::Batch { batch, readings } = *found
                && u64::try_from(batch.sequence).is_ok_and(|this| this > sequence)
            {
                sum = sum.saturating_add(readings);
                batches = batches.saturating_add(1);
            }
            offset = after;
        }
        let expected = self
            .last
            .saturating_add(1)
            .saturating_sub(self.first.max(sequence + 1));
        (batches == expected).then_some(sum)
    }

    /// Deletes the file.
    pub(super) fn delete(self) {
        if let Place::Disk { path, .. } = &self.place
            && let Err(error) = std::fs::remove_file(path)
        {
            tracing::warn!(%error, path = %path.display(), "a segment that was acknowledged cannot be deleted");
        }
    }
}
