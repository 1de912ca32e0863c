//! Steps of long spans, answered from samples and rollups as if they were one: the coarsest tier that
//! answers exactly, and where samples are forgotten, the finest that is left. Which one it was is in the
//! answer. It writes nothing.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use plimsoll_model::{SeriesKey, UnixMillis};

use crate::error::Hole;
use crate::files::Files;
use crate::range::{Source, Wanted};
use crate::rollup::{self, Cell, GAP, Lost, Rolled, Shape, Span, Tier, hours_around, whole_from};
use crate::steps::{Function, Grid, Step, Steps, StepsError};
use crate::store::Store;

/// How often a question is asked again when samples are forgotten while it is answered.
const TRIES: usize = 3;

/// Where a part of an answer comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Used {
    /// Rollups of this tier; absent for samples.
    pub tier: Option<Tier>,
    /// Begin of the part.
    pub from: UnixMillis,
    /// End of the part, not in it.
    pub to: UnixMillis,
}

/// Steps, and how they came to be.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Answer {
    /// The steps, in order.
    pub steps: Vec<Step>,
    /// How long they are: longer than asked for where nothing finer is left.
    pub step: Duration,
    /// Where they come from, in order of time.
    pub used: Vec<Used>,
    /// Damaged places in which more may have been.
    pub holes: Vec<Hole>,
    /// Samples and steps of rollups that were read for it.
    pub read: usize,
}

/// What is true at one moment about one series.
#[derive(Debug)]
struct View<'a> {
    key: &'a SeriesKey,
    shape: Shape,
    files: Arc<Files>,
    horizon: Option<UnixMillis>,
    /// From here on all samples are there.
    whole_from: UnixMillis,
    /// Hours whose rollups do not know all samples.
    dirty: Vec<Span>,
}

impl Store {
    /// Answers a question for steps of one series.
    pub fn steps(&self, key: &SeriesKey, asked: &Steps) -> Result<Answer, StepsError> {
        let mut answer = Answer::default();
        for _ in 0..TRIES {
            let view = self.view(key, span_of(asked.grid()?));
            answer = self.steps_in(&view, asked)?;
            if self.read().horizon == view.horizon {
                break;
            }
        }
        Ok(answer)
    }

