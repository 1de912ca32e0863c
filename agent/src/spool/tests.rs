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
