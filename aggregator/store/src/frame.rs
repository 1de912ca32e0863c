//! Frames: the one envelope of every file of the store. A file is a header and frames; a frame is whole
//! or it never was. It knows no records, only payloads. FORMAT.md draws the bytes.
//!
//! The head of a frame has a checksum of its own, so a reader finds the next whole frame behind a
//! damaged one, and a flipped bit costs one frame and not the rest of the file.

use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use crate::error::{Hole, OpenError};

/// Length of a file's header.
pub(crate) const HEADER_BYTES: usize = 40;
/// Length of a frame's head.
pub(crate) const HEAD_BYTES: usize = 16;
/// The longest payload.
pub(crate) const PAYLOAD_BYTES_MAX: usize = 8 << 20;
/// The longest commit; a frame tells in 32 bits how far behind it the commit began.
pub(crate) const COMMIT_BYTES_MAX: usize = 1 << 30;

/// What a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A segment of the log.
    Log,
    /// Sealed samples of one partition.
    Blocks,
    /// Facts, events, gaps, documents and sessions.
    Kept,
    /// Rollups of samples.
    Rollup,
    /// Which files are true.
    Manifest,
}

impl Kind {
    fn magic(self) -> [u8; 8] {
        *match self {
            Self::Log => b"PLIMLOG\0",
            Self::Blocks => b"PLIMBLK\0",
            Self::Kept => b"PLIMKEP\0",
            Self::Rollup => b"PLIMROL\0",
            Self::Manifest => b"PLIMMAN\0",
        }
    }

    /// Format that this release writes, and the newest it reads.
    fn version(self) -> u16 {
        match self {
            // Since 2 it names rollups.
            Self::Manifest => 2,
            Self::Log | Self::Blocks | Self::Kept | Self::Rollup => 1,
        }
    }
}

/// Where the file before this one ended; all zero where there is none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) bytes: u64,
    pub(crate) crc: u32,
}

/// Makes the header of a file.
pub(crate) fn header(kind: Kind, id: u64, previous: Link) -> Vec<u8> {
    header_of(kind, kind.version(), (id, previous))
}

fn header_of(kind: Kind, version: u16, (id, previous): (u64, Link)) -> Vec<u8> {
    let mut bytes = kind.magic().to_vec();
    bytes.extend(version.to_le_bytes());
    bytes.extend([0, 0]);
    bytes.extend(previous.crc.to_le_bytes());
    bytes.extend(id.to_le_bytes());
    bytes.extend(previous.bytes.to_le_bytes());
    bytes.extend([0; 4]);
    bytes.extend(crc32c::crc32c(&bytes).to_le_bytes());
    bytes
}

fn number_u32(bytes: &[u8], from: usize) -> u32 {
    let found = bytes.get(from..).and_then(|rest| rest.first_chunk());
    found.map_or(0, |bytes| u32::from_le_bytes(*bytes))
}

fn number_u64(bytes: &[u8], from: usize) -> u64 {
    let found = bytes.get(from..).and_then(|rest| rest.first_chunk());
    found.map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

/// Reads a header; the link is what it says about the file before.
pub(crate) fn check_header(
    path: &Path,
    kind: Kind,
    id: u64,
    bytes: &[u8],
) -> Result<Link, OpenError> {
    let corrupt = |what| OpenError::Corrupt {
        path: path.to_owned(),
        offset: 0,
        what,
        remedy: "restore it from a backup, or move it away to go on without what it holds",
    };
    let head = bytes
        .get(..HEADER_BYTES)
        .ok_or_else(|| corrupt("the header is cut short"))?;
    if !head.starts_with(&kind.magic()) {
        return Err(corrupt("it does not begin as its kind of file does"));
    }
    let mut version = kind.version();
    if let Some([low, high]) = head.get(8..10) {
        let found = u16::from_le_bytes([*low, *high]);
        // A flipped bit in the number is damage, not a later release: that one's header is whole too.
        let whole = crc32c::crc32c(head.get(..36).unwrap_or_default()) == number_u32(head, 36);
        if found > version && whole {
            return Err(OpenError::Newer {
                path: path.to_owned(),
                found,
                known: version,
            });
        }
        version = found;
    }
    let link = Link {
        bytes: number_u64(head, 24),
        crc: number_u32(head, 12),
    };
    let known = (1..=kind.version()).contains(&version);
    if !known || head != header_of(kind, version, (id, link)) {
        return Err(corrupt(
            "the header does not match its checksum or its name",
        ));
    }
    Ok(link)
}

/// Appends a frame whose commit began `back` bytes before it.
pub(crate) fn push(out: &mut Vec<u8>, id: u64, back: usize, payload: &[u8]) {
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
    let back = u32::try_from(back).unwrap_or(u32::MAX);
    let mut head = [length, crc32c::crc32c(payload), back]
        .map(u32::to_le_bytes)
        .concat();
    let check = head_check(id, &head);
    head.extend(check.to_le_bytes());
    out.extend(head);
    out.extend(payload);
}

fn head_check(id: u64, head: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&id.to_le_bytes()), head)
}