    fn view<'a>(&self, key: &'a SeriesKey, span: Span) -> View<'a> {
        let (files, horizon, unsealed) = {
            let head = self.read();
            let newest = head
                .files
                .rollups
                .iter()
                .map(|file| file.entry.span.end)
                .max();
            let from = span
                .begin
                .minus(GAP)
                .max(head.horizon.unwrap_or(span.begin.minus(GAP)));
            let wanted = newest.map(|newest| Wanted {
                key,
                from,
                to: newest.plus(GAP).min(span.end.plus(GAP)),
            });
            let wanted = wanted.filter(|wanted| wanted.from <= wanted.to);
            let unsealed = wanted.map(|wanted| (Source::unsealed(&head, wanted), wanted));
            (Arc::clone(&head.files), head.horizon, unsealed)
        };
        let mut dirty = files.stale.clone();
        if let Some((source, wanted)) = unsealed {
            let samples = source.read(wanted).samples.into_iter();
            let hours = samples.map(|(window, _)| hours_around(window.end, window.end));
            dirty.extend(hours);
            dirty.sort_unstable();
            dirty.dedup();
        }
        View {
            key,
            shape: Shape::of(key.metric),
            files,
            horizon,
            whole_from: whole_from(horizon),
            dirty,
        }
    }

    fn steps_in(&self, view: &View<'_>, asked: &Steps) -> Result<Answer, StepsError> {
        let span = span_of(asked.grid()?);
        let forgotten = view.forgotten(span);
        let by_cells =
            is_told(asked.function, view.shape) && (asked.gap == GAP || !asked.function.connects());
        if !by_cells && !forgotten.is_empty() {
            return Err(StepsError::SamplesOnly {
                function: asked.function.name(),
                from_ms: view.whole_from.millis(),
            });
        }
        let step = view.step(asked.step, &forgotten);
        let asked = Steps { step, ..*asked };
        let grid = asked.grid()?;
        if by_cells && fits(step, Tier::FiveMinutes) {
            return Ok(self.by_cells(view, &asked, grid));
        }
        let Span { begin, end } = span_of(grid);
        let gap = if asked.function.connects() {
            asked.gap
        } else {
            Duration::ZERO
        };
        let range = self.range_with_holes(view.key, begin.minus(gap), end.plus(gap));
        Ok(Answer {
            steps: asked.of(&range.samples)?,
            read: range.samples.len(),
            step,
            used: vec![Used {
                tier: None,
                from: begin,
                to: end,
            }],
            holes: range.holes,
        })
    }

    fn by_cells(&self, view: &View<'_>, asked: &Steps, grid: Grid) -> Answer {
        let mut answer = Answer {
            step: asked.step,
            ..Answer::default()
        };
        let mut steps: BTreeMap<i64, Cell> = BTreeMap::new();
        for (span, files) in view.pieces(grid, asked.step) {
            let mut tier = files.first().map(|file| file.entry.tier);
            let mut holes = Vec::new();
            let mut cells = Vec::new();
            for file in &files {
                cells.extend(file.cells(view.key, span, &mut holes));
                view.remembered(self, file, span, &mut answer.holes);
            }
            self.note(holes.clone());
            if tier.is_none() || (!holes.is_empty() && span.begin >= view.whole_from) {
                // Rollups that are damaged while the samples are there are as good as not made.
                tier = None;
                cells = self.cells_of_samples(view, span, &mut answer.holes);
            } else {
                answer.holes.extend(holes);
            }
            answer.read += cells.len();
            cells.sort_by_key(|cell| cell.number);
            let length = tier.unwrap_or(Tier::FiveMinutes);
            for cell in cells {
                let number = length.begin(cell.number).div_euclid(grid.step);
                match steps.get_mut(&number) {
                    Some(known) => known.add(&cell),
                    None => {
                        steps.insert(number, cell);
                    }
                }
            }
            answer.use_of(tier, span);
        }
        answer.holes.sort_unstable();
        answer.holes.dedup();
        let step = |(number, cell): (i64, Cell)| {
            let end = grid.end(number);
            tell(asked.function, &cell).map(|value| Step { end, value })
        };
        answer.steps = steps.into_iter().filter_map(step).collect();
        answer
    }

    fn cells_of_samples(&self, view: &View<'_>, span: Span, holes: &mut Vec<Hole>) -> Vec<Cell> {
        let (from, to) = (span.begin.minus(GAP), span.end.plus(GAP));
        let range = self.range_with_holes(view.key, from, to);
        holes.extend(range.holes);
        let how = (Tier::FiveMinutes, view.shape);
        rollup::fold(&range.samples, how, (span.begin, span.end))
    }
}

impl Answer {
    fn use_of(&mut self, tier: Option<Tier>, span: Span) {
        let (from, to) = (span.begin, span.end);
        match self.used.last_mut() {
            Some(last) if last.tier == tier && last.to == from => last.to = to,
            _ => self.used.push(Used { tier, from, to }),
        }
    }
}

