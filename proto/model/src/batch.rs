//! The unit of truth: a batch is stored whole, acknowledged once durable, and told apart by
//! node, session and sequence.

use std::sync::Arc;

use crate::event::Event;
use crate::fact::Fact;
use crate::id::{NodeId, SessionId};
use crate::metric::Metric;
use crate::series::{Part, Subject};
use crate::time::{UnixMillis, Window};

/// All values of one subject that were read together and share one window.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sweep {
    /// What was read.
    pub subject: Subject,
    /// When.
    pub window: Window,
    /// The values; each metric and part at most once.
    pub values: Vec<(Metric, Part, u64)>,
}

/// Which values of a subject are read together: metric and part of each.
pub type Columns = Arc<[(Metric, Part)]>;

/// A sweep as it is kept: all that have the same set of values share its names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row<'a> {
    /// What was read.
    pub subject: Subject,
    /// When.
    pub window: Window,
    /// What the values are; none twice.
    pub columns: &'a Columns,
    /// The values, one for each column.
    pub values: &'a [u64],
}

impl<'a> Row<'a> {
    /// Goes through the readings.
    pub fn readings(&self) -> impl Iterator<Item = (Metric, &'a Part, u64)> + use<'a> {
        let named = self.columns.iter().zip(self.values);
        named.map(|((metric, part), value)| (*metric, part, *value))
    }
}

/// The rows of a batch; their values lie together, so that a batch of a thousand is few pieces.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rows {
    heads: Vec<(Subject, Window, Columns)>,
    values: Vec<u64>,
}

impl Rows {
    /// Makes room for so many rows and values.
    pub fn with_capacity(rows: usize, values: usize) -> Self {
        Self {
            heads: Vec::with_capacity(rows),
            values: Vec::with_capacity(values),
        }
    }

    /// Adds a row; where there are fewer values than columns the rest is 0, and what is too many is cut.
    pub fn push(&mut self, row: Row<'_>) {
        let end = self.values.len() + row.columns.len();
        self.values.extend_from_slice(row.values);
        self.values.resize(end, 0);
        let columns = Arc::clone(row.columns);
        self.heads.push((row.subject, row.window, columns));
    }

    /// Goes through the rows.
    pub fn iter(&self) -> impl Iterator<Item = Row<'_>> {
        let mut rest = self.values.as_slice();
        self.heads.iter().map(move |(subject, window, columns)| {
            let (values, behind) = rest.split_at_checked(columns.len()).unwrap_or_default();
            rest = behind;
            Row {
                subject: *subject,
                window: *window,
                columns,
                values,
            }
        })
    }

    /// Counts the rows.
    pub fn len(&self) -> usize {
        self.heads.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.heads.is_empty()
    }

    /// Counts the readings.
    pub fn reading_count(&self) -> usize {
        self.values.len()
    }
}

impl FromIterator<Sweep> for Rows {
    fn from_iter<T: IntoIterator<Item = Sweep>>(sweeps: T) -> Self {
        let mut rows = Self::default();
        for sweep in sweeps {
            let values: Vec<u64> = sweep.values.iter().map(|(_, _, value)| *value).collect();
            let names = sweep.values.into_iter();
            rows.push(Row {
                subject: sweep.subject,
                window: sweep.window,
                columns: &names.map(|(metric, part, _)| (metric, part)).collect(),
                values: &values,
            });
        }
        rows
    }
}

/// What one agent saw in one interval.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// The node whose agent made it.
    pub node: NodeId,
    /// The run of the agent.
    pub session: SessionId,
    /// Its place in the session; the first is 1, none is used twice.
    pub sequence: u64,
    /// When it was closed.
    pub made: UnixMillis,
    /// CRC32C of the encoded body, which tells a repeated batch from a forked session.
    pub body_crc: u32,
    /// Readings.
    pub rows: Rows,
    /// Facts that are new or have changed.
    pub facts: Vec<Fact>,
    /// Things that happened.
    pub events: Vec<Event>,
}

impl Batch {
    /// Counts the readings.
    pub fn reading_count(&self) -> usize {
        self.rows.reading_count()
    }
}

/// Why samples that were produced were never stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum GapReason {
    /// The agent's spool was full and dropped its oldest segment.
    SpoolFull,
    /// A part of the spool could not be read back.
    Corrupt,
    /// The aggregator lost what it had acknowledged, as after a restored backup.
    ServerRollback,
    /// The agent died before its last samples reached the disk.
    AgentCrash,
    /// The aggregator refused the batch.
    Rejected,
}

/// A hole in a session, stored as data so that a query can show it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SampleGap {
    /// The node.
    pub node: NodeId,
    /// The session with the hole.
    pub session: SessionId,
    /// First sequence number that is missing.
    pub first_sequence: u64,
    /// Last sequence number that is missing.
    pub last_sequence: u64,
    /// How many readings are missing, where the agent still knows.
    pub reading_count: Option<u64>,
    /// When the gap was declared.
    pub declared: UnixMillis,
    /// Why.
    pub reason: GapReason,
}
