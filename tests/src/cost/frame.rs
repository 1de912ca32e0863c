//! Messages of libvirt's protocol, as far as one must know them to count and to repeat them.
//!
//! Not here: what is inside of them; that is left to the programs at both ends.

use std::io::{self, Read};

/// The program of libvirt's own calls.
pub(super) const REMOTE: u32 = 0x2000_8086;
/// The program of signs of life.
pub(super) const KEEPALIVE: u32 = 0x6b65_6570;
const CALL: u32 = 0;
const REPLY: u32 = 1;
/// A header with the length before it.
const HEAD_BYTES: usize = 28;
const FRAME_BYTES_MAX: usize = 32 << 20;

/// One message, with the length before it.
#[derive(Debug)]
pub(super) struct Frame(Vec<u8>);

impl Frame {
    /// Reads the next message.
    pub(super) fn read(from: &mut impl Read) -> io::Result<Self> {
        let mut length = [0; 4];
        from.read_exact(&mut length)?;
        let bytes = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
        if !(HEAD_BYTES..=FRAME_BYTES_MAX).contains(&bytes) {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let mut frame = vec![0; bytes];
        let (head, rest) = frame.split_at_mut(4);
        head.copy_from_slice(&length);
        from.read_exact(rest)?;
        Ok(Self(frame))
    }

    /// The answer to a call.
    pub(super) fn reply(call: &Self, status: u32, payload: &[u8]) -> Self {
        let mut frame = call.0.get(..HEAD_BYTES).unwrap_or_default().to_vec();
        frame.extend(payload);
        let length = u32::try_from(frame.len()).unwrap_or(u32::MAX);
        for (place, word) in [(0, length), (16, REPLY), (24, status)] {
            put(&mut frame, place, word);
        }
        Self(frame)
    }

    /// The answer to a sign of life.
    pub(super) fn pong(ping: &Self) -> Self {
        let mut frame = ping.0.clone();
        put(&mut frame, 12, 2);
        Self(frame)
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }

    pub(super) fn payload(&self) -> &[u8] {
        self.0.get(HEAD_BYTES..).unwrap_or_default()
    }

    pub(super) fn program(&self) -> u32 {
        self.word(4)
    }

    pub(super) fn procedure(&self) -> u32 {
        self.word(12)
    }

    pub(super) fn serial(&self) -> u32 {
        self.word(20)
    }

    pub(super) fn status(&self) -> u32 {
        self.word(24)
    }

    pub(super) fn is_call(&self) -> bool {
        self.word(16) == CALL && self.program() != KEEPALIVE
    }

    pub(super) fn is_reply(&self) -> bool {
        self.word(16) == REPLY && self.program() != KEEPALIVE
    }

    fn word(&self, place: usize) -> u32 {
        let bytes = self.0.get(place..place + 4);
        bytes
            .and_then(|bytes| bytes.try_into().ok())
            .map_or(0, u32::from_be_bytes)
    }
}

fn put(frame: &mut [u8], place: usize, word: u32) {
    if let Some(bytes) = frame.get_mut(place..place + 4) {
        bytes.copy_from_slice(&word.to_be_bytes());
    }
}

/// Whether some bytes hold others.
pub(super) fn holds(bytes: &[u8], wanted: &[u8]) -> bool {
    bytes.windows(wanted.len()).any(|window| window == wanted)
}

/// Puts other bytes of the same length wherever some stand.
pub(super) fn replace(bytes: &mut [u8], from: &[u8], to: &[u8]) {
    let mut place = 0;
    while let Some(window) = bytes.get_mut(place..place + from.len()) {
        if window == from && from.len() == to.len() {
            window.copy_from_slice(to);
            place += from.len();
        } else {
            place += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(HEAD_BYTES + payload.len()).unwrap();
        let words = [length, REMOTE, 1, 344, CALL, 9, 0];
        let mut bytes: Vec<u8> = words.iter().flat_map(|word| word.to_be_bytes()).collect();
        bytes.extend(payload);
        bytes
    }

    #[test]
    fn a_message_is_read_whole_and_answered_under_its_number() {
        let bytes = call(b"question");
        let frame = Frame::read(&mut bytes.as_slice()).unwrap();
        assert_eq!((frame.procedure(), frame.serial()), (344, 9));
        assert_eq!(frame.payload(), b"question");
        assert!(frame.is_call() && !frame.is_reply());
        let reply = Frame::reply(&frame, 0, b"no");
        let again = Frame::read(&mut reply.bytes()).unwrap();
        assert!(again.is_reply());
        assert_eq!((again.serial(), again.payload()), (9, b"no".as_slice()));
    }

    #[test]
    fn a_length_that_cannot_be_is_refused() {
        let bytes = [0, 0, 0, 5, 0];
        assert!(Frame::read(&mut bytes.as_slice()).is_err());
    }

    #[test]
    fn all_that_stands_for_one_guest_is_put_in_anothers_place() {
        let mut bytes = b"guest-000 and guest-000!".to_vec();
        replace(&mut bytes, b"guest-000", b"guest-417");
        assert_eq!(bytes, b"guest-417 and guest-417!");
    }
}
