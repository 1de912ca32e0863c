//! How often each limit was met. `LIMITS.md` lists the limits; the constants stand where they are kept.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use plimsoll_model::{Clock, Monotonic};
use plimsoll_proto::parse::{Excess, ParseError};

/// Lines that one limit may write into the log in [`PACE`].
pub const LINES_MAX: u32 = 10;
/// The time in which they may.
pub const PACE: Duration = Duration::from_secs(1);

/// A limit that can be met, by what is refused or ended then.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Limit {
    /// A connection beyond all that may be open.
    Connections,
    /// A connection of an address that has too many unnamed ones.
    Strangers,
    /// A connection of a node that has enough.
    OfNode,
    /// A connection that did not say in time who it is.
    Handshake,
    /// A connection that came with no good certificate, or spoke no HTTP/2.
    Unknown,
    /// A stream that is as old as it may become.
    Age,
    /// A call that a role may not make.
    Role,
    /// A question that found no place in time.
    Questions,
    /// A question of a caller that has enough under way.
    OfCaller,
    /// A question that took too long.
    QuestionTime,
    /// A question while memory is scarce.
    QuestionMemory,
    /// A stream of samples while memory is nearly out.
    IngestMemory,
    /// A batch whose samples lie too far off.
    TimeWindow,
    /// A series beyond those of a session.
    SeriesOfSession,
    /// A batch of too many bytes.
    BatchBytes,
    /// A batch of too many readings.
    Readings,
    /// A list of too many items in a message.
    Items,
    /// A text of too many bytes in a message.
    Text,
    /// Another field of a message that cannot be.
    Field,
    /// A scrape beyond those that may be under way.
    Scrapes,
    /// A call beyond those that a connection may have open.
    Calls,
    /// A call with too many bytes of headers.
    Headers,
    /// A message of too many bytes, heard or to be said.
    MessageBytes,
    /// A stream that is not read on while so many of its records wait for the disk.
    WaitingOfStream,
    /// A record that waits before it may wait for the disk, since so many do.
    WaitingOfAll,
    /// An answer with too many samples.
    AnswerSamples,
    /// A question for which too many samples would be read.
    ScannedSamples,
    /// A series beyond those that a node may have.
    SeriesOfNode,
    /// A series beyond the new ones that a node may bring.
    NewSeries,
    /// A word for another node than the one of the certificate.
    ForeignNode,
    /// A stream beyond those that may have said nothing yet.
    Greetings,
}

impl Limit {
    /// All of them.
    pub const ALL: [Self; 31] = [
        Self::Connections,
        Self::Strangers,
        Self::OfNode,
        Self::Handshake,
        Self::Unknown,
        Self::Age,
        Self::Role,
        Self::Questions,
        Self::OfCaller,
        Self::QuestionTime,
        Self::QuestionMemory,
        Self::IngestMemory,
        Self::TimeWindow,
        Self::SeriesOfSession,
        Self::BatchBytes,
        Self::Readings,
        Self::Items,
        Self::Text,
        Self::Field,
        Self::Scrapes,
        Self::Calls,
        Self::Headers,
        Self::MessageBytes,
        Self::WaitingOfStream,
        Self::WaitingOfAll,
        Self::AnswerSamples,
        Self::ScannedSamples,
        Self::SeriesOfNode,
        Self::NewSeries,
        Self::ForeignNode,
        Self::Greetings,
    ];

    /// The word for it on `/metrics`.
    pub fn word(self) -> &'static str {
        match self {
            Self::Connections => "connections",
            Self::Strangers => "strangers",
            Self::OfNode => "of_node",
            Self::Handshake => "handshake",
            Self::Unknown => "unknown",
            Self::Age => "age",
            Self::Role => "role",
            Self::Questions => "questions",
            Self::OfCaller => "of_caller",
            Self::QuestionTime => "question_time",
            Self::QuestionMemory => "question_memory",
            Self::IngestMemory => "ingest_memory",
            Self::TimeWindow => "time_window",
            Self::SeriesOfSession => "series_of_session",
            Self::BatchBytes => "batch_bytes",
            Self::Readings => "readings",
            Self::Items => "items",
            Self::Text => "text",
            Self::Field => "field",
            Self::Scrapes => "scrapes",
            Self::Calls => "calls",
            Self::Headers => "headers",
            Self::MessageBytes => "message_bytes",
            Self::WaitingOfStream => "waiting_of_stream",
            Self::WaitingOfAll => "waiting_of_all",
            Self::AnswerSamples => "answer_samples",
            Self::ScannedSamples => "scanned_samples",
            Self::SeriesOfNode => "series_of_node",
            Self::NewSeries => "new_series",
            Self::ForeignNode => "foreign_node",
            Self::Greetings => "greetings",
        }
    }

    /// The limit that a refused message met.
    pub fn of(error: &ParseError) -> Self {
        match error.excess {
            Some(Excess::Time) => Self::TimeWindow,
            Some(Excess::BatchBytes) => Self::BatchBytes,
            Some(Excess::Series) => Self::SeriesOfSession,
            Some(Excess::Readings) => Self::Readings,
            Some(Excess::Items) => Self::Items,
            Some(Excess::Text) => Self::Text,
            Some(Excess::Answer) => Self::AnswerSamples,
            Some(Excess::Scan) => Self::ScannedSamples,
            Some(Excess::Authority) => Self::ForeignNode,
            None => Self::Field,
        }
    }
}

#[derive(Debug, Default)]
struct Count {
    met: AtomicU64,
    lines: Mutex<Option<(Monotonic, u32)>>,
}

/// How often each limit was met since the start.
#[derive(Debug)]
pub struct Met(BTreeMap<Limit, Count>);

impl Default for Met {
    fn default() -> Self {
        let counts = Limit::ALL.map(|limit| (limit, Count::default()));
        Self(counts.into())
    }
}

impl Met {
    /// Counts; says whether a line about it may be written into the log.
    pub fn note(&self, limit: Limit, clock: &dyn Clock) -> bool {
        let Some(count) = self.0.get(&limit) else {
            return false;
        };
        count.met.fetch_add(1, Ordering::Relaxed);
        let now = clock.monotonic();
        let mut lines = count.lines.lock().unwrap_or_else(PoisonError::into_inner);
        let (began, written) = match *lines {
            Some((began, written)) if now.since(began) < PACE => (began, written),
            _ => (now, 0),
        };
        *lines = Some((began, written.saturating_add(1)));
        written < LINES_MAX
    }

    /// Returns how often a limit was met.
    pub fn count(&self, limit: Limit) -> u64 {
        let count = self.0.get(&limit);
        count.map_or(0, |count| count.met.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::scene::Scene;

    #[test]
    fn every_limit_has_a_word_and_a_count_of_its_own() {
        let words: BTreeSet<&str> = Limit::ALL.iter().map(|limit| limit.word()).collect();
        assert_eq!(words.len(), Limit::ALL.len());
        let (met, scene) = (Met::default(), Scene::new());
        for limit in Limit::ALL {
            met.note(limit, &*scene.hands);
            assert_eq!(met.count(limit), 1, "{limit:?}");
        }
    }

    #[test]
    fn ten_lines_a_second_are_written_and_all_is_counted() {
        let (met, scene) = (Met::default(), Scene::new());
        let note = || met.note(Limit::Strangers, &*scene.hands);
        let written = (0..1_000).filter(|_| note()).count();
        assert_eq!(written, 10);
        scene.pass(1);
        assert!(note(), "another second, another line");
        assert_eq!(met.count(Limit::Strangers), 1_001);
        assert!(met.note(Limit::Unknown, &*scene.hands), "each on its own");
    }
}
