//! Rollups held against what was told: every cell of the last days is what a naive fold of all samples
//! gives, whether its samples are still there or long forgotten.
//!
//! Not here: what of late samples came too late to be rolled up; such cells are held by bounds.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use plimsoll_model::{Kind, SeriesKey, Subject, UnixMillis, Window};
use plimsoll_store::{Function, GAP, Step, Steps, Store, Tier};

use crate::fold::{OF_COUNTERS, OF_GAUGES, naive};
use crate::world::{AGENTS, FINE_RETENTION, RETENTION, World, node, now};

const HOUR: Duration = Duration::from_secs(3_600);
/// How far back cells are looked at.
const BACK: Duration = HOUR.saturating_mul(48);
/// Samples that came no later than this were there before anybody forgot their neighbours.
const IN_TIME: Duration = HOUR.saturating_mul(5);

type Sample = (Window, u64);

/// The state in which a store is asked.
#[derive(Debug, Clone, Copy)]
struct Asked {
    agent: u8,
    /// The last slice of which it knows something.
    most: u64,
    /// Whether upkeep has nothing left to do; else what is older than the retention may be in no rollups.
    is_done: bool,
}

impl World {
    /// Holds the rollups of some series against what was told; which of them, and by which functions, is
    /// drawn anew with every slice.
    pub(crate) fn holds_rollups(
        &self,
        store: &Store,
        durable: &[u64],
        is_done: bool,
    ) -> anyhow::Result<()> {
        let most = durable.iter().max().copied().unwrap_or_default();
        let from = whole_hour(now(most).minus(BACK));
        let told = self.samples(durable, from.minus(GAP));
        let agent = u8::try_from(self.dice(most, 910, u64::from(AGENTS)))?;
        let mut guests = told.keys().filter(|key| is_guest_of(key, agent));
        let count = guests.clone().count() as u64;
        let drawn = usize::try_from(self.dice(most, 911, count.max(1)))?;
        let guest = guests.nth(drawn).map(|key| key.subject);
        let own = Subject::Node(node(agent));
        let wanted = told.iter().filter(|(key, _)| {
            let subject = Some(key.subject);
            subject == guest || subject == Some(own)
        });
        for (salt, (key, samples)) in (1_000..).zip(wanted) {
            let samples: Vec<Sample> = samples.iter().map(|(w, v)| (*w, *v)).collect();
            for tier in Tier::ALL {
                let functions = if key.metric.kind() == Kind::Counter {
                    OF_COUNTERS.as_slice()
                } else {
                    OF_GAUGES.as_slice()
                };
                let sides = functions.len() as u64;
                let drawn = self.dice(most, salt + tier.length().as_secs(), sides);
                let function = functions.get(usize::try_from(drawn)?);
                let asked = Steps {
                    from: match tier {
                        Tier::FiveMinutes => whole_hour(now(most).minus(FINE_RETENTION)).plus(HOUR),
                        Tier::Hour => from,
                    },
                    to: now(most),
                    step: tier.length(),
                    function: *function.context("no function")?,
                    gap: GAP,
                };
                let state = Asked {
                    agent,
                    most,
                    is_done,
                };
                let held = self.holds_steps(store, (key, &samples), &asked, state);
                held.with_context(|| format!("{key:?}, {asked:?}"))?;
            }
        }
        Ok(())
    }

    fn holds_steps(
        &self,
        store: &Store,
        (key, samples): (&SeriesKey, &[Sample]),
        asked: &Steps,
        state: Asked,
    ) -> anyhow::Result<()> {
        let answer = store.steps(key, asked)?;
        ensure!(answer.holes.is_empty(), "holes: {:?}", answer.holes);
        ensure!(
            answer.step == asked.step,
            "steps of {:?} although finer ones are kept",
            answer.step
        );
        let late: Vec<UnixMillis> = match key.subject {
            Subject::Node(_) => self.too_late(state),
            _ => Vec::new(),
        };
        let whole_from = now(state.most).minus(RETENTION).plus(GAP).plus(HOUR);
        let by_end = |steps: Vec<Step>| -> BTreeMap<UnixMillis, f64> {
            steps
                .into_iter()
                .map(|step| (step.end, step.value))
                .collect()
        };
        let (told, found) = (by_end(naive(samples, asked)), by_end(answer.steps));
        let count = Steps {
            function: Function::Count,
            ..*asked
        };
        let all = by_end(naive(samples, &count));
        for end in told.keys().chain(found.keys()) {
            let begin = end.minus(answer.step);
            let near = begin.minus(GAP)..=end.plus(GAP);
            let perhaps = late.iter().filter(|late| near.contains(late)).count();
            let (told, found) = (told.get(end), found.get(end));
            if begin < whole_from && !state.is_done {
                continue;
            }
            if begin >= whole_from || perhaps == 0 {
                ensure!(told == found, "{end:?}: told {told:?}, found {found:?}");
                continue;
            }
            let all = all.get(end).copied().unwrap_or_default();
            let value = found.copied().unwrap_or_default();
            let fits = match asked.function {
                Function::Count => value <= all && value >= all - perhaps as f64,
                Function::Min => found.is_none() || Some(value) >= told.copied(),
                Function::Max => found.is_none() || Some(value) <= told.copied(),
                _ => true,
            };
            ensure!(
                fits,
                "{end:?}: told {told:?}, found {found:?}, {perhaps} late"
            );
        }
        Ok(())
    }

    /// Lists the ends of the samples of a node that came when their neighbours may have been forgotten.
    fn too_late(&self, state: Asked) -> Vec<UnixMillis> {
        let all = (1..=state.most).filter_map(|number| {
            let late = self.late(state.agent, number)?;
            (now(number).since(late) > IN_TIME).then_some(late)
        });
        all.collect()
    }
}

fn whole_hour(at: UnixMillis) -> UnixMillis {
    let hour = i64::try_from(HOUR.as_millis()).unwrap_or(i64::MAX);
    UnixMillis::from_millis(at.millis().div_euclid(hour) * hour)
}

fn is_guest_of(key: &SeriesKey, agent: u8) -> bool {
    key.subject.domain().is_some() && key.subject.node() == node(agent)
}
