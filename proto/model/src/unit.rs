//! Numbers with a unit in their type. Integers in base units; floats are born and die in `estimate`.

use std::fmt;
use std::str::FromStr;

/// Why a text is not a quantity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a {what}; write for example {example}")]
pub struct QuantityError {
    /// What stood there, cut to 64 characters.
    pub text: String,
    /// The quantity that was wanted.
    pub what: &'static str,
    /// A text that would be taken.
    pub example: &'static str,
}

/// An amount of memory or data.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteSize(u64);

/// A rate at which data can cross a link.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bandwidth(u64);

/// A rate at which a guest makes its memory dirty.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DirtyRate(u64);

/// An amount of processor time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CpuTime(u64);

/// A share or a multiple, to one millionth.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ratio(u64);

impl ByteSize {
    /// Wraps a number of bytes.
    pub const fn from_bytes(bytes: u64) -> Self {
        Self(bytes)
    }

    /// Wraps a number of KiB; saturates.
    pub const fn from_kib(kib: u64) -> Self {
        Self(kib.saturating_mul(1 << 10))
    }

    /// Wraps a number of MiB; saturates.
    pub const fn from_mib(mib: u64) -> Self {
        Self(mib.saturating_mul(1 << 20))
    }

    /// Returns the number of bytes.
    pub const fn bytes(self) -> u64 {
        self.0
    }

    /// Adds, and stays at the largest size rather than wrap.
    #[must_use]
    pub const fn saturating_add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }

    /// Subtracts, and stays at zero rather than wrap.
    #[must_use]
    pub const fn saturating_sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }
}

impl Bandwidth {
    /// Wraps a number of bytes per second.
    pub const fn from_bytes_per_second(rate: u64) -> Self {
        Self(rate)
    }

    /// Wraps a link speed as network cards tell it (10^6 bits per second).
    pub const fn from_mbit_per_second(mbit: u64) -> Self {
        Self(mbit.saturating_mul(125_000))
    }

    /// Returns bytes per second.
    pub const fn bytes_per_second(self) -> u64 {
        self.0
    }
}

impl DirtyRate {
    /// Wraps a number of bytes per second.
    pub const fn from_bytes_per_second(rate: u64) -> Self {
        Self(rate)
    }

    /// Wraps the whole MiB/s that QEMU reports.
    pub const fn from_mib_per_second(rate: u64) -> Self {
        Self(rate.saturating_mul(1 << 20))
    }

    /// Returns bytes per second.
    pub const fn bytes_per_second(self) -> u64 {
        self.0
    }
}

impl CpuTime {
    /// Wraps nanoseconds.
    pub const fn from_ns(ns: u64) -> Self {
        Self(ns)
    }

    /// Converts the kernel's clock ticks; `ticks_per_second` of zero is read as 100.
    pub const fn from_ticks(ticks: u64, ticks_per_second: u64) -> Self {
        let per_second = if ticks_per_second == 0 {
            100
        } else {
            ticks_per_second
        };
        Self(ticks.saturating_mul(1_000_000_000 / per_second))
    }

    /// Returns nanoseconds.
    pub const fn ns(self) -> u64 {
        self.0
    }
}

impl Ratio {
    /// One: the whole, or no overcommit.
    pub const ONE: Self = Self(1_000_000);

    /// Wraps millionths.
    pub const fn from_millionths(millionths: u64) -> Self {
        Self(millionths)
    }

    /// Returns millionths.
    pub const fn millionths(self) -> u64 {
        self.0
    }

    /// Returns the ratio for the use of a formula.
    pub fn as_f64(self) -> f64 {
        self.0 as f64 / 1e6
    }

    /// Multiplies a whole number, rounds down and saturates.
    #[must_use]
    pub fn of(self, whole: u64) -> u64 {
        let product = u128::from(whole) * u128::from(self.0) / 1_000_000;
        u64::try_from(product).unwrap_or(u64::MAX)
    }
}

impl FromStr for ByteSize {
    type Err = QuantityError;

    /// Reads `512MiB`, `4GiB`, `100MB` or a plain number of bytes.
    fn from_str(text: &str) -> Result<Self, QuantityError> {
        const UNITS: [(&str, u64); 9] = [
            ("KiB", 1 << 10),
            ("MiB", 1 << 20),
            ("GiB", 1 << 30),
            ("TiB", 1 << 40),
            ("kB", 1_000),
            ("MB", 1_000_000),
            ("GB", 1_000_000_000),
            ("TB", 1_000_000_000_000),
            ("B", 1),
        ];
        parse_scaled(text, &UNITS, Some(1))
            .map(Self)
            .ok_or_else(|| QuantityError {
                text: text.chars().take(64).collect(),
                what: "size",
                example: "512MiB or 4GB",
            })
    }
}

