//! What finished migrations teach: how far the model was off, and how wide its bounds must be to hold.
//! It knows neither domains nor nodes; the caller decides which migrations are alike.
//!
//! Split conformal prediction over a rolling window (Vovk, Gammerman and Shafer, 2005; the two-sided score
//! of Romano, Patterson and Candès, 2019, here on a logarithmic scale), after the middle error was taken away.

use std::collections::VecDeque;

use crate::accuracy::Observed;
use crate::answer::{Interval, Raw};
use crate::number::round_u64;

/// From so many finished migrations on, what was learned replaces the cold-start table.
pub const LEARNED_SAMPLES_MIN: usize = 20;
/// Migrations that are remembered; older ones tell of another state of the machines.
const REMEMBERED_MAX: usize = 200;
/// Tenths of the outcomes that p10 and p90 are to enclose.
const ENCLOSED_TENTHS: usize = 8;
/// Downtimes are a few milliseconds, of which errors are no constant share; this much is added to both.
const DOWNTIME_OFFSET_MS: f64 = 30.0;

/// How bounds are bent: all are shifted, then the outer ones moved apart (or together, if negative). Both
/// are natural logarithms.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Bend {
    shift: f64,
    margin: f64,
}

/// What is done to the bounds of an estimate because of what was learned.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Correction {
    /// From how many migrations it was learned, [`LEARNED_SAMPLES_MIN`] or more.
    pub sample_count: u32,
    total: Bend,
    downtime: Bend,
    bytes: Bend,
}

impl Correction {
    /// Bends bounds of the total, in milliseconds.
    pub(crate) fn total_ms(&self, raw: Interval) -> Interval {
        bent(raw, self.total, 0.0)
    }

    /// Bends bounds of the downtime, in milliseconds.
    pub(crate) fn downtime_ms(&self, raw: Interval) -> Interval {
        bent(raw, self.downtime, DOWNTIME_OFFSET_MS)
    }

    /// Bends bounds of the bytes on the wire.
    pub(crate) fn bytes(&self, raw: Interval) -> Interval {
        bent(raw, self.bytes, 0.0)
    }
}

fn bent(raw: Interval, bend: Bend, offset: f64) -> Interval {
    let Bend { shift, margin } = bend;
    let moved = |value: u64, by: f64| {
        let value = (value as f64 + offset) * by.exp() - offset;
        round_u64(value.max(0.0))
    };
    let p50 = moved(raw.p50, shift);
    Interval {
        p10: moved(raw.p10, shift - margin).min(p50),
        p50,
        p90: moved(raw.p90, shift + margin).max(p50),
    }
}

/// How far one outcome lay from what was said of it, all on a logarithmic scale.
#[derive(Debug, Clone, Copy)]
struct Miss {
    above_middle: f64,
    below_low: f64,
    above_high: f64,
}

/// What was learned of one answer.
#[derive(Debug, Clone, Default)]
struct Misses(VecDeque<Miss>);

impl Misses {
    fn learn(&mut self, said: Interval, was: u64, offset: f64) {
        let log = |value: u64| (value as f64 + offset).max(1.0).ln();
        let was = log(was);
        self.0.push_back(Miss {
            above_middle: was - log(said.p50),
            below_low: log(said.p10) - was,
            above_high: was - log(said.p90),
        });
        if self.0.len() > REMEMBERED_MAX {
            self.0.pop_front();
        }
    }

    /// The middle error, drawn a little to none; and with that error taken away, how much farther the
    /// bounds must reach to enclose their share, with the correction for a finite sample.
    fn bend(&self) -> Bend {
        let count = self.0.len();
        let middle = ranked(self.0.iter().map(|miss| miss.above_middle), count / 2);
        let shift = middle * count as f64 / (count as f64 + 2.0);
        let outside = |miss: &Miss| (miss.below_low + shift).max(miss.above_high - shift);
        let rank = ((count + 1) * ENCLOSED_TENTHS).div_ceil(10);
        Bend {
            shift,
            margin: ranked(self.0.iter().map(outside), rank.saturating_sub(1)),
        }
    }
}

/// The value of a rank, from 0; the largest beyond the last.
fn ranked(values: impl Iterator<Item = f64>, rank: usize) -> f64 {
    let mut sorted: Vec<f64> = values.collect();
    sorted.sort_by(f64::total_cmp);
    let last = sorted.last().copied().unwrap_or(0.0);
    sorted.get(rank).copied().unwrap_or(last)
}

/// What migrations that are alike have taught, in the order in which they ended.
#[derive(Debug, Clone, Default)]
pub struct Lessons {
    total: Misses,
    downtime: Misses,
    bytes: Misses,
}

impl Lessons {
    /// Learns from a migration that ended by itself and of which all three outcomes were told; from no other.
    pub fn learn(&mut self, said: Raw, was: &Observed) {
        let said = said.total_ms.zip(said.downtime_ms).zip(said.bytes);
        let outcome = was.total_ms.zip(was.downtime_ms).zip(was.bytes);
        let (Some(((total, downtime), bytes)), Some(((took, stood), sent))) = (said, outcome)
        else {
            return;
        };
        if was.converged {
            self.total.learn(total, took, 0.0);
            self.downtime.learn(downtime, stood, DOWNTIME_OFFSET_MS);
            self.bytes.learn(bytes, sent, 0.0);
        }
    }

