//! Serves what the agent sees of this node and its guests over SNMPv3: VM-MIB (RFC 7666) and a subtree of
//! our own. Off unless the configuration tells where to listen.
//!
//! It is read-only, serves nobody without authentication and encryption, and asks nobody anything: what
//! it tells is what the last looks gave.

mod board;
mod tables;

use std::net::SocketAddr;
use std::ops::Bound;
use std::path::Path;
use std::sync::Arc;

use async_snmp::agent::{Agent, SecurityModel};
use async_snmp::handler::{
    BoxFuture, GetNextResult, GetResult, HandlerResult, MibHandler, RequestContext,
};
use async_snmp::{AuthProtocol, Oid, PrivProtocol, SecurityLevel, VarBind};
use plimsoll_proto::secret::Secret;
use plimsoll_proto::snmp_engine::{self, EngineError};

pub use board::Board;

/// Names of groups and views within the server.
const READERS: &str = "readers";
const ALL: &str = "all";
/// What is served: VM-MIB, our own subtree, and what SNMP itself wants of an engine.
const SUBTREES: [&[u32]; 2] = [tables::VM_MIB, tables::OWN];

/// Where to serve, and whom.
#[derive(Debug, Clone)]
pub struct Publish {
    /// Address and port.
    pub listen: SocketAddr,
    /// The one user; SHA-256 and AES-128.
    pub user: String,
    /// Password for authentication.
    pub authentication_password: Secret,
    /// Password for encryption.
    pub privacy_password: Secret,
}

/// Why nothing is served.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// The engine's state cannot be kept.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The server cannot listen, or was ended.
    #[error("cannot serve SNMP on {listen}; is the address this node's, and the port free?")]
    Serve {
        /// Where it should listen.
        listen: SocketAddr,
        /// What went wrong.
        #[source]
        source: Box<async_snmp::Error>,
    },
}

/// Serves until it is cut off.
///
/// # Errors
/// If it cannot listen, or if the state of its engine cannot be kept.
pub async fn serve(publish: Publish, board: Board, state_dir: &Path) -> Result<(), PublishError> {
    let engine = snmp_engine::open(&state_dir.join("snmp-engine"))?;
    let wrong = |source| PublishError::Serve {
        listen: publish.listen,
        source,
    };
    let user = publish.user.clone();
    let mut builder = Agent::builder()
        .bind(publish.listen.to_string())
        .authoritative_engine(engine)
        .usm_user(user.clone(), |user| {
            user.auth_priv(
                AuthProtocol::Sha256,
                publish.authentication_password.reveal(),
                PrivProtocol::Aes128,
                publish.privacy_password.reveal(),
            )
        })
        .map_err(|_| wrong(Box::new(async_snmp::Error::Config("bad password".into()))))?
        .vacm(|access| {
            access
                .group(user, SecurityModel::Usm, READERS)
                .access(
                    READERS,
                    SecurityModel::Usm,
                    SecurityLevel::AuthPriv,
                    |entry| entry.read_view(ALL),
                )
                .view(ALL, |view| {
                    SUBTREES
                        .iter()
                        .fold(view, |view, arcs| view.include(Oid::from_slice(arcs)))
                })
        });
    for root in SUBTREES {
        let board = board.clone();
        builder = builder.handler(Oid::from_slice(root), Arc::new(Tables { board, root }));
    }
    let agent = builder.build().await.map_err(wrong)?;
    tracing::info!(listen = %agent.local_addr(), "serving VM-MIB over SNMPv3");
    agent.run().await.map_err(wrong)
}

/// Answers for one subtree from the board, on which both stand.
#[derive(Debug)]
struct Tables {
    board: Board,
    root: &'static [u32],
}

impl MibHandler for Tables {
    fn get<'a>(
        &'a self,
        _: &'a RequestContext,
        oid: &'a Oid,
    ) -> BoxFuture<'a, HandlerResult<GetResult>> {
        let rows = self.board.rows();
        let found = rows.get(oid.arcs()).cloned();
        let answer = found.map_or(GetResult::NoSuchInstance, GetResult::Value);
        Box::pin(async move { Ok(answer) })
    }

    fn get_next<'a>(
        &'a self,
        _: &'a RequestContext,
        oid: &'a Oid,
    ) -> BoxFuture<'a, HandlerResult<GetNextResult>> {
        let rows = self.board.rows();
        // Asked from before its subtree, it begins there; it never runs into the other.
        let behind = (Bound::Excluded(oid.arcs().max(self.root)), Bound::Unbounded);
        let next = rows.range::<[u32], _>(behind).next();
        let next = next.filter(|(name, _)| name.starts_with(self.root));
        let answer = next.map_or(GetNextResult::EndOfMibView, |(name, value)| {
            GetNextResult::Value(VarBind::new(Oid::from_slice(name), value.clone()))
        });
        Box::pin(async move { Ok(answer) })
    }
}
