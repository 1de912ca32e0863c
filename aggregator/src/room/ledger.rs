//! What nodes use and were promised, kept ready between questions: a planner that compares a thousand nodes
//! would else read an hour of samples of each. It invents nothing: what it tells is never older than said here.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use plimsoll_model::{NodeId, UnixMillis};

use super::ask::Question;
use super::measured::{cpu_used, memory_used, requests_free};
use super::promised::Promised;
use crate::known::Known;

/// A percentile over an hour does not change within this.
const USED_FOR: Duration = Duration::from_secs(60);

/// A measured amount and when it was last read.
pub(super) type Amount = Option<(u64, UnixMillis)>;

/// What a node uses, as a caller asks who says nothing of span and percentile.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Used {
    /// Processors, in millionths of one.
    pub(super) cpu: Amount,
    /// Memory, in bytes.
    pub(super) memory: Amount,
    /// Requests that its best disk can still serve in a second.
    pub requests_free: Option<u64>,
}

impl Used {
    /// Measures anew.
    pub(super) fn measure(
        known: &Known,
        node: NodeId,
        question: &Question,
        now: UnixMillis,
    ) -> Self {
        let span = (now.minus(question.horizon), now);
        let cpus = known
            .node_facts(node)
            .and_then(|(facts, _)| facts.cpu_count);
        Self {
            cpu: cpus
                .and_then(|cpus| cpu_used(known, node, u64::from(cpus), span, question.percentile)),
            memory: memory_used(known, node, span, question.percentile),
            requests_free: requests_free(known, node, now),
        }
    }
}

/// One node's page.
#[derive(Debug, Default)]
struct Page {
    used: Option<(UnixMillis, Used)>,
    /// When it was summed up, and how many batches the node had told by then.
    promised: Option<(UnixMillis, u64, Arc<Promised>)>,
}

/// The pages of all nodes; one for all who ask.
#[derive(Debug, Default)]
pub struct Ledger(Mutex<HashMap<NodeId, Page>>);

impl Ledger {
    /// Tells what a node uses, measured within the last minute.
    pub fn used(&self, known: &Known, node: NodeId, now: UnixMillis) -> Used {
        let written = self.with(node, |page| page.used);
        if let Some((at, used)) = written
            && now.since(at) < USED_FOR
        {
            return used;
        }
        let used = Used::measure(known, node, &Question::usual(), now);
        // Nothing measured may come to be measured at any moment.
        if used.cpu.is_some() || used.memory.is_some() {
            self.with(node, |page| page.used = Some((now, used)));
        }
        used
    }

    /// Tells what the guests of a node were promised, as of its last batch and no more than one interval ago:
    /// other nodes say who has left for them.
    pub(super) fn promised(&self, known: &Known, node: NodeId, now: UnixMillis) -> Arc<Promised> {
        let told = known.store.batch_count(node);
        let written = self.with(node, |page| page.promised.clone());
        if let Some((at, by_then, promised)) = written
            && by_then == told
            && now.since(at) <= known.interval
        {
            return promised;
        }
        let promised = Arc::new(Promised::on(known, node));
        let page = (now, told, Arc::clone(&promised));
        self.with(node, |slot| slot.promised = Some(page));
        promised
    }

    fn with<T>(&self, node: NodeId, act: impl FnOnce(&mut Page) -> T) -> T {
        let mut pages = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        act(pages.entry(node).or_default())
    }
}
