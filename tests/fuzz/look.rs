//! What every fuzzer does with its bytes, and a test with their corpora.

use plimsoll_agent::outside as agent;
use plimsoll_aggregator::outside as aggregator;
use plimsoll_model::{NodeId, SessionId};
use plimsoll_proto::parse::{self, SeriesTable};
use plimsoll_proto::v1::{self, ingest_request::Frame};
use prost::Message as _;

/// What reads some bytes, and tells how much it made of them.
pub(crate) type Look = fn(&[u8]) -> usize;

/// The targets, by the name of their corpus.
pub(crate) const TARGETS: [(&str, Look); 9] = [
    ("frame", frames),
    ("xml", |bytes| agent::take(agent::Kind::Xml, bytes)),
    ("typed", |bytes| {
        agent::take(agent::Kind::TypedParams, bytes)
    }),
    ("proc", |bytes| agent::take(agent::Kind::Proc, bytes)),
    ("agent-config", |bytes| {
        agent::take(agent::Kind::Config, bytes)
    }),
    ("aggregator-config", |bytes| {
        aggregator::take(aggregator::Kind::Config, bytes)
    }),
    ("question", |bytes| {
        aggregator::take(aggregator::Kind::Question, bytes)
    }),
    ("certificate", |bytes| {
        aggregator::take(aggregator::Kind::Certificate, bytes)
    }),
    ("name", |bytes| {
        aggregator::take(aggregator::Kind::Name, bytes)
    }),
];

/// Takes bytes for the frames of one stream, each behind its length, as an aggregator hears them.
fn frames(mut bytes: &[u8]) -> usize {
    let node = NodeId::from_slice(&[7; 16]).unwrap();
    let mut table = SeriesTable::new(node, SessionId::from_slice(&[7; 16]).unwrap());
    let mut made = 0;
    while let Ok(request) = v1::IngestRequest::decode_length_delimited(&mut bytes) {
        let read = match request.frame {
            Some(Frame::Declarations(message)) => table.declare(message).is_ok(),
            Some(Frame::Snapshot(message)) => parse::rows(&mut table, &message.sweeps).is_ok(),
            Some(Frame::Gap(message)) => {
                let now = plimsoll_model::UnixMillis::from_millis(1);
                parse::gap(node, now, &message).is_ok()
            }
            Some(Frame::Batch(mut message)) => {
                // No mutation gets the checksum right; behind it lies what is looked for.
                message.body_crc32c = i64::from(crc32c::crc32c(&message.body));
                match parse::batch(&mut table, &message) {
                    Ok(batch) => {
                        assert_eq!(batch.node, node, "a node speaks for itself only");
                        for row in batch.rows.iter() {
                            assert_eq!(row.subject.node(), node);
                        }
                        true
                    }
                    Err(_) => false,
                }
            }
            Some(Frame::Hello(message)) => {
                parse::session_id("hello.session_id", &message.session_id).is_ok()
            }
            None => false,
        };
        made += usize::from(read);
        if bytes.is_empty() {
            break;
        }
    }
    made
}
