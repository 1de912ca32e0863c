//! Libvirt: the guests of this node, by calls that can each hang alone, and by events.
//!
//! One connection; no call is ever made again because it hangs, and no second connection is opened
//! while one lives. It changes nothing on the node unless measuring dirty rates was allowed.

mod dirty;
mod known;
mod migration;
pub(crate) mod outside;
mod patience;
mod process;
mod session;
mod storage;
mod table;
mod touched;
mod xml;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use plimsoll_libvirt::{
    CallError, Connection, DEFAULT_RUN_DIR, DomainRef, OpenOptions, socket_candidates,
};
use plimsoll_model::{Clock, Metric, NodeFacts, NodeId};
use tokio::sync::{mpsc, watch};

use super::host::node_value;
use crate::beat::Beat;
use crate::chain::chain;
use crate::config::{Access, Config, Libvirt};
use crate::limits::Met;
use crate::look::Look;
use patience::Patience;

/// The least time for a call in which libvirt may start QEMU to see what it can do. Where it cannot keep
/// what it saw, each such call takes seconds, and holds up no other.
const PROBE_DEADLINE: Duration = Duration::from_secs(30);

/// How long a call may take in which libvirt may start QEMU to see what it can do.
pub fn probe_deadline(libvirt: &Libvirt) -> Duration {
    libvirt.call_deadline.max(PROBE_DEADLINE)
}

/// What libvirt says of itself; absent means not known.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hypervisor {
    /// Driver, such as `QEMU`.
    pub kind: Option<String>,
    /// Version of libvirt.
    pub libvirt_version: Option<String>,
    /// Version of QEMU.
    pub qemu_version: Option<String>,
    /// Frequency of the time stamp counter, in Hz.
    pub tsc_hz: Option<u64>,
    /// Whether the processor can show a guest another frequency.
    pub tsc_scaling: Option<bool>,
}

impl Hypervisor {
    /// Adds it to the facts about the node.
    pub fn tell(self, facts: &mut NodeFacts) {
        facts.hypervisor_type = self.kind;
        facts.libvirt_version = self.libvirt_version;
        facts.qemu_version = self.qemu_version;
        facts.tsc_hz = self.tsc_hz;
        facts.tsc_scaling = self.tsc_scaling;
    }
}

/// Watches the guests of this node.
#[derive(Debug, Clone)]
pub struct Guests {
    /// The node.
    pub node: NodeId,
    /// Where the file system begins.
    pub root: PathBuf,
    /// The whole configuration.
    pub config: Arc<Config>,
    /// How libvirt is reached.
    pub libvirt: Libvirt,
    /// Tells the time.
    pub clock: Arc<dyn Clock>,
    /// When they are looked at.
    pub beat: Beat,
    /// Where looks go.
    pub looks: mpsc::Sender<Look>,
    /// Where is told what libvirt says of itself.
    pub hypervisor: watch::Sender<Hypervisor>,
    /// Counts the limits that are met.
    pub met: Met,
}

/// Returns the socket to use: the configured one, else the first that exists, else the likeliest.
pub fn socket(libvirt: &Libvirt) -> PathBuf {
    if let Some(socket) = &libvirt.socket {
        return socket.clone();
    }
    best_socket(libvirt.access == Access::ReadOnly)
}

/// Returns the socket through which libvirt can be told to do something.
pub fn writing_socket() -> PathBuf {
    best_socket(false)
}

fn best_socket(read_only: bool) -> PathBuf {
    let candidates = socket_candidates(Path::new(DEFAULT_RUN_DIR), read_only);
    let found = candidates.iter().find(|candidate| candidate.exists);
    let best = found.or_else(|| candidates.last());
    best.map_or_else(
        || PathBuf::from(DEFAULT_RUN_DIR),
        |candidate| candidate.path.clone(),
    )
}

/// Opens a connection.
pub async fn open(libvirt: &Libvirt) -> Result<Connection, CallError> {
    let options = OpenOptions {
        read_only: libvirt.access == Access::ReadOnly,
        ..OpenOptions::default()
    };
    Connection::open(&socket(libvirt), options).await
}

/// Asks libvirt which node this is; absent if it does not say.
///
/// # Errors
/// If libvirt cannot be reached or does not answer in time.
pub async fn identify(libvirt: &Libvirt) -> Result<Option<NodeId>, CallError> {
    told_by(&open(libvirt).await?, probe_deadline(libvirt)).await
}

async fn told_by(connection: &Connection, deadline: Duration) -> Result<Option<NodeId>, CallError> {
    let capabilities = connection.capabilities_xml(deadline).await?;
    Ok(xml::host_uuid(&capabilities))
}

/// Writes a version as libvirt numbers it: major, minor and release, each of three digits.
pub fn version(number: u64) -> String {
    let part = |place: u64| number / place % 1_000;
    format!("{}.{}.{}", number / 1_000_000, part(1_000), part(1))
}

/// How much of a guest's process can be seen without libvirt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sight {
    /// Nothing of it.
    Nothing,
    /// Its processor time and resident memory.
    Process,
    /// What it touched of its memory as well.
    Memory,
}

/// Tells how much of the process of a guest can be seen.
pub fn sight(root: &Path, domain: &DomainRef) -> Sight {
    let Some(pid) = process::pid(root, domain) else {
        return Sight::Nothing;
    };
    let of = |name: &str| root.join(format!("proc/{pid}/{name}"));
    if std::fs::File::open(of("stat")).is_err() {
        Sight::Nothing
    } else if std::fs::File::open(of("smaps")).is_err() {
        Sight::Process
    } else {
        Sight::Memory
    }
}

impl Guests {
    /// Watches until it is dropped; connects again when a connection has ended.
    pub async fn run(self) {
        let mut patience = Patience::default();
        loop {
            let began = self.clock.monotonic();
            let reason = match open(&self.libvirt).await {
                Ok(connection) => session::Session::new(&self, connection).run().await,
                Err(error) => chain(&error),
            };
            if patience.is_news(self.clock.monotonic().since(began), &reason) {
                tracing::warn!(
                    reason,
                    "guests are left out until libvirt can be reached and answers"
                );
            }
            self.tell_down().await;
            tokio::time::sleep(patience.wait()).await;
        }
    }

    async fn tell_down(&self) {
        let sweep = node_value(self.node, Metric::HostLibvirtUp, 0, self.clock.now());
        let look = Look {
            sweeps: vec![sweep],
            ..Look::default()
        };
        // A sampler that has ended is seen by the next look as well.
        drop(self.looks.send(look).await);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{self, Overrides};
    use crate::fake_libvirt::{Asked, Say, connect, text};

    #[tokio::test(start_paused = true)]
    async fn a_libvirt_that_takes_long_to_see_what_it_can_do_still_says_which_node_this_is() {
        let node = NodeId::random();
        let xml = format!("<capabilities><host><uuid>{node}</uuid></host></capabilities>");
        let (connection, _daemon) = connect(move |asked, _| match asked {
            Asked::Capabilities => Say::Late(Duration::from_secs(8), text(&xml)),
            _ => Say::No("nobody should ask this"),
        })
        .await;
        let (config, _) = config::load(None, &Overrides::default()).unwrap();
        let deadline = probe_deadline(&config.libvirt.unwrap());
        let told = told_by(&connection, deadline).await.unwrap();
        assert_eq!(told, Some(node));
    }
}
