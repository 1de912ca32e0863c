//! The stages, the same for each engine: feed, rest, ask, kill and count, settle.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::runtime::{Builder, Runtime};

use super::engine::{Answer, Engine, Load, Question};
use super::ours::Ours;
use super::peer::{Feeding, Kind, Peer};
use super::progress::{Progress, tell};
use super::server::on_path;
use super::shape::{GUESTS, NODE_SERIES, SERIES, Size};
use crate::stage::Deadline;

/// A program is at rest when it uses less of one processor than this.
const REST_SHARE: f64 = 0.05;
/// How long rest is waited for.
const REST_LIMIT: Duration = Duration::from_secs(60);
/// Longer than the pause between the chores of any.
const CHORES: Duration = Duration::from_secs(6);
/// Samples fed right before the kill, about.
const TAIL_SAMPLES: u64 = 2_000_000;

/// One of the three.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Name {
    /// The aggregator.
    Plimsoll,
    /// `victoria-metrics`.
    VictoriaMetrics,
    /// `prometheus`.
    Prometheus,
}

/// What is to be measured.
#[derive(Debug, Clone)]
pub struct Order {
    /// How much is fed.
    pub size: Size,
    /// Which are fed, in this order.
    pub names: Vec<Name>,
    /// Samples of one request to a peer.
    pub batch: usize,
    /// Samples of each series in one request to a peer.
    pub peer_rows: u32,
    /// How often each question is asked.
    pub asks: u32,
    /// Where the aggregator's program is.
    pub programs: PathBuf,
    /// Where temporary directories are made.
    pub dir: PathBuf,
}

/// Times of one question, in milliseconds.
#[derive(Debug, Clone, Copy, Default)]
pub struct Asked {
    /// Half were answered within it.
    pub p50_ms: f64,
    /// 99 of 100 were answered within it.
    pub p99_ms: f64,
}

/// What was measured of one engine.
#[derive(Debug, Clone, Default)]
pub struct Figures {
    /// Its name and version.
    pub name: String,
    /// How it was fed and set.
    pub settings: String,
    /// Samples fed before it was asked.
    pub samples: u64,
    /// Time that took.
    pub feed_s: f64,
    /// Processor time it used for that, until it was at rest.
    pub cpu_s: f64,
    /// Processor time from the forced end form on disk, and from the start to replay, of the same samples.
    pub settle_cpu_s: f64,
    /// Resident memory when it was at rest.
    pub resident_bytes: u64,
    /// The part of it that is no mapped file.
    pub anonymous_bytes: u64,
    /// The whole span of one series.
    pub series: Asked,
    /// The last ten minutes of a thousand series.
    pub node: Asked,
    /// The last value of a thousand series.
    pub last: Asked,
    /// From the start after a kill until it answered.
    pub open_s: f64,
    /// Samples it read back from its log for that.
    pub replayed: Option<u64>,
    /// Samples acknowledged right before the kill.
    pub tail: u64,
    /// How many of them were gone after it.
    pub lost: u64,
    /// Samples it held at the end.
    pub held: u64,
    /// What they took on the disk in their final form.
    pub disk_bytes: u64,
    /// What it answered to each question, and what is true.
    answers: Vec<(Answer, Answer)>,
}

impl Figures {
    /// Says which of the answers was not what had been fed.
    fn judge(&self) -> anyhow::Result<()> {
        for (number, (answer, truth)) in self.answers.iter().enumerate() {
            // Prometheus stamps a last value with the instant that was asked for.
            let same = |(key, samples): (&_, &Vec<(i64, i64)>)| {
                let Some(told) = answer.get(key) else {
                    return false;
                };
                match (told.as_slice(), samples.as_slice()) {
                    ([(_, told)], [(_, sample)]) => told == sample,
                    (told, samples) => told == samples,
                }
            };
            if answer.len() != truth.len() || !truth.iter().all(same) {
                let wrong = truth.iter().find(|one| !same(*one));
                let told = wrong.and_then(|(key, _)| answer.get(key));
                bail!(
                    "{}: answer {number} has {} series of {}; wrong: {:?} where {:?} was fed",
                    self.name,
                    answer.len(),
                    truth.len(),
                    told.map(|told| (told.len(), told.first(), told.last())),
                    wrong.map(|(_, all)| (all.len(), all.first(), all.last())),
                );
            }
        }
        Ok(())
    }
}

