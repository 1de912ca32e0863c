//! Makes files of rollups: cells out of samples, and out of rollups there are. Damage in either never
//! passes in silence; the file remembers it.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use plimsoll_model::{Columns, Metric, Part, Subject, UnixMillis, Window};

use super::block;
use super::cell::{GAP, Lane, Shape, Stretches, Tier};
use super::file::{Lost, Opened, Rolled, RollupEntry, Span};
use crate::block::{Block, Place};
use crate::codec::Malformed;
use crate::error::OpenError;
use crate::files::Files;
use crate::frame::{self, Kind, io_error, make_dir};
use crate::handles::Lately;
use crate::keeper::Keeper;
use crate::sealed::Draft;

/// Damaged places that a file of rollups names; of more it says that anything may be missing.
const LOST_MAX: usize = 100;

/// Files to be written: cells of some stretches from samples, all others from files there are.
#[derive(Debug)]
pub(crate) struct Job {
    /// Several only where there are no files yet: they are made of the same samples, read once.
    pub(crate) tiers: Vec<Tier>,
    pub(crate) span: Span,
    pub(crate) fresh: Vec<Span>,
    pub(crate) from: Vec<Arc<Rolled>>,
}

impl Keeper {
    /// Writes the files of one job; `None` where a merge found damage, which is to be mended first.
    pub(crate) fn run(
        &mut self,
        job: &Job,
        next_file: &mut u64,
    ) -> Result<Option<Vec<Arc<Rolled>>>, OpenError> {
        let mut damaged = BTreeSet::new();
        let mut damage = Damage::of(self, job);
        let near = |span: &Span| Span {
            begin: span.begin.minus(GAP),
            end: span.end.plus(GAP),
        };
        let needed: Vec<Span> = job.fresh.iter().map(near).collect();
        let places = damage.subjects(&self.files, job, &needed);
        let next_file = Cell::from_mut(next_file);
        let rolling = |tier: &Tier| Rolling {
            at: (&self.dir, &self.handles.rollups),
            next_file,
            tier: *tier,
            span: job.span,
            draft: None,
            done: Vec::new(),
        };
        let mut all: Vec<Rolling<'_>> = job.tiers.iter().map(rolling).collect();
        for place in places {
            let mut lanes = Lanes::default();
            let mut holes = Vec::new();
            for file in &job.from {
                let before = holes.len();
                file.lanes(place, &mut lanes, &mut holes);
                if holes.len() > before {
                    damaged.insert(file.entry.id);
                }
                for (block, hole) in holes.drain(..) {
                    let end = block.last.plus(file.entry.tier.length());
                    let begin = block.first;
                    let span = Span { begin, end };
                    damage.old(hole.path, hole.offset, (span, Some(place.into())));
                }
            }
            if job.fresh.is_empty() && !damaged.is_empty() {
                // What was written until here is removed at the next start.
                drop(all);
                self.found_damaged.extend(damaged);
                return Ok(None);
            }
            let mut gather = |near: &Span| damage.gather(&self.files, place, *near);
            let read: Vec<Vec<Together>> = needed.iter().map(&mut gather).collect();
            for rolling in &mut all {
                let mut lanes = std::mem::take(&mut lanes);
                lanes.remove(rolling.tier, &job.fresh);
                for (fresh, read) in job.fresh.iter().zip(&read) {
                    lanes.fold(read, (rolling.tier, *fresh));
                }
                rolling.add(place, lanes.in_order())?;
            }
        }
        let told = damage.told(job.span);
        let mut made = Vec::new();
        for rolling in all {
            made.extend(rolling.finish(&told)?);
        }
        Ok(Some(made))
    }
}

/// The series of one subject in the making.
#[derive(Debug, Default)]
pub(crate) struct Lanes(BTreeMap<(Metric, Part), Lane>);

impl Lanes {
    /// Adds cells to a series.
    pub(crate) fn add(&mut self, lane: Lane) {
        let key = (lane.metric, lane.part.clone());
        match self.0.get_mut(&key) {
            Some(known) => known.cells.extend(lane.cells),
            None => {
                self.0.insert(key, lane);
            }
        }
    }

    /// Adds the cells that samples make.
    fn fold(&mut self, read: &[Together], (tier, fresh): (Tier, Span)) {
        for together in read {
            let windows = &together.windows;
            let stretches = Stretches::of(windows, tier, (fresh.begin, fresh.end));
            for ((metric, part), values) in together.columns.iter().zip(&together.values) {
                let shape = Shape::of(*metric);
                self.add(Lane {
                    metric: *metric,
                    part: part.clone(),
                    shape,
                    cells: stretches.fold(values, shape),
                });
            }
        }
    }

    /// Removes the cells of some stretches.
    fn remove(&mut self, tier: Tier, spans: &[Span]) {
        for lane in self.0.values_mut() {
            lane.cells.retain(|cell| {
                let begin = UnixMillis::from_millis(tier.begin(cell.number));
                !spans.iter().any(|span| span.has(begin))
            });
        }
    }

