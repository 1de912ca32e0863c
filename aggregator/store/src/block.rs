//! A block: rows of one subject whose values were read together, as columns under one column of
//! instants. A value that was not read has no place here, so absence needs no mark.

use std::sync::Arc;

use plimsoll_model::{
    Columns, DeviceId, DomainId, Incarnation, Metric, NodeId, Part, Subject, UnixMillis, Window,
};

use crate::codec::{Malformed, Pack};
use crate::column;

/// First byte of a block, before a footer's.
pub(crate) const TAG: u8 = 1;
/// Rows of one block at most.
const ROWS_MAX: usize = 4_096;
/// Rows of one block that is written, at most: who wants the last minutes decodes no more than these.
const ROWS_WRITTEN_MAX: usize = 360;
/// Values of one block at most.
const VALUES_MAX: usize = 400_000;
/// Columns of one block at most.
pub(crate) const COLUMNS_MAX: usize = 2_048;

/// A device, the port if it is one, and since when its counters count.
pub(crate) type DevicePlace = (DeviceId, Option<u32>, UnixMillis);

/// A subject in the order in which it is looked up: by node, then by domain, then by device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Place {
    pub(crate) node: NodeId,
    pub(crate) domain: Option<(DomainId, Incarnation)>,
    pub(crate) device: Option<DevicePlace>,
}

impl Place {
    /// Where a node stands: before its domains and devices.
    pub(crate) fn of_node(node: NodeId) -> Self {
        Self {
            node,
            domain: None,
            device: None,
        }
    }
}

impl From<Subject> for Place {
    fn from(subject: Subject) -> Self {
        let mut place = Self::of_node(subject.node());
        match subject {
            Subject::Node(_) => {}
            Subject::Domain {
                domain,
                incarnation,
                ..
            } => place.domain = Some((domain, incarnation)),
            Subject::Device {
                device,
                counting_since,
                ..
            } => place.device = Some((device, None, counting_since)),
            Subject::Port {
                device,
                port,
                counting_since,
                ..
            } => place.device = Some((device, Some(port), counting_since)),
        }
        place
    }
}

impl From<Place> for Subject {
    fn from(place: Place) -> Self {
        let node = place.node;
        match (place.domain, place.device) {
            (Some((domain, incarnation)), _) => Self::Domain {
                domain,
                node,
                incarnation,
            },
            (None, Some((device, None, counting_since))) => Self::Device {
                device,
                node,
                counting_since,
            },
            (None, Some((device, Some(port), counting_since))) => Self::Port {
                device,
                port,
                node,
                counting_since,
            },
            (None, None) => Self::Node(node),
        }
    }
}

/// Rows as they were read: values lie row by row.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Rows {
    pub(crate) windows: Vec<Window>,
    pub(crate) values: Vec<u64>,
}

impl Rows {
    /// Puts rows in order, each window once: the first that came.
    pub(crate) fn settle(&mut self, width: usize) {
        let in_order = |pair: &[Window]| matches!(pair, [a, b] if a < b);
        if width == 0 || self.windows.windows(2).all(in_order) {
            return;
        }
        let rows = self.values.chunks(width);
        let mut all: Vec<(Window, &[u64])> = self.windows.iter().copied().zip(rows).collect();
        all.sort_by_key(|(window, _)| *window);
        all.dedup_by_key(|(window, _)| *window);
        let values = all
            .iter()
            .flat_map(|(_, row)| row.iter().copied())
            .collect();
        self.windows = all.iter().map(|(window, _)| *window).collect();
        self.values = values;
    }

    /// Adds rows of the same width.
    pub(crate) fn extend(&mut self, other: &Self) {
        self.windows.extend(&other.windows);
        self.values.extend(&other.values);
    }
}

/// An encoded block and what it holds.
#[derive(Debug)]
pub(crate) struct Encoded {
    pub(crate) columns: Columns,
    pub(crate) bytes: Vec<u8>,
    pub(crate) first: UnixMillis,
    pub(crate) last: UnixMillis,
    pub(crate) rows: usize,
}

