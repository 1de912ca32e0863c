//! Cells as bytes: the cells of the series of one subject, as columns under one column of their numbers.
//! FORMAT.md draws them. Decoding believes nothing.

use std::collections::BTreeMap;

use plimsoll_model::{Columns, Metric, Part, Subject, UnixMillis};

use super::cell::{Cell, Lane, Shape, Tier};
use crate::block::{Encoded, Place};
use crate::codec::{Malformed, Pack};
use crate::column;

/// First byte of a block of cells, after those of files of blocks.
const TAG: u8 = 3;
/// Series of one block at most.
const LANES_MAX: usize = 256;
/// Cells of one series in one block at most; with all its series, a block fits a frame.
const ROWS_MAX: usize = 256;

/// Encodes the series of a subject, those with the same cells together, as many blocks as they need.
/// The cells of each must be in order.
pub(crate) fn encode(place: Place, tier: Tier, lanes: Vec<Lane>, each: &mut impl FnMut(Encoded)) {
    let mut together: BTreeMap<Vec<i64>, Vec<Lane>> = BTreeMap::new();
    for lane in lanes.into_iter().filter(|lane| !lane.cells.is_empty()) {
        let numbers = lane.cells.iter().map(|cell| cell.number).collect();
        together.entry(numbers).or_default().push(lane);
    }
    for (numbers, lanes) in together {
        for lanes in lanes.chunks(LANES_MAX) {
            for (chunk, numbers) in numbers.chunks(ROWS_MAX).enumerate() {
                let (Some(first), Some(last)) = (numbers.first(), numbers.last()) else {
                    continue;
                };
                let at = |number: i64| UnixMillis::from_millis(tier.begin(number));
                let from = chunk * ROWS_MAX;
                let of = |lane: &Lane| (lane.metric, lane.part.clone());
                each(Encoded {
                    columns: lanes.iter().map(of).collect(),
                    bytes: encode_one(place, lanes, numbers, from),
                    first: at(*first),
                    last: at(*last),
                    rows: numbers.len(),
                });
            }
        }
    }
}

fn encode_one(place: Place, lanes: &[Lane], numbers: &[i64], from: usize) -> Vec<u8> {
    let mut out = vec![TAG];
    Subject::from(place).pack(&mut out);
    (lanes.len() as u64).pack(&mut out);
    for lane in lanes {
        lane.metric.pack(&mut out);
        lane.part.pack(&mut out);
        out.push(lane.shape.code());
    }
    (numbers.len() as u64).pack(&mut out);
    let mut bytes = Vec::new();
    let mut put = |numbers: Vec<u64>| {
        bytes.clear();
        column::encode(&numbers, &mut bytes);
        bytes.pack(&mut out);
    };
    put(numbers
        .iter()
        .map(|number| number.cast_unsigned())
        .collect());
    for lane in lanes {
        let cells = || lane.cells.iter().skip(from).take(numbers.len());
        for field in lane.shape.fields() {
            put(cells().map(|cell| cell.get(*field)).collect());
        }
    }
    out
}

/// One column of a lane; wide numbers take two.
#[derive(Debug, Clone, Copy)]
enum Field {
    Count,
    Last,
    Covered,
    Increase(Half),
    Min,
    Max,
    /// The sum over the least value: all zero where the value never changed.
    Sum(Half),
    /// The time-weighted sum over the least value; it may be below zero, because the sample that holds
    /// at the begin may be less than all in the cell.
    Held(Half),
    P95,
}

#[derive(Debug, Clone, Copy)]
enum Half {
    Low,
    High,
}

impl Half {
    fn of(self, wide: u128) -> u64 {
        let half = match self {
            Self::Low => wide & u128::from(u64::MAX),
            Self::High => wide >> 64,
        };
        u64::try_from(half).unwrap_or(u64::MAX)
    }

    fn put(self, wide: &mut u128, half: u64) {
        *wide |= match self {
            Self::Low => u128::from(half),
            Self::High => u128::from(half) << 64,
        };
    }
}

impl Shape {
    fn code(self) -> u8 {
        match self {
            Self::Counter => 1,
            Self::Gauge => 2,
            Self::Quantity => 3,
        }
    }

    fn from_code(code: u8) -> Option<Self> {
        let all = [Self::Counter, Self::Gauge, Self::Quantity];
        all.into_iter().find(|shape| shape.code() == code)
    }

