//! Places of questions about guests. One that is not answered in time keeps its place as long as libvirt works
//! on it, since it holds a thread there; so no more hang at once than there are places.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use plimsoll_libvirt::CallError;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Hung calls with which no more is asked of guests.
pub(super) const HUNG_MAX: usize = 2;

/// The places.
#[derive(Debug, Clone)]
pub(super) struct Lanes {
    free: Arc<Semaphore>,
    hung: Arc<AtomicUsize>,
}

/// A place; absent only when nobody is there any more to take an answer.
pub(super) type Place = Option<OwnedSemaphorePermit>;

impl Lanes {
    pub(super) fn new() -> Self {
        Self {
            free: Arc::new(Semaphore::new(HUNG_MAX)),
            hung: Arc::default(),
        }
    }

    /// Waits for a place.
    pub(super) async fn take(&self) -> Place {
        Arc::clone(&self.free).acquire_owned().await.ok()
    }

    /// Frees a place, unless its question hangs.
    pub(super) fn leave<T>(&self, place: Place, answer: &Result<T, CallError>) {
        if let Some(place) = place
            && matches!(answer, Err(CallError::TimedOut { .. }))
        {
            place.forget();
            self.hung.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Frees the places of questions that were answered late; so many calls hang still.
    pub(super) fn free(&self, abandoned: usize) {
        let held = self.hung.load(Ordering::Relaxed);
        let answered = held.saturating_sub(abandoned);
        self.hung.fetch_sub(answered, Ordering::Relaxed);
        self.free.add_permits(answered);
    }

    /// Whether all places are held by questions that hang.
    pub(super) fn are_hung(&self) -> bool {
        self.hung.load(Ordering::Relaxed) >= HUNG_MAX
    }
}
