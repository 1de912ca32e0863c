//! Cells: what stays of the samples of one series in one stretch of time. It reads no files. Cells that
//! follow each other add up to longer ones, and nothing is lost but what the function says.
//!
//! The catalogue decides what a cell holds. Of counters: how many samples, the last, and the growth that
//! is known, over how much time. Of gauges: least, greatest, last, count, sum, and the time-weighted sum
//! with the time it covers; where values are a quantity, the 95th percentile as well.

use std::ops::Range;
use std::time::Duration;

use plimsoll_model::{Kind, Metric, Part, Unit, UnixMillis, Window};

/// How far apart two samples may lie for cells to connect them. No longer than the shortest cell, so
/// that each cell with growth in it has a sample of its own.
pub const GAP: Duration = Duration::from_secs(300);

/// How long the cells of a rollup are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Tier {
    /// Five minutes.
    FiveMinutes,
    /// One hour.
    Hour,
}

impl Tier {
    /// All tiers, the finest first.
    pub const ALL: [Self; 2] = [Self::FiveMinutes, Self::Hour];

    /// Returns how long a cell is.
    pub const fn length(self) -> Duration {
        Duration::from_millis(self.millis().unsigned_abs())
    }

    pub(crate) const fn millis(self) -> i64 {
        match self {
            Self::FiveMinutes => 300_000,
            Self::Hour => 3_600_000,
        }
    }

    /// Returns when a cell begins.
    pub(crate) const fn begin(self, number: i64) -> i64 {
        number.saturating_mul(self.millis())
    }

    /// Returns the name of its directory.
    pub const fn name(self) -> &'static str {
        match self {
            Self::FiveMinutes => "5m",
            Self::Hour => "1h",
        }
    }
}

/// What a cell of a series holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Shape {
    Counter,
    Gauge,
    /// A gauge whose percentile means something.
    Quantity,
}

impl Shape {
    pub(crate) fn of(metric: Metric) -> Self {
        match (metric.kind(), metric.unit()) {
            (Kind::Counter, _) => Self::Counter,
            // Words and instants have no order in which a share of them lies below another.
            (Kind::Gauge, Unit::Enumeration | Unit::UnixSeconds | Unit::UnixMilliseconds) => {
                Self::Gauge
            }
            (Kind::Gauge, _) => Self::Quantity,
        }
    }
}

/// What stays of one stretch. Which fields mean something is said by the [`Shape`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cell {
    /// Its begin, in lengths of the tier since 1970.
    pub(crate) number: i64,
    /// Samples whose windows end in it, one at least.
    pub(crate) count: u64,
    /// The newest of them.
    pub(crate) last: u64,
    /// Time between samples that are near enough, as far as it lies in the cell.
    pub(crate) covered_ms: u64,
    /// Growth in the covered time.
    pub(crate) increase: u128,
    pub(crate) min: u64,
    pub(crate) max: u64,
    pub(crate) sum: u128,
    /// Value times milliseconds over the covered time; a sample holds until the next one.
    pub(crate) held: u128,
    pub(crate) p95: u64,
}

impl Cell {
    pub(crate) fn empty(number: i64) -> Self {
        Self {
            number,
            count: 0,
            last: 0,
            covered_ms: 0,
            increase: 0,
            min: 0,
            max: 0,
            sum: 0,
            held: 0,
            p95: 0,
        }
    }

    /// Begins with the samples whose windows end in it, one at least.
    fn of(number: i64, values: &[u64], shape: Shape) -> Self {
        let mut cell = Self {
            count: values.len() as u64,
            last: values.last().copied().unwrap_or_default(),
            ..Self::empty(number)
        };
        if shape == Shape::Counter {
            return cell;
        }
        (cell.min, cell.max) = values.iter().fold((u64::MAX, 0), |(min, max), value| {
            (min.min(*value), max.max(*value))
        });
        if cell.min == cell.max {
            // Most gauges rest most of the time.
            cell.sum = u128::from(cell.min) * u128::from(cell.count);
            cell.p95 = cell.min;
        } else {
            cell.sum = values.iter().copied().map(u128::from).sum();
            cell.p95 = ranked(values, 0.95);
        }
        if shape == Shape::Gauge {
            cell.p95 = 0;
        }
        cell
    }

