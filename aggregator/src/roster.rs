//! Who is here: the open stream of each node, and the latest values that came beside a backlog.
//! It keeps nothing on disk.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use plimsoll_model::{NodeId, Reading, Rows, SeriesKey};
use tokio::sync::watch;

/// Live values kept for one node at most; older ones stay, new series are not taken.
const LIVE_SERIES_PER_NODE_MAX: usize = 20_000;

#[derive(Debug, Default)]
struct Seat {
    epoch: i64,
    open: Option<watch::Sender<bool>>,
    live: HashMap<SeriesKey, Reading>,
}

/// The roster.
#[derive(Debug, Default)]
pub struct Roster {
    seats: Mutex<HashMap<NodeId, Seat>>,
}

/// A node's place while its stream is open.
#[derive(Debug)]
pub struct Place {
    /// Number of the stream among those of the node.
    pub epoch: i64,
    /// Turns true when a newer stream has taken the place.
    pub superseded: watch::Receiver<bool>,
}

impl Roster {
    fn seats(&self) -> MutexGuard<'_, HashMap<NodeId, Seat>> {
        self.seats.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Seats a node's new stream; the one before it is told to leave.
    pub fn sit(&self, node: NodeId) -> Place {
        let mut seats = self.seats();
        let seat = seats.entry(node).or_default();
        if let Some(older) = seat.open.take() {
            older.send_replace(true);
        }
        let (open, superseded) = watch::channel(false);
        seat.open = Some(open);
        seat.epoch += 1;
        Place {
            epoch: seat.epoch,
            superseded,
        }
    }

    /// Frees the place of a stream that ended, unless a newer one has it.
    pub fn leave(&self, node: NodeId, epoch: i64) {
        if let Some(seat) = self.seats().get_mut(&node)
            && seat.epoch == epoch
        {
            seat.open = None;
            seat.live.clear();
        }
    }

    /// Tells whether a stream of the node is open.
    pub fn is_open(&self, node: NodeId) -> bool {
        self.seats()
            .get(&node)
            .is_some_and(|seat| seat.open.is_some())
    }

    /// Takes the latest values a node sent beside its backlog.
    pub fn see(&self, node: NodeId, rows: &Rows) {
        let mut seats = self.seats();
        let live = &mut seats.entry(node).or_default().live;
        for row in rows.iter() {
            for (metric, part, value) in row.readings() {
                let key = SeriesKey {
                    subject: row.subject,
                    metric,
                    part: part.clone(),
                };
                if live.len() < LIVE_SERIES_PER_NODE_MAX || live.contains_key(&key) {
                    live.insert(
                        key.clone(),
                        Reading {
                            key,
                            window: row.window,
                            value,
                        },
                    );
                }
            }
        }
    }

    /// Puts later values that came beside a backlog in the place of readings.
    pub fn replace_older(&self, readings: &mut [Reading]) {
        let seats = self.seats();
        if seats.values().all(|seat| seat.live.is_empty()) {
            return;
        }
        for reading in readings {
            let seat = seats.get(&reading.key.subject.node());
            let live = seat.and_then(|seat| seat.live.get(&reading.key));
            if let Some(live) = live.filter(|live| live.window > reading.window) {
                *reading = live.clone();
            }
        }
    }

    /// Returns the latest value that came beside a backlog.
    pub fn live(&self, key: &SeriesKey) -> Option<Reading> {
        self.seats()
            .get(&key.subject.node())?
            .live
            .get(key)
            .cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_stream_of_a_node_wins() {
        let (roster, node) = (Roster::default(), NodeId::random());
        let first = roster.sit(node);
        let second = roster.sit(node);
        assert!(*first.superseded.borrow());
        assert!(!*second.superseded.borrow());
        roster.leave(node, first.epoch);
        assert!(
            roster.is_open(node),
            "the older stream frees no place that is not its own"
        );
        roster.leave(node, second.epoch);
        assert!(!roster.is_open(node));
    }
}
