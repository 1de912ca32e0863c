//! Samples of one subject from everywhere they lie, as columns: those that were read together share one
//! column of windows. What it returns is in order, each window once.

use std::collections::BTreeSet;
use std::ops::{Range, RangeInclusive};
use std::sync::Arc;

use plimsoll_model::{Columns, DomainId, Metric, NodeId, Part, Subject, UnixMillis};

use crate::block::{Block, Place};
use crate::codec::Malformed;
use crate::error::Hole;
use crate::files::Files;
use crate::head::{Frozen, Head, Lane};
use crate::held::Held;
use crate::store::Store;

/// Samples of a subject that were read together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// What was read.
    pub subject: Subject,
    /// Which series of it.
    pub columns: Vec<(Metric, Part)>,
    /// When each read ended; sorted.
    pub ends: Vec<UnixMillis>,
    /// How long each took, in milliseconds; of those that ended together none took as long as another.
    pub widths_ms: Vec<u32>,
    /// The values, by column; each has as many as there are windows.
    pub values: Vec<Vec<u64>>,
}

impl Table {
    /// Counts the samples.
    pub fn reading_count(&self) -> usize {
        self.ends.len() * self.columns.len()
    }

    /// Puts windows in order, each once: the first that came.
    fn settle(&mut self) {
        let in_order = |pair: &[UnixMillis]| matches!(pair, [a, b] if a < b);
        if self.ends.windows(2).all(in_order) {
            return;
        }
        let windows = self
            .ends
            .iter()
            .copied()
            .zip(self.widths_ms.iter().copied());
        let mut order: Vec<((UnixMillis, u32), usize)> = windows.zip(0..).collect();
        order.sort_by_key(|(window, _)| *window);
        order.dedup_by_key(|(window, _)| *window);
        self.ends = order.iter().map(|((end, _), _)| *end).collect();
        self.widths_ms = order.iter().map(|((_, width_ms), _)| *width_ms).collect();
        for column in &mut self.values {
            let ordered = order.iter().filter_map(|(_, place)| column.get(*place));
            *column = ordered.copied().collect();
        }
    }
}

/// Which samples of a subject are meant.
struct Wanted<F> {
    place: Place,
    series: F,
    span: RangeInclusive<UnixMillis>,
}

impl<F: Fn(Metric, &Part) -> bool> Wanted<F> {
    /// Returns the places of the columns that are meant.
    fn picked(&self, columns: &[(Metric, Part)]) -> Vec<usize> {
        let all = columns.iter().enumerate();
        all.filter(|(_, (metric, part))| (self.series)(*metric, part))
            .map(|(place, _)| place)
            .collect()
    }
}

/// What is meant of a set of columns, and the number of the table it goes to.
struct Set {
    columns: Columns,
    picked: Vec<usize>,
    table: usize,
}

/// Tables in the making.
struct Tables<'a, F> {
    wanted: &'a Wanted<F>,
    sets: Vec<Set>,
    all: Vec<Table>,
}

impl<F: Fn(Metric, &Part) -> bool> Tables<'_, F> {
    /// Finds the table of a set of columns and the places of those that are meant; `None` where none is.
    fn of(&mut self, columns: &Columns) -> Option<(&Set, &mut Table)> {
        // Files name the same columns each for itself; comparing them takes longer than reading a block.
        let same = |set: &Set| Arc::ptr_eq(&set.columns, columns) || set.columns == *columns;
        let known = self.sets.iter().position(same);
        let known = known.unwrap_or_else(|| {
            let picked = self.wanted.picked(columns);
            let table = self.number_of(columns, &picked);
            let columns = Arc::clone(columns);
            self.sets.push(Set {
                columns,
                picked,
                table,
            });
            self.sets.len() - 1
        });
        let set = self.sets.get(known).filter(|set| !set.picked.is_empty())?;
        Some((set, self.all.get_mut(set.table)?))
    }

    fn reading_count(&self) -> usize {
        self.all.iter().map(Table::reading_count).sum()
    }

    fn number_of(&mut self, columns: &Columns, picked: &[usize]) -> usize {
        let chosen = picked.iter().filter_map(|place| columns.get(*place));
        let chosen: Vec<_> = chosen.cloned().collect();
        let known = self.all.iter().position(|table| table.columns == chosen);
        known.unwrap_or_else(|| {
            self.all.push(Table {
                subject: self.wanted.place.into(),
                values: vec![Vec::new(); chosen.len()],
                columns: chosen,
                ends: Vec::new(),
                widths_ms: Vec::new(),
            });
            self.all.len() - 1
        })
    }

    fn take_held(&mut self, columns: &Columns, held: &Held) {
        let (from, to) = (*self.wanted.span.start(), *self.wanted.span.end());
        let Some((set, table)) = self.of(columns) else {
            return;
        };
        held.each(from, columns.len(), |window, row| {
            if window.end <= to {
                table.ends.push(window.end);
                table.widths_ms.push(window.width_ms);
                for (to, from) in table.values.iter_mut().zip(&set.picked) {
                    to.extend(row.get(*from));
                }
            }
        });
    }

    /// Takes a block whose columns are most likely these.
    fn take_block(&mut self, bytes: &[u8], likely: &Columns) -> Result<(), Malformed> {
        let block = Block::parse_as(bytes, likely)?;
        let (from, to) = (*self.wanted.span.start(), *self.wanted.span.end());
        let Some((set, table)) = self.of(&block.columns) else {
            return Ok(());
        };
        // Read whole before any of it is taken, so that a damaged block leaves no part of itself.
        let (ends, widths_ms) = (block.ends()?, block.widths_ms()?);
        let columns: Vec<Vec<u64>> = set
            .picked
            .iter()
            .map(|place| block.column(*place))
            .collect::<Result<_, _>>()?;
        let first = ends.partition_point(|end| *end < from);
        let last = ends.partition_point(|end| *end <= to);
        let part = first..last.max(first);
        add(&mut table.ends, &ends, &part);
        add(&mut table.widths_ms, &widths_ms, &part);
        for (to, from) in table.values.iter_mut().zip(&columns) {
            add(to, from, &part);
        }
        Ok(())
    }
}