    /// Adds what came after it. The percentile of both together is no greater than the greater of
    /// theirs, and that is what stays.
    pub(crate) fn add(&mut self, later: &Self) {
        self.count = self.count.saturating_add(later.count);
        self.last = later.last;
        self.covered_ms = self.covered_ms.saturating_add(later.covered_ms);
        self.increase = self.increase.saturating_add(later.increase);
        self.min = self.min.min(later.min);
        self.max = self.max.max(later.max);
        self.sum = self.sum.saturating_add(later.sum);
        self.held = self.held.saturating_add(later.held);
        self.p95 = self.p95.max(later.p95);
    }

    /// Takes the time between samples into account that all lie in the cell and follow each other
    /// closely.
    fn connect_all(&mut self, windows: &[Window], values: &[u64], shape: Shape) {
        let (Some(begin), Some(end)) = (windows.first(), windows.last()) else {
            return;
        };
        let millis = u64::try_from(end.end.since(begin.end).as_millis()).unwrap_or(u64::MAX);
        if shape == Shape::Counter {
            if let (true, [first, .., last]) = (values.is_sorted(), values) {
                self.increase += u128::from(last - first);
                self.covered_ms += millis;
                return;
            }
        } else if self.min == self.max {
            self.held += u128::from(self.min) * u128::from(millis);
            self.covered_ms += millis;
            return;
        }
        for (ends, both) in windows.windows(2).zip(values.windows(2)) {
            if let ([begin, end], [first, second]) = (ends, both) {
                let millis = end.end.millis().abs_diff(begin.end.millis());
                self.grow(millis, (*first, second.checked_sub(*first)), shape);
            }
        }
    }

    /// Takes a stretch of time into account, from the value at its begin and the growth in it; there is
    /// none where the value went down.
    fn grow(&mut self, millis: u64, (first, growth): (u64, Option<u64>), shape: Shape) {
        if shape != Shape::Counter {
            self.held += u128::from(first) * u128::from(millis);
        } else if let Some(growth) = growth {
            self.increase += u128::from(growth);
        } else {
            return;
        }
        self.covered_ms += millis;
    }

    /// Takes the time between two samples into account, as far as it lies in the cell.
    fn connect(&mut self, [first, second]: [(Window, u64); 2], (tier, shape): (Tier, Shape)) {
        let (begin, end) = (first.0.end.millis(), second.0.end.millis());
        let from = begin.max(tier.begin(self.number));
        let to = end.min(tier.begin(self.number.saturating_add(1)));
        let since = |at: i64| at.saturating_sub(begin).max(0).unsigned_abs();
        let millis = to.saturating_sub(from).max(0).unsigned_abs();
        let growth = second.1.checked_sub(first.1).map(|growth| {
            // Whole units: each border takes what has come in full, so all cells together have all.
            let until = |at: i64| share(growth, since(at), since(end).max(1));
            until(to).saturating_sub(until(from))
        });
        self.grow(millis, (first.1, growth), shape);
    }
}

/// Returns the whole units of a share of a number; the share is no more than all of it.
fn share(number: u64, part: u64, whole: u64) -> u64 {
    match number.checked_mul(part) {
        _ if part == 0 => 0,
        _ if part >= whole => number,
        Some(product) => product / whole,
        None => {
            let wide = u128::from(number) * u128::from(part) / u128::from(whole);
            u64::try_from(wide).unwrap_or(u64::MAX)
        }
    }
}

/// Returns the place of the value at or below which a share of so many lies, by nearest rank.
fn rank(count: usize, share: f64) -> usize {
    let below = |place: &usize| (*place as f64 + 1.0) < share * count as f64;
    (0..count.saturating_sub(1)).take_while(below).count()
}

