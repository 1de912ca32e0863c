//! Places that run out: how often a thing may be held at once.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};

/// How often each key may be held at once; what was taken goes back when dropped.
#[derive(Debug)]
pub(super) struct Places<K: Hash + Eq + Clone> {
    taken: Arc<Mutex<HashMap<K, usize>>>,
    max: usize,
}

impl<K: Hash + Eq + Clone> Clone for Places<K> {
    fn clone(&self) -> Self {
        Self {
            taken: Arc::clone(&self.taken),
            max: self.max,
        }
    }
}

impl<K: Hash + Eq + Clone> Places<K> {
    pub(super) fn new(max: usize) -> Self {
        Self {
            taken: Arc::default(),
            max,
        }
    }

    pub(super) fn take(&self, key: K) -> Option<Seat<K>> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let held = taken.get(&key).copied().unwrap_or(0);
        if held >= self.max {
            return None;
        }
        taken.insert(key.clone(), held.saturating_add(1));
        Some(Seat {
            taken: Arc::clone(&self.taken),
            key,
        })
    }
}

/// A place that is held.
#[derive(Debug)]
pub(super) struct Seat<K: Hash + Eq + Clone> {
    taken: Arc<Mutex<HashMap<K, usize>>>,
    key: K,
}

impl<K: Hash + Eq + Clone> Drop for Seat<K> {
    fn drop(&mut self) {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = taken.get_mut(&self.key) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                taken.remove(&self.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_run_out_and_come_back() {
        let places = Places::new(2);
        let first = places.take("a").unwrap();
        let _second = places.take("a").unwrap();
        assert!(places.take("a").is_none());
        assert!(places.take("b").is_some());
        drop(first);
        assert!(places.take("a").is_some());
    }
}
