//! Faults at the N-th system call of a kind, for every N: the process is killed there, or the call fails.
//! strace does both (`-e inject`).
//!
//! Two stories: the first start on an empty directory, and a start with a torn end behind which a store
//! seals, merges, forgets and replaces its manifest.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use anyhow::{Context as _, ensure};

use crate::Row;
use crate::run::{Living, Said, child, copy, files, run, scratch, text};
use crate::world::World;

/// Calls that change a disk.
const CALLS: [&str; 11] = [
    "write",
    "pwrite64",
    "fdatasync",
    "fsync",
    "rename",
    "unlink",
    "rmdir",
    "mkdir",
    "ftruncate",
    "copy_file_range",
    "sync_file_range",
];

/// What becomes of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Fault {
    /// The process is killed when it makes the call.
    Kill,
    /// The disk is full for this one call.
    Full,
    /// The disk is full from this call on, while the store is opened again, and then no more.
    FullFrom,
    /// The disk is full for this one call, and the process is killed at some fdatasync.
    FullKill,
    /// The disk fails at this one call.
    Broken,
}

impl Fault {
    /// Says to strace what is to happen.
    fn inject(self, strike: &Strike<'_>) -> Vec<String> {
        let at = |what: &str| format!("inject={}:{what}:when={}", strike.call, strike.number);
        let full = at("error=ENOSPC");
        match self {
            Self::Kill => vec![at("signal=KILL")],
            Self::Full => vec![full],
            Self::FullFrom => vec![format!("{full}+")],
            Self::FullKill => {
                let kill = format!("inject=fdatasync:signal=KILL:when={}", strike.sync);
                vec![full, kill]
            }
            Self::Broken => vec![at("error=EIO")],
        }
    }

    fn is_kill(self) -> bool {
        matches!(self, Self::Kill | Self::FullKill)
    }

    fn strikes(self, call: &str) -> bool {
        match self {
            Self::Kill | Self::Broken => true,
            // What needs no space is not refused for want of it. sync_file_range tells of failed writes.
            Self::Full => !matches!(call, "unlink" | "rmdir" | "ftruncate"),
            Self::FullKill => matches!(call, "write" | "fsync" | "rename" | "mkdir"),
            // A directory that is there can be made again on a full disk, but not past an injection.
            Self::FullFrom => matches!(call, "write" | "pwrite64" | "copy_file_range"),
        }
    }
}

/// A story: the directory it begins with, and how many slices it tells.
struct Story {
    name: &'static str,
    base: PathBuf,
    acked: u64,
    slices: u64,
}

/// One run.
struct Strike<'a> {
    story: &'a Story,
    fault: Fault,
    call: &'static str,
    number: u64,
    /// The fdatasync at which the process is killed, where the fault has one.
    sync: u64,
}

/// The calls a story makes.
#[derive(Default)]
struct Counts {
    /// The most of a kind that any one thread makes.
    most: BTreeMap<String, u64>,
    /// How many of fdatasync lie before a call of a kind.
    syncs_before: BTreeMap<(String, u64), u64>,
}

/// Strikes at every `stride`-th call, or at those of one kind, with each of the faults.
pub(crate) fn calls(
    world: World,
    faults: &[Fault],
    (only, stride): (Option<&str>, u64),
) -> anyhow::Result<Vec<Row>> {
    let place = scratch()?;
    let stories = [
        first_start(place.path())?,
        running(world, place.path(), false)?,
        running(world, place.path(), true)?,
    ];
    let mut rows = Vec::new();
    for fault in faults {
        for story in &stories {
            let counts = count(world, story, place.path())?;
            let mut row = Row::named(format!("{fault:?} at a call, {}", story.name));
            let mut strikes = Vec::new();
            let meant = |call: &&str| fault.strikes(call) && only.is_none_or(|only| only == *call);
            for call in CALLS.into_iter().filter(meant) {
                // One more than was counted, as threads do not always share the work alike.
                let count = counts.most.get(call).map_or(0, |count| count + 1);
                let numbers = (1 + world.seed % stride..=count).step_by(usize::try_from(stride)?);
                strikes.extend(numbers.map(|number| {
                    let before = counts.syncs_before.get(&(call.to_owned(), number));
                    Strike {
                        story,
                        fault: *fault,
                        call,
                        number,
                        // Soon behind it.
                        sync: before.unwrap_or(&0) + 1 + world.dice(number, 300, 2),
                    }
                }));
            }
            let planned = strikes.len();
            all(world, strikes, place.path(), &mut row)?;
            // Beside the one more of each call, some threads of the index do not come as far each time.
            let missed = planned.saturating_sub(usize::try_from(row.cycles)?);
            ensure!(
                missed <= 4 * CALLS.len(),
                "{missed} of {planned} faults struck nothing"
            );
            rows.push(row);
        }
    }
    Ok(rows)
}

