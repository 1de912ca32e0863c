//! One connection: a reader task, a writer task, and calls that share them.
//!
//! It never reconnects and never sends a call twice; the caller knows better when to. It does not
//! know what the calls mean: that is [`crate::calls`].

use crate::domain::DomainRef;
use crate::error::{AuthType, CallError, DisconnectReason, LibvirtError};
use crate::events::{DomainEvent, EventHub, EventId, Events};
use crate::options::OpenOptions;
use crate::packet::{Kind, Packet, Status, render_keepalive};
use crate::procedure::{
    AUTH_LIST, CLOSE, DOMAIN_EVENT_REGISTER, FEATURE_KEEPALIVE, KEEPALIVE_PING, KEEPALIVE_PONG,
    KEEPALIVE_PROGRAM, OPEN, Procedure, REMOTE_PROGRAM, SUPPORTS_FEATURE,
};
use crate::stream::{Heard, read, write};
use crate::table::{Refusal, Table};
use crate::xdr::{Decoder, Encoder, XdrError};
use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixStream;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinHandle;

/// Most ways of authentication a daemon lists.
const AUTH_TYPES_MAX: usize = 20;
/// Bytes of one way of authentication.
const AUTH_TYPE_BYTES: usize = 4;
/// The flag that opens for reading only.
const OPEN_READ_ONLY: u32 = 1;
/// Room in the outbox that is kept for signs of life.
const OUTBOX_ROOM_FOR_KEEPALIVE: usize = 4;

/// What callers and tasks of a connection share.
#[derive(Debug)]
pub(crate) struct Shared {
    table: Table,
    places: Arc<Semaphore>,
    outbox: mpsc::Sender<Vec<u8>>,
    ended: watch::Sender<bool>,
    heard: Arc<AtomicU64>,
    events: EventHub,
    keepalive: AtomicBool,
    options: OpenOptions,
}

impl Shared {
    /// A number that changes whenever bytes come.
    pub(crate) fn heard(&self) -> u64 {
        self.heard.load(Ordering::Relaxed)
    }

    /// Sends a sign of life unless the outbox is full, when the socket is stuck anyway.
    pub(crate) fn send_if_room(&self, frame: Vec<u8>) {
        let _full_or_ended = self.outbox.try_send(frame);
    }

    /// Ends the connection for everybody.
    pub(crate) fn end(&self, reason: DisconnectReason) {
        self.table.end(reason);
        self.places.close();
        self.events.end();
        self.ended.send_replace(true);
    }

    fn disconnected(&self) -> CallError {
        let reason = self.table.ended().unwrap_or(DisconnectReason::ClosedHere);
        CallError::Disconnected { reason }
    }

    pub(crate) fn watch_ended(&self) -> watch::Receiver<bool> {
        self.ended.subscribe()
    }

    pub(crate) fn receive(&self, packet: Packet) -> Result<(), String> {
        match (packet.program, packet.kind) {
            (KEEPALIVE_PROGRAM, Kind::Message) => {
                if packet.number == KEEPALIVE_PING
                    && let Ok(frame) = render_keepalive(KEEPALIVE_PONG)
                {
                    self.send_if_room(frame);
                }
                Ok(())
            }
            (REMOTE_PROGRAM, Kind::Message) => {
                let event = DomainEvent::parse(packet.number, &packet.payload)
                    .map_err(|error| format!("a malformed event: {error}"))?;
                if let Some(event) = event {
                    self.events.deliver(event);
                }
                Ok(())
            }
            // A message of a program this client never asked for carries nothing it waits for.
            (_, Kind::Message) => Ok(()),
            (_, Kind::Reply) => self.table.answer(packet),
        }
    }
}

/// Ends the tasks when the last handle of a connection is dropped.
#[derive(Debug)]
struct Tasks {
    shared: Arc<Shared>,
    handles: Vec<JoinHandle<()>>,
    keepalive: std::sync::Mutex<Option<JoinHandle<()>>>,
}

