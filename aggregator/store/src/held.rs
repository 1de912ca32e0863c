//! Rows that wait to be sealed, small enough to keep hours of them: each row as its steps from the one
//! before it. Only memory holds this form; it may change with any release.

use plimsoll_model::{UnixMillis, Window};

use crate::block::Rows;
use crate::codec::{Malformed, Pack, take};

/// Rows from one mark to the next; behind a mark a row is whole, so reading may begin there.
const MARK_ROWS: usize = 64;

/// Where reading may begin.
#[derive(Debug, Clone, Copy)]
struct Mark {
    first: UnixMillis,
    offset: usize,
}

/// Rows of one subject that were read together.
#[derive(Debug, Clone, Default)]
pub(crate) struct Held {
    /// Rows in order, as bytes.
    bytes: Vec<u8>,
    marks: Vec<Mark>,
    count: usize,
    /// Rows that came after later ones, in the order in which they came; most subjects never have any.
    late: Option<Box<Rows>>,
}

/// Reads rows one after another.
struct Reader<'a> {
    bytes: &'a [u8],
    /// Rows until the next mark.
    left: usize,
    window: Window,
    values: Vec<u64>,
}

/// Bytes of a step at most.
const STEP_BYTES: usize = 8;

/// Processor time comes in ticks of 10 ms told in nanoseconds: a step of whole ticks is kept as their
/// number, which takes a third of the bytes. Twice as much, as steps forth are even and steps back odd.
const TICK: u64 = 2 * 10_000_000;
/// Marks the width of a number of ticks; without it the width is that of the step itself.
const TICKS: u8 = 8;
/// Below it a step takes three bytes, and a division would save little.
const TICKS_FROM: u64 = 1 << 24;

const ZERO: Window = Window {
    end: UnixMillis::from_millis(0),
    width_ms: 0,
};

fn step(before: u64, after: u64) -> u64 {
    let step = after.wrapping_sub(before).cast_signed();
    (step << 1).cast_unsigned() ^ (step >> 63).cast_unsigned()
}

fn stepped(before: u64, step: u64) -> u64 {
    before.wrapping_add((step >> 1) ^ (step & 1).wrapping_neg())
}

fn millis(window: Window) -> u64 {
    window.end.millis().cast_unsigned()
}

/// Chooses how a step is kept: the number and what half a byte says of it.
fn shortened(zigzag: u64) -> (u64, u8) {
    let width = |number: u64| 8 - (number.leading_zeros() / 8).to_le_bytes()[0];
    if zigzag >= TICKS_FROM && zigzag.is_multiple_of(TICK) {
        let ticks = zigzag / TICK;
        return (ticks, width(ticks) | TICKS);
    }
    (zigzag, width(zigzag))
}

/// Appends steps: first how many bytes each takes, half a byte for each, then those bytes.
fn pack_steps(steps: impl ExactSizeIterator<Item = u64>, out: &mut Vec<u8>) {
    let begin = out.len();
    let widths_len = steps.len().div_ceil(2);
    // Each step is written whole and cut by the next one.
    out.resize(begin + widths_len + steps.len() * STEP_BYTES, 0);
    let packed = out.get_mut(begin..).unwrap_or_default();
    let (widths, bytes) = packed.split_at_mut(widths_len);
    let mut end = 0;
    for (place, step) in steps.enumerate() {
        let (number, said) = shortened(step);
        if let Some(to) = bytes.get_mut(end..).and_then(|to| to.first_chunk_mut()) {
            *to = number.to_le_bytes();
        }
        end += width_of(said);
        if let Some(pair) = widths.get_mut(place / 2) {
            *pair |= if place % 2 == 0 { said } else { said << 4 };
        }
    }
    out.truncate(begin + widths_len + end);
}

/// Says how many bytes half a byte tells of: ticks take seven at most, so eight is a step of eight.
fn width_of(said: u8) -> usize {
    usize::from(if said > TICKS { said - TICKS } else { said })
}

