//! The log: frames in a chain of segments, the truth until what they hold is sealed. It knows no
//! records, only payloads.
//!
//! A slice of payloads is one commit: one write and one fdatasync before anybody is told. The header of
//! a segment says where the one before it ended, so a segment that lost its end or is missing is seen.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::disk::Disk;
use crate::error::{AppendError, Hole, OpenError, Torn};
use crate::frame::{
    self, COMMIT_BYTES_MAX, HEAD_BYTES, HEADER_BYTES, Item, Items, Kind, Link, io_error, make_dir,
    sync_dir,
};

/// Where the part of the log begins that is not sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Begin {
    /// Its first segment.
    pub(crate) id: u64,
    /// Where the segment before that ended.
    pub(crate) previous: Link,
}

impl Default for Begin {
    fn default() -> Self {
        Self {
            id: 1,
            previous: Link::default(),
        }
    }
}

/// The log, open for appending.
#[derive(Debug)]
pub(crate) struct Log {
    dir: PathBuf,
    segment_bytes: u64,
    id: u64,
    path: PathBuf,
    file: File,
    // How far the file is durable, and the checksum of all of that.
    end: Link,
    poison: Option<String>,
    // A torn end that stays until there is space for its copy.
    unmended: Option<Torn>,
    disk: Arc<dyn Disk>,
}

/// What reading the log found.
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub(crate) frames: u64,
    pub(crate) torn: Option<Torn>,
    pub(crate) holes: Vec<Hole>,
    unmended: bool,
}

/// Names the file of a segment.
pub(crate) fn segment(dir: &Path, id: u64) -> PathBuf {
    dir.join(format!("{id:016}.log"))
}

/// Lists the segments, the oldest first.
pub(crate) fn segments(dir: &Path) -> Result<Vec<(u64, PathBuf)>, OpenError> {
    frame::numbered(dir, "log")
}