impl Drop for Tasks {
    fn drop(&mut self) {
        self.shared.end(DisconnectReason::ClosedHere);
        for handle in &self.handles {
            handle.abort();
        }
        let keepalive = self.keepalive.get_mut();
        if let Some(handle) = keepalive.unwrap_or_else(std::sync::PoisonError::into_inner) {
            handle.abort();
        }
    }
}

/// A connection to a libvirt daemon; clones share it, and the last one dropped closes it.
#[derive(Debug, Clone)]
pub struct Connection {
    shared: Arc<Shared>,
    tasks: Arc<Tasks>,
}

impl Connection {
    /// Connects to a socket and opens a driver, within the deadline of the options.
    pub async fn open(socket: &Path, options: OpenOptions) -> Result<Connection, CallError> {
        let after = options.deadline;
        let opening = async {
            let stream = UnixStream::connect(socket)
                .await
                .map_err(|e| refused(socket, e))?;
            Connection::open_stream(stream, options).await
        };
        let timed_out = Err(CallError::TimedOut {
            procedure: OPEN,
            after,
        });
        tokio::time::timeout(after, opening)
            .await
            .unwrap_or(timed_out)
    }

    /// Opens a driver over a stream that somebody else connected, within the deadline of the
    /// options.
    pub async fn open_stream<S>(stream: S, options: OpenOptions) -> Result<Connection, CallError>
    where
        S: AsyncRead + AsyncWrite + Send + 'static,
    {
        let after = options.deadline;
        let connection = Connection::start(stream, options);
        let timed_out = Err(CallError::TimedOut {
            procedure: OPEN,
            after,
        });
        tokio::time::timeout(after, connection.handshake())
            .await
            .unwrap_or(timed_out)?;
        Ok(connection)
    }

    fn start<S>(stream: S, options: OpenOptions) -> Connection
    where
        S: AsyncRead + AsyncWrite + Send + 'static,
    {
        let places = options
            .calls_in_flight_max
            .clamp(1, Semaphore::MAX_PERMITS / 2);
        let (outbox, inbox) = mpsc::channel(places + OUTBOX_ROOM_FOR_KEEPALIVE);
        let heard = Arc::new(AtomicU64::new(0));
        let shared = Arc::new(Shared {
            table: Table::default(),
            places: Arc::new(Semaphore::new(places)),
            outbox,
            ended: watch::Sender::new(false),
            heard: Arc::clone(&heard),
            events: EventHub::default(),
            keepalive: AtomicBool::new(false),
            options,
        });
        let (reading, writing) = tokio::io::split(stream);
        let reading = Heard {
            stream: reading,
            heard,
        };
        let handles = vec![
            tokio::spawn(read(Arc::clone(&shared), reading)),
            tokio::spawn(write(Arc::clone(&shared), writing, inbox)),
        ];
        let keepalive = std::sync::Mutex::new(None);
        let tasks = Arc::new(Tasks {
            shared: Arc::clone(&shared),
            handles,
            keepalive,
        });
        Connection { shared, tasks }
    }

    async fn handshake(&self) -> Result<(), CallError> {
        let deadline = self.shared.options.deadline;
        self.authenticate(deadline).await?;
        // Asked before opening, as libvirt's own client does: it also starts the daemon's pings.
        if self.supports(FEATURE_KEEPALIVE, deadline).await? {
            self.start_keepalive();
        }
        let options = &self.shared.options;
        let args = encode(OPEN, |encoder| {
            encoder.optional_string(options.uri.as_deref())?;
            encoder.u32(if options.read_only { OPEN_READ_ONLY } else { 0 });
            Ok(())
        })?;
        let reply = self.call(OPEN, &args, deadline).await?;
        decode(OPEN, &reply, |_| Ok(()))
    }