fn first_start(place: &Path) -> anyhow::Result<Story> {
    let base = place.join("first");
    std::fs::create_dir(&base)?;
    Ok(Story {
        name: "first start",
        base,
        acked: 0,
        slices: 16,
    })
}

fn running(world: World, place: &Path, torn: bool) -> anyhow::Result<Story> {
    let base = place.join(if torn { "torn" } else { "running" });
    std::fs::create_dir(&base)?;
    let mut living = Living::start(&child(&base, world.seed, None)?, None)?;
    living.hear_acks(150)?;
    let acked = living.kill()?.acked;
    if torn {
        let segment = files(&base.join("log"))?.pop().context("no segment")?;
        let mut bytes = std::fs::read(&segment)?;
        bytes.extend([7; 33]);
        std::fs::write(&segment, &bytes)?;
    }
    Ok(Story {
        name: if torn { "torn end" } else { "running" },
        base,
        acked,
        slices: 24,
    })
}

fn traced(
    strace: &[&str],
    world: World,
    (dir, slices): (&Path, u64),
) -> anyhow::Result<Vec<String>> {
    let mut words: Vec<String> = ["strace", "-f", "-qq", "-y"]
        .iter()
        .chain(strace)
        .map(|word| (*word).to_owned())
        .collect();
    words.extend(child(dir, world.seed, Some(slices))?);
    Ok(words)
}

/// Counts the calls of the story.
fn count(world: World, story: &Story, place: &Path) -> anyhow::Result<Counts> {
    let dir = place.join("counted");
    copy(&story.base, &dir)?;
    let told = place.join("counted.strace");
    let which = format!("trace={}", CALLS.join(","));
    let strace = ["-e", &which, "-o", &text(&told)?];
    run(&traced(&strace, world, (&dir, story.slices))?)?;
    let mut by_thread: BTreeMap<(String, String), u64> = BTreeMap::new();
    let mut counts = Counts::default();
    let mut syncs = 0;
    for line in std::fs::read_to_string(&told)?.lines() {
        let words = line.split_once(' ');
        let call =
            words.and_then(|(thread, rest)| Some((thread, rest.trim_start().split_once('(')?.0)));
        let Some((thread, call)) = call else {
            continue;
        };
        let number = by_thread
            .entry((call.to_owned(), thread.to_owned()))
            .or_default();
        *number += 1;
        let most = counts.most.entry(call.to_owned()).or_default();
        *most = (*most).max(*number);
        counts
            .syncs_before
            .insert((call.to_owned(), *number), syncs);
        syncs += u64::from(call == "fdatasync");
    }
    std::fs::remove_dir_all(&dir)?;
    Ok(counts)
}

/// Runs all strikes, as many at once as there are processors.
fn all(
    world: World,
    mut strikes: Vec<Strike<'_>>,
    place: &Path,
    row: &mut Row,
) -> anyhow::Result<()> {
    strikes.reverse();
    let left = Mutex::new(strikes);
    let found = Mutex::new((std::mem::take(row), Vec::new()));
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for worker in 0..workers {
            let (left, found) = (&left, &found);
            scope.spawn(move || {
                loop {
                    let next = left.lock().unwrap().pop();
                    let Some(strike) = next else { break };
                    let dir = place.join(format!("worker-{worker}"));
                    let outcome = one(world, &strike, &dir).with_context(|| {
                        format!(
                            "{:?} at {} {}, {}, seed {}",
                            strike.fault, strike.call, strike.number, strike.story.name, world.seed
                        )
                    });
                    let mut found = found.lock().unwrap();
                    match outcome {
                        Ok(row) => found.0.add(&row),
                        Err(error) => found.1.push(error),
                    }
                }
            });
        }
    });
    let (told, errors) = found.into_inner().unwrap();
    *row = told;
    for error in &errors {
        eprintln!("{error:#}");
    }
    ensure!(errors.is_empty(), "{} strikes did not hold", errors.len());
    Ok(())
}