/// A stretch of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Item<'a> {
    /// A whole frame.
    Frame {
        /// Where its head begins.
        offset: usize,
        /// Where the commit it belongs to began.
        commit: usize,
        /// What it holds.
        payload: &'a [u8],
    },
    /// Bytes that are no frame, up to the next whole one or the end.
    Hole {
        /// Where it begins.
        offset: usize,
        /// What is wrong there.
        what: &'static str,
    },
}

/// Walks over what follows the header.
#[derive(Debug)]
pub(crate) struct Items<'a> {
    bytes: &'a [u8],
    id: u64,
    at: usize,
}

impl<'a> Items<'a> {
    pub(crate) fn new(bytes: &'a [u8], id: u64) -> Self {
        let at = HEADER_BYTES;
        Self { bytes, id, at }
    }
}

impl<'a> Iterator for Items<'a> {
    type Item = Item<'a>;

    fn next(&mut self) -> Option<Item<'a>> {
        let offset = self.at;
        let rest = self.bytes.get(offset..).filter(|rest| !rest.is_empty())?;
        match frame(rest, self.id) {
            Ok((back, payload)) => {
                self.at += HEAD_BYTES + payload.len();
                let commit = offset.saturating_sub(back);
                Some(Item::Frame {
                    offset,
                    commit,
                    payload,
                })
            }
            Err(what) => {
                let whole = |at: &usize| {
                    let rest = self.bytes.get(*at..).unwrap_or_default();
                    frame(rest, self.id).is_ok()
                };
                self.at = (offset + 1..self.bytes.len())
                    .find(whole)
                    .unwrap_or(self.bytes.len());
                Some(Item::Hole { offset, what })
            }
        }
    }
}

/// Reads the frame at the front of the bytes: how far behind it its commit began, and its payload.
pub(crate) fn frame(rest: &[u8], id: u64) -> Result<(usize, &[u8]), &'static str> {
    let (head, tail) = rest
        .split_at_checked(HEAD_BYTES)
        .ok_or("a frame's head is cut short")?;
    let length = usize::try_from(number_u32(head, 0)).unwrap_or(usize::MAX);
    if length == 0 || length > PAYLOAD_BYTES_MAX {
        return Err("a frame has no possible length");
    }
    if head_check(id, head.get(..12).unwrap_or_default()) != number_u32(head, 12) {
        return Err("a frame's head does not match its checksum");
    }
    let payload = tail.get(..length).ok_or("a frame is cut short")?;
    if crc32c::crc32c(payload) != number_u32(head, 4) {
        return Err("a frame does not match its checksum");
    }
    let back = usize::try_from(number_u32(head, 8)).unwrap_or(usize::MAX);
    Ok((back, payload))
}

/// The payload of a frame that was read out of a file.
#[derive(Debug)]
pub(crate) struct Payload(Vec<u8>);

impl std::ops::Deref for Payload {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.0.get(HEAD_BYTES..).unwrap_or_default()
    }
}

/// Reads one frame out of an open file.
pub(crate) fn read_at(
    file: &File,
    path: &Path,
    id: u64,
    (offset, length): (u64, u32),
) -> Result<Payload, Hole> {
    use std::os::unix::fs::FileExt as _;
    let hole = |what| Hole {
        path: path.to_owned(),
        offset,
        what,
    };
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    if length > PAYLOAD_BYTES_MAX {
        return Err(hole("a frame has no possible length"));
    }
    let mut bytes = vec![0; HEAD_BYTES + length];
    file.read_exact_at(&mut bytes, offset)
        .map_err(|_| hole("a frame cannot be read"))?;
    match frame(&bytes, id) {
        Ok((_, payload)) if payload.len() == length => {}
        Ok(_) => return Err(hole("a frame has another length than it should")),
        Err(what) => return Err(hole(what)),
    }
    Ok(Payload(bytes))
}

/// Names the system call that failed.
pub(crate) fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> OpenError {
    let path = path.to_owned();
    move |source| OpenError::Io {
        action,
        path,
        source,
    }
}

/// Makes names in a directory survive a power cut.
pub(crate) fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Makes a directory whose name survives a power cut.
pub(crate) fn make_dir(dir: &Path) -> io::Result<()> {
    std::fs::create_dir_all(dir)?;
    for above in dir
        .ancestors()
        .skip(1)
        .take(2)
        .filter(|above| above.is_dir())
    {
        sync_dir(above)?;
    }
    Ok(())
}

/// Writes a file that is whole under its name or not there at all.
pub(crate) fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension("tmp");
    let mut file = File::create(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&temporary, path)?;
    path.parent().map_or(Ok(()), sync_dir)
}

/// Lists files named by a number with an ending, the lowest number first.
pub(crate) fn numbered(dir: &Path, ending: &str) -> Result<Vec<(u64, PathBuf)>, OpenError> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(io_error("list", dir))? {
        let path = entry.map_err(io_error("list", dir))?.path();
        let stem = path.file_stem().and_then(|stem| stem.to_str());
        let id = stem.and_then(|stem| stem.parse().ok());
        if let (Some(id), Some(end)) = (id, path.extension().and_then(|end| end.to_str()))
            && end == ending
        {
            found.push((id, path));
        }
    }
    found.sort();
    Ok(found)
}
