//! One session: the segments of one run of the agent, and its gaps.

mod reading;

use std::io;
use std::path::{Path, PathBuf};

use plimsoll_model::SessionId;
use plimsoll_proto::{DECLARED_AT_ONCE, render, v1};
use prost::Message;

use super::mark::{self, Name};
use super::record;
use super::segment::Segment;
use super::{Bounds, Run};
use crate::body::{Body, Book};

const GAPS_FILE: &str = "gaps";
/// The boot of the machine in which the session began.
const BOOT_FILE: &str = "boot";
/// That nothing is added any more and all is safe.
const CLOSED_FILE: &str = "closed";

/// Where a reader is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cursor {
    next: u64,
    segment: u64,
    offset: usize,
}

/// The segments of one run. Inside, numbers begin at the run's first batch; at the door, behind the base
/// of the session's name.
#[derive(Debug)]
pub(super) struct Session {
    name: Name,
    bounds: Bounds,
    /// The run that goes on; absent for those of earlier runs.
    run: Option<Run>,
    directory: PathBuf,
    /// In order of their numbers.
    segments: Vec<Segment>,
    /// In order of their numbers.
    gaps: Vec<v1::Gap>,
    next: u64,
    durable: u64,
    disk_failed: bool,
}

/// Finds the sessions that earlier runs left, oldest first.
pub(super) fn find(directory: &Path, bounds: Bounds, run: Run) -> io::Result<Vec<Session>> {
    std::fs::create_dir_all(directory)?;
    let mut names = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if let Some((_, id)) = name.split_once('-')
            && let Ok(id) = id.parse::<SessionId>()
        {
            names.push((name, id));
        }
    }
    names.sort_unstable();
    let mut sessions = Vec::new();
    for (name, id) in names {
        match Session::reopen((directory.join(name), id), bounds, run) {
            Ok(session) => sessions.push(session),
            Err(error) => {
                tracing::warn!(%error, session = %id, "an earlier session cannot be read")
            }
        }
    }
    Ok(sessions)
}

impl Session {
    /// Begins a session; its directory is made with its first segment.
    pub(super) fn begin(parent: &Path, bounds: Bounds, run: Run) -> Self {
        let directory = parent.join(format!("{:020}-{}", run.now.millis(), run.session));
        let mut session = Self::new(directory, run.session, bounds);
        session.run = Some(run);
        session
    }

    fn new(directory: PathBuf, id: SessionId, bounds: Bounds) -> Self {
        Self {
            name: Name { id, base: 0 },
            bounds,
            run: None,
            directory,
            segments: Vec::new(),
            gaps: Vec::new(),
            next: 1,
            durable: 0,
            disk_failed: false,
        }
    }

    fn reopen((directory, id): (PathBuf, SessionId), bounds: Bounds, run: Run) -> io::Result<Self> {
        let mut firsts = Vec::new();
        for entry in std::fs::read_dir(&directory)? {
            let path = entry?.path();
            let name = path
                .file_name()
                .map(|name| name.to_string_lossy().into_owned());
            let first = name.and_then(|name| name.strip_suffix(".seg")?.parse::<u64>().ok());
            firsts.extend(first.map(|first| (first, path)));
        }
        firsts.sort_unstable();
        let mut session = Self::new(directory, id, bounds);
        session.name = Name::load(&session.directory, id);
        session.durable = session.name.base;
        session.gaps = session.load_gaps();
        let mut tail_lost = false;
        for (first, path) in firsts {
            let scan = Segment::scan(path, first)?;
            if let Some(before) = session.segments.last_mut() {
                // What is missing up to the next file is a hole that reading will find.
                before.last = first.saturating_sub(1);
            }
            tail_lost = scan.tail_lost;
            session.segments.push(scan.segment);
        }
        let last_gap = session
            .gaps
            .iter()
            .map(|gap| gap.last_sequence)
            .max()
            .unwrap_or(0);
        let last = session.segments.last().map_or(0, |segment| segment.last);
        session.next = last.max(unsigned(last_gap)).saturating_add(1);
        session.end_badly(tail_lost, run);
        session.segments.retain(|segment| !segment.is_empty());
        Ok(session)
    }