    async fn authenticate(&self, deadline: Duration) -> Result<(), CallError> {
        let reply = self.call(AUTH_LIST, &[], deadline).await?;
        let offered = decode(AUTH_LIST, &reply, |decoder| {
            let count =
                decoder.length("list of authentications", AUTH_TYPES_MAX, AUTH_TYPE_BYTES)?;
            (0..count)
                .map(|_| decoder.i32().map(AuthType::from_wire))
                .collect::<Result<Vec<_>, _>>()
        })?;
        match offered.first() {
            None | Some(AuthType::None) => Ok(()),
            Some(_) if offered.contains(&AuthType::None) => Ok(()),
            Some(AuthType::Polkit) => Err(CallError::PolkitRequired),
            Some(auth) => Err(CallError::AuthRequired { auth: *auth }),
        }
    }

    async fn supports(&self, feature: i32, deadline: Duration) -> Result<bool, CallError> {
        let args = encode(SUPPORTS_FEATURE, |encoder| {
            encoder.i32(feature);
            Ok(())
        })?;
        let reply = self.call(SUPPORTS_FEATURE, &args, deadline).await?;
        decode(SUPPORTS_FEATURE, &reply, |decoder| Ok(decoder.i32()? != 0))
    }

    fn start_keepalive(&self) {
        let interval = self.shared.options.keepalive_interval;
        if interval.is_zero() {
            return;
        }
        self.shared.keepalive.store(true, Ordering::Relaxed);
        let count = self.shared.options.keepalive_count;
        let watching = crate::keepalive::watch(Arc::clone(&self.shared), interval, count);
        let handle = tokio::spawn(watching);
        let slot = self.tasks.keepalive.lock();
        *slot.unwrap_or_else(std::sync::PoisonError::into_inner) = Some(handle);
    }

    /// Makes any call by its encoded arguments and gives its encoded answer.
    ///
    /// The deadline holds for waiting in line and for the answer together. Dropping the future
    /// abandons the call just as its deadline does.
    pub async fn call(
        &self,
        procedure: Procedure,
        args: &[u8],
        deadline: Duration,
    ) -> Result<Vec<u8>, CallError> {
        let mut sent = false;
        let exchange = self.exchange(procedure, args, &mut sent);
        match tokio::time::timeout(deadline, exchange).await {
            Ok(outcome) => outcome,
            Err(_) if sent => Err(CallError::TimedOut {
                procedure,
                after: deadline,
            }),
            Err(_) => Err(CallError::Busy {
                procedure,
                outstanding: self.outstanding_calls(),
            }),
        }
    }

    async fn exchange(
        &self,
        procedure: Procedure,
        args: &[u8],
        sent: &mut bool,
    ) -> Result<Vec<u8>, CallError> {
        let shared = &self.shared;
        let place = Arc::clone(&shared.places).acquire_owned().await;
        let place = place.map_err(|_| shared.disconnected())?;
        let room = shared
            .outbox
            .reserve()
            .await
            .map_err(|_| shared.disconnected())?;
        // From here to the sending nothing waits: a call is in the table exactly if it is sent.
        let entered = shared.table.enter(procedure, args, place);
        let (frame, reply) = entered.map_err(|refusal| match refusal {
            Refusal::Ended(reason) => CallError::Disconnected { reason },
            Refusal::Argument(source) => CallError::Argument { procedure, source },
        })?;
        room.send(frame);
        *sent = true;
        let packet = reply.await.map_err(|_| shared.disconnected())?;
        match packet.status {
            Status::Ok => Ok(packet.payload),
            Status::Error => Err(parse_error(procedure, &packet.payload)),
        }
    }

    /// Asks for events of all domains and gives the end where they come.
    ///
    /// A connection has one listener: a newer one takes the place of the older, whose events end.
    /// The deadline holds for each kind.
    pub async fn subscribe(
        &self,
        kinds: &[EventId],
        deadline: Duration,
    ) -> Result<Events, CallError> {
        let events = self
            .shared
            .events
            .listen(self.shared.options.event_capacity);
        for &kind in kinds {
            if self.shared.events.is_registered(kind) {
                continue;
            }
            let args = encode(DOMAIN_EVENT_REGISTER, |encoder| {
                encoder.i32(kind.to_wire());
                encoder.u32(0);
                Ok(())
            })?;
            let reply = self.call(DOMAIN_EVENT_REGISTER, &args, deadline).await?;
            decode(DOMAIN_EVENT_REGISTER, &reply, Decoder::i32)?;
            self.shared.events.set_registered(kind);
        }
        Ok(events)
    }