/// Takes steps off the front and goes on from the values.
fn unpack_steps(input: &mut &[u8], values: &mut [u64]) -> Result<(), Malformed> {
    let widths = take(input, values.len().div_ceil(2))?;
    for (pair, said) in values.chunks_mut(2).zip(widths) {
        for (value, said) in pair.iter_mut().zip([said & 15, said >> 4]) {
            let width = width_of(said);
            let number = match input.first_chunk() {
                Some(bytes) => {
                    let unused = 64_u32.saturating_sub(8 * u32::from(width.to_le_bytes()[0]));
                    let mask = u64::MAX.checked_shr(unused).unwrap_or(0);
                    u64::from_le_bytes(*bytes) & mask
                }
                None => input
                    .iter()
                    .take(width)
                    .rev()
                    .fold(0, |step, byte| step << 8 | u64::from(*byte)),
            };
            take(input, width)?;
            let scale = if said > TICKS { TICK } else { 1 };
            *value = stepped(*value, number.wrapping_mul(scale));
        }
    }
    Ok(())
}

impl Held {
    /// Whether there is nothing.
    pub(crate) fn is_empty(&self) -> bool {
        self.count == 0 && self.late.is_none()
    }

    /// How long the rows in order last, from the first to one that ends now.
    pub(crate) fn span(&self, end: UnixMillis) -> std::time::Duration {
        let first = self.marks.first().map_or(end, |mark| mark.first);
        end.since(first)
    }

    /// About what it takes in memory.
    pub(crate) fn bytes(&self) -> usize {
        let late = self.late.as_ref().map_or(0, |late| {
            late.windows.len() * size_of::<Window>() + late.values.len() * 8
        });
        self.bytes.capacity() + self.marks.capacity() * size_of::<Mark>() + late
    }

    /// Adds a row that is newer than all others; `before` is the newest of them.
    pub(crate) fn push(&mut self, before: (Window, &[u64]), row: (Window, &[u64])) {
        self.make_room(row.1.len());
        let (window, values) = row;
        let whole = self.count.is_multiple_of(MARK_ROWS);
        let before_window = if whole { ZERO } else { before.0 };
        if whole {
            if self.marks.len() == self.marks.capacity() {
                // One is all there is for long where samples are read seldom.
                self.marks.reserve_exact(1 + self.marks.len() / 2);
            }
            self.marks.push(Mark {
                first: window.end,
                offset: self.bytes.len(),
            });
        }
        let out = &mut self.bytes;
        step(millis(before_window), millis(window)).pack(out);
        step(before_window.width_ms.into(), window.width_ms.into()).pack(out);
        if whole {
            pack_steps(values.iter().map(|value| step(0, *value)), out);
        } else {
            let both = before.1.iter().zip(values);
            pack_steps(both.map(|(before, value)| step(*before, *value)), out);
        }
        self.count += 1;
    }

    /// Grows by a quarter: doubling would leave a third of the memory unused.
    fn make_room(&mut self, width: usize) {
        let most = 20 + width.div_ceil(2) + width * STEP_BYTES;
        if self.bytes.capacity() - self.bytes.len() < most {
            self.bytes.reserve_exact(most + self.bytes.len() / 4);
        }
    }

    /// Adds a row that is older than the newest.
    pub(crate) fn push_late(&mut self, (window, values): (Window, &[u64])) {
        let late = self.late.get_or_insert_default();
        late.windows.push(window);
        late.values.extend(values);
    }

    /// Copies what a reader of the rows from an instant on needs.
    pub(crate) fn since(&self, from: UnixMillis) -> Self {
        let begin = self.marks.partition_point(|mark| mark.first <= from);
        let begin = begin.saturating_sub(1);
        let offset = self.marks.get(begin).map_or(0, |mark| mark.offset);
        Self {
            bytes: self.bytes.get(offset..).unwrap_or_default().to_vec(),
            marks: Vec::new(),
            count: self.count - begin * MARK_ROWS,
            late: self.late.clone(),
        }
    }