    /// Returns the series, the cells of each in order.
    fn in_order(self) -> Vec<Lane> {
        let mut lanes: Vec<Lane> = self.0.into_values().collect();
        for lane in &mut lanes {
            lane.cells.sort_by_key(|cell| cell.number);
            lane.cells.dedup_by_key(|cell| cell.number);
        }
        lanes
    }
}

/// Writes cells of one tier and span into as many files as they need.
#[derive(Debug)]
struct Rolling<'a> {
    at: (&'a Path, &'a Arc<Lately<Opened>>),
    next_file: &'a Cell<u64>,
    tier: Tier,
    span: Span,
    draft: Option<Draft>,
    done: Vec<Arc<Rolled>>,
}

/// Begins a file with the next number.
fn begin(next_file: &Cell<u64>) -> Draft {
    let id = next_file.get();
    next_file.set(id + 1);
    Draft::new(Kind::Rollup, id)
}

impl Rolling<'_> {
    /// Adds the cells of one subject.
    fn add(&mut self, place: Place, lanes: Vec<Lane>) -> Result<(), OpenError> {
        let next_file = self.next_file;
        let draft = self.draft.get_or_insert_with(|| begin(next_file));
        block::encode(place, self.tier, lanes, &mut |block| {
            draft.push(place, &block)
        });
        if draft.is_full() {
            self.close()?;
        }
        Ok(())
    }

    fn close(&mut self) -> Result<(), OpenError> {
        let Some(draft) = self.draft.take() else {
            return Ok(());
        };
        let id = draft.id();
        let (bytes, footer, _) = draft.close();
        let entry = RollupEntry {
            id,
            tier: self.tier,
            span: self.span,
            bytes: bytes.len() as u64,
            footer,
            lost: Vec::new(),
        };
        let rolled = Rolled::of(self.at, entry);
        if let Some(dir) = rolled.path.parent() {
            make_dir(dir).map_err(io_error("make", dir))?;
        }
        frame::write_whole(&rolled.path, &bytes).map_err(io_error("write", &rolled.path))?;
        self.done.push(Arc::new(rolled));
        Ok(())
    }

    /// Writes what is left, at least one file, so that the span is known to be done; each file
    /// remembers what was damaged.
    fn finish(mut self, lost: &[Lost]) -> Result<Vec<Arc<Rolled>>, OpenError> {
        if self.draft.is_none() && self.done.is_empty() {
            self.draft = Some(begin(self.next_file));
        }
        self.close()?;
        let with = |rolled: Arc<Rolled>| {
            let mut entry = rolled.entry.clone();
            entry.lost = lost.to_vec();
            Arc::new(Rolled::of(self.at, entry))
        };
        Ok(self.done.into_iter().map(with).collect())
    }
}

/// What was damaged of that of which rollups are made.
#[derive(Debug)]
struct Damage<'a> {
    dir: PathBuf,
    fresh: &'a [Span],
    lost: Vec<Lost>,
}

impl<'a> Damage<'a> {
    /// Begins with what the old files remember; of what is made anew from samples it is found anew.
    fn of(keeper: &Keeper, job: &'a Job) -> Self {
        let mut damage = Self {
            dir: keeper.dir.clone(),
            fresh: &job.fresh,
            lost: Vec::new(),
        };
        for lost in job.from.iter().flat_map(|file| &file.entry.lost) {
            if !damage.is_fresh(lost.span) && !damage.lost.contains(lost) {
                damage.lost.push(lost.clone());
            }
        }
        damage
    }

    fn is_fresh(&self, span: Span) -> bool {
        let within = |fresh: &Span| fresh.begin <= span.begin && span.end <= fresh.end;
        self.fresh.iter().any(within)
    }

    fn note(&mut self, path: &Path, offset: u64, (span, subject): (Span, Option<Subject>)) {
        let name = path.strip_prefix(&self.dir).unwrap_or(path);
        let lost = Lost {
            name: name.display().to_string(),
            offset,
            span,
            subject,
        };
        if !self.lost.contains(&lost) {
            self.lost.push(lost);
        }
    }

    fn old(&mut self, path: PathBuf, offset: u64, what: (Span, Option<Subject>)) {
        if !self.is_fresh(what.0) {
            self.note(&path, offset, what);
        }
    }

    /// Lists the subjects of a job; notes old files that cannot be read as a whole.
    fn subjects(&mut self, files: &Files, job: &Job, needed: &[Span]) -> BTreeSet<Place> {
        let mut places = BTreeSet::new();
        for file in &job.from {
            match file.read() {
                Ok(opened) => {
                    places.extend(opened.footer.blocks.keys().copied());
                    if let Some(hole) = opened.damage.clone().filter(|_| opened.is_partial) {
                        self.old(hole.path, hole.offset, (job.span, None));
                    }
                }
                Err(hole) => self.old(hole.path, hole.offset, (job.span, None)),
            }
        }
        for span in needed {
            places.extend(self.places(files, *span));
        }
        places
    }

