//! What is acknowledged is there again, whatever happens to the process or to the bytes.
use std::collections::BTreeMap;
use std::path::Path;

use plimsoll_model::{
    Batch, GapReason, Metric, NodeId, Part, Rows, SampleGap, SeriesKey, SessionId, Subject, Sweep,
    UnixMillis, Window,
};
use plimsoll_store::{
    AppendError, Appended, Document, OpenError, Record, SeriesFilter, Store, StoreOptions, check,
};
use proptest::prelude::*;

struct Sender {
    node: NodeId,
    session: SessionId,
}

impl Sender {
    fn new() -> Self {
        Self {
            node: NodeId::random(),
            session: SessionId::random(),
        }
    }

    fn batch(&self, sequence: u64, value: u64) -> Record {
        let end = UnixMillis::from_millis(i64::try_from(sequence).unwrap() * 10_000);
        Record::Batch(Batch {
            node: self.node,
            session: self.session,
            sequence,
            made: end,
            body_crc: u32::try_from(value).unwrap(),
            rows: Rows::from_iter([Sweep {
                subject: Subject::Node(self.node),
                window: Window { end, width_ms: 1 },
                values: vec![(Metric::HostMemFree, Part::whole(), value)],
            }]),
            facts: Vec::new(),
            events: Vec::new(),
        })
    }

    fn key(&self) -> SeriesKey {
        let (subject, metric) = (Subject::Node(self.node), Metric::HostMemFree);
        SeriesKey {
            subject,
            metric,
            part: Part::whole(),
        }
    }

    fn values(&self, store: &Store) -> Vec<u64> {
        let all = (
            UnixMillis::from_millis(0),
            UnixMillis::from_millis(i64::MAX),
        );
        store
            .range(&self.key(), all.0, all.1)
            .into_iter()
            .map(|(_, value)| value)
            .collect()
    }
}

fn open(dir: &Path) -> Store {
    Store::open(dir, StoreOptions::default()).unwrap().0
}

#[test]
fn a_batch_is_stored_once_in_order_and_a_fork_is_seen() {
    let dir = tempfile::tempdir().unwrap();
    let (store, sender) = (open(dir.path()), Sender::new());
    let records = [
        sender.batch(1, 5),
        sender.batch(2, 6),
        sender.batch(2, 6),
        sender.batch(4, 9),
    ];
    let outcomes = store.append(&records).unwrap();
    let expected = Appended::OutOfOrder { expected: 3 };
    assert_eq!(
        outcomes,
        [
            Appended::Stored,
            Appended::Stored,
            Appended::Duplicate,
            expected
        ]
    );
    assert_eq!(
        store.append(&[sender.batch(2, 7)]).unwrap(),
        [Appended::Forked]
    );
    assert_eq!(sender.values(&store), [5, 6]);
    assert_eq!(store.durable_sequence(sender.node, sender.session), Some(2));
}

#[test]
fn a_gap_takes_the_place_of_what_is_missing() {
    let dir = tempfile::tempdir().unwrap();
    let (store, sender) = (open(dir.path()), Sender::new());
    let gap = SampleGap {
        node: sender.node,
        session: sender.session,
        first_sequence: 1,
        last_sequence: 9,
        reading_count: None,
        declared: UnixMillis::from_millis(7),
        reason: GapReason::SpoolFull,
    };
    assert_eq!(
        store.append(&[Record::Gap(gap.clone())]).unwrap(),
        [Appended::Stored]
    );
    assert_eq!(
        store.append(&[Record::Gap(gap.clone())]).unwrap(),
        [Appended::Duplicate]
    );
    assert_eq!(
        store.append(&[sender.batch(10, 1)]).unwrap(),
        [Appended::Stored]
    );
    drop(store);
    assert_eq!(open(dir.path()).gaps(sender.node), [gap]);
}

#[test]
fn a_second_process_is_kept_out() {
    let dir = tempfile::tempdir().unwrap();
    let _store = open(dir.path());
    let error = Store::open(dir.path(), StoreOptions::default()).unwrap_err();
    assert!(matches!(error, OpenError::Locked { .. }), "{error}");
}

#[test]
fn a_counter_that_went_down_has_no_rate() {
    let dir = tempfile::tempdir().unwrap();
    let (store, sender) = (open(dir.path()), Sender::new());
    for (sequence, value) in [(1, 100), (2, 150), (3, 20), (4, 40)] {
        store.append(&[sender.batch(sequence, value)]).unwrap();
    }
    let all = (
        UnixMillis::from_millis(0),
        UnixMillis::from_millis(i64::MAX),
    );
    let rates = store.rate(&sender.key(), all.0, all.1);
    assert_eq!(
        rates.iter().map(|rate| rate.increase).collect::<Vec<_>>(),
        [50, 20]
    );
}

#[test]
fn a_document_is_replaced_by_a_later_one_and_survives() {
    let dir = tempfile::tempdir().unwrap();
    let document = |payload: &[u8]| Document {
        kind: 1,
        key: b"k".to_vec(),
        time: UnixMillis::from_millis(1),
        payload: payload.to_vec(),
    };
    let store = open(dir.path());
    store.put_document(document(b"old")).unwrap();
    store.put_document(document(b"new")).unwrap();
    let large = Document {
        payload: vec![0; Document::PAYLOAD_BYTES_MAX + 1],
        ..document(b"")
    };
    assert!(matches!(
        store.put_document(large),
        Err(AppendError::Unfit { .. })
    ));
    drop(store);
    assert_eq!(open(dir.path()).documents(1), [document(b"new")]);
}

