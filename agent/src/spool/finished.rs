//! The sessions of which nothing is left: an aggregator that was set back to an older state hears from it
//! what it has lost. It keeps the newest few.

use std::path::Path;

use plimsoll_model::{SessionId, UnixMillis};
use plimsoll_proto::{render, v1};

use super::mark;

/// Sessions that are remembered; the aggregator remembers twice as many of a node.
const REMEMBERED_MAX: usize = 8;
/// How long each is told: what is older than any backup that is restored says nothing.
const TOLD_MAX: std::time::Duration = std::time::Duration::from_secs(7 * 24 * 3_600);
const FILE: &str = "finished";
const ENTRY_BYTES: usize = 32;

/// Finished sessions, the newest last: id, last number, when.
#[derive(Debug, Default)]
pub(super) struct Finished(Vec<(SessionId, u64, i64)>);

impl Finished {
    pub(super) fn load(directory: &Path) -> Self {
        let bytes = mark::read(directory, FILE).unwrap_or_default();
        let entry = |chunk: &[u8]| {
            let (id, rest) = chunk.split_first_chunk::<16>()?;
            let (last, at) = rest.split_first_chunk::<8>()?;
            let id = SessionId::from_bytes(*id).ok()?;
            let at = i64::from_le_bytes(at.try_into().ok()?);
            Some((id, u64::from_le_bytes(*last), at))
        };
        Self(bytes.chunks(ENTRY_BYTES).filter_map(entry).collect())
    }

    /// Remembers a session.
    pub(super) fn add(&mut self, directory: &Path, (id, last): (SessionId, u64), now: UnixMillis) {
        if last == 0 {
            return;
        }
        self.0.push((id, last, now.millis()));
        let surplus = self.0.len().saturating_sub(REMEMBERED_MAX);
        self.0.drain(..surplus);
        let mut bytes = Vec::new();
        for (id, last, at) in &self.0 {
            bytes.extend_from_slice(id.as_bytes());
            bytes.extend_from_slice(&last.to_le_bytes());
            bytes.extend_from_slice(&at.to_le_bytes());
        }
        if let Err(error) = mark::write(directory, FILE, &bytes) {
            tracing::warn!(%error, "a finished session cannot be remembered");
        }
    }

    pub(super) fn told(&self, now: UnixMillis) -> Vec<v1::FinishedSession> {
        let young = |at: i64| now.since(UnixMillis::from_millis(at)) <= TOLD_MAX;
        let young = self.0.iter().filter(|(_, _, at)| young(*at));
        young
            .map(|(id, last, _)| v1::FinishedSession {
                session_id: id.as_bytes().to_vec(),
                last_sequence: render::int(*last),
            })
            .collect()
    }
}
