//! Every limit of the wire, one below it, at it, and one beyond.
#![expect(
    clippy::unwrap_used,
    reason = "a test ends where its parts are not what they must be"
)]

use plimsoll_model::{NodeId, SessionId};
use plimsoll_proto::parse::{self, Excess, ParseError, SeriesTable};
use plimsoll_proto::{limits, v1};
use prost::Message as _;

const SESSION: [u8; 16] = [7; 16];

fn table() -> SeriesTable {
    SeriesTable::new(NodeId::random(), SessionId::from_slice(&SESSION).unwrap())
}

fn now() -> Option<prost_types::Timestamp> {
    Some(prost_types::Timestamp {
        seconds: 1_795_000_000,
        nanos: 0,
    })
}

/// Holds a reader to a limit: it takes one less and as many, refuses one more, and says which limit that is.
fn held(
    (what, excess): (&str, Excess),
    max: usize,
    read: impl Fn(usize) -> Result<(), ParseError>,
) {
    for count in [max - 1, max] {
        assert_eq!(read(count), Ok(()), "{what}: {count}");
    }
    let refusal = read(max + 1).expect_err(what);
    assert_eq!(refusal.excess, Some(excess), "{what}: {refusal}");
}

fn int(count: usize) -> i32 {
    i32::try_from(count).unwrap()
}

fn declared(table: &mut SeriesTable, numbers: std::ops::Range<usize>) -> Result<(), ParseError> {
    // Node 0 of a thousand and more, so that no two are the same series.
    let series = |number: usize| v1::SeriesDeclaration {
        index: int(number),
        metric_code: 1,
        part: number.to_string(),
        ..v1::SeriesDeclaration::default()
    };
    table.declare(v1::SeriesDeclarations {
        session_id: SESSION.to_vec(),
        series: numbers.map(series).collect(),
    })
}

fn read(table: &mut SeriesTable, body: &v1::BatchBody) -> Result<(), ParseError> {
    read_bytes(table, body.encode_to_vec())
}

fn read_bytes(table: &mut SeriesTable, body: Vec<u8>) -> Result<(), ParseError> {
    let message = v1::Batch {
        session_id: SESSION.to_vec(),
        sequence: 1,
        body_crc32c: i64::from(crc32c::crc32c(&body)),
        body: body.into(),
    };
    parse::batch(table, &message).map(drop)
}

fn body() -> v1::BatchBody {
    v1::BatchBody {
        made_time: now(),
        ..v1::BatchBody::default()
    }
}

#[test]
fn a_session_has_so_many_series() {
    // Numbers begin at 0.
    held(
        ("series", Excess::Series),
        limits::SERIES_PER_SESSION_MAX,
        |count| declared(&mut table(), count - 1..count),
    );
}

#[test]
fn a_batch_has_so_many_readings() {
    let sweep = |count: usize| v1::Sweep {
        end_time_ms: 1_795_000_000_000,
        width_ms: 10_000,
        index_deltas: (0..count).map(|place| int(place.min(1))).collect(),
        values: vec![1; count],
    };
    held(
        ("readings", Excess::Readings),
        limits::READINGS_PER_BATCH_MAX,
        |count| {
            let mut table = table();
            declared(&mut table, 0..limits::SERIES_PER_SESSION_MAX).unwrap();
            // In two sweeps: it is the sum that counts.
            let sweeps = vec![sweep(count - 10_000), sweep(10_000)];
            read(&mut table, &v1::BatchBody { sweeps, ..body() })
        },
    );
}

#[test]
fn a_batch_has_so_many_bytes() {
    held(
        ("bytes", Excess::BatchBytes),
        limits::BATCH_BODY_BYTES_MAX,
        |count| {
            let mut bytes = body().encode_to_vec();
            // A field of a later release, as long as it must be: tag, length, bytes.
            prost::encoding::encode_key(
                100,
                prost::encoding::WireType::LengthDelimited,
                &mut bytes,
            );
            let rest = count - bytes.len() - 3;
            prost::encoding::encode_varint(u64::try_from(rest).unwrap(), &mut bytes);
            bytes.resize(count, 0);
            read_bytes(&mut table(), bytes)
        },
    );
}

fn guest() -> v1::DomainFacts {
    v1::DomainFacts {
        seen_time: now(),
        domain_id: vec![9; 16],
        incarnation: Some(v1::Incarnation {
            boot_id: vec![3; 16],
            started_ms: 5,
        }),
        name: "web".to_owned(),
        ..v1::DomainFacts::default()
    }
}

#[test]
fn lists_of_a_batch_have_so_many_items() {
    held(
        ("domains", Excess::Items),
        limits::ITEMS_PER_BATCH_MAX,
        |count| {
            let domain_facts = vec![guest(); count];
            read(
                &mut table(),
                &v1::BatchBody {
                    domain_facts,
                    ..body()
                },
            )
        },
    );
    let disk = v1::DiskFacts {
        target: "vda".to_owned(),
        ..v1::DiskFacts::default()
    };
    held(("disks", Excess::Items), limits::PARTS_MAX, |count| {
        let disks = vec![disk.clone(); count];
        let domain_facts = vec![v1::DomainFacts { disks, ..guest() }];
        read(
            &mut table(),
            &v1::BatchBody {
                domain_facts,
                ..body()
            },
        )
    });
    held(("flags", Excess::Items), limits::CPU_FLAGS_MAX, |count| {
        let node_facts = Some(v1::NodeFacts {
            seen_time: now(),
            cpu_flags: vec!["aes".to_owned(); count],
            ..v1::NodeFacts::default()
        });
        read(
            &mut table(),
            &v1::BatchBody {
                node_facts,
                ..body()
            },
        )
    });
}

#[test]
fn texts_have_so_many_bytes() {
    held(("name", Excess::Text), limits::NAME_BYTES_MAX, |count| {
        let name = "a".repeat(count);
        let domain_facts = vec![v1::DomainFacts { name, ..guest() }];
        read(
            &mut table(),
            &v1::BatchBody {
                domain_facts,
                ..body()
            },
        )
    });
    held(
        ("source", Excess::Text),
        limits::SOURCE_BYTES_MAX,
        |count| {
            let disks = vec![v1::DiskFacts {
                target: "vda".to_owned(),
                source: Some("a".repeat(count)),
                ..v1::DiskFacts::default()
            }];
            let domain_facts = vec![v1::DomainFacts { disks, ..guest() }];
            read(
                &mut table(),
                &v1::BatchBody {
                    domain_facts,
                    ..body()
                },
            )
        },
    );
    held(
        ("description", Excess::Text),
        limits::DESCRIPTION_BYTES_MAX,
        |count| {
            let device_facts = vec![v1::PolledFacts {
                seen_time: now(),
                device_id: vec![4; 16],
                name: "switch-1".to_owned(),
                address: "192.0.2.1:161".to_owned(),
                profile: "switch".to_owned(),
                interval: Some(prost_types::Duration {
                    seconds: 30,
                    nanos: 0,
                }),
                description: Some("a".repeat(count)),
                ..v1::PolledFacts::default()
            }];
            read(
                &mut table(),
                &v1::BatchBody {
                    device_facts,
                    ..body()
                },
            )
        },
    );
}
