//! The spool: what was seen and is not yet acknowledged, on the disk, bounded.
//!
//! A session is a directory, a segment a file of records, each with its checksum. A segment holds the
//! declarations its batches need, so it can be read alone. What is dropped or cannot be read back
//! becomes a gap that is sent in its place. It knows no network. Where the disk fails, segments are
//! kept in memory, fewer of them, and the log says so.

mod finished;
mod mark;
mod record;
mod segment;
mod session;

use std::path::{Path, PathBuf};

use plimsoll_model::{BootId, SessionId, UnixMillis};
use plimsoll_proto::v1;

use crate::body::{Body, Book};
use crate::chain::chain;
use crate::limits::{Limit, Met};
use finished::Finished;
pub use record::Frame;
pub use segment::SEGMENT_BYTES_MAX;
pub use session::Cursor;
use session::Session;

/// Most bytes kept in memory when the disk fails.
pub const MEMORY_BYTES_MAX: u64 = 32 << 20;
/// Most bytes of batches that were refused by the aggregator.
const QUARANTINE_BYTES_MAX: u64 = 16 << 20;
/// Earlier sessions that are kept whole; of older ones gaps are left.
const SESSIONS_MAX: usize = if cfg!(test) { 20 } else { 256 };
/// Earlier sessions that are known at all; beyond that, the oldest is forgotten and the log says so.
const DIRECTORIES_MAX: usize = 4_096;
/// A fork is looked for batch by batch if no more than so many are in doubt; the aggregator remembers the
/// checksums of twice as many.
const DOUBTED_MAX: u64 = 64;

/// How much the spool may hold.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Bytes on the disk.
    pub bytes_max: u64,
    /// Bytes of one segment.
    pub segment_bytes_max: u64,
}

impl Bounds {
    /// Bounds the whole; segments have their usual length.
    pub fn of(bytes_max: u64) -> Self {
        Self {
            bytes_max,
            segment_bytes_max: SEGMENT_BYTES_MAX,
        }
    }
}

/// One run of the agent.
#[derive(Debug, Clone, Copy)]
pub struct Run {
    /// Its session, which no other run has.
    pub session: SessionId,
    /// The boot of the machine, which tells a power cut from a kill; absent if it cannot be read.
    pub boot: Option<BootId>,
    /// When it began.
    pub now: UnixMillis,
}

impl Run {
    /// Begins a run on this machine.
    pub fn begin(now: UnixMillis) -> Self {
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id");
        Self {
            session: SessionId::random(),
            boot: boot.ok().and_then(|text| text.parse().ok()),
            now,
        }
    }
}

/// Why the spool cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error("cannot use spool directory {}; make it writable for the agent, or set state_dir", path.display())]
pub struct SpoolError {
    /// The directory.
    pub path: PathBuf,
    /// What the system said.
    #[source]
    pub source: std::io::Error,
}

/// Unacknowledged batches of this run and of earlier ones.
#[derive(Debug)]
pub struct Spool {
    directory: PathBuf,
    bounds: Bounds,
    /// Oldest first; the last one is this run's.
    sessions: Vec<Session>,
    finished: Finished,
    book: Book,
    met: Met,
}

impl Spool {
    /// Opens the spool and begins a session; without a usable disk it works in memory.
    pub fn open(directory: &Path, bytes_max: u64, now: UnixMillis) -> Self {
        Self::open_run(directory, Bounds::of(bytes_max), Run::begin(now))
    }

    /// Opens the spool like [`Spool::open`], for a run that is told from outside.
    pub fn open_run(directory: &Path, bounds: Bounds, run: Run) -> Self {
        let mut sessions = match session::find(directory, bounds, run) {
            Ok(sessions) => sessions,
            Err(error) => {
                let error = SpoolError {
                    path: directory.to_owned(),
                    source: error,
                };
                tracing::warn!(error = chain(&error), "samples are kept in memory only");
                Vec::new()
            }
        };
        while sessions.len() >= DIRECTORIES_MAX {
            let forgotten = sessions.remove(0);
            tracing::error!(session = %forgotten.id(), "too many sessions were never sent; the oldest is forgotten");
            forgotten.delete();
        }
        let surplus = sessions.len().saturating_sub(SESSIONS_MAX);
        let met = Met::default();
        for session in sessions.iter_mut().take(surplus) {
            if session.has_batches() {
                met.note(Limit::Sessions);
            }
            while session.has_batches() && session.drop_oldest(false) {}
        }
        #[cfg(plimsoll_mutant = "sequence_reuse")]
        let run = Run {
            session: sessions.last().map_or(run.session, Session::id),
            ..run
        };
        sessions.push(Session::begin(directory, bounds, run));
        Self {
            directory: directory.to_owned(),
            bounds,
            sessions,
            finished: Finished::load(directory),
            book: Book::default(),
            met,
        }
    }

