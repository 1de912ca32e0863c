//! The log: frames in segments, each with its checksum. It knows no records, only payloads.
//!
//! A frame is whole or it never was: one record is one frame, and a slice of frames is made durable by
//! one fdatasync before anybody is told. FORMAT.md draws the bytes.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use crate::error::{AppendError, Hole, OpenError, Torn};

const MAGIC: [u8; 8] = *b"PLIMLOG\0";
/// Format this release writes, and the newest it reads.
const VERSION: u16 = 1;
/// Magic, version, two bytes of zero, segment id, CRC of these twenty.
const HEADER_BYTES: usize = 24;
/// Length and CRC of the payload.
const FRAME_HEAD_BYTES: usize = 8;
/// The longest payload.
pub(crate) const PAYLOAD_BYTES_MAX: usize = 8 << 20;

/// The log, open for appending.
#[derive(Debug)]
pub(crate) struct Log {
    dir: PathBuf,
    segment_bytes: u64,
    id: u64,
    path: PathBuf,
    file: File,
    length: u64,
    poison: Option<String>,
}

/// What reading the log found.
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub(crate) frames: u64,
    pub(crate) torn: Option<Torn>,
    pub(crate) holes: Vec<Hole>,
}

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> OpenError {
    let path = path.to_owned();
    move |source| OpenError::Io {
        action,
        path,
        source,
    }
}

fn header(id: u64) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    bytes.extend(VERSION.to_le_bytes());
    bytes.extend([0, 0]);
    bytes.extend(id.to_le_bytes());
    bytes.extend(crc32c::crc32c(&bytes).to_le_bytes());
    bytes
}

fn sync_dir(dir: &Path) -> io::Result<()> {
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

/// Makes a segment that is whole under its name or not there at all.
fn create(dir: &Path, id: u64) -> io::Result<(PathBuf, File)> {
    let path = dir.join(format!("{id:016}.log"));
    let temporary = dir.join(format!("{id:016}.tmp"));
    let mut file = File::create(&temporary)?;
    file.write_all(&header(id))?;
    file.sync_all()?;
    std::fs::rename(&temporary, &path)?;
    sync_dir(dir)?;
    let file = OpenOptions::new().append(true).open(&path)?;
    Ok((path, file))
}

/// Lists the segments, the oldest first.
pub(crate) fn segments(dir: &Path) -> Result<Vec<(u64, PathBuf)>, OpenError> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(io_error("list", dir))? {
        let path = entry.map_err(io_error("list", dir))?.path();
        let id = path
            .file_stem()
            .and_then(|stem| stem.to_str())
            .and_then(|stem| stem.parse().ok());
        if let (Some(id), Some("log")) = (id, path.extension().and_then(|end| end.to_str())) {
            found.push((id, path));
        }
    }
    found.sort();
    Ok(found)
}

/// Where the frames of a segment end, and why if they do not end with the file.
pub(crate) struct Scan {
    pub(crate) frames: u64,
    pub(crate) end: usize,
    pub(crate) damage: Option<&'static str>,
}

/// Reads the frames of a segment up to the first that is not whole.
pub(crate) fn scan(
    path: &Path,
    id: u64,
    bytes: &[u8],
    mut each: impl FnMut(&[u8]) -> Result<(), &'static str>,
) -> Result<Scan, OpenError> {
    check_header(path, id, bytes)?;
    let mut scan = Scan {
        frames: 0,
        end: HEADER_BYTES,
        damage: None,
    };
    while let Some(rest) = bytes.get(scan.end..).filter(|rest| !rest.is_empty()) {
        let payload = match frame(rest) {
            Ok(payload) => payload,
            Err(damage) => {
                scan.damage = Some(damage);
                break;
            }
        };
        // Whole but not understood: a later release wrote it. Cutting it off would lose what was
        // acknowledged.
        each(payload).map_err(|what| OpenError::Corrupt {
            path: path.to_owned(),
            offset: scan.end as u64,
            what,
            remedy: "start the release that wrote it again",
        })?;
        scan.frames += 1;
        scan.end += FRAME_HEAD_BYTES + payload.len();
    }
    Ok(scan)
}

fn check_header(path: &Path, id: u64, bytes: &[u8]) -> Result<(), OpenError> {
    let corrupt = |what| OpenError::Corrupt {
        path: path.to_owned(),
        offset: 0,
        what,
        remedy: "restore it from a backup, or move it away to go on without its samples",
    };
    let head = bytes
        .get(..HEADER_BYTES)
        .ok_or_else(|| corrupt("the header is cut short"))?;
    if !head.starts_with(&MAGIC) {
        return Err(corrupt("it is no log segment"));
    }
    if let Some([low, high]) = head.get(8..10) {
        let found = u16::from_le_bytes([*low, *high]);
        if found > VERSION {
            return Err(OpenError::Newer {
                path: path.to_owned(),
                found,
                known: VERSION,
            });
        }
    }
    if head != header(id) {
        return Err(corrupt(
            "the header does not match its checksum or its name",
        ));
    }
    Ok(())
}

