//! The table of calls the daemon has not answered yet, shared by callers and the tasks of a
//! connection.
//!
//! It does no I/O. A call leaves the table only by its reply or by the end of the connection, so
//! an abandoned call keeps its place in the bound of calls in flight: the daemon still works on
//! it, and sending more would only pin more of its workers.

use crate::error::DisconnectReason;
use crate::packet::{Packet, render_call};
use crate::procedure::Procedure;
use crate::xdr::XdrError;
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

#[derive(Debug)]
struct Pending {
    procedure: Procedure,
    reply: oneshot::Sender<Packet>,
    _place: OwnedSemaphorePermit,
}

#[derive(Debug, Default)]
struct TableState {
    last_serial: u32,
    pending: HashMap<u32, Pending>,
    late_replies: u64,
    ended: Option<DisconnectReason>,
}

/// Why a call could not enter the table.
#[derive(Debug)]
pub(crate) enum Refusal {
    Ended(DisconnectReason),
    Argument(XdrError),
}

/// Calls by serial.
#[derive(Debug, Default)]
pub(crate) struct Table {
    state: Mutex<TableState>,
}

impl Table {
    fn state(&self) -> MutexGuard<'_, TableState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Enters a call; gives its frame and where its reply will come.
    pub(crate) fn enter(
        &self,
        procedure: Procedure,
        args: &[u8],
        place: OwnedSemaphorePermit,
    ) -> Result<(Vec<u8>, oneshot::Receiver<Packet>), Refusal> {
        let mut state = self.state();
        if let Some(reason) = &state.ended {
            return Err(Refusal::Ended(reason.clone()));
        }
        let mut serial = state.last_serial.wrapping_add(1);
        while state.pending.contains_key(&serial) {
            serial = serial.wrapping_add(1);
        }
        let frame = render_call(procedure, serial, args).map_err(Refusal::Argument)?;
        let (reply, receiver) = oneshot::channel();
        state.last_serial = serial;
        state.pending.insert(
            serial,
            Pending {
                procedure,
                reply,
                _place: place,
            },
        );
        Ok((frame, receiver))
    }

    /// Hands a reply to its caller, or discards it when the caller has gone.
    pub(crate) fn answer(&self, packet: Packet) -> Result<(), String> {
        let mut state = self.state();
        let Some(pending) = state.pending.remove(&packet.serial) else {
            return Err(format!("a reply to no call, serial {}", packet.serial));
        };
        let procedure = pending.procedure;
        if (procedure.program, procedure.number) != (packet.program, packet.number) {
            return Err(format!("a reply from another procedure to {procedure}"));
        }
        if pending.reply.send(packet).is_err() {
            state.late_replies = state.late_replies.saturating_add(1);
        }
        Ok(())
    }

    /// Ends the table: all callers waiting learn of it. Only the first reason is kept.
    pub(crate) fn end(&self, reason: DisconnectReason) -> bool {
        let mut state = self.state();
        let first = state.ended.is_none();
        if first {
            state.ended = Some(reason);
        }
        state.pending.clear();
        first
    }

    pub(crate) fn ended(&self) -> Option<DisconnectReason> {
        self.state().ended.clone()
    }

    pub(crate) fn outstanding(&self) -> usize {
        self.state().pending.len()
    }

    pub(crate) fn abandoned(&self) -> usize {
        self.state()
            .pending
            .values()
            .filter(|pending| pending.reply.is_closed())
            .count()
    }

    pub(crate) fn late_replies(&self) -> u64 {
        self.state().late_replies
    }
}
