//! Rollups are what the samples were: held against a map that is folded naively, through late samples,
//! resets, gaps, seals and reopenings, and while samples are forgotten.

mod damage;
mod kept;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use plimsoll_model::{
    Batch, Metric, NodeId, Part, SeriesKey, SessionId, Subject, Sweep, UnixMillis, Window,
};
use plimsoll_store::{Answer, Function, GAP, Record, Steps, Store, StoreOptions, Tier, check};
use proptest::prelude::*;

use crate::fold::{OF_COUNTERS, OF_GAUGES, naive};
use crate::scene::files;

const HOUR: u64 = 3_600;
const DAY: u64 = 24 * HOUR;
const METRICS: [Metric; 3] = [
    Metric::HostPsiCpuSome,
    Metric::HostMemFree,
    Metric::HostLibvirtUp,
];

fn options() -> StoreOptions {
    StoreOptions {
        partition: Duration::from_secs(2 * HOUR),
        ..StoreOptions::default()
    }
}

fn seconds(at: u64) -> UnixMillis {
    UnixMillis::from_millis(i64::try_from(at * 1_000).unwrap())
}

/// A node that tells a counter, a quantity and a word, and a map of what it told.
struct Meter {
    sequence: u64,
    values: [u64; 3],
    model: BTreeMap<Window, [u64; 3]>,
}

impl Meter {
    fn new() -> Self {
        Self {
            sequence: 0,
            values: [0, 1 << 33, 1],
            model: BTreeMap::new(),
        }
    }

    fn node() -> NodeId {
        NodeId::from_bytes([1; 16]).unwrap()
    }

    fn key(metric: Metric) -> SeriesKey {
        SeriesKey {
            subject: Subject::Node(Self::node()),
            metric,
            part: Part::whole(),
        }
    }

    /// Tells the values of several windows in one batch.
    fn tell(&mut self, store: &Store, windows: &[(Window, [u64; 3])]) {
        self.sequence += 1;
        let sweep = |(window, values): &(Window, [u64; 3])| Sweep {
            subject: Subject::Node(Self::node()),
            window: *window,
            values: METRICS
                .iter()
                .zip(values)
                .map(|(metric, value)| (*metric, Part::whole(), *value))
                .collect(),
        };
        let batch = Batch {
            node: Self::node(),
            session: SessionId::from_bytes([2; 16]).unwrap(),
            sequence: self.sequence,
            made: windows[0].0.end,
            body_crc: 7,
            rows: windows.iter().map(sweep).collect(),
            facts: Vec::new(),
            events: Vec::new(),
        };
        store.append(&[Record::Batch(batch)]).unwrap();
        for (window, values) in windows {
            self.model.entry(*window).or_insert(*values);
        }
    }

    /// Tells evenly spaced samples of `from..to`.
    fn run(&mut self, store: &Store, (from, to, every): (u64, u64, u64)) {
        let mut windows = Vec::new();
        for at in (from..to).step_by(usize::try_from(every).unwrap()) {
            self.values[0] += at % 977 * 1_000;
            self.values[1] = (1 << 33) + at * 7_919 % 104_729 * 4_096;
            self.values[2] = u64::from(at % 7_200 < 3_600);
            let width_ms = 3;
            windows.push((
                Window {
                    end: seconds(at),
                    width_ms,
                },
                self.values,
            ));
        }
        for some in windows.chunks(500) {
            self.tell(store, some);
        }
    }

    fn samples(&self, column: usize) -> Vec<(Window, u64)> {
        let all = self.model.iter();
        all.map(|(window, values)| (*window, values[column]))
            .collect()
    }
}

fn ask(function: Function, (from, to): (u64, u64), step: u64) -> Steps {
    Steps {
        from: seconds(from),
        to: UnixMillis::from_millis(seconds(to).millis() - 1),
        step: Duration::from_secs(step),
        function,
        gap: GAP,
    }
}