    /// Tells what a cell of this shape holds, for people.
    pub(crate) fn told(self, cell: &Cell) -> String {
        let Cell {
            count,
            last,
            covered_ms,
            increase,
            min,
            max,
            sum,
            held,
            p95,
            ..
        } = cell;
        let all = format!("count={count} last={last} covered={covered_ms}ms");
        match self {
            Self::Counter => format!("{all} increase={increase}"),
            Self::Gauge => format!("{all} min={min} max={max} sum={sum} held={held}"),
            Self::Quantity => format!("{all} min={min} max={max} sum={sum} held={held} p95={p95}"),
        }
    }

    /// The columns in the order in which they lie.
    fn fields(self) -> &'static [Field] {
        use Field::{Count, Covered, Held, Increase, Last, Max, Min, P95, Sum};
        use Half::{High, Low};
        match self {
            Self::Counter => &[Count, Last, Covered, Increase(Low), Increase(High)],
            Self::Gauge => &[
                Count,
                Last,
                Covered,
                Min,
                Max,
                Sum(Low),
                Sum(High),
                Held(Low),
                Held(High),
            ],
            Self::Quantity => &[
                Count,
                Last,
                Covered,
                Min,
                Max,
                Sum(Low),
                Sum(High),
                Held(Low),
                Held(High),
                P95,
            ],
        }
    }
}

impl Cell {
    fn get(&self, field: Field) -> u64 {
        let least = u128::from(self.min);
        match field {
            Field::Count => self.count,
            Field::Last => self.last,
            Field::Covered => self.covered_ms,
            Field::Increase(half) => half.of(self.increase),
            Field::Min => self.min,
            Field::Max => self.max,
            Field::Sum(half) => half.of(self.sum.wrapping_sub(least * u128::from(self.count))),
            Field::Held(half) => {
                half.of(self.held.wrapping_sub(least * u128::from(self.covered_ms)))
            }
            Field::P95 => self.p95,
        }
    }

    fn set(&mut self, field: Field, value: u64) {
        match field {
            Field::Count => self.count = value,
            Field::Last => self.last = value,
            Field::Covered => self.covered_ms = value,
            Field::Increase(half) => half.put(&mut self.increase, value),
            Field::Min => self.min = value,
            Field::Max => self.max = value,
            Field::Sum(half) => half.put(&mut self.sum, value),
            Field::Held(half) => half.put(&mut self.held, value),
            Field::P95 => self.p95 = value,
        }
    }

    /// Adds the least value again to the sums that were kept over it.
    fn restore(&mut self) {
        let least = u128::from(self.min);
        self.sum = self.sum.wrapping_add(least * u128::from(self.count));
        self.held = self.held.wrapping_add(least * u128::from(self.covered_ms));
    }
}

/// A block of cells whose columns are not decoded yet.
#[derive(Debug)]
pub(crate) struct Cells<'a> {
    pub(crate) place: Place,
    lanes: Vec<(Metric, Part, Shape)>,
    rows: usize,
    columns: Vec<&'a [u8]>,
}

impl<'a> Cells<'a> {
    /// Reads everything but the numbers.
    pub(crate) fn parse(mut input: &'a [u8]) -> Result<Self, Malformed> {
        let malformed = |what| Err(Malformed { what });
        if u8::unpack(&mut input)? != TAG {
            return malformed("it is no block of cells");
        }
        let place = Subject::unpack(&mut input)?.into();
        let count = u64::unpack(&mut input)?;
        if count == 0 || count > LANES_MAX as u64 {
            return malformed("a block of cells has no possible number of series");
        }
        let mut lanes = Vec::new();
        for _ in 0..count {
            let (metric, part) = (Pack::unpack(&mut input)?, Pack::unpack(&mut input)?);
            let Some(shape) = Shape::from_code(u8::unpack(&mut input)?) else {
                return malformed("a shape of cells is not known");
            };
            lanes.push((metric, part, shape));
        }
        let rows = usize::try_from(u64::unpack(&mut input)?).unwrap_or(usize::MAX);
        if rows == 0 || rows > ROWS_MAX {
            return malformed("a block of cells has no possible number of rows");
        }
        let fields = lanes.iter().map(|(_, _, shape)| shape.fields().len());
        let mut columns = Vec::new();
        for _ in 0..fields.sum::<usize>() + 1 {
            let length = usize::try_from(u64::unpack(&mut input)?).unwrap_or(usize::MAX);
            let Some((column, rest)) = input.split_at_checked(length) else {
                return malformed("a column is cut short");
            };
            columns.push(column);
            input = rest;
        }
        if !input.is_empty() {
            return malformed("bytes are left over");
        }
        Ok(Self {
            place,
            lanes,
            rows,
            columns,
        })
    }