    /// Books what a run that did not end well may have lost, once: how much that was nobody can tell.
    fn end_badly(&mut self, tail_lost: bool, run: Run) {
        if mark::read(&self.directory, CLOSED_FILE).is_some() {
            return;
        }
        let began = mark::read(&self.directory, BOOT_FILE);
        let power_cut = began
            .zip(run.boot)
            .is_some_and(|(began, boot)| began != boot.as_bytes());
        if tail_lost || power_cut {
            let lost = self.next;
            self.add_gap(lost, lost, None, v1::GapReason::AgentCrash);
            self.next = lost.saturating_add(1);
        }
        self.close();
    }

    /// Says for good that nothing is added any more; what was added must be safe.
    pub(super) fn close(&mut self) {
        if self.directory.exists()
            && let Err(error) = mark::write(&self.directory, CLOSED_FILE, &[])
        {
            self.disk_fails(&error);
        }
    }

    /// What the session is called on the wire.
    pub(super) fn id(&self) -> SessionId {
        self.name.id
    }

    /// Goes on under another name, from a number on that becomes its first.
    pub(super) fn rename(&mut self, id: SessionId, first: u64) {
        let base = self.inward(first).saturating_sub(1);
        self.name = Name { id, base };
        if self.directory.exists()
            && let Err(error) = self.name.save(&self.directory)
        {
            self.disk_fails(&error);
        }
        self.trim(base);
    }

    fn inward(&self, sequence: u64) -> u64 {
        sequence.saturating_add(self.name.base)
    }

    fn outward(&self, sequence: u64) -> u64 {
        sequence.saturating_sub(self.name.base)
    }

    /// Returns the number the session's last batch or gap has on the wire.
    pub(super) fn last(&self) -> u64 {
        self.outward(self.next.saturating_sub(1).max(self.durable))
    }

    /// Appends a body as the next batch.
    pub(super) fn push(&mut self, body: &Body, book: &Book) -> u64 {
        let sequence = self.next;
        let batch = v1::Batch {
            session_id: self.name.id.as_bytes().to_vec(),
            sequence: render::int(sequence),
            body_crc32c: i64::from(crc32c::crc32c(&body.bytes)),
            body: body.bytes.clone().into(),
        };
        let sealed = record::batch(&batch, body.reading_count);
        self.ready_segment(sealed.len(), sequence);
        let Some(mut segment) = self.segments.pop() else {
            return sequence;
        };
        let bytes = self.with_declarations(&segment, body, book, &sealed);
        if let Err(error) = segment.append(&bytes) {
            self.disk_fails(&error);
            drop(segment.seal());
            if !segment.is_empty() {
                self.segments.push(segment);
            }
            segment = Segment::in_memory(sequence);
            let bytes = self.with_declarations(&segment, body, book, &sealed);
            drop(segment.append(&bytes));
        }
        segment.declared.extend(&body.numbers);
        segment.last = sequence;
        self.segments.push(segment);
        self.next = sequence.saturating_add(1);
        sequence
    }

    fn with_declarations(
        &self,
        segment: &Segment,
        body: &Body,
        book: &Book,
        sealed: &[u8],
    ) -> Vec<u8> {
        let declared = |number: &&u32| !segment.declared.contains(number);
        let fresh: Vec<u32> = body.numbers.iter().filter(declared).copied().collect();
        let mut records = Vec::new();
        for numbers in fresh.chunks(DECLARED_AT_ONCE) {
            let series = numbers
                .iter()
                .filter_map(|number| book.declaration(*number));
            records.extend(record::declarations(&v1::SeriesDeclarations {
                session_id: self.name.id.as_bytes().to_vec(),
                series: series.collect(),
            }));
        }
        records.extend_from_slice(sealed);
        records
    }