/// Holds every function against the map; returns the last answer.
fn agrees(store: &Store, meter: &Meter, span: (u64, u64), step: u64) -> Answer {
    let mut answer = Answer::default();
    for (column, metric) in METRICS.into_iter().enumerate() {
        let functions = if column == 0 {
            OF_COUNTERS.as_slice()
        } else {
            OF_GAUGES.as_slice()
        };
        let samples = meter.samples(column);
        for function in functions {
            let asked = ask(*function, span, step);
            answer = store.steps(&Meter::key(metric), &asked).unwrap();
            assert_eq!(answer.holes, []);
            assert_eq!(
                answer.steps,
                naive(&samples, &asked),
                "{metric} {function:?} {step} s"
            );
        }
    }
    answer
}

fn tiers(answer: &Answer) -> Vec<Option<Tier>> {
    answer.used.iter().map(|used| used.tier).collect()
}

/// Keeps the store in order until nothing is left to do.
fn settle(store: &Store, now: u64) {
    let done = plimsoll_store::Upkeep::default();
    let is_done = (0..200).any(|_| store.maintain(seconds(now)).unwrap() == done);
    assert!(is_done, "upkeep finds no end");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn steps_are_what_a_naive_fold_of_all_samples_gives(
        actions in proptest::collection::vec((0_u8..12, 1_u64..400, any::<u16>()), 10..60),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let mut store = Store::open(dir.path(), options()).unwrap().0;
        let mut meter = Meter::new();
        let begin = 20_000 * DAY / 2;
        let mut now = begin;
        for (action, amount, value) in actions {
            let value = u64::from(value);
            match action {
                0 => drop(store.seal().unwrap()),
                1 | 2 => drop(store.maintain(seconds(now + amount * 90)).unwrap()),
                3 => {
                    drop(store);
                    store = Store::open(dir.path(), options()).unwrap().0;
                }
                // Late, anywhere in what is there, sometimes where there is a sample already.
                4 | 5 => {
                    let late = begin + (now - begin) * value / 65_536;
                    let window = Window {
                        end: UnixMillis::from_millis(seconds(late).millis() + i64::from(amount % 2 == 0)),
                        width_ms: u32::try_from(amount).unwrap(),
                    };
                    meter.tell(&store, &[(window, [value * 99, value << 40, amount % 3])]);
                }
                // Restart of what is counted.
                6 => meter.values[0] = value,
                // Silence.
                7 => now += amount * 60,
                _ => {
                    let mut windows = Vec::new();
                    for round in 0..60 {
                        now += 5 + amount * (1 + round % 3) / 2;
                        meter.values[0] += value * round;
                        meter.values[1] = (value << 20) + round * amount;
                        meter.values[2] = round % 4;
                        let width_ms = u32::try_from(round % 5).unwrap();
                        windows.push((Window { end: seconds(now), width_ms }, meter.values));
                    }
                    meter.tell(&store, &windows);
                }
            }
            let span = (begin, now + HOUR);
            let step = [300, 600, HOUR, 2 * HOUR, DAY][usize::try_from(amount % 5).unwrap()];
            agrees(&store, &meter, span, step);
        }
        store.seal().unwrap();
        settle(&store, now + 2 * DAY);
        let answer = agrees(&store, &meter, (begin, now + HOUR), HOUR);
        // Samples are there, so all of them were rolled up, and nothing else is read.
        let samples = meter.model.len();
        let read = answer.used.iter().filter(|used| used.tier.is_none());
        let held = |used: &plimsoll_store::Used| {
            meter.model.keys().any(|window| (used.from..used.to).contains(&window.end))
        };
        prop_assert!(samples == 0 || !read.clone().any(held), "{:?}", answer.used);
        drop(store);
        prop_assert_eq!(check(dir.path()).unwrap().holes, []);
    }
}

/// Five days of samples each minute, rolled up; begins with a day.
fn five_days(dir: &Path, options: StoreOptions) -> (Store, Meter, u64) {
    let (store, _) = Store::open(dir, options).unwrap();
    let mut meter = Meter::new();
    let begin = 10_000 * DAY;
    for day in 0..5 {
        meter.run(&store, (begin + day * DAY, begin + (day + 1) * DAY, 60));
        store.seal().unwrap();
        settle(&store, begin + (day + 1) * DAY);
    }
    (store, meter, begin)
}

