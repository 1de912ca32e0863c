//! Samples in steps of one length: what a graph or a planner asks of a long span. It reads no files; it
//! works on samples in order. A step in which nothing is known is absent, never zero. `tiers.rs` decides
//! whether samples or rollups are read.

use std::time::Duration;

use plimsoll_model::{UnixMillis, Window};

use crate::rollup::nearest_rank;

/// Steps of one answer at most.
pub const STEPS_MAX: u64 = 11_000;

/// What is told of the samples whose windows end in a step.
///
/// Rollups tell of counters [`Function::Count`], [`Function::Last`], [`Function::Rate`] and
/// [`Function::Increase`]; of gauges [`Function::Min`] (the least of theirs), [`Function::Max`],
/// [`Function::Sum`], [`Function::Count`], [`Function::Last`], [`Function::Mean`] (weighted by count),
/// [`Function::MeanOverTime`] (weighted by time) and, of quantities, [`Function::P95`]. All else is told
/// by samples only.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Function {
    /// The least.
    Min,
    /// The greatest.
    Max,
    /// The mean of the samples.
    Mean,
    /// The sum of the samples.
    Sum,
    /// How many there are.
    Count,
    /// The newest.
    Last,
    /// The sample below or at which this share of them lies, by nearest rank; clamped to 0..=1.
    Quantile(f64),
    /// The sample below or at which 95 of 100 lie. Of several rollups together, the greatest of theirs:
    /// it lies no lower than the true one.
    P95,
    /// The mean over time: each sample holds until the next one, if that is near enough.
    MeanOverTime,
    /// Growth of a counter; else like [`Function::Rate`].
    Increase,
    /// Growth of a counter per second. Between two samples it grows evenly; where it went down, or
    /// where they lie further apart than the gap, nothing is known.
    Rate,
    /// Slope of the straight line that fits best, per second; absent for less than two instants.
    Trend,
}

/// A question for steps.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Steps {
    /// The first step is the one that holds this instant.
    pub from: UnixMillis,
    /// The last step is the one that holds this instant.
    pub to: UnixMillis,
    /// Length of a step; steps begin at multiples of it since 1970. At least one millisecond.
    pub step: Duration,
    /// What to tell.
    pub function: Function,
    /// How far apart two samples may lie to be connected. Rollups were made with
    /// [`GAP`](crate::GAP); with any other one, only samples are read.
    pub gap: Duration,
}

/// What is known of one step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Step {
    /// Its end; samples that end exactly there belong to the next one.
    pub end: UnixMillis,
    /// What was asked for.
    pub value: f64,
}

/// Why steps are refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum StepsError {
    /// The span has too many steps.
    #[error("the span has {count} steps, at most {STEPS_MAX} are answered; ask for longer steps")]
    TooMany {
        /// How many.
        count: u64,
    },
    /// The step has no length.
    #[error("a step takes one millisecond at least")]
    NoLength,
    /// Samples are forgotten, and rollups do not tell this.
    #[error(
        "{function} is told by samples only, and those before {from_ms} ms since 1970 are forgotten; \
         ask from there on, or for what rollups tell"
    )]
    SamplesOnly {
        /// What was asked for.
        function: &'static str,
        /// From when on samples are there.
        from_ms: i64,
    },
}

impl Function {
    /// Returns its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Min => "min",
            Self::Max => "max",
            Self::Mean => "mean",
            Self::Sum => "sum",
            Self::Count => "count",
            Self::Last => "last",
            Self::Quantile(_) => "quantile",
            Self::P95 => "p95",
            Self::MeanOverTime => "mean over time",
            Self::Increase => "increase",
            Self::Rate => "rate",
            Self::Trend => "trend",
        }
    }

    /// Tells whether it connects neighbours, also over the edges of steps.
    pub(crate) fn connects(self) -> bool {
        matches!(self, Self::Rate | Self::Increase | Self::MeanOverTime)
    }
}

impl Steps {
    pub(crate) fn grid(&self) -> Result<Grid, StepsError> {
        let step = i64::try_from(self.step.as_millis()).unwrap_or(i64::MAX);
        if step == 0 {
            return Err(StepsError::NoLength);
        }
        let number = |at: UnixMillis| at.millis().div_euclid(step);
        let (first, last) = (number(self.from), number(self.to));
        // A span that ends before it begins has no steps.
        let count = (i128::from(last) - i128::from(first) + 1).max(0);
        let count = u64::try_from(count).unwrap_or(u64::MAX);
        if count > STEPS_MAX {
            return Err(StepsError::TooMany { count });
        }
        Ok(Grid { first, last, step })
    }

