//! Time as a value: instants, windows and the clock that tests may turn.

use std::time::Duration;

/// An instant of the wall clock, to the millisecond, after 1970 began.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UnixMillis(i64);

impl UnixMillis {
    /// Wraps milliseconds since 1970.
    pub const fn from_millis(millis: i64) -> Self {
        Self(millis)
    }

    /// Returns milliseconds since 1970.
    pub const fn millis(self) -> i64 {
        self.0
    }

    /// Returns the time that passed since `earlier`; zero if it lies ahead.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }

    /// Returns the instant `span` later; stays at the last instant rather than wrap.
    #[must_use]
    pub fn plus(self, span: Duration) -> Self {
        Self(
            self.0
                .saturating_add(i64::try_from(span.as_millis()).unwrap_or(i64::MAX)),
        )
    }

    /// Returns the instant `span` earlier; stays at the first instant rather than wrap.
    #[must_use]
    pub fn minus(self, span: Duration) -> Self {
        Self(
            self.0
                .saturating_sub(i64::try_from(span.as_millis()).unwrap_or(i64::MAX)),
        )
    }
}

/// The span of a read: a value was true at some instant within it, stamped when the read ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Window {
    /// When the read ended.
    pub end: UnixMillis,
    /// How long it took; for a measurement over time, how long it measured.
    pub width_ms: u32,
}

impl Window {
    /// Makes the window from the beginning and the end of a read.
    pub fn between(begin: UnixMillis, end: UnixMillis) -> Self {
        let width_ms = u32::try_from(end.since(begin).as_millis()).unwrap_or(u32::MAX);
        Self { end, width_ms }
    }

    /// Returns when the read began.
    pub fn begin(self) -> UnixMillis {
        self.end
            .minus(Duration::from_millis(u64::from(self.width_ms)))
    }
}

/// An instant that never steps back, of use only against another one of the same process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Monotonic(Duration);

impl Monotonic {
    /// Wraps the time since an arbitrary beginning.
    pub const fn from_duration(since_begin: Duration) -> Self {
        Self(since_begin)
    }

    /// Returns the time that passed since `earlier`; zero if it lies ahead.
    pub fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }

    /// Returns the instant `span` later.
    #[must_use]
    pub fn plus(self, span: Duration) -> Self {
        Self(self.0.saturating_add(span))
    }
}

/// Tells the time. The only door to it, so that a test can turn the hands.
pub trait Clock: std::fmt::Debug + Send + Sync {
    /// Returns the wall clock's instant.
    fn now(&self) -> UnixMillis;

    /// Returns an instant for measuring spans.
    fn monotonic(&self) -> Monotonic;
}

/// The machine's own clock.
#[derive(Debug, Clone, Copy)]
pub struct SystemClock {
    started: std::time::Instant,
}

impl SystemClock {
    /// Makes the clock; its monotonic time begins now.
    #[expect(
        clippy::disallowed_methods,
        reason = "this is the clock that all others ask"
    )]
    pub fn new() -> Self {
        Self {
            started: std::time::Instant::now(),
        }
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SystemClock {
    #[expect(
        clippy::disallowed_methods,
        reason = "this is the clock that all others ask"
    )]
    fn now(&self) -> UnixMillis {
        let since = std::time::SystemTime::now()
            .duration_since(std::time::SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        UnixMillis(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
    }

    fn monotonic(&self) -> Monotonic {
        Monotonic(self.started.elapsed())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_remembers_both_ends() {
        let window = Window::between(
            UnixMillis::from_millis(1_000),
            UnixMillis::from_millis(1_250),
        );
        assert_eq!(window.width_ms, 250);
        assert_eq!(window.begin(), UnixMillis::from_millis(1_000));
    }

    #[test]
    fn a_clock_that_stepped_back_gives_no_negative_span() {
        let (early, late) = (UnixMillis::from_millis(5), UnixMillis::from_millis(9));
        assert_eq!(early.since(late), Duration::ZERO);
        assert_eq!(Window::between(late, early).width_ms, 0);
    }
}
