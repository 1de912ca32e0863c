//! A file that is of a later release, damaged beyond reading, or from another day is named with its place
//! and its remedy, and nothing is deleted.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use plimsoll_store::{EventFilter, OpenError, Store};

use crate::scene::{ALWAYS, Agent, Answers, copy, files, open, small};

/// A store with files of every kind.
fn lived() -> (tempfile::TempDir, Agent) {
    let dir = crate::scratch();
    let store = open(dir.path());
    let mut agent = Agent::number(1);
    for round in 0..20 {
        agent.tell_more(&store, 1_000 + round * 10);
    }
    store.seal().unwrap();
    agent.tell(&store, 1_300, 1);
    drop(store);
    (dir, agent)
}

/// The files that are truth, with their bytes.
fn truth(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let index = dir.join("index");
    let all = files(dir)
        .into_iter()
        .filter(|path| !path.starts_with(&index));
    all.map(|path| (path.clone(), std::fs::read(path).unwrap()))
        .collect()
}

fn refused(dir: &Path, path: &Path) -> String {
    let before = truth(dir);
    let error = Store::open(dir, small()).unwrap_err().to_string();
    assert_eq!(
        truth(dir),
        before,
        "something was deleted or changed: {error}"
    );
    let named = error.contains(path.to_str().unwrap());
    assert!(
        named && error.contains("at byte") && error.contains("; "),
        "{error}"
    );
    error
}

fn one_of_each(dir: &Path) -> Vec<PathBuf> {
    let last = |below: &str| files(&dir.join(below)).pop().unwrap();
    vec![
        last("log"),
        last("blocks"),
        last("events"),
        dir.join("MANIFEST"),
        dir.join("MANIFEST.copy"),
    ]
}

#[test]
fn a_file_of_a_later_release_is_named_and_left_alone_whatever_its_kind() {
    let (dir, agent) = lived();
    for path in one_of_each(dir.path()) {
        let bytes = std::fs::read(&path).unwrap();
        let mut later = bytes.clone();
        later[8] += 1;
        let check = crc32c::crc32c(&later[..36]);
        later[36..40].copy_from_slice(&check.to_le_bytes());
        std::fs::write(&path, &later).unwrap();
        let error = refused(dir.path(), &path);
        assert!(error.contains("start the newer release again"), "{error}");
        std::fs::write(&path, &bytes).unwrap();
    }
    agent.agrees(&open(dir.path()));
}

#[test]
fn a_frame_that_a_later_release_wrote_is_named_and_left_alone() {
    let (dir, _) = lived();
    for path in [
        files(&dir.path().join("log")),
        files(&dir.path().join("events")),
    ]
    .concat()
    {
        let bytes = std::fs::read(&path).unwrap();
        let id: u64 = path.file_stem().unwrap().to_str().unwrap().parse().unwrap();
        let later = [250_u8, 1, 2, 3];
        let head = [4, crc32c::crc32c(&later), 0]
            .map(u32::to_le_bytes)
            .concat();
        let check = crc32c::crc32c(&[id.to_le_bytes().as_slice(), &head].concat());
        let frame = [head.as_slice(), &check.to_le_bytes(), &later].concat();
        std::fs::write(&path, [bytes.as_slice(), &frame].concat()).unwrap();
        let error = refused(dir.path(), &path);
        assert!(error.contains("start the release that wrote"), "{error}");
        std::fs::write(&path, &bytes).unwrap();
    }
}

#[test]
fn a_log_that_does_not_begin_as_one_is_named_and_left_alone() {
    let (dir, _) = lived();
    let path = files(&dir.path().join("log")).pop().unwrap();
    let bytes = std::fs::read(&path).unwrap();
    for broken in [&bytes[..39], &b""[..], &vec![0; bytes.len()]] {
        std::fs::write(&path, broken).unwrap();
        let error = refused(dir.path(), &path);
        assert!(error.contains("move it away"), "{error}");
    }
}