    /// Lists the subjects with samples in a span; notes files that have lost nobody knows what.
    fn places(&mut self, files: &Files, span: Span) -> BTreeSet<Place> {
        let mut places = BTreeSet::new();
        for file in &files.blocks {
            let of_file = Span {
                begin: file.entry.partition,
                end: file.entry.end(),
            };
            let Some(both) = of_file.and(span) else {
                continue;
            };
            if let Some(hole) = &file.lost {
                self.note(&hole.path, hole.offset, (both, None));
            }
            places.extend(file.footer.blocks.keys().copied());
        }
        places
    }

    /// Reads the samples of a subject.
    fn gather(&mut self, files: &Files, place: Place, near: Span) -> Vec<Together> {
        let mut all = Vec::new();
        for file in &files.blocks {
            let apart = file.entry.end() <= near.begin || file.entry.partition >= near.end;
            let blocks = file.footer.blocks.get(&place).filter(|_| !apart);
            for located in blocks.into_iter().flatten() {
                if located.last < near.begin || located.first >= near.end {
                    continue;
                }
                let columns = file.columns(located);
                let read = file.read(located).and_then(|bytes| {
                    let read = Block::parse_as(&bytes, columns)
                        .and_then(|block| Together::read(&block, near));
                    read.map_err(|error| file.hole(located, error))
                });
                match read {
                    Ok(together) => all.push(together),
                    Err(hole) => {
                        let end = located.last.plus(Duration::from_millis(1));
                        let begin = located.first;
                        let span = Span { begin, end };
                        self.note(&hole.path, hole.offset, (span, Some(place.into())));
                    }
                }
            }
        }
        settled(all)
    }

    fn told(mut self, span: Span) -> Vec<Lost> {
        if self.lost.len() > LOST_MAX {
            self.lost.truncate(1);
            if let Some(lost) = self.lost.first_mut() {
                (lost.span, lost.subject) = (span, None);
            }
        }
        self.lost
    }
}

/// Samples that were read together.
#[derive(Debug)]
struct Together {
    columns: Columns,
    windows: Vec<Window>,
    /// By column.
    values: Vec<Vec<u64>>,
}

impl Together {
    /// Takes what ends in a span out of a block.
    fn read(block: &Block<'_>, near: Span) -> Result<Self, Malformed> {
        let windows = block.windows()?;
        let wanted: Vec<bool> = windows.iter().map(|window| near.has(window.end)).collect();
        let all = wanted.iter().all(|wanted| *wanted);
        let values = (0..block.columns.len()).map(|place| {
            let values = block.column(place)?;
            Ok(if all { values } else { picked(values, &wanted) })
        });
        Ok(Self {
            columns: Arc::clone(&block.columns),
            values: values.collect::<Result<_, _>>()?,
            windows: picked(windows, &wanted),
        })
    }

    /// Adds what was read later of the same columns.
    fn extend(&mut self, later: Self) {
        self.windows.extend(later.windows);
        for (values, later) in self.values.iter_mut().zip(later.values) {
            values.extend(later);
        }
    }

    fn is_in_order(&self) -> bool {
        let in_order = |pair: &[Window]| matches!(pair, [a, b] if a < b);
        self.windows.windows(2).all(in_order)
    }
}

fn picked<T>(all: Vec<T>, wanted: &[bool]) -> Vec<T> {
    let both = all.into_iter().zip(wanted);
    both.filter_map(|(one, wanted)| wanted.then_some(one))
        .collect()
}

/// Puts samples in order, each window of a series once: the first that was stored.
fn settled(all: Vec<Together>) -> Vec<Together> {
    let same = |pair: &[Together]| matches!(pair, [a, b] if a.columns == b.columns);
    if all.windows(2).all(same) {
        let whole = all.into_iter().reduce(|mut whole, later| {
            whole.extend(later);
            whole
        });
        return match whole {
            Some(whole) if !whole.is_in_order() => apart(vec![whole]),
            whole => whole.into_iter().collect(),
        };
    }
    apart(all)
}

/// Does the same where series were read together in several ways, series by series.
fn apart(all: Vec<Together>) -> Vec<Together> {
    let mut series: BTreeMap<(Metric, Part), Vec<(Window, u64)>> = BTreeMap::new();
    for together in all {
        for (column, values) in together.columns.iter().zip(together.values) {
            let samples = series.entry(column.clone()).or_default();
            samples.extend(together.windows.iter().copied().zip(values));
        }
    }
    let one = |(column, mut samples): ((Metric, Part), Vec<(Window, u64)>)| {
        // Stable: of two values in one window, the one that was stored first stays.
        samples.sort_by_key(|(window, _)| *window);
        samples.dedup_by_key(|(window, _)| *window);
        let (windows, values) = samples.into_iter().unzip();
        Together {
            columns: Columns::from([column]),
            windows,
            values: vec![values],
        }
    };
    series.into_iter().map(one).collect()
}
