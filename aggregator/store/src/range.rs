//! Samples of one series from everywhere they lie: sealed files, data on its way there, memory. What it
//! returns is in order, each window once.

use std::sync::Arc;

use plimsoll_model::{Columns, Metric, Part, SeriesKey, UnixMillis, Window};

use crate::block::{Block, Place};
use crate::codec::Malformed;
use crate::error::Hole;
use crate::files::Files;
use crate::head::{Frozen, Head};
use crate::held::Held;

/// Samples of a series, and what could not be read of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Range {
    /// Samples, sorted, each window once.
    pub samples: Vec<(Window, u64)>,
    /// Damaged places in which more of them may have been.
    pub holes: Vec<Hole>,
}

/// What a reader took along, so that it holds no lock while it reads.
#[derive(Debug)]
pub(crate) struct Source {
    files: Arc<Files>,
    frozen: Option<Arc<Frozen>>,
    young: Vec<(usize, usize, Held)>,
}

/// A series and a span, with the horizon already in it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted<'a> {
    pub(crate) key: &'a SeriesKey,
    pub(crate) from: UnixMillis,
    pub(crate) to: UnixMillis,
}

impl Wanted<'_> {
    fn place(&self) -> Place {
        self.key.subject.into()
    }

    fn column(&self, columns: &[(Metric, Part)]) -> Option<usize> {
        let same =
            |(metric, part): &(Metric, Part)| *metric == self.key.metric && *part == self.key.part;
        columns.iter().position(same)
    }

    fn has(&self, window: Window) -> bool {
        (self.from..=self.to).contains(&window.end)
    }

    fn pick_held(
        &self,
        held: &Held,
        (column, width): (usize, usize),
        out: &mut Vec<(Window, u64)>,
    ) {
        held.each(self.from, width, |window, values| {
            if let Some(value) = values.get(column)
                && self.has(window)
            {
                out.push((window, *value));
            }
        });
    }

    fn pick_block(
        &self,
        (bytes, likely): (&[u8], &Columns),
        out: &mut Vec<(Window, u64)>,
    ) -> Result<(), Malformed> {
        let block = Block::parse_as(bytes, likely)?;
        let Some(column) = self.column(&block.columns) else {
            return Ok(());
        };
        let windows = block.windows()?;
        let all = windows.into_iter().zip(block.column(column)?);
        out.extend(all.filter(|(window, _)| self.has(*window)));
        Ok(())
    }
}

impl Source {
    /// Takes along what is needed to read a span of a series.
    pub(crate) fn take(head: &Head, wanted: Wanted<'_>) -> Self {
        let mut source = Self {
            files: Arc::clone(&head.files),
            frozen: head.frozen.clone(),
            young: Vec::new(),
        };
        for lane in head.subjects.get(&wanted.place()).into_iter().flatten() {
            if let Some(column) = wanted.column(&lane.columns) {
                let held = lane.held.since(wanted.from);
                source.young.push((column, lane.columns.len(), held));
            }
        }
        source
    }

    /// Takes along only what is not sealed.
    pub(crate) fn unsealed(head: &Head, wanted: Wanted<'_>) -> Self {
        let files = Arc::default();
        Self {
            files,
            ..Self::take(head, wanted)
        }
    }

    /// Names the files that have lost nobody knows what of the span.
    pub(crate) fn lost(&self, wanted: Wanted<'_>) -> Vec<Hole> {
        self.files.lost_in(wanted.from, wanted.to)
    }

    /// Reads the samples.
    pub(crate) fn read(self, wanted: Wanted<'_>) -> Range {
        let mut range = Range::default();
        let place = wanted.place();
        for sealed in self.files.blocks_in(wanted.from, wanted.to) {
            for block in sealed.footer.blocks.get(&place).into_iter().flatten() {
                let apart = block.last < wanted.from || block.first > wanted.to;
                let columns = sealed.columns(block);
                if apart || wanted.column(columns).is_none() {
                    continue;
                }
                let read = sealed.read(block).and_then(|bytes| {
                    let read = wanted.pick_block((&bytes, columns), &mut range.samples);
                    read.map_err(|error| sealed.hole(block, error))
                });
                range.holes.extend(read.err());
            }
        }
        let frozen = self
            .frozen
            .iter()
            .filter_map(|frozen| frozen.subjects.get(&place));
        for (columns, held) in frozen.flatten() {
            if let Some(column) = wanted.column(columns) {
                wanted.pick_held(held, (column, columns.len()), &mut range.samples);
            }
        }
        for (column, width, held) in &self.young {
            wanted.pick_held(held, (*column, *width), &mut range.samples);
        }
        let samples = &mut range.samples;
        let in_order = |pair: &[(Window, u64)]| matches!(pair, [a, b] if a.0 < b.0);
        if !samples.windows(2).all(in_order) {
            // Stable: of two values in one window, the one that was stored first stays.
            samples.sort_by_key(|(window, _)| *window);
            samples.dedup_by_key(|(window, _)| *window);
        }
        range
    }

    /// Finds the newest sealed sample at or after `from`.
    pub(crate) fn newest(self, wanted: Wanted<'_>) -> Option<(Window, u64)> {
        let place = wanted.place();
        let mut blocks = Vec::new();
        for sealed in &self.files.blocks {
            for block in sealed.footer.blocks.get(&place).into_iter().flatten() {
                if wanted.column(sealed.columns(block)).is_some() {
                    blocks.push(block.last);
                }
            }
        }
        blocks.sort();
        // A damaged block hides what is in it; the next older one then has the newest sample.
        blocks.into_iter().rev().find_map(|last| {
            let (from, to) = (last.max(wanted.from), last);
            let source = Self {
                files: Arc::clone(&self.files),
                frozen: None,
                young: Vec::new(),
            };
            source.read(Wanted { from, to, ..wanted }).samples.pop()
        })
    }
}
