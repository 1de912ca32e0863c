//! Values shaped like telemetry, and the usual time of a question, for what measures the store.

use std::time::{Duration, Instant};

/// Series of a subject: ten counters, then ten gauges.
pub(crate) const SERIES: usize = 20;

/// The values of all subjects, moved on by dice with a seed.
pub(crate) struct Source {
    state: u64,
    values: Vec<u64>,
}

impl Source {
    pub(crate) fn new(subjects: usize) -> Self {
        Self {
            state: 88_172_645_463_325_252,
            values: vec![1 << 30; subjects * SERIES],
        }
    }

    pub(crate) fn random(&mut self, below: u64) -> u64 {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        self.state % below
    }

    /// Moves the values of a subject on by one interval: counters of ticks and bytes, gauges that wander or stay.
    pub(crate) fn step(&mut self, subject: usize) -> Vec<u64> {
        (0..SERIES)
            .map(|column| {
                let step = match column {
                    0..=6 => self.random(400) * 10_000_000,
                    7..=9 => self.random(200_000),
                    10..=15 if self.random(8) == 0 => self.random(64) * 4_096,
                    _ => 0,
                };
                let value = &mut self.values[subject * SERIES + column];
                *value += step;
                *value
            })
            .collect()
    }
}

/// Asks so many times; returns the time that half of them took at most.
pub(crate) fn p50(mut ask: impl FnMut(usize), times: usize) -> Duration {
    let mut spans: Vec<_> = (0..times)
        .map(|number| {
            let begun = Instant::now();
            ask(number);
            begun.elapsed()
        })
        .collect();
    spans.sort();
    spans[times / 2]
}
