//! Which thing a reading is about: subject, metric and part make a series.

use crate::id::{DeviceId, DomainId, Incarnation, NodeId};
use crate::metric::Metric;
use crate::time::{UnixMillis, Window};

/// What a series is about. A domain on two nodes is two subjects, so a split brain stays visible.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Subject {
    /// A compute node.
    Node(NodeId),
    /// One incarnation of a domain on one node.
    Domain {
        /// The domain.
        domain: DomainId,
        /// The node on which this incarnation lives.
        node: NodeId,
        /// The QEMU process.
        incarnation: Incarnation,
    },
    /// A device that a node polls, in one run of its counters.
    Device {
        /// The device.
        device: DeviceId,
        /// The node that polls it.
        node: NodeId,
        /// Since when its counters count, by the clock of that node.
        counting_since: UnixMillis,
    },
    /// A port of such a device, in one run of the port's counters.
    Port {
        /// The device.
        device: DeviceId,
        /// Number of the port on the device (ifIndex).
        port: u32,
        /// The node that polls it.
        node: NodeId,
        /// Since when its counters count, by the clock of that node.
        counting_since: UnixMillis,
    },
}

impl Subject {
    /// Returns the node that saw the subject.
    pub fn node(&self) -> NodeId {
        match self {
            Self::Node(node)
            | Self::Domain { node, .. }
            | Self::Device { node, .. }
            | Self::Port { node, .. } => *node,
        }
    }

    /// Returns the domain, if the subject is one.
    pub fn domain(&self) -> Option<DomainId> {
        match self {
            Self::Domain { domain, .. } => Some(*domain),
            Self::Node(_) | Self::Device { .. } | Self::Port { .. } => None,
        }
    }

    /// Returns the device, if the subject is one or a port of one.
    pub fn device(&self) -> Option<DeviceId> {
        match self {
            Self::Device { device, .. } | Self::Port { device, .. } => Some(*device),
            Self::Node(_) | Self::Domain { .. } => None,
        }
    }

    /// Returns the number of the port, if the subject is one.
    pub fn port(&self) -> Option<u32> {
        match self {
            Self::Port { port, .. } => Some(*port),
            Self::Node(_) | Self::Domain { .. } | Self::Device { .. } => None,
        }
    }
}

/// Why a text cannot name a part.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PartError {
    /// Too long.
    #[error("a part's name has at most {limit} bytes, got {length}", limit = Part::LENGTH_BYTES_MAX)]
    TooLong {
        /// How many bytes came.
        length: usize,
    },
    /// Holds a control character, which could forge log lines.
    #[error("a part's name holds no control characters")]
    Control,
}

/// Which part of the subject: a disk, a network card, a processor, a window; empty for the whole.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Part(Box<str>);

impl Part {
    /// The longest name of a part.
    pub const LENGTH_BYTES_MAX: usize = 64;

    /// The whole subject.
    pub fn whole() -> Self {
        Self::default()
    }

    /// Names a part; refuses control characters and names that are too long.
    pub fn named(name: &str) -> Result<Self, PartError> {
        if name.len() > Self::LENGTH_BYTES_MAX {
            return Err(PartError::TooLong { length: name.len() });
        }
        if name.chars().any(char::is_control) {
            return Err(PartError::Control);
        }
        Ok(Self(name.into()))
    }

    /// Names the part by its number, such as a processor.
    pub fn index(index: u32) -> Self {
        Self(index.to_string().into())
    }

    /// Returns the name; empty for the whole.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for Part {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// Names a series.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SeriesKey {
    /// What it is about.
    pub subject: Subject,
    /// What is measured.
    pub metric: Metric,
    /// Which part of the subject.
    pub part: Part,
}

/// One value of one series. A value that could not be read is absent; it is never 0, -1 or NaN.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reading {
    /// The series.
    pub key: SeriesKey,
    /// When it was read.
    pub window: Window,
    /// The value, in the unit of the metric.
    pub value: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_cannot_carry_control_characters_or_a_novel() {
        assert_eq!(Part::named("vda\n"), Err(PartError::Control));
        assert_eq!(
            Part::named(&"x".repeat(65)),
            Err(PartError::TooLong { length: 65 })
        );
        assert_eq!(
            Part::named(&"x".repeat(64)).map(|p| p.as_str().len()),
            Ok(64)
        );
    }
}
