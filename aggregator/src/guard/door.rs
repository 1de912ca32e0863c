//! The accept loop: how many connections, how long each may take to say who it is.
//!
//! tonic's own loop never closes a connection that says nothing; here each has [`SPEAK_WITHIN`] for
//! the handshake and the HTTP/2 preface, before tonic sees it.

use std::io::{self, IoSlice};
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use plimsoll_model::{Clock, NodeId};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use tonic::transport::server::Connected;

use super::caller::{self, Caller};
use super::calls::Guest;
use super::limits::{Limit, Met};
use super::places::{Places, Seat};
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

impl Turned {
    fn limit(&self) -> Limit {
        match self {
            Self::Silent => Limit::Handshake,
            Self::TooMany(_) => Limit::OfNode,
            Self::Handshake(_) | Self::Nameless(_) | Self::Bare | Self::Tongue => Limit::Unknown,
        }
    }
}

/// The door.
#[derive(Debug)]
pub struct Door {
    tls: Option<Arc<Current>>,
    all: Places<()>,
    strangers: Places<IpAddr>,
    nodes: Places<NodeId>,
    met: Arc<Met>,
    clock: Arc<dyn Clock>,
}

impl Door {
    /// Makes a door; without certificates all who come in are [`Caller::Local`].
    pub fn new(tls: Option<Arc<Current>>, met: Arc<Met>, clock: Arc<dyn Clock>) -> Self {
        Self {
            tls,
            met,
            clock,
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

    fn turn_away(&self, limit: Limit, peer: SocketAddr) {
        if self.met.note(limit, &*self.clock) {
            tracing::info!(peer = %peer, limit = limit.word(), "too many connections; this one is closed");
        }
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
            guest: Guest::new(caller),
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
        let Some(all) = door.all.take(()) else {
            door.turn_away(Limit::Connections, peer);
            continue;
        };
        let Some(stranger) = door.strangers.take(peer.ip()) else {
            door.turn_away(Limit::Strangers, peer);
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
        Err(reason) => {
            if door.met.note(reason.limit(), &*door.clock) {
                tracing::info!(peer = %peer, reason = %reason, "connection refused");
            }
        }
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
    guest: Guest,
    _seats: (Seat<()>, Option<Seat<NodeId>>),
}

impl Connected for Line {
    type ConnectInfo = Guest;

    fn connect_info(&self) -> Guest {
        self.guest.clone()
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

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        from: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, from)
    }

    // Without it every head of a frame would be a packet of its own, and wake whoever reads.
    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
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

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        from: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write_vectored(context, from),
            Self::Tls(stream) => Pin::new(stream).poll_write_vectored(context, from),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(stream) => stream.is_write_vectored(),
            Self::Tls(stream) => stream.is_write_vectored(),
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
    use crate::scene::Scene;

    async fn open() -> (SocketAddr, mpsc::Receiver<io::Result<Line>>, Arc<Met>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let met = Arc::new(Met::default());
        let door = Door::new(None, Arc::clone(&met), Scene::new().known.clock);
        (address, door.open(listener), met)
    }

    async fn greeted(address: SocketAddr) -> TcpStream {
        use tokio::io::AsyncWriteExt as _;
        let mut tcp = TcpStream::connect(address).await.unwrap();
        tcp.write_all(PREFACE).await.unwrap();
        tcp
    }

    async fn is_closed(tcp: &mut TcpStream) -> bool {
        let mut byte = [0];
        matches!(tcp.read(&mut byte).await, Ok(0) | Err(_))
    }

    #[tokio::test]
    async fn one_stranger_more_than_may_come_from_an_address_is_closed_and_counted() {
        let (address, mut lines, met) = open().await;
        let mut silent = Vec::new();
        for _ in 1..STRANGERS_MAX {
            silent.push(TcpStream::connect(address).await.unwrap());
        }
        // The last place: it is let in, and frees the place by saying who it is.
        let _last = greeted(address).await;
        assert!(lines.recv().await.unwrap().is_ok());
        silent.push(TcpStream::connect(address).await.unwrap());
        let mut beyond = TcpStream::connect(address).await.unwrap();
        assert!(is_closed(&mut beyond).await);
        assert_eq!(met.count(Limit::Strangers), 1);
    }

    #[tokio::test]
    async fn one_connection_more_than_may_be_open_is_closed_and_counted() {
        let (address, mut lines, met) = open().await;
        let mut kept = Vec::new();
        for number in 0..CONNECTIONS_MAX {
            kept.push((greeted(address).await, lines.recv().await.unwrap().unwrap()));
            assert_eq!(met.count(Limit::Connections), 0, "at {number}");
        }
        let mut beyond = TcpStream::connect(address).await.unwrap();
        assert!(is_closed(&mut beyond).await);
        assert_eq!(met.count(Limit::Connections), 1);
        kept.pop();
        let _again = greeted(address).await;
        assert!(
            lines.recv().await.unwrap().is_ok(),
            "its place is free again"
        );
    }

    #[tokio::test]
    async fn who_speaks_no_http_2_is_closed_and_counted() {
        use tokio::io::AsyncWriteExt as _;
        let (address, _lines, met) = open().await;
        let mut tcp = TcpStream::connect(address).await.unwrap();
        tcp.write_all(b"GET /metrics HTTP/1.1\r\n\r\n")
            .await
            .unwrap();
        assert!(is_closed(&mut tcp).await);
        assert_eq!(met.count(Limit::Unknown), 1);
    }
}
