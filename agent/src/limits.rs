//! How often each limit of the agent was met. `LIMITS.md` lists them; the constants stand where they are kept.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use plimsoll_model::{Metric, NodeId, Part, Subject, Sweep, UnixMillis, Window};

/// A limit that can be met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// A segment of samples dropped because the spool is full.
    SpoolDisk,
    /// A segment of samples dropped because the spool is kept in memory, and that is full.
    SpoolMemory,
    /// An earlier session of which only gaps are kept, because there are so many.
    Sessions,
    /// A refused batch that was not set aside, for want of room.
    Quarantine,
    /// A guest that was not asked for because too many calls of libvirt hang.
    HungCalls,
    /// A poll of a device that was given up because it told too much.
    PollValues,
}

impl Limit {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::SpoolDisk,
        Self::SpoolMemory,
        Self::Sessions,
        Self::Quarantine,
        Self::HungCalls,
        Self::PollValues,
    ];

    /// The word for it: the part of `host.agent.limit_met`.
    pub fn word(self) -> &'static str {
        match self {
            Self::SpoolDisk => "spool_disk",
            Self::SpoolMemory => "spool_memory",
            Self::Sessions => "sessions",
            Self::Quarantine => "quarantine",
            Self::HungCalls => "hung_calls",
            Self::PollValues => "poll_values",
        }
    }
}

/// How often each limit was met since the agent began; clones count together.
#[derive(Debug, Clone, Default)]
pub struct Met(Arc<[AtomicU64; Limit::ALL.len()]>);

impl Met {
    fn of(&self, limit: Limit) -> Option<&AtomicU64> {
        let place = Limit::ALL.iter().position(|one| *one == limit)?;
        self.0.get(place)
    }

    /// Counts.
    pub fn note(&self, limit: Limit) {
        if let Some(count) = self.of(limit) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Returns how often a limit was met.
    pub fn count(&self, limit: Limit) -> u64 {
        self.of(limit)
            .map_or(0, |count| count.load(Ordering::Relaxed))
    }

    /// Tells all counts as readings of the node.
    pub fn sweep(&self, node: NodeId, at: UnixMillis) -> Sweep {
        let told = |limit: Limit| {
            let part = Part::named(limit.word()).ok()?;
            Some((Metric::HostAgentLimitMet, part, self.count(limit)))
        };
        Sweep {
            subject: Subject::Node(node),
            window: Window::between(at, at),
            values: Limit::ALL.into_iter().filter_map(told).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_limit_is_counted_and_told_on_its_own() {
        let (met, at) = (Met::default(), UnixMillis::from_millis(1));
        for (times, limit) in (1_u64..).zip(Limit::ALL) {
            (0..times).for_each(|_| met.clone().note(limit));
        }
        let told = met.sweep(NodeId::random(), at).values;
        let counts: Vec<_> = told
            .iter()
            .map(|(_, part, count)| (part.as_str(), *count))
            .collect();
        let words = Limit::ALL.map(Limit::word);
        assert_eq!(counts, words.into_iter().zip(1..).collect::<Vec<_>>());
    }
}
