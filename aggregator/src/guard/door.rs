//! The accept loop: how many connections, how long each may take to say who it is.
//!
//! tonic's own loop never closes a connection that says nothing; here each has [`SPEAK_WITHIN`] for
//! the handshake and the HTTP/2 preface, before tonic sees it.

use std::collections::HashMap;
use std::hash::Hash;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use plimsoll_model::NodeId;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use tonic::transport::server::Connected;

use super::caller::{self, Caller};
use super::tls::Current;

/// Time for the TLS handshake and the HTTP/2 preface together.
pub const SPEAK_WITHIN: Duration = Duration::from_secs(5);
/// Connections at once, whoever made them.
pub const CONNECTIONS_MAX: usize = 4_096;
/// Connections of one address that have not said yet who they are.
pub const STRANGERS_MAX: usize = 64;
/// Connections of one node: the present one, and its successor while the old one dies.
pub const OF_NODE_MAX: usize = 2;
/// Connections that wait until tonic takes them.
const QUEUE: usize = 64;
/// What every HTTP/2 client says first (RFC 9113, section 3.4).
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// How often a thing is held at once, with a limit; what was taken goes back when dropped.
#[derive(Debug)]
struct Places<K: Hash + Eq + Clone> {
    taken: Arc<Mutex<HashMap<K, usize>>>,
    max: usize,
}

impl<K: Hash + Eq + Clone> Places<K> {
    fn new(max: usize) -> Self {
        Self {
            taken: Arc::default(),
            max,
        }
    }

    fn take(&self, key: K) -> Option<Seat<K>> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let count = taken.entry(key.clone()).or_insert(0);
        if *count >= self.max {
            return None;
        }
        *count += 1;
        Some(Seat {
            taken: Arc::clone(&self.taken),
            key,
        })
    }
}

#[derive(Debug)]
struct Seat<K: Hash + Eq + Clone> {
    taken: Arc<Mutex<HashMap<K, usize>>>,
    key: K,
}

impl<K: Hash + Eq + Clone> Drop for Seat<K> {
    fn drop(&mut self) {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = taken.get_mut(&self.key) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                taken.remove(&self.key);
            }
        }
    }
}

/// Why a connection was not let in.
#[derive(Debug, thiserror::Error)]
enum Turned {
    #[error("it said nothing that could be used within {} s", SPEAK_WITHIN.as_secs())]
    Silent,
    #[error("the handshake failed: {0}")]
    Handshake(io::Error),
    #[error("{0}")]
    Nameless(#[from] caller::NamelessError),
    #[error("it showed no certificate")]
    Bare,
    #[error("node {0} already has {OF_NODE_MAX} connections")]
    TooMany(NodeId),
    #[error("it speaks no HTTP/2")]
    Tongue,
}

/// The door.
#[derive(Debug)]
pub struct Door {
    tls: Option<Arc<Current>>,
    all: Places<()>,
    strangers: Places<IpAddr>,
    nodes: Places<NodeId>,
}

impl Door {
    /// Makes a door; without certificates all who come in are [`Caller::Local`].
    pub fn new(tls: Option<Arc<Current>>) -> Self {
        Self {
            tls,
            all: Places::new(CONNECTIONS_MAX),
            strangers: Places::new(STRANGERS_MAX),
            nodes: Places::new(OF_NODE_MAX),
        }
    }

    /// Lets connections in until the listener or the receiver is dropped.
    pub fn open(self, listener: TcpListener) -> mpsc::Receiver<io::Result<Line>> {
        let (lines, taken) = mpsc::channel(QUEUE);
        tokio::spawn(accept(Arc::new(self), listener, lines));
        taken
    }

    async fn greet(
        &self,
        tcp: TcpStream,
        all: Seat<()>,
        stranger: Seat<IpAddr>,
    ) -> Result<Line, Turned> {
        tcp.set_nodelay(true).map_err(Turned::Handshake)?;
        let (mut stream, caller) = match &self.tls {
            None => (Stream::Plain(tcp), Caller::Local),
            Some(current) => {
                let handshake = TlsAcceptor::from(current.config()).accept(tcp);
                let stream = handshake.await.map_err(Turned::Handshake)?;
                let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
                let caller = caller::read(chain.first().ok_or(Turned::Bare)?)?;
                (Stream::Tls(Box::new(stream)), caller)
            }
        };
        let node = match caller.node() {
            None => None,
            Some(node) => Some(self.nodes.take(node).ok_or(Turned::TooMany(node))?),
        };
        let mut said = [0_u8; PREFACE.len()];
        stream
            .read_exact(&mut said)
            .await
            .map_err(|_| Turned::Tongue)?;
        if said != *PREFACE {
            return Err(Turned::Tongue);
        }
        drop(stranger);
        Ok(Line {
            stream,
            unread: PREFACE,
            caller,
            _seats: (all, node),
        })
    }
}

async fn accept(door: Arc<Door>, listener: TcpListener, lines: mpsc::Sender<io::Result<Line>>) {
    loop {
        let (tcp, peer) = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Usually too many open files; the next connection would fail as fast.
                    tracing::warn!(error = %error, "a connection could not be accepted");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            },
            () = lines.closed() => return,
        };
        let (Some(all), Some(stranger)) = (door.all.take(()), door.strangers.take(peer.ip()))
        else {
            tracing::debug!(peer = %peer, "too many connections; this one is closed");
            continue;
        };
        tokio::spawn(let_in(
            Arc::clone(&door),
            lines.clone(),
            (tcp, peer),
            (all, stranger),
        ));
    }
}

async fn let_in(
    door: Arc<Door>,
    lines: mpsc::Sender<io::Result<Line>>,
    (tcp, peer): (TcpStream, SocketAddr),
    (all, stranger): (Seat<()>, Seat<IpAddr>),
) {
    let greeted = tokio::time::timeout(SPEAK_WITHIN, door.greet(tcp, all, stranger)).await;
    match greeted.unwrap_or(Err(Turned::Silent)) {
        // Refused only when the aggregator ends.
        Ok(line) => drop(lines.send(Ok(line)).await),
        Err(reason) => tracing::info!(peer = %peer, reason = %reason, "connection refused"),
    }
}

#[derive(Debug)]
enum Stream {
    Plain(TcpStream),
    Tls(Box<tokio_rustls::server::TlsStream<TcpStream>>),
}

/// A connection whose caller is known; it is read as if nobody had read the preface yet.
#[derive(Debug)]
pub struct Line {
    stream: Stream,
    unread: &'static [u8],
    caller: Caller,
    _seats: (Seat<()>, Option<Seat<NodeId>>),
}

impl Connected for Line {
    type ConnectInfo = Caller;

    fn connect_info(&self) -> Caller {
        self.caller.clone()
    }
}

impl AsyncRead for Line {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.unread.is_empty() {
            let (now, later) = self
                .unread
                .split_at(self.unread.len().min(into.remaining()));
            into.put_slice(now);
            self.unread = later;
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_read(context, into)
    }
}

impl AsyncWrite for Line {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        from: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, from)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(context, into),
            Self::Tls(stream) => Pin::new(stream).poll_read(context, into),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        from: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(context, from),
            Self::Tls(stream) => Pin::new(stream).poll_write(context, from),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(context),
            Self::Tls(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_run_out_and_come_back() {
        let places = Places::new(2);
        let first = places.take("a").unwrap();
        let _second = places.take("a").unwrap();
        assert!(places.take("a").is_none());
        assert!(places.take("b").is_some());
        drop(first);
        assert!(places.take("a").is_some());
    }
}
