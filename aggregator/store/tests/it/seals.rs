//! What is sealed answers like what is not.

use std::time::Duration;

use plimsoll_model::{GapReason, Row, Rows, SampleGap, UnixMillis, Window};
use plimsoll_store::{Appended, EventFilter, Record, Store, StoreOptions, check, rebuild_index};
use proptest::prelude::*;

use crate::scene::{ALWAYS, Agent, Answers, at, files, open, small};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn it_answers_like_a_map_through_seals_merges_late_samples_and_reopenings(
        steps in proptest::collection::vec((0_u8..10, 0_u64..900, any::<u32>()), 1..60),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let mut store = open(dir.path());
        let mut agents = [Agent::number(1), Agent::number(2)];
        let mut now = 1_000;
        for (action, seconds, value) in steps {
            let agent = &mut agents[usize::from(action % 2)];
            match action {
                0 | 1 => drop(store.seal().unwrap()),
                2 => {
                    drop(store);
                    store = open(dir.path());
                }
                3 => drop(store.maintain(at(now + 10_000)).unwrap()),
                // Late, and sometimes in a window that is there already.
                4 => agent.tell(&store, now - seconds / 30 * 30, u64::from(value)),
                _ => {
                    now += 7 + seconds % 40;
                    agent.tell(&store, now, u64::from(value));
                }
            }
            for agent in agents.iter().filter(|agent| agent.sequence > 0) {
                agent.agrees(&store);
            }
        }
        drop(store);
        prop_assert_eq!(check(dir.path()).unwrap().holes, []);
    }
}

fn lived(dir: &std::path::Path) -> (Store, Vec<Agent>) {
    let store = open(dir);
    let mut agents = vec![Agent::number(1), Agent::number(2), Agent::number(3)];
    for round in 0..30_u64 {
        for agent in &mut agents {
            if round % 7 == 0 {
                agent.tell_more(&store, 1_000 + round * 10);
            } else {
                agent.tell(&store, 1_000 + round * 10, round * round);
            }
        }
        if round % 12 == 11 {
            store.seal().unwrap();
        }
    }
    (store, agents)
}

#[test]
fn what_is_sealed_leaves_the_log_and_nothing_is_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    let (store, mut agents) = lived(dir.path());
    let before = Answers::of(&store);
    let segments = files(&dir.path().join("log")).len();
    assert!(store.seal().unwrap() > 0);
    assert_eq!(store.seal().unwrap(), 0, "nothing was left to seal");
    assert!(segments > 1 && files(&dir.path().join("log")).len() == 1);
    assert_eq!(Answers::of(&store), before);
    drop(store);
    let (store, report) = Store::open(dir.path(), small()).unwrap();
    assert_eq!(
        (report.frames, report.index_rebuilt),
        (0, false),
        "{report:?}"
    );
    assert_eq!(Answers::of(&store), before);
    // The state of sessions survived too: a repeat, a fork and the next one are told apart.
    let agent = &mut agents[0];
    agent.sequence -= 1;
    let repeat = agent.batch(1_290, 0);
    let mut fork = repeat.clone();
    fork.body_crc += 1;
    let next = agent.batch(1_300, 0);
    let records = [repeat, fork, next].map(Record::Batch);
    let outcomes = [Appended::Duplicate, Appended::Forked, Appended::Stored];
    assert_eq!(store.append(&records).unwrap(), outcomes);
}

#[test]
fn many_small_files_become_few_and_answer_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let (store, mut agents) = lived(dir.path());
    for round in 0..12 {
        agents[0].tell_more(&store, 1_005 + round * 10);
        store.seal().unwrap();
    }
    let before = Answers::of(&store);
    let count = files(dir.path()).len();
    let upkeep = store.maintain(at(100_000)).unwrap();
    assert!(upkeep.merged_files > 8, "{upkeep:?}");
    assert!(files(dir.path()).len() < count);
    assert_eq!(Answers::of(&store), before);
    drop(store);
    assert_eq!(Answers::of(&open(dir.path())), before);
    assert_eq!(check(dir.path()).unwrap().holes, []);
}

