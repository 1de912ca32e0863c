//! The keeper's work on rollups: makes them when a span is settled, makes them anew where late samples
//! came or a file is damaged, merges small files, forgets old ones. It reads sealed samples only.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use plimsoll_model::UnixMillis;

use super::cell::{GAP, Tier};
use super::file::{Rolled, Span};
use super::making::Job;
use crate::error::OpenError;
use crate::files::Files;
use crate::keeper::{Change, Keeper};
use crate::record::Keep;
use crate::sealed::Sealed;

/// Length of a span that is rolled up at once; whole cells of every tier.
const CHUNK_MS: i64 = 6 * 3_600_000;
const HOUR_MS: i64 = 3_600_000;
const DAY_MS: i64 = 24 * HOUR_MS;
/// Files of one tier that lie in one such span are merged when it is over.
const MERGE_SPANS: [(Tier, &[i64]); 2] = [
    (Tier::FiveMinutes, &[DAY_MS, 8 * DAY_MS]),
    (Tier::Hour, &[DAY_MS, 8 * DAY_MS, 64 * DAY_MS]),
];
/// How large the files of a merge may be together.
const MERGE_BYTES: u64 = 64 << 20;
/// Stale spans that are told apart.
const STALE_MAX: usize = 1_000;

/// When rollups are to be made.
#[derive(Debug, Clone)]
pub(crate) struct Due<'a> {
    pub(crate) now: UnixMillis,
    /// Files of samples that ended before it are gone.
    pub(crate) forgotten: Option<UnixMillis>,
    /// Samples that end before it are about to be.
    pub(crate) urgent: Option<UnixMillis>,
    /// How long after its end a span is settled.
    pub(crate) settle_after: Duration,
    /// Files of rollups in which damage was found.
    pub(crate) suspects: &'a BTreeSet<u64>,
}

impl Due<'_> {
    /// Returns the first hour of which all samples are there, neighbours included.
    pub(crate) fn whole_from(&self) -> UnixMillis {
        whole_from(self.forgotten)
    }
}

/// Returns the first hour of which all samples are there, neighbours included.
pub(crate) fn whole_from(horizon: Option<UnixMillis>) -> UnixMillis {
    let Some(horizon) = horizon else {
        return UnixMillis::from_millis(0);
    };
    let first = horizon.plus(GAP).millis().max(0);
    let hours = first.div_euclid(HOUR_MS) + i64::from(first.rem_euclid(HOUR_MS) > 0);
    UnixMillis::from_millis(hours.saturating_mul(HOUR_MS))
}

/// Returns the hours whose cells change when samples of a stretch come or go.
pub(crate) fn hours_around(first: UnixMillis, last: UnixMillis) -> Span {
    let begin = first.minus(GAP).millis().div_euclid(HOUR_MS);
    let end = last.plus(GAP).millis().div_euclid(HOUR_MS);
    let millis = |hours: i64| hours.saturating_mul(HOUR_MS).max(0);
    Span::millis(millis(begin), millis(end.saturating_add(1)))
}

impl Files {
    /// Notes which rollups do not know the samples of new files.
    pub(crate) fn mark_stale(&mut self, sealed: &[Arc<Sealed>]) {
        let Some(newest) = self.rollups.iter().map(|file| file.entry.span.end).max() else {
            return;
        };
        for block in sealed
            .iter()
            .flat_map(|file| file.footer.blocks.values().flatten())
        {
            let span = hours_around(block.first, block.last);
            let known = |file: &Arc<Rolled>| file.entry.span.and(span).is_some();
            if span.begin < newest && self.rollups.iter().any(known) {
                self.stale.push(span);
            }
        }
        self.stale.sort_unstable();
        let mut apart: Vec<Span> = Vec::new();
        for span in self.stale.drain(..) {
            let many = apart.len() >= STALE_MAX;
            match apart.last_mut() {
                // Where there are too many, they are taken for one.
                Some(last) if many || span.begin <= last.end => {
                    last.end = last.end.max(span.end);
                }
                _ => apart.push(span),
            }
        }
        self.stale = apart;
    }

    /// Finds the files of one tier that share a span.
    fn group(&self, tier: Tier, span: Span) -> Vec<Arc<Rolled>> {
        let same = |file: &&Arc<Rolled>| (file.entry.tier, file.entry.span) == (tier, span);
        self.rollups.iter().filter(same).cloned().collect()
    }
}

impl Keeper {
    /// Does the next thing that is due; `None` when there is nothing.
    pub(crate) fn roll(&mut self, due: &Due<'_>) -> Result<Option<Change>, OpenError> {
        if let Some(stale) = self.files.stale.first().copied() {
            return self.remake_stale(stale, due).map(Some);
        }
        if let Some(jobs) = self.repairs(due) {
            return self.replace(jobs, |_| {}).map(Some);
        }
        if let Some(chunk) = self.chunk_due(due) {
            return self.roll_chunk(chunk, due).map(Some);
        }
        match self.merge_rollups() {
            Some(job) => self.replace(vec![job], |_| {}).map(Some),
            None => Ok(None),
        }
    }

