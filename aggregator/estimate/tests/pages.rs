//! Holds the simulator against another one that keeps every page and draws every write: slow and
//! literal, where the simulator of the crate is fast and works with expected values.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a literal simulator of pages reads best as arrays of pages, and must stop if it is wrong"
)]

use std::io::Write as _;

use plimsoll_estimate::{
    BandwidthSource, DirtyClass, DirtyModel, DowntimeProfile, Inputs, LinkBandwidth, Policy, Scene,
    simulate,
};
use plimsoll_model::{Accelerator, Bandwidth, ByteSize, MigrationMode};

const MIB: f64 = 1_048_576.0;

#[derive(Clone, Copy)]
struct Case {
    name: &'static str,
    memory_mib: u64,
    touched_mib: f64,
    /// MiB written to and pages written in a second, hot and cold.
    hot: (f64, f64),
    cold: (f64, f64),
    line: f64,
    cap: Option<f64>,
    limit_ms: u64,
    kvm: bool,
}

const CASES: [Case; 7] = [
    Case {
        name: "idle, capped",
        memory_mib: 256,
        touched_mib: 150.0,
        hot: (4.0, 20.0),
        cold: (0.0, 0.0),
        line: 1e9,
        cap: Some(50e6),
        limit_ms: 100,
        kvm: false,
    },
    Case {
        name: "one writer of 24 MiB, capped",
        memory_mib: 256,
        touched_mib: 180.0,
        hot: (24.0, 4_000.0),
        cold: (0.0, 0.0),
        line: 1e9,
        cap: Some(40e6),
        limit_ms: 300,
        kvm: false,
    },
    Case {
        name: "hot and cold, no cap",
        memory_mib: 384,
        touched_mib: 300.0,
        hot: (10.0, 3_000.0),
        cold: (200.0, 800.0),
        line: 47.8e6,
        cap: None,
        limit_ms: 300,
        kvm: false,
    },
    Case {
        name: "hot and cold, no cap, KVM",
        memory_mib: 384,
        touched_mib: 300.0,
        hot: (10.0, 3_000.0),
        cold: (200.0, 800.0),
        line: 47.8e6,
        cap: None,
        limit_ms: 300,
        kvm: true,
    },
    Case {
        name: "1.5 GiB, two chunks, KVM",
        memory_mib: 1536,
        touched_mib: 1_000.0,
        hot: (60.0, 5_000.0),
        cold: (400.0, 1_500.0),
        line: 117e6,
        cap: None,
        limit_ms: 300,
        kvm: true,
    },
    Case {
        name: "a wide downtime limit",
        memory_mib: 256,
        touched_mib: 200.0,
        hot: (40.0, 9_000.0),
        cold: (0.0, 0.0),
        line: 60e6,
        cap: None,
        limit_ms: 900,
        kvm: false,
    },
    Case {
        name: "faster than the line",
        memory_mib: 256,
        touched_mib: 200.0,
        hot: (60.0, 20_000.0),
        cold: (0.0, 0.0),
        line: 40e6,
        cap: None,
        limit_ms: 100,
        kvm: false,
    },
];

const DEVICE_PAGES: usize = 4300;
const TIMEOUT_S: f64 = 60.0;

/// A pseudo-random sequence with a printed seed (Marsaglia's xorshift).
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % u64::try_from(bound).unwrap()).unwrap()
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Zero,
    Still,
    Hot,
    Cold,
}

struct Literal {
    case: Case,
    kinds: Vec<Kind>,
    pending: Vec<bool>,
    log: Vec<bool>,
    fetched: Vec<bool>,
    cleared: Vec<bool>,
    pending_count: usize,
    writers: [(Vec<usize>, f64, f64); 2],
    cursor: usize,
    now_s: f64,
    bytes: f64,
    dice: Dice,
}

const CHUNK_PAGES: usize = 1 << 18;