#[test]
fn retention_removes_whole_partitions_and_keeps_events() {
    let dir = tempfile::tempdir().unwrap();
    drop(lived(dir.path()));
    let options = StoreOptions {
        retention: Some(Duration::from_secs(150)),
        ..small()
    };
    let (store, _) = Store::open(dir.path(), options).unwrap();
    store.seal().unwrap();
    let events = store.events(ALWAYS.0, ALWAYS.1, &EventFilter::default());
    let blocks = || files(&dir.path().join("blocks")).len();
    let before = blocks();
    let upkeep = store.maintain(at(1_290)).unwrap();
    assert!(upkeep.expired_files > 0 && blocks() < before, "{upkeep:?}");
    for samples in store.series(&plimsoll_store::SeriesFilter::default()) {
        let left = store.range(&samples, ALWAYS.0, ALWAYS.1);
        assert!(left.iter().all(|(window, _)| window.end >= at(1_140)));
        assert!(left.len() >= 10, "{samples:?} {}", left.len());
    }
    store.maintain(at(1_000_000)).unwrap();
    assert_eq!(blocks(), 0);
    assert_eq!(store.series(&plimsoll_store::SeriesFilter::default()), []);
    assert_eq!(
        store.events(ALWAYS.0, ALWAYS.1, &EventFilter::default()),
        events
    );
    assert_eq!(events.len(), 15);
}

#[test]
fn too_many_bytes_push_out_the_oldest_partition() {
    let dir = tempfile::tempdir().unwrap();
    drop(lived(dir.path()));
    let options = StoreOptions {
        retention_bytes: Some(1),
        ..small()
    };
    let (store, _) = Store::open(dir.path(), options).unwrap();
    store.seal().unwrap();
    store.maintain(at(1_290)).unwrap();
    let mut ends = Vec::new();
    for key in store.series(&plimsoll_store::SeriesFilter::default()) {
        ends.extend(
            store
                .range(&key, ALWAYS.0, ALWAYS.1)
                .iter()
                .map(|(window, _)| window.end),
        );
    }
    assert_eq!(
        ends.iter().min(),
        Some(&at(1_200)),
        "the newest partition always stays"
    );
    assert_eq!(ends.iter().max(), Some(&at(1_290)));
}

#[test]
fn memory_is_bounded_by_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let options = StoreOptions {
        head_bytes: 4_000,
        ..small()
    };
    let (store, _) = Store::open(dir.path(), options).unwrap();
    let mut agent = Agent::number(1);
    let refused = (0..1_000).any(|round| {
        let batch = agent.batch(1_000 + round, round);
        store.append(&[Record::Batch(batch)]).is_err()
    });
    assert!(refused, "memory grew without end");
    agent.sequence -= 1;
    assert!(store.maintain(at(1_000)).unwrap().sealed_samples > 0);
    let batch = agent.batch(3_000, 1);
    assert_eq!(
        store.append(&[Record::Batch(batch)]).unwrap(),
        [Appended::Stored]
    );
}

#[test]
fn an_index_that_is_gone_cut_or_flipped_changes_no_answer() {
    let origin = tempfile::tempdir().unwrap();
    let (store, _) = lived(origin.path());
    store.seal().unwrap();
    let before = Answers::of(&store);
    assert!(store.index_is_on_disk());
    drop(store);
    let index = origin.path().join("index");
    let whole: Vec<_> = files(&index);
    assert!(!whole.is_empty());
    let reopened = |what: &str| {
        let (store, _) = Store::open(origin.path(), small()).unwrap();
        assert_eq!(Answers::of(&store), before, "{what}");
        assert!(store.index_is_on_disk(), "{what}");
        assert_eq!(store.holes(), []);
    };
    for number in 0..whole.len() {
        let damage: [crate::Damage<'_>; 4] = [
            ("cut", &|bytes| bytes.truncate(bytes.len() / 2)),
            ("emptied", &|bytes| bytes.clear()),
            ("flipped", &|bytes| {
                bytes.iter_mut().step_by(97).for_each(|byte| *byte ^= 0x20)
            }),
            ("zeroed", &|bytes| {
                bytes.iter_mut().take(4_096).for_each(|byte| *byte = 0)
            }),
        ];
        for (how, damage) in damage {
            let path = files(&index).swap_remove(number.min(files(&index).len() - 1));
            let mut bytes = std::fs::read(&path).unwrap();
            damage(&mut bytes);
            std::fs::write(&path, &bytes).unwrap();
            reopened(&format!("{} {how}", path.display()));
        }
    }
    std::fs::remove_dir_all(&index).unwrap();
    reopened("removed");
    std::fs::remove_dir_all(&index).unwrap();
    std::fs::write(&index, "no directory").unwrap();
    let (store, _) = Store::open(origin.path(), small()).unwrap();
    assert_eq!(Answers::of(&store), before);
    assert!(
        !store.index_is_on_disk(),
        "where it cannot be made, it lives in memory"
    );
    drop(store);
    std::fs::remove_file(&index).unwrap();
    assert!(rebuild_index(origin.path()).unwrap().index_rebuilt);
    reopened("made anew");
}

