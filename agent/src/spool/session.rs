//! One session: the segments of one run of the agent, and its gaps.

use std::io;
use std::path::{Path, PathBuf};

use plimsoll_model::{SessionId, UnixMillis};
use plimsoll_proto::{DECLARED_AT_ONCE, render, v1};
use prost::Message;

use super::record::{self, Frame, Next, Record};
use super::segment::{SEGMENT_BYTES_MAX, Segment};
use crate::body::{Body, Book};

/// Batches that one read gives at most.
const BATCHES_PER_READ: usize = 32;
const GAPS_FILE: &str = "gaps";

/// Where a reader is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cursor {
    /// The sequence number that is read next.
    pub next: u64,
    segment: u64,
    offset: usize,
}

/// The segments of one run.
#[derive(Debug)]
pub(super) struct Session {
    id: SessionId,
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
pub(super) fn find(directory: &Path) -> io::Result<Vec<Session>> {
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
        match Session::reopen(directory.join(name), id) {
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
    pub(super) fn begin(parent: &Path, id: SessionId, now: UnixMillis) -> Self {
        let directory = parent.join(format!("{:020}-{id}", now.millis()));
        Self::new(directory, id)
    }

    fn new(directory: PathBuf, id: SessionId) -> Self {
        Self {
            id,
            directory,
            segments: Vec::new(),
            gaps: Vec::new(),
            next: 1,
            durable: 0,
            disk_failed: false,
        }
    }

    fn reopen(directory: PathBuf, id: SessionId) -> io::Result<Self> {
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
        let mut session = Self::new(directory, id);
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
        if tail_lost {
            let lost = session.next;
            session.add_gap(lost, lost, None, v1::GapReason::AgentCrash);
            session.next = lost.saturating_add(1);
        }
        session.segments.retain(|segment| !segment.is_empty());
        Ok(session)
    }

    pub(super) fn id(&self) -> SessionId {
        self.id
    }

    /// Appends a body as the next batch.
    pub(super) fn push(&mut self, body: &Body, book: &Book) -> u64 {
        let sequence = self.next;
        let batch = v1::Batch {
            session_id: self.id.as_bytes().to_vec(),
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
        let series: Vec<v1::SeriesDeclaration> = body
            .numbers
            .iter()
            .filter(|number| !segment.declared.contains(number))
            .filter_map(|number| book.declaration(*number).cloned())
            .collect();
        if series.is_empty() {
            return sealed.to_vec();
        }
        let mut records = Vec::new();
        for series in series.chunks(DECLARED_AT_ONCE) {
            records.extend(record::declarations(&v1::SeriesDeclarations {
                session_id: self.id.as_bytes().to_vec(),
                series: series.to_vec(),
            }));
        }
        records.extend_from_slice(sealed);
        records
    }

    /// Makes sure that the last segment takes so many more bytes.
    fn ready_segment(&mut self, length: usize, sequence: u64) {
        let length = u64::try_from(length).unwrap_or(u64::MAX);
        if let Some(segment) = self.segments.last_mut() {
            if segment.bytes.saturating_add(length) <= SEGMENT_BYTES_MAX {
                return;
            }
            if let Err(error) = segment.seal() {
                self.disk_fails(&error);
            }
        }
        let segment = match Segment::create(&self.directory, sequence) {
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
            tracing::warn!(session = %self.id, first, last = segment.last, readings, "the spool is full; its oldest samples are dropped");
            self.add_gap(first, segment.last, readings, v1::GapReason::SpoolFull);
        }
        segment.delete();
        true
    }

    fn add_gap(&mut self, first: u64, last: u64, readings: Option<u64>, reason: v1::GapReason) {
        self.gaps.push(v1::Gap {
            session_id: self.id.as_bytes().to_vec(),
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
        let checksum = crc32c::crc32c(&bytes).to_le_bytes();
        bytes.splice(0..0, checksum);
        let temporary = self.directory.join("gaps.new");
        let written = std::fs::create_dir_all(&self.directory)
            .and_then(|()| std::fs::write(&temporary, &bytes))
            .and_then(|()| std::fs::File::open(&temporary)?.sync_all())
            .and_then(|()| std::fs::rename(&temporary, self.directory.join(GAPS_FILE)));
        if let Err(error) = written {
            self.disk_fails(&error);
        }
    }

    fn load_gaps(&self) -> Vec<v1::Gap> {
        let bytes = std::fs::read(self.directory.join(GAPS_FILE)).unwrap_or_default();
        let mut gaps = Vec::new();
        if let Some((checksum, mut rest)) = bytes.split_first_chunk::<4>()
            && crc32c::crc32c(rest) == u32::from_le_bytes(*checksum)
        {
            while !rest.is_empty()
                && let Ok(gap) = v1::Gap::decode_length_delimited(&mut rest)
            {
                gaps.push(gap);
            }
        }
        gaps
    }

    /// Returns the first number that is still here and the one the next batch will get.
    pub(super) fn range(&self) -> (u64, u64) {
        (self.lowest_after(0), self.next)
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
        let lowest = self.lowest_after(durable);
        let first = durable.saturating_add(1);
        if lowest > first {
            tracing::warn!(session = %self.id, first, last = lowest - 1, "the aggregator lost what it had acknowledged");
            self.add_gap(first, lowest - 1, None, v1::GapReason::ServerRollback);
        }
        self.durable = durable;
        self.acknowledge(durable);
    }

    pub(super) fn cursor(&self, next: u64) -> Cursor {
        Cursor {
            next,
            segment: 0,
            offset: 0,
        }
    }

    /// Reads some frames; none if all was read.
    pub(super) fn read(&mut self, cursor: &mut Cursor) -> Vec<Frame> {
        let mut frames = Vec::new();
        let mut batches = 0;
        while batches < BATCHES_PER_READ && cursor.next < self.next {
            let here = cursor.next;
            if let Some(gap) = self.gap_at(here) {
                cursor.next = unsigned(gap.last_sequence).saturating_add(1);
                let first_sequence = render::int(here);
                // A gap that is entered midway no longer knows its count.
                let reading_count = gap
                    .reading_count
                    .filter(|_| gap.first_sequence == first_sequence);
                frames.push(Frame::Gap(v1::Gap {
                    first_sequence,
                    reading_count,
                    ..gap
                }));
                batches += 1;
            } else if let Some(at) = self.segment_at(here) {
                batches += self.read_segment(at, cursor, &mut frames);
            } else {
                let last = self.lowest_after(here).saturating_sub(1).max(here);
                self.add_gap(here, last, None, v1::GapReason::Corrupt);
            }
        }
        frames
    }

    fn gap_at(&self, sequence: u64) -> Option<v1::Gap> {
        let holds = |gap: &&v1::Gap| {
            (unsigned(gap.first_sequence)..=unsigned(gap.last_sequence)).contains(&sequence)
        };
        self.gaps.iter().find(holds).cloned()
    }

    fn segment_at(&self, sequence: u64) -> Option<usize> {
        let holds = |segment: &Segment| (segment.first..=segment.last).contains(&sequence);
        self.segments.iter().position(holds)
    }

    /// Reads batches of one segment in order and puts a gap where one cannot be read.
    fn read_segment(&mut self, at: usize, cursor: &mut Cursor, frames: &mut Vec<Frame>) -> usize {
        let Some(segment) = self.segments.get(at) else {
            return 0;
        };
        let (first, last) = (segment.first, segment.last);
        if cursor.segment != first {
            (cursor.segment, cursor.offset) = (first, 0);
        }
        let begin = cursor.offset;
        let bytes = segment.load(begin).unwrap_or_else(|error| {
            tracing::warn!(%error, "a segment of the spool cannot be read");
            Vec::new()
        });
        let (mut offset, mut batches) = (0, 0);
        // A batch that was refused is still in the file, and a gap stands in its place.
        while batches < BATCHES_PER_READ && self.gap_at(cursor.next).is_none() {
            let (found, after) = match record::next(&bytes, offset) {
                Next::Record(found, after) => (found, after),
                Next::Broken(after) => {
                    offset = after;
                    continue;
                }
                Next::Torn | Next::End => {
                    if cursor.next <= last {
                        self.add_gap(cursor.next, last, None, v1::GapReason::Corrupt);
                    }
                    return batches;
                }
            };
            match *found {
                Record::Declarations(series) => frames.push(Frame::Declarations(series)),
                Record::Batch { batch, .. } => {
                    let sequence = unsigned(batch.sequence);
                    if sequence > cursor.next {
                        // The offset stays before this batch, which follows the gap.
                        let missing = sequence.saturating_sub(1);
                        self.add_gap(cursor.next, missing, None, v1::GapReason::Corrupt);
                        return batches;
                    }
                    if sequence == cursor.next {
                        frames.push(Frame::Batch(batch));
                        cursor.next = sequence.saturating_add(1);
                        batches += 1;
                    }
                }
            }
            offset = after;
            cursor.offset = begin.saturating_add(after);
        }
        batches
    }

    /// Deletes what the aggregator has.
    pub(super) fn acknowledge(&mut self, durable: u64) {
        self.durable = self.durable.max(durable);
        let next = self.next;
        let active = self.segments.last().map_or(0, |segment| segment.first);
        let mut index = 0;
        while let Some(segment) = self.segments.get(index) {
            let done = segment.last <= durable && !segment.is_empty();
            if done && (segment.first != active || segment.last.saturating_add(1) < next) {
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
        let bytes = self
            .segments
            .get(self.segment_at(sequence)?)?
            .load(0)
            .ok()?;
        let mut offset = 0;
        let mut found = None;
        while let Next::Record(record, after) = record::next(&bytes, offset) {
            offset = after;
            if let Record::Batch { batch, readings } = *record
                && unsigned(batch.sequence) == sequence
            {
                found = Some((batch.body, readings));
                break;
            }
        }
        let readings = found.as_ref().map(|(_, readings)| *readings);
        self.add_gap(sequence, sequence, readings, v1::GapReason::Rejected);
        found.map(|(body, _)| body.into())
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
