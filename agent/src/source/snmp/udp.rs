//! SNMP over UDP by async-snmp: the one place that knows the crate.
//!
//! All devices share one socket. An answer counts only from the address that was asked, under the
//! number of the question; what comes late, twice or from elsewhere is dropped. It keeps no device's
//! state but that of the protocol (engine id, boots, time).

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_snmp::client::ResponseShapePolicy;
use async_snmp::transport::UdpTransport;
use async_snmp::{
    Auth, AuthProtocol, Client, ErrorKind, MasterKeys, PrivProtocol, Retry, UdpHandle, UsmConfig,
    Value, VarBind,
};
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use tokio::sync::OnceCell;

use super::login::{Authentication, Login, Privacy};
use super::oid::Oid;
use super::session::{AskError, Binding, Dial, Said, Session};
use super::{Pace, Target};

/// What an answer may be asked to measure, with the packet's heads.
const MESSAGE_BYTES: usize = 1_472;
/// What may wait in the socket while others are read.
const SOCKET_BYTES: usize = 4 << 20;
/// How long an address may be looked up.
const LOOKUP_MAX: Duration = Duration::from_secs(5);

/// Opens sessions over one socket.
#[derive(Debug)]
pub struct Udp {
    pace: Pace,
    // The socket of each family of addresses, once it is needed.
    sockets: [OnceCell<Socket>; 2],
    // Made of passwords once for each credential: it costs a million bytes of hashing.
    keys: Mutex<HashMap<String, Auth>>,
}

struct Socket(UdpTransport);

impl std::fmt::Debug for Socket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Socket({})", self.0.local_addr())
    }
}

impl Udp {
    /// Makes a dialler that asks at a pace.
    pub fn new(pace: Pace) -> Self {
        Self {
            pace,
            sockets: [OnceCell::new(), OnceCell::new()],
            keys: Mutex::default(),
        }
    }

    async fn socket(&self, target: SocketAddr) -> Result<&UdpTransport, AskError> {
        let [four, six] = &self.sockets;
        let (cell, any) = match target {
            SocketAddr::V4(_) => (four, "0.0.0.0:0"),
            SocketAddr::V6(_) => (six, "[::]:0"),
        };
        let bind = || async {
            UdpTransport::builder()
                .bind(any)
                .max_message_size(MESSAGE_BYTES)
                .recv_buffer_size(SOCKET_BYTES)
                .warn_on_source_mismatch(false)
                .build()
                .await
                .map(Socket)
        };
        let socket = cell.get_or_try_init(bind).await;
        socket
            .map(|socket| &socket.0)
            .map_err(|error| local(&error))
    }

    async fn auth(&self, target: &Target) -> Result<Auth, AskError> {
        if let Some(auth) = self.keys().get(&target.credential) {
            return Ok(auth.clone());
        }
        let auth = auth(&target.login).await?;
        self.keys().insert(target.credential.clone(), auth.clone());
        Ok(auth)
    }

    fn keys(&self) -> MutexGuard<'_, HashMap<String, Auth>> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn local(error: &async_snmp::Error) -> AskError {
    AskError::Local {
        what: format!("{:?}", error.kind()),
    }
}

async fn auth(login: &Arc<Login>) -> Result<Auth, AskError> {
    let login = Arc::clone(login);
    let made = tokio::task::spawn_blocking(move || render(&login)).await;
    made.ok().flatten().ok_or_else(|| AskError::Local {
        what: "the passwords make no keys".to_owned(),
    })
}

fn render(login: &Login) -> Option<Auth> {
    match login {
        Login::Community(community) => Some(Auth::v2c(community.reveal().to_owned())),
        Login::User {
            name,
            authentication,
            authentication_password,
            privacy,
            privacy_password,
        } => {
            let protocol = authentication_protocol(*authentication);
            let password = authentication_password.reveal().as_bytes();
            let keys = MasterKeys::new(protocol, password).ok()?;
            let password = privacy_password.reveal().as_bytes();
            let keys = keys
                .with_privacy(privacy_protocol(*privacy), password)
                .ok()?;
            let user = UsmConfig::new(name.clone()).with_master_keys(keys).ok()?;
            Some(Auth::from(user))
        }
    }
}

pub(crate) fn authentication_protocol(word: Authentication) -> AuthProtocol {
    match word {
        Authentication::Sha1 => AuthProtocol::Sha1,
        Authentication::Sha224 => AuthProtocol::Sha224,
        Authentication::Sha256 => AuthProtocol::Sha256,
        Authentication::Sha384 => AuthProtocol::Sha384,
        Authentication::Sha512 => AuthProtocol::Sha512,
    }
}

pub(crate) fn privacy_protocol(word: Privacy) -> PrivProtocol {
    match word {
        Privacy::Aes128 => PrivProtocol::Aes128,
        Privacy::Aes256 => PrivProtocol::Aes256Blumenthal,
    }
}

