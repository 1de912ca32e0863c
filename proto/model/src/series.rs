//! Which thing a reading is about: subject, metric and part make a series.

use crate::id::{DomainId, Incarnation, NodeId};
use crate::metric::Metric;
use crate::time::Window;

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
}

impl Subject {
    /// Returns the node that saw the subject.
    pub fn node(&self) -> NodeId {
        match self {
            Self::Node(node) | Self::Domain { node, .. } => *node,
        }
    }

    /// Returns the domain, if the subject is one.
    pub fn domain(&self) -> Option<DomainId> {
        match self {
            Self::Node(_) => None,
            Self::Domain { domain, .. } => Some(*domain),
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