    /// Makes sure that the last segment takes so many more bytes.
    fn ready_segment(&mut self, length: usize, sequence: u64) {
        let length = u64::try_from(length).unwrap_or(u64::MAX);
        if let Some(segment) = self.segments.last_mut() {
            if segment.bytes.saturating_add(length) <= self.bounds.segment_bytes_max {
                return;
            }
            if let Err(error) = segment.seal() {
                self.disk_fails(&error);
            }
        }
        let created = Segment::create(&self.directory, sequence).and_then(|segment| {
            self.mark_begin()?;
            Ok(segment)
        });
        let segment = match created {
            Ok(segment) => {
                if std::mem::take(&mut self.disk_failed) {
                    tracing::info!("samples are kept on the disk again");
                }
                segment
            }
            Err(error) => {
                self.disk_fails(&error);
                Segment::in_memory(sequence)
            }
        };
        self.segments.push(segment);
    }

    /// Tells a later run what it needs to know of this one.
    fn mark_begin(&self) -> io::Result<()> {
        if self.name.base > 0 {
            self.name.save(&self.directory)?;
        }
        let Some(boot) = self.run.and_then(|run| run.boot) else {
            return Ok(());
        };
        if self.directory.join(BOOT_FILE).exists() {
            return Ok(());
        }
        mark::write(&self.directory, BOOT_FILE, boot.as_bytes())
    }

    fn disk_fails(&mut self, error: &io::Error) {
        if !self.disk_failed {
            let directory = self.directory.display();
            tracing::warn!(%error, %directory, "the spool's disk fails; samples are kept in memory, at most 32 MiB");
        }
        self.disk_failed = true;
    }

    pub(super) fn sync(&mut self) {
        if let Some(Err(error)) = self.segments.last_mut().map(Segment::sync) {
            self.disk_fails(&error);
        }
    }

    pub(super) fn disk_bytes(&self) -> u64 {
        let on_disk = self
            .segments
            .iter()
            .filter(|segment| !segment.is_in_memory());
        on_disk.map(|segment| segment.bytes).sum()
    }

    pub(super) fn memory_bytes(&self) -> u64 {
        let in_memory = self
            .segments
            .iter()
            .filter(|segment| segment.is_in_memory());
        in_memory.map(|segment| segment.bytes).sum()
    }

    /// Drops the oldest segment; says whether there was one.
    pub(super) fn drop_oldest(&mut self, memory_only: bool) -> bool {
        let at = self
            .segments
            .iter()
            .position(|segment| !memory_only || segment.is_in_memory());
        let Some(at) = at else { return false };
        let segment = self.segments.remove(at);
        if segment.last > self.durable {
            let first = segment.first.max(self.durable.saturating_add(1));
            let readings = segment.readings_after(self.durable);
            tracing::warn!(session = %self.name.id, first, last = segment.last, readings, "the spool is full; its oldest samples are dropped");
            self.add_gap(first, segment.last, readings, v1::GapReason::SpoolFull);
        }
        segment.delete();
        true
    }

    fn add_gap(&mut self, first: u64, last: u64, readings: Option<u64>, reason: v1::GapReason) {
        self.gaps.push(v1::Gap {
            session_id: self.name.id.as_bytes().to_vec(),
            first_sequence: render::int(first),
            last_sequence: render::int(last),
            reading_count: readings.map(render::int),
            reason: reason.into(),
        });
        self.gaps.sort_unstable_by_key(|gap| gap.first_sequence);
        self.save_gaps();
    }

    fn save_gaps(&mut self) {
        let mut bytes = Vec::new();
        for gap in &self.gaps {
            bytes.extend_from_slice(&gap.encode_length_delimited_to_vec());
        }
        if let Err(error) = mark::write(&self.directory, GAPS_FILE, &bytes) {
            self.disk_fails(&error);
        }
    }

    fn load_gaps(&self) -> Vec<v1::Gap> {
        let bytes = mark::read(&self.directory, GAPS_FILE).unwrap_or_default();
        let (mut gaps, mut rest) = (Vec::new(), bytes.as_slice());
        while !rest.is_empty()
            && let Ok(gap) = v1::Gap::decode_length_delimited(&mut rest)
        {
            gaps.push(gap);
        }
        gaps
    }

    /// Returns the first number that is still here and the one the next batch will get.
    pub(super) fn range(&self) -> (u64, u64) {
        let first = self.outward(self.lowest_after(self.name.base));
        (first, self.outward(self.next))
    }

