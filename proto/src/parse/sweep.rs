//! Sweeps, read from their bytes: numbers by the thousand, without a message in between.

use std::borrow::Cow;

use plimsoll_model::{Row, Rows, UnixMillis, Window};
use prost::Message as _;
use prost::encoding::{WireType, decode_key, decode_varint};

use super::series::SeriesTable;
use super::{Excess, ParseError, at_most, unsigned};
use crate::limits;
use crate::v1;

/// The fields of a [`v1::Sweep`] in the form in which every encoder writes them.
#[derive(Debug, Default)]
struct Fields<'a> {
    end_time_ms: u64,
    width_ms: u64,
    index_deltas: Option<&'a [u8]>,
    values: Option<&'a [u8]>,
}

impl<'a> Fields<'a> {
    /// Reads them; `None` where they come in another form that the wire allows, or are damaged.
    fn read(mut bytes: &'a [u8]) -> Option<Self> {
        let mut fields = Self::default();
        while !bytes.is_empty() {
            match decode_key(&mut bytes).ok()? {
                (1, WireType::Varint) => fields.end_time_ms = decode_varint(&mut bytes).ok()?,
                (2, WireType::Varint) => fields.width_ms = decode_varint(&mut bytes).ok()?,
                (tag @ (3 | 4), WireType::LengthDelimited) => {
                    let length = usize::try_from(decode_varint(&mut bytes).ok()?).ok()?;
                    let (packed, rest) = bytes.split_at_checked(length)?;
                    bytes = rest;
                    let field = match tag {
                        3 => &mut fields.index_deltas,
                        _ => &mut fields.values,
                    };
                    if field.replace(packed).is_some() {
                        return None;
                    }
                }
                _ => return None,
            }
        }
        Some(fields)
    }
}

/// Reads the latest values of the table's session.
pub fn snapshot(table: &mut SeriesTable, message: &v1::Snapshot) -> Result<Rows, ParseError> {
    table.check_session("session_id", &message.session_id)?;
    rows(table, &message.sweeps)
}

/// Reads sweeps; a sweep that spans several subjects becomes a row for each.
pub fn rows(table: &mut SeriesTable, messages: &[v1::Sweep]) -> Result<Rows, ParseError> {
    let bytes: Vec<Vec<u8>> = messages.iter().map(v1::Sweep::encode_to_vec).collect();
    all(table, &bytes)
}

/// Reads encoded sweeps.
pub(super) fn all(
    table: &mut SeriesTable,
    messages: &[impl AsRef<[u8]>],
) -> Result<Rows, ParseError> {
    let bytes: usize = messages.iter().map(|message| message.as_ref().len()).sum();
    // About what counters take, with their numbers.
    let mut into = Rows::with_capacity(messages.len(), bytes / 6);
    let mut values = Vec::new();
    let mut readings = 0;
    for message in messages {
        one(table, message.as_ref(), &mut values, &mut into)
            .map_err(|error| error.within("sweeps"))?;
        readings += values.len();
        at_most("sweeps", readings, limits::READINGS_PER_BATCH_MAX)
            .map_err(|error| error.exceeding(Excess::Readings))?;
    }
    Ok(into)
}

fn one(
    table: &mut SeriesTable,
    message: &[u8],
    values: &mut Vec<u64>,
    into: &mut Rows,
) -> Result<(), ParseError> {
    let mut usual = Cow::Borrowed(message);
    if Fields::read(message).is_none() {
        let decoded = v1::Sweep::decode(message)
            .map_err(|error| ParseError::new("bytes", error.to_string()))?;
        usual = Cow::Owned(decoded.encode_to_vec());
    }
    let fields = Fields::read(&usual).unwrap_or_default();
    let width_ms = u32::try_from(fields.width_ms)
        .map_err(|_| ParseError::new("width_ms", "must lie in 0 to 4294967295"))?;
    let window = Window {
        end: UnixMillis::from_millis(fields.end_time_ms.cast_signed()),
        width_ms,
    };
    numbers(fields.values.unwrap_or_default(), values)?;
    let (plan, subjects) = table.plan(fields.index_deltas.unwrap_or_default())?;
    if plan.count != values.len() {
        return Err(ParseError::new("values", "must be as many as index_deltas"));
    }
    for row in &plan.rows {
        let Some(subject) = row.subject(subjects) else {
            continue;
        };
        let picked: Vec<u64>;
        let of_row = match &row.places {
            None => values.as_slice(),
            Some(places) => {
                let all = places
                    .iter()
                    .filter_map(|place| values.get(*place as usize));
                picked = all.copied().collect();
                &picked
            }
        };
        into.push(Row {
            subject,
            window,
            columns: &row.columns,
            values: of_row,
        });
    }
    Ok(())
}

/// Reads values, which are 0 or more.
fn numbers(mut packed: &[u8], values: &mut Vec<u64>) -> Result<(), ParseError> {
    values.clear();
    while !packed.is_empty() {
        let value = decode_varint(&mut packed)
            .map_err(|error| ParseError::new("values", error.to_string()))?;
        values.push(value);
    }
    match values.iter().find(|value| value.cast_signed() < 0) {
        Some(negative) => unsigned("values", negative.cast_signed()).map(|_| ()),
        None => Ok(()),
    }
}