/// Encodes rows that are in order, as many blocks as they need; their values lie row by row.
pub(crate) fn encode(
    place: Place,
    columns: &Columns,
    (windows, values): (&[Window], &[u64]),
    each: &mut impl FnMut(Encoded),
) {
    let width = columns.len();
    if width == 0 {
        return;
    }
    for from in (0..width).step_by(COLUMNS_MAX) {
        let some = columns.iter().skip(from).take(COLUMNS_MAX);
        let some: Columns = if width <= COLUMNS_MAX {
            Arc::clone(columns)
        } else {
            some.cloned().collect()
        };
        let height = (VALUES_MAX / some.len()).clamp(1, ROWS_WRITTEN_MAX);
        let chunks = windows.chunks(height).zip(values.chunks(height * width));
        for (windows, values) in chunks {
            let (Some(first), Some(last)) = (windows.first(), windows.last()) else {
                continue;
            };
            let block = encode_one(place, &some, windows, |column, numbers| {
                let of_column = values.iter().skip(from + column).step_by(width);
                let both = numbers.iter_mut().zip(of_column);
                both.for_each(|(number, value)| *number = *value);
            });
            each(Encoded {
                columns: Arc::clone(&some),
                bytes: block,
                first: first.end,
                last: last.end,
                rows: windows.len(),
            });
        }
    }
}

fn encode_one(
    place: Place,
    columns: &Columns,
    windows: &[Window],
    values: impl Fn(usize, &mut [u64]),
) -> Vec<u8> {
    let mut out = vec![TAG];
    Subject::from(place).pack(&mut out);
    pack_columns(columns, &mut out);
    (windows.len() as u64).pack(&mut out);
    let mut bytes = Vec::new();
    let mut put = |numbers: &[u64]| {
        bytes.clear();
        column::encode(numbers, &mut bytes);
        bytes.pack(&mut out);
    };
    let ends = windows.iter().map(|window| window.end.millis());
    put(&ends.map(i64::cast_unsigned).collect::<Vec<_>>());
    let widths = windows.iter().map(|window| u64::from(window.width_ms));
    put(&widths.collect::<Vec<_>>());
    let mut numbers = vec![0; windows.len()];
    for column in 0..columns.len() {
        values(column, &mut numbers);
        put(&numbers);
    }
    out
}

/// Appends what the columns are.
pub(crate) fn pack_columns(columns: &[(Metric, Part)], out: &mut Vec<u8>) {
    (columns.len() as u64).pack(out);
    for (metric, part) in columns {
        metric.pack(out);
        part.pack(out);
    }
}

/// Takes what the columns are off the front.
pub(crate) fn unpack_columns(input: &mut &[u8]) -> Result<Columns, Malformed> {
    let columns = unpack_any_columns(input)?;
    if columns.is_empty() || columns.len() > COLUMNS_MAX {
        return Err(Malformed {
            what: "a block has no possible number of columns",
        });
    }
    Ok(columns)
}

/// Returns what lies behind the columns, where they are these.
fn behind<'a>(mut input: &'a [u8], columns: &[(Metric, Part)]) -> Option<&'a [u8]> {
    if columns.is_empty() || u64::unpack(&mut input) != Ok(columns.len() as u64) {
        return None;
    }
    for (metric, part) in columns {
        let part = part.as_str().as_bytes();
        let is_metric = u64::unpack(&mut input) == Ok(metric.code().into());
        if !is_metric || u64::unpack(&mut input) != Ok(part.len() as u64) {
            return None;
        }
        input = input.strip_prefix(part)?;
    }
    Some(input)
}

/// Takes what any number of columns are off the front.
pub(crate) fn unpack_any_columns(input: &mut &[u8]) -> Result<Columns, Malformed> {
    let count = u64::unpack(input)?;
    // Every column takes two bytes at least, so a forged count cannot ask for more than came.
    if count > input.len() as u64 {
        return Err(Malformed {
            what: "a count is larger than what follows",
        });
    }
    (0..count)
        .map(|_| Ok((Metric::unpack(input)?, Part::unpack(input)?)))
        .collect()
}

