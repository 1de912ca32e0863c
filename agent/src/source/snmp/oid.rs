//! Object identifiers: names of values in the order in which a device walks them.

use std::fmt;
use std::str::FromStr;

/// The name of a value on a device.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Oid(Box<[u32]>);

/// A text is no object identifier.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("is no object identifier; write for example 1.3.6.1.2.1.1.3.0")]
pub struct NoOid;

impl Oid {
    /// Most numbers of an object identifier.
    const LENGTH_MAX: usize = 128;

    /// Wraps the numbers of an object identifier.
    pub fn new(arcs: &[u32]) -> Self {
        Self(arcs.into())
    }

    /// Returns the numbers.
    pub fn arcs(&self) -> &[u32] {
        &self.0
    }

    /// Returns the name below this one.
    #[must_use]
    pub fn child(&self, arc: u32) -> Self {
        Self(self.0.iter().copied().chain([arc]).collect())
    }

    /// Returns what follows a column's name in the name of one of its values.
    pub fn below(&self, column: &Self) -> Option<&[u32]> {
        self.0.strip_prefix(column.arcs())
    }
}

impl FromStr for Oid {
    type Err = NoOid;

    fn from_str(text: &str) -> Result<Self, NoOid> {
        let arcs = text.strip_prefix('.').unwrap_or(text).split('.');
        let arcs: Box<[u32]> = arcs
            .map(|arc| arc.parse().map_err(|_| NoOid))
            .collect::<Result<_, _>>()?;
        match *arcs {
            [0..=2, _, ..] if arcs.len() <= Self::LENGTH_MAX => Ok(Self(arcs)),
            _ => Err(NoOid),
        }
    }
}

impl fmt::Display for Oid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, arc) in self.0.iter().enumerate() {
            let dot = if place == 0 { "" } else { "." };
            write!(f, "{dot}{arc}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stand_in_the_order_of_a_walk() {
        let oid = |text: &str| text.parse::<Oid>().unwrap();
        assert!(oid("1.3.6.1.2") < oid("1.3.6.1.2.1"));
        assert!(oid("1.3.6.1.2.9") < oid("1.3.6.1.2.10"));
        assert_eq!(oid(".1.3.6.7").below(&oid("1.3.6")), Some([7].as_slice()));
        assert_eq!(oid("1.3.7").below(&oid("1.3.6")), None);
    }

    #[test]
    fn what_is_no_name_is_refused() {
        for text in ["", ".", "1", "3.1.2", "1.3.x", "1..3", "1.3.4294967296"] {
            assert_eq!(text.parse::<Oid>(), Err(NoOid), "{text}");
        }
    }
}
