//! A file of sealed blocks: written once, never changed, removed whole. Where its blocks lie is the
//! footer's to say (see `footer`).

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use plimsoll_model::{Columns, Part, UnixMillis};

use crate::block::{Block, Encoded, Place};
use crate::codec::{self, Malformed};
use crate::error::{Hole, OpenError};
use crate::footer::{self, Described, Footer, Located, read_footer, told_by_samples};
use crate::frame::{self, Kind, Link, Payload, io_error, make_dir};
use crate::handles::{Handle, Lately};

/// What the manifest says of a file of blocks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Number in its name.
    pub(crate) id: u64,
    /// Begin of its partition.
    pub(crate) partition: UnixMillis,
    /// Length of the partition.
    pub(crate) partition_ms: u64,
    /// Length of the file.
    pub(crate) bytes: u64,
    /// Where the footer's frame begins.
    pub(crate) footer: u64,
    /// Samples in it.
    pub(crate) samples: u64,
}

impl Entry {
    /// Names its file below the directory of the store.
    pub(crate) fn path(&self, dir: &Path) -> PathBuf {
        let partition = partition_name(self.partition);
        dir.join("blocks")
            .join(partition)
            .join(format!("{:016}.blocks", self.id))
    }

    /// Returns the first instant after the partition.
    pub(crate) fn end(&self) -> UnixMillis {
        self.partition
            .plus(std::time::Duration::from_millis(self.partition_ms))
    }
}

/// Names a partition by its begin: the hour where it begins with one, else to the millisecond.
fn partition_name(begin: UnixMillis) -> String {
    let (days, millis) = (
        begin.millis().div_euclid(86_400_000),
        begin.millis().rem_euclid(86_400_000),
    );
    // The days of the Gregorian calendar, counted from 1 March of year 0 in cycles of 400 years.
    let shifted = days + 719_468;
    let (era, day) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let of_year = day - (365 * year + year / 4 - year / 100);
    let shifted_month = (5 * of_year + 2) / 153;
    let of_month = of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 {
        shifted_month + 3
    } else {
        shifted_month - 9
    };
    let year = year + era * 400 + i64::from(month <= 2);
    let (hour, rest) = (millis / 3_600_000, millis % 3_600_000);
    let name = format!("{year:04}-{month:02}-{of_month:02}T{hour:02}");
    if rest == 0 {
        return name;
    }
    let (minute, second) = (rest / 60_000, rest % 60_000);
    format!(
        "{name}-{minute:02}-{:02}.{:03}",
        second / 1_000,
        second % 1_000
    )
}

/// A file of blocks in the making.
#[derive(Debug)]
pub(crate) struct Draft {
    id: u64,
    bytes: Vec<u8>,
    footer: Footer,
    footer_bytes: usize,
}

impl Draft {
    pub(crate) fn new(kind: Kind, id: u64) -> Self {
        let bytes = frame::header(kind, id, Link::default());
        let footer = Footer::default();
        Self {
            id,
            bytes,
            footer,
            footer_bytes: 0,
        }
    }

    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    /// Tells whether the file should not grow any more.
    pub(crate) fn is_full(&self) -> bool {
        // The footer is one frame.
        self.bytes.len() > 256 << 20 || self.footer_bytes > frame::PAYLOAD_BYTES_MAX / 2
    }

    /// Adds a block.
    pub(crate) fn push(&mut self, place: Place, block: &Encoded) {
        let columns = &block.columns;
        let sets = self.footer.columns.len();
        let number = self.footer.number_of(columns);
        if self.footer.columns.len() > sets {
            // The most a column takes: its metric, and its part with its length.
            self.footer_bytes += columns.len() * (3 + 2 + Part::LENGTH_BYTES_MAX);
        }
        // The most a subject and a block's place take.
        self.footer_bytes += 64 + 48;
        let located = Located {
            columns: number,
            length: u32::try_from(block.bytes.len()).unwrap_or(u32::MAX),
            offset: self.bytes.len() as u64,
            first: block.first,
            last: block.last,
        };
        self.footer.blocks.entry(place).or_default().push(located);
        self.footer.samples += (block.rows * columns.len()) as u64;
        frame::push(&mut self.bytes, self.id, 0, &block.bytes);
    }

    /// Adds the footer as the last frame; returns the bytes of the file, and where the footer begins.
    pub(crate) fn close(mut self) -> (Vec<u8>, u64, Footer) {
        let footer = self.bytes.len() as u64;
        frame::push(&mut self.bytes, self.id, 0, &self.footer.pack());
        (self.bytes, footer, self.footer)
    }

    /// Writes the file of blocks durably.
    pub(crate) fn write(
        self,
        (dir, opened): (&Path, &Arc<Lately<File>>),
        (partition, partition_ms): (UnixMillis, u64),
    ) -> Result<Sealed, OpenError> {
        let id = self.id;
        let (bytes, at, footer) = self.close();
        let entry = Entry {
            id,
            partition,
            partition_ms,
            bytes: bytes.len() as u64,
            footer: at,
            samples: footer.samples,
        };
        let path = entry.path(dir);
        if let Some(dir) = path.parent() {
            make_dir(dir).map_err(io_error("make", dir))?;
        }
        frame::write_whole(&path, &bytes).map_err(io_error("write", &path))?;
        Ok(Sealed {
            entry,
            path,
            file: Handle::new(id, opened),
            ends: OnceLock::new(),
            footer,
            damaged: false,
            missing: false,
            lost: None,
        })
    }
}