fn frame(rest: &[u8]) -> Result<&[u8], &'static str> {
    let (head, tail) = rest
        .split_at_checked(FRAME_HEAD_BYTES)
        .ok_or("a frame's head is cut short")?;
    let number = |from: usize| {
        let bytes = head
            .get(from..from + 4)
            .and_then(|bytes| bytes.try_into().ok());
        bytes.map_or(0, u32::from_le_bytes)
    };
    let length = usize::try_from(number(0)).unwrap_or(usize::MAX);
    if length == 0 || length > PAYLOAD_BYTES_MAX {
        return Err("a frame has no possible length");
    }
    let payload = tail.get(..length).ok_or("a frame is cut short")?;
    if crc32c::crc32c(payload) != number(4) {
        return Err("a frame does not match its checksum");
    }
    Ok(payload)
}

impl Log {
    /// Reads all frames, mends the torn end of the last segment, and opens the log for appending.
    pub(crate) fn open(
        dir: &Path,
        segment_bytes: u64,
        mut each: impl FnMut(&[u8]) -> Result<(), &'static str>,
    ) -> Result<(Self, Found), OpenError> {
        make_dir(dir).map_err(io_error("make", dir))?;
        let all = segments(dir)?;
        let mut found = Found::default();
        let last = all.last().map(|(id, _)| *id);
        let mut length = HEADER_BYTES;
        for (id, path) in &all {
            let bytes = std::fs::read(path).map_err(io_error("read", path))?;
            let scan = scan(path, *id, &bytes, &mut each)?;
            found.frames += scan.frames;
            length = scan.end;
            let Some(what) = scan.damage else { continue };
            let offset = scan.end as u64;
            if Some(*id) == last {
                found.torn = Some(mend(path, offset, bytes.len() as u64)?);
            } else {
                found.holes.push(Hole {
                    path: path.clone(),
                    offset,
                    what,
                });
            }
        }
        let (id, path, file) = match all.into_iter().next_back() {
            Some((id, path)) => {
                let file = OpenOptions::new().append(true).open(&path);
                (id, path.clone(), file.map_err(io_error("open", &path))?)
            }
            None => {
                let (path, file) = create(dir, 1).map_err(io_error("make", dir))?;
                (1, path, file)
            }
        };
        let length = length as u64;
        let dir = dir.to_owned();
        Ok((
            Self {
                dir,
                segment_bytes,
                id,
                path,
                file,
                length,
                poison: None,
            },
            found,
        ))
    }

    /// Writes payloads as frames; when this returns, they are on the disk. If it fails, none of them is
    /// to be acknowledged.
    pub(crate) fn append(&mut self, payloads: &[Vec<u8>]) -> Result<(), AppendError> {
        if let Some(reason) = &self.poison {
            let (path, reason) = (self.path.clone(), reason.clone());
            return Err(AppendError::Poisoned { path, reason });
        }
        if self.length >= self.segment_bytes {
            self.roll()?;
        }
        let mut bytes = Vec::new();
        for payload in payloads {
            let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
            bytes.extend(length.to_le_bytes());
            bytes.extend(crc32c::crc32c(payload).to_le_bytes());
            bytes.extend(payload);
        }
        if let Err(error) = self.file.write_all(&bytes) {
            return Err(self.take_back(error));
        }
        // After a failed fdatasync the kernel calls the lost pages clean, so a second one would lie.
        if let Err(error) = self.file.sync_data() {
            return Err(self.poisoned(&error));
        }
        self.length += bytes.len() as u64;
        Ok(())
    }

    fn roll(&mut self) -> Result<(), AppendError> {
        match create(&self.dir, self.id + 1) {
            Ok((path, file)) => {
                self.id += 1;
                self.length = HEADER_BYTES as u64;
                (self.path, self.file) = (path, file);
                Ok(())
            }
            Err(source) if is_full(&source) => Err(AppendError::Full {
                path: self.dir.clone(),
                source,
            }),
            Err(error) => Err(self.poisoned(&error)),
        }
    }

    /// Cuts half-written frames off again, so that the log can go on when there is space.
    fn take_back(&mut self, error: io::Error) -> AppendError {
        let mended = self
            .file
            .set_len(self.length)
            .and_then(|()| self.file.sync_data());
        match mended {
            Ok(()) if is_full(&error) => AppendError::Full {
                path: self.path.clone(),
                source: error,
            },
            Ok(()) => self.poisoned(&error),
            Err(worse) => self.poisoned(&worse),
        }
    }

    fn poisoned(&mut self, error: &io::Error) -> AppendError {
        let reason = error.to_string();
        self.poison = Some(reason.clone());
        AppendError::Poisoned {
            path: self.path.clone(),
            reason,
        }
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}

/// Cuts the torn end off the last segment and keeps a copy of the whole.
fn mend(path: &Path, offset: u64, length: u64) -> Result<Torn, OpenError> {
    // Named by its length too, so that a second torn end never overwrites the first copy.
    let copy = path.with_extension(format!("{length}.broken"));
    std::fs::copy(path, &copy)
        .and_then(|_| File::open(&copy)?.sync_all())
        .and_then(|()| path.parent().map_or(Ok(()), sync_dir))
        .map_err(io_error("copy", path))?;
    let file = OpenOptions::new()
        .write(true)
        .open(path)
        .map_err(io_error("open", path))?;
    file.set_len(offset)
        .and_then(|()| file.sync_all())
        .map_err(io_error("mend", path))?;
    Ok(Torn {
        path: path.to_owned(),
        offset,
        bytes: length - offset,
        copy,
    })
}
