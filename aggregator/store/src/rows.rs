//! The rows of a batch as they lie in the log: each set of columns once, and the values as they are.
//! Eight bytes a value are more than a varint takes, but cost next to nothing, and the log is short.

use std::sync::Arc;

use plimsoll_model::{Columns, Row, Rows, Sweep};

use crate::block::{pack_columns, unpack_any_columns};
use crate::codec::{Malformed, Pack, take};

/// Bytes of a value.
const VALUE_BYTES: usize = 8;

/// Appends rows.
pub(crate) fn pack(rows: &Rows, out: &mut Vec<u8>) {
    let mut sets: Vec<&Columns> = Vec::new();
    let mut numbers = Vec::with_capacity(rows.len());
    for row in rows.iter() {
        // By address: who makes a batch shares equal sets. One that is there twice does no harm.
        let known = sets.iter().rposition(|set| Arc::ptr_eq(set, row.columns));
        numbers.push(known.unwrap_or_else(|| {
            sets.push(row.columns);
            sets.len() - 1
        }));
    }
    (sets.len() as u64).pack(out);
    for set in sets {
        pack_columns(set, out);
    }
    (rows.len() as u64).pack(out);
    for (row, number) in rows.iter().zip(numbers) {
        row.subject.pack(out);
        row.window.pack(out);
        (number as u64).pack(out);
        let begin = out.len();
        out.resize(begin + row.values.len() * VALUE_BYTES, 0);
        let (places, _) = out.get_mut(begin..).unwrap_or_default().as_chunks_mut();
        for (place, value) in places.iter_mut().zip(row.values) {
            *place = value.to_le_bytes();
        }
    }
}

/// Takes rows off the front.
pub(crate) fn unpack(input: &mut &[u8]) -> Result<Rows, Malformed> {
    let sets = (0..count(input)?)
        .map(|_| unpack_any_columns(input))
        .collect::<Result<Vec<_>, _>>()?;
    let count = count(input)?;
    // A row takes more bytes than there are values in its room.
    let mut rows = Rows::with_capacity(0, input.len() / VALUE_BYTES);
    let mut values = Vec::new();
    for _ in 0..count {
        let subject = Pack::unpack(input)?;
        let window = Pack::unpack(input)?;
        let number = usize::try_from(u64::unpack(input)?).unwrap_or(usize::MAX);
        let columns = sets.get(number).ok_or(Malformed {
            what: "a row has columns that are not known",
        })?;
        let bytes = take(input, columns.len() * VALUE_BYTES)?;
        let (chunks, _) = bytes.as_chunks();
        values.clear();
        values.extend(chunks.iter().map(|value| u64::from_le_bytes(*value)));
        rows.push(Row {
            subject,
            window,
            columns,
            values: &values,
        });
    }
    Ok(rows)
}

/// Takes rows off the front that the first format told value by value.
pub(crate) fn unpack_sweeps(input: &mut &[u8]) -> Result<Rows, Malformed> {
    let sweep = |input: &mut &[u8]| {
        let subject = Pack::unpack(input)?;
        let window = Pack::unpack(input)?;
        let value = |input: &mut &[u8]| {
            Ok((
                Pack::unpack(input)?,
                Pack::unpack(input)?,
                Pack::unpack(input)?,
            ))
        };
        let values = (0..count(input)?)
            .map(|_| value(input))
            .collect::<Result<_, _>>()?;
        Ok(Sweep {
            subject,
            window,
            values,
        })
    };
    (0..count(input)?).map(|_| sweep(input)).collect()
}

/// Takes a count off the front; everything counted takes a byte at least.
fn count(input: &mut &[u8]) -> Result<u64, Malformed> {
    let count = u64::unpack(input)?;
    if count > input.len() as u64 {
        return Err(Malformed {
            what: "a count is larger than what follows",
        });
    }
    Ok(count)
}
