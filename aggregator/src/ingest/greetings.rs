//! Streams that were opened and have said nothing yet: so many at once, so long each. Nobody knows yet whose
//! they are.

use std::sync::Arc;
use std::time::Duration;

use plimsoll_model::Clock;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::Status;

use super::refusal::later;
use crate::guard::limits::{Limit, Met};

/// How long a stream may take to say its Hello.
pub(super) const HELLO_WITHIN: Duration = Duration::from_secs(5);
/// Streams that have not said it yet, of all connections; one beyond is refused.
const GREETINGS_MAX: usize = 256;

/// The places of streams that have not said their Hello yet.
#[derive(Debug, Clone)]
pub struct Greetings(Arc<Semaphore>);

impl Default for Greetings {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(GREETINGS_MAX)))
    }
}

impl Greetings {
    /// Takes a place, to be given back when the Hello is said.
    pub(super) fn enter(
        &self,
        met: &Met,
        clock: &dyn Clock,
    ) -> Result<OwnedSemaphorePermit, Status> {
        let place = Arc::clone(&self.0).try_acquire_owned();
        place.map_err(|_| {
            if met.note(Limit::Greetings, clock) {
                tracing::warn!(limit = Limit::Greetings.word(), "stream refused");
            }
            later("too many streams have said nothing yet")
        })
    }
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;
    use crate::scene::Scene;

    #[test]
    fn so_many_streams_may_say_nothing_yet_and_one_that_speaks_makes_room() {
        let scene = Scene::new();
        let (greetings, met) = (Greetings::default(), &scene.known.met);
        let enter = || greetings.enter(met, &*scene.known.clock);
        let mut silent: Vec<_> = (1..GREETINGS_MAX).map(|_| enter().unwrap()).collect();
        silent.push(enter().unwrap());
        assert_eq!(met.count(Limit::Greetings), 0);
        assert_eq!(enter().unwrap_err().code(), Code::ResourceExhausted);
        assert_eq!(met.count(Limit::Greetings), 1);
        silent.pop();
        assert!(enter().is_ok(), "one has spoken");
    }
}