/// Returns the value at or below which a share of the values lies, by nearest rank.
fn ranked(values: &[u64], share: f64) -> u64 {
    let mut values = values.to_vec();
    let place = rank(values.len(), share);
    if place < values.len() {
        *values.select_nth_unstable(place).1
    } else {
        0
    }
}

/// Returns the value at or below which a share of the sorted values lies, by nearest rank.
pub(crate) fn nearest_rank(sorted: &[u64], share: f64) -> Option<u64> {
    sorted.get(rank(sorted.len(), share)).copied()
}

/// Whether two samples that follow each other are near enough to be connected.
fn are_near(first: Window, second: Window) -> bool {
    let span = second.end.since(first.end);
    !span.is_zero() && span <= GAP
}

/// How the windows of samples fall into cells: the same for all that was read together.
#[derive(Debug)]
pub(crate) struct Stretches<'a> {
    tier: Tier,
    windows: &'a [Window],
    all: Vec<Stretch>,
}

/// The samples of one cell.
#[derive(Debug)]
struct Stretch {
    number: i64,
    samples: Range<usize>,
    /// Whether each is near the one before it.
    near: bool,
}

impl<'a> Stretches<'a> {
    /// Finds the cells that begin in a span; the windows must be in order, and should reach one [`GAP`]
    /// beyond both of its ends, so that growth over the edges is known.
    pub(crate) fn of(
        windows: &'a [Window],
        tier: Tier,
        (from, to): (UnixMillis, UnixMillis),
    ) -> Self {
        let number = |window: &Window| window.end.millis().div_euclid(tier.millis());
        let mut all = Vec::new();
        let mut begin = 0;
        while let Some(rest) = windows.get(begin..)
            && let Some(first) = rest.first().map(number)
        {
            let count = rest.partition_point(|window| number(window) <= first);
            if (from.millis()..to.millis()).contains(&tier.begin(first)) {
                let of_cell = rest.get(..count).unwrap_or_default();
                let near = |pair: &[Window]| matches!(pair, [a, b] if are_near(*a, *b));
                all.push(Stretch {
                    number: first,
                    samples: begin..begin + count,
                    near: of_cell.windows(2).all(near),
                });
            }
            begin += count.max(1);
        }
        Self { tier, windows, all }
    }

    /// Makes the cells of one series; it has a value for each window.
    pub(crate) fn fold(&self, values: &[u64], shape: Shape) -> Vec<Cell> {
        let cell = |stretch: &Stretch| self.cell(stretch, values, shape);
        self.all.iter().filter_map(cell).collect()
    }

    fn cell(&self, stretch: &Stretch, values: &[u64], shape: Shape) -> Option<Cell> {
        let how = (self.tier, shape);
        let Range { start, end } = stretch.samples.clone();
        let within = values.get(start..end)?;
        let mut cell = Cell::of(stretch.number, within, shape);
        if stretch.near {
            let windows = self.windows.get(start..end)?;
            cell.connect_all(windows, within, shape);
        } else {
            for at in start..end.saturating_sub(1) {
                self.connect(&mut cell, (at, values), how);
            }
        }
        // Two samples at most one cell's length apart lie in neighbours.
        if let Some(before) = start.checked_sub(1) {
            self.connect(&mut cell, (before, values), how);
        }
        self.connect(&mut cell, (end.saturating_sub(1), values), how);
        Some(cell)
    }

    /// Connects a sample and the one behind it, where there are both and they are near enough.
    fn connect(&self, cell: &mut Cell, (at, values): (usize, &[u64]), how: (Tier, Shape)) {
        let sample = |at: usize| self.windows.get(at).copied().zip(values.get(at).copied());
        if let (Some(first), Some(second)) = (sample(at), sample(at.saturating_add(1)))
            && are_near(first.0, second.0)
        {
            cell.connect([first, second], how);
        }
    }
}

