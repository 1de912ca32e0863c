//! Numbers by the thousand, in the bytes in which they travel: whoever passes them on does not unpack
//! them, and whoever reads them does it once. On the wire these are the messages of query.proto.

use plimsoll_model::{Metric, Part};
use prost::bytes::Bytes;
use prost::encoding::decode_varint;

use crate::parse::ParseError;
use crate::v1;

/// Numbers that are packed at once.
const CHUNK: usize = 64;
/// Bytes of a number at most.
const NUMBER_BYTES: usize = 10;

/// `plimsoll.v1.SubjectColumns`: the values of a subject that were read together, the oldest first.
#[derive(Clone, PartialEq, prost::Message)]
pub struct SubjectColumns {
    /// Node UUID, 16 bytes.
    #[prost(bytes = "vec", tag = "1")]
    pub node_id: Vec<u8>,
    /// Domain UUID, 16 bytes; empty for the node itself.
    #[prost(bytes = "vec", tag = "2")]
    pub domain_id: Vec<u8>,
    /// The QEMU process; absent for the node itself.
    #[prost(message, optional, tag = "3")]
    pub incarnation: Option<v1::Incarnation>,
    /// The steps from the end of each read to the next, in milliseconds, packed: for [`unpack_ends`].
    #[prost(bytes = "bytes", tag = "4")]
    pub end_time_step_deltas_ms: Bytes,
    /// How long each read took; one number where all took as long.
    #[prost(int64, repeated, tag = "5")]
    pub widths_ms: Vec<i64>,
    /// The values; each column has as many as there are ends.
    #[prost(message, repeated, tag = "6")]
    pub columns: Vec<ValueColumn>,
    /// Device UUID, 16 bytes; empty unless the readings are of a device or of a port of one.
    #[prost(bytes = "vec", tag = "7")]
    pub device_id: Vec<u8>,
    /// Number of the port on the device (ifIndex); absent for the device itself.
    #[prost(int32, optional, tag = "8")]
    pub port_index: Option<i32>,
    /// Since when the counters of the device or port count.
    #[prost(message, optional, tag = "9")]
    pub counting_since_time: Option<prost_types::Timestamp>,
    /// When the first read ended, in milliseconds since 1970.
    #[prost(int64, tag = "10")]
    pub first_end_time_ms: i64,
}

/// `plimsoll.v1.ValueColumn`: the values of one series.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ValueColumn {
    /// Dotted name of the metric.
    #[prost(string, tag = "1")]
    pub metric: String,
    /// Part of the subject; empty for the whole.
    #[prost(string, tag = "2")]
    pub part: String,
    /// Each value, in the unit of the metric: steps for [`unpack`].
    #[prost(bytes = "bytes", tag = "3")]
    pub value_deltas: Bytes,
}

impl ValueColumn {
    /// Names a column and packs its values.
    pub fn of((metric, part): &(Metric, Part), values: impl ExactSizeIterator<Item = i64>) -> Self {
        Self {
            metric: metric.name().to_owned(),
            part: part.as_str().to_owned(),
            value_deltas: pack(values),
        }
    }
}

/// Packs numbers as a `repeated sint64` of steps: each less the one before it, the first less 0. They
/// wrap, as whoever adds them up again does.
pub fn pack(mut numbers: impl ExactSizeIterator<Item = i64>) -> Bytes {
    let mut out = Vec::with_capacity(numbers.len() * 3 + CHUNK * NUMBER_BYTES);
    let (mut before, mut end) = (0_i64, 0);
    while numbers.len() > 0 {
        let mut steps = [0; CHUNK];
        let mut count = 0;
        for (step, number) in steps.iter_mut().zip(numbers.by_ref().take(CHUNK)) {
            let signed = number.wrapping_sub(std::mem::replace(&mut before, number));
            *step = (signed << 1).cast_unsigned() ^ (signed >> 63).cast_unsigned();
            count += 1;
        }
        let steps = steps.get(..count).unwrap_or_default();
        out.resize(end + count * NUMBER_BYTES, 0);
        end += put_all(steps, out.get_mut(end..).unwrap_or_default());
    }
    out.truncate(end);
    out.into()
}

/// Packs instants as the first of them and the steps between them, which are nearly the same.
pub fn pack_ends(ends_ms: impl ExactSizeIterator<Item = i64>) -> (i64, Bytes) {
    let mut ends_ms = ends_ms.peekable();
    let first = ends_ms.peek().copied().unwrap_or(0);
    let mut before = first;
    let step = |end: i64| end.wrapping_sub(std::mem::replace(&mut before, end));
    (first, pack(ends_ms.map(step)))
}

/// Unpacks instants that were packed as the first of them and steps.
///
/// # Errors
/// If the bytes are no numbers.
pub fn unpack_ends(first_ms: i64, packed: &[u8]) -> Result<Vec<i64>, ParseError> {
    let mut ends = unpack(packed)?;
    let mut end = first_ms;
    for step in &mut ends {
        end = end.wrapping_add(*step);
        *step = end;
    }
    Ok(ends)
}

