//! The store: one writer, one keeper, many readers. Readers never wait for the disk of the writer.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use plimsoll_model::{NodeId, SessionId, UnixMillis};

use crate::codec;
use crate::disk::{Disk, RealDisk};
use crate::error::{AppendError, Hole, OpenError, RecoveryReport, UpkeepError};
use crate::files::{self, Files, Handles};
use crate::frame::{PAYLOAD_BYTES_MAX, io_error, make_dir};
use crate::head::Head;
use crate::index::{Broken, DocumentPlace, Index};
use crate::keeper::{Change, Keeper};
use crate::log::{Begin, Found, Log};
use crate::manifest::Manifest;
use crate::record::{Appended, Document, Record, StoreOptions};
use crate::sessions::Judge;
use crate::space::{RealSpace, Space};
use crate::upkeep::{Watch, rollup_at};

/// Records read from the log at a start and not yet taken.
const RECORDS_AHEAD: usize = 64;
/// Damaged places remembered.
const HOLES_MAX: usize = 1_000;

/// The store. All methods take `&self`; share it in an `Arc`. [`Store::append`], [`Store::seal`] and
/// [`Store::maintain`] block on the disk: keep them off the executor's threads.
#[derive(Debug)]
pub struct Store {
    // Taken in this order: keeper, log, head, index. The log's lock is held through write and
    // fdatasync; readers never take it.
    keeper: Mutex<Keeper>,
    log: Mutex<Log>,
    head: RwLock<Head>,
    index: RwLock<Index>,
    // How often the index was made anew while the store was open.
    rebuilds: AtomicU64,
    holes: Mutex<BTreeSet<Hole>>,
    pub(crate) options: StoreOptions,
    pub(crate) dir: PathBuf,
    pub(crate) room: Watch,
    // Files of rollups in which damage was found.
    pub(crate) suspects: Mutex<BTreeSet<u64>>,
    _lock: Locked,
}

/// Keeps a second process out. The system releases it too when the process ends, however it ends.
#[derive(Debug)]
pub(crate) struct Locked(File);

impl Drop for Locked {
    fn drop(&mut self) {
        // Closing is not enough where a child that was just forked still has the file open.
        rustix::fs::flock(&self.0, rustix::fs::FlockOperation::Unlock).ok();
    }
}

/// Takes the lock that keeps a second process out.
pub(crate) fn lock(dir: &Path) -> Result<Locked, OpenError> {
    let path = dir.join("LOCK");
    let lock = File::create(&path).map_err(io_error("lock", &path))?;
    match rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Locked(lock)),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(OpenError::Locked { path }),
        Err(error) => Err(io_error("lock", &path)(error.into())),
    }
}

impl Store {
    /// Opens the directory, makes it if it is not there, and reads back what it holds.
    pub fn open(dir: &Path, options: StoreOptions) -> Result<(Self, RecoveryReport), OpenError> {
        Self::open_in(dir, options, Arc::new(RealSpace))
    }

