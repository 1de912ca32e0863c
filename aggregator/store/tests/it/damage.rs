//! What is damaged is seen, costs no more than it must, and never passes for a value.

use std::collections::HashSet;
use std::path::Path;

use plimsoll_store::{OpenError, Store, check};

use crate::scene::{ALWAYS, Agent, Answers, copy, files, open, small};

fn told(dir: &Path, rounds: u64) -> Agent {
    let store = open(dir);
    let mut agent = Agent::number(1);
    for round in 0..rounds {
        agent.tell(&store, 1_000 + round * 10, round * round * 1_000);
    }
    agent
}

/// Asserts that all samples left are true ones, and returns how many there are.
fn none_is_wrong(store: &Store, agent: &Agent) -> usize {
    let mut left = 0;
    for (key, samples) in &agent.model {
        let found = store.range(key, ALWAYS.0, ALWAYS.1);
        assert!(
            found
                .iter()
                .all(|(window, value)| samples.get(window) == Some(value))
        );
        left += found.len();
    }
    left
}

#[test]
fn every_flipped_byte_of_sealed_files_is_seen_and_costs_one_block_at_most() {
    let origin = tempfile::tempdir().unwrap();
    let agent = told(origin.path(), 60);
    open(origin.path()).seal().unwrap();
    let whole = none_is_wrong(&open(origin.path()), &agent);
    let dir = tempfile::tempdir().unwrap();
    copy(origin.path(), dir.path());
    let mut sealed = files(&dir.path().join("blocks"));
    assert!(sealed.len() > 3);
    sealed.truncate(2);
    sealed.extend(files(&dir.path().join("events")));
    let mut costs = HashSet::new();
    for path in sealed {
        let bytes = std::fs::read(&path).unwrap();
        for place in 0..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[place] ^= 1 << (place % 8);
            std::fs::write(&path, &flipped).unwrap();
            let report = check(dir.path()).unwrap();
            assert!(!report.holes.is_empty(), "{} {place}", path.display());
            if place % 16 == 0 {
                let store = open(dir.path());
                let left = none_is_wrong(&store, &agent);
                // A block of ten rows and three columns is the most there is.
                assert!(
                    whole - left <= 30,
                    "{} {place}: {left} of {whole}",
                    path.display()
                );
                costs.insert(whole - left);
                assert!(left == whole || !store.holes().is_empty());
            }
        }
        std::fs::write(&path, &bytes).unwrap();
    }
    assert!(costs.len() > 1, "no flip cost anything: {costs:?}");
}

#[test]
fn every_flipped_byte_of_the_log_is_seen_and_costs_one_frame_at_most() {
    let origin = tempfile::tempdir().unwrap();
    let agent = told(origin.path(), 6);
    let whole = none_is_wrong(&open(origin.path()), &agent);
    let segments = files(&origin.path().join("log"));
    let [segment] = segments.as_slice() else {
        panic!("one segment was expected: {segments:?}");
    };
    let bytes = std::fs::read(segment).unwrap();
    for place in 40..bytes.len() {
        let dir = tempfile::tempdir().unwrap();
        copy(origin.path(), dir.path());
        let mut flipped = bytes.clone();
        flipped[place] ^= 1 << (place % 8);
        let name = segment.strip_prefix(origin.path()).unwrap();
        std::fs::write(dir.path().join(name), &flipped).unwrap();
        assert_eq!(check(dir.path()).unwrap().holes.len(), 1, "{place}");
        let (store, report) = Store::open(dir.path(), small()).unwrap();
        assert!(whole - none_is_wrong(&store, &agent) <= 3, "{place}");
        // The hole is either an explicit gap, or the agent is asked to send again.
        let durable = store.durable_sequence(agent.node, agent.session).unwrap();
        let gaps = store.gaps(agent.node);
        let missing = |gap: &plimsoll_model::SampleGap| gap.first_sequence == gap.last_sequence;
        if durable == agent.sequence {
            assert!(
                gaps.len() == 1 && gaps.iter().all(missing),
                "{place} {gaps:?}"
            );
            assert_eq!((report.holes.len(), report.torn), (1, None));
        } else {
            assert!(durable == agent.sequence - 1 && gaps.is_empty(), "{place}");
            assert!(report.torn.is_some());
        }
    }
}

#[test]
fn a_flipped_manifest_is_read_from_its_copy() {
    let origin = tempfile::tempdir().unwrap();
    let agent = told(origin.path(), 30);
    open(origin.path()).seal().unwrap();
    let whole = Answers::of(&open(origin.path()));
    assert!(whole.sample_count() > 0);
    for name in ["MANIFEST", "MANIFEST.copy"] {
        let path = origin.path().join(name);
        let bytes = std::fs::read(&path).unwrap();
        for place in 0..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[place] ^= 4;
            std::fs::write(&path, &flipped).unwrap();
            assert_eq!(check(origin.path()).unwrap().holes.len(), 1, "{place}");
        }
        agent.agrees(&open(origin.path()));
        std::fs::write(&path, &bytes).unwrap();
    }
    for name in ["MANIFEST", "MANIFEST.copy"] {
        std::fs::write(origin.path().join(name), b"nothing").unwrap();
    }
    let error = Store::open(origin.path(), small()).unwrap_err();
    assert!(
        error.to_string().contains("restore this whole directory"),
        "{error}"
    );
    let holes = check(origin.path()).unwrap().holes;
    assert!(holes[0].path.ends_with("MANIFEST"), "{holes:?}");
}