#[test]
fn a_manifest_out_of_a_backup_is_refused_before_it_costs_what_was_sealed_since() {
    let (dir, mut agent) = lived();
    let old = ["MANIFEST", "MANIFEST.copy"]
        .map(|name| (name, std::fs::read(dir.path().join(name)).unwrap()));
    let store = open(dir.path());
    for round in 0..20 {
        agent.tell(&store, 1_400 + round * 10, round);
    }
    store.seal().unwrap();
    let whole = Answers::of(&store);
    drop(store);
    let today = tempfile::tempdir().unwrap();
    copy(dir.path(), today.path());
    for (name, bytes) in old {
        std::fs::write(dir.path().join(name), bytes).unwrap();
    }
    let before = truth(dir.path());
    let error = Store::open(dir.path(), small()).unwrap_err();
    assert!(matches!(error, OpenError::Corrupt { .. }), "{error}");
    assert!(
        error.to_string().contains("restore the whole directory"),
        "{error}"
    );
    assert_eq!(truth(dir.path()), before, "something was deleted");
    // The remedy works.
    assert_eq!(Answers::of(&open(today.path())), whole);
}

#[test]
fn files_of_a_first_seal_that_did_not_come_to_its_end_do_not_stop_the_next_start() {
    let dir = crate::scratch();
    let mut agent = Agent::number(1);
    agent.tell(&open(dir.path()), 1_000, 1);
    let stray = dir
        .path()
        .join("blocks/1970-01-01T00-16-40.000/0000000000000000.blocks");
    std::fs::create_dir_all(stray.parent().unwrap()).unwrap();
    std::fs::write(&stray, b"half a file").unwrap();
    let (store, report) = Store::open(dir.path(), small()).unwrap();
    agent.agrees(&store);
    assert!(report.strays == 1 && !stray.exists());
}

#[test]
fn events_before_the_cut_of_a_file_are_still_told() {
    let (dir, _) = lived();
    let all = open(dir.path()).events(ALWAYS.0, ALWAYS.1, &EventFilter::default());
    let path = files(&dir.path().join("events")).pop().unwrap();
    let bytes = std::fs::read(&path).unwrap();
    std::fs::write(&path, &bytes[..bytes.len() * 2 / 3]).unwrap();
    let store = open(dir.path());
    let left = store.events(ALWAYS.0, ALWAYS.1, &EventFilter::default());
    assert!(
        left.len() > 3 && left.len() < all.len() && all.starts_with(&left),
        "{}",
        left.len()
    );
    assert!(!store.holes().is_empty());
    // It stays as it is, and what comes after it is merged without it.
    let mut agent = Agent::number(2);
    for round in 0..12 {
        agent.tell_more(&store, 2_000 + round * 10);
        store.seal().unwrap();
        store
            .maintain(crate::scene::at(2_000 + round * 10))
            .unwrap();
    }
    assert!(path.exists() && files(&dir.path().join("events")).len() < 9);
    assert!(
        plimsoll_store::check(dir.path()).is_err(),
        "the store is open"
    );
}

#[test]
fn a_number_that_a_half_replaced_manifest_gave_out_is_not_given_out_again() {
    let dir = crate::scratch();
    let store = open(dir.path());
    let mut agent = Agent::number(1);
    for round in 0..4 {
        agent.tell(&store, 1_000 + round * 10, round);
        store.seal().unwrap();
    }
    // The copy cannot be replaced: MANIFEST already names the merged file when the merge fails.
    let copy_of_manifest = dir.path().join("MANIFEST.copy");
    std::fs::remove_file(&copy_of_manifest).unwrap();
    std::fs::create_dir(&copy_of_manifest).unwrap();
    store.maintain(crate::scene::at(1_100)).unwrap_err();
    let blocks = |dir: &Path| -> BTreeMap<PathBuf, Vec<u8>> {
        let below = dir.join("blocks");
        truth(dir)
            .into_iter()
            .filter(|(path, _)| path.starts_with(&below))
            .collect()
    };
    let named = blocks(dir.path());
    agent.tell(&store, 1_005, 77);
    store.seal().unwrap_err();
    let after = blocks(dir.path());
    for (path, bytes) in &named {
        assert_eq!(
            after.get(path),
            Some(bytes),
            "{} was written over",
            path.display()
        );
    }
    std::fs::remove_dir(&copy_of_manifest).unwrap();
    store.seal().unwrap();
    agent.agrees(&store);
    drop(store);
    let store = open(dir.path());
    assert_eq!(store.holes(), []);
    agent.agrees(&store);
}
