//! The program: starts sources, sampler and uplink, and ends them in order.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use plimsoll_model::{Clock, Monotonic, NodeFacts, NodeId, SystemClock, UnixMillis};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};

use crate::beat::Beat;
use crate::chain::chain;
use crate::config::Config;
use crate::identity::{self, IdentityError};
use crate::limits::Met;
use crate::look::Look;
use crate::publish::{self, Board, Publish};
use crate::sampler::{Latest, Sampler};
use crate::slewed::SlewedClock;
use crate::source::host::facts::Inventory;
use crate::source::host::{self, Host, mounts};
use crate::source::libvirt::{Guests, Hypervisor};
use crate::source::path::Paths;
use crate::source::slow::SlowPaths;
use crate::source::snmp::Devices;
use crate::spool::Spool;
use crate::uplink::{Network, SharedSpool, Uplink};

/// Looks that wait for the sampler; more make the sources wait.
const LOOKS_MAX: usize = 64;
/// Longest time a stopping agent goes on sending.
const DRAIN_MAX: Duration = Duration::from_secs(5);
/// Time between two tellings of facts that have not changed.
const FACTS_EVERY: Duration = Duration::from_secs(3_600);
/// They change seldom, and to read them costs more than all readings together.
const LOOK_FOR_FACTS_EVERY: Duration = Duration::from_secs(30);

/// Why the agent cannot run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// It cannot be said which node this is.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// Signals cannot be received.
    #[error("cannot receive signals")]
    Signals(#[source] std::io::Error),
    /// A part has ended that never does by itself.
    #[error("{part} was cut off; a restart goes on from what is in the spool")]
    CutOff {
        /// Which.
        part: &'static str,
    },
}

/// Runs until SIGTERM or SIGINT.
pub async fn run(config: Config) -> Result<(), RunError> {
    let clock: Arc<dyn Clock> = Arc::new(SlewedClock::new(Arc::new(SystemClock::new())));
    let (node, origin) = identity::find(&config, &*clock).await?;
    tracing::info!(%node, from = origin.name(), aggregator = config.aggregator, version = env!("CARGO_PKG_VERSION"), "agent started");
    let (spool, met) = spool(&config, clock.now());
    let (looks, inbox) = mpsc::channel(LOOKS_MAX);
    let (added, on_added) = watch::channel(0);
    let latest = Latest::default();
    let board = |publish| (publish, Board::new(config.interval, Arc::clone(&clock)));
    let shown = config.publish.clone().map(board);
    let sampler = Sampler {
        looks: inbox,
        spool: spool.clone(),
        added,
        latest: latest.clone(),
        board: shown.as_ref().map(|(_, board)| board.clone()),
        clock: Arc::clone(&clock),
    };
    let uplink = Uplink {
        way: Arc::new(network(&config)),
        node,
        spool: spool.clone(),
        clock: Arc::clone(&clock),
        added: on_added,
        latest,
    };
    let mut sampling = tokio::spawn(sampler.run());
    let mut sending = tokio::spawn(uplink.run());
    let config = Arc::new(config);
    let beat = Beat::begin(config.interval);
    let (hypervisor, on_hypervisor) = watch::channel(Hypervisor::default());
    let guests = config.libvirt.clone().map(|libvirt| Guests {
        node,
        root: Path::new("/").to_owned(),
        libvirt,
        config: Arc::clone(&config),
        clock: Arc::clone(&clock),
        beat,
        looks: looks.clone(),
        hypervisor,
        met: met.clone(),
    });
    let mut watching = JoinSet::new();
    if let Some((publish, board)) = shown {
        watching.spawn(show(publish, board, config.state_dir.clone()));
    }
    let others = (Arc::clone(&clock), looks.clone(), met.clone());
    watching.spawn(watch_others(node, Arc::clone(&config), others));
    let host = HostWatch {
        node,
        config,
        clock,
        beat,
        looks,
        hypervisor: on_hypervisor,
        met,
    };
    watching.spawn(host.run());
    if let Some(guests) = guests {
        watching.spawn(guests.run());
    }
    let over = until_over(&mut sampling, &mut sending, &mut watching).await;
    over.inspect_err(|_| spool.lock().sync())?;
    tracing::info!("stopping");
    watching.shutdown().await;
    finish(sampling, sending, &spool).await;
    Ok(())
}

/// Measures the way to peers, and polls devices.
async fn watch_others(
    node: NodeId,
    config: Arc<Config>,
    (clock, looks, met): (Arc<dyn Clock>, mpsc::Sender<Look>, Met),
) {
    let devices = Devices {
        met,
        ..Devices::of(&config.snmp, node, Arc::clone(&clock))
    };
    let paths = Paths {
        node,
        probing: config.path.clone(),
        link: host::facts::link(Path::new("/"), &config),
        clock,
        looks: looks.clone(),
    };
    tokio::join!(paths.run(), devices.run(looks));
}

/// Opens the spool that is configured, and what it counts.
fn spool(config: &Config, now: UnixMillis) -> (SharedSpool, Met) {
    let directory = config.state_dir.join("spool");
    let spool = Spool::open(&directory, config.spool_size.bytes(), now);
    let met = spool.met();
    (SharedSpool::new(spool), met)
}

/// The way to the aggregator that is configured.
fn network(config: &Config) -> Network {
    Network {
        url: config.aggregator.clone(),
        credentials: config.credentials.clone(),
    }
}

/// Serves over SNMP; where that cannot be, all else goes on.
async fn show(publish: Publish, board: Board, state_dir: PathBuf) {
    if let Err(error) = publish::serve(publish, board, &state_dir).await {
        tracing::error!(error = chain(&error), "nothing is served over SNMP");
    }
}