#[test]
fn a_long_span_reads_rollups_and_only_the_newest_samples() {
    let dir = tempfile::tempdir().unwrap();
    let (store, meter, begin) = five_days(dir.path(), options());
    let span = (begin, begin + 5 * DAY);
    let hours = agrees(&store, &meter, span, HOUR);
    assert_eq!(tiers(&hours), [Some(Tier::Hour), None]);
    assert_eq!(hours.used[1].from, seconds(begin + 4 * DAY + 18 * HOUR));
    assert_eq!(
        tiers(&agrees(&store, &meter, span, 900)),
        [Some(Tier::FiveMinutes), None]
    );
    // Shorter steps, and what cells do not tell, are read from samples.
    let minutes = ask(Function::Max, (begin, begin + DAY), 60);
    let key = Meter::key(Metric::HostMemFree);
    assert_eq!(tiers(&store.steps(&key, &minutes).unwrap()), [None]);
    let median = ask(Function::Quantile(0.5), span, DAY);
    assert_eq!(tiers(&store.steps(&key, &median).unwrap()), [None]);
    // Many small files were merged: one of each day and tier, and those of the day under way.
    let rolled = files(&dir.path().join("rollup"));
    assert!(rolled.len() <= 2 * (4 + 3), "{rolled:?}");
}

#[test]
fn a_percentile_of_one_cell_is_exact_and_of_several_no_lower_than_the_true_one() {
    let dir = tempfile::tempdir().unwrap();
    let (store, meter, begin) = five_days(dir.path(), options());
    let key = Meter::key(Metric::HostMemFree);
    for step in [300, HOUR, 6 * HOUR] {
        let asked = ask(Function::P95, (begin, begin + 4 * DAY), step);
        let told = store.steps(&key, &asked).unwrap();
        assert!(tiers(&told).iter().all(Option::is_some));
        let truth = Steps {
            function: Function::Quantile(0.95),
            ..asked
        };
        let truth = truth.of(&meter.samples(1)).unwrap();
        assert_eq!(told.steps.len(), truth.len());
        for (told, truth) in told.steps.iter().zip(truth) {
            if step <= HOUR {
                assert_eq!(*told, truth);
            } else {
                assert!(told.value >= truth.value, "{told:?} {truth:?}");
            }
        }
    }
    let words = Meter::key(Metric::HostLibvirtUp);
    let asked = ask(Function::P95, (begin, begin + DAY), HOUR);
    assert_eq!(
        tiers(&store.steps(&words, &asked).unwrap()),
        [None],
        "a word has no percentile"
    );
}

#[test]
fn late_samples_are_seen_at_once_and_make_the_rollups_anew() {
    let dir = tempfile::tempdir().unwrap();
    let (store, mut meter, begin) = five_days(dir.path(), options());
    let late = Window {
        end: seconds(begin + DAY + 1_801),
        width_ms: 9,
    };
    meter.tell(&store, &[(late, [u64::MAX, u64::MAX, 7])]);
    let span = (begin, begin + 4 * DAY);
    let pieces = tiers(&agrees(&store, &meter, span, HOUR));
    assert_eq!(
        pieces,
        [Some(Tier::Hour), None, Some(Tier::Hour)],
        "not sealed"
    );
    store.seal().unwrap();
    assert_eq!(
        tiers(&agrees(&store, &meter, span, HOUR)).len(),
        3,
        "sealed, not rolled up"
    );
    drop(store);
    let (store, _) = Store::open(dir.path(), options()).unwrap();
    assert_eq!(
        tiers(&agrees(&store, &meter, span, HOUR)).len(),
        3,
        "after a start"
    );
    settle(&store, begin + 5 * DAY);
    assert_eq!(
        tiers(&agrees(&store, &meter, span, HOUR)),
        [Some(Tier::Hour)]
    );
    assert_eq!(
        tiers(&agrees(&store, &meter, span, 300)),
        [Some(Tier::FiveMinutes)]
    );
}

fn rolled(dir: &Path, tier: Tier) -> Vec<PathBuf> {
    files(&dir.join("rollup").join(tier.name()))
}
