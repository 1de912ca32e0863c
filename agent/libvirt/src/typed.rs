//! libvirt's typed parameters: named values whose type stands on the wire.
//!
//! It does not know which names exist; a name that is missing stays missing, never zero.

use crate::xdr::{Decoder, XdrError};

/// Least bytes a parameter takes on the wire: empty name, type, value of 32 bits.
const PARAM_BYTES_MIN: usize = 12;

/// One value of a typed parameter.
#[derive(Debug, Clone, PartialEq)]
pub enum TypedValue {
    /// A signed integer of 32 bits.
    Int(i32),
    /// An unsigned integer of 32 bits.
    UInt(u32),
    /// A signed integer of 64 bits.
    Long(i64),
    /// An unsigned integer of 64 bits.
    ULong(u64),
    /// A floating point number.
    Double(f64),
    /// A truth value.
    Boolean(bool),
    /// A string.
    String(String),
}

impl TypedValue {
    fn decode(decoder: &mut Decoder<'_>) -> Result<TypedValue, XdrError> {
        Ok(match decoder.u32()? {
            1 => TypedValue::Int(decoder.i32()?),
            2 => TypedValue::UInt(decoder.u32()?),
            3 => TypedValue::Long(decoder.i64()?),
            4 => TypedValue::ULong(decoder.u64()?),
            5 => TypedValue::Double(decoder.f64()?),
            6 => TypedValue::Boolean(decoder.i32()? != 0),
            7 => TypedValue::String(decoder.string()?),
            value => {
                return Err(XdrError::Unknown {
                    what: "type of a typed parameter",
                    value,
                });
            }
        })
    }

    /// The value as an unsigned integer, when it is an integer and not negative.
    #[must_use]
    pub fn as_u64(&self) -> Option<u64> {
        match *self {
            TypedValue::Int(value) => u64::try_from(value).ok(),
            TypedValue::UInt(value) => Some(u64::from(value)),
            TypedValue::Long(value) => u64::try_from(value).ok(),
            TypedValue::ULong(value) => Some(value),
            TypedValue::Double(_) | TypedValue::Boolean(_) | TypedValue::String(_) => None,
        }
    }

    /// The value as a signed integer, when it is an integer that fits.
    #[must_use]
    pub fn as_i64(&self) -> Option<i64> {
        match *self {
            TypedValue::Int(value) => Some(i64::from(value)),
            TypedValue::UInt(value) => Some(i64::from(value)),
            TypedValue::Long(value) => Some(value),
            TypedValue::ULong(value) => i64::try_from(value).ok(),
            TypedValue::Double(_) | TypedValue::Boolean(_) | TypedValue::String(_) => None,
        }
    }

    /// The value as a floating point number, when it is one.
    #[must_use]
    pub fn as_f64(&self) -> Option<f64> {
        if let TypedValue::Double(value) = *self {
            Some(value)
        } else {
            None
        }
    }

    /// The value as a truth value, when it is one.
    #[must_use]
    pub fn as_bool(&self) -> Option<bool> {
        if let TypedValue::Boolean(value) = *self {
            Some(value)
        } else {
            None
        }
    }

    /// The value as a string, when it is one.
    #[must_use]
    pub fn as_str(&self) -> Option<&str> {
        if let TypedValue::String(value) = self {
            Some(value)
        } else {
            None
        }
    }
}

/// Named values in the order the daemon sent them.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TypedParams {
    entries: Vec<(String, TypedValue)>,
}

impl TypedParams {
    /// Holds the given entries; for callers that test their own code.
    #[must_use]
    pub fn new(entries: Vec<(String, TypedValue)>) -> TypedParams {
        TypedParams { entries }
    }

    pub(crate) fn decode(decoder: &mut Decoder<'_>, limit: usize) -> Result<TypedParams, XdrError> {
        let length = decoder.length("list of typed parameters", limit, PARAM_BYTES_MIN)?;
        let mut entries = Vec::with_capacity(length);
        for _ in 0..length {
            let name = decoder.string()?;
            entries.push((name, TypedValue::decode(decoder)?));
        }
        Ok(TypedParams { entries })
    }

    /// The first value under a name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&TypedValue> {
        self.entries
            .iter()
            .find(|(entry, _)| entry == name)
            .map(|(_, value)| value)
    }

    /// The value under a name, when it is an integer and not negative.
    #[must_use]
    pub fn u64(&self, name: &str) -> Option<u64> {
        self.get(name)?.as_u64()
    }

    /// The value under a name, when it is an integer that fits.
    #[must_use]
    pub fn i64(&self, name: &str) -> Option<i64> {
        self.get(name)?.as_i64()
    }

    /// The value under a name, when it is a floating point number.
    #[must_use]
    pub fn f64(&self, name: &str) -> Option<f64> {
        self.get(name)?.as_f64()
    }

    /// The value under a name, when it is a truth value.
    #[must_use]
    pub fn bool(&self, name: &str) -> Option<bool> {
        self.get(name)?.as_bool()
    }

    /// The value under a name, when it is a string.
    #[must_use]
    pub fn str(&self, name: &str) -> Option<&str> {
        self.get(name)?.as_str()
    }

    /// All entries in the daemon's order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &TypedValue)> {
        self.entries
            .iter()
            .map(|(name, value)| (name.as_str(), value))
    }

    /// How many entries there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is no entry.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Gives the entries away.
    #[must_use]
    pub fn into_entries(self) -> Vec<(String, TypedValue)> {
        self.entries
    }
}
