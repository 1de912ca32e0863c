//! Stories of the spool.

use super::*;

const NOW: UnixMillis = UnixMillis::from_millis(1_000);

fn body(filler: usize, readings: u64) -> Body {
    Body {
        bytes: vec![7; filler],
        numbers: Vec::new(),
        reading_count: readings,
        sweeps: Vec::new(),
    }
}

fn drain(spool: &mut Spool, id: SessionId, durable: u64) -> Vec<(i64, &'static str)> {
    let mut cursor = spool.resume(id, durable).unwrap();
    let mut seen = Vec::new();
    loop {
        let frames = spool.read(id, &mut cursor);
        if frames.is_empty() {
            return seen;
        }
        for frame in frames {
            match frame {
                Frame::Batch(batch) => seen.push((batch.sequence, "batch")),
                Frame::Gap(gap) => {
                    let reason = match gap.reason() {
                        v1::GapReason::SpoolFull => "full",
                        v1::GapReason::Corrupt => "corrupt",
                        v1::GapReason::AgentCrash => "crash",
                        v1::GapReason::Rejected => "rejected",
                        v1::GapReason::ServerRollback => "rollback",
                        v1::GapReason::Unspecified => "?",
                    };
                    seen.extend((gap.first_sequence..=gap.last_sequence).map(|s| (s, reason)));
                }
                Frame::Declarations(_) => {}
            }
        }
    }
}