fn one(world: World, strike: &Strike<'_>, dir: &Path) -> anyhow::Result<Row> {
    if dir.exists() {
        std::fs::remove_dir_all(dir)?;
    }
    copy(&strike.story.base, dir)?;
    let told = dir.with_extension("strace");
    let which = format!("trace={}", CALLS.join(","));
    let injected = strike.fault.inject(strike);
    let file = text(&told)?;
    let mut strace = vec!["-e", &which, "-o", &file];
    strace.extend(injected.iter().flat_map(|inject| ["-e", inject.as_str()]));
    let errors = dir.with_extension("errors");
    let words = traced(&strace, world, (dir, strike.story.slices))?;
    let (good, said) = Living::start(&words, Some(&errors))?.wait()?;
    let acked = said.acked.max(strike.story.acked);
    let trace = std::fs::read_to_string(&told)?;
    let struck = match strike.fault {
        Fault::Kill => !good,
        Fault::FullKill => !good || trace.contains("(INJECTED)"),
        _ => trace.contains("(INJECTED)"),
    };
    if !strike.fault.is_kill() {
        went_on(strike, good, &said).with_context(|| {
            let errors = std::fs::read_to_string(&errors).unwrap_or_default();
            format!("{said:?} {errors}")
        })?;
        synced_once(&trace)?;
    }
    if strike.fault == Fault::FullFrom {
        // It opens on a full disk as well, and answers as before.
        let inject = format!("inject={}:error=ENOSPC:when=1+", strike.call);
        let strace = ["-e", &which, "-e", &inject, "-o", "/dev/null"];
        let words = traced(&strace, world, (dir, 0))?;
        let (good, said) = Living::start(&words, Some(&errors))?.wait()?;
        let new = acked == 0;
        ensure!(
            good && (said.held || new),
            "on a full disk: {said:?} {}",
            std::fs::read_to_string(&errors)?
        );
    }
    let (slices, report) = world.holds_after_crash(dir, acked)?;
    // And life goes on.
    let words = child(dir, world.seed, Some(3))?;
    let (good, said) = Living::start(&words, Some(&errors))?.wait()?;
    ensure!(
        good && said.held && said.upkeep == 0,
        "it does not go on: {said:?} {}",
        std::fs::read_to_string(&errors)?
    );
    Ok(Row {
        cycles: u64::from(struck),
        slices,
        torn: u64::from(report.torn.is_some()),
        index_rebuilt: u64::from(report.index_rebuilt),
        poisoned: u64::from(said.poisoned),
        ..Row::default()
    })
}

/// A call that failed costs at most what cannot be done without it.
fn went_on(strike: &Strike<'_>, good: bool, said: &Said) -> anyhow::Result<()> {
    ensure!(good, "the child did not end well");
    if said.unopened.is_some() {
        // A first start writes; a disk that fails may stop any. What is there already can be made and
        // made durable again on a full disk, but not past an injection.
        let may = strike.fault == Fault::Broken
            || strike.story.acked == 0
            || matches!(strike.call, "mkdir" | "fsync");
        ensure!(may, "it does not open on a full disk");
        return Ok(());
    }
    ensure!(
        said.held,
        "it did not hold what it answers against the world"
    );
    let last = strike.story.acked.max(said.acked);
    match strike.fault {
        Fault::Full if !strike.call.ends_with("sync") => {
            ensure!(
                !said.poisoned && !said.gave_up,
                "it did not go on by itself"
            );
            // The first slice it tells is the last one that is there.
            ensure!(last + 1 >= strike.story.acked + strike.story.slices);
        }
        _ => {}
    }
    Ok(())
}

/// After fdatasync of the log failed, nobody asks the kernel a second time about the same pages.
fn synced_once(told: &str) -> anyhow::Result<()> {
    let mut failed = Vec::new();
    for line in told.lines().filter(|line| line.contains("fdatasync(")) {
        let file = line.split_once('(').map(|(_, rest)| rest);
        let file = file.and_then(|rest| rest.split_once(')'));
        let Some((file, _)) = file.filter(|(file, _)| file.contains(".log>")) else {
            continue;
        };
        ensure!(
            !failed.contains(&file),
            "fdatasync of {file} was tried again"
        );
        if line.contains("(INJECTED)") {
            failed.push(file);
        }
    }
    Ok(())
}