impl View<'_> {
    /// Lists the parts of a span whose samples are forgotten while rollups are left.
    fn forgotten(&self, span: Span) -> Vec<Span> {
        let Some(horizon) = self.horizon else {
            return Vec::new();
        };
        let before = span.and(Span {
            begin: UnixMillis::from_millis(i64::MIN),
            end: horizon,
        });
        let parts = self.files.rollups.iter();
        parts
            .filter_map(|file| file.entry.span.and(before?))
            .collect()
    }

    /// Returns how long the steps must be, so that what is left can tell them.
    fn step(&self, asked: Duration, forgotten: &[Span]) -> Duration {
        let fine = |file: &&Arc<Rolled>| file.entry.tier == Tier::FiveMinutes;
        let fine = || {
            self.files
                .rollups
                .iter()
                .filter(fine)
                .map(|file| file.entry.span)
        };
        let coarse = forgotten
            .iter()
            .any(|part| !part.without(fine()).is_empty());
        let length = match (forgotten.is_empty(), coarse) {
            (true, _) => return asked,
            (false, false) => Tier::FiveMinutes.length(),
            (false, true) => Tier::Hour.length(),
        };
        let count = asked.as_millis().div_ceil(length.as_millis());
        length.saturating_mul(u32::try_from(count).unwrap_or(u32::MAX))
    }

    /// Cuts a span into pieces by where each is read from: the files of a tier, or none for samples.
    fn pieces(&self, grid: Grid, step: Duration) -> Vec<(Span, Vec<Arc<Rolled>>)> {
        let mut free = vec![span_of(grid)];
        let mut pieces = Vec::new();
        let whole = |span: &Span| {
            let begin = span.begin.max(self.whole_from);
            (begin < span.end).then_some(Span { begin, ..*span })
        };
        let dirty: Vec<Span> = self.dirty.iter().filter_map(whole).collect();
        for tier in Tier::ALL.into_iter().rev().filter(|tier| fits(step, *tier)) {
            let mut groups: BTreeMap<Span, Vec<Arc<Rolled>>> = BTreeMap::new();
            for file in self
                .files
                .rollups
                .iter()
                .filter(|file| file.entry.tier == tier)
            {
                groups
                    .entry(file.entry.span)
                    .or_default()
                    .push(Arc::clone(file));
            }
            for (span, files) in groups {
                let clean = span.without(dirty.iter().copied());
                let part = |clean: &Span| -> Vec<Span> {
                    free.iter().filter_map(|free| clean.and(*free)).collect()
                };
                let parts: Vec<Span> = clean.iter().flat_map(part).collect();
                let left = free.iter();
                free = left
                    .flat_map(|free| free.without(parts.iter().copied()))
                    .collect();
                pieces.extend(parts.into_iter().map(|part| (part, files.clone())));
            }
        }
        // Where samples are forgotten and no rollups are left, there is nothing to read.
        free.retain(|free| Some(free.end) > self.horizon);
        pieces.extend(free.into_iter().map(|free| (free, Vec::new())));
        pieces.sort_by_key(|(span, _)| *span);
        pieces
    }

    /// Names what was damaged when a file was made, as far as it concerns the series.
    fn remembered(&self, store: &Store, file: &Rolled, span: Span, holes: &mut Vec<Hole>) {
        let concerns = |lost: &&Lost| {
            let subject = lost
                .subject
                .is_none_or(|subject| subject == self.key.subject);
            subject && lost.span.and(span).is_some()
        };
        let lost = file.entry.lost.iter().filter(concerns);
        holes.extend(lost.map(|lost| Hole {
            path: store.dir.join(&lost.name),
            offset: lost.offset,
            what: "rollups were made while this was damaged",
        }));
    }
}

fn span_of(grid: Grid) -> Span {
    Span {
        begin: UnixMillis::from_millis(grid.first.saturating_mul(grid.step)),
        end: grid.end(grid.last),
    }
}

/// Tells whether steps are made of whole cells of a tier.
fn fits(step: Duration, tier: Tier) -> bool {
    step.as_millis().is_multiple_of(tier.length().as_millis())
}

/// Tells whether cells of a shape tell it.
fn is_told(function: Function, shape: Shape) -> bool {
    match function {
        Function::Count | Function::Last => true,
        Function::Rate | Function::Increase => shape == Shape::Counter,
        Function::P95 => shape == Shape::Quantity,
        Function::Min | Function::Max | Function::Mean | Function::Sum | Function::MeanOverTime => {
            shape != Shape::Counter
        }
        Function::Quantile(_) | Function::Trend => false,
    }
}

/// Tells one thing of the cells of a step.
fn tell(function: Function, cell: &Cell) -> Option<f64> {
    let covered = cell.covered_ms as f64;
    let known = cell.covered_ms > 0;
    match function {
        Function::Min => Some(cell.min as f64),
        Function::Max => Some(cell.max as f64),
        Function::Mean => Some(cell.sum as f64 / cell.count as f64),
        Function::Sum => Some(cell.sum as f64),
        Function::Count => Some(cell.count as f64),
        Function::Last => Some(cell.last as f64),
        Function::P95 => Some(cell.p95 as f64),
        Function::MeanOverTime => known.then(|| cell.held as f64 / covered),
        Function::Increase => known.then_some(cell.increase as f64),
        Function::Rate => known.then(|| cell.increase as f64 / covered * 1_000.0),
        Function::Quantile(_) | Function::Trend => None,
    }
}