/// A file of blocks, opened when it is read. It can be read as long as somebody holds it, even when
/// removed.
#[derive(Debug)]
pub(crate) struct Sealed {
    pub(crate) entry: Entry,
    pub(crate) path: PathBuf,
    file: Handle<File>,
    pub(crate) footer: Footer,
    /// The footer was made anew, so blocks may be missing from it.
    pub(crate) damaged: bool,
    ends: OnceLock<Option<(UnixMillis, UnixMillis)>>,
    /// The whole file is missing; the next manifest does not name it any more.
    pub(crate) missing: bool,
    /// Blocks are missing from the footer, and nobody knows which.
    pub(crate) lost: Option<Hole>,
}

impl Sealed {
    /// Opens a file; damage is noted and what is whole can be read.
    pub(crate) fn open(
        (dir, opened): (&Path, &Arc<Lately<File>>),
        entry: &Entry,
        holes: &mut Vec<Hole>,
    ) -> Result<Self, OpenError> {
        let mut sealed = Self {
            entry: entry.clone(),
            path: entry.path(dir),
            file: Handle::new(entry.id, opened),
            ends: OnceLock::new(),
            footer: Footer::default(),
            damaged: true,
            missing: false,
            lost: None,
        };
        let path = &sealed.path;
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let hole = Hole {
                    path: path.clone(),
                    offset: 0,
                    what: "the file is missing",
                };
                holes.push(hole.clone());
                sealed.lost = Some(hole);
                sealed.missing = true;
                return Ok(sealed);
            }
            Err(error) => return Err(io_error("open", path)(error)),
        };
        holes.extend(check_header(&file, path, (Kind::Blocks, entry.id))?);
        match read_footer(&file, path, (entry.id, entry.bytes, entry.footer)) {
            Ok(footer) => {
                sealed.footer = footer;
                sealed.damaged = false;
            }
            Err(hole) => {
                let bytes = std::fs::read(path).map_err(io_error("read", path))?;
                sealed.footer = footer::from_blocks(entry.id, &bytes, told_by_samples);
                let is_whole = footer::is_whole_before(entry.id, &bytes, entry.footer);
                sealed.lost = (!is_whole).then(|| hole.clone());
                holes.push(hole);
            }
        }
        Ok(sealed)
    }

    /// Returns the first and the last instant of its samples.
    pub(crate) fn ends(&self) -> Option<(UnixMillis, UnixMillis)> {
        *self.ends.get_or_init(|| {
            let blocks = || self.footer.blocks.values().flatten();
            let first = blocks().map(|block| block.first).min();
            first.zip(blocks().map(|block| block.last).max())
        })
    }

    /// Keeps the file readable for those who hold it, although it is about to be removed.
    pub(crate) fn pin(&self) {
        self.file.pin(|| File::open(&self.path));
    }

    /// Reads the bytes of a block and verifies their checksum.
    pub(crate) fn read(&self, block: &Located) -> Result<Payload, Hole> {
        let file = self.file.get(|| File::open(&self.path));
        let file = file.map_err(|_| Hole {
            path: self.path.clone(),
            offset: block.offset,
            what: "the file cannot be opened",
        })?;
        let at = (block.offset, block.length);
        frame::read_at(&file, &self.path, self.entry.id, at)
    }

    /// Returns what the columns of a block are.
    pub(crate) fn columns(&self, block: &Located) -> &Columns {
        self.footer.columns_of(block)
    }

    /// Names a place in the file that turned out to be damaged.
    pub(crate) fn hole(&self, block: &Located, malformed: Malformed) -> Hole {
        Hole {
            path: self.path.clone(),
            offset: block.offset,
            what: malformed.what,
        }
    }
}

/// Reads the header: a later release's file is left alone, and damage costs nothing, as blocks have
/// checksums of their own.
pub(crate) fn check_header(
    file: &File,
    path: &Path,
    (kind, id): (Kind, u64),
) -> Result<Option<Hole>, OpenError> {
    use std::io::Read as _;
    let mut bytes = Vec::new();
    let header = file
        .take(frame::HEADER_BYTES as u64)
        .read_to_end(&mut bytes);
    header.map_err(io_error("read", path))?;
    match frame::check_header(path, kind, id, &bytes) {
        Ok(_) => Ok(None),
        Err(newer @ OpenError::Newer { .. }) => Err(newer),
        Err(error) => Ok(Some(Hole {
            path: path.to_owned(),
            offset: 0,
            what: codec::what_of(&error),
        })),
    }
}

/// Verifies every byte of a file of blocks.
pub(crate) fn check(path: &Path, entry: &Entry, bytes: &[u8]) -> Result<u64, Vec<Hole>> {
    let file = Described {
        path,
        kind: Kind::Blocks,
        id: entry.id,
        length: entry.bytes,
        footer: entry.footer,
        bytes,
    };
    let read = |payload: &[u8]| Block::parse(payload).and_then(|block| block.rows().map(drop));
    footer::check(&file, read, told_by_samples)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partitions_are_named_as_the_calendar_says() {
        let name = |millis| partition_name(UnixMillis::from_millis(millis));
        assert_eq!(name(0), "1970-01-01T00");
        assert_eq!(name(1_709_164_800_000), "2024-02-29T00");
        assert_eq!(name(1_795_528_800_000 + 61_005), "2026-11-24T14-01-01.005");
        assert_eq!(name(-1), "1969-12-31T23-59-59.999");
    }
}
