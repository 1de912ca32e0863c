//! Makes files of rollups: cells out of samples, and out of rollups there are. Damage in either never
//! passes in silence; the file remembers it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use plimsoll_model::{Metric, Part, Subject, UnixMillis, Window};

use super::block;
use super::cell::{self, GAP, Lane, Shape, Tier};
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
    pub(crate) tier: Tier,
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
        let mut places = BTreeSet::new();
        for file in &job.from {
            match file.read() {
                Ok(opened) => {
                    places.extend(opened.footer.blocks.keys().copied());
                    if let Some(hole) = opened.damage.clone().filter(|_| opened.is_partial) {
                        damage.old(hole.path, hole.offset, (job.span, None));
                    }
                }
                Err(hole) => damage.old(hole.path, hole.offset, (job.span, None)),
            }
        }
        let near = |span: &Span| Span {
            begin: span.begin.minus(GAP),
            end: span.end.plus(GAP),
        };
        let needed: Vec<Span> = job.fresh.iter().map(near).collect();
        for span in &needed {
            places.extend(damage.places(&self.files, *span));
        }
        let mut rolling = Rolling {
            at: (&self.dir, &self.handles.rollups),
            next_file,
            tier: job.tier,
            span: job.span,
            draft: None,
            done: Vec::new(),
        };
        for place in places {
            let mut lanes = Lanes::default();
            let mut holes = Vec::new();
            for file in &job.from {
                let before = holes.len();
                file.lanes(place, &mut lanes, &mut holes);
                if holes.len() > before {
                    damaged.insert(file.entry.id);
                }
            }
            if job.fresh.is_empty() && !damaged.is_empty() {
                // What was written until here is removed at the next start.
                self.found_damaged.extend(damaged);
                return Ok(None);
            }
            for (block, hole) in holes {
                let end = block.last.plus(job.tier.length());
                let span = Span {
                    begin: block.first,
                    end,
                };
                damage.old(hole.path, hole.offset, (span, Some(place.into())));
            }
            lanes.remove(job.tier, &job.fresh);
            for (fresh, near) in job.fresh.iter().zip(&needed) {
                for lane in damage.fold(&self.files, (place, *near), (job.tier, *fresh)) {
                    lanes.add(lane);
                }
            }
            rolling.add(place, lanes.in_order())?;
        }
        rolling.finish(&damage.told(job.span)).map(Some)
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
    next_file: &'a mut u64,
    tier: Tier,
    span: Span,
    draft: Option<Draft>,
    done: Vec<Arc<Rolled>>,
}

impl Rolling<'_> {
    /// Adds the cells of one subject.
    fn add(&mut self, place: Place, lanes: Vec<Lane>) -> Result<(), OpenError> {
        let draft = self.draft.get_or_insert_with(|| {
            *self.next_file += 1;
            Draft::new(Kind::Rollup, *self.next_file - 1)
        });
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
            *self.next_file += 1;
            self.draft = Some(Draft::new(Kind::Rollup, *self.next_file - 1));
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

    /// Makes the cells of a subject out of its samples.
    fn fold(
        &mut self,
        files: &Files,
        (place, near): (Place, Span),
        (tier, fresh): (Tier, Span),
    ) -> Vec<Lane> {
        let mut series: BTreeMap<(Metric, Part), Vec<(Window, u64)>> = BTreeMap::new();
        for file in &files.blocks {
            let apart = file.entry.end() <= near.begin || file.entry.partition >= near.end;
            let blocks = file.footer.blocks.get(&place).filter(|_| !apart);
            for located in blocks.into_iter().flatten() {
                if located.last < near.begin || located.first >= near.end {
                    continue;
                }
                let read = file.read(located).and_then(|bytes| {
                    let gathered =
                        Block::parse(&bytes).and_then(|block| gather(&block, near, &mut series));
                    gathered.map_err(|error| file.hole(located, error))
                });
                if let Err(hole) = read {
                    let end = located.last.plus(Duration::from_millis(1));
                    let span = Span {
                        begin: located.first,
                        end,
                    };
                    self.note(&hole.path, hole.offset, (span, Some(place.into())));
                }
            }
        }
        let lane = |((metric, part), mut samples): ((Metric, Part), Vec<(Window, u64)>)| {
            // Stable: of two values in one window, the one that was stored first stays.
            samples.sort_by_key(|(window, _)| *window);
            samples.dedup_by_key(|(window, _)| *window);
            let shape = Shape::of(metric);
            let cells = cell::fold(&samples, (tier, shape), (fresh.begin, fresh.end));
            Lane {
                metric,
                part,
                shape,
                cells,
            }
        };
        series.into_iter().map(lane).collect()
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

fn gather(
    block: &Block<'_>,
    near: Span,
    series: &mut BTreeMap<(Metric, Part), Vec<(Window, u64)>>,
) -> Result<(), Malformed> {
    let windows = block.windows()?;
    for (place, column) in block.columns.iter().enumerate() {
        let values = block.column(place)?;
        let all = windows.iter().copied().zip(values);
        let samples = series.entry(column.clone()).or_default();
        samples.extend(all.filter(|(window, _)| near.has(window.end)));
    }
    Ok(())
}