    /// Opens the directory like [`Store::open`], and asks somebody else how much room is left.
    pub fn open_in(
        dir: &Path,
        options: StoreOptions,
        space: Arc<dyn Space>,
    ) -> Result<(Self, RecoveryReport), OpenError> {
        make_dir(dir).map_err(io_error("make", dir))?;
        let lock = lock(dir)?;
        let (manifest, mut holes) = Manifest::read(dir)?;
        manifest.write_first(dir)?;
        let strays = files::remove_strays(dir, &manifest)?;
        let handles = Handles::default();
        let (files, recalled) = Files::open((dir, &handles), &manifest, &mut holes)?;
        let index_dir = dir.join("index");
        let index = Index::open(&index_dir, manifest.generation).map_err(|Broken| {
            let recalled = recalled.iter().map(|(id, placed)| (*id, placed.as_slice()));
            Index::rebuild(&index_dir, manifest.generation, &files, recalled)
        });
        let index_rebuilt = index.is_err();
        let index = index.unwrap_or_else(|rebuilt| rebuilt);
        let mut head = Head::default();
        head.horizon = manifest.forgotten;
        for (_, _, kept) in recalled.into_iter().flat_map(|(_, placed)| placed) {
            head.recall(kept);
        }
        let how = (
            manifest.begin,
            options.segment_bytes,
            Arc::new(RealDisk) as _,
        );
        let (log, found, samples) = replay(&dir.join("log"), how, &mut head)?;
        #[cfg(plimsoll_mutant = "dedup_apart")]
        head.sessions.clear();
        holes.extend(found.holes);
        let report = RecoveryReport {
            frames: found.frames,
            samples,
            sealed_files: files.blocks.len() as u64,
            sealed_samples: files.blocks.iter().map(|file| file.entry.samples).sum(),
            strays,
            index_rebuilt,
            torn: found.torn,
            holes: holes.clone(),
        };
        let files = Arc::new(files);
        head.files = Arc::clone(&files);
        head.note_sealed();
        let store = Self {
            suspects: Mutex::new(holes.iter().filter_map(rollup_at).collect()),
            keeper: Mutex::new(Keeper::new(dir, (manifest, files, handles), &options)),
            log: Mutex::new(log),
            head: RwLock::new(head),
            index: RwLock::new(index),
            rebuilds: AtomicU64::new(0),
            holes: Mutex::new(holes.into_iter().collect()),
            options,
            dir: dir.to_owned(),
            room: Watch::new(space),
            _lock: lock,
        };
        Ok((store, report))
    }