/// Bytes that a number takes.
fn bytes_of(number: u64) -> usize {
    (70 - (number | 1).leading_zeros() as usize) / 7
}

/// Writes numbers one behind another; says how many bytes that were.
fn put_all(numbers: &[u64], out: &mut [u8]) -> usize {
    let least = numbers.iter().copied().min().unwrap_or(0);
    let most = numbers.iter().fold(0, |all, number| all | number);
    let bytes = bytes_of(most);
    if bytes == bytes_of(least) {
        // As in instants and constants. Where each goes is known before the one before it is written.
        for (place, number) in numbers.iter().enumerate() {
            put(
                *number,
                bytes,
                out.get_mut(place * bytes..).unwrap_or_default(),
            );
        }
        return numbers.len() * bytes;
    }
    numbers.iter().fold(0, |end, number| {
        let bytes = bytes_of(*number);
        put(*number, bytes, out.get_mut(end..).unwrap_or_default());
        end + bytes
    })
}

/// Writes a number as seven bits a byte.
fn put(number: u64, bytes: usize, out: &mut [u8]) {
    if bytes <= 8
        && let Some(place) = out.first_chunk_mut()
    {
        let spread = (number & 0x00ff_ffff_f000_0000) << 4 | number & 0x0000_0000_0fff_ffff;
        let spread = (spread & 0x0fff_c000_0fff_c000) << 2 | spread & 0x0000_3fff_0000_3fff;
        let spread = (spread & 0x3f80_3f80_3f80_3f80) << 1 | spread & 0x007f_007f_007f_007f;
        // All but the last say that another follows.
        let follows = 0x8080_8080_8080_8080_u64 & ((1_u64 << (8 * (bytes - 1))) - 1);
        *place = (spread | follows).to_le_bytes();
    } else {
        let mut rest = number;
        for place in out.iter_mut().take(bytes) {
            let follows = if rest >= 0x80 { 0x80 } else { 0 };
            *place = rest.to_le_bytes()[0] & 0x7f | follows;
            rest >>= 7;
        }
    }
}

/// Unpacks numbers that were packed as steps.
///
/// # Errors
/// If the bytes are no numbers.
pub fn unpack(mut packed: &[u8]) -> Result<Vec<i64>, ParseError> {
    let mut numbers = Vec::with_capacity(packed.len() / 2);
    let mut number = 0_i64;
    while !packed.is_empty() {
        let zigzag = decode_varint(&mut packed)
            .map_err(|error| ParseError::new("value_deltas", error.to_string()))?;
        let step = (zigzag >> 1).cast_signed() ^ -(zigzag & 1).cast_signed();
        number = number.wrapping_add(step);
        numbers.push(number);
    }
    Ok(numbers)
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;

    /// The steps as prost writes them.
    #[derive(Clone, PartialEq, prost::Message)]
    struct Told {
        #[prost(sint64, repeated, tag = "3")]
        value_deltas: Vec<i64>,
    }

    #[test]
    fn packed_numbers_are_the_repeated_numbers_of_the_message() {
        let mut numbers = vec![0, 1, -1, i64::MAX, i64::MIN, 0, 1 << 55, -(1 << 55)];
        numbers.extend((0..64).flat_map(|bit| {
            let power = 1_i64 << bit;
            [power, power.wrapping_sub(1), power.wrapping_neg()]
        }));
        // Steps that all take as many bytes, one to three of them.
        numbers.extend((0..300).map(|place| place * (1 << (place / 100 * 7))));
        for count in [0, 1, 63, 64, 65, numbers.len()] {
            let some = &numbers[..count];
            let mut before = 0_i64;
            let step = |number: &i64| number.wrapping_sub(std::mem::replace(&mut before, *number));
            let told = Told {
                value_deltas: some.iter().map(step).collect(),
            };
            let column = ValueColumn {
                value_deltas: pack(some.iter().copied()),
                ..ValueColumn::default()
            };
            assert_eq!(column.encode_to_vec(), told.encode_to_vec(), "{count}");
            assert_eq!(unpack(&column.value_deltas).unwrap(), some);
        }
    }

    #[test]
    fn instants_an_interval_apart_take_a_byte_each() {
        let ends: Vec<i64> = (0..500)
            .map(|row| 1_795_000_000_000 + row * 10_000 + row % 5)
            .collect();
        let (first, packed) = pack_ends(ends.iter().copied());
        assert!(packed.len() < ends.len() + 4, "{}", packed.len());
        assert_eq!(unpack_ends(first, &packed).unwrap(), ends);
        let far = [i64::MIN, i64::MAX, 0, 0];
        let (first, packed) = pack_ends(far.into_iter());
        assert_eq!(unpack_ends(first, &packed).unwrap(), far);
        assert_eq!(pack_ends(std::iter::empty()), (0, Bytes::new()));
    }

    #[test]
    fn bytes_that_are_no_numbers_are_refused() {
        assert!(unpack(&[0x80]).is_err());
        assert!(unpack(&[0xff; 11]).is_err());
        assert_eq!(unpack(&[]).unwrap(), [0_i64; 0]);
    }
}
