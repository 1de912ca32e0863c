//! The XDR encoding (RFC 4506), as far as libvirt uses it, with a named limit for every length.
//!
//! It does not know any message: the calls decide what stands in which order. Nothing here
//! allocates more than the bytes that are really there.

/// Longest string libvirt lets pass in either direction.
pub const STRING_BYTES_MAX: usize = 4 * 1024 * 1024;
/// XDR pads every item to a multiple of this.
const UNIT: usize = 4;

/// What is wrong with bytes that claim to be XDR, or with a value that cannot become XDR.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum XdrError {
    /// The bytes end inside an item.
    #[error("{wanted} bytes are wanted where {left} are left")]
    Truncated {
        /// Bytes the item needs.
        wanted: usize,
        /// Bytes that are there.
        left: usize,
    },
    /// A length is above its named limit.
    #[error("{what} of length {length} is above the limit of {limit}")]
    TooLong {
        /// What is too long.
        what: &'static str,
        /// Its length as announced.
        length: usize,
        /// The greatest length let pass.
        limit: usize,
    },
    /// A discriminant or flag has a value that does not exist.
    #[error("{what} has the unknown value {value}")]
    Unknown {
        /// What is unknown.
        what: &'static str,
        /// The value on the wire.
        value: u32,
    },
    /// Bytes are left over after the last item.
    #[error("{left} bytes are left over after the last item")]
    Trailing {
        /// Bytes left over.
        left: usize,
    },
}

/// Writes items one after the other.
#[derive(Debug, Default)]
pub struct Encoder {
    bytes: Vec<u8>,
}

impl Encoder {
    /// Begins with nothing written.
    #[must_use]
    pub fn new() -> Encoder {
        Encoder::default()
    }

    /// Writes an unsigned integer of 32 bits.
    pub fn u32(&mut self, value: u32) {
        self.bytes.extend_from_slice(&value.to_be_bytes());
    }

    /// Writes a signed integer of 32 bits.
    pub fn i32(&mut self, value: i32) {
        self.bytes.extend_from_slice(&value.to_be_bytes());
    }

    /// Writes an unsigned integer of 64 bits.
    pub fn u64(&mut self, value: u64) {
        self.bytes.extend_from_slice(&value.to_be_bytes());
    }

    /// Writes a signed integer of 64 bits.
    pub fn i64(&mut self, value: i64) {
        self.bytes.extend_from_slice(&value.to_be_bytes());
    }

    /// Writes a floating point number of 64 bits.
    pub fn f64(&mut self, value: f64) {
        self.bytes.extend_from_slice(&value.to_be_bytes());
    }

    /// Writes bytes whose number both sides know, padded.
    pub fn opaque(&mut self, value: &[u8]) {
        self.bytes.extend_from_slice(value);
        let padding = value.len().next_multiple_of(UNIT) - value.len();
        self.bytes.extend(std::iter::repeat_n(0, padding));
    }

    /// Writes bytes that were encoded before, as they are.
    pub(crate) fn encoded(&mut self, value: &[u8]) {
        self.bytes.extend_from_slice(value);
    }

    /// Writes a string with its length; refuses one above [`STRING_BYTES_MAX`].
    pub fn string(&mut self, value: &str) -> Result<(), XdrError> {
        let refusal = XdrError::TooLong {
            what: "string",
            length: value.len(),
            limit: STRING_BYTES_MAX,
        };
        if value.len() > STRING_BYTES_MAX {
            return Err(refusal);
        }
        self.u32(u32::try_from(value.len()).map_err(|_| refusal)?);
        self.opaque(value.as_bytes());
        Ok(())
    }

    /// Writes a string that may be absent.
    pub fn optional_string(&mut self, value: Option<&str>) -> Result<(), XdrError> {
        match value {
            None => self.u32(0),
            Some(text) => {
                self.u32(1);
                self.string(text)?;
            }
        }
        Ok(())
    }

    /// Gives the bytes written.
    #[must_use]
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }
}

/// Reads items one after the other.
#[derive(Debug)]
pub struct Decoder<'a> {
    rest: &'a [u8],
}