impl FromStr for Bandwidth {
    type Err = QuantityError;

    /// Reads `10Gbit/s`, `400Mbit/s`, `100MB/s` or `95MiB/s`; a bare number is refused.
    fn from_str(text: &str) -> Result<Self, QuantityError> {
        const UNITS: [(&str, u64); 7] = [
            ("kbit/s", 125),
            ("Mbit/s", 125_000),
            ("Gbit/s", 125_000_000),
            ("MiB/s", 1 << 20),
            ("GiB/s", 1 << 30),
            ("MB/s", 1_000_000),
            ("B/s", 1),
        ];
        parse_scaled(text, &UNITS, None)
            .map(Self)
            .ok_or_else(|| QuantityError {
                text: text.chars().take(64).collect(),
                what: "bandwidth",
                example: "10Gbit/s or 100MB/s",
            })
    }
}

impl FromStr for Ratio {
    type Err = QuantityError;

    /// Reads a decimal number such as `1.5` or `16`, at most six places.
    fn from_str(text: &str) -> Result<Self, QuantityError> {
        parse_decimal_millionths(text.trim())
            .map(Self)
            .ok_or_else(|| QuantityError {
                text: text.chars().take(64).collect(),
                what: "ratio",
                example: "1.5",
            })
    }
}

fn parse_scaled(text: &str, units: &[(&str, u64)], bare: Option<u64>) -> Option<u64> {
    let text = text.trim();
    let split = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let unit = unit.trim();
    let scale = if unit.is_empty() {
        bare?
    } else {
        units
            .iter()
            .find(|(name, _)| *name == unit)
            .map(|(_, scale)| *scale)?
    };
    let millionths = parse_decimal_millionths(number)?;
    u64::try_from(u128::from(millionths) * u128::from(scale) / 1_000_000).ok()
}

fn parse_decimal_millionths(text: &str) -> Option<u64> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
    if whole.is_empty() || !digits(whole) || !digits(fraction) || fraction.len() > 6 {
        return None;
    }
    let padded = format!("{fraction:0<6}");
    whole
        .parse::<u64>()
        .ok()?
        .checked_mul(1_000_000)?
        .checked_add(padded.parse().ok()?)
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const STEPS: [(u64, &str); 4] = [
            (1 << 40, "TiB"),
            (1 << 30, "GiB"),
            (1 << 20, "MiB"),
            (1 << 10, "KiB"),
        ];
        for (step, name) in STEPS {
            if self.0 >= step {
                return write!(f, "{:.1} {name}", self.0 as f64 / step as f64);
            }
        }
        write!(f, "{} B", self.0)
    }
}

impl fmt::Display for Bandwidth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bits = self.0 as f64 * 8.0;
        if bits >= 1e9 {
            write!(f, "{:.2} Gbit/s", bits / 1e9)
        } else {
            write!(f, "{:.1} Mbit/s", bits / 1e6)
        }
    }
}

impl fmt::Display for DirtyRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/s", ByteSize(self.0))
    }
}

impl fmt::Display for Ratio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.as_f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_with_units_are_read_exactly() {
        assert_eq!("512MiB".parse(), Ok(ByteSize::from_mib(512)));
        assert_eq!("1.5 GB".parse(), Ok(ByteSize::from_bytes(1_500_000_000)));
        assert_eq!(
            "400Mbit/s".parse(),
            Ok(Bandwidth::from_bytes_per_second(50_000_000))
        );
        assert_eq!("1.5".parse(), Ok(Ratio::from_millionths(1_500_000)));
    }

    #[test]
    fn a_bandwidth_without_unit_is_refused() {
        let error = "400".parse::<Bandwidth>().unwrap_err();
        assert!(error.to_string().contains("10Gbit/s"));
        assert!("-1".parse::<Ratio>().is_err());
        assert!("99999999999999999999GiB".parse::<ByteSize>().is_err());
    }

    #[test]
    fn a_ratio_rounds_down_and_never_wraps() {
        assert_eq!(Ratio::from_millionths(1_500_000).of(3), 4);
        assert_eq!(Ratio::from_millionths(16_000_000).of(u64::MAX), u64::MAX);
    }
}