/// Makes the cells that begin in `from..to` out of samples that are in order.
pub(crate) fn fold(
    samples: &[(Window, u64)],
    (tier, shape): (Tier, Shape),
    span: (UnixMillis, UnixMillis),
) -> Vec<Cell> {
    let (windows, values): (Vec<Window>, Vec<u64>) = samples.iter().copied().unzip();
    Stretches::of(&windows, tier, span).fold(&values, shape)
}

/// The cells of one series of a subject.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Lane {
    pub(crate) metric: Metric,
    pub(crate) part: Part,
    pub(crate) shape: Shape,
    pub(crate) cells: Vec<Cell>,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The cells as they are defined, sample by sample and pair by pair.
    fn defined(samples: &[(Window, u64)], (tier, shape): (Tier, Shape), number: i64) -> Cell {
        let (begin, end) = (tier.begin(number), tier.begin(number + 1));
        let within = |at: i64| (begin..end).contains(&at);
        let values = samples
            .iter()
            .filter(|(window, _)| within(window.end.millis()));
        let mut values: Vec<u64> = values.map(|(_, value)| *value).collect();
        let mut cell = Cell::empty(number);
        cell.count = values.len() as u64;
        cell.last = *values.last().unwrap();
        for pair in samples.windows(2) {
            let (from, to) = (pair[0].0.end.millis(), pair[1].0.end.millis());
            let (first, second) = (pair[0].1, pair[1].1);
            let is_counter = shape == Shape::Counter;
            let is_apart = to <= begin || from >= end || to - from > 300_000;
            if is_apart || to == from || (is_counter && second < first) {
                continue;
            }
            let inside = from.clamp(begin, end)..to.clamp(begin, end);
            let millis = u64::try_from(inside.end - inside.start).unwrap();
            cell.covered_ms += millis;
            if is_counter {
                let until = |at: i64| {
                    let since = u128::try_from(at - from).unwrap();
                    u128::from(second - first) * since / u128::try_from(to - from).unwrap()
                };
                cell.increase += until(inside.end) - until(inside.start);
            } else {
                cell.held += u128::from(first) * u128::from(millis);
            }
        }
        if shape != Shape::Counter {
            values.sort_unstable();
            (cell.min, cell.max) = (values[0], *values.last().unwrap());
            cell.sum = values.iter().copied().map(u128::from).sum();
        }
        if shape == Shape::Quantity {
            cell.p95 = nearest_rank(&values, 0.95).unwrap();
        }
        cell
    }

    proptest! {
        #[test]
        fn cells_are_as_they_are_defined(
            steps in proptest::collection::vec(
                (prop_oneof![0_i64..2, 1_i64..40_000, 290_000_i64..310_000, 1_i64..4_000_000],
                 prop_oneof![any::<u64>(), 0_u64..5, Just(7)]),
                1..200,
            ),
            grows: bool,
        ) {
            let (mut at, mut width_ms, mut grown) = (0, 0, 0_u64);
            let samples: Vec<(Window, u64)> = steps.into_iter().map(|(step, value)| {
                at += step;
                width_ms += 1;
                grown = if grows { grown.saturating_add(value) } else { value };
                (Window { end: UnixMillis::from_millis(at), width_ms }, grown)
            }).collect();
            let always = (UnixMillis::from_millis(0), UnixMillis::from_millis(i64::MAX));
            for tier in Tier::ALL {
                for shape in [Shape::Counter, Shape::Gauge, Shape::Quantity] {
                    let cells = fold(&samples, (tier, shape), always);
                    let number = |(window, _): &(Window, u64)| window.end.millis() / tier.millis();
                    let mut numbers: Vec<i64> = samples.iter().map(number).collect();
                    numbers.dedup();
                    let told: Vec<i64> = cells.iter().map(|cell| cell.number).collect();
                    prop_assert_eq!(&told, &numbers);
                    for cell in cells {
                        prop_assert_eq!(cell, defined(&samples, (tier, shape), cell.number));
                    }
                }
            }
        }
    }
}
