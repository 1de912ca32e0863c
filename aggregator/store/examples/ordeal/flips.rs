//! Every prefix and every flipped byte of a corpus of real files: each is seen, costs one block or one
//! record at most, panics nowhere, and never passes for a value.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use plimsoll_model::{UnixMillis, Window};
use plimsoll_store::{
    EventFilter, Examined, FileKind, OpenError, SeriesFilter, Store, StoreOptions, check, examine,
};

use crate::Row;
use crate::run::{copy, files, scratch};
use crate::world::{World, now, options};

/// How large the corpus is at least.
const CORPUS_BYTES: u64 = 256 << 10;

/// A file of the corpus.
struct Kept {
    path: PathBuf,
    kind: FileKind,
    id: u64,
    bytes: Vec<u8>,
}

/// Everything a store answers, by words that can be told apart.
type Answers = BTreeSet<String>;

fn kept_options() -> StoreOptions {
    StoreOptions {
        retention: None,
        ..options()
    }
}

/// Lives until the files that are truth have the size of the corpus.
fn live(world: World, dir: &Path) -> anyhow::Result<()> {
    let (store, _) = Store::open(dir, kept_options())?;
    let mut number = 0;
    let size = || -> anyhow::Result<u64> {
        Ok(corpus(dir)?
            .iter()
            .map(|file| file.bytes.len() as u64)
            .sum())
    };
    while number < 10 || size()? < CORPUS_BYTES {
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
    Ok(())
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
    let dir = place.path().join("origin");
    live(world, &dir)?;
    let corpus = corpus(&dir)?;
    let bytes: usize = corpus.iter().map(|file| file.bytes.len()).sum();
    let first = usize::try_from(world.seed)? % stride;
    let mut flipped = Row::named(format!(
        "flipped bytes of {} files, {bytes} bytes",
        corpus.len()
    ));
    let mut cut = Row::named("prefixes of the same files");
    std::thread::scope(|scope| {
        let mut workers = Vec::new();
        for half in 0..2 {
            let some = corpus.iter().skip(half).step_by(2);
            workers.push(scope.spawn(move || -> anyhow::Result<(u64, u64)> {
                let mut counts = (0, 0);
                for file in some {
                    counts.0 += flip_in_memory(file, (first, stride))?;
                    counts.1 += cut_in_memory(file, (first, stride))?;
                }
                Ok(counts)
            }));
        }
        for worker in workers {
            let (flips, cuts) = worker.join().unwrap()?;
            flipped.cycles += flips;
            cut.cycles += cuts;
        }
        anyhow::Ok(())
    })?;
    let mut stores = Row::named("flips and cuts under a store");
    stores.cycles = under_a_store(&dir, place.path(), &corpus, first + stride * of_stores)?;
    let mut ends = Row::named("files that end between two frames");
    ends.cycles = cut_between_frames(&dir, &corpus, stride.div_ceil(16))?;
    Ok(vec![flipped, cut, stores, ends])
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
            let found = examine(file.kind, file.id, &bytes);
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
        let found = examine(
            file.kind,
            file.id,
            file.bytes.get(..length).unwrap_or_default(),
        );
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

fn answers(store: &Store) -> Answers {
    let always = (
        UnixMillis::from_millis(i64::MIN),
        UnixMillis::from_millis(i64::MAX),
    );
    let mut answers = Answers::new();
    for key in store.series(&SeriesFilter::default()) {
        let samples: Vec<(Window, u64)> = store.range(&key, always.0, always.1);
        answers.extend(samples.iter().map(|sample| format!("{key:?} {sample:?}")));
    }
    let events = store.events(always.0, always.1, &EventFilter::default());
    answers.extend(events.iter().map(|event| format!("{event:?}")));
    answers.extend(
        store
            .documents(1)
            .iter()
            .map(|document| format!("{document:?}")),
    );
    answers
}

/// What one damaged frame may cost: the rows of a block, of one set of columns, or one batch.
const COST_MAX: usize = 20 * 4 * 3;

fn under_a_store(
    origin: &Path,
    place: &Path,
    corpus: &[Kept],
    stride: usize,
) -> anyhow::Result<u64> {
    let dir = place.join("damaged");
    copy(origin, &dir)?;
    let told = answers(&Store::open(&dir, kept_options())?.0);
    let mut count = 0;
    let mut at = 0;
    for file in corpus {
        for place in 0..file.bytes.len() {
            at += 1;
            if at % stride != 0 {
                continue;
            }
            let mut flipped = file.bytes.clone();
            flipped[place] ^= 1 << (place % 8);
            let cut = file.bytes.get(..place).unwrap_or_default().to_vec();
            for (how, bytes) in [("flipped at", flipped), ("cut to", cut)] {
                std::fs::remove_dir_all(&dir)?;
                copy(origin, &dir)?;
                let path = dir.join(file.path.strip_prefix(origin)?);
                std::fs::write(&path, &bytes)?;
                let costs = if how == "cut to" {
                    usize::MAX
                } else {
                    COST_MAX
                };
                let newest = file.kind == FileKind::Log && Some(file.id) == newest_segment(corpus);
                if newest && examine(file.kind, file.id, &bytes).holes.is_empty() {
                    // So the last segment looked before the next commit.
                    continue;
                }
                opens_or_says_why(&dir, (&path, &bytes), (&told, costs))
                    .with_context(|| format!("{} {how} {place}", path.display()))?;
                count += 1;
            }
        }
    }
    Ok(count)
}

fn opens_or_says_why(
    dir: &Path,
    (path, bytes): (&Path, &[u8]),
    (told, cost_max): (&Answers, usize),
) -> anyhow::Result<()> {
    let before = files(dir)?;
    match Store::open(dir, kept_options()) {
        Ok((store, report)) => {
            let found = answers(&store);
            // A document that is damaged lets the one before it show, which was true once.
            let wrong = found
                .difference(told)
                .find(|answer| !answer.starts_with("Document"));
            ensure!(wrong.is_none(), "{wrong:?} was never told");
            let missing = told.difference(&found).count();
            let seen = !store.holes().is_empty() || report.torn.is_some();
            ensure!(
                missing == 0 || seen,
                "{missing} are missing and nothing is said"
            );
            ensure!(missing <= cost_max, "{missing} are missing");
        }
        Err(error @ OpenError::Corrupt { .. }) => {
            let said = error.to_string();
            let named = said.contains(&*path.display().to_string()) && said.contains("at byte");
            ensure!(named && said.contains("; "), "{said}");
            let kept = before.iter().all(|file| file.exists()) && std::fs::read(path)? == bytes;
            ensure!(kept, "something was deleted or changed");
        }
        Err(error) => return Err(error.into()),
    }
    Ok(())
}
