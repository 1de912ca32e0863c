//! The program: starts sources, sampler and uplink, and ends them in order.

use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use plimsoll_model::{Clock, NodeId, SystemClock};
use tokio::sync::{mpsc, watch};

use crate::config::Config;
use crate::look::Look;
use crate::sampler::{Latest, Sampler};
use crate::source::host::{self, Host};
use crate::spool::Spool;
use crate::uplink::{SharedSpool, Uplink};

/// Looks that wait for the sampler; more make the sources wait.
const LOOKS_MAX: usize = 64;
/// Longest time a stopping agent goes on sending.
const DRAIN_MAX: Duration = Duration::from_secs(5);
/// Time between two tellings of facts that have not changed.
const FACTS_EVERY: Duration = Duration::from_secs(3_600);

/// Why the agent cannot run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Nothing says which node this is.
    #[error(
        "nothing says which node this is; set `id` in [node], or give the machine an /etc/machine-id"
    )]
    NoNodeId,
    /// Signals cannot be received.
    #[error("cannot receive signals")]
    Signals(#[source] std::io::Error),
}

/// Runs until SIGTERM or SIGINT.
pub async fn run(config: Config) -> Result<(), RunError> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let node = node_id(&config, None).ok_or(RunError::NoNodeId)?;
    tracing::info!(%node, aggregator = config.aggregator, version = env!("CARGO_PKG_VERSION"), "agent started");
    let spool = Spool::open(
        &config.state_dir.join("spool"),
        config.spool_size.bytes(),
        clock.now(),
    );
    let spool = SharedSpool::new(spool);
    let (looks, inbox) = mpsc::channel(LOOKS_MAX);
    let (added, on_added) = watch::channel(0);
    let latest = Latest::default();
    let sampler = Sampler {
        looks: inbox,
        spool: spool.clone(),
        added,
        latest: latest.clone(),
        clock: Arc::clone(&clock),
    };
    let uplink = Uplink {
        url: config.aggregator.clone(),
        node,
        spool: spool.clone(),
        clock: Arc::clone(&clock),
        added: on_added,
        latest,
    };
    let sampling = tokio::spawn(sampler.run());
    let sending = tokio::spawn(uplink.run());
    let config = Arc::new(config);
    let watching = tokio::spawn(watch_host(
        node,
        Arc::clone(&config),
        Arc::clone(&clock),
        looks,
    ));

    wait_for_signal().await.map_err(RunError::Signals)?;
    tracing::info!("stopping");
    watching.abort();
    let drained = tokio::time::timeout(DRAIN_MAX, async {
        drop(sampling.await);
        drain(&spool).await;
    });
    if drained.await.is_err() {
        tracing::info!("what could not be sent stays in the spool");
    }
    sending.abort();
    spool.lock().sync();
    Ok(())
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

/// Decides which node this is.
pub fn node_id(config: &Config, libvirt: Option<NodeId>) -> Option<NodeId> {
    let machine = || {
        let text = std::fs::read_to_string("/etc/machine-id").ok()?;
        NodeId::from_str(text.trim()).ok()
    };
    config.node_id.or(libvirt).or_else(machine)
}

async fn watch_host(
    node: NodeId,
    config: Arc<Config>,
    clock: Arc<dyn Clock>,
    looks: mpsc::Sender<Look>,
) {
    // Agents that were started together must not look together.
    tokio::time::sleep(
        config
            .interval
            .mul_f64(fastrand::f64() * 0.5)
            .min(Duration::from_secs(2)),
    )
    .await;
    let mut ticks = tokio::time::interval(config.interval);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut host = Host::new(Path::new("/"), node, Arc::clone(&clock));
    let mut told: Option<(plimsoll_model::NodeFacts, plimsoll_model::Monotonic)> = None;
    loop {
        ticks.tick().await;
        let settings = Arc::clone(&config);
        let read = tokio::task::spawn_blocking(move || {
            let sweeps = host.read();
            (host, sweeps, host::facts::read(Path::new("/"), &settings))
        });
        let Ok((back, sweeps, facts)) = read.await else {
            return;
        };
        host = back;
        let now = clock.monotonic();
        let known = told
            .as_ref()
            .is_some_and(|(old, at)| *old == facts && now.since(*at) < FACTS_EVERY);
        let node_facts = (!known).then(|| facts.clone());
        if node_facts.is_some() {
            told = Some((facts, now));
        }
        let look = Look {
            sweeps,
            node_facts,
            ..Look::default()
        };
        if looks.send(look).await.is_err() {
            return;
        }
    }
}
