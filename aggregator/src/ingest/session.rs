//! The state of one stream, from its Hello on. It judges nothing that comes later.

use std::collections::VecDeque;

use plimsoll_model::{Event, NodeId, SessionId};
use plimsoll_proto::parse::{self, ParseError, SeriesTable};
use plimsoll_proto::{PROTOCOL_VERSION, v1};

use super::Replies;
use crate::writer::Written;

/// Records of one stream that wait for the disk; beyond that, its next frame is not read.
pub(super) const WAITING_MAX: usize = 16;

/// The state of one stream after its Hello.
pub(super) struct Session {
    pub(super) node: NodeId,
    pub(super) session: SessionId,
    pub(super) series: SeriesTable,
    /// The numbers of the agent's current session, where an earlier one is sent.
    pub(super) live: Option<(SessionId, SeriesTable)>,
    pub(super) replies: Replies,
    pub(super) waiting: VecDeque<Waiting>,
    /// What the last Nack asked for, until something is acknowledged again.
    pub(super) asked_for: Option<u64>,
}

/// A record on its way to the disk.
pub(super) struct Waiting {
    pub(super) sequence: u64,
    pub(super) written: Written,
    pub(super) events: Vec<Event>,
}

/// Begins a stream as its Hello says.
pub(super) fn open(
    node: NodeId,
    hello: &v1::Hello,
    replies: &Replies,
) -> Result<Session, ParseError> {
    if hello.protocol_version != PROTOCOL_VERSION {
        let problem = format!(
            "{} is not spoken here, only {PROTOCOL_VERSION}",
            hello.protocol_version
        );
        return Err(ParseError::new("hello.protocol_version", problem));
    }
    let session = parse::session_id("hello.session_id", &hello.session_id)?;
    let run = match hello.current_session_id.as_slice() {
        [] => session,
        told => parse::session_id("hello.current_session_id", told)?,
    };
    let live = (run != session).then(|| (run, SeriesTable::new(node, run)));
    Ok(Session {
        node,
        session,
        series: SeriesTable::new(node, session),
        live,
        replies: replies.clone(),
        waiting: VecDeque::new(),
        asked_for: None,
    })
}

impl Session {
    /// Whether as many records wait for the disk as may.
    pub(super) fn is_full(&self) -> bool {
        self.waiting.len() >= WAITING_MAX
    }

    /// Returns the table of the session that is named; what is none of the stream's is refused by it.
    pub(super) fn table(&mut self, session_id: &[u8]) -> &mut SeriesTable {
        match &mut self.live {
            Some((run, live)) if run.as_bytes() == session_id => live,
            _ => &mut self.series,
        }
    }
}