impl Literal {
    fn new(case: Case, seed: u64) -> Self {
        let guest = usize::try_from(case.memory_mib * 256).unwrap();
        let mut dice = Dice(seed);
        let mut order: Vec<usize> = (0..guest).collect();
        for at in (1..guest).rev() {
            order.swap(at, dice.below(at + 1));
        }
        let pages = |mib: f64| -> usize { format!("{:.0}", mib * 256.0).parse().unwrap() };
        let (hot, cold) = (pages(case.hot.0), pages(case.cold.0));
        let mut kinds = vec![Kind::Zero; guest + DEVICE_PAGES];
        for (rank, page) in order.iter().enumerate().take(pages(case.touched_mib)) {
            kinds[*page] = match rank {
                rank if rank < hot => Kind::Hot,
                rank if rank < hot + cold => Kind::Cold,
                _ => Kind::Still,
            };
        }
        let all = kinds.len();
        Self {
            case,
            kinds,
            pending: vec![true; all],
            log: vec![false; all],
            fetched: vec![true; all],
            cleared: vec![false; all / CHUNK_PAGES + 1],
            pending_count: all,
            writers: [
                (order[..hot].to_vec(), case.hot.1, 0.0),
                (order[hot..hot + cold].to_vec(), case.cold.1, 0.0),
            ],
            cursor: 0,
            now_s: 0.0,
            bytes: 0.0,
            dice,
        }
    }

    fn pass(&mut self, seconds: f64) {
        self.now_s += seconds;
        for (pages, rate, due) in &mut self.writers {
            *due += *rate * seconds;
            while *due >= 1.0 && !pages.is_empty() {
                *due -= 1.0;
                self.log[pages[self.dice.below(pages.len())]] = true;
            }
        }
    }

    fn sync(&mut self) {
        self.pass(0.002 * self.case.memory_mib as f64 / 1024.0);
        self.fetched.copy_from_slice(&self.log);
        for (page, pending) in self.pending.iter_mut().enumerate() {
            if self.log[page] && !*pending {
                *pending = true;
                self.pending_count += 1;
            }
        }
        if self.case.kvm {
            self.cleared.fill(false);
        } else {
            self.log.fill(false);
        }
    }

    /// Sends the next page; returns its bytes.
    fn send_page(&mut self, rate: f64) -> f64 {
        while !self.pending[self.cursor] {
            self.cursor = (self.cursor + 1) % self.pending.len();
        }
        let chunk = self.cursor / CHUNK_PAGES;
        if self.case.kvm && !self.cleared[chunk] {
            self.cleared[chunk] = true;
            let end = ((chunk + 1) * CHUNK_PAGES).min(self.log.len());
            for page in chunk * CHUNK_PAGES..end {
                self.log[page] &= !self.fetched[page];
            }
        }
        self.pending[self.cursor] = false;
        self.pending_count -= 1;
        let bytes = if self.kinds[self.cursor] == Kind::Zero {
            self.pass(1e-6);
            9.0
        } else {
            self.pass(4104.0 / rate);
            4104.0
        };
        self.bytes += bytes;
        bytes
    }

    /// Runs the loop; returns total, downtime and bytes, or nothing if it does not end.
    fn run(mut self) -> Option<(f64, f64, f64)> {
        let case = self.case;
        let quota = case.cap.map_or(f64::INFINITY, |cap| cap * 0.1);
        let limit_s = case.limit_ms as f64 / 1e3;
        let (mut threshold, mut window_s, mut window_bytes) = (0.0, 0.0, 0.0);
        while self.now_s < TIMEOUT_S {
            let below = |this: &Self, threshold: f64| {
                this.pending_count == 0 || (this.pending_count as f64) * 4096.0 < threshold
            };
            if below(&self, threshold) {
                self.sync();
                if below(&self, threshold) {
                    return Some(self.finish());
                }
            }
            let slice_end_s = self.now_s + 0.05;
            while self.pending_count > 0 && self.now_s < slice_end_s && window_bytes < quota {
                window_bytes += self.send_page(case.line);
            }
            if window_bytes >= quota {
                let rest_s = (window_s + 0.1 - self.now_s).max(0.0);
                self.pass(rest_s);
            }
            if self.now_s - window_s >= 0.1 - 1e-9 {
                threshold = window_bytes / (self.now_s - window_s) * limit_s;
                window_s = self.now_s;
                window_bytes = 0.0;
            }
        }
        None
    }

