//! The unit of truth: a batch is stored whole, acknowledged once durable, and told apart by
//! node, session and sequence.

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
    pub sweeps: Vec<Sweep>,
    /// Facts that are new or have changed.
    pub facts: Vec<Fact>,
    /// Things that happened.
    pub events: Vec<Event>,
}

impl Batch {
    /// Counts the readings.
    pub fn reading_count(&self) -> usize {
        self.sweeps.iter().map(|sweep| sweep.values.len()).sum()
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
