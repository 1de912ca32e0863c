//! How much a domain may be measured, whoever asks how often.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use plimsoll_model::Monotonic;

/// Time over which windows are added up.
pub(super) const SPAN: Duration = Duration::from_secs(60);
/// Domains that are remembered; a node has fewer.
const DOMAINS_MAX: usize = 4_096;

/// The measurements of the last minute.
#[derive(Debug)]
pub struct Budget {
    of_each: Duration,
    begun: HashMap<[u8; 16], VecDeque<(Monotonic, Duration)>>,
}

impl Budget {
    /// Allows each domain so much measuring in each minute.
    pub fn new(of_each: Duration) -> Self {
        Self {
            of_each,
            begun: HashMap::new(),
        }
    }

    /// Books a measurement, or says in how long it may be asked for again.
    pub fn book(
        &mut self,
        uuid: [u8; 16],
        window: Duration,
        now: Monotonic,
    ) -> Result<(), Duration> {
        for begun in self.begun.values_mut() {
            while begun.front().is_some_and(|(at, _)| now.since(*at) >= SPAN) {
                begun.pop_front();
            }
        }
        self.begun.retain(|_, begun| !begun.is_empty());
        if self.begun.len() >= DOMAINS_MAX && !self.begun.contains_key(&uuid) {
            return Err(SPAN);
        }
        let begun = self.begun.entry(uuid).or_default();
        let mut spent: Duration = begun.iter().map(|(_, window)| *window).sum();
        if spent + window <= self.of_each {
            begun.push_back((now, window));
            return Ok(());
        }
        for (at, window_before) in begun {
            spent = spent.saturating_sub(*window_before);
            if spent + window <= self.of_each {
                return Err(SPAN.saturating_sub(now.since(*at)));
            }
        }
        Err(SPAN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Monotonic {
        Monotonic::from_duration(Duration::from_secs(seconds))
    }

    #[test]
    fn a_domain_is_measured_for_so_long_in_a_minute_and_not_longer() {
        let mut budget = Budget::new(Duration::from_secs(10));
        let (one, other) = ([1; 16], [2; 16]);
        let seconds = Duration::from_secs;
        assert_eq!(budget.book(one, seconds(1), at(0)), Ok(()));
        assert_eq!(budget.book(one, seconds(5), at(2)), Ok(()));
        assert_eq!(budget.book(one, seconds(5), at(10)), Err(seconds(50)));
        assert_eq!(budget.book(one, seconds(4), at(10)), Ok(()), "what is left");
        assert_eq!(budget.book(one, seconds(1), at(12)), Err(seconds(48)));
        assert_eq!(budget.book(other, seconds(5), at(12)), Ok(()));
        assert_eq!(budget.book(one, seconds(1), at(60)), Ok(()));
    }

    #[test]
    fn what_does_not_fit_at_all_is_refused_and_takes_no_room() {
        let mut budget = Budget::new(Duration::from_secs(10));
        let long = Duration::from_secs(11);
        assert_eq!(budget.book([1; 16], long, at(0)), Err(SPAN));
        assert_eq!(budget.book([1; 16], Duration::from_secs(10), at(0)), Ok(()));
    }
}