#[test]
fn a_gap_is_clipped_at_what_is_durable_and_may_end_where_numbers_end() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let mut agent = Agent::number(1);
    for round in 0..5 {
        agent.tell(&store, 1_000 + round, 1);
    }
    let gap = |first_sequence, last_sequence| SampleGap {
        node: agent.node,
        session: agent.session,
        first_sequence,
        last_sequence,
        reading_count: Some(40),
        declared: at(2_000),
        reason: GapReason::SpoolFull,
    };
    let append = |gap| store.append(&[Record::Gap(gap)]).unwrap();
    assert_eq!(append(gap(3, 8)), [Appended::Stored]);
    assert_eq!(append(gap(9, u64::MAX)), [Appended::Stored]);
    assert_eq!(append(gap(9, u64::MAX)), [Appended::Duplicate]);
    agent.sequence = u64::MAX - 1;
    let last = agent.batch(2_001, 1);
    assert_eq!(
        store.append(&[Record::Batch(last)]).unwrap(),
        [Appended::Duplicate]
    );
    drop(store);
    let store = open(dir.path());
    let stored = store.gaps(agent.node);
    let spans = stored
        .iter()
        .map(|gap| (gap.first_sequence, gap.last_sequence, gap.reading_count));
    assert_eq!(
        spans.collect::<Vec<_>>(),
        [(6, 8, None), (9, u64::MAX, Some(40))]
    );
    assert_eq!(
        store.durable_sequence(agent.node, agent.session),
        Some(u64::MAX)
    );
}

#[test]
fn samples_at_both_ends_of_time_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let mut agent = Agent::number(1);
    let mut batch = agent.batch(1, 1);
    agent.model.clear();
    let first = batch.rows.iter().next().unwrap();
    let columns = first.columns.iter().take(1).cloned().collect();
    let mut rows = Rows::default();
    for (number, end) in [i64::MIN, -1, 0, i64::MAX].into_iter().enumerate() {
        let end = UnixMillis::from_millis(end);
        rows.push(Row {
            subject: first.subject,
            window: Window {
                end,
                ..first.window
            },
            columns: &columns,
            values: &[number as u64],
        });
    }
    batch.rows = rows;
    store.append(&[Record::Batch(batch)]).unwrap();
    store.seal().unwrap();
    drop(store);
    let store = open(dir.path());
    let keys = store.series(&plimsoll_store::SeriesFilter::default());
    let values = store.range(&keys[0], ALWAYS.0, ALWAYS.1);
    assert_eq!(
        values.iter().map(|(_, value)| *value).collect::<Vec<_>>(),
        [0, 1, 2, 3]
    );
}

#[test]
fn too_many_bytes_of_events_push_out_the_oldest_and_what_counts_stays() {
    let dir = tempfile::tempdir().unwrap();
    drop(lived(dir.path()));
    let bytes = || -> u64 {
        let events = files(&dir.path().join("events"));
        events
            .iter()
            .map(|path| path.metadata().unwrap().len())
            .sum()
    };
    let store = open(dir.path());
    store.seal().unwrap();
    let before = Answers::of(&store);
    let all = store.events(ALWAYS.0, ALWAYS.1, &EventFilter::default());
    drop(store);
    let most = bytes() * 3 / 4;
    let options = StoreOptions {
        events_bytes: Some(most),
        ..small()
    };
    let (store, _) = Store::open(dir.path(), options.clone()).unwrap();
    store.maintain(at(1_290)).unwrap();
    assert!(bytes() <= most, "{} > {most}", bytes());
    let left = store.events(ALWAYS.0, ALWAYS.1, &EventFilter::default());
    assert!(!left.is_empty() && left.len() < all.len());
    assert_eq!(left, all[all.len() - left.len()..], "the oldest went");
    let nodes: Vec<_> = store.nodes().iter().map(|seen| seen.node).collect();
    for node in nodes {
        assert!(store.latest_facts(node).is_some());
        let agent = Agent::number(node.as_bytes()[0]);
        assert_eq!(store.durable_sequence(node, agent.session), Some(30));
    }
    // Where nothing more can go, it is not written again and again.
    let count = files(&dir.path().join("events"));
    store.maintain(at(1_295)).unwrap();
    assert_eq!(files(&dir.path().join("events")), count);
    assert_eq!(Answers::of(&store).sample_count(), before.sample_count());
}
