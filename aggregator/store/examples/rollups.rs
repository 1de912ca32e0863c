//! Prints what rollups cost and what they save: `cargo run --release -p plimsoll-store --example rollups --
//! [SUBJECTS] [DAYS]`.
//!
//! A subject has 10 counters and 10 gauges, told every 10 s. The same questions are asked before and after
//! rollups are made. Figures are of this machine, now.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    clippy::indexing_slicing,
    reason = "it measures, prints, and ends where something fails"
)]

use std::path::Path;
use std::time::{Duration, Instant};

use plimsoll_model::{
    Batch, Columns, Metric, NodeId, Part, Row, Rows, SeriesKey, SessionId, Subject, UnixMillis,
    Window,
};
use plimsoll_store::{Answer, Function, GAP, Record, Steps, Store, StoreOptions, Upkeep};

mod telemetry;

use telemetry::{SERIES, Source, p50};

const DAY_ROWS: u64 = 8_640;
/// Rows of a subject in one batch.
const TOGETHER: u64 = 60;
/// Whole days since 1970.
const BEGIN: i64 = 20_780 * 86_400_000;
const HOUR: Duration = Duration::from_secs(3_600);

struct Load {
    nodes: Vec<(NodeId, SessionId)>,
    columns: Columns,
    source: Source,
}

impl Load {
    fn batch(&mut self, subject: usize, first: u64) -> Record {
        let (node, session) = self.nodes[subject];
        let mut rows = Rows::default();
        for row in first..first + TOGETHER {
            let end = at(row);
            rows.push(Row {
                subject: Subject::Node(node),
                window: Window { end, width_ms: 2 },
                columns: &self.columns.clone(),
                values: &self.source.step(subject),
            });
        }
        Record::Batch(Batch {
            node,
            session,
            sequence: first / TOGETHER + 1,
            made: at(first + TOGETHER),
            body_crc: 1,
            rows,
            facts: Vec::new(),
            events: Vec::new(),
        })
    }

    fn fill(&mut self, store: &Store, rows: u64) {
        for first in (0..rows).step_by(usize::try_from(TOGETHER).unwrap()) {
            let subjects = 0..self.nodes.len();
            let slice: Vec<Record> = subjects.map(|number| self.batch(number, first)).collect();
            store.append(&slice).unwrap();
            store.maintain(at(first + TOGETHER)).unwrap();
        }
        store.seal().unwrap();
        store.merge_all().unwrap();
    }
}

fn at(row: u64) -> UnixMillis {
    UnixMillis::from_millis(BEGIN + i64::try_from(row).unwrap() * 10_000)
}

fn bytes_below(dir: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(dir) else {
        return 0;
    };
    entries
        .map(|entry| entry.unwrap().path())
        .map(|path| {
            if path.is_dir() {
                bytes_below(&path)
            } else {
                path.metadata().unwrap().len()
            }
        })
        .sum()
}

/// Asks for hours of the last days of one series, in turn of all; returns the time and the last answer.
fn ask(store: &Store, load: &Load, (rows, days): (u64, u64)) -> Vec<(Duration, Answer)> {
    [
        (Metric::HostPsiCpuSome, Function::Rate),
        (Metric::HostMemFree, Function::Max),
    ]
    .into_iter()
    .map(|(metric, function)| {
        let asked = Steps {
            from: at(rows - days * DAY_ROWS),
            to: at(rows - 1),
            step: HOUR,
            function,
            gap: GAP,
        };
        let mut answer = Answer::default();
        let one = |number: usize| {
            let key = SeriesKey {
                subject: Subject::Node(load.nodes[number % load.nodes.len()].0),
                metric,
                part: Part::index(u32::try_from(number / 7 % 10).unwrap()),
            };
            answer = store.steps(&key, &asked).unwrap();
        };
        (p50(one, 101), answer)
    })
    .collect()
}

fn settle(store: &Store, now: UnixMillis) -> Duration {
    let begun = Instant::now();
    while store.maintain(now).unwrap() != Upkeep::default() {}
    begun.elapsed()
}

fn main() {
    let mut arguments = std::env::args()
        .skip(1)
        .map(|text| text.parse::<u64>().unwrap());
    let subjects = arguments.next().unwrap_or(10);
    let days = arguments.next().unwrap_or(30);
    let rows = days * DAY_ROWS;
    let dir = tempfile::tempdir_in(".").unwrap();
    let raw_only = StoreOptions {
        settle_after: HOUR * 24 * 36_500,
        ..StoreOptions::default()
    };
    let half = |metric| (0..10).map(move |part| (metric, Part::index(part)));
    let mut load = Load {
        nodes: (0..subjects)
            .map(|_| (NodeId::random(), SessionId::random()))
            .collect(),
        columns: half(Metric::HostPsiCpuSome)
            .chain(half(Metric::HostMemFree))
            .collect(),
        source: Source::new(usize::try_from(subjects).unwrap()),
    };
    let (store, _) = Store::open(dir.path(), raw_only).unwrap();
    load.fill(&store, rows);
    settle(&store, at(rows));
    let spans = [days.min(1), days];
    let before: Vec<_> = spans.map(|days| ask(&store, &load, (rows, days))).into();
    drop(store);
    let (store, _) = Store::open(dir.path(), StoreOptions::default()).unwrap();
    let late = at(rows + DAY_ROWS);
    let rolling = settle(&store, late);
    let after: Vec<_> = spans.map(|days| ask(&store, &load, (rows, days))).into();
    let series = subjects * u64::try_from(SERIES).unwrap();
    let samples = (series * rows) as f64;
    let raw = bytes_below(&dir.path().join("blocks")) as f64;
    println!("series {series}, samples {samples}");
    println!("samples   {raw:>12} bytes, {:.3} B/sample", raw / samples);
    for tier in ["5m", "1h"] {
        let bytes = bytes_below(&dir.path().join("rollup").join(tier)) as f64;
        let share = bytes / raw * 100.0;
        println!(
            "rollup {tier} {bytes:>12} bytes, {:.4} B/sample, {share:.1} % of the samples",
            bytes / samples
        );
    }
    let cost = rolling.as_nanos() as f64 / samples;
    println!("making both tiers {cost:.1} ns/sample");
    for ((days, before), after) in spans.iter().zip(before).zip(after) {
        for ((function, before), after) in ["rate", "max"].iter().zip(before).zip(after) {
            assert_eq!(before.1.steps, after.1.steps, "rollups tell the same");
            let times = before.0.as_secs_f64() / after.0.as_secs_f64();
            println!(
                "{function} of {days} d by 1 h: {:?} p50 from samples, {:?} from rollups, {times:.0} times faster",
                before.0, after.0
            );
        }
    }
}