    /// Goes through the rows that end at `from` or later, the late ones last; `width` is the number of
    /// values of each.
    pub(crate) fn each(
        &self,
        from: UnixMillis,
        width: usize,
        mut take: impl FnMut(Window, &[u64]),
    ) {
        let begin = self.marks.partition_point(|mark| mark.first <= from);
        let begin = begin.saturating_sub(1);
        let offset = self.marks.get(begin).map_or(0, |mark| mark.offset);
        let mut reader = Reader {
            bytes: self.bytes.get(offset..).unwrap_or_default(),
            left: 0,
            window: ZERO,
            values: vec![0; width],
        };
        for _ in begin * MARK_ROWS..self.count {
            let read = reader.step();
            assert!(read.is_ok(), "BUG: a row in memory cannot be read");
            if reader.window.end >= from {
                take(reader.window, &reader.values);
            }
        }
        let Some(late) = &self.late else { return };
        let rows = late.values.chunks(width.max(1));
        for (window, values) in late.windows.iter().zip(rows) {
            if window.end >= from {
                take(*window, values);
            }
        }
    }

    /// Returns all rows as they came.
    pub(crate) fn rows(&self, width: usize) -> Rows {
        let mut rows = Rows {
            windows: Vec::with_capacity(self.count),
            values: Vec::with_capacity(self.count * width),
        };
        self.each(
            UnixMillis::from_millis(i64::MIN),
            width,
            |window, values| {
                rows.windows.push(window);
                rows.values.extend(values);
            },
        );
        rows
    }
}

impl Reader<'_> {
    fn step(&mut self) -> Result<(), Malformed> {
        if self.left == 0 {
            self.left = MARK_ROWS;
            self.window = ZERO;
            self.values.fill(0);
        }
        self.left -= 1;
        let input = &mut self.bytes;
        let end = stepped(millis(self.window), u64::unpack(input)?);
        let width = stepped(self.window.width_ms.into(), u64::unpack(input)?);
        self.window = Window {
            end: UnixMillis::from_millis(end.cast_signed()),
            width_ms: u32::try_from(width).unwrap_or(u32::MAX),
        };
        unpack_steps(input, &mut self.values)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn rows_come_back_whole_and_from_any_instant_on(
            steps in proptest::collection::vec((1_i64..20, any::<u32>(), any::<[u64; 3]>()), 0..300),
            late in proptest::collection::vec((0_i64..100, any::<[u64; 3]>()), 0..3),
            from in 0_i64..3_000,
        ) {
            let (mut held, mut model) = (Held::default(), Vec::new());
            let mut before = (ZERO, vec![0_u64; 3]);
            for (step, width_ms, mut values) in steps {
                // Ticks forth and back, and what is none.
                let ticks = i64::from(width_ms.cast_signed()) * 10_000_000;
                values[1] = before.1[1].wrapping_add_signed(ticks);
                let end = UnixMillis::from_millis(before.0.end.millis() + step);
                let window = Window { end, width_ms };
                held.push((before.0, &before.1), (window, &values));
                model.push((window, values.to_vec()));
                before = (window, values.to_vec());
            }
            for (end, values) in late {
                let window = Window { end: UnixMillis::from_millis(end), width_ms: 1 };
                held.push_late((window, &values));
                model.push((window, values.to_vec()));
            }
            let rows = held.rows(3);
            let all: Vec<_> = rows.windows.iter().copied()
                .zip(rows.values.chunks(3).map(<[u64]>::to_vec)).collect();
            prop_assert_eq!(&all, &model);
            let from = UnixMillis::from_millis(from);
            model.retain(|(window, _)| window.end >= from);
            for source in [&held, &held.since(from)] {
                let mut some = Vec::new();
                source.each(from, 3, |window, values| some.push((window, values.to_vec())));
                prop_assert_eq!(&some, &model);
            }
        }
    }
}
