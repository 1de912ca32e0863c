//! The way to peers on the migration network: round trips, losses, and what the link has left.
//!
//! A few small datagrams go to each peer at each round, and its agent sends them back. Off unless peers or an
//! address to listen on are told; strangers are not answered, nobody is sent more than came from him, and
//! both sides keep to a rate. What finished migrations say of a path is learned by the aggregator.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use plimsoll_model::{Bandwidth, Clock, Metric, Monotonic, NodeId, Subject, Window};
use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::host;
use crate::look::{Look, Values};

/// What probes begin with.
const MAGIC: [u8; 7] = *b"plimpro";
const ASK: u8 = 0;
const ANSWER: u8 = 1;
/// Magic, kind, session, sequence.
const PROBE_BYTES: usize = 24;
/// Time between two probes of a round.
const GAP: Duration = Duration::from_millis(20);
/// How long the last probe of a round is waited for.
const LATE: Duration = Duration::from_secs(1);
/// Most probes that are answered in a second, over all peers.
const ANSWERS_PER_SECOND: u32 = 2_000;
/// Time until a socket that cannot be opened is tried again.
const AGAIN: Duration = Duration::from_secs(30);

/// A peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// The node it is.
    pub node: NodeId,
    /// Where its agent listens, on the migration network.
    pub address: SocketAddr,
}

/// How the way to peers is measured.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Probing {
    /// Where probes of peers are answered; nowhere if absent.
    pub listen: Option<SocketAddr>,
    /// Who is asked and answered.
    pub peers: Vec<Peer>,
    /// Time between two rounds.
    pub every: Duration,
    /// Probes of a round.
    pub probes: u32,
}

/// What the link of this node has: its bandwidth, and the counter of what it sends.
#[derive(Debug, Clone)]
pub struct Link {
    /// Its bandwidth.
    pub bandwidth: Bandwidth,
    /// The file that counts the bytes it has sent.
    pub sent: PathBuf,
}

/// Measures until it is dropped.
#[derive(Debug, Clone)]
pub struct Paths {
    /// The node it starts from.
    pub node: NodeId,
    /// Whom to ask, and how.
    pub probing: Probing,
    /// The link that migrations use, where its bandwidth is known.
    pub link: Option<Link>,
    /// Tells the time.
    pub clock: Arc<dyn Clock>,
    /// Where looks go.
    pub looks: mpsc::Sender<Look>,
}

/// Round trips of one round.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Round {
    sent: u64,
    trips: Vec<Duration>,
}

impl Paths {
    /// Asks and answers until the sampler has ended.
    pub async fn run(self) {
        let mut tasks = JoinSet::new();
        if let Some(listen) = self.probing.listen {
            let peers = self.probing.peers.iter().map(|peer| peer.address.ip());
            let echo = Echo {
                peers: peers.collect(),
                clock: Arc::clone(&self.clock),
            };
            tasks.spawn(async move {
                let socket = open(listen).await;
                echo.serve(&socket).await;
            });
        }
        for peer in self.probing.peers.clone() {
            let paths = self.clone();
            tasks.spawn(async move { paths.watch(peer).await });
        }
        while tasks.join_next().await.is_some() {}
    }

    async fn watch(self, peer: Peer) {
        let any = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
        let from = self.probing.listen.map_or(any, |listen| listen.ip());
        let socket = open(SocketAddr::new(from, 0)).await;
        let mut ticks = tokio::time::interval(self.probing.every);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let session = fastrand::u64(..);
        let (mut sequence, mut traffic) = (0, Traffic::default());
        loop {
            ticks.tick().await;
            let begin = self.clock.now();
            let first = sequence;
            sequence += u64::from(self.probing.probes);
            let round = self
                .round(&socket, peer.address, session, first..sequence)
                .await;
            let mut values = Values::default();
            round.tell(peer.node, &mut values);
            if let Some(left) = self
                .link
                .as_ref()
                .and_then(|link| traffic.left(link, &*self.clock))
            {
                values.named(
                    Metric::HostNetPathCapacity,
                    &peer.node.to_string(),
                    left.bytes_per_second(),
                );
            }
            let window = Window::between(begin, self.clock.now());
            let look = Look {
                sweeps: values
                    .sweep(Subject::Node(self.node), window)
                    .into_iter()
                    .collect(),
                ..Look::default()
            };
            if self.looks.send(look).await.is_err() {
                return;
            }
        }
    }

    /// Sends the probes of a round and waits for those that come back in time.
    async fn round(
        &self,
        socket: &UdpSocket,
        to: SocketAddr,
        session: u64,
        sequences: std::ops::Range<u64>,
    ) -> Round {
        let mut round = Round::default();
        let mut pending = HashMap::new();
        for sequence in sequences {
            pending.insert(sequence, self.clock.monotonic());
            round.sent += 1;
            // What cannot be sent is lost as well.
            drop(socket.send_to(&probe(ASK, session, sequence), to).await);
            let collected = self.collect((socket, to, session), &mut pending, &mut round);
            // Also where all came back at once: probes in a heap would wait for each other.
            let (_, ()) = tokio::join!(
                tokio::time::timeout(GAP, collected),
                tokio::time::sleep(GAP)
            );
        }
        let collected = self.collect((socket, to, session), &mut pending, &mut round);
        // Those that come later count as lost.
        drop(tokio::time::timeout(LATE, collected).await);
        round
    }