fn segment_files(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for session in std::fs::read_dir(directory).unwrap() {
        let path = session.unwrap().path();
        for file in std::fs::read_dir(path).into_iter().flatten() {
            let path = file.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "seg") {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

#[test]
fn what_one_run_left_is_sent_by_the_next_run_as_a_session_of_its_own() {
    let directory = tempfile::tempdir().unwrap();
    let mut spool = Spool::open(directory.path(), 64 << 20, NOW);
    let old = spool.current().unwrap();
    for _ in 0..3 {
        spool.push(&body(100, 5));
    }
    drop(spool);

    let mut spool = Spool::open(directory.path(), 64 << 20, UnixMillis::from_millis(2_000));
    assert_eq!(spool.sessions()[0], old);
    assert_ne!(spool.current(), Some(old));
    assert_eq!(drain(&mut spool, old, 1), [(2, "batch"), (3, "batch")]);
    spool.finish(old, NOW);
    assert_eq!(spool.sessions().len(), 1);
    assert!(segment_files(directory.path()).is_empty());
}

#[test]
fn a_full_spool_drops_its_oldest_segment_and_tells_exactly_what_was_lost() {
    let directory = tempfile::tempdir().unwrap();
    let mut spool = Spool::open(directory.path(), 10 << 20, NOW);
    let id = spool.current().unwrap();
    for _ in 0..24 {
        spool.push(&body(512 << 10, 3));
    }
    assert!(spool.disk_bytes() <= 10 << 20);
    let mut cursor = spool.resume(id, 0).unwrap();
    let frames = spool.read(id, &mut cursor);
    let Some(Frame::Gap(gap)) = frames.first() else {
        panic!("no gap: {frames:?}");
    };
    assert_eq!(gap.reason(), v1::GapReason::SpoolFull);
    assert_eq!(gap.reading_count, Some(gap.last_sequence * 3));
    let all: Vec<i64> = drain(&mut spool, id, 0).iter().map(|(s, _)| *s).collect();
    assert_eq!(all, (1..=24).collect::<Vec<_>>());
}

#[test]
fn a_flipped_byte_costs_one_batch_and_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let mut spool = Spool::open(directory.path(), 64 << 20, NOW);
    let id = spool.current().unwrap();
    for _ in 0..4 {
        spool.push(&body(1_000, 5));
    }
    drop(spool);
    let path = segment_files(directory.path()).remove(0);
    let mut bytes = std::fs::read(&path).unwrap();
    let middle = bytes.len() * 3 / 8;
    bytes[middle] ^= 1;
    std::fs::write(&path, &bytes).unwrap();

    let mut spool = Spool::open(directory.path(), 64 << 20, UnixMillis::from_millis(2_000));
    let expected = [(1, "batch"), (2, "corrupt"), (3, "batch"), (4, "batch")];
    assert_eq!(drain(&mut spool, id, 0), expected);
}

#[test]
fn a_torn_tail_is_a_gap_named_after_the_crash_and_never_a_panic() {
    let directory = tempfile::tempdir().unwrap();
    let mut spool = Spool::open(directory.path(), 64 << 20, NOW);
    let id = spool.current().unwrap();
    spool.push(&body(1_000, 5));
    spool.push(&body(1_000, 5));
    drop(spool);
    let path = segment_files(directory.path()).remove(0);
    let whole = std::fs::read(&path).unwrap();
    for cut in [1, 7, 8, 500, whole.len() / 2 - 1] {
        std::fs::write(&path, &whole[..whole.len() - cut]).unwrap();
        for stray in std::fs::read_dir(path.parent().unwrap()).unwrap() {
            let stray = stray.unwrap().path();
            if stray
                .file_name()
                .is_some_and(|name| name == "gaps" || name == "closed")
            {
                std::fs::remove_file(stray).unwrap();
            }
        }
        let mut spool = Spool::open(directory.path(), 64 << 20, UnixMillis::from_millis(2_000));
        assert_eq!(
            drain(&mut spool, id, 0),
            [(1, "batch"), (2, "crash")],
            "cut {cut}"
        );
    }
}

#[test]
fn an_acknowledged_segment_goes_and_a_rollback_of_the_aggregator_becomes_a_gap() {
    let directory = tempfile::tempdir().unwrap();
    let mut spool = Spool::open(directory.path(), 64 << 20, NOW);
    let id = spool.current().unwrap();
    for _ in 0..12 {
        spool.push(&body(1 << 20, 1));
    }
    let before = spool.disk_bytes();
    spool.acknowledge(id, 12);
    assert!(spool.disk_bytes() < before);
    let seen = drain(&mut spool, id, 0);
    assert_eq!(seen[0], (1, "rollback"));
    assert_eq!(seen.len(), 12);
}

#[test]
fn a_refused_batch_is_set_aside_and_the_queue_goes_on() {
    let directory = tempfile::tempdir().unwrap();
    let mut spool = Spool::open(directory.path(), 64 << 20, NOW);
    let id = spool.current().unwrap();
    for _ in 0..3 {
        spool.push(&body(10, 1));
    }
    spool.reject(id, 2);
    assert_eq!(
        drain(&mut spool, id, 0),
        [(1, "batch"), (2, "rejected"), (3, "batch")]
    );
    let aside = directory
        .path()
        .join("quarantine")
        .join(format!("{id}-2.batch"));
    assert_eq!(std::fs::read(aside).unwrap(), vec![7; 10]);
}

#[test]
fn without_a_disk_the_newest_samples_are_kept_in_memory() {
    let directory = tempfile::tempdir().unwrap();
    let blocked = directory.path().join("file");
    std::fs::write(&blocked, b"not a directory").unwrap();
    let mut spool = Spool::open(&blocked, 64 << 20, NOW);
    let id = spool.current().unwrap();
    for _ in 0..80 {
        spool.push(&body(512 << 10, 1));
    }
    let seen = drain(&mut spool, id, 0);
    assert_eq!(seen[0], (1, "full"));
    assert_eq!(*seen.last().unwrap(), (80, "batch"));
    assert_eq!(seen.len(), 80);
}

/// A spool that has no disk and holds so many bytes in memory, if it may; its batches are kept in small segments.
fn without_disk(bytes: u64) -> Spool {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, "no directory").unwrap();
    let mut spool = Spool::open(&file, u64::MAX, NOW);
    let overhead = |spool: &mut Spool, filler: usize| {
        let before = spool.memory_bytes();
        spool.push(&body(filler, 1));
        spool.memory_bytes() - before - u64::try_from(filler).unwrap()
    };
    let filler = 1 << 20;
    let mut each = 0;
    while bytes - spool.memory_bytes() > 3 << 20 {
        each = overhead(&mut spool, filler);
    }
    // Two more of nearly that size, so that what stands beside each takes as many bytes.
    let left = bytes - spool.memory_bytes() - 2 * each;
    let first = usize::try_from(left / 2).unwrap();
    let second = usize::try_from(left).unwrap() - first;
    assert_eq!(overhead(&mut spool, first), each);
    spool.push(&body(second, 1));
    spool
}

#[test]
fn memory_holds_so_many_bytes_where_there_is_no_disk() {
    for bytes in [MEMORY_BYTES_MAX - 1, MEMORY_BYTES_MAX] {
        let spool = without_disk(bytes);
        assert_eq!((spool.memory_bytes(), spool.disk_bytes()), (bytes, 0));
        assert_eq!(spool.met().count(Limit::SpoolMemory), 0);
    }
    let spool = without_disk(MEMORY_BYTES_MAX + 1);
    assert!(
        spool.memory_bytes() < MEMORY_BYTES_MAX,
        "the oldest have gone"
    );
    assert_eq!(spool.met().count(Limit::SpoolMemory), 1);
    assert_eq!(spool.met().count(Limit::SpoolDisk), 0);
}

#[test]
fn so_many_bytes_of_refused_batches_are_set_aside() {
    for (beyond, is_kept) in [(-1, true), (0, true), (1, false)] {
        let dir = tempfile::tempdir().unwrap();
        let mut spool = Spool::open(dir.path(), 64 << 20, NOW);
        let filler = 1_000;
        let sequence = spool.push(&body(filler, 1)).unwrap();
        let aside = dir.path().join("quarantine");
        std::fs::create_dir(&aside).unwrap();
        let held = QUARANTINE_BYTES_MAX - u64::try_from(filler).unwrap();
        let held = held.checked_add_signed(beyond).unwrap();
        let before = std::fs::File::create(aside.join("before")).unwrap();
        before.set_len(held).unwrap();
        let session = spool.current().unwrap();
        spool.reject(session, sequence);
        let batch = aside.join(format!("{session}-{sequence}.batch"));
        assert_eq!(batch.exists(), is_kept, "{beyond}");
        assert_eq!(spool.met().count(Limit::Quarantine), u64::from(!is_kept));
        assert_eq!(drain(&mut spool, session, 0), [(1, "rejected")]);
    }
}

#[test]
fn so_many_earlier_sessions_are_kept_whole_and_of_older_ones_their_gaps() {
    let dir = tempfile::tempdir().unwrap();
    let run = |at: usize| UnixMillis::from_millis(i64::try_from(at).unwrap());
    for at in 1..SESSIONS_MAX {
        Spool::open(dir.path(), 64 << 20, run(at)).push(&body(1, 1));
    }
    // One earlier session less than may be, as many, and one more; each spool adds the next.
    for (at, whole) in [(0, true), (1, true), (2, false)] {
        let mut spool = Spool::open(dir.path(), 64 << 20, run(SESSIONS_MAX + at));
        let sessions = spool.sessions();
        assert_eq!(sessions.len(), SESSIONS_MAX + at, "with its own");
        let oldest = drain(&mut spool, sessions[0], 0);
        let wanted = if whole { "batch" } else { "full" };
        assert_eq!(oldest, [(1, wanted)], "{at}");
        assert_eq!(drain(&mut spool, sessions[1], 0), [(1, "batch")]);
        assert_eq!(spool.met().count(Limit::Sessions), u64::from(!whole));
        spool.push(&body(1, 1));
    }
}
