//! From looks to encoded batches: numbers for series, bodies of bounded size.
//!
//! Numbers are given once in a session and never taken back; it does not know segments or streams.

use std::collections::HashMap;

use plimsoll_model::{SeriesKey, UnixMillis};
use plimsoll_proto::{limits, render, v1};
use prost::Message;

use crate::look::Look;

/// Readings after which a body is closed; far from the limits of the wire.
const READINGS_PER_BODY: usize = 8_000;

/// Numbers of the series of one session.
#[derive(Debug, Default)]
pub struct Book {
    numbers: HashMap<SeriesKey, u32>,
    declarations: Vec<v1::SeriesDeclaration>,
    refused: u64,
}

impl Book {
    /// Returns the number of a series and gives one to a new series; absent once all are given.
    fn number(&mut self, key: SeriesKey) -> Option<u32> {
        if let Some(number) = self.numbers.get(&key) {
            return Some(*number);
        }
        if self.declarations.len() >= limits::SERIES_PER_SESSION_MAX {
            self.refused = self.refused.saturating_add(1);
            return None;
        }
        let number = u32::try_from(self.declarations.len()).ok()?;
        self.declarations.push(render::declaration(number, &key));
        self.numbers.insert(key, number);
        Some(number)
    }

    /// Returns the declaration of a number that was given.
    pub fn declaration(&self, number: u32) -> Option<&v1::SeriesDeclaration> {
        self.declarations.get(usize::try_from(number).ok()?)
    }

    /// How many series have a number.
    pub fn len(&self) -> usize {
        self.declarations.len()
    }

    /// Whether no series has a number.
    pub fn is_empty(&self) -> bool {
        self.declarations.is_empty()
    }

    /// Counts the readings that were left out because all numbers were given.
    pub fn refused(&self) -> u64 {
        self.refused
    }
}

/// An encoded body and what the spool must know of it.
#[derive(Debug, Clone)]
pub struct Body {
    /// The encoded `BatchBody`.
    pub bytes: Vec<u8>,
    /// Series that are called by number within.
    pub numbers: Vec<u32>,
    /// Readings within.
    pub reading_count: u64,
    /// The sweeps, for the live lane.
    pub sweeps: Vec<v1::Sweep>,
}

/// Renders a look as one body, or several if it is large.
pub fn bodies(look: Look, made: UnixMillis, book: &mut Book) -> Vec<Body> {
    let mut open = Open::default();
    let mut done = Vec::new();
    if let Some(facts) = &look.node_facts {
        open.body.node_facts = Some(render::node_facts(facts, made));
    }
    for facts in &look.domain_facts {
        open.body
            .domain_facts
            .push(render::domain_facts(facts, made));
        if open.body.domain_facts.len() >= 64 {
            done.extend(std::mem::take(&mut open).close(made));
        }
    }
    for facts in &look.device_facts {
        open.body
            .device_facts
            .push(render::device_facts(facts, made));
        if open.body.device_facts.len() >= 64 {
            done.extend(std::mem::take(&mut open).close(made));
        }
    }
    open.body.events = look.events.iter().map(render::event).collect();
    for sweep in look.sweeps {
        let mut values = Vec::with_capacity(sweep.values.len());
        for (metric, part, value) in sweep.values {
            let subject = sweep.subject;
            let key = SeriesKey {
                subject,
                metric,
                part,
            };
            if let Some(number) = book.number(key) {
                values.push((number, value));
            }
        }
        values.sort_unstable();
        for chunk in values.chunks(READINGS_PER_BODY) {
            if open.readings + chunk.len() > READINGS_PER_BODY {
                done.extend(std::mem::take(&mut open).close(made));
            }
            open.readings += chunk.len();
            open.numbers.extend(chunk.iter().map(|(number, _)| *number));
            open.body.sweeps.push(render::sweep(sweep.window, chunk));
        }
    }
    done.extend(open.close(made));
    done
}

#[derive(Debug, Default)]
struct Open {
    body: v1::BatchBody,
    numbers: Vec<u32>,
    readings: usize,
}

impl Open {
    fn close(mut self, made: UnixMillis) -> Option<Body> {
        if self.body == v1::BatchBody::default() {
            return None;
        }
        self.body.made_time = Some(render::timestamp(made));
        self.numbers.sort_unstable();
        self.numbers.dedup();
        Some(Body {
            bytes: self.body.encode_to_vec(),
            numbers: self.numbers,
            reading_count: u64::try_from(self.readings).unwrap_or(u64::MAX),
            sweeps: self.body.sweeps,
        })
    }
}

#[cfg(test)]
mod tests {
    use plimsoll_model::{Metric, NodeId, Part, Subject, Sweep, Window};

    use super::*;

    fn look(count: u32) -> Look {
        let values = (0..count)
            .map(|cpu| (Metric::HostCpuTimeUser, Part::index(cpu), 7))
            .collect();
        let subject = Subject::Node(NodeId::random());
        let window = Window::between(UnixMillis::from_millis(1), UnixMillis::from_millis(2));
        let sweeps = vec![Sweep {
            subject,
            window,
            values,
        }];
        Look {
            sweeps,
            ..Look::default()
        }
    }

    #[test]
    fn a_series_keeps_its_number() {
        let mut book = Book::default();
        let look = look(3);
        let first = bodies(look.clone(), UnixMillis::from_millis(3), &mut book);
        let second = bodies(look, UnixMillis::from_millis(4), &mut book);
        assert_eq!(first[0].numbers, second[0].numbers);
        assert_eq!(book.len(), 3);
    }

    #[test]
    fn a_large_look_becomes_several_bodies_within_the_limits() {
        let mut book = Book::default();
        let made = bodies(look(17_000), UnixMillis::from_millis(3), &mut book);
        assert_eq!(made.len(), 3);
        assert_eq!(
            made.iter().map(|body| body.reading_count).sum::<u64>(),
            17_000
        );
        assert!(
            made.iter()
                .all(|body| body.bytes.len() < limits::BATCH_BODY_BYTES_MAX)
        );
    }

    #[test]
    fn the_series_after_the_last_number_is_left_out_and_counted() {
        let mut book = Book::default();
        let made = bodies(look(20_001), UnixMillis::from_millis(3), &mut book);
        assert_eq!(
            made.iter().map(|body| body.reading_count).sum::<u64>(),
            20_000
        );
        assert_eq!((book.len(), book.refused()), (20_000, 1));
    }

    #[test]
    fn a_look_at_nothing_makes_no_batch() {
        let made = bodies(
            Look::default(),
            UnixMillis::from_millis(3),
            &mut Book::default(),
        );
        assert!(made.is_empty());
    }
}
