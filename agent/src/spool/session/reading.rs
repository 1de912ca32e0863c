//! What a session gives back: its frames in order, with a gap wherever a batch cannot be read.

use plimsoll_proto::{render, v1};

use super::super::record::{self, Frame, Next, Record};
use super::super::segment::Segment;
use super::{Cursor, Session, unsigned};

/// Frames that one read gives at most.
const FRAMES_PER_READ: usize = 32;

/// What was appended just now and is no longer than this is still in the system's memory.
const FRESH_BYTES_MAX: u64 = 64 << 10;

impl Session {
    /// Whether an acknowledgement lets files be deleted or written anew.
    pub(in crate::spool) fn deletes(&self, durable: u64) -> bool {
        let durable = self.inward(durable);
        let mut gaps = self.gaps.iter();
        self.segments.iter().any(|one| self.is_done(one, durable))
            || gaps.any(|gap| unsigned(gap.last_sequence) <= durable)
    }

    /// Whether what a reader has not read is little, and the last that was appended.
    pub(in crate::spool) fn is_fresh(&self, cursor: &Cursor) -> bool {
        if cursor.next >= self.next {
            return true;
        }
        let last = self.segments.last();
        last.is_some_and(|last| {
            let read = u64::try_from(cursor.offset).unwrap_or(0);
            let is_in_it = cursor.segment == last.first && cursor.next >= last.first;
            is_in_it && last.bytes.saturating_sub(read) <= FRESH_BYTES_MAX
        })
    }

    /// Reads some frames; none if all was read.
    pub(in crate::spool) fn read(&mut self, cursor: &mut Cursor) -> Vec<Frame> {
        let mut frames = Vec::new();
        while frames.len() < FRAMES_PER_READ && cursor.next < self.next {
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
            } else if let Some(at) = self.segment_at(here) {
                self.read_segment(at, cursor, &mut frames);
            } else {
                let last = self.lowest_after(here).saturating_sub(1).max(here);
                self.add_gap(here, last, None, v1::GapReason::Corrupt);
            }
        }
        frames.into_iter().map(|frame| self.told(frame)).collect()
    }

    /// Names session and number as they are on the wire.
    fn told(&self, mut frame: Frame) -> Frame {
        let id = self.name.id.as_bytes();
        let outward = |number: i64| render::int(self.outward(unsigned(number)));
        let session_id = match &mut frame {
            Frame::Declarations(declarations) => &mut declarations.session_id,
            Frame::Batch(batch) => {
                batch.sequence = outward(batch.sequence);
                &mut batch.session_id
            }
            Frame::Gap(gap) => {
                gap.first_sequence = outward(gap.first_sequence);
                gap.last_sequence = outward(gap.last_sequence);
                &mut gap.session_id
            }
        };
        *session_id = id.to_vec();
        frame
    }

    pub(super) fn gap_at(&self, sequence: u64) -> Option<v1::Gap> {
        let holds = |gap: &&v1::Gap| {
            (unsigned(gap.first_sequence)..=unsigned(gap.last_sequence)).contains(&sequence)
        };
        self.gaps.iter().find(holds).cloned()
    }

    pub(super) fn segment_at(&self, sequence: u64) -> Option<usize> {
        let holds = |segment: &Segment| (segment.first..=segment.last).contains(&sequence);
        self.segments.iter().position(holds)
    }

    /// Reads batches of one segment in order and puts a gap where one cannot be read.
    fn read_segment(&mut self, at: usize, cursor: &mut Cursor, frames: &mut Vec<Frame>) {
        let Some(segment) = self.segments.get(at) else {
            return;
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
        let mut offset = 0;
        // A batch that was refused is still in the file, and a gap stands in its place.
        while frames.len() < FRAMES_PER_READ && self.gap_at(cursor.next).is_none() {
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
                    return;
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
                        return;
                    }
                    if sequence == cursor.next {
                        frames.push(Frame::Batch(batch));
                        cursor.next = sequence.saturating_add(1);
                    }
                }
            }
            offset = after;
            cursor.offset = begin.saturating_add(after);
        }
    }

    pub(super) fn find_batch(&self, sequence: u64) -> Option<(v1::Batch, u64)> {
        let segment = self.segments.get(self.segment_at(sequence)?)?;
        let bytes = segment.load(0).ok()?;
        let mut offset = 0;
        loop {
            match record::next(&bytes, offset) {
                Next::Record(record, after) => {
                    offset = after;
                    if let Record::Batch { batch, readings } = *record
                        && unsigned(batch.sequence) == sequence
                    {
                        return Some((batch, readings));
                    }
                }
                Next::Broken(after) => offset = after,
                Next::Torn | Next::End => return None,
            }
        }
    }
}