    /// Returns the counts of limits, which the spool and others of the agent share.
    pub fn met(&self) -> Met {
        self.met.clone()
    }

    /// Returns the session of this run.
    pub fn current(&self) -> Option<SessionId> {
        self.sessions.last().map(Session::id)
    }

    /// Returns the sessions that have something to send, oldest first, and this run's.
    pub fn sessions(&self) -> Vec<SessionId> {
        self.sessions.iter().map(Session::id).collect()
    }

    /// Returns the numbers of this session's series.
    pub fn book(&mut self) -> &mut Book {
        &mut self.book
    }

    /// Appends a body as the next batch of this session and returns its sequence number.
    pub fn push(&mut self, body: &Body) -> Option<u64> {
        #[cfg(plimsoll_mutant = "uncounted_drop")]
        if self.disk_bytes() > self.bounds.bytes_max / 2 {
            return None;
        }
        let book = &self.book;
        let session = self.sessions.last_mut()?;
        let sequence = session.push(body, book);
        self.keep_within_bounds();
        Some(sequence)
    }

    fn keep_within_bounds(&mut self) {
        let bytes_max = self.bounds.bytes_max;
        while self.disk_bytes() > bytes_max || self.memory_bytes() > MEMORY_BYTES_MAX {
            let memory_only = self.disk_bytes() <= bytes_max;
            let dropped = self
                .sessions
                .iter_mut()
                .any(|session| session.drop_oldest(memory_only));
            if !dropped {
                break;
            }
            self.met.note(match memory_only {
                true => Limit::SpoolMemory,
                false => Limit::SpoolDisk,
            });
        }
    }

    /// Counts the bytes on the disk.
    pub fn disk_bytes(&self) -> u64 {
        self.sessions.iter().map(Session::disk_bytes).sum()
    }

    fn memory_bytes(&self) -> u64 {
        self.sessions.iter().map(Session::memory_bytes).sum()
    }

    /// Ends the run well: the next one need not fear that something is missing.
    pub fn close(&mut self) {
        self.sync();
        if let Some(session) = self.sessions.last_mut() {
            session.close();
        }
    }

    /// Makes what was appended survive a power cut.
    pub fn sync(&mut self) {
        if let Some(session) = self.sessions.last_mut() {
            session.sync();
        }
    }

    fn find(&mut self, id: SessionId) -> Option<&mut Session> {
        self.sessions.iter_mut().find(|session| session.id() == id)
    }

    /// Returns the first sequence number that is still there and the one the next batch will get.
    pub fn range(&mut self, id: SessionId) -> Option<(u64, u64)> {
        self.find(id).map(|session| session.range())
    }

    /// Makes sure that the aggregator, which says what it has, will find each later number or a gap.
    pub fn resume(&mut self, id: SessionId, durable: u64) -> Option<Cursor> {
        let session = self.find(id)?;
        session.resume(durable);
        Some(session.cursor(durable.saturating_add(1)))
    }

    /// Takes up a session where the aggregator says that its disk ends; absent if the session has gone.
    ///
    /// Where the aggregator has what this session did not make, somebody else sends it too. What is in
    /// doubt, as the second part of the answer tells, is sent again, so that the aggregator finds the batch
    /// with which they part; if that is too much, the session parts at once.
    pub fn greet(
        &mut self,
        id: SessionId,
        durable: u64,
        checksum: Option<u32>,
    ) -> Option<(Cursor, bool)> {
        let session = self.find(id)?;
        if session.has_made(durable, checksum) {
            return self.resume(id, durable).map(|cursor| (cursor, false));
        }
        let known = session.known_durable();
        tracing::warn!(session = %id, durable, known, "the aggregator has batches of this session that were not made here");
        if durable.saturating_sub(known) > DOUBTED_MAX {
            self.fork(id, known.saturating_add(1));
            return None;
        }
        Some((session.cursor(known.saturating_add(1)), true))
    }