    fn remake_stale(&mut self, stale: Span, due: &Due<'_>) -> Result<Change, OpenError> {
        let all = Span {
            begin: due.whole_from(),
            end: UnixMillis::from_millis(i64::MAX),
        };
        // Of hours whose samples are forgotten in part, nothing can be made anew.
        let fresh = stale.and(all);
        let mut spans: BTreeSet<(Tier, Span)> = BTreeSet::new();
        for file in &self.files.rollups {
            if fresh.is_some_and(|fresh| file.entry.span.and(fresh).is_some()) {
                spans.insert((file.entry.tier, file.entry.span));
            }
        }
        let job = |(tier, span): (Tier, Span)| Job {
            tiers: vec![tier],
            span,
            fresh: fresh
                .and_then(|fresh| fresh.and(span))
                .into_iter()
                .collect(),
            from: self.files.group(tier, span),
        };
        let jobs = spans.into_iter().map(job).collect();
        self.replace(jobs, |files| files.stale.retain(|span| *span != stale))
    }

    /// Finds damaged files of which samples are left.
    fn repairs(&mut self, due: &Due<'_>) -> Option<Vec<Job>> {
        let found = self.found_damaged.clone();
        for id in due.suspects.union(&found) {
            let damaged = self.files.rollups.iter().find(|file| file.entry.id == *id);
            let Some(damaged) = damaged.filter(|_| !self.beyond_repair.contains(id)) else {
                continue;
            };
            let (tier, span) = (damaged.entry.tier, damaged.entry.span);
            let begin = span.begin.max(due.whole_from());
            if begin < span.end {
                let end = span.end;
                return Some(vec![Job {
                    tiers: vec![tier],
                    span,
                    fresh: vec![Span { begin, end }],
                    from: self.files.group(tier, span),
                }]);
            }
            self.beyond_repair.insert(*id);
        }
        None
    }

    /// Finds the oldest span with samples that is to be rolled up.
    fn chunk_due(&self, due: &Due<'_>) -> Option<Span> {
        let settled = due.now.minus(due.settle_after);
        self.unrolled(due.whole_from()).find(|chunk| {
            chunk.end <= settled || due.urgent.is_some_and(|urgent| chunk.begin < urgent)
        })
    }

    /// Returns before which instant samples may be forgotten: those that rollups do not know yet stay, and
    /// so do their neighbours.
    pub(crate) fn spares(&self, horizon: UnixMillis) -> UnixMillis {
        let whole_from = whole_from(self.manifest.forgotten);
        let unrolled = self.unrolled(whole_from).next().map(|chunk| chunk.begin);
        let mut stale = self.files.stale.iter();
        let stale = stale.find(|span| span.end > whole_from);
        let stale = stale.map(|span| span.begin.max(whole_from));
        let first = unrolled.into_iter().chain(stale).min();
        first.map_or(horizon, |first| horizon.min(first.minus(GAP)))
    }

    fn unrolled(&self, whole_from: UnixMillis) -> impl Iterator<Item = Span> {
        let mut chunks = BTreeSet::new();
        for file in &self.files.blocks {
            let Some((first, last)) = file.ends() else {
                continue;
            };
            let first = first.max(whole_from).millis().div_euclid(CHUNK_MS);
            // Rollups end where reckoning with instants would.
            let last = last.millis().min(i64::MAX / 2).div_euclid(CHUNK_MS);
            chunks.extend(first.max(0)..=last);
        }
        let span = |number: i64| Span::millis(number * CHUNK_MS, (number + 1) * CHUNK_MS);
        let spans: Vec<Span> = chunks.into_iter().map(span).collect();
        let todo = |span: &Span| Tier::ALL.iter().any(|tier| self.lacks(*tier, *span));
        spans
            .into_iter()
            .filter(todo)
            .collect::<Vec<_>>()
            .into_iter()
    }

    fn lacks(&self, tier: Tier, chunk: Span) -> bool {
        let whole = |span: Span| span.begin <= chunk.begin && chunk.end <= span.end;
        let mut of_tier = self
            .files
            .rollups
            .iter()
            .filter(|file| file.entry.tier == tier);
        let forgotten = self
            .floors
            .get(&tier)
            .is_some_and(|floor| chunk.end <= *floor);
        !forgotten && !of_tier.any(|file| whole(file.entry.span))
    }

    fn roll_chunk(&mut self, chunk: Span, due: &Due<'_>) -> Result<Change, OpenError> {
        let lacking = Tier::ALL
            .into_iter()
            .filter(|tier| self.lacks(*tier, chunk));
        let begin = chunk.begin.max(due.whole_from());
        let end = chunk.end;
        let job = Job {
            tiers: lacking.collect(),
            span: chunk,
            fresh: vec![Span { begin, end }],
            from: Vec::new(),
        };
        self.replace(vec![job], |_| {})
    }