    /// Returns what they amount to; absent below [`LEARNED_SAMPLES_MIN`] migrations.
    pub fn correction(&self) -> Option<Correction> {
        let count = self.total.0.len();
        (count >= LEARNED_SAMPLES_MIN).then(|| Correction {
            sample_count: u32::try_from(count).unwrap_or(u32::MAX),
            total: self.total.bend(),
            downtime: self.downtime.bend(),
            bytes: self.bytes.bend(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn around(middle: f64) -> Interval {
        Interval {
            p10: round_u64(middle * 0.99),
            p50: round_u64(middle),
            p90: round_u64(middle * 1.01),
        }
    }

    fn raw(total: f64) -> Raw {
        Raw {
            total_ms: Some(around(total)),
            downtime_ms: Some(around(total / 100.0)),
            bytes: Some(around(total * 1e5)),
        }
    }

    fn outcome(total: f64) -> Observed {
        Observed {
            converged: true,
            total_ms: Some(round_u64(total)),
            downtime_ms: Some(round_u64(total / 100.0)),
            bytes: Some(round_u64(total * 1e5)),
        }
    }

    /// A model that says a fifth too little and errs by some 10 % beside that, in a fixed disorder.
    fn seen(index: u32) -> (Raw, Observed) {
        let share = |step: f64| (f64::from(index) * step).fract();
        let said = 1_000.0 + 20_000.0 * share(0.618_033_988_7);
        let noise = 0.2 * (share(0.754_877_666_2) - 0.5);
        (raw(said), outcome(said * 1.25 * noise.exp()))
    }

    #[test]
    fn too_few_teach_nothing_and_neither_do_those_that_did_not_end() {
        let mut lessons = Lessons::default();
        for index in 0..100 {
            let (said, was) = seen(index);
            let converged = index < 19;
            lessons.learn(said, &Observed { converged, ..was });
            lessons.learn(Raw::default(), &was);
        }
        assert_eq!(lessons.correction(), None);
        let (said, was) = seen(100);
        lessons.learn(said, &was);
        assert_eq!(lessons.correction().unwrap().sample_count, 20);
    }

    #[test]
    fn a_bias_goes_and_the_bounds_hold_what_they_promise_of_migrations_to_come() {
        let mut lessons = Lessons::default();
        (0..150).for_each(|index| {
            let (said, was) = seen(index);
            lessons.learn(said, &was);
        });
        let correction = lessons.correction().unwrap();
        let (mut enclosed, mut off) = (0, Vec::new());
        for index in 150..350 {
            let (said, was) = seen(index);
            let (said, was) = (
                correction.total_ms(said.total_ms.unwrap()),
                was.total_ms.unwrap(),
            );
            enclosed += usize::from((said.p10..=said.p90).contains(&was));
            off.push((said.p50 as f64 / was as f64).ln());
        }
        off.sort_by(f64::total_cmp);
        assert!(off[100].abs() < 0.02, "the middle is off by {}", off[100]);
        assert!(
            (150..=175).contains(&enclosed),
            "{enclosed} of 200 lay within p10 and p90"
        );
    }

    #[test]
    fn the_newest_two_hundred_count() {
        let mut lessons = Lessons::default();
        for index in 0..600 {
            let (said, was) = seen(index);
            // The machines became twice as slow.
            let total = was.total_ms.unwrap() as f64 * if index < 300 { 1.0 } else { 2.0 };
            lessons.learn(said, &outcome(total));
        }
        let correction = lessons.correction().unwrap();
        assert_eq!(correction.sample_count, 200);
        let (said, was) = seen(601);
        let said = correction.total_ms(said.total_ms.unwrap());
        let was = was.total_ms.unwrap() * 2;
        assert!(said.p50.abs_diff(was) * 8 < was, "{said:?} {was}");
    }

    #[test]
    fn bounds_stay_in_order_and_finite_whatever_is_learned() {
        let mut lessons = Lessons::default();
        for index in 0..60_u64 {
            let wild = [0, 1, u64::MAX, 1 << 40];
            let pick = |step: u64| wild[usize::try_from(index / step % 4).unwrap()];
            let was = Observed {
                converged: true,
                total_ms: Some(pick(1)),
                downtime_ms: Some(pick(2)),
                bytes: Some(pick(4)),
            };
            lessons.learn(raw(1_000.0), &was);
            if let Some(correction) = lessons.correction() {
                let bounds = around(5_000.0);
                for said in [
                    correction.total_ms(bounds),
                    correction.downtime_ms(bounds),
                    correction.bytes(bounds),
                ] {
                    assert!(said.p10 <= said.p50 && said.p50 <= said.p90, "{said:?}");
                }
            }
        }
    }
}
