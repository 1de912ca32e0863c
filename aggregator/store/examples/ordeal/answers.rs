//! Everything a store answers, so that what it answers in spite of damage can be held against what it
//! answered before.

use std::collections::BTreeSet;

use anyhow::ensure;
use plimsoll_model::{Kind, SeriesKey, UnixMillis};
use plimsoll_store::{EventFilter, FileKind, Function, GAP, SeriesFilter, Steps, Store, Tier};

use crate::world::{FINE_RETENTION, now};

const ALWAYS: (UnixMillis, UnixMillis) = (
    UnixMillis::from_millis(i64::MIN),
    UnixMillis::from_millis(i64::MAX),
);

/// Answers, by words that can be told apart.
pub(crate) struct Answers {
    /// Samples, events and documents.
    words: BTreeSet<String>,
    /// Steps of which the store does not say that something may be missing.
    steps: BTreeSet<String>,
    /// Steps of which it does.
    partial: BTreeSet<String>,
}

impl Answers {
    /// Asks a store that was told slices up to the last.
    pub(crate) fn of(store: &Store, last: u64) -> Self {
        let mut answers = Self {
            words: BTreeSet::new(),
            steps: BTreeSet::new(),
            partial: BTreeSet::new(),
        };
        let words = &mut answers.words;
        for key in store.series(&SeriesFilter::default()) {
            let samples = store.range(&key, ALWAYS.0, ALWAYS.1);
            words.extend(samples.iter().map(|sample| format!("{key:?} {sample:?}")));
        }
        let events = store.events(ALWAYS.0, ALWAYS.1, &EventFilter::default());
        words.extend(events.iter().map(|event| format!("{event:?}")));
        let documents = store.documents(1);
        words.extend(documents.iter().map(|document| format!("{document:?}")));
        let past = SeriesFilter {
            past: true,
            ..SeriesFilter::default()
        };
        for key in store.series(&past) {
            answers.ask_for_steps(store, &key, last);
        }
        answers
    }

    fn ask_for_steps(&mut self, store: &Store, key: &SeriesKey, last: u64) {
        let functions = if key.metric.kind() == Kind::Counter {
            [Function::Increase, Function::Count]
        } else {
            [Function::MeanOverTime, Function::Max]
        };
        for tier in Tier::ALL {
            let fine = now(last).minus(FINE_RETENTION).plus(Tier::Hour.length());
            for function in functions {
                let asked = Steps {
                    from: match tier {
                        Tier::FiveMinutes => fine,
                        Tier::Hour => now(0),
                    },
                    to: now(last),
                    step: tier.length(),
                    function,
                    gap: GAP,
                };
                let Ok(answer) = store.steps(key, &asked) else {
                    continue;
                };
                let into = if answer.holes.is_empty() {
                    &mut self.steps
                } else {
                    &mut self.partial
                };
                let word = |step| format!("{key:?} {tier:?} {function:?} {step:?}");
                into.extend(answer.steps.iter().map(word));
            }
        }
    }

    /// Counts what others lack of these; what they have must be of these.
    pub(crate) fn missing(&self, others: &Self, damaged: FileKind) -> anyhow::Result<usize> {
        // A document that is damaged lets the one before it show, which was true once.
        let mut wrong = others.words.difference(&self.words);
        let wrong = wrong.find(|answer| !answer.starts_with("Document"));
        ensure!(wrong.is_none(), "{wrong:?} was never told");
        let missing = self.words.difference(&others.words).count();
        if damaged == FileKind::Log {
            // What a batch told that is lost is a gap, and no step can know of it.
            return Ok(missing);
        }
        let wrong = others.steps.difference(&self.steps).next();
        ensure!(wrong.is_none(), "{wrong:?} is no step of what was told");
        if damaged == FileKind::Blocks {
            // What they cost is counted by samples.
            return Ok(missing);
        }
        let wrong = others.partial.difference(&self.steps).next();
        ensure!(wrong.is_none(), "{wrong:?} is no cell that was");
        let found = |step: &&String| others.steps.contains(*step) || others.partial.contains(*step);
        let cells = self.steps.iter().filter(|step| !found(step)).count();
        Ok(missing + cells)
    }
}