    /// Takes what comes back until nothing is waited for.
    async fn collect(
        &self,
        (socket, from, session): (&UdpSocket, SocketAddr, u64),
        pending: &mut HashMap<u64, Monotonic>,
        round: &mut Round,
    ) {
        let mut bytes = [0; PROBE_BYTES + 1];
        while !pending.is_empty() {
            let Ok((length, whence)) = socket.recv_from(&mut bytes).await else {
                return;
            };
            let now = self.clock.monotonic();
            let read = bytes.get(..length).and_then(|bytes| read(ANSWER, bytes));
            let Some((theirs, sequence)) = read.filter(|_| whence == from) else {
                continue;
            };
            if theirs == session
                && let Some(sent) = pending.remove(&sequence)
            {
                round.trips.push(now.since(sent));
            }
        }
    }
}

impl Round {
    /// Tells the round; nothing of trips where none came back.
    fn tell(mut self, peer: NodeId, values: &mut Values) {
        let part = peer.to_string();
        self.trips.sort_unstable();
        let came = u64::try_from(self.trips.len()).unwrap_or(u64::MAX);
        for (metric, percent) in [
            (Metric::HostNetPathRttP50, 50),
            (Metric::HostNetPathRttP99, 99),
        ] {
            // The least that so many of a hundred do not exceed.
            let place = (self.trips.len() * percent).div_ceil(100).saturating_sub(1);
            if let Some(trip) = self.trips.get(place) {
                let ns = u64::try_from(trip.as_nanos()).unwrap_or(u64::MAX);
                values.named(metric, &part, ns);
            }
        }
        let lost = self.sent.saturating_sub(came);
        if let Some(share) = lost.saturating_mul(1_000_000).checked_div(self.sent) {
            values.named(Metric::HostNetPathLoss, &part, share);
        }
    }
}

/// What a link sent until it was last looked at.
#[derive(Debug, Default)]
struct Traffic(Option<(Monotonic, u64)>);

impl Traffic {
    /// What the link had left since the last look; absent at the first and where its counter began anew.
    fn left(&mut self, link: &Link, clock: &dyn Clock) -> Option<Bandwidth> {
        let bytes = host::count(&link.sent)?;
        let now = clock.monotonic();
        let (before, sent) = self.0.replace((now, bytes))?;
        let sent = u128::from(bytes.checked_sub(sent)?);
        let ns = now.since(before).as_nanos();
        let used = u64::try_from((sent * 1_000_000_000).checked_div(ns)?).ok()?;
        let left = link.bandwidth.bytes_per_second().saturating_sub(used);
        Some(Bandwidth::from_bytes_per_second(left))
    }
}

/// Opens a socket, however long the address takes to appear.
async fn open(address: SocketAddr) -> UdpSocket {
    let mut is_told = false;
    loop {
        match UdpSocket::bind(address).await {
            Ok(socket) => return socket,
            Err(error) => {
                if !is_told {
                    tracing::warn!(%error, %address, "the way to peers is not measured until this address can be used");
                }
                is_told = true;
                tokio::time::sleep(AGAIN).await;
            }
        }
    }
}

/// Sends probes back to those who are peers.
struct Echo {
    peers: Vec<IpAddr>,
    clock: Arc<dyn Clock>,
}

impl Echo {
    async fn serve(&self, socket: &UdpSocket) {
        let mut bytes = [0; PROBE_BYTES + 1];
        let (mut since, mut answered) = (self.clock.monotonic(), 0);
        loop {
            let Ok((length, whence)) = socket.recv_from(&mut bytes).await else {
                tokio::time::sleep(GAP).await;
                continue;
            };
            let now = self.clock.monotonic();
            if now.since(since) >= Duration::from_secs(1) {
                (since, answered) = (now, 0);
            }
            let asked = bytes.get(..length).and_then(|bytes| read(ASK, bytes));
            let is_peer = self.peers.contains(&whence.ip());
            if let Some((session, sequence)) = asked
                && is_peer
                && answered < ANSWERS_PER_SECOND
            {
                answered += 1;
                // What cannot be sent is lost, and counted so by who asked.
                drop(
                    socket
                        .send_to(&probe(ANSWER, session, sequence), whence)
                        .await,
                );
            }
        }
    }
}

fn probe(kind: u8, session: u64, sequence: u64) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    bytes.push(kind);
    bytes.extend(session.to_be_bytes());
    bytes.extend(sequence.to_be_bytes());
    bytes
}

/// Reads session and sequence; absent if it is no probe of this kind.
fn read(kind: u8, bytes: &[u8]) -> Option<(u64, u64)> {
    let rest = bytes.strip_prefix(&MAGIC)?.strip_prefix(&[kind])?;
    let (session, sequence) = rest.split_at_checked(8)?;
    let number = |bytes: &[u8]| Some(u64::from_be_bytes(bytes.try_into().ok()?));
    Some((number(session)?, number(sequence)?))
}

#[cfg(test)]
mod tests;
