//! Prints what the store costs: `cargo run --release -p plimsoll-store --example pace -- [SUBJECTS] [ROWS]`.
//!
//! A subject has 20 series shaped like telemetry: counters of ticks and bytes, slow gauges, constants.
//! Each batch holds one sweep of 50 subjects; 10 s lie between rows. Figures are of this machine, now.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "it measures, prints, and ends where something fails"
)]

use std::time::Instant;

use plimsoll_model::{
    Batch, Metric, NodeId, Part, SeriesKey, SessionId, Subject, Sweep, UnixMillis, Window,
};
use plimsoll_store::{Record, Store, StoreOptions};

const COLUMNS: u64 = 20;
const PER_BATCH: usize = 50;
const BEGIN: i64 = 1_795_520_000_000;

struct Source {
    state: u64,
    values: Vec<u64>,
}

impl Source {
    fn random(&mut self, below: u64) -> u64 {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        self.state % below
    }

    /// Moves the values of a subject on by one interval.
    fn step(&mut self, subject: usize) -> Vec<(Metric, Part, u64)> {
        (0..COLUMNS)
            .map(|column| {
                let place = subject * 20 + usize::try_from(column).unwrap();
                let step = match column {
                    0..=6 => self.random(400) * 10_000_000,
                    7..=10 => self.random(200_000),
                    11..=14 if self.random(8) == 0 => self.random(64) * 4_096,
                    _ => 0,
                };
                self.values[place] += step;
                (
                    Metric::HostMemFree,
                    Part::index(u32::try_from(column).unwrap()),
                    self.values[place],
                )
            })
            .collect()
    }
}

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

fn p50(mut ask: impl FnMut(usize), times: usize) -> std::time::Duration {
    let mut spans: Vec<_> = (0..times)
        .map(|number| {
            let begun = Instant::now();
            ask(number);
            begun.elapsed()
        })
        .collect();
    spans.sort();
    spans[times / 2]
}

fn main() {
    let mut arguments = std::env::args()
        .skip(1)
        .map(|text| text.parse::<usize>().unwrap());
    let subjects = arguments.next().unwrap_or(500);
    let rows = arguments.next().unwrap_or(720);
    let dir = tempfile::tempdir_in(".").unwrap();
    let (store, _) = Store::open(dir.path(), StoreOptions::default()).unwrap();
    let nodes: Vec<(NodeId, SessionId)> = (0..subjects)
        .map(|_| (NodeId::random(), SessionId::random()))
        .collect();
    let mut source = Source {
        state: 88_172_645_463_325_252,
        values: vec![1 << 30; subjects * 20],
    };
    let samples = (subjects * rows) as f64 * COLUMNS as f64;
    let (mut appending, mut keeping) = (std::time::Duration::ZERO, std::time::Duration::ZERO);
    let mut now = UnixMillis::from_millis(BEGIN);
    for row in 0..rows {
        now = UnixMillis::from_millis(BEGIN + i64::try_from(row).unwrap() * 10_000);
        let all: Vec<usize> = (0..subjects).collect();
        for some in all.chunks(PER_BATCH) {
            let (node, session) = nodes[some[0]];
            let end =
                UnixMillis::from_millis(now.millis() + i64::try_from(source.random(20)).unwrap());
            let sweep = |subject: &usize| Sweep {
                subject: Subject::Node(nodes[*subject].0),
                window: Window { end, width_ms: 2 },
                values: source.step(*subject),
            };
            let batch = Record::Batch(Batch {
                node,
                session,
                sequence: row as u64 + 1,
                made: end,
                body_crc: 1,
                sweeps: some.iter().map(sweep).collect(),
                facts: Vec::new(),
                events: Vec::new(),
            });
            let begun = Instant::now();
            store.append(std::slice::from_ref(&batch)).unwrap();
            appending += begun.elapsed();
        }
        let begun = Instant::now();
        store.maintain(now).unwrap();
        keeping += begun.elapsed();
    }
    println!("series {}, samples {samples}", subjects * 20);
    println!(
        "append (one commit a batch)  {:.1} ns/sample",
        appending.as_nanos() as f64 / samples
    );
    println!(
        "seal and merge on the way    {:.1} ns/sample",
        keeping.as_nanos() as f64 / samples
    );
    println!("resident before the last seal {} MiB", resident_mib());
    let begun = Instant::now();
    store.seal().unwrap();
    println!("last seal                    {:?}", begun.elapsed());
    drop(store);
    let begun = Instant::now();
    let (store, report) = Store::open(dir.path(), StoreOptions::default()).unwrap();
    println!(
        "open, all sealed             {:?}; {} files",
        begun.elapsed(),
        report.sealed_files
    );
    let bytes: u64 = std::fs::read_dir(dir.path().join("blocks"))
        .unwrap()
        .flat_map(|partition| std::fs::read_dir(partition.unwrap().path()).unwrap())
        .map(|file| file.unwrap().metadata().unwrap().len())
        .sum();
    println!(
        "blocks                       {:.3} B/sample",
        bytes as f64 / samples
    );
    let key = |number: usize| SeriesKey {
        subject: Subject::Node(nodes[number * 7 % subjects].0),
        metric: Metric::HostMemFree,
        part: Part::index(u32::try_from(number % 20).unwrap()),
    };
    let begin = UnixMillis::from_millis(0);
    let whole = |number: usize| drop(store.range(&key(number), begin, now));
    println!("range of one series, all     {:?} p50", p50(whole, 1_000));
    let recent = now.minus(std::time::Duration::from_secs(600));
    let thousand = |_| (0..1_000).for_each(|number| drop(store.range(&key(number), recent, now)));
    println!("last 10 min of 1,000 series  {:?} p50", p50(thousand, 20));
    let newest = |_| (0..1_000).for_each(|number| assert!(store.latest(&key(number)).is_some()));
    println!("last of 1,000 series, cold   {:?} p50", p50(newest, 20));
    println!("resident at the end          {} MiB", resident_mib());
}
