//! Word of what is about to go wrong, sent as SNMPv3 traps: a guest whose migration would not converge, a
//! node without room. Off unless the configuration says where they go.
//!
//! The aggregator sends them and not the agents, since it is the one that estimates. Each is sent once
//! when it has become so, not again while it stays so; who must not miss one asks the estimate service.

mod watch;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_snmp::v3::AuthoritativeEngine;
use async_snmp::{Auth, AuthProtocol, Client, Oid, PrivProtocol, UsmConfig, Value, VarBind};
use plimsoll_model::{Bandwidth, Clock, DomainId, Monotonic, NodeId};
use plimsoll_proto::secret::Secret;
use plimsoll_proto::snmp_engine::{self, EngineError};
use serde::{Deserialize, Serialize};

use crate::config::ConfigError;
use crate::known::Known;
use watch::Watch;

/// plimsollMIB: packaging/mibs/PLIMSOLL-MIB.txt draws it.
const ROOT: [u32; 10] = [1, 3, 6, 1, 4, 1, 8072, 9999, 9999, 7077];
const RECEIVERS_MAX: usize = 16;
/// The shortest password of a user, which SNMPv3 itself sets.
const PASSWORD_BYTES_MIN: usize = 8;
/// Bytes of a text in a trap.
const TEXT_BYTES_MAX: usize = 255;

/// [traps] as it is written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Traps {
    /// Addresses and ports of the receivers.
    pub to: Vec<SocketAddr>,
    /// The user of SNMPv3; SHA-256 and AES-128.
    pub user: String,
    /// File with its password for authentication.
    pub authentication_password_file: PathBuf,
    /// File with its password for encryption.
    pub privacy_password_file: PathBuf,
    /// Time between two looks.
    #[serde(default = "usual_interval", with = "humantime_serde")]
    pub every: Duration,
}

fn usual_interval() -> Duration {
    Duration::from_secs(60)
}

impl Traps {
    /// Checks what a type cannot say, and reads the passwords.
    ///
    /// # Errors
    /// If a value lies outside what is allowed, or a password cannot be read by its owner alone.
    pub fn auth(&self) -> Result<Auth, ConfigError> {
        let wrong = |key, problem: String| Err(ConfigError::value(key, problem));
        if self.to.is_empty() || self.to.len() > RECEIVERS_MAX {
            return wrong(
                "traps.to",
                format!("must name 1 to {RECEIVERS_MAX} receivers"),
            );
        }
        if self.user.is_empty() || self.user.len() > 32 {
            return wrong("traps.user", "must have 1 to 32 bytes".to_owned());
        }
        if self.every < Duration::from_secs(1) {
            return wrong("traps.every", "must be 1s or more".to_owned());
        }
        let read = |key, path: &Path| {
            Secret::read(path, PASSWORD_BYTES_MIN)
                .map_err(|error| ConfigError::value(key, error.to_string()))
        };
        let authentication = read(
            "traps.authentication_password_file",
            &self.authentication_password_file,
        )?;
        let privacy = read("traps.privacy_password_file", &self.privacy_password_file)?;
        let user = UsmConfig::new(self.user.clone()).auth_priv(
            AuthProtocol::Sha256,
            authentication.reveal(),
            PrivProtocol::Aes128,
            privacy.reveal(),
        );
        match user {
            Ok(user) => Ok(Auth::from(user)),
            Err(_) => wrong("traps.user", "its passwords make no keys".to_owned()),
        }
    }
}

/// Something that has become so.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Warning {
    /// A live migration of a guest, begun now, would not end.
    WillNotConverge {
        /// Host name and id of the node it runs on.
        on: (String, NodeId),
        /// Name and id of the guest.
        guest: (String, DomainId),
        /// What was found, in words.
        why: String,
    },
    /// A node has no room for another guest.
    HeadroomLost {
        /// Host name and id of the node.
        on: (String, NodeId),
        /// What was found, in words.
        why: String,
    },
}

impl Warning {
    fn oid(&self) -> Oid {
        let number = match self {
            Self::WillNotConverge { .. } => 1,
            Self::HeadroomLost { .. } => 2,
        };
        Oid::from_slice(&ROOT).child(0).child(number)
    }

    fn bindings(&self) -> Vec<VarBind> {
        let text = |number: u32, text: &str| {
            let mut text = text.to_owned();
            while text.len() > TEXT_BYTES_MAX {
                text.pop();
            }
            let oid = [1, 4, number, 0]
                .iter()
                .fold(Oid::from_slice(&ROOT), |oid, arc| oid.child(*arc));
            VarBind::new(oid, Value::from(text.as_str()))
        };
        let (on, guest, why) = match self {
            Self::WillNotConverge { on, guest, why } => (on, Some(guest), why),
            Self::HeadroomLost { on, why } => (on, None, why),
        };
        let mut all = vec![text(1, &on.0), text(2, &on.1.to_string())];
        if let Some((name, id)) = guest {
            all.extend([text(3, name), text(4, &id.to_string())]);
        }
        all.push(text(5, why));
        all
    }
}

/// Sends warnings to all receivers.
#[derive(Debug)]
pub struct Sender {
    auth: Auth,
    to: Vec<SocketAddr>,
    engine: AuthoritativeEngine,
    clock: Arc<dyn Clock>,
    began: Monotonic,
}

impl Sender {
    /// Makes a sender whose engine's state is kept in a directory.
    ///
    /// # Errors
    /// If the state cannot be kept.
    pub fn new(
        auth: Auth,
        to: Vec<SocketAddr>,
        dir: &Path,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, EngineError> {
        Ok(Self {
            auth,
            to,
            engine: snmp_engine::open(&dir.join("snmp-engine"))?,
            began: clock.monotonic(),
            clock,
        })
    }

    /// The engine's id in hexadecimal digits, which receivers must be told with the user.
    pub fn engine_id(&self) -> String {
        let bytes = self.engine.engine_id().iter();
        bytes.map(|byte| format!("{byte:02x}")).collect()
    }

    /// Sends a warning to each receiver. No receiver says whether it came.
    pub async fn send(&self, warning: &Warning) {
        let ticks = self.clock.monotonic().since(self.began).as_millis() / 10;
        let ticks = u32::try_from(ticks % (1 << 32)).unwrap_or(0);
        for receiver in &self.to {
            let client = Client::builder(*receiver, self.auth.clone())
                .local_authoritative_engine(self.engine.clone())
                .connect();
            let sent = match client.await {
                Ok(client) => {
                    client
                        .send_trap(&warning.oid(), ticks, warning.bindings())
                        .await
                }
                Err(error) => Err(error),
            };
            match sent {
                Ok(()) => tracing::info!(%receiver, ?warning, "trap sent"),
                // The crate's own text is left out: it may hold what came over the wire.
                Err(error) => {
                    tracing::warn!(%receiver, ?warning, kind = ?error.kind(), "a trap was not sent");
                }
            }
        }
    }
}

/// Looks and sends until it is cut off.
pub async fn run(sender: Sender, every: Duration, known: Known, assumed: Bandwidth) {
    tracing::info!(engine_id = sender.engine_id(), "sending traps");
    let mut watch = Watch::new(known, assumed);
    let mut ticks = tokio::time::interval(every);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let looked = tokio::task::spawn_blocking(move || {
            let warnings = watch.look();
            (watch, warnings)
        });
        let Ok((back, warnings)) = looked.await else {
            tracing::error!("the look for warnings failed; no more traps are sent");
            return;
        };
        watch = back;
        for warning in &warnings {
            sender.send(warning).await;
        }
    }
}