    /// Calls the daemon has not answered, abandoned ones included.
    #[must_use]
    pub fn outstanding_calls(&self) -> usize {
        self.shared.table.outstanding()
    }

    /// Calls that were given up and that the daemon still works on.
    #[must_use]
    pub fn abandoned_calls(&self) -> usize {
        self.shared.table.abandoned()
    }

    /// Replies discarded because their calls had been given up.
    #[must_use]
    pub fn late_replies(&self) -> u64 {
        self.shared.table.late_replies()
    }

    /// Whether this side pings the daemon.
    #[must_use]
    pub fn keeps_alive(&self) -> bool {
        self.shared.keepalive.load(Ordering::Relaxed)
    }

    /// Why the connection has ended, when it has.
    #[must_use]
    pub fn ended(&self) -> Option<DisconnectReason> {
        self.shared.table.ended()
    }

    /// Waits for the end of the connection.
    pub async fn wait_ended(&self) -> DisconnectReason {
        let mut ended = self.shared.ended.subscribe();
        // The sender lives as long as this handle, so waiting cannot fail.
        let _ended = ended.wait_for(|ended| *ended).await;
        self.ended().unwrap_or(DisconnectReason::ClosedHere)
    }

    /// Tells the daemon that this client leaves, and ends the connection for all its clones.
    pub async fn close(self, deadline: Duration) -> Result<(), CallError> {
        let outcome = self.call(CLOSE, &[], deadline).await;
        self.shared.end(DisconnectReason::ClosedHere);
        outcome.map(|_| ())
    }
}

/// Encodes arguments.
pub(crate) fn encode(
    procedure: Procedure,
    write: impl FnOnce(&mut Encoder) -> Result<(), XdrError>,
) -> Result<Vec<u8>, CallError> {
    let mut encoder = Encoder::new();
    write(&mut encoder).map_err(|source| CallError::Argument { procedure, source })?;
    Ok(encoder.into_bytes())
}

/// Decodes an answer, the whole of it.
pub(crate) fn decode<'a, T>(
    procedure: Procedure,
    reply: &'a [u8],
    read: impl FnOnce(&mut Decoder<'a>) -> Result<T, XdrError>,
) -> Result<T, CallError> {
    let mut decoder = Decoder::new(reply);
    let value = read(&mut decoder).map_err(|source| CallError::Protocol { procedure, source })?;
    decoder
        .finish()
        .map_err(|source| CallError::Protocol { procedure, source })?;
    Ok(value)
}

fn parse_error(procedure: Procedure, payload: &[u8]) -> CallError {
    let parsed = decode(procedure, payload, |decoder| {
        let code = decoder.i32()?;
        let domain = decoder.i32()?;
        let message = decoder.optional_string()?.unwrap_or_default();
        let _level = decoder.i32()?;
        if decoder.present()? {
            DomainRef::decode(decoder)?;
        }
        for _ in 0..3 {
            decoder.optional_string()?;
        }
        let _numbers = (decoder.i32()?, decoder.i32()?);
        if decoder.present()? {
            let _network = (decoder.string()?, decoder.opaque::<16>()?);
        }
        Ok(LibvirtError {
            code,
            domain,
            message,
        })
    });
    match parsed {
        Ok(source) => CallError::Libvirt { procedure, source },
        Err(error) => error,
    }
}

fn refused(socket: &Path, source: std::io::Error) -> CallError {
    let path = socket.to_owned();
    match source.kind() {
        ErrorKind::NotFound => CallError::SocketMissing { path },
        ErrorKind::ConnectionRefused => CallError::NotListening { path },
        ErrorKind::PermissionDenied => CallError::PermissionDenied { path },
        _ => CallError::Connect { path, source },
    }
}
