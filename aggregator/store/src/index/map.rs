//! What the index is kept in: sled, or memory where sled cannot be opened. Whatever sled does, panics too,
//! comes out as [`Broken`]. It knows nothing of what the keys mean.

use std::collections::BTreeMap;
use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rustix::fs::FlockOperation;

use crate::codec::Malformed;

/// Memory that sled may hold.
const CACHE_BYTES: u64 = 64 << 20;
/// How often it is looked whether a dropped sled has let go of its file.
const FREE_LOOK_EVERY: Duration = Duration::from_millis(1);
/// How many such looks there are.
const FREE_LOOKS_MAX: u32 = 1_000;

/// The index failed; it must be made anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Broken;

impl From<sled::Error> for Broken {
    fn from(_: sled::Error) -> Self {
        Self
    }
}

impl From<Malformed> for Broken {
    fn from(_: Malformed) -> Self {
        Self
    }
}

/// sled writes once more when it is dropped, and answers a disk that refuses that with a panic.
#[derive(Debug)]
pub(super) struct Tree(pub(super) Option<sled::Db>);

impl Tree {
    pub(super) fn db(&self) -> Result<&sled::Db, Broken> {
        self.0.as_ref().ok_or(Broken)
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        let db = self.0.take();
        // What was not written makes the stamp wrong, and the index is made anew.
        guarded(move || {
            drop(db);
            Ok(())
        })
        .ok();
    }
}

#[derive(Debug)]
pub(super) enum Map {
    Sled(Tree),
    Memory(Mutex<BTreeMap<Vec<u8>, Vec<u8>>>),
}

pub(super) fn guarded<T>(work: impl FnOnce() -> Result<T, Broken>) -> Result<T, Broken> {
    // sled answers some kinds of damage with a panic.
    catch_unwind(AssertUnwindSafe(work)).unwrap_or(Err(Broken))
}

/// A key and its value.
pub(super) type Pair = (Vec<u8>, Vec<u8>);

impl Map {
    pub(super) fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Broken> {
        match self {
            Self::Sled(tree) => guarded(|| Ok(tree.db()?.get(key)?.map(|value| value.to_vec()))),
            Self::Memory(map) => {
                let map = map.lock().unwrap_or_else(PoisonError::into_inner);
                Ok(map.get(key).cloned())
            }
        }
    }

    pub(super) fn put(&self, key: &[u8], value: Option<&[u8]>) -> Result<Option<Vec<u8>>, Broken> {
        match self {
            Self::Sled(tree) => guarded(|| {
                let db = tree.db()?;
                let before = match value {
                    Some(value) => db.insert(key, value)?,
                    None => db.remove(key)?,
                };
                Ok(before.map(|value| value.to_vec()))
            }),
            Self::Memory(map) => {
                let mut map = map.lock().unwrap_or_else(PoisonError::into_inner);
                Ok(match value {
                    Some(value) => map.insert(key.to_vec(), value.to_vec()),
                    None => map.remove(key),
                })
            }
        }
    }

    pub(super) fn scan(&self, prefix: &[u8]) -> Result<Vec<Pair>, Broken> {
        match self {
            Self::Sled(tree) => guarded(|| {
                let db = tree.db()?;
                let mut found = Vec::new();
                for entry in db.scan_prefix(prefix) {
                    let (key, value) = entry?;
                    found.push((key.to_vec(), value.to_vec()));
                }
                Ok(found)
            }),
            Self::Memory(map) => {
                let map = map.lock().unwrap_or_else(PoisonError::into_inner);
                let from = map.range(prefix.to_vec()..);
                let of_prefix = from.take_while(|(key, _)| key.starts_with(prefix));
                Ok(of_prefix
                    .map(|(key, value)| (key.clone(), value.clone()))
                    .collect())
            }
        }
    }
}

pub(super) fn open_sled(dir: &Path) -> sled::Result<sled::Db> {
    wait_until_free(&dir.join("db"));
    sled::Config::new()
        .path(dir)
        .cache_capacity(CACHE_BYTES)
        .flush_every_ms(None)
        .open()
}

/// Waits for threads of a sled that was just dropped, which let go of its file a moment later. Nobody else can
/// have it: the store is locked. Where it does take too long, the index is made anew.
#[expect(
    clippy::disallowed_methods,
    reason = "no clock of ours turns sled's threads"
)]
fn wait_until_free(path: &Path) {
    let Ok(file) = File::open(path) else { return };
    for _ in 0..FREE_LOOKS_MAX {
        let taken = rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive);
        if taken != Err(rustix::io::Errno::WOULDBLOCK) {
            break;
        }
        std::thread::sleep(FREE_LOOK_EVERY);
    }
    rustix::fs::flock(&file, FlockOperation::Unlock).ok();
}
