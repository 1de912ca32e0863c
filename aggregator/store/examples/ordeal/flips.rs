//! Every prefix and every flipped byte of a corpus of real files: each is seen, costs one block or one
//! record at most, panics nowhere, and never passes for a value. What a store answers in spite of damage is
//! in `answers`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use plimsoll_store::{
    Examined, FileKind, OpenError, Store, StoreOptions, check, examine, examine_checksums,
};

use crate::Row;
use crate::answers::Answers;
use crate::run::{copy, files, scratch};
use crate::world::{World, now, options};

/// How large the corpus is at least.
const CORPUS_BYTES: u64 = 256 << 10;
/// How many slices are told at least: more than a day, so that samples come and go.
const SLICES_LEAST: u64 = 330;

/// A file of the corpus.
struct Kept {
    path: PathBuf,
    kind: FileKind,
    id: u64,
    bytes: Vec<u8>,
}

fn kept_options() -> StoreOptions {
    StoreOptions {
        retention: None,
        ..options()
    }
}

/// Lives until the files have the size of the corpus, and for some days; returns the last slice.
fn live(world: World, dir: &Path, life: &StoreOptions) -> anyhow::Result<u64> {
    let (store, _) = Store::open(dir, life.clone())?;
    let mut number = 0;
    let size = || -> anyhow::Result<u64> {
        Ok(corpus(dir)?
            .iter()
            .map(|file| file.bytes.len() as u64)
            .sum())
    };
    let bytes_least = if life.retention.is_none() {
        CORPUS_BYTES
    } else {
        0
    };
    while number < SLICES_LEAST || size()? < bytes_least {
        number += 1;
        store.append(&world.slice(number).0)?;
        store.maintain(now(number))?;
        if number.is_multiple_of(7) {
            store.seal()?;
        }
    }
    // Some stay in the log.
    for number in number + 1..number + 9 {
        store.append(&world.slice(number).0)?;
    }
    Ok(number + 8)
}

fn corpus(dir: &Path) -> anyhow::Result<Vec<Kept>> {
    let mut corpus = Vec::new();
    for path in files(dir)? {
        let ending = path.extension().and_then(|ending| ending.to_str());
        let stem = path.file_stem().and_then(|stem| stem.to_str());
        let kind = match (stem, ending) {
            (Some("MANIFEST"), _) => FileKind::Manifest,
            (_, Some("log")) => FileKind::Log,
            (_, Some("blocks")) => FileKind::Blocks,
            (_, Some("events")) => FileKind::Events,
            (_, Some("rollup")) => FileKind::Rollup,
            _ => continue,
        };
        let id = stem.and_then(|stem| stem.parse().ok()).unwrap_or(0);
        let bytes = std::fs::read(&path)?;
        corpus.push(Kept {
            path,
            kind,
            id,
            bytes,
        });
    }
    Ok(corpus)
}

/// Damages the corpus: every `stride`-th byte in memory, every `stride * of_stores`-th under a store.
pub(crate) fn flips(world: World, stride: usize, of_stores: usize) -> anyhow::Result<Vec<Row>> {
    let place = scratch()?;
    let first = usize::try_from(world.seed)? % stride;
    let mut rows = Vec::new();
    // In one life all samples stay; in the other one, rollups are what is left of most.
    for (name, options) in [("all kept", kept_options()), ("forgetting", options())] {
        let dir = place.path().join(name);
        let life = Life {
            last: live(world, &dir, &options)?,
            options,
            corpus: corpus(&dir)?,
            dir,
        };
        let bytes: usize = life.corpus.iter().map(|file| file.bytes.len()).sum();
        let count = life.corpus.len();
        let mut flipped = Row::named(format!("{name}: flips in {count} files, {bytes} bytes"));
        let mut cut = Row::named(format!("{name}: their prefixes"));
        for (flips, cuts) in in_halves(&life.corpus, |file| {
            let flips = flip_in_memory(file, (first, stride))?;
            Ok((flips, cut_in_memory(file, (first, stride))?))
        })? {
            flipped.cycles += flips;
            cut.cycles += cuts;
        }
        let mut stores = Row::named(format!("{name}: flips and cuts under a store"));
        let both = in_halves(&life.corpus, |file| {
            under_a_store(&life, file, (first, stride * of_stores))
        })?;
        stores.cycles = both.into_iter().sum();
        let mut ends = Row::named(format!("{name}: files that end between two frames"));
        ends.cycles = cut_between_frames(&life.dir, &life.corpus, stride.div_ceil(16))?;
        rows.extend([flipped, cut, stores, ends]);
    }
    Ok(rows)
}

