//! Everything at once, for a while: lines that break, fall silent and swallow, programs that are killed and
//! stopped. At the end all is well again, and the books are held.
//!
//! `PLIMSOLL_CHAOS_SECONDS` says how long it lasts, `PLIMSOLL_CHAOS_SEED` takes the same orders again.

use std::path::{Path, PathBuf};
use std::time::Duration;

use plimsoll_tests::stage::Deadline;
use rustix::process::Signal;

use super::line::Line;
use super::{Agent, LIMIT, Way, books, free_address, hears_anew, last, memory_bytes};
use crate::house::Aggregator;

const AGENTS: usize = 3;
/// Of one agent: its spool remembers no more sessions that have finished.
const KILLS_MAX: usize = 6;
/// Of the aggregator, with three agents on it.
const MEMORY_MAX: u64 = 96 << 20;

struct Site {
    dir: PathBuf,
    address: String,
    lines: Vec<Line>,
    agents: Vec<Agent>,
    kills: Vec<usize>,
    house: Option<Aggregator>,
}

impl Site {
    fn raise(dir: &Path) -> Self {
        let address = free_address();
        let lines: Vec<Line> = (0..AGENTS).map(|_| Line::to(&address)).collect();
        let start = |(number, line): (usize, &Line)| {
            let dir = dir.join(format!("agent-{number}"));
            Way::default().agent(&line.url(), &dir, "")
        };
        let agents = lines.iter().enumerate().map(start).collect();
        let mut this = Self {
            dir: dir.to_owned(),
            address,
            lines,
            agents,
            kills: vec![0; AGENTS],
            house: None,
        };
        this.start_aggregator();
        this
    }

    fn start_aggregator(&mut self) {
        let data = self.dir.join("data");
        let (house, _) = Way::default().aggregator(&self.address, &data, "");
        self.house = Some(house);
    }

    /// Does something bad, and says what.
    fn harm(&mut self, rng: &mut fastrand::Rng) -> &'static str {
        let which = rng.usize(0..AGENTS);
        let stop = Duration::from_millis(rng.u64(100..2_000));
        match rng.u32(0..8) {
            0 => {
                self.lines[which].cut();
                "a line breaks"
            }
            1 => {
                self.lines[which].silence(true);
                last(stop);
                self.lines[which].silence(false);
                "a line is silent"
            }
            2 => {
                // What the aggregator says is lost, and then the line breaks.
                self.lines[which].swallow(true);
                last(stop);
                self.lines[which].cut();
                self.lines[which].swallow(false);
                "acknowledgements are lost"
            }
            3 => {
                let delay = Duration::from_millis(rng.u64(0..300));
                self.lines[which].shape(delay, rng.u64(1..64) << 10);
                "a line becomes slow"
            }
            4 if self.kills[which] < KILLS_MAX => {
                self.kills[which] += 1;
                let (line, dir) = (&self.lines[which], self.agents[which].dir.clone());
                self.agents[which].program.0.kill().unwrap();
                self.agents[which].program.0.wait().unwrap();
                self.agents[which] = Way::default().agent(&line.url(), &dir, "");
                "an agent is killed"
            }
            5 => {
                self.house = None;
                last(stop);
                self.start_aggregator();
                "the aggregator is killed"
            }
            6 => {
                let house = self.house.as_ref().unwrap();
                house.program.signal(Signal::STOP);
                last(stop);
                house.program.signal(Signal::CONT);
                "the aggregator stands still"
            }
            _ => {
                self.agents[which].program.signal(Signal::STOP);
                last(stop);
                self.agents[which].program.signal(Signal::CONT);
                "an agent stands still"
            }
        }
    }
}

pub(super) fn setting(name: &str, default: u64) -> u64 {
    let told = std::env::var(name).ok();
    told.map_or(default, |told| told.parse().unwrap())
}

#[test]
fn of_all_faults_at_once_nothing_acknowledged_is_lost_and_nothing_is_there_twice() {
    let length = Duration::from_secs(setting("PLIMSOLL_CHAOS_SECONDS", 12));
    let seed = setting("PLIMSOLL_CHAOS_SEED", u64::from(std::process::id()));
    println!("PLIMSOLL_CHAOS_SEED={seed}");
    let mut rng = fastrand::Rng::with_seed(seed);
    let dir = tempfile::tempdir().unwrap();
    let mut site = Site::raise(dir.path());
    let over = Deadline::after(length);
    let (mut harms, mut memory) = (0, 0);
    while !over.is_over() {
        let harm = site.harm(&mut rng);
        harms += 1;
        println!("{:6.1} s {harm}", over.elapsed().as_secs_f64());
        memory = memory.max(memory_bytes(site.house.as_ref().unwrap().program.0.id()));
        last(Duration::from_millis(rng.u64(10..800)));
    }
    for line in &site.lines {
        line.shape(Duration::ZERO, 0);
    }
    let healed = Deadline::after(LIMIT);
    hears_anew(&format!("http://{}", site.address), AGENTS);
    let back = healed.elapsed();
    let dirs: Vec<PathBuf> = site.agents.drain(..).map(Agent::end).collect();
    drop(site.house.take());
    let dirs: Vec<&Path> = dirs.iter().map(PathBuf::as_path).collect();
    let count = books::settle(&dir.path().join("data"), &dirs);
    println!(
        "{harms} faults, memory {} KiB, all back after {back:?}: {count:?}",
        memory >> 10
    );
    assert!(memory < MEMORY_MAX, "{memory}");
    assert_eq!(count.in_flight, 0, "{count:?}");
    assert_eq!(
        count.gap, 0,
        "nobody lost power, and no spool was full: {count:?}"
    );
}
