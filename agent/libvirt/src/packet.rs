//! Frames of the wire: a length, a header of six words, a payload.
//!
//! It does not read payloads. A frame's memory grows with the bytes that arrive, not with the
//! length that is announced.

use crate::procedure::{PROGRAM_VERSION, Procedure};
use crate::xdr::{Decoder, Encoder, XdrError};
use tokio::io::{AsyncRead, AsyncReadExt};

/// Longest message libvirt sends or takes, without the word that holds its length.
pub const MESSAGE_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Bytes of the word that holds the length, which counts itself.
const LENGTH_BYTES: usize = 4;
const HEADER_BYTES: usize = 24;
/// Memory set aside before the first byte of a payload has come.
const PAYLOAD_BYTES_AT_FIRST: usize = 16 * 1024;

const CALL: u32 = 0;
const STATUS_OK: u32 = 0;

/// The kinds of messages a daemon may send to this client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Reply,
    Message,
}

/// What the daemon says about the call it replies to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Status {
    Ok,
    Error,
}

/// A frame as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Packet {
    pub(crate) program: u32,
    pub(crate) number: i32,
    pub(crate) kind: Kind,
    pub(crate) serial: u32,
    pub(crate) status: Status,
    pub(crate) payload: Vec<u8>,
}

/// Why no packet could be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadError {
    #[error("the stream has ended")]
    Ended,
    #[error("the stream has ended inside a message")]
    EndedInside,
    #[error("the stream failed")]
    Stream(#[source] std::io::Error),
    #[error("the message is malformed: {0}")]
    Malformed(XdrError),
    #[error("a message of version {0} came")]
    Version(u32),
}

/// Frames a call.
pub(crate) fn render_call(
    procedure: Procedure,
    serial: u32,
    payload: &[u8],
) -> Result<Vec<u8>, XdrError> {
    render(procedure.program, procedure.number, [CALL, serial], payload)
}

/// Frames a sign of life; the type is that of a message nobody asked for.
pub(crate) fn render_keepalive(number: i32) -> Result<Vec<u8>, XdrError> {
    render(crate::procedure::KEEPALIVE_PROGRAM, number, [2, 0], &[])
}

fn render(
    program: u32,
    number: i32,
    [kind, serial]: [u32; 2],
    payload: &[u8],
) -> Result<Vec<u8>, XdrError> {
    let length = HEADER_BYTES.saturating_add(payload.len());
    let refusal = XdrError::TooLong {
        what: "message",
        length,
        limit: MESSAGE_BYTES_MAX,
    };
    if length > MESSAGE_BYTES_MAX {
        return Err(refusal);
    }
    let mut encoder = Encoder::new();
    encoder.u32(u32::try_from(length + LENGTH_BYTES).map_err(|_| refusal)?);
    encoder.u32(program);
    encoder.u32(PROGRAM_VERSION);
    encoder.i32(number);
    encoder.u32(kind);
    encoder.u32(serial);
    encoder.u32(STATUS_OK);
    encoder.encoded(payload);
    Ok(encoder.into_bytes())
}

/// Reads the next packet.
pub(crate) async fn read_packet(
    stream: &mut (impl AsyncRead + Unpin),
) -> Result<Packet, ReadError> {
    let mut first = [0; 1];
    let count = stream.read(&mut first).await.map_err(ReadError::Stream)?;
    if count == 0 {
        return Err(ReadError::Ended);
    }
    let mut rest = [0; LENGTH_BYTES - 1 + HEADER_BYTES];
    stream.read_exact(&mut rest).await.map_err(inside)?;
    let mut head = [0; LENGTH_BYTES + HEADER_BYTES];
    for (into, from) in head.iter_mut().zip(first.iter().chain(rest.iter())) {
        *into = *from;
    }
    let (packet, payload_bytes) = parse_head(&head)?;
    let mut payload = Vec::with_capacity(payload_bytes.min(PAYLOAD_BYTES_AT_FIRST));
    let limit = u64::try_from(payload_bytes).unwrap_or(u64::MAX);
    let came = stream
        .take(limit)
        .read_to_end(&mut payload)
        .await
        .map_err(ReadError::Stream)?;
    if came < payload_bytes {
        return Err(ReadError::EndedInside);
    }
    Ok(Packet { payload, ..packet })
}

fn inside(error: std::io::Error) -> ReadError {
    if error.kind() == std::io::ErrorKind::UnexpectedEof {
        ReadError::EndedInside
    } else {
        ReadError::Stream(error)
    }
}

/// Parses length and header; gives a packet without its payload, and the payload's length.
fn parse_head(head: &[u8; LENGTH_BYTES + HEADER_BYTES]) -> Result<(Packet, usize), ReadError> {
    let mut decoder = Decoder::new(head);
    let mut word = || decoder.u32().map_err(ReadError::Malformed);
    let length = usize::try_from(word()?).unwrap_or(usize::MAX);
    if length > MESSAGE_BYTES_MAX + LENGTH_BYTES {
        let limit = MESSAGE_BYTES_MAX + LENGTH_BYTES;
        return Err(ReadError::Malformed(XdrError::TooLong {
            what: "message",
            length,
            limit,
        }));
    }
    let payload_bytes =
        length
            .checked_sub(head.len())
            .ok_or(ReadError::Malformed(XdrError::Truncated {
                wanted: head.len(),
                left: length,
            }))?;
    let program = word()?;
    let version = word()?;
    if version != PROGRAM_VERSION {
        return Err(ReadError::Version(version));
    }
    let number = word()?.cast_signed();
    let kind = match word()? {
        1 => Kind::Reply,
        2 => Kind::Message,
        value => return Err(unknown("type of a message to a client", value)),
    };
    let serial = word()?;
    let status = match word()? {
        0 => Status::Ok,
        1 => Status::Error,
        value => return Err(unknown("status of a message", value)),
    };
    Ok((
        Packet {
            program,
            number,
            kind,
            serial,
            status,
            payload: Vec::new(),
        },
        payload_bytes,
    ))
}

fn unknown(what: &'static str, value: u32) -> ReadError {
    ReadError::Malformed(XdrError::Unknown { what, value })
}
