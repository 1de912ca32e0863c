//! Bytes on disk are sacred: what this release wrote once, it writes again and always reads.
//! `PLIMSOLL_WRITE_GOLDEN=1` writes them anew, for a new version of the format only.

use std::path::{Path, PathBuf};

use plimsoll_model::{Metric, Part, Rows, Sweep};
use plimsoll_store::{Appended, Record, check};

use crate::scene::{Agent, Answers, at, copy, files, open};

const PARTS: [&str; 6] = [
    "log",
    "blocks",
    "events",
    "rollup",
    "MANIFEST",
    "MANIFEST.copy",
];

fn golden(scene: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    root.join("tests/golden").join(scene)
}

/// A node that polls a device, sealed and unsealed.
fn polled(dir: &Path) -> Answers {
    let store = open(dir);
    let mut agent = Agent::number(2);
    for round in 0..6 {
        agent.tell_device(&store, 1_000 + round * 20, round * 1_000);
        if round == 3 {
            store.seal().unwrap();
        }
    }
    agent.agrees(&store);
    Answers::of(&store)
}

fn lived(dir: &Path) -> Answers {
    let store = open(dir);
    let mut agent = Agent::number(1);
    for round in 0..12 {
        if round % 4 == 0 {
            agent.tell_more(&store, 1_000 + round * 20);
        } else {
            agent.tell(&store, 1_000 + round * 20, round * 1_000);
        }
        if round == 8 {
            store.seal().unwrap();
        }
    }
    Answers::of(&store)
}

/// Tells a counter, which version 1 has none of, and rolls up what is there.
fn rolled_up(dir: &Path) -> Answers {
    let store = open(dir);
    let mut agent = Agent::number(1);
    agent.sequence = 12;
    for round in 0..12 {
        let mut batch = agent.batch(2_000 + round * 40, round * 1_000);
        let counter = (Metric::HostPsiCpuSome, Part::whole(), round % 5 * 700);
        let first = batch.rows.iter().next().unwrap();
        let sweep = Sweep {
            subject: first.subject,
            window: first.window,
            values: vec![counter],
        };
        batch.rows = Rows::from_iter([sweep]);
        let stored = store.append(&[Record::Batch(batch)]).unwrap();
        assert_eq!(stored, [Appended::Stored]);
    }
    store.seal().unwrap();
    let upkeep = store.maintain(at(100_000)).unwrap();
    assert_eq!(upkeep.rolled_files, 2);
    Answers::of(&store)
}

#[test]
fn files_of_the_first_format_are_read_and_go_on() {
    let scratch = tempfile::tempdir().unwrap();
    let answers = lived(scratch.path());
    let dir = tempfile::tempdir().unwrap();
    copy(&golden("version-1"), dir.path());
    assert_eq!(check(dir.path()).unwrap().holes, []);
    assert_eq!(Answers::of(&open(dir.path())), answers);
    assert_eq!(
        (answers.sample_count(), open(dir.path()).holes().len()),
        (32, 0)
    );
    rolled_up(dir.path());
    assert_eq!(check(dir.path()).unwrap().holes, []);
}

#[test]
fn every_file_is_written_as_ever_and_read_as_ever() {
    let whole = |dir: &Path| {
        lived(dir);
        rolled_up(dir)
    };
    hold(&golden("version-2"), whole, 44);
}

#[test]
fn devices_and_their_ports_are_written_as_ever_and_read_as_ever() {
    hold(&golden("version-2-devices"), polled, 24);
}

fn hold(golden: &Path, live: impl Fn(&Path) -> Answers, samples: usize) {
    let dir = tempfile::tempdir().unwrap();
    let answers = live(dir.path());
    let written = |path: &PathBuf| {
        let name = path.strip_prefix(dir.path()).unwrap();
        PARTS.iter().any(|part| name.starts_with(part))
    };
    let written: Vec<PathBuf> = files(dir.path()).into_iter().filter(written).collect();
    if std::env::var_os("PLIMSOLL_WRITE_GOLDEN").is_some() {
        for path in &written {
            let target = golden.join(path.strip_prefix(dir.path()).unwrap());
            std::fs::create_dir_all(target.parent().unwrap()).unwrap();
            std::fs::copy(path, target).unwrap();
        }
    }
    let kept = files(golden);
    let names = |root: &Path, all: &[PathBuf]| -> Vec<PathBuf> {
        all.iter()
            .map(|path| path.strip_prefix(root).unwrap().to_owned())
            .collect()
    };
    assert_eq!(names(golden, &kept), names(dir.path(), &written));
    for (kept, written) in kept.iter().zip(&written) {
        let same = std::fs::read(kept).unwrap() == std::fs::read(written).unwrap();
        assert!(same, "{} is not written as it was", kept.display());
    }
    let other = tempfile::tempdir().unwrap();
    copy(golden, other.path());
    let read = open(other.path());
    assert_eq!(Answers::of(&read), answers);
    assert_eq!((answers.sample_count(), read.holes().len()), (samples, 0));
}
