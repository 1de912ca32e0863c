//! Bytes on disk are sacred: what this release wrote once, it writes again and always reads.
//! `PLIMSOLL_WRITE_GOLDEN=1` writes them anew, for a new version of the format only.

use std::path::{Path, PathBuf};

use crate::scene::{Agent, Answers, copy, files, open};

const PARTS: [&str; 5] = ["log", "blocks", "events", "MANIFEST", "MANIFEST.copy"];

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/version-1")
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

#[test]
fn every_file_is_written_as_ever_and_read_as_ever() {
    let dir = tempfile::tempdir().unwrap();
    let answers = lived(dir.path());
    let written = |path: &PathBuf| {
        let name = path.strip_prefix(dir.path()).unwrap();
        PARTS.iter().any(|part| name.starts_with(part))
    };
    let written: Vec<PathBuf> = files(dir.path()).into_iter().filter(written).collect();
    if std::env::var_os("PLIMSOLL_WRITE_GOLDEN").is_some() {
        for path in &written {
            let target = golden().join(path.strip_prefix(dir.path()).unwrap());
            std::fs::create_dir_all(target.parent().unwrap()).unwrap();
            std::fs::copy(path, target).unwrap();
        }
    }
    let kept = files(&golden());
    let names = |root: &Path, all: &[PathBuf]| -> Vec<PathBuf> {
        all.iter()
            .map(|path| path.strip_prefix(root).unwrap().to_owned())
            .collect()
    };
    assert_eq!(names(&golden(), &kept), names(dir.path(), &written));
    for (kept, written) in kept.iter().zip(&written) {
        let same = std::fs::read(kept).unwrap() == std::fs::read(written).unwrap();
        assert!(same, "{} is not written as it was", kept.display());
    }
    let other = tempfile::tempdir().unwrap();
    copy(&golden(), other.path());
    let read = open(other.path());
    assert_eq!(Answers::of(&read), answers);
    assert_eq!((answers.sample_count(), read.holes().len()), (32, 0));
}