/// A store that lived.
struct Life {
    options: StoreOptions,
    dir: PathBuf,
    corpus: Vec<Kept>,
    /// The last slice it was told.
    last: u64,
}

/// Does the same with every file, two files at a time.
fn in_halves<T: Send>(
    corpus: &[Kept],
    each: impl Fn(&Kept) -> anyhow::Result<T> + Sync,
) -> anyhow::Result<Vec<T>> {
    let next = std::sync::atomic::AtomicUsize::new(0);
    std::thread::scope(|scope| {
        let work = || -> anyhow::Result<Vec<T>> {
            let take = || next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            let files = std::iter::from_fn(|| corpus.get(take()));
            files.map(&each).collect()
        };
        let workers = [scope.spawn(work), scope.spawn(work)];
        let mut all = Vec::new();
        for worker in workers {
            all.extend(worker.join().unwrap()?);
        }
        Ok(all)
    })
}

/// Looks at the bytes of a file. What lies in frames is decoded only where all checksums fit: whole frames
/// are held against the true ones byte by byte, and those were decoded once.
fn look<'a>(file: &Kept, bytes: &'a [u8]) -> Examined<'a> {
    let found = examine_checksums(file.kind, file.id, bytes);
    if found.holes.is_empty() {
        return examine(file.kind, file.id, bytes);
    }
    found
}

fn flip_in_memory(file: &Kept, (first, stride): (usize, usize)) -> anyhow::Result<u64> {
    let whole = examine(file.kind, file.id, &file.bytes);
    let name = file.path.display();
    ensure!(whole.holes.is_empty(), "{name}: {:?}", whole.holes);
    let mut bytes = file.bytes.clone();
    let mut count = 0;
    for place in (first..bytes.len()).step_by(stride) {
        for mask in [1 << (place % 8), 0xff] {
            bytes[place] ^= mask;
            let found = look(file, &bytes);
            let missing = missing(&whole, &found)
                .with_context(|| format!("{name}, byte {place} ^ {mask:#x}"))?;
            ensure!(
                !found.holes.is_empty() && missing <= 1,
                "{name}, byte {place} ^ {mask:#x}: {missing} frames missing, {:?}",
                found.holes
            );
            bytes[place] ^= mask;
            count += 1;
        }
    }
    Ok(count)
}

/// Counts the frames that are missing; what is found must be one of the true ones at its place.
fn missing(whole: &Examined<'_>, found: &Examined<'_>) -> anyhow::Result<usize> {
    let told: BTreeMap<u64, &[u8]> = whole.frames.iter().copied().collect();
    for (offset, payload) in &found.frames {
        ensure!(
            told.get(offset) == Some(payload),
            "a frame that never was, at {offset}"
        );
    }
    Ok(whole.frames.len() - found.frames.len())
}

fn cut_in_memory(file: &Kept, (first, stride): (usize, usize)) -> anyhow::Result<u64> {
    let whole = examine(file.kind, file.id, &file.bytes);
    let mut count = 0;
    for length in (first..file.bytes.len()).step_by(stride) {
        let found = look(file, file.bytes.get(..length).unwrap_or_default());
        let name = file.path.display();
        missing(&whole, &found).with_context(|| format!("{name}, {length} bytes of it"))?;
        let end = |(offset, payload): &(u64, &[u8])| *offset + 16 + payload.len() as u64;
        let fit = whole
            .frames
            .iter()
            .filter(|frame| end(frame) <= length as u64)
            .count();
        ensure!(
            found.frames.len() == fit,
            "{name}: {length} bytes of it hold {fit} frames"
        );
        let between = length == 40 || whole.frames.iter().any(|frame| end(frame) == length as u64);
        let alone = matches!(file.kind, FileKind::Log | FileKind::Events);
        // An end between two frames of these is seen by what lies beside them: see below.
        ensure!(
            !found.holes.is_empty() || (between && alone),
            "{name}: {length} bytes of it pass for all"
        );
        count += 1;
    }
    Ok(count)
}

fn newest_segment(corpus: &[Kept]) -> Option<u64> {
    let segments = corpus.iter().filter(|file| file.kind == FileKind::Log);
    segments.map(|file| file.id).max()
}

