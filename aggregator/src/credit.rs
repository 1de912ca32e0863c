//! How many bytes of batches all agents together may have under way, and what part of that one stream gets.

use std::sync::{Arc, Mutex, PoisonError};

/// Bytes of all streams together.
const TOTAL_MAX: i64 = 256 << 20;
/// Bytes of one stream at most.
const STREAM_MAX: i64 = 4 << 20;
/// Bytes of one stream at least; a single batch is always let pass.
const STREAM_MIN: i64 = 64 << 10;
/// Part of what is left that one stream gets.
const SHARE: i64 = 16;

/// The bytes that may be under way.
#[derive(Debug, Clone, Default)]
pub struct Credits(Arc<Mutex<i64>>);

/// What one stream got; it is given back when the stream ends.
#[derive(Debug)]
pub struct Credit {
    granted: Arc<Mutex<i64>>,
    /// Bytes that may be under way.
    pub bytes: i64,
}

impl Credits {
    /// Grants a stream its part: all it can use while few are here, less the more there are.
    pub fn grant(&self) -> Credit {
        let mut granted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes = ((TOTAL_MAX - *granted) / SHARE).clamp(STREAM_MIN, STREAM_MAX);
        *granted += bytes;
        Credit {
            granted: Arc::clone(&self.0),
            bytes,
        }
    }
}

impl Drop for Credit {
    fn drop(&mut self) {
        let mut granted = self.granted.lock().unwrap_or_else(PoisonError::into_inner);
        *granted -= self.bytes;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_streams_get_all_they_can_use_and_thousands_stay_within_the_total_and_their_least() {
        let credits = Credits::default();
        let first = credits.grant();
        assert_eq!(first.bytes, STREAM_MAX);
        let many: Vec<Credit> = (1..4_096).map(|_| credits.grant()).collect();
        let sum: i64 = many.iter().map(|credit| credit.bytes).sum();
        assert!(sum + first.bytes <= TOTAL_MAX + 4_096 * STREAM_MIN, "{sum}");
        assert_eq!(many.last().unwrap().bytes, STREAM_MIN);
        drop(many);
        assert_eq!(
            credits.grant().bytes,
            STREAM_MAX,
            "what ended is free again"
        );
    }
}
