//! Sealed files do not stay open without bound, and a reader never loses what it reads.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use plimsoll_store::{SeriesFilter, Store, StoreOptions};

use crate::scene::{ALWAYS, Agent, Answers, at, files, small};

#[test]
fn hundreds_of_files_are_read_with_a_bounded_number_open() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = Store::open(dir.path(), small()).unwrap();
    let mut agent = Agent::number(1);
    for round in 0..400 {
        agent.tell(&store, 1_000 + round * 100, round);
    }
    store.seal().unwrap();
    assert_eq!(files(&dir.path().join("blocks")).len(), 400);
    let open = || {
        let fds = std::fs::read_dir("/proc/self/fd").unwrap();
        let of_store = |path: &std::path::PathBuf| path.starts_with(dir.path().join("blocks"));
        let links = fds.filter_map(|fd| std::fs::read_link(fd.unwrap().path()).ok());
        links.filter(of_store).count()
    };
    assert_eq!(open(), 0, "what nobody reads is not open");
    agent.agrees(&store);
    assert_eq!(open(), 256);
    agent.agrees(&store);
    drop(store);
    let (store, _) = Store::open(dir.path(), small()).unwrap();
    assert_eq!(open(), 0);
    agent.agrees(&store);
}

#[test]
fn readers_find_everything_while_files_are_merged_and_removed() {
    let dir = tempfile::tempdir().unwrap();
    let options = StoreOptions {
        settle_after: std::time::Duration::ZERO,
        ..small()
    };
    let store = Arc::new(Store::open(dir.path(), options).unwrap().0);
    let mut agent = Agent::number(1);
    let mut tell = |from: u64| {
        for round in 0..40 {
            agent.tell(&store, from + round * 5, round);
            if round % 5 == 4 {
                store.seal().unwrap();
            }
        }
    };
    tell(1_000);
    let first = store.series(&SeriesFilter::default());
    let before: Vec<_> = first
        .iter()
        .map(|key| store.range(key, ALWAYS.0, at(1_200)))
        .collect();
    let ended = AtomicBool::new(false);
    let rounds = std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut rounds = 0;
            while !ended.load(Ordering::Relaxed) || rounds == 0 {
                for (key, before) in first.iter().zip(&before) {
                    let range = store.range_with_holes(key, ALWAYS.0, at(1_199));
                    assert_eq!(range.holes, []);
                    assert_eq!(range.samples, *before);
                }
                rounds += 1;
            }
            rounds
        });
        for round in 0..20 {
            tell(1_200 + round * 200);
            store.maintain(at(1_200 + round * 200)).unwrap();
        }
        ended.store(true, Ordering::Relaxed);
        reader.join().unwrap()
    });
    assert!(rounds > 0);
    assert!(Answers::of(&store).sample_count() > 1_000);
}