fn with_segments() -> (tempfile::TempDir, Agent, Vec<std::path::PathBuf>) {
    let dir = tempfile::tempdir().unwrap();
    let agent = told(dir.path(), 40);
    let segments = files(&dir.path().join("log"));
    assert!(segments.len() >= 3, "{segments:?}");
    (dir, agent, segments)
}

#[test]
fn a_missing_segment_is_a_hole_and_a_gap() {
    let (dir, agent, segments) = with_segments();
    std::fs::remove_file(&segments[1]).unwrap();
    assert_eq!(check(dir.path()).unwrap().holes.len(), 1);
    let (store, report) = Store::open(dir.path(), small()).unwrap();
    assert_eq!(report.holes.len(), 1);
    assert_eq!(
        (report.holes[0].path.clone(), report.holes[0].what),
        (segments[1].clone(), "the segment is missing")
    );
    let [gap] = store.gaps(agent.node).try_into().unwrap();
    let missing = gap.last_sequence - gap.first_sequence + 1;
    let left = none_is_wrong(&store, &agent) as u64;
    let all: usize = agent.model.values().map(|samples| samples.len()).sum();
    assert!(missing >= 5 && left < all as u64);
    assert_eq!(
        store.durable_sequence(agent.node, agent.session),
        Some(agent.sequence)
    );
    // Sealed, the gap stays although the log is gone.
    store.seal().unwrap();
    drop(store);
    let (store, report) = Store::open(dir.path(), small()).unwrap();
    assert_eq!(store.gaps(agent.node), [gap]);
    assert_eq!(report.holes, []);
}

#[test]
fn an_earlier_segment_cut_between_two_frames_is_seen_by_its_successor() {
    let (dir, agent, segments) = with_segments();
    let bytes = std::fs::read(&segments[0]).unwrap();
    // All frames of this story but every third have one length; the last is cut off whole.
    let ends: Vec<usize> = {
        let mut ends = vec![40];
        while let Some(head) = bytes
            .get(*ends.last().unwrap()..)
            .filter(|rest| !rest.is_empty())
        {
            let length = u32::from_le_bytes(head[..4].try_into().unwrap()) as usize;
            ends.push(ends.last().unwrap() + 16 + length);
        }
        ends
    };
    std::fs::write(&segments[0], &bytes[..ends[ends.len() - 2]]).unwrap();
    let holes = check(dir.path()).unwrap().holes;
    assert_eq!(holes.len(), 1);
    assert_eq!(
        holes[0].what,
        "the segment does not end as its successor remembers"
    );
    let (store, report) = Store::open(dir.path(), small()).unwrap();
    assert_eq!(report.holes, holes);
    assert_eq!(store.gaps(agent.node).len(), 1);
}

#[test]
fn a_damaged_header_of_a_segment_is_told_and_costs_nothing() {
    let (dir, agent, segments) = with_segments();
    let whole = none_is_wrong(&open(dir.path()), &agent);
    for segment in &segments {
        let bytes = std::fs::read(segment).unwrap();
        for place in 0..40 {
            let mut flipped = bytes.clone();
            flipped[place] ^= 1 << (place % 8);
            std::fs::write(segment, &flipped).unwrap();
            assert_eq!(check(dir.path()).unwrap().holes.len(), 1, "{place}");
            let (store, report) = Store::open(dir.path(), small()).unwrap();
            assert_eq!(report.holes.len(), 1, "{place}");
            assert_eq!(
                (&report.holes[0].path, report.holes[0].offset),
                (segment, 0)
            );
            assert_eq!(none_is_wrong(&store, &agent), whole);
            assert_eq!(store.gaps(agent.node), []);
        }
        std::fs::write(segment, &bytes).unwrap();
    }
}

#[test]
fn a_segment_without_a_header_or_a_whole_frame_is_named_with_its_remedy_and_check_reports_the_rest()
{
    let (dir, agent, segments) = with_segments();
    let mut bytes = std::fs::read(&segments[0]).unwrap();
    bytes[14] ^= 1;
    bytes[60] ^= 1;
    std::fs::write(&segments[0], &bytes).unwrap();
    let mut later = std::fs::read(&segments[1]).unwrap();
    later[60] ^= 1;
    std::fs::write(&segments[1], &later).unwrap();
    let error = Store::open(dir.path(), small()).unwrap_err();
    let OpenError::Corrupt {
        path, offset: 0, ..
    } = &error
    else {
        panic!("{error}");
    };
    assert_eq!(path, &segments[0]);
    assert!(error.to_string().contains("move it away"), "{error}");
    let holes = check(dir.path()).unwrap().holes;
    assert_eq!(
        holes.iter().map(|hole| &hole.path).collect::<Vec<_>>(),
        [&segments[0], &segments[0], &segments[1]]
    );
    // The remedy works.
    std::fs::rename(&segments[0], dir.path().join("away")).unwrap();
    let (store, report) = Store::open(dir.path(), small()).unwrap();
    assert_eq!(report.holes.len(), 2);
    assert!(none_is_wrong(&store, &agent) > 0);
    assert_eq!(
        store.gaps(agent.node).first().map(|gap| gap.first_sequence),
        Some(1)
    );
}
