//! What is done with each of the three: fed, asked, killed, made to put everything on the disk.

use std::collections::BTreeMap;
use std::ops::Range;

use uuid::Uuid;

use super::progress::Progress;
use super::server::Server;
use super::shape::{GUESTS, Guest, SERIES, Size, guest_id, node_id};

/// Connections that feed.
pub(super) const CONNECTIONS: u32 = 2;

/// The guests that one connection feeds, node by node.
#[derive(Debug)]
pub(super) struct Share {
    pub(super) guests: Vec<Guest>,
}

/// What is still to be fed.
#[derive(Debug)]
pub(super) struct Load {
    pub(super) size: Size,
    pub(super) shares: Vec<Share>,
}

impl Load {
    pub(super) fn new(size: Size) -> Self {
        let per_share = size.nodes.div_ceil(CONNECTIONS);
        let share = |number: u32| {
            let begin = (number * per_share).min(size.nodes);
            let end = (begin + per_share).min(size.nodes);
            Share {
                guests: (begin * GUESTS..end * GUESTS).map(Guest::new).collect(),
            }
        };
        let shares = (0..CONNECTIONS).map(share);
        let shares = shares.filter(|share| !share.guests.is_empty()).collect();
        Self { size, shares }
    }
}

/// A question that all three can be asked. A range ends at `to_ms` and is `span_s` long.
#[derive(Debug, Clone, Copy)]
pub(super) enum Question {
    /// All samples of one series.
    Series {
        guest: u32,
        column: usize,
        span_s: i64,
        to_ms: i64,
    },
    /// The samples of the thousand series of a node.
    Node { node: u32, span_s: i64, to_ms: i64 },
    /// The last value of each of the thousand series of a node.
    Last { node: u32, to_ms: i64 },
}

/// Samples by guest and column.
pub(super) type Answer = BTreeMap<(Uuid, usize), Vec<(i64, i64)>>;

impl Question {
    /// What the answer must be, once `rows` rows have been fed.
    pub(super) fn truth(&self, size: &Size, rows: u32) -> Answer {
        let (guests, columns, span_s, to_ms) = match *self {
            Self::Series {
                guest,
                column,
                span_s,
                to_ms,
            } => (guest..guest + 1, column..column + 1, span_s, to_ms),
            Self::Node {
                node,
                span_s,
                to_ms,
            } => (
                node * GUESTS..(node + 1) * GUESTS,
                0..SERIES.len(),
                span_s,
                to_ms,
            ),
            Self::Last { node, to_ms } => {
                let guests = node * GUESTS..(node + 1) * GUESTS;
                (guests, 0..SERIES.len(), i64::MAX / 1_000, to_ms)
            }
        };
        let from_ms = to_ms - span_s * 1_000;
        let mut answer = Answer::new();
        for guest in guests {
            for column in columns.clone() {
                let mut all = size.truth(guest, column, 0..rows);
                all.retain(|(at_ms, _)| *at_ms > from_ms && *at_ms <= to_ms);
                if matches!(self, Self::Last { .. }) {
                    all.drain(..all.len().saturating_sub(1));
                }
                answer.insert((guest_id(guest), column), all);
            }
        }
        answer
    }

    /// The node that is asked about, if the question is about one.
    pub(super) fn node(&self) -> Option<Uuid> {
        match self {
            Self::Series { .. } => None,
            Self::Node { node, .. } | Self::Last { node, .. } => Some(node_id(*node)),
        }
    }
}

/// One of the three.
pub(super) trait Engine {
    /// What was asked for comes back as this.
    type Raw;

    /// Its name and version.
    fn name(&self) -> &str;

    /// How it is fed and set, in words.
    fn settings(&self) -> String;

    /// The program.
    fn server(&mut self) -> &mut Server;

    /// Feeds rows; when it returns, all of them are acknowledged.
    async fn feed(
        &mut self,
        load: &mut Load,
        rows: Range<u32>,
        progress: &std::sync::Arc<Progress>,
    ) -> anyhow::Result<()>;

    /// Makes all that was acknowledged visible to questions.
    async fn show(&mut self) -> anyhow::Result<()>;

    /// Connects anew for questions, from the runtime that calls.
    async fn connect_again(&mut self) -> anyhow::Result<()>;

    /// Asks, and reads the answer to its last byte.
    async fn ask(&mut self, question: &Question) -> anyhow::Result<Self::Raw>;

    /// Reads what an answer says.
    fn read(&self, raw: Self::Raw) -> anyhow::Result<Answer>;

    /// Starts it again after it was ended; returns once it answers.
    async fn start_again(&mut self) -> anyhow::Result<()>;

    /// Samples that the start had to read back from its log, if it tells.
    fn replayed(&mut self) -> anyhow::Result<Option<u64>>;

    /// Makes it put all on the disk in its final form; returns the bytes of that, and processor time
    /// used that the program itself does not show. It need not run afterwards.
    async fn settle(&mut self) -> anyhow::Result<(u64, f64)>;
}