    fn finish(mut self) -> (f64, f64, f64) {
        let stopped_s = self.now_s;
        for writer in &mut self.writers {
            writer.1 = 0.0;
        }
        while self.pending_count > 0 {
            self.send_page(self.case.line);
        }
        let sync_s = 0.002 * self.case.memory_mib as f64 / 1024.0;
        let rest_s = sync_s + 0.002 + 0.015 + 300_000.0 / self.case.line;
        let downtime_s = self.now_s - stopped_s + rest_s;
        (
            self.now_s + rest_s + 0.005,
            downtime_s,
            self.bytes + 300_000.0,
        )
    }
}

fn scene(case: &Case) -> Scene {
    let rate =
        |value: f64| Bandwidth::from_bytes_per_second(format!("{value:.0}").parse().unwrap());
    let mut inputs = Inputs::new(
        ByteSize::from_mib(case.memory_mib),
        LinkBandwidth {
            rate: rate(case.line),
            uncertainty: None,
            source: BandwidthSource::Measured,
        },
        Policy {
            mode: MigrationMode::Precopy,
            downtime: DowntimeProfile::Constant {
                limit_ms: case.limit_ms,
            },
            max_bandwidth: case.cap.map(rate),
            timeout_ms: Some(60_000),
            postcopy_after_ms: None,
        },
    );
    inputs.device_memory = ByteSize::from_kib(u64::try_from(DEVICE_PAGES).unwrap() * 4);
    // No libvirt starts anything here.
    inputs.fixed.setup_us = 5_000;
    inputs.accelerator = Some(if case.kvm {
        Accelerator::Kvm
    } else {
        Accelerator::Tcg
    });
    let class = |(mib, rate): (f64, f64)| DirtyClass {
        bytes: mib * MIB,
        writes_per_s: rate / (mib * 256.0).max(1.0),
    };
    let mut classes = [DirtyClass::default(); 8];
    classes[0] = class(case.cold);
    classes[1] = class(case.hot);
    let zero = 1.0 - case.touched_mib / case.memory_mib as f64;
    Scene::new(
        &inputs,
        zero,
        DirtyModel::from_classes(classes, case.touched_mib * MIB),
    )
}

#[test]
fn expected_values_say_what_drawing_every_page_says() {
    for case in CASES {
        let said = simulate(&scene(&case));
        let mut out = std::io::stdout().lock();
        for seed in [7, 1_234_567, 0x9E37_79B9] {
            let drawn = Literal::new(case, seed).run();
            writeln!(
                out,
                "{:<30} seed {seed:>10}: drawn {:?}, said {} {:.3} s {:.4} s {:.0} bytes",
                case.name, drawn, said.converged, said.total_s, said.downtime_s, said.bytes
            )
            .unwrap();
            assert_eq!(drawn.is_some(), said.converged, "{} seed {seed}", case.name);
            let Some((total_s, downtime_s, bytes)) = drawn else {
                continue;
            };
            let off = |said: f64, drawn: f64| (said - drawn).abs() / drawn;
            assert!(
                off(said.total_s, total_s) < 0.05,
                "{} seed {seed}",
                case.name
            );
            assert!(off(said.bytes, bytes) < 0.05, "{} seed {seed}", case.name);
            // Which slice ends below the threshold is chance: up to one slice of data more or less.
            let slack_s = 0.05 + 0.1 * downtime_s;
            assert!(
                (said.downtime_s - downtime_s).abs() < slack_s,
                "{} seed {seed}",
                case.name
            );
        }
    }
}
