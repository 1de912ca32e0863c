//! Where room is scarce the oldest samples go before their time, then appending is refused, and it goes
//! on by itself. The room is made up; a disk that is really full is in `full.rs`.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use plimsoll_model::Ratio;
use plimsoll_store::{
    AppendError, Appended, Floor, Record, Room, SeriesFilter, Space, Store, StoreOptions,
};

use crate::scene::{ALWAYS, Agent, Answers, at, files, small};

/// A file system of a million bytes, with others on it.
#[derive(Debug, Default)]
struct Shared {
    others: AtomicU64,
}

const TOTAL: u64 = 1_000_000;

impl Space for Shared {
    fn room(&self, dir: &Path) -> std::io::Result<Room> {
        let ours = |path: &std::path::PathBuf| path.metadata().map_or(0, |found| found.len());
        let blocks = files(&dir.join("blocks"));
        let ours: u64 = blocks.iter().map(ours).sum();
        let free = TOTAL.saturating_sub(ours + self.others.load(Ordering::Relaxed));
        Ok(Room { free, total: TOTAL })
    }
}

fn opened(dir: &Path, spared: u64) -> (Store, Agent, Arc<Shared>) {
    let shared = Arc::new(Shared::default());
    let options = StoreOptions {
        floor: Floor {
            bytes: 1_000,
            share: Ratio::from_millionths(50_000),
            spared: Duration::from_secs(spared),
        },
        ..small()
    };
    let space = Arc::clone(&shared) as Arc<dyn Space>;
    let (store, _) = Store::open_in(dir, options, space).unwrap();
    let mut agent = Agent::number(1);
    for round in 0..300 {
        agent.tell(&store, 1_000 + round * 10, round);
    }
    store.seal().unwrap();
    (store, agent, shared)
}

fn leave(dir: &Path, shared: &Shared, free: u64) {
    shared.others.store(0, Ordering::Relaxed);
    let now = shared.room(dir).unwrap().free;
    shared.others.store(now - free, Ordering::Relaxed);
}

fn oldest(store: &Store) -> u64 {
    let keys = store.series(&SeriesFilter::default());
    let first = |key| store.range(key, ALWAYS.0, ALWAYS.1)[0].0.end.millis();
    let oldest = keys.iter().map(first).min().unwrap();
    u64::try_from(oldest).unwrap() / 1_000
}

#[test]
fn the_oldest_samples_go_before_their_time_and_no_more_than_needed() {
    let dir = tempfile::tempdir().unwrap();
    let (store, mut agent, shared) = opened(dir.path(), 500);
    // One twentieth is more than a thousand bytes, so it is the floor.
    leave(dir.path(), &shared, 50_000);
    let upkeep = store.maintain(at(4_000)).unwrap();
    assert_eq!((upkeep.early_files, store.is_read_only()), (0, false));
    leave(dir.path(), &shared, 49_999);
    let upkeep = store.maintain(at(4_000)).unwrap();
    assert_eq!(
        (upkeep.early_files, store.is_read_only()),
        (1, false),
        "{upkeep:?}"
    );
    assert_eq!(oldest(&store), 1_100);
    // They were rolled up before they went.
    assert_eq!(upkeep.rolled_files, 2);
    agent.tell(&store, 4_000, 1);
}

#[test]
fn what_is_young_is_spared_and_appending_is_refused_until_there_is_room() {
    let dir = tempfile::tempdir().unwrap();
    let (store, mut agent, shared) = opened(dir.path(), 500);
    leave(dir.path(), &shared, 10);
    store.maintain(at(4_000)).unwrap();
    assert!(store.is_read_only());
    assert_eq!(oldest(&store), 3_500, "the last 500 seconds are spared");
    let before = Answers::of(&store);
    let batch = agent.batch(4_000, 1);
    let error = store.append(&[Record::Batch(batch.clone())]).unwrap_err();
    let AppendError::LowSpace {
        free_bytes,
        floor_bytes,
        ..
    } = &error
    else {
        panic!("{error}");
    };
    assert!(*free_bytes < 50_000 && *floor_bytes == 50_000, "{error}");
    assert_eq!(Answers::of(&store), before, "questions go on");
    // Nothing but room is needed.
    shared.others.store(0, Ordering::Relaxed);
    store.maintain(at(4_005)).unwrap();
    assert_eq!(
        store.append(&[Record::Batch(batch)]).unwrap(),
        [Appended::Stored]
    );
}