    pub(crate) fn read(&self) -> RwLockReadGuard<'_, Head> {
        self.head.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn write(&self) -> RwLockWriteGuard<'_, Head> {
        self.head.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn writer(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn keeper(&self) -> MutexGuard<'_, Keeper> {
        self.keeper.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes records as one commit; what it calls [`Appended::Stored`] survives a power cut from here
    /// on. On an error none of the slice may be acknowledged.
    pub fn append(&self, records: &[Record]) -> Result<Vec<Appended>, AppendError> {
        self.room.allows(&self.dir)?;
        let mut log = self.writer();
        let mut outcomes = Vec::with_capacity(records.len());
        let mut payloads = Vec::new();
        let mut stored = Vec::new();
        {
            let head = self.read();
            if head.bytes >= self.options.head_bytes.saturating_mul(2) {
                return Err(AppendError::HeadFull { bytes: head.bytes });
            }
            let mut judge = Judge::new(&head.sessions);
            for (index, record) in records.iter().enumerate() {
                let (outcome, clipped) = judge.judge(record);
                if outcome == Appended::Stored {
                    let clipped = clipped.map(Record::Gap);
                    payloads.push(payload(index, clipped.as_ref().unwrap_or(record))?);
                    stored.push((record, clipped));
                }
                outcomes.push(outcome);
            }
        }
        if !payloads.is_empty() {
            log.append(&payloads)?;
            let mut head = self.write();
            for (record, clipped) in &stored {
                head.take(clipped.as_ref().unwrap_or(record));
            }
        }
        Ok(outcomes)
    }

    /// Writes one document durably.
    pub fn put_document(&self, document: Document) -> Result<(), AppendError> {
        self.append(&[Record::Document(document)]).map(|_| ())
    }

    /// Returns the last sequence number of a session that is durable or declared lost.
    pub fn durable_sequence(&self, node: NodeId, session: SessionId) -> Option<u64> {
        let head = self.read();
        head.sessions
            .get(&(node, session))
            .map(|session| session.durable)
    }

    /// Returns the checksum of the body of the last batch of a session, if that is a batch and no gap.
    pub fn durable_checksum(&self, node: NodeId, session: SessionId) -> Option<u32> {
        let head = self.read();
        let session = head.sessions.get(&(node, session))?;
        session.checksum(session.durable)
    }

    pub(crate) fn is_due(&self, keeper: &mut Keeper, now: UnixMillis) -> bool {
        let head = self.read();
        // What comes faster than it was read, as after an outage, does not wait for the clock.
        let is_long = head.span >= self.options.seal_after && !self.options.seal_after.is_zero();
        if head.frozen.is_some() || head.bytes >= self.options.head_bytes || is_long {
            return true;
        }
        if head.is_sealed() {
            keeper.waiting_since = None;
            return false;
        }
        let since = *keeper.waiting_since.get_or_insert(now);
        now.since(since) >= self.options.seal_after
    }

    /// Moves everything in memory to sealed files now; says how many samples that were.
    pub fn seal(&self) -> Result<u64, UpkeepError> {
        self.seal_all(&mut self.keeper())
    }

    pub(crate) fn seal_all(&self, keeper: &mut Keeper) -> Result<u64, UpkeepError> {
        // What a failed seal left behind goes first.
        let left = self.read().frozen.is_some();
        let mut samples = if left { self.seal_frozen(keeper)? } else { 0 };
        if !self.read().is_sealed() {
            let mut log = self.writer();
            let begin = log.roll()?;
            self.write().freeze(begin);
            drop(log);
            samples += self.seal_frozen(keeper)?;
        }
        Ok(samples)
    }

    fn seal_frozen(&self, keeper: &mut Keeper) -> Result<u64, UpkeepError> {
        let Some(frozen) = self.read().frozen.clone() else {
            return Ok(0);
        };
        let change = keeper.seal(&frozen)?;
        let samples = change.samples;
        self.change(keeper, change, |head| head.frozen = None)?;
        self.writer().forget(keeper.manifest.begin.id)?;
        Ok(samples)
    }

    /// Lets readers see a change that is the truth on disk already.
    pub(crate) fn change(
        &self,
        keeper: &Keeper,
        change: Change,
        also: impl FnOnce(&mut Head),
    ) -> Result<(), UpkeepError> {
        let rebuilds = self.rebuilds.load(Ordering::SeqCst);
        // What the index tells too early, memory tells as well.
        self.index_blocks(&change);
        {
            // Documents move from one place to another: no reader may see a place that is not there.
            let mut head = self.write();
            head.files.pin(&change.gone);
            head.files = Arc::clone(&change.files);
            if let Some((file, placed)) = &change.kept {
                let mut index = self.index.write().unwrap_or_else(PoisonError::into_inner);
                if index.add_kept(*file, placed).is_err() {
                    *index = self.new_index(&change.files, keeper.manifest.generation);
                }
            }
            also(&mut head);
        }
        if self.rebuilds.load(Ordering::SeqCst) != rebuilds {
            // It was made anew from the files before the change.
            self.index_blocks(&change);
        }
        if let Some(before) = change.forgotten {
            let begins = change.files.rollups.iter();
            let oldest = begins.map(|file| file.entry.span.begin).min();
            let oldest = oldest.map_or(before, |oldest| before.min(oldest));
            self.with_index(|index| index.forget_before(before, oldest));
        }
        self.with_index(|index| index.stamp(keeper.manifest.generation));
        for path in change.gone {
            match std::fs::remove_file(&path) {
                // What was lost before is forgotten as well.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                removed => removed.map_err(io_error("remove", &path))?,
            }
            // Fails where the partition has other files.
            if let Some(partition) = path.parent() {
                std::fs::remove_dir(partition).ok();
            }
        }
        Ok(())
    }

    fn index_blocks(&self, change: &Change) {
        for sealed in &change.sealed {
            self.with_index(|index| index.add_blocks(&sealed.footer));
        }
    }

    fn new_index(&self, files: &Files, generation: u64) -> Index {
        self.rebuilds.fetch_add(1, Ordering::SeqCst);
        let mut recalled = Vec::new();
        for file in &files.kept {
            let mut holes = Vec::new();
            if let Ok(placed) = file.read_all(&mut holes) {
                recalled.push((file.entry.id, placed));
            }
            self.note(holes);
        }
        let recalled = recalled.iter().map(|(id, placed)| (*id, placed.as_slice()));
        Index::rebuild(&self.dir.join("index"), generation, files, recalled)
    }

    /// Asks the index; where it fails, makes it anew and asks again.
    pub(crate) fn with_index<T: Default>(&self, ask: impl Fn(&Index) -> Result<T, Broken>) -> T {
        let answer = ask(&self.index.read().unwrap_or_else(PoisonError::into_inner));
        answer.unwrap_or_else(|Broken| {
            let files = Arc::clone(&self.read().files);
            let rebuilt = self.new_index(&files, 0);
            let mut index = self.index.write().unwrap_or_else(PoisonError::into_inner);
            *index = rebuilt;
            ask(&index).unwrap_or_default()
        })
    }

    /// Lists where the documents of a kind lie in the files that the head names.
    pub(crate) fn places_of_documents(
        &self,
        head: &Head,
        kind: u8,
    ) -> Vec<(Vec<u8>, DocumentPlace)> {
        let told = {
            let index = self.index.read().unwrap_or_else(PoisonError::into_inner);
            index.documents(kind)
        };
        told.unwrap_or_else(|Broken| {
            let rebuilt = self.new_index(&head.files, 0);
            let mut index = self.index.write().unwrap_or_else(PoisonError::into_inner);
            *index = rebuilt;
            index.documents(kind).unwrap_or_default()
        })
    }

    pub(crate) fn note(&self, found: Vec<Hole>) {
        if found.is_empty() {
            return;
        }
        let mut holes = self.holes.lock().unwrap_or_else(PoisonError::into_inner);
        let room = HOLES_MAX.saturating_sub(holes.len());
        self.suspect(&found);
        holes.extend(found.into_iter().take(room));
    }

    /// Lists the damaged places found since the store was opened, at most a thousand.
    pub fn holes(&self) -> Vec<Hole> {
        let holes = self.holes.lock().unwrap_or_else(PoisonError::into_inner);
        holes.iter().cloned().collect()
    }

    /// Tells whether the index lives on disk; on a full disk it lives in memory.
    pub fn index_is_on_disk(&self) -> bool {
        let index = self.index.read().unwrap_or_else(PoisonError::into_inner);
        index.is_on_disk()
    }

    /// Lists all nodes and when they were last heard of, by id.
    pub(crate) fn all_nodes(&self) -> BTreeMap<NodeId, UnixMillis> {
        let young = self.read().young_nodes();
        let mut nodes = self.with_index(Index::nodes);
        for (node, last) in young {
            let seen = nodes.entry(node).or_insert(last);
            *seen = last.max(*seen);
        }
        nodes
    }
}

/// Reads the log into the head: records are read and taken by a thread each.
fn replay(
    dir: &Path,
    how: (Begin, u64, Arc<dyn Disk>),
    head: &mut Head,
) -> Result<(Log, Found, u64), OpenError> {
    let (read, records) = std::sync::mpsc::sync_channel::<Record>(RECORDS_AHEAD);
    std::thread::scope(|scope| {
        let taking = scope.spawn(|| {
            let mut samples = 0;
            for record in records {
                if let Record::Batch(batch) = &record {
                    samples += batch.reading_count() as u64;
                }
                head.take(&record);
            }
            samples
        });
        let opened = Log::open(dir, how, |payload| {
            let record = codec::decode(payload).map_err(|error| error.what)?;
            // Fails only where the other thread has panicked, which is passed on below.
            read.send(record).ok();
            Ok(())
        });
        drop(read);
        let samples = taking
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        opened.map(|(log, found)| (log, found, samples))
    })
}

fn payload(index: usize, record: &Record) -> Result<Vec<u8>, AppendError> {
    if let Record::Document(document) = record
        && (document.key.len() > Document::KEY_BYTES_MAX
            || document.payload.len() > Document::PAYLOAD_BYTES_MAX)
    {
        return Err(AppendError::Unfit {
            index,
            what: "the document is too large",
        });
    }
    let payload = codec::encode(record);
    if payload.len() > PAYLOAD_BYTES_MAX {
        return Err(AppendError::Unfit {
            index,
            what: "it is larger than a frame may be",
        });
    }
    Ok(payload)
}