    /// Begins again behind the last number that the aggregator is known to have.
    pub fn known(&mut self, id: SessionId) -> Option<Cursor> {
        let session = self.find(id)?;
        Some(session.cursor(session.known_durable().saturating_add(1)))
    }

    /// Lets a session go on under a new name from a batch on, since another agent sends under the old one.
    pub fn fork(&mut self, id: SessionId, first: u64) {
        let name = SessionId::random();
        if let Some(session) = self.find(id) {
            tracing::error!(session = %id, first, new = %name, "another agent sends the same session: was this machine or its disk copied while the agent ran?");
            session.rename(name, first);
        }
    }

    /// Returns the newest sessions of which nothing is left.
    pub fn finished(&self, now: UnixMillis) -> Vec<v1::FinishedSession> {
        self.finished.told(now)
    }

    /// Reads some frames from a cursor on; none if all was read.
    pub fn read(&mut self, id: SessionId, cursor: &mut Cursor) -> Vec<Frame> {
        self.find(id)
            .map_or_else(Vec::new, |session| session.read(cursor))
    }

    /// Reads like [`Spool::read`] what was appended just now, if it is little; absent where it is not.
    pub fn read_fresh(&mut self, id: SessionId, cursor: &mut Cursor) -> Option<Vec<Frame>> {
        let session = self.find(id)?;
        let is_fresh = session.is_fresh(cursor);
        is_fresh.then(|| session.read(cursor))
    }

    /// Notes what the aggregator has on its disk; does nothing and says so where files are to be deleted.
    pub fn acknowledge_undeleted(&mut self, id: SessionId, durable: u64) -> bool {
        let Some(session) = self.find(id) else {
            return true;
        };
        let is_quick = !session.deletes(durable);
        if is_quick {
            session.acknowledge(durable);
        }
        is_quick
    }

    /// Deletes what the aggregator has on its disk.
    pub fn acknowledge(&mut self, id: SessionId, durable: u64) {
        if let Some(session) = self.find(id) {
            session.acknowledge(durable);
        }
    }

    /// Forgets an earlier session of which nothing is left to send.
    pub fn finish(&mut self, id: SessionId, now: UnixMillis) {
        if self.current() == Some(id) {
            return;
        }
        if let Some(at) = self.sessions.iter().position(|session| session.id() == id) {
            let session = self.sessions.remove(at);
            self.finished
                .add(&self.directory, (id, session.last()), now);
            session.delete();
        }
    }

    /// Sets a batch aside that the aggregator will never take, and puts a gap in its place.
    pub fn reject(&mut self, id: SessionId, sequence: u64) {
        let directory = self.directory.join("quarantine");
        if let Some(body) = self.find(id).and_then(|session| session.reject(sequence)) {
            let path = directory.join(format!("{id}-{sequence}.batch"));
            if let Err(error) = quarantine(&directory, &path, &body) {
                if error.kind() == std::io::ErrorKind::StorageFull {
                    self.met.note(Limit::Quarantine);
                }
                tracing::warn!(%error, path = %path.display(), "a refused batch could not be set aside");
            }
        }
    }

    /// Whether something of this run is not acknowledged.
    pub fn has_unacknowledged(&self) -> bool {
        self.sessions
            .last()
            .is_some_and(Session::has_unacknowledged)
    }

    /// Returns the declarations of this session's series with the given numbers.
    pub fn declarations(&self, numbers: impl Iterator<Item = u32>) -> Vec<v1::SeriesDeclaration> {
        numbers
            .filter_map(|number| self.book.declaration(number))
            .collect()
    }
}

fn quarantine(directory: &Path, path: &Path, body: &[u8]) -> std::io::Result<()> {
    std::fs::create_dir_all(directory)?;
    let mut held = u64::try_from(body.len()).unwrap_or(u64::MAX);
    for entry in std::fs::read_dir(directory)? {
        held = held.saturating_add(entry?.metadata()?.len());
    }
    if held > QUARANTINE_BYTES_MAX {
        return Err(std::io::Error::from(std::io::ErrorKind::StorageFull));
    }
    std::fs::write(path, body)
}

#[cfg(test)]
mod tests;