impl<'a> Decoder<'a> {
    /// Begins at the first byte.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Decoder<'a> {
        Decoder { rest: bytes }
    }

    fn take(&mut self, wanted: usize) -> Result<&'a [u8], XdrError> {
        let left = self.rest.len();
        let (head, tail) = self
            .rest
            .split_at_checked(wanted)
            .ok_or(XdrError::Truncated { wanted, left })?;
        self.rest = tail;
        Ok(head)
    }

    fn fixed<const N: usize>(&mut self) -> Result<[u8; N], XdrError> {
        let left = self.rest.len();
        let (head, tail) = self
            .rest
            .split_first_chunk::<N>()
            .ok_or(XdrError::Truncated { wanted: N, left })?;
        self.rest = tail;
        Ok(*head)
    }

    /// Reads an unsigned integer of 32 bits.
    pub fn u32(&mut self) -> Result<u32, XdrError> {
        Ok(u32::from_be_bytes(self.fixed()?))
    }

    /// Reads a signed integer of 32 bits.
    pub fn i32(&mut self) -> Result<i32, XdrError> {
        Ok(i32::from_be_bytes(self.fixed()?))
    }

    /// Reads an unsigned integer of 64 bits.
    pub fn u64(&mut self) -> Result<u64, XdrError> {
        Ok(u64::from_be_bytes(self.fixed()?))
    }

    /// Reads a signed integer of 64 bits.
    pub fn i64(&mut self) -> Result<i64, XdrError> {
        Ok(i64::from_be_bytes(self.fixed()?))
    }

    /// Reads a floating point number of 64 bits.
    pub fn f64(&mut self) -> Result<f64, XdrError> {
        Ok(f64::from_be_bytes(self.fixed()?))
    }

    /// Reads as many bytes as both sides know; `N` is a multiple of four in all of libvirt.
    pub fn opaque<const N: usize>(&mut self) -> Result<[u8; N], XdrError> {
        let bytes = self.fixed()?;
        self.take(N.next_multiple_of(UNIT) - N)?;
        Ok(bytes)
    }

    /// Reads a length and refuses one above `limit`; also refuses one that the bytes left cannot
    /// hold, at `item_bytes` each, so that nobody allocates for items that never come.
    pub fn length(
        &mut self,
        what: &'static str,
        limit: usize,
        item_bytes: usize,
    ) -> Result<usize, XdrError> {
        let length = usize::try_from(self.u32()?).unwrap_or(usize::MAX);
        if length > limit {
            return Err(XdrError::TooLong {
                what,
                length,
                limit,
            });
        }
        let wanted = length.saturating_mul(item_bytes);
        if wanted > self.rest.len() {
            return Err(XdrError::Truncated {
                wanted,
                left: self.rest.len(),
            });
        }
        Ok(length)
    }

    /// Reads a string; bytes that are not UTF-8 become the replacement character.
    pub fn string(&mut self) -> Result<String, XdrError> {
        let length = self.length("string", STRING_BYTES_MAX, 1)?;
        let bytes = self.take(length)?;
        self.take(length.next_multiple_of(UNIT) - length)?;
        Ok(String::from_utf8_lossy(bytes).into_owned())
    }

    /// Reads whether an optional item follows.
    pub fn present(&mut self) -> Result<bool, XdrError> {
        match self.u32()? {
            0 => Ok(false),
            1 => Ok(true),
            value => Err(XdrError::Unknown {
                what: "optional item",
                value,
            }),
        }
    }

    /// Reads a string that may be absent.
    pub fn optional_string(&mut self) -> Result<Option<String>, XdrError> {
        if self.present()? {
            Ok(Some(self.string()?))
        } else {
            Ok(None)
        }
    }

    /// Ends the reading; refuses left-over bytes.
    pub fn finish(self) -> Result<(), XdrError> {
        match self.rest.len() {
            0 => Ok(()),
            left => Err(XdrError::Trailing { left }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Decoder, Encoder, STRING_BYTES_MAX, XdrError};
    use proptest::prelude::{any, prop_assert_eq, proptest};

    #[test]
    fn items_stand_on_the_wire_big_endian_and_padded() {
        let mut encoder = Encoder::new();
        encoder.u32(0x0102_0304);
        encoder.i32(-1);
        encoder.string("abcde").unwrap();
        let wanted = [1, 2, 3, 4, 255, 255, 255, 255, 0, 0, 0, 5];
        assert_eq!(encoder.into_bytes(), [&wanted[..], b"abcde\0\0\0"].concat());
    }

    #[test]
    fn a_length_above_its_limit_or_above_the_bytes_left_is_refused() {
        let length = u32::try_from(STRING_BYTES_MAX + 1).unwrap().to_be_bytes();
        let error = Decoder::new(&length).string().unwrap_err();
        assert!(matches!(error, XdrError::TooLong { .. }), "{error:?}");
        let error = Decoder::new(&[0, 0, 0, 9, 1]).string().unwrap_err();
        assert_eq!(error, XdrError::Truncated { wanted: 9, left: 1 });
        assert_eq!(
            Decoder::new(&[0]).finish(),
            Err(XdrError::Trailing { left: 1 })
        );
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(number in any::<i64>(), text in any::<Option<String>>()) {
            let mut encoder = Encoder::new();
            encoder.i64(number);
            encoder.optional_string(text.as_deref()).unwrap();
            let bytes = encoder.into_bytes();
            let mut decoder = Decoder::new(&bytes);
            prop_assert_eq!(decoder.i64().unwrap(), number);
            prop_assert_eq!(decoder.optional_string().unwrap(), text);
            prop_assert_eq!(decoder.finish(), Ok(()));
        }
    }
}