/// Waits until it is told to end, or cannot go on.
async fn until_over(
    sampling: &mut JoinHandle<()>,
    sending: &mut JoinHandle<()>,
    watching: &mut JoinSet<()>,
) -> Result<(), RunError> {
    tokio::select! {
        told = wait_for_signal() => told.map_err(RunError::Signals),
        // Half alive it would look well and send nothing.
        part = cut_off(sampling, sending, watching) => Err(RunError::CutOff { part }),
    }
}

/// Waits until a part has ended that never does by itself; says which. Sources that have nothing to do end
/// in peace.
async fn cut_off(
    sampling: &mut JoinHandle<()>,
    sending: &mut JoinHandle<()>,
    watching: &mut JoinSet<()>,
) -> &'static str {
    loop {
        tokio::select! {
            _ = &mut *sampling => return "the sampler",
            _ = &mut *sending => return "the uplink",
            Some(ended) = watching.join_next() => {
                if ended.is_err() {
                    return "a source";
                }
            }
        }
    }
}

/// Lets the sampler take what was seen and the uplink send it, for a while.
async fn finish(sampling: JoinHandle<()>, sending: JoinHandle<()>, spool: &SharedSpool) {
    let drained = tokio::time::timeout(DRAIN_MAX, async {
        drop(sampling.await);
        drain(spool).await;
    });
    if drained.await.is_err() {
        tracing::info!("what could not be sent stays in the spool");
    }
    sending.abort();
    spool.lock().close();
}

async fn wait_for_signal() -> std::io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut terminate, mut interrupt) = (
        signal(SignalKind::terminate())?,
        signal(SignalKind::interrupt())?,
    );
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}

async fn drain(spool: &SharedSpool) {
    while spool.with(|spool| spool.has_unacknowledged()).await == Some(true) {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Reads the host at its own pace.
struct HostWatch {
    node: NodeId,
    config: Arc<Config>,
    clock: Arc<dyn Clock>,
    beat: Beat,
    looks: mpsc::Sender<Look>,
    hypervisor: watch::Receiver<Hypervisor>,
    met: Met,
}

impl HostWatch {
    async fn run(mut self) {
        let mut ticks = self.beat.ticks(self.config.interval);
        let mut host = Host::new(Path::new("/"), self.node, Arc::clone(&self.clock));
        let mut told: Option<(NodeFacts, Monotonic)> = None;
        let slow = SlowPaths::default();
        let mut inventory = Inventory::default();
        let (mut seen, mut facts_due) = (NodeFacts::default(), None);
        loop {
            ticks.tick().await;
            let config = Arc::clone(&self.config);
            let now = self.clock.monotonic();
            let is_due = facts_due.is_none_or(|due| due <= now);
            let read = tokio::task::spawn_blocking(move || {
                let sweeps = host.read();
                let facts = is_due.then(|| inventory.read(Path::new("/"), &config));
                (host, inventory, sweeps, facts)
            });
            let Ok((back, inventory_back, mut sweeps, facts)) = read.await else {
                // The next look begins afresh, as after a start.
                tracing::error!("a look at the host was cut off");
                host = Host::new(Path::new("/"), self.node, Arc::clone(&self.clock));
                inventory = Inventory::default();
                continue;
            };
            (host, inventory) = (back, inventory_back);
            let clock = (self.node, &*self.clock);
            sweeps.extend(mounts::read_shared(host.shared_mounts(), clock, &slow).await);
            if let Some(directory) = &self.config.promises.disk_directory {
                sweeps.extend(mounts::read_promised(directory, clock, &slow).await);
            }
            let is_told_anew = self.hypervisor.has_changed().unwrap_or(false);
            if let Some(facts) = facts {
                seen = facts;
                facts_due = Some(now.plus(LOOK_FOR_FACTS_EVERY));
            }
            sweeps.push(self.met.sweep(self.node, self.clock.now()));
            let mut node_facts = None;
            if is_due || is_told_anew {
                let mut facts = seen.clone();
                let hypervisor = self.hypervisor.borrow_and_update().clone();
                hypervisor.tell(&mut facts);
                let now = self.clock.monotonic();
                let known = told
                    .as_ref()
                    .is_some_and(|(old, at)| *old == facts && now.since(*at) < FACTS_EVERY);
                if !known {
                    told = Some((facts.clone(), now));
                    node_facts = Some(facts);
                }
            }
            let look = Look {
                sweeps,
                node_facts,
                ..Look::default()
            };
            if self.looks.send(look).await.is_err() {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_part_that_panics_ends_the_agent_and_one_that_has_nothing_to_do_does_not() {
        let mut idle = [0; 2].map(|_| tokio::spawn(std::future::pending::<()>()));
        let mut broken = [0; 2].map(|_| tokio::spawn(async { panic!("a bug") }));
        let [sampling, sending] = &mut idle;
        let [first, second] = &mut broken;
        let mut watching = JoinSet::new();
        watching.spawn(async {});
        watching.spawn(std::future::pending());
        let part = cut_off(sampling, sending, &mut watching);
        let waits = tokio::time::timeout(Duration::from_millis(50), part).await;
        assert!(waits.is_err());
        let part = cut_off(first, sending, &mut watching).await;
        assert_eq!(part, "the sampler");
        let part = cut_off(sampling, second, &mut watching).await;
        assert_eq!(part, "the uplink");
        watching.spawn(async { panic!("a bug") });
        let part = cut_off(sampling, sending, &mut watching).await;
        assert_eq!(part, "a source");
    }
}
