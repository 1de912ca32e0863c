//! Cells: what stays of the samples of one series in one stretch of time. It reads no files. Cells that
//! follow each other add up to longer ones, and nothing is lost but what the function says.
//!
//! The catalogue decides what a cell holds. Of counters: how many samples, the last, and the growth that
//! is known, over how much time. Of gauges: least, greatest, last, count, sum, and the time-weighted sum
//! with the time it covers; where values are a quantity, the 95th percentile as well.

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

    fn of(number: i64, samples: &[(Window, u64)]) -> Option<Self> {
        let values = || samples.iter().map(|(_, value)| *value);
        let mut sorted: Vec<u64> = values().collect();
        sorted.sort_unstable();
        Some(Self {
            count: samples.len() as u64,
            last: values().next_back()?,
            min: *sorted.first()?,
            max: *sorted.last()?,
            sum: values().map(u128::from).sum(),
            p95: nearest_rank(&sorted, 0.95)?,
            ..Self::empty(number)
        })
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

    /// Takes the time between two samples into account, as far as it lies in the cell.
    fn connect(
        &mut self,
        (first, second): (&(Window, u64), &(Window, u64)),
        (tier, shape): (Tier, Shape),
    ) {
        let (begin, end) = (first.0.end.millis(), second.0.end.millis());
        let from = begin.max(tier.begin(self.number));
        let to = end.min(tier.begin(self.number.saturating_add(1)));
        let since = |at: i64| u128::from(at.saturating_sub(begin).max(0).unsigned_abs());
        let millis = to.saturating_sub(from).max(0).unsigned_abs();
        if shape == Shape::Counter {
            // Where it went down, nothing is known.
            let Some(grown) = second.1.checked_sub(first.1) else {
                return;
            };
            // Whole units: each border takes what has come in full, so all cells together have all.
            let until = |at: i64| u128::from(grown) * since(at) / since(end).max(1);
            self.increase += until(to).saturating_sub(until(from));
        } else {
            self.held += u128::from(first.1) * u128::from(millis);
        }
        self.covered_ms += millis;
    }

    /// Sets to zero what cells of a shape do not hold.
    fn shaped(mut self, shape: Shape) -> Self {
        match shape {
            Shape::Counter => {
                (self.min, self.max, self.sum, self.p95) = (0, 0, 0, 0);
            }
            Shape::Gauge => self.p95 = 0,
            Shape::Quantity => {}
        }
        self
    }
}

/// Returns the value at or below which a share of the sorted values lies, by nearest rank.
pub(crate) fn nearest_rank(sorted: &[u64], share: f64) -> Option<u64> {
    let count = sorted.len() as f64;
    let below = |place: &usize| (*place as f64 + 1.0) < share * count;
    let place = (0..sorted.len().saturating_sub(1))
        .take_while(below)
        .count();
    sorted.get(place).copied()
}

/// Makes the cells that begin in `from..to` out of samples that are in order. The samples should reach
/// one [`GAP`] beyond both ends, so that growth over the edges is known.
pub(crate) fn fold(
    samples: &[(Window, u64)],
    (tier, shape): (Tier, Shape),
    (from, to): (UnixMillis, UnixMillis),
) -> Vec<Cell> {
    let length = tier.millis();
    let number = |window: Window| window.end.millis().div_euclid(length);
    let mut cells: Vec<Cell> = Vec::new();
    let mut rest = samples;
    while let Some((window, _)) = rest.first() {
        let of_cell = number(*window);
        let count = rest.partition_point(|(window, _)| number(*window) <= of_cell);
        let (in_cell, behind) = rest.split_at(count);
        rest = behind;
        cells.extend(Cell::of(of_cell, in_cell));
    }
    let mut at = 0;
    for pair in samples.windows(2) {
        let [first, second] = pair else { continue };
        let span = second.0.end.since(first.0.end);
        if span.is_zero() || span > GAP {
            continue;
        }
        let reached = number(first.0)..=number(second.0);
        let before = |cell: &Cell| cell.number < *reached.start();
        while cells.get(at).is_some_and(before) {
            at += 1;
        }
        let cells = cells.iter_mut().skip(at);
        for cell in cells.take_while(|cell| reached.contains(&cell.number)) {
            cell.connect((first, second), (tier, shape));
        }
    }
    cells.retain(|cell| (from.millis()..to.millis()).contains(&tier.begin(cell.number)));
    cells.into_iter().map(|cell| cell.shaped(shape)).collect()
}

/// The cells of one series of a subject.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Lane {
    pub(crate) metric: Metric,
    pub(crate) part: Part,
    pub(crate) shape: Shape,
    pub(crate) cells: Vec<Cell>,
}
