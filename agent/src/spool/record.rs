//! Records of a segment: length, checksum, kind, payload. It opens no file.

use plimsoll_proto::v1;
use prost::Message;

/// Bytes before the payload: length and checksum.
const HEADER_BYTES: usize = 8;
/// Longest record that is believed; a batch has at most 1 MiB.
const RECORD_BYTES_MAX: usize = 4 << 20;
const KIND_DECLARATIONS: u8 = 1;
const KIND_BATCH: u8 = 2;

/// What is sent, in order.
#[derive(Debug, Clone, PartialEq)]
pub enum Frame {
    /// Numbers of series that later batches use.
    Declarations(v1::SeriesDeclarations),
    /// A batch.
    Batch(v1::Batch),
    /// A hole.
    Gap(v1::Gap),
}

/// One record as it was read back.
#[derive(Debug)]
pub(super) enum Record {
    Declarations(v1::SeriesDeclarations),
    Batch { batch: v1::Batch, readings: u64 },
}

/// What follows in a segment.
#[derive(Debug)]
pub(super) enum Next {
    /// A record, and where the next one begins.
    Record(Box<Record>, usize),
    /// Bytes whose checksum does not hold, and where the next record begins.
    Broken(usize),
    /// Bytes that are not a whole record.
    Torn,
    /// Nothing.
    End,
}

fn seal(kind: u8, parts: &[&[u8]]) -> Vec<u8> {
    let mut payload = vec![kind];
    for part in parts {
        payload.extend_from_slice(part);
    }
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
    let mut record = Vec::with_capacity(HEADER_BYTES + payload.len());
    record.extend_from_slice(&length.to_le_bytes());
    record.extend_from_slice(&crc32c::crc32c(&payload).to_le_bytes());
    record.extend_from_slice(&payload);
    record
}

pub(super) fn declarations(declarations: &v1::SeriesDeclarations) -> Vec<u8> {
    seal(KIND_DECLARATIONS, &[&declarations.encode_to_vec()])
}

pub(super) fn batch(batch: &v1::Batch, readings: u64) -> Vec<u8> {
    seal(
        KIND_BATCH,
        &[&readings.to_le_bytes(), &batch.encode_to_vec()],
    )
}

/// Reads the record at an offset.
pub(super) fn next(bytes: &[u8], offset: usize) -> Next {
    let Some(rest) = bytes.get(offset..).filter(|rest| !rest.is_empty()) else {
        return Next::End;
    };
    let header = rest.split_first_chunk::<4>().and_then(|(length, rest)| {
        rest.split_first_chunk::<4>()
            .map(|(crc, rest)| (length, crc, rest))
    });
    let Some((length, crc, rest)) = header else {
        return Next::Torn;
    };
    let length = usize::try_from(u32::from_le_bytes(*length)).unwrap_or(usize::MAX);
    if length == 0 || length > RECORD_BYTES_MAX {
        return Next::Torn;
    }
    let Some(payload) = rest.get(..length) else {
        return Next::Torn;
    };
    let after = offset.saturating_add(HEADER_BYTES).saturating_add(length);
    if crc32c::crc32c(payload) != u32::from_le_bytes(*crc) {
        return Next::Broken(after);
    }
    decode(payload).map_or(Next::Broken(after), |record| {
        Next::Record(Box::new(record), after)
    })
}

fn decode(payload: &[u8]) -> Option<Record> {
    let (kind, rest) = payload.split_first()?;
    match *kind {
        KIND_DECLARATIONS => Some(Record::Declarations(
            v1::SeriesDeclarations::decode(rest).ok()?,
        )),
        KIND_BATCH => {
            let (readings, rest) = rest.split_first_chunk::<8>()?;
            Some(Record::Batch {
                batch: v1::Batch::decode(rest).ok()?,
                readings: u64::from_le_bytes(*readings),
            })
        }
        _ => None,
    }
}
