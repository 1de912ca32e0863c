//! Who is here: the open stream of each node, and the latest values that came beside a backlog.
//! It keeps nothing on disk.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use plimsoll_model::{NodeId, Reading, Rows, SeriesKey, SessionId};
use tokio::sync::watch;

/// Live values kept for one node at most; older ones stay, new series are not taken.
const LIVE_SERIES_PER_NODE_MAX: usize = 20_000;
/// Runs of an agent that are remembered, to know one that comes back.
const RUNS_MAX: usize = 16;

#[derive(Debug, Default)]
struct Seat {
    epoch: i64,
    open: Option<watch::Sender<bool>>,
    /// The newest last.
    runs: VecDeque<SessionId>,
    live: HashMap<SeriesKey, Reading>,
}

/// The roster.
#[derive(Debug, Default)]
pub struct Roster {
    seats: Mutex<HashMap<NodeId, Seat>>,
}

impl Seat {
    /// Notes a run; tells whether it was here before another one.
    fn comes_back(&mut self, run: SessionId) -> bool {
        if self.runs.back() == Some(&run) {
            return false;
        }
        let known = self.runs.contains(&run);
        self.runs.retain(|other| *other != run);
        self.runs.push_back(run);
        if self.runs.len() > RUNS_MAX {
            self.runs.pop_front();
        }
        known
    }
}

/// A node's place while its stream is open.
#[derive(Debug)]
pub struct Place {
    /// Number of the stream among those of the node.
    pub epoch: i64,
    /// Turns true when a newer stream has taken the place.
    pub superseded: watch::Receiver<bool>,
    /// The older stream: closed once that has ended.
    pub older: Option<watch::Sender<bool>>,
    /// Whether this run of the agent was here before another one: two agents say they are this node.
    pub is_double: bool,
}

impl Roster {
    fn seats(&self) -> MutexGuard<'_, HashMap<NodeId, Seat>> {
        self.seats.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Seats a node's new stream; the one before it is told to leave. The run is the session of the agent's
    /// process: one that ended never comes back.
    pub fn sit(&self, node: NodeId, run: SessionId) -> Place {
        let mut seats = self.seats();
        let seat = seats.entry(node).or_default();
        let older = seat.open.take();
        if let Some(older) = &older {
            older.send_replace(true);
        }
        let (open, superseded) = watch::channel(false);
        seat.open = Some(open);
        seat.epoch += 1;
        Place {
            epoch: seat.epoch,
            superseded,
            older,
            is_double: seat.comes_back(run),
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
        let run = SessionId::random();
        let first = roster.sit(node, run);
        let second = roster.sit(node, run);
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

    #[test]
    fn a_run_that_comes_back_after_another_is_a_second_agent_and_a_restart_is_none() {
        let (roster, node) = (Roster::default(), NodeId::random());
        let runs = [SessionId::random(), SessionId::random()];
        let is_double = |run: usize| roster.sit(node, runs[run]).is_double;
        assert!(!is_double(0) && !is_double(0), "a broken line");
        assert!(!is_double(1), "a restart");
        assert!(is_double(0), "the first one lives");
        assert!(is_double(1), "and the second one too");
    }
}