/// Names the first thing that is missing.
pub fn missing(order: &Order) -> Option<String> {
    let program = order.programs.join("plimsoll-aggregator");
    if order.names.contains(&Name::Plimsoll) && !program.exists() {
        let profile = if cfg!(debug_assertions) {
            ""
        } else {
            " --release"
        };
        return Some(format!(
            "{} is not there; run `cargo build{profile} -p plimsoll-aggregator` first",
            program.display()
        ));
    }
    let peers = [
        (Name::VictoriaMetrics, Kind::VictoriaMetrics),
        (Name::Prometheus, Kind::Prometheus),
    ];
    peers
        .into_iter()
        .filter(|(name, _)| order.names.contains(name))
        .map(|(_, kind)| kind.program())
        .find(|program| on_path(program).is_none())
        .map(|program| format!("{program} is not installed (Debian package {program})"))
}

/// Measures all that were ordered, one after another.
///
/// # Errors
///
/// Says which engine could not be fed or asked, or answered other than what was fed.
pub fn run(order: &Order) -> anyhow::Result<Vec<Figures>> {
    if let Some(missing) = missing(order) {
        bail!("{missing}");
    }
    let runtimes = Runtimes {
        feeding: Runtime::new()?,
        asking: Builder::new_current_thread().enable_all().build()?,
    };
    let mut all = Vec::new();
    for name in &order.names {
        let scratch = tempfile::tempdir_in(&order.dir)?;
        let dir = scratch.path();
        let figures = match name {
            Name::Plimsoll => {
                let program = order.programs.join("plimsoll-aggregator");
                let ours = runtimes.feeding.block_on(Ours::start(&program, dir));
                ours.and_then(|ours| measure(ours, order, &runtimes))
            }
            Name::VictoriaMetrics => peer(Kind::VictoriaMetrics, dir, order, &runtimes),
            Name::Prometheus => peer(Kind::Prometheus, dir, order, &runtimes),
        };
        let figures = figures.with_context(|| format!("{name:?}"))?;
        figures.judge()?;
        all.push(figures);
    }
    Ok(all)
}

/// Where the client's side runs.
struct Runtimes {
    /// On all processors.
    feeding: Runtime,
    /// On one thread, so that no answer waits for a thread of the client to wake another one.
    asking: Runtime,
}

fn peer(kind: Kind, dir: &Path, order: &Order, runtimes: &Runtimes) -> anyhow::Result<Figures> {
    let program = on_path(kind.program()).context("it was there before")?;
    let feeding = Feeding {
        batch: order.batch,
        rows: order.peer_rows,
    };
    let peer = runtimes
        .feeding
        .block_on(Peer::start(kind, &program, dir, feeding))?;
    measure(peer, order, runtimes)
}

fn measure(mut engine: impl Engine, order: &Order, runtimes: &Runtimes) -> anyhow::Result<Figures> {
    let mut figures = Figures {
        name: engine.name().to_owned(),
        settings: engine.settings(),
        samples: order.size.samples(order.size.rows),
        ..Figures::default()
    };
    let mut load = Load::new(order.size);
    runtimes
        .feeding
        .block_on(feed(&mut engine, &mut load, &mut figures))?;
    runtimes.asking.block_on(async {
        engine.connect_again().await?;
        ask_all(&mut engine, order, &mut figures).await
    })?;
    runtimes.feeding.block_on(async {
        engine.connect_again().await?;
        kill(&mut engine, &mut load, &mut figures).await?;
        let before_s = engine.server().cpu_s()?;
        let (disk_bytes, end_s) = engine.settle().await?;
        figures.disk_bytes = disk_bytes;
        figures.settle_cpu_s = end_s - before_s;
        Ok(figures)
    })
}

/// Feeds all, and measures the engine when it has come to rest.
async fn feed(
    engine: &mut impl Engine,
    load: &mut Load,
    figures: &mut Figures,
) -> anyhow::Result<()> {
    let progress = Progress::new(figures.name.clone(), figures.samples);
    let progress = Arc::new(progress);
    let idle_s = engine.server().cpu_s()?;
    let rows = 0..load.size.rows;
    engine.feed(load, rows, &progress).await?;
    figures.feed_s = progress.elapsed().as_secs_f64();
    engine.show().await?;
    rest(engine).await?;
    figures.cpu_s = engine.server().cpu_s()? - idle_s;
    (figures.resident_bytes, figures.anonymous_bytes) = engine.server().resident()?;
    Ok(())
}