    /// Answers from samples that are in order. Where the function connects neighbours, they should
    /// reach one gap beyond the span on both sides.
    pub fn of(&self, samples: &[(Window, u64)]) -> Result<Vec<Step>, StepsError> {
        let grid = self.grid()?;
        if self.function.connects() {
            return Ok(grid.spread(samples, (self.function, self.gap)));
        }
        let mut steps = Vec::new();
        let begin = samples.partition_point(|(window, _)| grid.number(*window) < grid.first);
        let mut rest = samples.get(begin..).unwrap_or_default();
        while let Some((window, _)) = rest.first() {
            let number = grid.number(*window);
            if number > grid.last {
                break;
            }
            let count = rest.partition_point(|(window, _)| grid.number(*window) <= number);
            let (of_step, behind) = rest.split_at(count);
            rest = behind;
            if let Some(value) = tell(self.function, of_step) {
                let end = grid.end(number);
                steps.push(Step { end, value });
            }
        }
        Ok(steps)
    }
}

/// Steps by their numbers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Grid {
    pub(crate) first: i64,
    pub(crate) last: i64,
    pub(crate) step: i64,
}

impl Grid {
    fn number(self, window: Window) -> i64 {
        window.end.millis().div_euclid(self.step)
    }

    pub(crate) fn end(self, number: i64) -> UnixMillis {
        UnixMillis::from_millis(number.saturating_add(1).saturating_mul(self.step))
    }

    /// Spreads what is known between neighbours evenly over the steps it reaches through.
    fn spread(self, samples: &[(Window, u64)], (function, gap): (Function, Duration)) -> Vec<Step> {
        let mut grown: std::collections::BTreeMap<i64, (f64, f64)> =
            std::collections::BTreeMap::new();
        for pair in samples.windows(2) {
            let [(first, before), (second, after)] = pair else {
                continue;
            };
            let span = second.end.since(first.end);
            if span.is_zero() || span > gap {
                continue;
            }
            let per_milli = if function == Function::MeanOverTime {
                *before as f64
            } else if let Some(increase) = after.checked_sub(*before) {
                increase as f64 / span.as_millis() as f64
            } else {
                continue;
            };
            let reached = self.number(*first).max(self.first)..=self.number(*second).min(self.last);
            for number in reached {
                let begin = UnixMillis::from_millis(number.saturating_mul(self.step));
                let (from, to) = (begin.max(first.end), self.end(number).min(second.end));
                let millis = to.since(from).as_millis() as f64;
                let (sum, covered) = grown.entry(number).or_default();
                *sum += per_milli * millis;
                *covered += millis;
            }
        }
        let known = grown.into_iter().filter(|(_, (_, covered))| *covered > 0.0);
        let step = |(number, (sum, covered)): (i64, (f64, f64))| Step {
            end: self.end(number),
            value: match function {
                Function::Rate => sum / covered * 1_000.0,
                Function::Increase => sum,
                _ => sum / covered,
            },
        };
        known.map(step).collect()
    }
}

/// Tells one thing of the samples of a step; at least one there is.
fn tell(function: Function, samples: &[(Window, u64)]) -> Option<f64> {
    let values = samples.iter().map(|(_, value)| *value);
    let count = samples.len() as f64;
    let sum = || values.clone().map(|value| value as f64).sum::<f64>();
    match function {
        Function::Min => values.clone().min().map(|value| value as f64),
        Function::Max => values.clone().max().map(|value| value as f64),
        Function::Mean => Some(sum() / count),
        Function::Sum => Some(sum()),
        Function::Count => Some(count),
        Function::Last => samples.last().map(|(_, value)| *value as f64),
        Function::Quantile(share) => quantile(values.clone().collect(), share),
        Function::P95 => quantile(values.clone().collect(), 0.95),
        Function::Trend => trend(samples),
        Function::Rate | Function::Increase | Function::MeanOverTime => None,
    }
}

fn quantile(mut values: Vec<u64>, share: f64) -> Option<f64> {
    values.sort_unstable();
    nearest_rank(&values, share).map(|value| value as f64)
}

