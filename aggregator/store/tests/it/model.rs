//! Whatever is done to it, in whatever order, and wherever it is torn out of its work: a store answers as
//! the world that told it. `PLIMSOLL_CASES=5000` tries as many cases.

use std::path::{Path, PathBuf};

use plimsoll_model::UnixMillis;
use plimsoll_store::{AppendError, SeriesFilter, Store, check};
use proptest::prelude::*;

use crate::scene::{copy, files};
use crate::world::{Disk, World, fits, now, options};

/// Cases that are tried if nobody asks for more.
const CASES: u32 = 48;

#[derive(Debug, Clone)]
enum Step {
    /// Some slices are told, among them repeats, forks, gaps, documents and late samples.
    Tell(u64),
    Seal,
    /// Seals what is due, merges, forgets.
    Upkeep,
    Reopen,
    /// The process dies between two calls.
    Kill,
    /// The power goes while a slice is written: of what the log grew by, only a part came to the disk,
    /// and of that a part may be zeros.
    Cut {
        keep: usize,
        zeros: usize,
    },
    /// The index is lost.
    Unindex,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (1_u64..60).prop_map(Step::Tell),
        2 => Just(Step::Seal),
        2 => Just(Step::Upkeep),
        1 => Just(Step::Reopen),
        1 => Just(Step::Kill),
        2 => (any::<usize>(), prop_oneof![Just(0), any::<usize>()])
            .prop_map(|(keep, zeros)| Step::Cut { keep, zeros }),
        1 => Just(Step::Unindex),
    ];
    proptest::collection::vec(step, 1..24)
}

/// A store, and what was acknowledged.
struct Told {
    world: World,
    place: tempfile::TempDir,
    lives: u32,
    store: Option<Store>,
    acked: u64,
    next: u64,
    first: u64,
}

impl Told {
    fn dir(&self) -> PathBuf {
        self.place.path().join(self.lives.to_string())
    }

    fn store(&self) -> &Store {
        self.store.as_ref().unwrap()
    }

    fn open(&mut self) {
        let (store, report) = Store::open(&self.dir(), options()).unwrap();
        assert_eq!(report.holes, []);
        self.next = self.world.resume(&store);
        self.first = self.next;
        self.store = Some(store);
    }

    fn tell(&mut self) {
        let (records, expected) = self.world.slice(self.next);
        let outcomes = self.store().append(&records).unwrap_or_else(|error| {
            assert!(matches!(error, AppendError::HeadFull { .. }), "{error}");
            self.store().seal().unwrap();
            self.store().append(&records).unwrap()
        });
        assert!(
            fits(&outcomes, &expected, self.next <= self.first + 1),
            "slice {}: {outcomes:?} in place of {expected:?}",
            self.next
        );
        self.acked = self.next;
        self.next += 1;
    }

    /// Goes on with a copy of the directory as it is now; the process that had it never ended well.
    fn die(&mut self, then: impl FnOnce(&Path)) {
        let before = self.dir();
        self.lives += 1;
        copy(&before, &self.dir());
        self.store = None;
        std::fs::remove_dir_all(&before).unwrap();
        then(&self.dir());
        self.open();
    }

    fn cut(&mut self, keep: usize, zeros: usize) {
        let last = |dir: &Path| files(&dir.join("log")).pop().unwrap();
        let before = last(&self.dir());
        let length = std::fs::metadata(&before).unwrap().len();
        let acked = self.acked;
        self.tell();
        self.acked = acked;
        let rolled = last(&self.dir()) != before;
        // A new segment is durable before anything is written to it.
        let sure = usize::try_from(if rolled { 40 } else { length }).unwrap();
        self.die(|dir| {
            let path = last(dir);
            let mut bytes = std::fs::read(&path).unwrap();
            let keep = sure + keep % (bytes.len() - sure + 1);
            bytes.truncate(keep);
            if zeros > 0 {
                let from = sure + zeros % (keep - sure + 1);
                bytes[from..]
                    .iter_mut()
                    .take(400)
                    .for_each(|byte| *byte = 0);
            }
            std::fs::write(&path, &bytes).unwrap();
        });
    }

    fn take(&mut self, step: &Step) {
        match step {
            Step::Tell(count) => (0..*count).for_each(|_| self.tell()),
            Step::Seal => drop(self.store().seal().unwrap()),
            Step::Upkeep => drop(self.store().maintain(now(self.acked)).unwrap()),
            Step::Reopen => {
                self.store = None;
                self.open();
            }
            Step::Kill => self.die(|_| {}),
            Step::Cut { keep, zeros } => self.cut(*keep, *zeros),
            Step::Unindex => self.die(|dir| {
                std::fs::remove_dir_all(dir.join("index")).unwrap();
            }),
        }
    }
}

/// A span that is asked for in parts gives what it gives whole, wherever it is parted.
fn parts_add_up(store: &Store, cuts: &[UnixMillis]) -> Result<(), TestCaseError> {
    let (begin, end) = (i64::MIN, i64::MAX);
    let firsts = std::iter::once(begin).chain(cuts.iter().map(|cut| cut.millis()));
    let lasts = cuts.iter().map(|cut| cut.millis() - 1);
    let spans: Vec<_> = firsts
        .zip(lasts.chain(std::iter::once(end)))
        .map(|(first, last)| {
            (
                UnixMillis::from_millis(first),
                UnixMillis::from_millis(last),
            )
        })
        .collect();
    let (begin, end) = (UnixMillis::from_millis(begin), UnixMillis::from_millis(end));
    for key in store.series(&SeriesFilter::default()) {
        let parts = spans
            .iter()
            .map(|(first, last)| store.range(&key, *first, *last));
        prop_assert_eq!(
            parts.collect::<Vec<_>>().concat(),
            store.range(&key, begin, end)
        );
        let column = |first, last| {
            let is_it = |metric, part: &_| metric == key.metric && *part == key.part;
            let tables = store.tables(key.subject, is_it, first..=last);
            let rows = tables.into_iter().flat_map(|table| {
                let values = table.values.into_iter().flatten();
                table
                    .ends
                    .into_iter()
                    .zip(table.widths_ms)
                    .zip(values)
                    .collect::<Vec<_>>()
            });
            rows.collect::<Vec<_>>()
        };
        let parts = spans.iter().map(|(first, last)| column(*first, *last));
        prop_assert_eq!(parts.collect::<Vec<_>>().concat(), column(begin, end));
    }
    Ok(())
}

fn cases() -> u32 {
    let told = std::env::var("PLIMSOLL_CASES");
    told.map_or(CASES, |cases| cases.parse().unwrap())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases()))]

    #[test]
    fn it_answers_like_its_world_through_seals_merges_retention_restarts_and_crashes(
        seed: u64, steps in steps(), cuts in proptest::collection::btree_set(1_u64..400, 0..6),
    ) {
        let mut told = Told {
            world: World { seed },
            place: crate::scratch(),
            lives: 0,
            store: None,
            acked: 0,
            next: 1,
            first: 1,
        };
        told.open();
        told.tell();
        for step in &steps {
            told.take(step);
            let held = told.world.holds(told.store(), told.acked, Disk::Good);
            prop_assert!(held.is_ok(), "after {step:?}: {:#}", held.unwrap_err());
        }
        let cuts: Vec<_> = cuts.into_iter().map(now).collect();
        parts_add_up(told.store(), &cuts)?;
        let dir = told.dir();
        told.store = None;
        prop_assert_eq!(check(&dir).unwrap().holes, []);
    }
}