#[test]
fn every_prefix_of_a_log_gives_its_whole_batches_and_a_flip_is_seen() {
    let origin = tempfile::tempdir().unwrap();
    let sender = Sender::new();
    let mut ends = vec![];
    let store = open(origin.path());
    let log = origin.path().join("log").join("0000000000000001.log");
    for sequence in 1..=6 {
        store.append(&[sender.batch(sequence, sequence)]).unwrap();
        ends.push(std::fs::metadata(&log).unwrap().len());
    }
    drop(store);
    let bytes = std::fs::read(&log).unwrap();
    for cut in 40..bytes.len() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("log")).unwrap();
        let copy = dir.path().join("log").join("0000000000000001.log");
        std::fs::write(&copy, &bytes[..cut]).unwrap();
        let whole = ends.iter().filter(|end| **end <= cut as u64).count();
        let store = open(dir.path());
        assert_eq!(sender.values(&store).len(), whole, "cut at {cut}");
        let next = whole as u64 + 1;
        assert_eq!(
            store.append(&[sender.batch(next, next)]).unwrap(),
            [Appended::Stored]
        );
        drop(store);
        assert_eq!(
            sender.values(&open(dir.path())).len(),
            whole + 1,
            "appended after {cut}"
        );

        let mut flipped = bytes.clone();
        flipped[cut] ^= 0x10;
        std::fs::write(&copy, &flipped).unwrap();
        let report = check(dir.path()).unwrap();
        assert_eq!(report.holes.len(), 1, "flip at {cut} was not seen");
    }
}

#[test]
fn a_segment_of_a_later_release_is_named_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path()));
    let log = dir.path().join("log").join("0000000000000001.log");
    let mut bytes = std::fs::read(&log).unwrap();
    bytes[8] = 9;
    let check = crc32c::crc32c(&bytes[..36]);
    bytes[36..40].copy_from_slice(&check.to_le_bytes());
    std::fs::write(&log, &bytes).unwrap();
    let error = Store::open(dir.path(), StoreOptions::default()).unwrap_err();
    assert!(
        matches!(error, OpenError::Newer { found: 9, .. }),
        "{error}"
    );
    assert_eq!(std::fs::read(&log).unwrap(), bytes);
}

#[test]
fn retention_forgets_old_samples_and_keeps_new_ones() {
    let dir = tempfile::tempdir().unwrap();
    let options = StoreOptions {
        retention: Some(std::time::Duration::from_secs(15)),
        ..StoreOptions::default()
    };
    let (store, _) = Store::open(dir.path(), options).unwrap();
    let sender = Sender::new();
    for sequence in 1..=4 {
        store.append(&[sender.batch(sequence, sequence)]).unwrap();
    }
    store.maintain(UnixMillis::from_millis(40_000)).unwrap();
    assert_eq!(sender.values(&store), [3, 4]);
    assert_eq!(store.series(&SeriesFilter::default()), [sender.key()]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn it_answers_like_a_map_through_any_number_of_reopenings(
        steps in proptest::collection::vec((0_u64..6, 0_u64..1000, 0_u8..6), 1..40),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let options = StoreOptions {
            segment_bytes: 300,
            partition: std::time::Duration::from_secs(30),
            ..StoreOptions::default()
        };
        let mut store = Store::open(dir.path(), options.clone()).unwrap().0;
        let sender = Sender::new();
        let mut model: BTreeMap<u64, u64> = BTreeMap::new();
        for (sequence, value, between) in steps {
            let expected = model.len() as u64 + 1;
            let outcome = store.append(&[sender.batch(sequence.max(1) + expected / 2, value)]).unwrap();
            let sequence = sequence.max(1) + expected / 2;
            match outcome[0] {
                Appended::Stored => {
                    prop_assert_eq!(sequence, expected);
                    model.insert(sequence, value);
                }
                Appended::OutOfOrder { expected: told } => {
                    prop_assert!(sequence > expected && told == expected);
                }
                Appended::Duplicate => prop_assert_eq!(model.get(&sequence), Some(&value)),
                Appended::Forked => prop_assert_ne!(model.get(&sequence), Some(&value)),
            }
            match between {
                0 => {
                    drop(store);
                    store = Store::open(dir.path(), options.clone()).unwrap().0;
                }
                1 => drop(store.seal().unwrap()),
                2 => drop(store.maintain(UnixMillis::from_millis(0)).unwrap()),
                _ => {}
            }
            let values: Vec<u64> = model.values().copied().collect();
            prop_assert_eq!(sender.values(&store), values);
        }
    }
}

#[test]
fn a_whole_frame_that_is_not_understood_stops_the_store_and_is_not_cut_off() {
    let dir = tempfile::tempdir().unwrap();
    let (store, sender) = (open(dir.path()), Sender::new());
    store.append(&[sender.batch(1, 5)]).unwrap();
    drop(store);
    let log = dir.path().join("log").join("0000000000000001.log");
    let mut bytes = std::fs::read(&log).unwrap();
    let later = [250_u8, 1, 2, 3];
    let head = [4, crc32c::crc32c(&later), 0]
        .map(u32::to_le_bytes)
        .concat();
    let check = crc32c::crc32c(&[1_u64.to_le_bytes().as_slice(), &head].concat());
    bytes.extend(head);
    bytes.extend(check.to_le_bytes());
    bytes.extend(later);
    std::fs::write(&log, &bytes).unwrap();
    let error = Store::open(dir.path(), StoreOptions::default()).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("start the release that wrote it"),
        "{error}"
    );
    assert_eq!(std::fs::read(&log).unwrap(), bytes);
}