    fn merge_rollups(&self) -> Option<Job> {
        for (tier, lengths) in MERGE_SPANS {
            let of_tier = || {
                self.files
                    .rollups
                    .iter()
                    .filter(|file| file.entry.tier == tier)
            };
            let newest = of_tier().map(|file| file.entry.span.end).max()?;
            for length in lengths {
                let mut slots: BTreeMap<i64, Vec<Arc<Rolled>>> = BTreeMap::new();
                for file in of_tier() {
                    let Span { begin, end } = file.entry.span;
                    let slot = begin.millis().div_euclid(*length);
                    let over = (slot + 1).saturating_mul(*length) <= newest.millis();
                    if over && end.millis() <= (slot + 1).saturating_mul(*length) {
                        slots.entry(slot).or_default().push(Arc::clone(file));
                    }
                }
                let mergeable = |files: &Vec<Arc<Rolled>>| {
                    let spans: BTreeSet<Span> = files.iter().map(|file| file.entry.span).collect();
                    let bytes: u64 = files.iter().map(|file| file.entry.bytes).sum();
                    let whole = |file: &Arc<Rolled>| {
                        let opened = file.read();
                        let is_whole = opened.is_ok_and(|opened| opened.damage.is_none());
                        is_whole && !self.beyond_repair.contains(&file.entry.id)
                    };
                    spans.len() > 1 && bytes <= MERGE_BYTES && files.iter().all(whole)
                };
                if let Some(from) = slots.into_values().find(mergeable) {
                    let span = Span {
                        begin: from.iter().map(|file| file.entry.span.begin).min()?,
                        end: from.iter().map(|file| file.entry.span.end).max()?,
                    };
                    return Some(Job {
                        tiers: vec![tier],
                        span,
                        fresh: Vec::new(),
                        from,
                    });
                }
            }
        }
        None
    }

    /// Writes the files of some jobs and makes them the truth in place of those they were made from.
    fn replace(
        &mut self,
        jobs: Vec<Job>,
        also: impl FnOnce(&mut Files),
    ) -> Result<Change, OpenError> {
        let mut manifest = self.manifest.clone();
        let mut files = (*self.files).clone();
        let mut gone = Vec::new();
        for job in jobs {
            let Some(made) = self.run(&job, &mut manifest.next_file)? else {
                continue;
            };
            let is_input = |file: &Arc<Rolled>| job.from.iter().any(|from| Arc::ptr_eq(from, file));
            files.rollups.retain(|file| !is_input(file));
            files.rollups.extend(made);
            gone.extend(job.from.iter().map(|file| file.path.clone()));
        }
        files
            .rollups
            .sort_by_key(|file| (file.entry.tier, file.entry.span, file.entry.id));
        also(&mut files);
        self.commit(manifest, files)?;
        Ok(Change {
            files: Arc::clone(&self.files),
            sealed: Vec::new(),
            kept: None,
            gone,
            samples: 0,
            forgotten: None,
        })
    }

    /// Forgets rollups that are too old or too many; the oldest go first.
    pub(crate) fn expire_rollups(
        &mut self,
        tier: Tier,
        keep: Keep,
        now: UnixMillis,
    ) -> Result<Option<Change>, OpenError> {
        let horizon = keep.age.map(|age| now.minus(age));
        let mut files = (*self.files).clone();
        let of_tier = |file: &Arc<Rolled>| file.entry.tier == tier;
        let mut gone: Vec<Arc<Rolled>> = files
            .rollups
            .extract_if(.., |file| {
                of_tier(file) && Some(file.entry.span.end) <= horizon
            })
            .collect();
        loop {
            let left = || files.rollups.iter().filter(|file| of_tier(file));
            let bytes: u64 = left().map(|file| file.entry.bytes).sum();
            let (oldest, newest) = (
                left().map(|file| file.entry.span).min(),
                left().map(|file| file.entry.span).max(),
            );
            if keep.bytes.is_none_or(|most| bytes <= most) || oldest == newest {
                break;
            }
            let oldest = |file: &mut Arc<Rolled>| of_tier(file) && Some(file.entry.span) == oldest;
            gone.extend(files.rollups.extract_if(.., oldest));
        }
        let Some(floor) = gone.iter().map(|file| file.entry.span.end).max() else {
            return Ok(None);
        };
        self.commit(self.manifest.clone(), files)?;
        self.floors.insert(tier, floor);
        Ok(Some(Change {
            files: Arc::clone(&self.files),
            sealed: Vec::new(),
            kept: None,
            gone: gone.iter().map(|file| file.path.clone()).collect(),
            samples: 0,
            forgotten: None,
        }))
    }
}