fn trend(samples: &[(Window, u64)]) -> Option<f64> {
    let (first, base) = samples.first()?;
    let count = samples.len() as f64;
    // Counted from the first sample, so that large numbers lose nothing.
    let point = |(window, value): &(Window, u64)| {
        let seconds = window.end.since(first.end).as_secs_f64();
        let distance = i128::from(*value) - i128::from(*base);
        (seconds, distance as f64)
    };
    let points: Vec<(f64, f64)> = samples.iter().map(point).collect();
    let mean = |of: fn(&(f64, f64)) -> f64| points.iter().map(of).sum::<f64>() / count;
    let (mean_x, mean_y) = (mean(|point| point.0), mean(|point| point.1));
    let (mut along, mut across) = (0.0, 0.0);
    for (x, y) in &points {
        along += (x - mean_x) * (x - mean_x);
        across += (x - mean_x) * (y - mean_y);
    }
    (along > 0.0).then(|| across / along)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn samples(points: &[(i64, u64)]) -> Vec<(Window, u64)> {
        let window = |seconds: i64| Window {
            end: UnixMillis::from_millis(seconds * 1_000),
            width_ms: 1,
        };
        points
            .iter()
            .map(|(seconds, value)| (window(*seconds), *value))
            .collect()
    }

    fn ask(function: Function, points: &[(i64, u64)]) -> Vec<(i64, f64)> {
        let asked = Steps {
            from: UnixMillis::from_millis(0),
            to: UnixMillis::from_millis(99_999),
            step: Duration::from_secs(50),
            function,
            gap: Duration::from_secs(30),
        };
        let steps = asked.of(&samples(points)).unwrap();
        steps
            .iter()
            .map(|step| (step.end.millis() / 1_000, step.value))
            .collect()
    }

    const POINTS: [(i64, u64); 7] = [
        (-10, 9),
        (0, 10),
        (10, 30),
        (20, 20),
        (60, 7),
        (70, 7),
        (100, 1),
    ];

    #[test]
    fn each_function_tells_its_own() {
        assert_eq!(ask(Function::Min, &POINTS), [(50, 10.0), (100, 7.0)]);
        assert_eq!(ask(Function::Max, &POINTS), [(50, 30.0), (100, 7.0)]);
        assert_eq!(ask(Function::Mean, &POINTS), [(50, 20.0), (100, 7.0)]);
        assert_eq!(ask(Function::Sum, &POINTS), [(50, 60.0), (100, 14.0)]);
        assert_eq!(ask(Function::Count, &POINTS), [(50, 3.0), (100, 2.0)]);
        assert_eq!(ask(Function::Last, &POINTS), [(50, 20.0), (100, 7.0)]);
        assert_eq!(
            ask(Function::Quantile(0.5), &POINTS),
            [(50, 20.0), (100, 7.0)]
        );
        assert_eq!(
            ask(Function::Quantile(1.0), &POINTS),
            [(50, 30.0), (100, 7.0)]
        );
        assert_eq!(
            ask(Function::Quantile(0.0), &POINTS),
            [(50, 10.0), (100, 7.0)]
        );
        assert_eq!(ask(Function::Trend, &POINTS), [(50, 0.5), (100, 0.0)]);
    }

    #[test]
    fn a_rate_knows_nothing_across_resets_and_gaps() {
        // -10..0 lies before the span, 10..20 went down, 20..60 is a gap: 0..10 and 60..70 are left.
        assert_eq!(ask(Function::Rate, &POINTS), [(50, 2.0), (100, 0.0)]);
        assert_eq!(ask(Function::Rate, &[(0, 5)]), []);
    }

    #[test]
    fn a_rate_reaches_over_the_edges_of_steps() {
        let points = [
            (-10, 0),
            (10, 200),
            (40, 200),
            (60, 400),
            (90, 400),
            (110, 600),
        ];
        // 10 s of 10/s, 30 s of 0, 10 s of 10/s; then 10 s of 10/s, 30 s of 0, 10 s of 10/s.
        assert_eq!(ask(Function::Rate, &points), [(50, 4.0), (100, 4.0)]);
    }

    #[test]
    fn too_many_steps_are_refused() {
        let asked = Steps {
            from: UnixMillis::from_millis(i64::MIN),
            to: UnixMillis::from_millis(i64::MAX),
            step: Duration::from_millis(1),
            function: Function::Min,
            gap: Duration::ZERO,
        };
        assert!(matches!(asked.of(&[]), Err(StepsError::TooMany { .. })));
        let none = Steps {
            step: Duration::ZERO,
            ..asked
        };
        assert_eq!(none.of(&[]), Err(StepsError::NoLength));
    }

    proptest! {
        #[test]
        fn min_mean_and_max_are_in_order_and_growth_is_conserved(
            gaps in proptest::collection::vec((1_i64..29, 0_u64..1_000), 1..60), step in 1_u64..90,
        ) {
            let (mut at, mut value) = (0, 0);
            let points: Vec<(i64, u64)> = gaps.iter().map(|(gap, grown)| {
                (at, value) = (at + gap, value + grown);
                (at, value)
            }).collect();
            let all = samples(&points);
            let asked = |function| Steps {
                from: UnixMillis::from_millis(-1_000_000),
                to: UnixMillis::from_millis(3_000_000),
                step: Duration::from_secs(step),
                function,
                gap: Duration::from_secs(30),
            }.of(&all).unwrap();
            let three = [Function::Min, Function::Mean, Function::Max].map(asked);
            for ((min, mean), max) in three[0].iter().zip(&three[1]).zip(&three[2]) {
                prop_assert!(min.value <= mean.value && mean.value <= max.value);
            }
            // Rate times covered time, over all steps, is the growth.
            let first = points[0];
            let grown: f64 = asked(Function::Rate).iter().map(|rate| {
                let end = rate.end.millis() / 1_000;
                let begin = end - i64::try_from(step).unwrap();
                let covered = end.min(at) - begin.max(first.0);
                rate.value * covered as f64
            }).sum();
            let expected = (value - first.1) as f64;
            prop_assert!((grown - expected).abs() < 1e-6 * (1.0 + expected), "{} {}", grown, expected);
        }
    }
}
