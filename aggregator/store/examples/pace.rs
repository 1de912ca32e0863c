//! Prints what the store costs: `cargo run --release -p plimsoll-store --example pace -- [SUBJECTS] [ROWS]`.
//!
//! A subject has 20 series shaped like telemetry: counters of ticks and bytes, slow gauges, constants.
//! Each batch holds a sweep of each of 50 subjects; 10 s lie between rows. Figures are of this machine, now.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    clippy::indexing_slicing,
    reason = "it measures, prints, and ends where something fails"
)]

use std::time::{Duration, Instant};

use plimsoll_model::{
    Batch, Columns, Metric, NodeId, Part, Row, Rows, SeriesKey, SessionId, Subject, UnixMillis,
    Window,
};
use plimsoll_store::{Record, Store, StoreOptions};

mod telemetry;

use telemetry::{SERIES, Source, p50};

const PER_BATCH: usize = 50;
const BATCHES: usize = 32;
const BEGIN: i64 = 1_795_520_000_000;

fn resident_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS"))
        .unwrap();
    line.split_whitespace()
        .nth(1)
        .unwrap()
        .parse::<u64>()
        .unwrap()
        / 1_024
}

struct Load {
    nodes: Vec<(NodeId, SessionId)>,
    source: Source,
    columns: Columns,
    now: UnixMillis,
}

impl Load {
    fn batch(&mut self, row: usize, some: &[usize]) -> Record {
        let (node, session) = self.nodes[some[0]];
        let late = i64::try_from(self.source.random(20)).unwrap();
        let end = UnixMillis::from_millis(self.now.millis() + late);
        let mut rows = Rows::default();
        for subject in some {
            rows.push(Row {
                subject: Subject::Node(self.nodes[*subject].0),
                window: Window { end, width_ms: 2 },
                columns: &self.columns,
                values: &self.source.step(*subject),
            });
        }
        Record::Batch(Batch {
            node,
            session,
            sequence: row as u64 + 1,
            made: end,
            body_crc: 1,
            rows,
            facts: Vec::new(),
            events: Vec::new(),
        })
    }

    fn fill(&mut self, store: &Store, rows: usize) {
        let subjects: Vec<usize> = (0..self.nodes.len()).collect();
        let samples = (subjects.len() * rows) as f64 * SERIES as f64;
        let (mut appending, mut keeping) = (Duration::ZERO, Duration::ZERO);
        for row in 0..rows {
            self.now = UnixMillis::from_millis(BEGIN + i64::try_from(row).unwrap() * 10_000);
            for some in subjects.chunks(PER_BATCH * BATCHES) {
                let batches = some.chunks(PER_BATCH);
                let slice: Vec<Record> = batches.map(|some| self.batch(row, some)).collect();
                let begun = Instant::now();
                store.append(&slice).unwrap();
                appending += begun.elapsed();
            }
            let begun = Instant::now();
            store.maintain(self.now).unwrap();
            keeping += begun.elapsed();
        }
        println!("series {}, samples {samples}", subjects.len() * SERIES);
        let per_sample = |span: Duration| span.as_nanos() as f64 / samples;
        println!(
            "append, {BATCHES} batches a commit {:.1} ns/sample",
            per_sample(appending)
        );
        println!(
            "seal and merge on the way    {:.1} ns/sample",
            per_sample(keeping)
        );
        println!("resident before the last seal {} MiB", resident_mib());
    }

    fn ask(&self, store: &Store) {
        let key = |number: usize| SeriesKey {
            subject: Subject::Node(self.nodes[number * 7 % self.nodes.len()].0),
            metric: Metric::HostMemFree,
            part: Part::index(u32::try_from(number % 20).unwrap()),
        };
        let (begin, now) = (UnixMillis::from_millis(0), self.now);
        let whole = |number: usize| drop(store.range(&key(number), begin, now));
        println!("range of one series, all     {:?} p50", p50(whole, 1_000));
        let recent = now.minus(Duration::from_secs(600));
        let thousand =
            |_| (0..1_000).for_each(|number| drop(store.range(&key(number), recent, now)));
        println!("last 10 min of 1,000 series  {:?} p50", p50(thousand, 20));
        let newest =
            |_| (0..1_000).for_each(|number| assert!(store.latest(&key(number)).is_some()));
        println!("last of 1,000 series         {:?} p50", p50(newest, 20));
    }
}

fn main() {
    let mut arguments = std::env::args()
        .skip(1)
        .map(|text| text.parse::<usize>().unwrap());
    let subjects = arguments.next().unwrap_or(500);
    let rows = arguments.next().unwrap_or(720);
    let dir = tempfile::tempdir_in(".").unwrap();
    let options = StoreOptions::default;
    let (store, _) = Store::open(dir.path(), options()).unwrap();
    let mut load = Load {
        nodes: (0..subjects)
            .map(|_| (NodeId::random(), SessionId::random()))
            .collect(),
        source: Source::new(subjects),
        columns: (0..20)
            .map(|column| (Metric::HostMemFree, Part::index(column)))
            .collect(),
        now: UnixMillis::from_millis(BEGIN),
    };
    load.fill(&store, rows);
    println!("- asked with the end in memory");
    load.ask(&store);
    drop(store);
    let begun = Instant::now();
    let (store, report) = Store::open(dir.path(), options()).unwrap();
    let pace = report.samples as f64 / begun.elapsed().as_secs_f64() / 1e6;
    println!(
        "open: {} samples from the log, {pace:.1} M samples/s",
        report.samples
    );
    let begun = Instant::now();
    let sealed = store.seal().unwrap();
    let span = begun.elapsed();
    println!(
        "last seal: {sealed} samples, {:.1} ns/sample",
        span.as_nanos() as f64 / sealed as f64
    );
    drop(store);
    let begun = Instant::now();
    let (store, report) = Store::open(dir.path(), options()).unwrap();
    println!(
        "open, all sealed             {:?}; {} files",
        begun.elapsed(),
        report.sealed_files
    );
    let partitions = std::fs::read_dir(dir.path().join("blocks")).unwrap();
    let files = partitions.flat_map(|dir| std::fs::read_dir(dir.unwrap().path()).unwrap());
    let bytes: u64 = files
        .map(|file| file.unwrap().metadata().unwrap().len())
        .sum();
    println!(
        "blocks                       {:.3} B/sample",
        bytes as f64 / report.sealed_samples as f64
    );
    println!("- asked with all sealed");
    load.ask(&store);
    println!("resident at the end          {} MiB", resident_mib());
}