/// A block whose columns are not decoded yet.
#[derive(Debug)]
pub(crate) struct Block<'a> {
    pub(crate) place: Place,
    pub(crate) columns: Columns,
    rows: usize,
    bytes: Vec<&'a [u8]>,
}

impl<'a> Block<'a> {
    /// Reads everything but the numbers.
    pub(crate) fn parse(input: &'a [u8]) -> Result<Self, Malformed> {
        Self::read(input, None)
    }

    /// Reads a block whose columns are most likely these: what is the same is not made again.
    pub(crate) fn parse_as(input: &'a [u8], likely: &Columns) -> Result<Self, Malformed> {
        Self::read(input, Some(likely))
    }

    fn read(mut input: &'a [u8], likely: Option<&Columns>) -> Result<Self, Malformed> {
        let malformed = |what| Err(Malformed { what });
        if u8::unpack(&mut input)? != TAG {
            return malformed("it is no block");
        }
        let place = Subject::unpack(&mut input)?.into();
        let behind = likely.and_then(|likely| Some((Arc::clone(likely), behind(input, likely)?)));
        let columns = match behind {
            Some((columns, rest)) => {
                input = rest;
                columns
            }
            None => unpack_columns(&mut input)?,
        };
        let rows = usize::try_from(u64::unpack(&mut input)?).unwrap_or(usize::MAX);
        if rows == 0 || rows > ROWS_MAX || rows.saturating_mul(columns.len()) > VALUES_MAX {
            return malformed("a block has no possible number of rows");
        }
        let mut bytes = Vec::with_capacity(columns.len() + 2);
        for _ in 0..columns.len() + 2 {
            let length = usize::try_from(u64::unpack(&mut input)?).unwrap_or(usize::MAX);
            let Some((column, rest)) = input.split_at_checked(length) else {
                return malformed("a column is cut short");
            };
            bytes.push(column);
            input = rest;
        }
        if !input.is_empty() {
            return malformed("bytes are left over");
        }
        Ok(Self {
            place,
            columns,
            rows,
            bytes,
        })
    }

    fn numbers(&self, place: usize) -> Result<Vec<u64>, Malformed> {
        column::decode(
            self.bytes.get(place).copied().unwrap_or_default(),
            self.rows,
        )
    }

    /// Decodes the windows.
    pub(crate) fn windows(&self) -> Result<Vec<Window>, Malformed> {
        let both = self.ends()?.into_iter().zip(self.widths_ms()?);
        Ok(both
            .map(|(end, width_ms)| Window { end, width_ms })
            .collect())
    }

    /// Decodes when the windows end.
    pub(crate) fn ends(&self) -> Result<Vec<UnixMillis>, Malformed> {
        let ends = self.numbers(0)?.into_iter();
        Ok(ends
            .map(|end| UnixMillis::from_millis(end.cast_signed()))
            .collect())
    }

    /// Decodes how wide the windows are.
    pub(crate) fn widths_ms(&self) -> Result<Vec<u32>, Malformed> {
        let narrow = |width| {
            u32::try_from(width).map_err(|_| Malformed {
                what: "a window is too wide",
            })
        };
        self.numbers(1)?.into_iter().map(narrow).collect()
    }

    /// Decodes one column.
    pub(crate) fn column(&self, column: usize) -> Result<Vec<u64>, Malformed> {
        self.numbers(column + 2)
    }

    /// Decodes everything.
    pub(crate) fn rows(&self) -> Result<Rows, Malformed> {
        let windows = self.windows()?;
        let width = self.columns.len();
        let mut values = vec![0; windows.len() * width];
        for column in 0..width {
            let numbers = self.column(column)?;
            let places = values.iter_mut().skip(column).step_by(width);
            places.zip(numbers).for_each(|(to, from)| *to = from);
        }
        Ok(Rows { windows, values })
    }
}
