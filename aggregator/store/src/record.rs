//! The words of the store's door: what goes in, what comes out. Knows no bytes and no files.

use std::time::Duration;

use plimsoll_model::{
    Batch, DeviceId, DomainId, Metric, NodeId, Part, Ratio, SampleGap, SeriesKey, UnixMillis,
    Window,
};

/// How a store is to be kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreOptions {
    /// How long samples are kept; absent keeps them for ever. Rollups know all of them only if that is
    /// [`StoreOptions::settle_after`] and eight hours at least.
    pub retention: Option<Duration>,
    /// Bytes of sealed samples at most; the oldest partitions go first. Absent sets no limit.
    pub retention_bytes: Option<u64>,
    /// How long facts, events and gaps are kept, and documents that no later one replaced; absent
    /// keeps them for ever.
    pub events_retention: Option<Duration>,
    /// Bytes of facts, events, gaps and documents at most; the oldest go first. Absent sets no limit.
    pub events_bytes: Option<u64>,
    /// How rollups of five minutes are kept.
    pub five_minutes: Keep,
    /// How rollups of one hour are kept.
    pub hours: Keep,
    /// How long after its end a span is rolled up; what comes later makes its rollups anew.
    pub settle_after: Duration,
    /// How much of the file system is left free.
    pub floor: Floor,
    /// How long a segment of the log may grow before the next one begins.
    pub segment_bytes: u64,
    /// Bytes of samples in memory from which on they are sealed; at twice as many, appending fails.
    pub head_bytes: usize,
    /// How long samples wait in memory at most before they are sealed, by the clock or by their own time.
    pub seal_after: Duration,
    /// Length of a partition, the unit in which samples are forgotten; at least one millisecond.
    pub partition: Duration,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self {
            retention: None,
            retention_bytes: None,
            events_retention: None,
            events_bytes: None,
            five_minutes: Keep::default(),
            hours: Keep::default(),
            settle_after: Duration::from_secs(4 * 3_600),
            floor: Floor::default(),
            segment_bytes: 64 << 20,
            head_bytes: 128 << 20,
            seal_after: Duration::from_secs(2 * 3_600),
            partition: Duration::from_secs(2 * 3_600),
        }
    }
}

/// How long, and how many bytes of something are kept. Absent sets no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Keep {
    /// How long.
    pub age: Option<Duration>,
    /// How many bytes; the oldest go first.
    pub bytes: Option<u64>,
}

/// How much of the file system is left free. Below it the oldest samples are forgotten before their
/// time; where that does not help, appending fails until there is room again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Floor {
    /// Bytes.
    pub bytes: u64,
    /// Share of the file system. The greater of both holds.
    pub share: Ratio,
    /// Samples younger than this are never forgotten for want of room.
    pub spared: Duration,
}

impl Default for Floor {
    fn default() -> Self {
        Self {
            bytes: 0,
            share: Ratio::from_millionths(0),
            spared: Duration::from_secs(24 * 3_600),
        }
    }
}

/// What upkeep did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Upkeep {
    /// Samples moved from memory to sealed files.
    pub sealed_samples: u64,
    /// Files of samples or events that were merged into others.
    pub merged_files: u64,
    /// Files of samples that were forgotten.
    pub expired_files: u64,
    /// Files of rollups that were made, merged or made anew.
    pub rolled_files: u64,
    /// Files of rollups that were forgotten.
    pub expired_rollups: u64,
    /// Files of samples that were forgotten before their time, for want of room.
    pub early_files: u64,
}

/// One thing to be kept; one frame of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record {
    /// What an agent saw.
    Batch(Batch),
    /// What an agent declares lost.
    Gap(SampleGap),
    /// A document of the aggregator, such as a migration's prediction and outcome.
    Document(Document),
}

/// An opaque document under a key. A later one under the same kind and key takes its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// Name space of the key, given out by the aggregator.
    pub kind: u8,
    /// Key within the kind, at most [`Document::KEY_BYTES_MAX`] long.
    pub key: Vec<u8>,
    /// The instant by which it is found.
    pub time: UnixMillis,
    /// What is kept, at most [`Document::PAYLOAD_BYTES_MAX`] long.
    pub payload: Vec<u8>,
}

impl Document {
    /// The longest key.
    pub const KEY_BYTES_MAX: usize = 256;
    /// The longest payload.
    pub const PAYLOAD_BYTES_MAX: usize = 1 << 20;
}

/// What became of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Appended {
    /// It is on disk.
    Stored,
    /// It was on disk already; nothing was written.
    Duplicate,
    /// It does not follow what is on disk; nothing was written.
    OutOfOrder {
        /// The sequence number that would follow; 1 for a session the store does not know.
        expected: u64,
    },
    /// Another body is on disk under its sequence number; nothing was written.
    Forked,
}

/// Which series to list; absent fields match all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SeriesFilter {
    /// Seen by this node.
    pub node: Option<NodeId>,
    /// About this domain.
    pub domain: Option<DomainId>,
    /// About this device or its ports.
    pub device: Option<DeviceId>,
    /// About the port of this number.
    pub port: Option<u32>,
    /// Of this metric.
    pub metric: Option<Metric>,
    /// Of this part.
    pub part: Option<Part>,
    /// Also those of which nothing but rollups is left.
    pub past: bool,
}

impl SeriesFilter {
    /// Tells whether a series is meant.
    pub fn matches(&self, key: &SeriesKey) -> bool {
        self.node.is_none_or(|node| key.subject.node() == node)
            && (self.domain.is_none() || key.subject.domain() == self.domain)
            && (self.device.is_none() || key.subject.device() == self.device)
            && (self.port.is_none() || key.subject.port() == self.port)
            && self.metric.is_none_or(|metric| key.metric == metric)
            && self.part.as_ref().is_none_or(|part| key.part == *part)
    }
}

/// Which events to list; absent fields match all.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct EventFilter {
    /// Seen by this node.
    pub node: Option<NodeId>,
    /// About this domain.
    pub domain: Option<DomainId>,
}

/// A node the store has heard of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct NodeSeen {
    /// The node.
    pub node: NodeId,
    /// When it was last heard of.
    pub last: UnixMillis,
}

/// How much a counter grew between two samples that follow each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// End of the first sample's window.
    pub begin: UnixMillis,
    /// End of the second sample's window.
    pub end: UnixMillis,
    /// By how much it grew.
    pub increase: u64,
}

impl Rate {
    /// Returns the growth of a counter between samples that follow each other; where it went down there
    /// is none.
    pub fn between(samples: &[(Window, u64)]) -> Vec<Self> {
        let pairs = samples.windows(2).filter_map(|pair| match pair {
            [(first, before), (second, after)] if second.end > first.end => {
                let increase = after.checked_sub(*before)?;
                Some(Self {
                    begin: first.end,
                    end: second.end,
                    increase,
                })
            }
            _ => None,
        });
        pairs.collect()
    }

    /// Returns the growth per second.
    pub fn per_second(&self) -> f64 {
        self.increase as f64 / self.end.since(self.begin).as_secs_f64()
    }
}
