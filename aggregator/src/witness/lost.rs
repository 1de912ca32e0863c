//! Migrations whose end nobody tells: the agent was down, the node restarted. They are closed as
//! unknown, with the reason, rather than left open for ever; a late word still puts them right.

use std::time::Duration;

use plimsoll_model::{DomainId, Metric, NodeId, Part, SeriesKey, UnixMillis};
use plimsoll_proto::{parse, v1};

use super::{Witness, began};
use crate::known::{DomainRow, Known, STATE_RUNNING};

/// The source has this long to tell an end after signs of it are seen, and at least six intervals.
const GRACE: Duration = Duration::from_secs(60);
/// A source that is silent for so long will not tell any more.
const SILENCE_MAX: Duration = Duration::from_secs(6 * 3_600);

impl Witness {
    /// Closes the migrations whose end will not be told any more.
    pub fn close_lost(&self) {
        let now = self.known.clock.now();
        let grace = GRACE.max(self.known.interval * 6);
        // The lock is free again before the first of them is closed.
        let old = self.open().older_than(grace, now);
        for mut migration in old {
            let Some((why, target)) = lost(&self.known, &migration, grace, now) else {
                continue;
            };
            if let Some(target) = target {
                migration.target_node_id = target.as_bytes().to_vec();
            }
            let Ok(domain) = DomainId::from_slice(&migration.domain_id) else {
                continue;
            };
            let still = {
                let mut open = self.open();
                let same = open
                    .running
                    .get(&domain)
                    .is_some_and(|one| one.start_time == migration.start_time);
                same && open.running.remove(&domain).is_some()
            };
            if still && let Err(error) = self.give_up(migration, now, why) {
                tracing::error!(error = %error, "a migration was not recorded");
            }
        }
    }
}

/// Says why the end of a migration will not be told, and where the domain runs now.
fn lost(
    known: &Known,
    migration: &v1::Migration,
    grace: Duration,
    now: UnixMillis,
) -> Option<(String, Option<NodeId>)> {
    let domain = DomainId::from_slice(&migration.domain_id).ok()?;
    let source = NodeId::from_slice(&migration.source_node_id).ok()?;
    let start = began(migration)?;
    let rows = known.domain(domain);
    let elsewhere = rows.iter().find(|row| {
        row.facts.node != source
            && row.runs()
            && runs_since(known, row, start).is_some_and(|since| now.since(since) > grace)
    });
    if let Some(row) = elsewhere {
        let host = known.hostname(row.facts.node);
        let why = format!(
            "the domain runs on {host}, and {} told no end",
            known.hostname(source)
        );
        return Some((why, Some(row.facts.node)));
    }
    let here = rows.iter().find(|row| row.facts.node == source);
    if let Some(why) = here.and_then(|row| begun_anew(row, migration, start)) {
        return Some((why, None));
    }
    let heard = known
        .store
        .nodes()
        .into_iter()
        .find(|seen| seen.node == source)?
        .last;
    if now.since(heard) > SILENCE_MAX {
        let why = format!("nothing was heard of {} any more", known.hostname(source));
        return Some((why, None));
    }
    let gone = here.is_none_or(|row| heard.since(row.last_seen) > grace);
    if gone && heard.since(start) > grace {
        let why = format!(
            "{} no longer sees the domain and told no end",
            known.hostname(source)
        );
        return Some((why, None));
    }
    None
}

/// Returns when a domain was first seen to run on a node after `start`.
fn runs_since(known: &Known, row: &DomainRow, start: UnixMillis) -> Option<UnixMillis> {
    let key = SeriesKey {
        subject: row.subject(),
        metric: Metric::VmState,
        part: Part::whole(),
    };
    let states = known.store.range(&key, start, known.clock.now());
    let first = states.iter().find(|(_, state)| *state == STATE_RUNNING)?;
    Some(first.0.end)
}

/// Says that the source's node or QEMU process is another one since.
fn begun_anew(row: &DomainRow, migration: &v1::Migration, start: UnixMillis) -> Option<String> {
    let was =
        parse::incarnation("source_incarnation", migration.source_incarnation.clone()).ok()?;
    let is = row.facts.incarnation;
    if row.facts_seen <= start || is == was {
        return None;
    }
    Some(if is.boot == was.boot {
        "the domain was started anew on its source".to_owned()
    } else {
        "the source node has restarted".to_owned()
    })
}