fn add<T: Copy>(to: &mut Vec<T>, from: &[T], part: &Range<usize>) {
    to.extend_from_slice(from.get(part.clone()).unwrap_or_default());
}

/// What a reader took along, so that it holds no lock while it reads.
struct Source {
    files: Arc<Files>,
    frozen: Option<Arc<Frozen>>,
    young: Vec<(Columns, Held)>,
}

impl Source {
    fn take<F>(head: &Head, wanted: &Wanted<F>) -> Self {
        let lanes = head.subjects.get(&wanted.place).into_iter().flatten();
        let since = |lane: &Lane| lane.held.since(*wanted.span.start());
        let young = lanes.map(|lane| (Arc::clone(&lane.columns), since(lane)));
        Self {
            files: Arc::clone(&head.files),
            frozen: head.frozen.clone(),
            young: young.collect(),
        }
    }

    fn read<F: Fn(Metric, &Part) -> bool>(
        &self,
        wanted: &Wanted<F>,
        most: usize,
        holes: &mut Vec<Hole>,
    ) -> Option<Vec<Table>> {
        let mut tables = Tables {
            wanted,
            sets: Vec::new(),
            all: Vec::new(),
        };
        let (from, to) = (*wanted.span.start(), *wanted.span.end());
        for sealed in self.files.blocks_in(from, to) {
            for block in sealed
                .footer
                .blocks
                .get(&wanted.place)
                .into_iter()
                .flatten()
            {
                if block.last < from || block.first > to {
                    continue;
                }
                // As the first file with these columns named them, so that they are compared once.
                let Some((set, _)) = tables.of(sealed.columns(block)) else {
                    continue;
                };
                let columns = Arc::clone(&set.columns);
                let read = sealed.read(block).and_then(|bytes| {
                    let read = tables.take_block(&bytes, &columns);
                    read.map_err(|error| sealed.hole(block, error))
                });
                holes.extend(read.err());
                if tables.reading_count() > most {
                    return None;
                }
            }
        }
        let frozen = self.frozen.iter();
        let frozen = frozen.filter_map(|frozen| frozen.subjects.get(&wanted.place));
        for (columns, held) in frozen.flatten().chain(&self.young) {
            tables.take_held(columns, held);
            if tables.reading_count() > most {
                return None;
            }
        }
        let mut tables = tables.all;
        tables.retain(|table| !table.ends.is_empty());
        tables.iter_mut().for_each(Table::settle);
        Some(tables)
    }
}

impl Store {
    /// Lists the subjects of a node or domain, or all, by node and domain; some may have no samples left.
    pub fn subjects(&self, node: Option<NodeId>, domain: Option<DomainId>) -> Vec<Subject> {
        let sealed = self.with_index(|index| index.places(node, domain));
        let head = self.read();
        let young = head.places(node, domain).into_iter();
        let all: BTreeSet<Place> = young.chain(sealed).collect();
        all.into_iter().map(Subject::from).collect()
    }

    /// Returns the samples of a subject whose windows end in a span: of the series that `series`
    /// means, one table for each set of them that was read together.
    pub fn tables(
        &self,
        subject: Subject,
        series: impl Fn(Metric, &Part) -> bool,
        span: RangeInclusive<UnixMillis>,
    ) -> Vec<Table> {
        let all = self.tables_up_to(subject, series, span, usize::MAX);
        all.unwrap_or_default()
    }

    /// Returns what [`Store::tables`] does, if it is no more than so many samples; reads no further where
    /// it is more. Samples that came twice count twice.
    pub fn tables_up_to(
        &self,
        subject: Subject,
        series: impl Fn(Metric, &Part) -> bool,
        span: RangeInclusive<UnixMillis>,
        most: usize,
    ) -> Option<Vec<Table>> {
        let (wanted, source) = {
            let head = self.read();
            let from = head
                .horizon
                .max(Some(*span.start()))
                .unwrap_or(*span.start());
            let wanted = Wanted {
                place: subject.into(),
                series,
                span: from..=*span.end(),
            };
            let source = Source::take(&head, &wanted);
            (wanted, source)
        };
        let mut holes = Vec::new();
        let tables = source.read(&wanted, most, &mut holes);
        self.note(holes);
        tables
    }
}
