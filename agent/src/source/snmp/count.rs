//! What a device's counters mean: since when they count, and how often a short one began again.
//!
//! It asks nothing; a counter that went down without a reason is passed on as it is, and nobody takes
//! a rate across it.

use std::collections::HashMap;
use std::time::Duration;

use plimsoll_model::{Metric, Monotonic, Part, Subject, UnixMillis};

/// One tick of sysUpTime.
const TICK_MS: u64 = 10;
/// How far the clock of a device may stray from ours.
const DRIFT_PER_MILLE: u32 = 1;
/// How coarse both clocks are.
const COARSE: Duration = Duration::from_millis(50);
/// Growth of a short counter between two polls beyond which it was reset, not full.
const GROWTH_MAX: u32 = 1 << 31;

/// When something was asked: between these two instants the device answered.
#[derive(Debug, Clone, Copy)]
pub struct Asked {
    /// Before the question left.
    pub begin: Monotonic,
    /// After the answer came.
    pub end: Monotonic,
    /// The wall clock when the answer came.
    pub at: UnixMillis,
}

/// One run of a device's SNMP agent.
#[derive(Debug, Clone, Copy)]
pub struct Run {
    /// Since when its counters count.
    pub since: UnixMillis,
    ticks: u32,
    asked: Asked,
}

impl Run {
    /// Reads which run it is from what the device says now: the one before, or a new one.
    pub fn read(before: Option<Self>, ticks: u32, asked: Asked) -> Self {
        let since = match before {
            Some(before) if before.goes_on(ticks, asked) => before.since,
            _ => asked.at.minus(span(ticks)),
        };
        Self {
            since,
            ticks,
            asked,
        }
    }

    /// Whether the clock of the device went on as ours did; it is full after 497 days.
    fn goes_on(&self, ticks: u32, asked: Asked) -> bool {
        let grown = span(ticks.wrapping_sub(self.ticks));
        let least = asked.begin.since(self.asked.end);
        let most = asked.end.since(self.asked.begin);
        let slack = most / 1_000 * DRIFT_PER_MILLE + COARSE;
        grown + slack >= least && grown <= most + slack
    }

    /// How long the agent runs.
    pub fn age(&self) -> Duration {
        span(self.ticks)
    }

    /// Since when the counters of a port count, which tells its discontinuity in ticks of this run.
    pub fn port_since(&self, discontinuity: Option<u32>) -> UnixMillis {
        match discontinuity {
            Some(ticks) if ticks > 0 && ticks <= self.ticks => self.since.plus(span(ticks)),
            _ => self.since,
        }
    }
}

fn span(ticks: u32) -> Duration {
    Duration::from_millis(u64::from(ticks) * TICK_MS)
}

/// Short counters made long: each time one is full, it goes on.
#[derive(Debug, Default)]
pub struct Long(HashMap<(Subject, Metric, Part), (u32, u64)>);

impl Long {
    /// Most counters that are remembered.
    const COUNTERS_MAX: usize = 16_384;

    /// Returns the long value of a short one.
    pub fn read(&mut self, key: (Subject, Metric, Part), short: u32) -> u64 {
        if self.0.len() >= Self::COUNTERS_MAX {
            self.0.clear();
        }
        let (last, turns) = self.0.entry(key).or_insert((short, 0));
        if short < *last {
            // A fall that would be a giant leap is a reset that nobody told.
            let leap = short.wrapping_sub(*last) >= GROWTH_MAX;
            *turns = if leap { 0 } else { turns.saturating_add(1) };
        }
        *last = short;
        turns
            .saturating_mul(1 << 32)
            .saturating_add(u64::from(short))
    }

    /// Forgets all, as when counters began anew.
    pub fn clear(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use plimsoll_model::{DeviceId, NodeId};

    use super::*;

    fn asked(second: u64, took_ms: u64) -> Asked {
        let begin = Duration::from_secs(second);
        Asked {
            begin: Monotonic::from_duration(begin),
            end: Monotonic::from_duration(begin + Duration::from_millis(took_ms)),
            at: UnixMillis::from_millis(1_000_000).plus(begin),
        }
    }

    #[test]
    fn a_device_that_goes_on_counting_stays_in_its_run() {
        let first = Run::read(None, 10_000, asked(0, 5));
        assert_eq!(first.since.millis(), 900_000);
        // The clock of the device is a little fast, and one answer was slow.
        let second = Run::read(Some(first), 13_002, asked(30, 900));
        let third = Run::read(Some(second), 43_010, asked(330, 5));
        assert_eq!((second.since, third.since), (first.since, first.since));
        assert_eq!(third.age(), Duration::from_millis(430_100));
    }

    #[test]
    fn a_restart_between_two_polls_is_a_new_run_even_if_the_clock_stands_higher() {
        let first = Run::read(None, 200, asked(10, 5));
        let restarted = Run::read(Some(first), 800, asked(20, 5));
        assert_ne!(restarted.since, first.since);
        assert_eq!(restarted.since.millis(), 1_012_000);
        let lower = Run::read(Some(restarted), 100, asked(30, 5));
        assert_eq!(lower.since.millis(), 1_029_000);
    }

    #[test]
    fn a_clock_that_is_full_after_497_days_goes_on() {
        let first = Run::read(None, u32::MAX - 999, asked(0, 5));
        let later = Run::read(Some(first), 2_000, asked(30, 5));
        assert_eq!(later.since, first.since);
    }

    #[test]
    fn a_port_that_was_replaced_counts_since_then() {
        let run = Run::read(None, 10_000, asked(0, 5));
        assert_eq!(run.port_since(None), run.since);
        assert_eq!(run.port_since(Some(0)), run.since);
        assert_eq!(run.port_since(Some(4_000)).millis(), 940_000);
        assert_eq!(run.port_since(Some(20_000)), run.since, "it lies ahead");
    }

    #[test]
    fn a_short_counter_that_is_full_goes_on_and_one_that_was_reset_falls() {
        let subject = Subject::Device {
            device: DeviceId::named("a"),
            node: NodeId::random(),
            counting_since: UnixMillis::from_millis(0),
        };
        let key = || (subject, Metric::HostCpuTimeUser, Part::whole());
        let mut long = Long::default();
        assert_eq!(long.read(key(), u32::MAX - 9), u64::from(u32::MAX) - 9);
        assert_eq!(long.read(key(), 10), (1 << 32) + 10);
        assert_eq!(long.read(key(), 4), 4, "so large a leap is a reset");
    }
}
