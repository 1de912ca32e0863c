//! The sampler: gathers looks into batches at its own pace and puts them into the spool.
//!
//! It reads nothing itself and sends nothing.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use plimsoll_model::Clock;
use plimsoll_proto::v1;
use tokio::sync::{mpsc, watch};

use crate::body;
use crate::look::Look;
use crate::publish::Board;
use crate::uplink::SharedSpool;

/// Longest time a look waits for others to share its batch.
const GATHER_MAX: Duration = Duration::from_millis(500);
/// Longest time for which what was seen may be lost in a power cut.
const UNSYNCED_MAX: Duration = Duration::from_secs(1);

/// The sweeps of the latest batch, for the live lane.
#[derive(Debug, Clone, Default)]
pub struct Latest(Arc<Mutex<BTreeMap<Vec<i32>, v1::Sweep>>>);

impl Latest {
    /// Most series groups that are kept.
    const SWEEPS_MAX: usize = 4_096;

    /// Puts sweeps in the place of those of the same series.
    pub fn put(&self, sweeps: Vec<v1::Sweep>) {
        let mut latest = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for sweep in sweeps {
            if latest.len() >= Self::SWEEPS_MAX {
                latest.clear();
            }
            latest.insert(sweep.index_deltas.clone(), sweep);
        }
    }

    /// Takes the latest sweeps, at most so many readings.
    pub fn take(&self, readings_max: usize) -> Vec<v1::Sweep> {
        let mut latest = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut readings = 0;
        let taken = std::mem::take(&mut *latest).into_values();
        taken
            .take_while(|sweep| {
                readings += sweep.values.len();
                readings <= readings_max
            })
            .collect()
    }
}

/// Puts what is seen into the spool.
#[derive(Debug)]
pub struct Sampler {
    /// Where looks come from.
    pub looks: mpsc::Receiver<Look>,
    /// Where batches go.
    pub spool: SharedSpool,
    /// Told of each batch.
    pub added: watch::Sender<u64>,
    /// The live lane.
    pub latest: Latest,
    /// What the node shows over SNMP, if it does.
    pub board: Option<Board>,
    /// Tells the time.
    pub clock: Arc<dyn Clock>,
}

impl Sampler {
    /// Works until all sources have ended.
    pub async fn run(mut self) {
        // Batches come seldom but for migrations, when many share one sync.
        let mut synced = self.clock.monotonic();
        let mut is_synced = true;
        loop {
            let since = self.clock.monotonic().since(synced);
            let rest = UNSYNCED_MAX.saturating_sub(since);
            tokio::select! {
                look = self.looks.recv() => {
                    let Some(look) = look else { break };
                    let now = self.clock.monotonic();
                    is_synced = now.since(synced) >= UNSYNCED_MAX;
                    if is_synced {
                        synced = now;
                    }
                    self.gather(look, is_synced).await;
                }
                () = tokio::time::sleep(rest), if !is_synced => {
                    self.spool.with(|spool| spool.sync()).await;
                    (synced, is_synced) = (self.clock.monotonic(), true);
                }
            }
        }
        self.spool.with(|spool| spool.sync()).await;
    }

    async fn gather(&mut self, first: Look, sync: bool) {
        let mut all = first;
        let until = tokio::time::sleep(GATHER_MAX);
        tokio::pin!(until);
        loop {
            tokio::select! {
                () = &mut until => break,
                look = self.looks.recv() => match look {
                    Some(look) => all.merge(look),
                    None => break,
                },
            }
        }
        if let Some(board) = &self.board {
            board.see(&all);
        }
        let made = self.clock.now();
        let latest = self.latest.clone();
        let pushed = self.spool.with(move |spool| {
            let bodies = body::bodies(all, made, spool.book());
            for body in &bodies {
                spool.push(body);
            }
            latest.put(bodies.into_iter().flat_map(|body| body.sweeps).collect());
            if sync {
                spool.sync();
            }
        });
        pushed.await;
        self.added
            .send_modify(|count| *count = count.wrapping_add(1));
    }
}
