//! A clock that does not step back a little: a sample must not come to lie before others that were taken
//! earlier, for what grew between neighbours would be a rate that never was.
//!
//! A great step back is followed at once: samples of the far future would be refused.

use std::sync::{Arc, Mutex, PoisonError};

use plimsoll_model::{Clock, Monotonic, UnixMillis};

/// The greatest step back that is slewed over; the aggregator takes samples from so far ahead.
const STEP_MAX_MS: i64 = 55_000;

/// The clock.
#[derive(Debug)]
pub struct SlewedClock {
    inner: Arc<dyn Clock>,
    last: Mutex<(UnixMillis, Monotonic)>,
}

impl SlewedClock {
    /// Follows another clock.
    pub fn new(inner: Arc<dyn Clock>) -> Self {
        let last = Mutex::new((inner.now(), inner.monotonic()));
        Self { inner, last }
    }
}

impl Clock for SlewedClock {
    /// The time; after a step back it goes half as fast until the other clock has caught up.
    fn now(&self) -> UnixMillis {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let (told, at) = *last;
        let (wall, monotonic) = (self.inner.now(), self.inner.monotonic());
        let slewed = told.plus(monotonic.since(at) / 2);
        let behind_ms = slewed.millis().saturating_sub(wall.millis());
        let now = if (1..=STEP_MAX_MS).contains(&behind_ms) {
            slewed
        } else {
            wall
        };
        *last = (now, monotonic);
        now
    }

    fn monotonic(&self) -> Monotonic {
        self.inner.monotonic()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
    use std::time::Duration;

    use super::*;

    #[derive(Debug, Default)]
    struct Hands(AtomicI64, AtomicU64);

    impl Clock for Hands {
        fn now(&self) -> UnixMillis {
            UnixMillis::from_millis(self.0.load(Ordering::Relaxed))
        }

        fn monotonic(&self) -> Monotonic {
            Monotonic::from_duration(Duration::from_millis(self.1.load(Ordering::Relaxed)))
        }
    }

    impl Hands {
        fn pass(&self, wall_ms: i64, monotonic_ms: u64) {
            self.0.fetch_add(wall_ms, Ordering::Relaxed);
            self.1.fetch_add(monotonic_ms, Ordering::Relaxed);
        }
    }

    fn clock() -> (Arc<Hands>, SlewedClock) {
        let hands = Arc::new(Hands::default());
        hands.pass(1_000_000, 0);
        let clock = SlewedClock::new(Arc::clone(&hands) as Arc<dyn Clock>);
        (hands, clock)
    }

    #[test]
    fn after_a_small_step_back_time_goes_half_as_fast_until_it_is_right_again() {
        let (hands, clock) = clock();
        hands.pass(-10_000, 0);
        let mut told = vec![clock.now().millis()];
        for _ in 0..25 {
            hands.pass(1_000, 1_000);
            told.push(clock.now().millis());
        }
        assert!(told.windows(2).all(|pair| pair[0] < pair[1]), "{told:?}");
        assert_eq!(told[0], 1_000_000);
        assert_eq!(told[10], 1_005_000);
        assert_eq!(told[25], 1_015_000, "the clock is followed again");
    }

    #[test]
    fn a_step_forward_and_a_great_step_back_are_followed_at_once() {
        let (hands, clock) = clock();
        hands.pass(3_600_000, 1_000);
        assert_eq!(clock.now().millis(), 4_600_000);
        hands.pass(-STEP_MAX_MS - 1, 1_000);
        assert_eq!(clock.now().millis(), 4_600_000 - STEP_MAX_MS - 1);
    }
}