impl Dial for Udp {
    fn dial<'a>(&'a self, target: &'a Target) -> BoxFuture<'a, Result<Box<dyn Session>, AskError>> {
        async move {
            let address = resolve(&target.address).await?;
            let auth = self.auth(target).await?;
            let socket = self.socket(address).await?;
            let client = options(Client::builder(address, auth), self.pace)
                .build_with(socket)
                .await
                .map_err(|error| local(&error))?;
            let session: Box<dyn Session> = Box::new(UdpSession(client));
            Ok(session)
        }
        .boxed()
    }
}

fn options(
    builder: async_snmp::client::TargetClientBuilder,
    pace: Pace,
) -> async_snmp::client::TargetClientBuilder {
    let retry = Retry::fixed(pace.retries, Duration::ZERO).unwrap_or_else(|_| Retry::none());
    builder
        .strict_source(true)
        .response_shape_policy(ResponseShapePolicy::Strict)
        .request_timeout(pace.timeout)
        .max_oids_per_request(64)
        .retry(retry)
}

async fn resolve(address: &str) -> Result<SocketAddr, AskError> {
    let local = |what: String| AskError::Local { what };
    let looked_up = tokio::time::timeout(LOOKUP_MAX, tokio::net::lookup_host(address)).await;
    let found = looked_up
        .map_err(|_| local(format!("{address} was looked up for too long")))?
        .map_err(|error| local(error.to_string()))?;
    let mut found = found;
    found
        .next()
        .ok_or_else(|| local(format!("{address} has no address")))
}

struct UdpSession(Client<UdpHandle>);

impl std::fmt::Debug for UdpSession {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "UdpSession({})", self.0.peer_addr())
    }
}

fn names(names: &[Oid]) -> Vec<async_snmp::Oid> {
    names
        .iter()
        .map(|name| async_snmp::Oid::from_slice(name.arcs()))
        .collect()
}

impl Session for UdpSession {
    fn get<'a>(&'a self, asked: &'a [Oid]) -> BoxFuture<'a, Result<Vec<Binding>, AskError>> {
        async move {
            let answer = self.0.get_many(&names(asked)).await;
            answer
                .map(|answer| bindings(answer.varbinds))
                .map_err(|error| wrong(&error))
        }
        .boxed()
    }

    fn get_bulk<'a>(
        &'a self,
        behind: &'a [Oid],
        repetitions: u32,
    ) -> BoxFuture<'a, Result<Vec<Binding>, AskError>> {
        async move {
            let answer = self.0.get_bulk(&names(behind), 0, repetitions).await;
            answer.map(bindings).map_err(|error| wrong(&error))
        }
        .boxed()
    }
}

fn bindings(all: Vec<VarBind>) -> Vec<Binding> {
    all.into_iter()
        .map(|one| (Oid::new(one.oid.arcs()), said(one.value)))
        .collect()
}

fn said(value: Value) -> Said {
    match value {
        Value::Integer(value) => Said::Integer(value),
        Value::Counter32(value) => Said::Counter32(value),
        Value::Counter64(value) => Said::Counter64(value),
        Value::Gauge32(value) | Value::UInteger32(value) => Said::Gauge(value),
        Value::TimeTicks(value) => Said::Ticks(value),
        Value::OctetString(bytes) => Said::Bytes(bytes.to_vec()),
        Value::NoSuchObject | Value::NoSuchInstance | Value::EndOfMibView => Said::Nothing,
        _ => Said::Other,
    }
}

/// Says what an error asks of the poller. The crate's own text is not passed on: it may hold what a
/// device sent.
fn wrong(error: &async_snmp::Error) -> AskError {
    let source = error.exchange_source();
    match source.kind() {
        ErrorKind::Timeout | ErrorKind::ConstructionTimeout => AskError::Silent,
        ErrorKind::Auth | ErrorKind::Report => AskError::Rejected,
        ErrorKind::Snmp => match source {
            async_snmp::Error::Snmp { status, .. } => AskError::Refused {
                status: status.to_string(),
            },
            _ => AskError::Refused {
                status: "unknown".to_owned(),
            },
        },
        ErrorKind::Decode | ErrorKind::MalformedResponse | ErrorKind::ResponseShape => {
            let what = "a packet that cannot be read";
            AskError::Nonsense { what }
        }
        kind => AskError::Local {
            what: format!("{kind:?}"),
        },
    }
}

/// Asks a device once, on a socket of its own, and tells a device that rejects from one that is silent.
///
/// # Errors
/// As a poll; [`AskError::Rejected`] also where packets came back and none of them was an answer.
pub async fn greet(target: &Target, pace: Pace) -> Result<(), AskError> {
    let address = resolve(&target.address).await?;
    let auth = auth(&target.login).await?;
    let client = options(Client::builder(address, auth), pace)
        .connect()
        .await
        .map_err(|error| local(&error))?;
    let name = async_snmp::Oid::from_slice(super::profile::NAME);
    match client.get(&name).await {
        Ok(_) => Ok(()),
        Err(error) => Err(match wrong(&error) {
            AskError::Silent if client.stats().correlated_datagrams > 0 => AskError::Rejected,
            other => other,
        }),
    }
}