/// Waits until the program does nothing more, so that what it does later for what it was fed counts.
async fn rest(engine: &mut impl Engine) -> anyhow::Result<()> {
    let deadline = Deadline::after(REST_LIMIT);
    // Each has chores that it does every few seconds.
    tokio::time::sleep(CHORES).await;
    let second = Duration::from_secs(1);
    let mut quiet = 0;
    while quiet < 2 && !deadline.is_over() {
        let before_s = engine.server().cpu_s()?;
        tokio::time::sleep(second).await;
        let used_s = engine.server().cpu_s()? - before_s;
        quiet = if used_s < REST_SHARE { quiet + 1 } else { 0 };
    }
    Ok(())
}

async fn ask_all(
    engine: &mut impl Engine,
    order: &Order,
    figures: &mut Figures,
) -> anyhow::Result<()> {
    let size = order.size;
    let to_ms = size.after_ms(size.rows);
    let span_s = (i64::from(size.rows) * size.interval_ms).div_euclid(1_000);
    let recent_s = span_s.min(600);
    // Strides that are prime to what is asked for, so that questions do not repeat.
    let guest = |number: u32| number.wrapping_mul(7_919) % (size.nodes * GUESTS);
    let column = |number: u32| number as usize * 7 % SERIES.len();
    let node = |number: u32| number.wrapping_mul(7_919) % size.nodes;
    let series = |number| Question::Series {
        guest: guest(number),
        column: column(number),
        span_s,
        to_ms,
    };
    let recent = |number| Question::Node {
        node: node(number),
        span_s: recent_s,
        to_ms,
    };
    let last = |number| Question::Last {
        node: node(number),
        to_ms,
    };
    figures.series = asked(engine, order.asks, series).await?;
    figures.node = asked(engine, order.asks, recent).await?;
    figures.last = asked(engine, order.asks, last).await?;
    for question in [series(1), series(2), recent(1), last(1)] {
        let raw = engine.ask(&question).await?;
        let truth = question.truth(&size, size.rows);
        figures.answers.push((engine.read(raw)?, truth));
    }
    Ok(())
}

async fn asked(
    engine: &mut impl Engine,
    asks: u32,
    question: impl Fn(u32) -> Question,
) -> anyhow::Result<Asked> {
    let mut times_ms = Vec::new();
    for number in 0..asks {
        let question = question(number);
        let watch = Deadline::after(Duration::MAX);
        let raw = engine.ask(&question).await?;
        times_ms.push(watch.elapsed().as_secs_f64() * 1e3);
        drop(raw);
    }
    times_ms.sort_by(f64::total_cmp);
    let at = |percent: usize| times_ms.get(times_ms.len() * percent / 100).copied();
    Ok(Asked {
        p50_ms: at(50).unwrap_or_default(),
        p99_ms: at(99).unwrap_or_default(),
    })
}

/// Feeds a tail, kills the engine with the last acknowledgement, starts it again and counts.
async fn kill(
    engine: &mut impl Engine,
    load: &mut Load,
    figures: &mut Figures,
) -> anyhow::Result<()> {
    let size = load.size;
    let tail = (TAIL_SAMPLES / size.samples(1)).clamp(3, 60);
    let tail = u32::try_from(tail).unwrap_or(3);
    let rows = size.rows + tail;
    figures.tail = size.samples(tail);
    let progress = Arc::new(Progress::new(
        format!("{} tail", figures.name),
        figures.tail,
    ));
    engine.feed(load, size.rows..rows, &progress).await?;
    engine.server().kill()?;
    let watch = Deadline::after(Duration::MAX);
    engine.start_again().await?;
    let to_ms = size.after_ms(rows);
    engine.ask(&Question::Last { node: 0, to_ms }).await?;
    figures.open_s = watch.elapsed().as_secs_f64();
    figures.replayed = engine.replayed()?;
    tell(&format!("{}: killed, opened again", figures.name));
    let span_s = (i64::from(tail) * size.interval_ms).div_euclid(1_000);
    let mut kept = 0;
    for node in 0..size.nodes {
        let question = Question::Node {
            node,
            span_s,
            to_ms,
        };
        let raw = engine.ask(&question).await?;
        kept += engine.read(raw)?.values().map(Vec::len).sum::<usize>() as u64;
    }
    figures.lost = figures.tail.saturating_sub(kept);
    figures.held = figures.samples + kept;
    Ok(())
}

/// Series of an order.
pub fn series(size: &Size) -> u64 {
    u64::from(size.nodes) * NODE_SERIES
}