fn cut_between_frames(dir: &Path, corpus: &[Kept], stride: usize) -> anyhow::Result<u64> {
    let mut count = 0;
    let mut at = 0;
    let newest = newest_segment(corpus);
    for file in corpus {
        if file.kind == FileKind::Log && Some(file.id) == newest {
            // The last segment may end behind any frame: that is how it looked before the next commit.
            continue;
        }
        let whole = examine(file.kind, file.id, &file.bytes);
        for (offset, _) in whole.frames {
            at += 1;
            if at % stride != 0 {
                continue;
            }
            let length = usize::try_from(offset)?;
            std::fs::write(&file.path, file.bytes.get(..length).unwrap_or_default())?;
            let holes = check(dir)?.holes;
            ensure!(
                !holes.is_empty(),
                "{}: its first {length} bytes pass for all",
                file.path.display()
            );
            count += 1;
        }
        std::fs::write(&file.path, &file.bytes)?;
    }
    Ok(count)
}

/// What one damaged frame may cost: the rows of a block, of one set of columns, or one batch; of rollups
/// the cells of a block, each told in two ways.
fn cost_max(kind: FileKind) -> usize {
    match kind {
        FileKind::Rollup => 256 * 5 * 2,
        _ => 24 * 5 * 3,
    }
}

/// Damages every `stride`-th byte of a file below a store of its own.
fn under_a_store(life: &Life, file: &Kept, (first, stride): (usize, usize)) -> anyhow::Result<u64> {
    let place = scratch()?;
    let dir = place.path().join("damaged");
    copy(&life.dir, &dir)?;
    let told = {
        let (store, _) = Store::open(&dir, life.options.clone())?;
        Answers::of(&store, life.last)
    };
    let mut count = 0;
    for at in (first % stride..file.bytes.len()).step_by(stride) {
        let mut flipped = file.bytes.clone();
        flipped[at] ^= 1 << (at % 8);
        let cut = file.bytes.get(..at).unwrap_or_default().to_vec();
        for (how, bytes) in [("flipped at", flipped), ("cut to", cut)] {
            std::fs::remove_dir_all(&dir)?;
            copy(&life.dir, &dir)?;
            let path = dir.join(file.path.strip_prefix(&life.dir)?);
            std::fs::write(&path, &bytes)?;
            let newest =
                file.kind == FileKind::Log && Some(file.id) == newest_segment(&life.corpus);
            if newest && examine(file.kind, file.id, &bytes).holes.is_empty() {
                // So the last segment looked before the next commit.
                continue;
            }
            let damaged = Damaged {
                dir: &dir,
                path: &path,
                bytes: &bytes,
                kind: file.kind,
                cost_max: (how != "cut to").then(|| cost_max(file.kind)),
            };
            opens_or_says_why(life, &damaged, &told)
                .with_context(|| format!("{} {how} {at}", path.display()))?;
            count += 1;
        }
    }
    Ok(count)
}

/// A store one file of which was damaged.
struct Damaged<'a> {
    dir: &'a Path,
    path: &'a Path,
    bytes: &'a [u8],
    kind: FileKind,
    /// How many answers that may cost.
    cost_max: Option<usize>,
}

fn opens_or_says_why(life: &Life, damaged: &Damaged<'_>, told: &Answers) -> anyhow::Result<()> {
    let before = files(damaged.dir)?;
    match Store::open(damaged.dir, life.options.clone()) {
        Ok((store, report)) => {
            let found = Answers::of(&store, life.last);
            let seen = !store.holes().is_empty() || report.torn.is_some();
            let missing = told.missing(&found, damaged.kind)?;
            ensure!(
                missing == 0 || seen,
                "{missing} are missing and nothing is said"
            );
            let all_there = damaged.kind == FileKind::Rollup && life.options.retention.is_none();
            ensure!(
                missing == 0 || !all_there,
                "{missing} are missing although their samples are there"
            );
            let most = damaged.cost_max.unwrap_or(usize::MAX);
            ensure!(missing <= most, "{missing} are missing");
        }
        Err(error @ OpenError::Corrupt { .. }) => {
            let said = error.to_string();
            let path = damaged.path.display().to_string();
            let named = said.contains(&path) && said.contains("at byte");
            ensure!(named && said.contains("; "), "{said}");
            let kept = before.iter().all(|file| file.exists())
                && std::fs::read(damaged.path)? == damaged.bytes;
            ensure!(kept, "something was deleted or changed");
        }
        Err(error) => return Err(error.into()),
    }
    Ok(())
}
