//! From looks to encoded batches: numbers for series, bodies of bounded size.
//!
//! Numbers are given once in a session and never taken back; it does not know segments or streams.

use std::cmp::Ordering;
use std::collections::HashMap;

use plimsoll_model::{Metric, Part, SeriesKey, Subject, Sweep, UnixMillis};
use plimsoll_proto::{limits, render, v1};
use prost::Message;

use crate::look::Look;

/// Readings after which a body is closed; far from the limits of the wire.
const READINGS_PER_BODY: usize = 8_000;

/// A series that has a number.
#[derive(Debug)]
struct Series {
    subject: Subject,
    metric: Metric,
    part: Part,
}

impl Series {
    fn order(&self, metric: Metric, part: &Part) -> Ordering {
        (self.metric, &self.part).cmp(&(metric, part))
    }
}

/// Numbers of the series of one session.
#[derive(Debug, Default)]
pub struct Book {
    /// By number.
    series: Vec<Series>,
    /// The numbers of each subject, in order of metric and part.
    subjects: HashMap<Subject, Vec<u32>>,
    refused: u64,
}

impl Book {
    /// Puts the numbers of a sweep's series in the place of their names, and gives numbers to new ones; what has
    /// none once all are given is left out.
    fn number(&mut self, sweep: Sweep) -> Vec<(u32, u64)> {
        let subject = sweep.subject;
        let own = self.subjects.entry(subject).or_default();
        let mut numbered = Vec::with_capacity(sweep.values.len());
        // The values come in the same order, as a rule.
        let mut next = 0;
        for (metric, part, value) in sweep.values {
            let order = |number: u32| {
                let index = usize::try_from(number).ok();
                let series = index.and_then(|index| self.series.get(index));
                series.map_or(Ordering::Greater, |series| series.order(metric, &part))
            };
            let found = match own.get(next) {
                Some(number) if order(*number) == Ordering::Equal => Ok(next),
                _ => own.binary_search_by(|number| order(*number)),
            };
            let place = match found {
                Ok(place) => place,
                Err(_) if self.series.len() >= limits::SERIES_PER_SESSION_MAX => {
                    self.refused = self.refused.saturating_add(1);
                    continue;
                }
                Err(place) => {
                    let number = u32::try_from(self.series.len()).unwrap_or(u32::MAX);
                    self.series.push(Series {
                        subject,
                        metric,
                        part,
                    });
                    own.insert(place, number);
                    place
                }
            };
            numbered.extend(own.get(place).map(|number| (*number, value)));
            next = place + 1;
        }
        numbered.sort_unstable();
        numbered
    }

    /// Returns the declaration of a number that was given.
    pub fn declaration(&self, number: u32) -> Option<v1::SeriesDeclaration> {
        let series = self.series.get(usize::try_from(number).ok()?)?;
        let key = SeriesKey {
            subject: series.subject,
            metric: series.metric,
            part: series.part.clone(),
        };
        Some(render::declaration(number, &key))
    }

    /// How many series have a number.
    pub fn len(&self) -> usize {
        self.series.len()
    }

    /// Whether no series has a number.
    pub fn is_empty(&self) -> bool {
        self.series.is_empty()
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
        let window = sweep.window;
        let values = book.number(sweep);
        for chunk in values.chunks(READINGS_PER_BODY) {
            if open.readings + chunk.len() > READINGS_PER_BODY {
                done.extend(std::mem::take(&mut open).close(made));
            }
            open.readings += chunk.len();
            open.numbers.extend(chunk.iter().map(|(number, _)| *number));
            open.body.sweeps.push(render::sweep(window, chunk));
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
    use plimsoll_model::{NodeId, Window};

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
    fn series_in_any_order_and_those_that_come_later_have_numbers_of_their_own() {
        let mut book = Book::default();
        let mut look = look(3);
        let few = bodies(look.clone(), UnixMillis::from_millis(3), &mut book);
        look.sweeps[0]
            .values
            .insert(1, (Metric::HostLoad1, Part::whole(), 9));
        look.sweeps[0].values.reverse();
        let many = bodies(look, UnixMillis::from_millis(4), &mut book);
        assert_eq!(few[0].numbers, [0, 1, 2]);
        assert_eq!(many[0].numbers, [0, 1, 2, 3]);
        let of = |number| book.declaration(number).unwrap();
        assert_eq!(of(3).metric_code, i32::from(Metric::HostLoad1.code()));
        assert_eq!((of(1).part.as_str(), of(1).index), ("1", 1));
        assert_eq!(book.declaration(4), None);
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
