//! Events of domains, delivered over a bounded channel.
//!
//! A reader that is too slow loses the newest events, and their number is told; events only ever
//! say that something should be read again, so nothing here replays them.

use crate::domain::DomainRef;
use crate::procedure;
use crate::typed::TypedParams;
use crate::xdr::{Decoder, XdrError};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::mpsc;

/// Most job statistics libvirt lets pass in one message.
pub(crate) const JOB_PARAMS_MAX: usize = 64;

/// A kind of event one can ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EventId {
    /// A domain starts, stops, is paused or resumed.
    Lifecycle,
    /// A guest reboots.
    Reboot,
    /// A migration begins its next pass over memory; only sent by the source host, and only when
    /// its QEMU announces passes.
    MigrationIteration,
    /// A job such as a migration has completed.
    JobCompleted,
}

impl EventId {
    pub(crate) const fn to_wire(self) -> i32 {
        match self {
            EventId::Lifecycle => 0,
            EventId::Reboot => 1,
            EventId::MigrationIteration => 20,
            EventId::JobCompleted => 21,
        }
    }
}

/// Something that happened to a domain.
#[derive(Debug, Clone, PartialEq)]
pub struct DomainEvent {
    /// The domain, with the id it had then.
    pub domain: DomainRef,
    /// What happened.
    pub kind: DomainEventKind,
}

/// What happened to a domain.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum DomainEventKind {
    /// It started, stopped, was paused or resumed; [`crate::lifecycle`] names the numbers.
    Lifecycle {
        /// What happened.
        event: i32,
        /// In which way.
        detail: i32,
    },
    /// Its guest rebooted.
    Reboot,
    /// Its migration began another pass.
    MigrationIteration {
        /// The number of the pass.
        iteration: i32,
    },
    /// Its job has completed; [`crate::job`] names the values.
    JobCompleted {
        /// Statistics of the job.
        params: TypedParams,
    },
}

impl DomainEvent {
    /// Parses a message; absent when its procedure is not an event this crate knows.
    pub(crate) fn parse(number: i32, payload: &[u8]) -> Result<Option<DomainEvent>, XdrError> {
        let known = [
            procedure::EVENT_LIFECYCLE,
            procedure::EVENT_REBOOT,
            procedure::EVENT_MIGRATION_ITERATION,
            procedure::EVENT_JOB_COMPLETED,
        ];
        if !known.contains(&number) {
            return Ok(None);
        }
        let mut decoder = Decoder::new(payload);
        let _callback = decoder.i32()?;
        let domain = DomainRef::decode(&mut decoder)?;
        let kind = match number {
            procedure::EVENT_LIFECYCLE => {
                let event = decoder.i32()?;
                DomainEventKind::Lifecycle {
                    event,
                    detail: decoder.i32()?,
                }
            }
            procedure::EVENT_MIGRATION_ITERATION => DomainEventKind::MigrationIteration {
                iteration: decoder.i32()?,
            },
            procedure::EVENT_JOB_COMPLETED => {
                let params = TypedParams::decode(&mut decoder, JOB_PARAMS_MAX)?;
                DomainEventKind::JobCompleted { params }
            }
            _ => DomainEventKind::Reboot,
        };
        decoder.finish()?;
        Ok(Some(DomainEvent { domain, kind }))
    }
}

/// The receiving end of a connection's events.
#[derive(Debug)]
pub struct Events {
    receiver: mpsc::Receiver<DomainEvent>,
    dropped: Arc<AtomicU64>,
}

impl Events {
    /// Waits for the next event; absent once the connection has ended or a newer subscription
    /// has taken its place, and all waiting events were received.
    pub async fn recv(&mut self) -> Option<DomainEvent> {
        self.receiver.recv().await
    }

    /// Takes an event that already waits.
    pub fn try_recv(&mut self) -> Option<DomainEvent> {
        self.receiver.try_recv().ok()
    }

    /// Events lost because too many waited.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

#[derive(Debug)]
struct Listener {
    sender: mpsc::Sender<DomainEvent>,
    dropped: Arc<AtomicU64>,
}

#[derive(Debug, Default)]
struct HubState {
    listener: Option<Listener>,
    registered: Vec<EventId>,
    ended: bool,
}

/// The sending end of a connection's events: at most one listener, the newest.
#[derive(Debug, Default)]
pub(crate) struct EventHub {
    state: Mutex<HubState>,
}

impl EventHub {
    fn state(&self) -> MutexGuard<'_, HubState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn listen(&self, capacity: usize) -> Events {
        let (sender, receiver) = mpsc::channel(capacity.max(1));
        let dropped = Arc::new(AtomicU64::new(0));
        let mut state = self.state();
        if !state.ended {
            state.listener = Some(Listener {
                sender,
                dropped: Arc::clone(&dropped),
            });
        }
        Events { receiver, dropped }
    }

    pub(crate) fn is_registered(&self, event: EventId) -> bool {
        self.state().registered.contains(&event)
    }

    pub(crate) fn set_registered(&self, event: EventId) {
        self.state().registered.push(event);
    }

    pub(crate) fn deliver(&self, event: DomainEvent) {
        if let Some(listener) = &self.state().listener
            && let Err(mpsc::error::TrySendError::Full(_)) = listener.sender.try_send(event)
        {
            listener.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(crate) fn end(&self) {
        let mut state = self.state();
        state.listener = None;
        state.ended = true;
    }
}

#[cfg(test)]
mod tests {
    use super::DomainEvent;
    use crate::typed::TypedParams;
    use crate::xdr::Decoder;
    use proptest::prelude::{any, prop, proptest};

    proptest! {
        #[test]
        fn no_bytes_make_the_parsers_panic(
            number in prop::sample::select(vec![318, 319, 359, 363, 1]),
            bytes in prop::collection::vec(any::<u8>(), 0..256),
        ) {
            drop(DomainEvent::parse(number, &bytes));
            drop(TypedParams::decode(&mut Decoder::new(&bytes), 64));
            drop(Decoder::new(&bytes).optional_string());
        }
    }
}
