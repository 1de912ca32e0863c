//! Batches and gaps.

use plimsoll_model::{Batch, GapReason, NodeId, SampleGap, SessionId, UnixMillis};
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};
use prost::{DecodeError, Message as _};

use super::series::SeriesTable;
use super::{
    Excess, ParseError, at_most, inventory, sequence, session_id, sweep, timestamp, unsigned_opt,
};
use crate::limits;
use crate::v1;

/// A [`v1::BatchBody`] without its sweeps: nearly all of it is numbers, and those go straight to where
/// they stay.
#[derive(Clone, PartialEq, prost::Message)]
struct Body {
    #[prost(message, optional, tag = "1")]
    made_time: Option<prost_types::Timestamp>,
    #[prost(message, optional, tag = "3")]
    node_facts: Option<v1::NodeFacts>,
    #[prost(message, repeated, tag = "4")]
    domain_facts: Vec<v1::DomainFacts>,
    #[prost(message, repeated, tag = "5")]
    events: Vec<v1::Event>,
    #[prost(message, repeated, tag = "6")]
    device_facts: Vec<v1::PolledFacts>,
}

impl Body {
    /// Parts a body into its sweeps, not read yet, and the rest.
    fn read(body: &[u8]) -> Result<(Vec<&[u8]>, Self), DecodeError> {
        let mut sweeps = Vec::with_capacity(body.len() / 100);
        let mut others = Vec::new();
        let mut rest = body;
        while !rest.is_empty() {
            let before = rest;
            let (tag, kind) = decode_key(&mut rest)?;
            let mut sweep = rest;
            skip_field(kind, tag, &mut rest, DecodeContext::default())?;
            if (tag, kind) == (2, WireType::LengthDelimited) {
                let length = usize::try_from(decode_varint(&mut sweep)?).unwrap_or(usize::MAX);
                sweeps.extend(sweep.get(..length));
            } else {
                let field = before.len().saturating_sub(rest.len());
                others.extend(before.get(..field).unwrap_or_default());
            }
        }
        Ok((sweeps, Self::decode(others.as_slice())?))
    }
}

/// Reads a batch of the table's session.
pub fn batch(table: &mut SeriesTable, message: &v1::Batch) -> Result<Batch, ParseError> {
    table.check_session("batch.session_id", &message.session_id)?;
    let sequence = sequence("batch.sequence", message.sequence)?;
    if message.body.len() > limits::BATCH_BODY_BYTES_MAX {
        let problem = format!(
            "has {} bytes, at most {} are allowed",
            message.body.len(),
            limits::BATCH_BODY_BYTES_MAX
        );
        return Err(ParseError::new("batch.body", problem).exceeding(Excess::BatchBytes));
    }
    let body_crc = crc32c::crc32c(&message.body);
    if i64::from(body_crc) != message.body_crc32c {
        return Err(ParseError::new(
            "batch.body_crc32c",
            "does not match the body",
        ));
    }
    let (sweeps, body) = Body::read(&message.body)
        .map_err(|error| ParseError::new("batch.body", error.to_string()))?;
    let within = |error: ParseError| error.within("batch.body");
    at_most(
        "batch.body.domain_facts",
        body.domain_facts.len(),
        limits::ITEMS_PER_BATCH_MAX,
    )?;
    at_most(
        "batch.body.device_facts",
        body.device_facts.len(),
        limits::ITEMS_PER_BATCH_MAX,
    )?;
    at_most(
        "batch.body.events",
        body.events.len(),
        limits::ITEMS_PER_BATCH_MAX,
    )?;
    let mut facts = Vec::new();
    if let Some(node) = body.node_facts {
        facts.push(inventory::node_facts(node).map_err(within)?);
    }
    for domain in body.domain_facts {
        facts.push(inventory::domain_facts(table.node, domain).map_err(within)?);
    }
    for device in body.device_facts {
        facts.push(inventory::device_facts(table.node, device).map_err(within)?);
    }
    let events = body
        .events
        .into_iter()
        .map(|event| inventory::event(table.node, event).map_err(within))
        .collect::<Result<_, _>>()?;
    Ok(Batch {
        node: table.node,
        session: table.session,
        sequence,
        made: timestamp("batch.body.made_time", body.made_time.as_ref())?,
        body_crc,
        rows: sweep::all(table, &sweeps).map_err(within)?,
        facts,
        events,
    })
}

/// Reads a session that was acknowledged to its end: its id and its last sequence number.
pub fn finished(message: &v1::FinishedSession) -> Result<(SessionId, u64), ParseError> {
    let session = session_id("hello.finished_sessions.session_id", &message.session_id)?;
    let last = "hello.finished_sessions.last_sequence";
    Ok((session, sequence(last, message.last_sequence)?))
}

/// Reads a gap of a node.
pub fn gap(node: NodeId, now: UnixMillis, message: &v1::Gap) -> Result<SampleGap, ParseError> {
    let first_sequence = sequence("gap.first_sequence", message.first_sequence)?;
    let last_sequence = sequence("gap.last_sequence", message.last_sequence)?;
    if last_sequence < first_sequence {
        return Err(ParseError::new(
            "gap.last_sequence",
            "lies before first_sequence",
        ));
    }
    let reason = match message.reason() {
        v1::GapReason::Unspecified => {
            return Err(ParseError::new("gap.reason", "is missing or not known"));
        }
        v1::GapReason::SpoolFull => GapReason::SpoolFull,
        v1::GapReason::Corrupt => GapReason::Corrupt,
        v1::GapReason::ServerRollback => GapReason::ServerRollback,
        v1::GapReason::AgentCrash => GapReason::AgentCrash,
        v1::GapReason::Rejected => GapReason::Rejected,
    };
    Ok(SampleGap {
        node,
        session: session_id("gap.session_id", &message.session_id)?,
        first_sequence,
        last_sequence,
        reading_count: unsigned_opt("gap.reading_count", message.reading_count)?,
        declared: now,
        reason,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_with_sweeps_unread_is_the_same_body() {
        let sweep = v1::Sweep {
            end_time_ms: 5,
            width_ms: 6,
            index_deltas: vec![7, -1],
            values: vec![8, 9],
        };
        let whole = v1::BatchBody {
            made_time: Some(prost_types::Timestamp {
                seconds: 1,
                nanos: 2,
            }),
            sweeps: vec![sweep.clone(), sweep.clone()],
            node_facts: Some(v1::NodeFacts::default()),
            domain_facts: vec![v1::DomainFacts::default()],
            events: vec![v1::Event::default(); 3],
            device_facts: vec![v1::PolledFacts::default()],
        };
        let bytes = whole.encode_to_vec();
        let (sweeps, body) = Body::read(&bytes).unwrap();
        assert_eq!(sweeps, vec![sweep.encode_to_vec(); 2]);
        assert_eq!((body.domain_facts.len(), body.events.len()), (1, 3));
        let others = v1::BatchBody {
            sweeps: Vec::new(),
            ..whole
        };
        assert_eq!(
            body.encode_to_vec(),
            others.encode_to_vec(),
            "no field is left out"
        );
        for length in 1..bytes.len() {
            let cut = &bytes[..length];
            let whole = v1::BatchBody::decode(cut);
            assert_eq!(Body::read(cut).is_ok(), whole.is_ok(), "{length} bytes");
        }
    }
}