/// What one segment holds.
#[derive(Debug, Default)]
pub(crate) struct Scan<'a> {
    /// Whole frames: offset and payload.
    pub(crate) frames: Vec<(usize, &'a [u8])>,
    /// Damage in commits that had been completed.
    pub(crate) holes: Vec<(usize, &'static str)>,
    /// Damage in the last commit, which may never have been completed.
    pub(crate) torn: Option<(usize, &'static str)>,
}

/// Reads a segment whose header was checked. A commit begins only when the one before it is durable, so
/// damage before the last commit is no torn end.
pub(crate) fn scan(bytes: &[u8], id: u64) -> Scan<'_> {
    let mut scan = Scan::default();
    let mut last_commit = 0;
    let mut holes = Vec::new();
    for item in Items::new(bytes, id) {
        match item {
            Item::Hole { offset, what } => holes.push((offset, what)),
            Item::Frame {
                offset,
                commit,
                payload,
            } => {
                last_commit = commit;
                scan.frames.push((offset, payload));
            }
        }
    }
    let is_hole = |(offset, _): &(usize, _)| *offset < last_commit;
    scan.torn = holes.iter().find(|hole| !is_hole(hole)).copied();
    holes.retain(is_hole);
    scan.holes = holes;
    if let Some((torn, _)) = scan.torn {
        scan.frames.retain(|(offset, _)| *offset < torn);
    }
    scan
}

/// Walks over the chain of segments and tells what is not as the chain says.
#[derive(Debug)]
pub(crate) struct Chain {
    dir: PathBuf,
    expected: u64,
    end: Option<Link>,
}

impl Chain {
    pub(crate) fn new(dir: &Path, begin: Begin) -> Self {
        Self {
            dir: dir.to_owned(),
            expected: begin.id,
            end: Some(begin.previous),
        }
    }

    /// Takes the next segment's header into account, if it is whole; says which hole lies before it.
    pub(crate) fn enter(&mut self, id: u64, previous: Option<Link>) -> Option<Hole> {
        let named = |id: u64| segment(&self.dir, id);
        if id != self.expected {
            let what = "the segment is missing";
            let (path, offset) = (named(self.expected), 0);
            return Some(Hole { path, offset, what });
        }
        let previous = previous?;
        let end = self.end.filter(|end| *end != previous)?;
        let what = "the segment does not end as its successor remembers";
        let path = named(id.saturating_sub(1));
        let offset = end.bytes.min(previous.bytes);
        Some(Hole { path, offset, what })
    }

    /// Takes the end of the segment into account; `None` where damage in it was told already.
    pub(crate) fn leave(&mut self, id: u64, end: Option<Link>) {
        self.expected = id.saturating_add(1);
        self.end = end;
    }
}

fn link_of(bytes: &[u8]) -> Link {
    Link {
        bytes: bytes.len() as u64,
        crc: crc32c::crc32c(bytes),
    }
}

impl Log {
    /// Reads all frames, mends the torn end of the last segment, removes segments that are sealed, and
    /// opens the log for appending.
    pub(crate) fn open(
        dir: &Path,
        (begin, segment_bytes, disk): (Begin, u64, Arc<dyn Disk>),
        mut each: impl FnMut(&[u8]) -> Result<(), &'static str>,
    ) -> Result<(Self, Found), OpenError> {
        make_dir(dir).map_err(io_error("make", dir))?;
        let mut all = segments(dir)?;
        for (_, path) in all.extract_if(.., |(id, _)| *id < begin.id) {
            std::fs::remove_file(&path).map_err(io_error("remove", &path))?;
        }
        let mut found = Found::default();
        let mut chain = Chain::new(dir, begin);
        let mut end = link_of(&frame::header(Kind::Log, begin.id, begin.previous));
        let last = all.last().map(|(id, _)| *id);
        for (id, path) in &all {
            let bytes = std::fs::read(path).map_err(io_error("read", path))?;
            let previous = found.header(path, *id, &bytes)?;
            found.holes.extend(chain.enter(*id, previous));
            let scan = scan(&bytes, *id);
            replay(path, &scan, &mut each)?;
            found.frames += scan.frames.len() as u64;
            end = found.judge(path, &bytes, &scan, Some(*id) == last)?;
            let whole = previous.is_some() && scan.holes.is_empty() && scan.torn.is_none();
            chain.leave(*id, whole.then_some(end));
        }
        if last.is_none() && begin.id > 1 {
            found.holes.push(Hole {
                path: segment(dir, begin.id),
                offset: 0,
                what: "the segment is missing",
            });
        }
        let id = last.unwrap_or(begin.id);
        let path = segment(dir, id);
        if last.is_none() {
            let header = frame::header(Kind::Log, id, begin.previous);
            frame::write_whole(&path, &header).map_err(io_error("make", &path))?;
        }
        let file = append_to(&path).map_err(io_error("open", &path))?;
        let log = Self {
            dir: dir.to_owned(),
            segment_bytes,
            id,
            path,
            file,
            end,
            poison: None,
            unmended: found.torn.clone().filter(|_| found.unmended),
            disk,
        };
        Ok((log, found))
    }

    /// Writes payloads as frames of one commit; when this returns, they are on the disk. If it fails,
    /// none of them is to be acknowledged.
    pub(crate) fn append(&mut self, payloads: &[Vec<u8>]) -> Result<(), AppendError> {
        self.healthy()?;
        self.mend_end()?;
        if self.end.bytes >= self.segment_bytes {
            self.roll()?;
        }
        let length = |payload: &Vec<u8>| HEAD_BYTES + payload.len();
        let total: usize = payloads.iter().map(length).sum();
        if total > COMMIT_BYTES_MAX {
            let what = "the slice is larger than one commit may be";
            return Err(AppendError::Unfit { index: 0, what });
        }
        let mut bytes = Vec::with_capacity(total);
        for payload in payloads {
            let back = bytes.len();
            frame::push(&mut bytes, self.id, back, payload);
        }
        if let Err(error) = self.disk.write(&mut self.file, &bytes) {
            return Err(self.take_back(error));
        }
        // After a failed fdatasync the kernel calls the lost pages clean, so a second one would lie.
        if let Err(error) = self.disk.sync(&self.file) {
            return Err(self.poisoned(&error));
        }
        self.end.bytes += bytes.len() as u64;
        self.end.crc = crc32c::crc32c_append(self.end.crc, &bytes);
        Ok(())
    }

    fn healthy(&self) -> Result<(), AppendError> {
        match &self.poison {
            None => Ok(()),
            Some(reason) => Err(AppendError::Poisoned {
                path: self.path.clone(),
                reason: reason.clone(),
            }),
        }
    }

    /// Cuts off the torn end that a full disk left at the start.
    fn mend_end(&mut self) -> Result<(), AppendError> {
        let Some(torn) = self.unmended.take() else {
            return Ok(());
        };
        let Err(source) = mend(&torn) else {
            return Ok(());
        };
        let path = self.path.clone();
        if is_full(&source) {
            self.unmended = Some(torn);
            return Err(AppendError::Full { path, source });
        }
        let reason = source.to_string();
        self.poison = Some(reason.clone());
        Err(AppendError::Poisoned { path, reason })
    }

    /// Begins a new segment and says where it begins; all frames so far lie before it.
    pub(crate) fn roll(&mut self) -> Result<Begin, AppendError> {
        self.healthy()?;
        self.mend_end()?;
        let begin = Begin {
            id: self.id + 1,
            previous: self.end,
        };
        let header = frame::header(Kind::Log, begin.id, begin.previous);
        let path = segment(&self.dir, begin.id);
        let made = frame::write_whole(&path, &header).and_then(|()| append_to(&path));
        match made {
            Ok(file) => {
                (self.id, self.path, self.file) = (begin.id, path, file);
                self.end = link_of(&header);
                Ok(begin)
            }
            Err(source) if is_full(&source) => {
                // It may be there although its directory could not be made durable, and would then
                // remember an end of this segment that more frames are about to follow.
                std::fs::remove_file(&path).ok();
                Err(AppendError::Full {
                    path: self.dir.clone(),
                    source,
                })
            }
            Err(error) => Err(self.poisoned(&error)),
        }
    }

    /// Removes the segments before one; what they hold is sealed and durable.
    pub(crate) fn forget(&self, before: u64) -> Result<(), OpenError> {
        for (id, path) in segments(&self.dir)? {
            if id < before {
                std::fs::remove_file(&path).map_err(io_error("remove", &path))?;
            }
        }
        Ok(())
    }

    /// Cuts half-written frames off again, so that the log can go on when there is space.
    fn take_back(&mut self, error: io::Error) -> AppendError {
        let mended = self.file.set_len(self.end.bytes);
        match mended.and_then(|()| self.disk.sync(&self.file)) {
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
        // What was not acknowledged must not come back from the page cache at the next start and be
        // called durable. If this fails too, nothing is worse than before.
        self.file.set_len(self.end.bytes).ok();
        AppendError::Poisoned {
            path: self.path.clone(),
            reason,
        }
    }
}

fn replay(
    path: &Path,
    scan: &Scan<'_>,
    each: &mut impl FnMut(&[u8]) -> Result<(), &'static str>,
) -> Result<(), OpenError> {
    for (offset, payload) in &scan.frames {
        // Whole but not understood: a later release wrote it. Cutting it off would lose what was
        // acknowledged.
        each(payload).map_err(|what| OpenError::Corrupt {
            path: path.to_owned(),
            offset: *offset as u64,
            what,
            remedy: "start the release that wrote it again",
        })?;
    }
    Ok(())
}

impl Found {
    /// Reads the header of a segment. Frames have checksums of their own, so where the first one is
    /// whole, a damaged header is told and costs nothing.
    fn header(&mut self, path: &Path, id: u64, bytes: &[u8]) -> Result<Option<Link>, OpenError> {
        match frame::check_header(path, Kind::Log, id, bytes) {
            Ok(previous) => Ok(Some(previous)),
            Err(OpenError::Corrupt { offset, what, .. })
                if frame::frame(bytes.get(HEADER_BYTES..).unwrap_or_default(), id).is_ok() =>
            {
                let path = path.to_owned();
                self.holes.push(Hole { path, offset, what });
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Notes the damage of a segment, mends the torn end of the last one, and says where it ends now.
    fn judge(
        &mut self,
        path: &Path,
        bytes: &[u8],
        scan: &Scan<'_>,
        last: bool,
    ) -> Result<Link, OpenError> {
        let hole = |(offset, what): &(usize, &'static str)| Hole {
            path: path.to_owned(),
            offset: *offset as u64,
            what,
        };
        self.holes.extend(scan.holes.iter().map(hole));
        let Some((offset, _)) = scan.torn.as_ref() else {
            return Ok(link_of(bytes));
        };
        if last {
            let torn = torn_end(path, *offset as u64, bytes.len() as u64);
            match mend(&torn) {
                Ok(()) => {}
                // There is no room for the copy: the end stays, and nothing is written behind it.
                Err(error) if is_full(&error) => self.unmended = true,
                Err(error) => return Err(io_error("mend", path)(error)),
            }
            self.torn = Some(torn);
            return Ok(link_of(bytes.get(..*offset).unwrap_or_default()));
        }
        self.holes.extend(scan.torn.iter().map(hole));
        Ok(link_of(bytes))
    }
}

fn append_to(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).open(path)
}

fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}

fn torn_end(path: &Path, offset: u64, length: u64) -> Torn {
    Torn {
        path: path.to_owned(),
        offset,
        bytes: length - offset,
        // Named by its length too, so that a second torn end never overwrites the first copy.
        copy: path.with_extension(format!("{length}.broken")),
    }
}

/// Keeps a copy of the last segment and cuts its torn end off.
fn mend(torn: &Torn) -> io::Result<()> {
    let copied = std::fs::copy(&torn.path, &torn.copy)
        .and_then(|_| File::open(&torn.copy)?.sync_all())
        .and_then(|()| torn.path.parent().map_or(Ok(()), sync_dir));
    if let Err(error) = copied {
        std::fs::remove_file(&torn.copy).ok();
        return Err(error);
    }
    let file = OpenOptions::new().write(true).open(&torn.path)?;
    file.set_len(torn.offset)?;
    file.sync_all()
}

const _: () = assert!(HEADER_BYTES > HEAD_BYTES);

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;
    use crate::disk::RealDisk;

    #[derive(Debug, Default)]
    struct Failing(AtomicBool);

    impl Disk for Failing {
        fn write(&self, file: &mut File, bytes: &[u8]) -> io::Result<()> {
            RealDisk.write(file, bytes)
        }

        fn sync(&self, file: &File) -> io::Result<()> {
            if self.0.swap(false, Ordering::Relaxed) {
                return Err(io::Error::from_raw_os_error(5));
            }
            RealDisk.sync(file)
        }
    }

    /// Takes half of what comes, once: then it is full.
    #[derive(Debug, Default)]
    struct Filling(AtomicBool);

    impl Disk for Filling {
        fn write(&self, file: &mut File, bytes: &[u8]) -> io::Result<()> {
            if self.0.swap(false, Ordering::Relaxed) {
                RealDisk.write(file, bytes.split_at(bytes.len() / 2).0)?;
                return Err(io::ErrorKind::StorageFull.into());
            }
            RealDisk.write(file, bytes)
        }

        fn sync(&self, file: &File) -> io::Result<()> {
            RealDisk.sync(file)
        }
    }

    fn open(dir: &Path, disk: Arc<dyn Disk>) -> (Log, Vec<Vec<u8>>) {
        let mut read = Vec::new();
        let how = (Begin::default(), 1 << 20, disk);
        let (log, found) = Log::open(dir, how, |payload| {
            read.push(payload.to_vec());
            Ok(())
        })
        .unwrap();
        assert_eq!(found.holes, Vec::new(), "nothing is cut");
        (log, read)
    }

    #[test]
    fn the_first_failed_fdatasync_stops_all_writes_and_what_it_lost_does_not_come_back() {
        let dir = tempfile::tempdir().unwrap();
        let disk = Arc::new(Failing::default());
        let (mut log, _) = open(dir.path(), Arc::clone(&disk) as Arc<dyn Disk>);
        log.append(&[b"kept".to_vec()]).unwrap();
        disk.0.store(true, Ordering::Relaxed);
        for _ in 0..3 {
            // The disk works again after the first failure; the log must not believe it.
            let error = log.append(&[b"lost".to_vec()]).unwrap_err();
            assert!(matches!(error, AppendError::Poisoned { .. }), "{error}");
        }
        assert!(log.roll().is_err());
        drop(log);
        assert_eq!(open(dir.path(), Arc::new(RealDisk)).1, [b"kept".to_vec()]);
    }

    #[test]
    fn a_frame_that_a_full_disk_cut_short_is_taken_back_before_the_next_one() {
        let dir = tempfile::tempdir().unwrap();
        let disk = Arc::new(Filling::default());
        let (mut log, _) = open(dir.path(), Arc::clone(&disk) as Arc<dyn Disk>);
        log.append(&[b"kept".to_vec()]).unwrap();
        disk.0.store(true, Ordering::Relaxed);
        let error = log.append(&[b"refused".to_vec()]).unwrap_err();
        assert!(matches!(error, AppendError::Full { .. }), "{error}");
        log.append(&[b"later".to_vec()]).unwrap();
        drop(log);
        let read = open(dir.path(), Arc::new(RealDisk)).1;
        assert_eq!(read, [b"kept".to_vec(), b"later".to_vec()]);
    }
}
