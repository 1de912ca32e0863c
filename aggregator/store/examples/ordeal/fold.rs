//! Steps out of all samples, the slow and simple way: what the store's answers are held against.
//!
//! Not here: anything of the store but the words of its door.

use plimsoll_model::{UnixMillis, Window};
use plimsoll_store::{Function, Step, Steps};

/// What rollups tell of counters.
pub(crate) const OF_COUNTERS: [Function; 4] = [
    Function::Rate,
    Function::Increase,
    Function::Count,
    Function::Last,
];
/// What rollups tell of gauges, percentiles apart.
pub(crate) const OF_GAUGES: [Function; 7] = [
    Function::Min,
    Function::Max,
    Function::Mean,
    Function::Sum,
    Function::Count,
    Function::Last,
    Function::MeanOverTime,
];

/// What a step must be, from all samples, the slow and simple way.
pub(crate) fn naive(samples: &[(Window, u64)], asked: &Steps) -> Vec<Step> {
    let step = i64::try_from(asked.step.as_millis()).unwrap();
    let mut found = Vec::new();
    let (first, last) = (asked.from.millis() / step, asked.to.millis() / step);
    for number in first..=last {
        let (begin, end) = (number * step, (number + 1) * step);
        let near = |at: i64| samples.partition_point(|(window, _)| window.end.millis() < at);
        let samples = &samples[near(begin - 300_000)..near(end + 300_001)];
        let inside: Vec<u64> = samples
            .iter()
            .filter(|(window, _)| (begin..end).contains(&window.end.millis()))
            .map(|(_, value)| *value)
            .collect();
        let (mut grown, mut held, mut grown_ms, mut held_ms) = (0_u128, 0_u128, 0_i64, 0_i64);
        for pair in samples.windows(2) {
            let (a, b) = (pair[0].0.end.millis(), pair[1].0.end.millis());
            let (from, to) = (a.max(begin), b.min(end));
            if from >= to || b - a > 300_000 {
                continue;
            }
            held += u128::from(pair[0].1) * u128::try_from(to - from).unwrap();
            held_ms += to - from;
            if let Some(all) = pair[1].1.checked_sub(pair[0].1) {
                let until = |at: i64| {
                    u128::from(all) * u128::try_from(at - a).unwrap()
                        / u128::try_from(b - a).unwrap()
                };
                grown += until(to) - until(from);
                grown_ms += to - from;
            }
        }
        let sum = || inside.iter().map(|value| u128::from(*value)).sum::<u128>() as f64;
        let some = |value: f64, known: bool| known.then_some(value);
        let is_there = !inside.is_empty();
        let value = match asked.function {
            Function::Min => inside.iter().min().map(|value| *value as f64),
            Function::Max => inside.iter().max().map(|value| *value as f64),
            Function::Last => inside.last().map(|value| *value as f64),
            Function::Sum => some(sum(), is_there),
            Function::Count => some(inside.len() as f64, is_there),
            Function::Mean => some(sum() / inside.len() as f64, is_there),
            Function::Increase => some(grown as f64, grown_ms > 0),
            Function::Rate => some(grown as f64 / grown_ms as f64 * 1_000.0, grown_ms > 0),
            Function::MeanOverTime => some(held as f64 / held_ms as f64, held_ms > 0),
            _ => unreachable!("nobody asks for another"),
        };
        let end = UnixMillis::from_millis(end);
        found.extend(value.map(|value| Step { end, value }));
    }
    found
}