    fn column(&self, place: usize) -> Result<Vec<u64>, Malformed> {
        let bytes = self.columns.get(place).copied().unwrap_or_default();
        column::decode(bytes, self.rows)
    }

    /// Returns which series it holds.
    pub(crate) fn columns(&self) -> Columns {
        let of = |(metric, part, _): &(Metric, Part, Shape)| (*metric, part.clone());
        self.lanes.iter().map(of).collect()
    }

    /// Decodes the numbers of its cells.
    pub(crate) fn numbers(&self) -> Result<Vec<i64>, Malformed> {
        let numbers = self.column(0)?;
        Ok(numbers.into_iter().map(u64::cast_signed).collect())
    }

    /// Decodes the series that are wanted.
    pub(crate) fn lanes(
        &self,
        wanted: impl Fn(Metric, &Part) -> bool,
    ) -> Result<Vec<Lane>, Malformed> {
        let numbers = self.numbers()?;
        let mut found = Vec::new();
        let mut at = 1;
        for (metric, part, shape) in &self.lanes {
            let fields = shape.fields();
            if wanted(*metric, part) {
                let empty = |number: &i64| Cell::empty(*number);
                let mut cells: Vec<Cell> = numbers.iter().map(empty).collect();
                for (place, field) in (at..).zip(fields) {
                    let values = self.column(place)?;
                    let both = cells.iter_mut().zip(values);
                    both.for_each(|(cell, value)| cell.set(*field, value));
                }
                cells.iter_mut().for_each(Cell::restore);
                found.push(Lane {
                    metric: *metric,
                    part: part.clone(),
                    shape: *shape,
                    cells,
                });
            }
            at += fields.len();
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use plimsoll_model::{NodeId, Window};
    use proptest::prelude::*;

    use super::*;
    use crate::rollup::cell::fold;

    fn place() -> Place {
        Subject::Node(NodeId::from_bytes([1; 16]).unwrap()).into()
    }

    fn lane(metric: Metric, samples: &[(Window, u64)]) -> Lane {
        let shape = Shape::of(metric);
        let always = (
            UnixMillis::from_millis(0),
            UnixMillis::from_millis(i64::MAX),
        );
        Lane {
            metric,
            part: Part::whole(),
            shape,
            cells: fold(samples, (Tier::FiveMinutes, shape), always),
        }
    }

    proptest! {
        #[test]
        fn any_cells_survive(
            steps in proptest::collection::vec((1_i64..400_000, any::<u64>()), 1..400),
        ) {
            let mut at = 0;
            let samples: Vec<(Window, u64)> = steps.into_iter().map(|(step, value)| {
                at += step;
                (Window { end: UnixMillis::from_millis(at), width_ms: 1 }, value)
            }).collect();
            let metrics = [Metric::HostPsiCpuSome, Metric::HostMemFree, Metric::HostLibvirtUp];
            let lanes = metrics.map(|metric| lane(metric, &samples));
            let mut read: Vec<Lane> = Vec::new();
            encode(place(), Tier::FiveMinutes, lanes.to_vec(), &mut |block| {
                let cells = Cells::parse(&block.bytes).unwrap();
                assert_eq!(cells.place, place());
                for lane in cells.lanes(|_, _| true).unwrap() {
                    match read.iter_mut().find(|known| known.metric == lane.metric) {
                        Some(known) => known.cells.extend(lane.cells),
                        None => read.push(lane),
                    }
                }
            });
            prop_assert_eq!(read, lanes);
        }

        #[test]
        fn any_bytes_are_cells_or_malformed(bytes: Vec<u8>, flips: Vec<(u16, u8)>) {
            if let Ok(cells) = Cells::parse(&bytes) {
                cells.lanes(|_, _| true).ok();
            }
            let window = |minute: i64| {
                (Window { end: UnixMillis::from_millis(minute * 60_000), width_ms: 1 }, 7)
            };
            let samples: Vec<(Window, u64)> = (0..20).map(window).collect();
            let lanes = vec![lane(Metric::HostMemFree, &samples)];
            encode(place(), Tier::Hour, lanes, &mut |mut block| {
                let length = block.bytes.len();
                for (at, flip) in &flips {
                    block.bytes[usize::from(*at) % length] ^= flip;
                }
                if let Ok(cells) = Cells::parse(&block.bytes) {
                    cells.lanes(|_, _| true).ok();
                }
            });
        }
    }
}