    fn lowest_after(&self, durable: u64) -> u64 {
        let segments = self
            .segments
            .iter()
            .filter(|segment| segment.last > durable);
        let gaps = self
            .gaps
            .iter()
            .filter(|gap| unsigned(gap.last_sequence) > durable);
        segments
            .map(|segment| segment.first)
            .chain(gaps.map(|gap| unsigned(gap.first_sequence)))
            .min()
            .unwrap_or(self.next)
    }

    /// Whether a number was given that is not acknowledged.
    pub(super) fn has_unacknowledged(&self) -> bool {
        self.next.saturating_sub(1) > self.durable
    }

    /// Puts a gap where the aggregator misses what was acknowledged and deleted.
    pub(super) fn resume(&mut self, durable: u64) {
        let durable = self.inward(durable);
        let lowest = self.lowest_after(durable);
        let first = durable.saturating_add(1);
        if lowest > first {
            tracing::warn!(session = %self.name.id, first, last = lowest - 1, "the aggregator lost what it had acknowledged");
            self.add_gap(first, lowest - 1, None, v1::GapReason::ServerRollback);
        }
        self.durable = durable;
        self.trim(durable);
    }

    /// Whether the batch that the aggregator has last is one of this session, as far as can be told.
    pub(super) fn has_made(&self, durable: u64, checksum: Option<u32>) -> bool {
        let durable = self.inward(durable);
        if self.run.is_some() && durable >= self.next {
            return false;
        }
        let own = self.checksum(durable);
        own.zip(checksum)
            .is_none_or(|(own, theirs)| own == i64::from(theirs))
    }

    fn checksum(&self, sequence: u64) -> Option<i64> {
        self.find_batch(sequence)
            .map(|(batch, _)| batch.body_crc32c)
    }

    /// Returns the last number that this run knows the aggregator to have.
    pub(super) fn known_durable(&self) -> u64 {
        self.outward(self.durable)
    }

    pub(super) fn cursor(&self, next: u64) -> Cursor {
        Cursor {
            next: self.inward(next),
            segment: 0,
            offset: 0,
        }
    }

    /// Deletes what the aggregator has.
    pub(super) fn acknowledge(&mut self, durable: u64) {
        self.trim(self.inward(durable));
    }

    /// Whether nobody needs a segment any more.
    fn is_done(&self, segment: &Segment, durable: u64) -> bool {
        let active = self.segments.last().map_or(0, |segment| segment.first);
        let is_left = segment.first != active || segment.last.saturating_add(1) < self.next;
        segment.last <= durable && !segment.is_empty() && is_left
    }

    fn trim(&mut self, durable: u64) {
        self.durable = self.durable.max(durable);
        let mut index = 0;
        while let Some(segment) = self.segments.get(index) {
            if self.is_done(segment, durable) {
                self.segments.remove(index).delete();
            } else {
                index += 1;
            }
        }
        let before = self.gaps.len();
        self.gaps
            .retain(|gap| unsigned(gap.last_sequence) > durable);
        if self.gaps.len() != before {
            self.save_gaps();
        }
    }

    /// Puts a gap in the place of a batch and returns its body.
    pub(super) fn reject(&mut self, sequence: u64) -> Option<Vec<u8>> {
        let sequence = self.inward(sequence);
        let found = self.find_batch(sequence);
        let readings = found.as_ref().map(|(_, readings)| *readings);
        if self.gap_at(sequence).is_none() {
            self.add_gap(sequence, sequence, readings, v1::GapReason::Rejected);
        }
        found.map(|(batch, _)| batch.body.into())
    }

    /// Whether batches are still kept here, and not only gaps.
    pub(super) fn has_batches(&self) -> bool {
        !self.segments.is_empty()
    }

    /// Deletes the session.
    pub(super) fn delete(self) {
        if let Err(error) = std::fs::remove_dir_all(&self.directory)
            && error.kind() != io::ErrorKind::NotFound
        {
            let directory = self.directory.display();
            tracing::warn!(%error, %directory, "a finished session cannot be deleted");
        }
    }
}

fn unsigned(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}
