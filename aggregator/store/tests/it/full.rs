//! A full disk stops acknowledgements, not questions; when there is space again, the store goes on.

use std::io::Write as _;
use std::path::Path;
use std::process::Command;

use plimsoll_store::{AppendError, Appended, Record, Store, UpkeepError};

use crate::scene::{Agent, Answers, open, small};

/// A file system of eight megabytes in memory; gone at the end.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount() -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=8m", "plimsoll-test"])
            .arg(dir.path())
            .status();
        if mounted.is_ok_and(|status| status.success()) {
            return Some(Self(dir));
        }
        assert!(
            std::env::var_os("PLIMSOLL_TESTS_COMPLETE").is_none(),
            "a tmpfs cannot be mounted; run as root"
        );
        println!("left out: full (needs root to mount a tmpfs)");
        None
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    /// Fills what is left.
    fn fill(&self) {
        let path = self.path().join("filler");
        let mut filler = std::fs::File::create(path).unwrap();
        for size in [1 << 16, 1 << 12, 1] {
            while filler.write_all(&vec![1; size]).is_ok() {}
        }
    }

    fn free(&self) {
        std::fs::remove_file(self.path().join("filler")).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        drop(Command::new("umount").arg("-l").arg(self.0.path()).status());
    }
}

#[test]
fn a_full_disk_refuses_writes_answers_questions_and_goes_on_by_itself() {
    let Some(disk) = SmallDisk::mount() else {
        return;
    };
    let dir = disk.path().join("data");
    let store = open(&dir);
    let mut agent = Agent::number(1);
    for round in 0..20 {
        agent.tell(&store, 1_000 + round, round);
    }
    disk.fill();
    let mut refused = 0;
    for round in 20..200 {
        let model = agent.model.clone();
        let batch = agent.batch(1_000 + round, round);
        match store.append(&[Record::Batch(batch)]) {
            Ok(outcomes) => assert_eq!(outcomes, [Appended::Stored]),
            Err(error) => {
                assert!(matches!(error, AppendError::Full { .. }), "{error}");
                refused += 1;
                (agent.model, agent.sequence) = (model, agent.sequence - 1);
            }
        }
        agent.agrees(&store);
    }
    assert!(refused > 100, "the disk was never full");
    let error = store.seal().unwrap_err();
    assert!(
        matches!(error, UpkeepError::Files(_) | UpkeepError::Log(_)),
        "{error}"
    );
    agent.agrees(&store);
    let before = Answers::of(&store);
    drop(store);
    // It opens on a full disk, with the same answers.
    let store = Store::open(&dir, small()).unwrap().0;
    assert_eq!(Answers::of(&store), before);
    disk.free();
    agent.tell(&store, 2_000, 7);
    assert!(store.seal().unwrap() > 0);
    agent.agrees(&store);
    drop(store);
    agent.agrees(&open(&dir));
}

#[test]
fn a_torn_end_on_a_full_disk_waits_for_its_copy_and_nothing_is_written_behind_it() {
    let Some(disk) = SmallDisk::mount() else {
        return;
    };
    let dir = disk.path().join("data");
    let mut agent = Agent::number(1);
    for round in 0..5 {
        agent.tell(&open(&dir), 1_000 + round, round);
    }
    let segment = crate::scene::files(&dir.join("log")).pop().unwrap();
    let mut bytes = std::fs::read(&segment).unwrap();
    let whole = bytes.len();
    bytes.extend(b"the begin of a frame");
    std::fs::write(&segment, &bytes).unwrap();
    disk.fill();
    let (store, report) = Store::open(&dir, small()).unwrap();
    agent.agrees(&store);
    let torn = report.torn.unwrap();
    assert!(!torn.copy.exists() && std::fs::read(&segment).unwrap() == bytes);
    let batch = agent.batch(2_000, 7);
    let records = [Record::Batch(batch)];
    let error = store.append(&records).unwrap_err();
    assert!(matches!(error, AppendError::Full { .. }), "{error}");
    disk.free();
    assert_eq!(store.append(&records).unwrap(), [Appended::Stored]);
    assert_eq!(std::fs::read(&torn.copy).unwrap(), bytes);
    assert_eq!(std::fs::read(&segment).unwrap()[..whole], bytes[..whole]);
    drop(store);
    let (store, report) = Store::open(&dir, small()).unwrap();
    assert_eq!((report.torn, report.holes), (None, Vec::new()));
    agent.agrees(&store);
}
