//! Errors, one variant for each decision of the caller.
//!
//! It does not decide whether to try again: nothing in this crate does.

use crate::procedure::Procedure;
use crate::xdr::XdrError;
use std::path::PathBuf;
use std::time::Duration;

/// Numbers of libvirt's errors that callers decide by.
pub mod code {
    /// An internal error, often a failed monitor command.
    pub const INTERNAL_ERROR: i32 = 1;
    /// The driver does not know the call.
    pub const NO_SUPPORT: i32 = 3;
    /// The operation failed.
    pub const OPERATION_FAILED: i32 = 9;
    /// The operation is forbidden, as on a read-only connection.
    pub const OPERATION_DENIED: i32 = 29;
    /// The RPC layer refused the message.
    pub const RPC: i32 = 39;
    /// There is no such domain.
    pub const NO_DOMAIN: i32 = 42;
    /// Authentication failed.
    pub const AUTH_FAILED: i32 = 45;
    /// The domain is not in a state that allows the operation.
    pub const OPERATION_INVALID: i32 = 55;
    /// The daemon gave up waiting, as for another job on the domain.
    pub const OPERATION_TIMEOUT: i32 = 68;
    /// The argument is not supported.
    pub const ARGUMENT_UNSUPPORTED: i32 = 74;
    /// The operation is not supported.
    pub const OPERATION_UNSUPPORTED: i32 = 84;
    /// Access is denied by the daemon's access control.
    pub const ACCESS_DENIED: i32 = 88;
}

/// An error that the daemon itself reported.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message} (libvirt error {code}, domain {domain})")]
pub struct LibvirtError {
    /// What went wrong; [`code`] names those that callers decide by.
    pub code: i32,
    /// The part of libvirt it came from.
    pub domain: i32,
    /// The daemon's own words; may hold strings a guest's owner chose.
    pub message: String,
}

/// A way of authentication that a daemon may demand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuthType {
    /// None.
    None,
    /// SASL, by user and password or ticket.
    Sasl,
    /// Polkit, by the identity of the calling process.
    Polkit,
    /// One this client has no name for.
    Other(i32),
}

impl AuthType {
    pub(crate) fn from_wire(value: i32) -> AuthType {
        match value {
            0 => AuthType::None,
            1 => AuthType::Sasl,
            2 => AuthType::Polkit,
            other => AuthType::Other(other),
        }
    }
}

/// Why a connection ended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DisconnectReason {
    /// The daemon closed the socket.
    #[error("the daemon closed the socket")]
    ClosedByDaemon,
    /// This side closed the connection.
    #[error("this side closed the connection")]
    ClosedHere,
    /// The socket failed.
    #[error("the socket failed: {kind}")]
    Socket {
        /// What the system said.
        kind: std::io::ErrorKind,
    },
    /// The daemon gave no sign of life over all keepalive pings.
    #[error("the daemon gave no sign of life")]
    KeepaliveTimeout,
    /// The daemon sent what the protocol does not allow.
    #[error("the daemon broke the protocol: {what}")]
    Protocol {
        /// What was not allowed.
        what: String,
    },
}

/// Why a connection could not be opened or a call has no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CallError {
    /// There is no socket at the path.
    #[error("no libvirt socket at {path}: is libvirt installed, and its socket unit enabled?")]
    SocketMissing {
        /// The path asked for.
        path: PathBuf,
    },
    /// The socket is there but nobody listens.
    #[error("nobody listens on libvirt socket {path}: start the daemon or its socket unit")]
    NotListening {
        /// The path asked for.
        path: PathBuf,
    },
    /// The system refused to let this user connect.
    #[error("no permission for libvirt socket {path}: use the read-only socket or join its group")]
    PermissionDenied {
        /// The path asked for.
        path: PathBuf,
    },
    /// Connecting failed in another way.
    #[error("cannot connect to libvirt socket {path}")]
    Connect {
        /// The path asked for.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The daemon wants polkit to confirm the caller, which needs a rule for this user.
    #[error(
        "libvirt asks polkit about this user: use the read-only socket, or set auth_unix_rw = \
         \"none\" in its configuration and guard the socket by its group"
    )]
    PolkitRequired,
    /// The daemon demands another authentication that this client does not speak.
    #[error("libvirt demands {auth:?} authentication, which this client does not speak")]
    AuthRequired {
        /// What is demanded.
        auth: AuthType,
    },
    /// The call was sent and not answered in time; the daemon still works on it.
    #[error("libvirt did not answer {procedure} within {after:?}")]
    TimedOut {
        /// The call.
        procedure: Procedure,
        /// The caller's deadline.
        after: Duration,
    },
    /// The call was never sent: all places in flight stayed taken until the deadline.
    #[error("{outstanding} calls are still with libvirt, so {procedure} was not sent")]
    Busy {
        /// The call.
        procedure: Procedure,
        /// Calls the daemon has not answered.
        outstanding: usize,
    },
    /// The connection has ended; open a new one.
    #[error("the connection to libvirt has ended: {reason}")]
    Disconnected {
        /// Why it ended.
        reason: DisconnectReason,
    },
    /// The daemon answered with an error.
    #[error("libvirt refused {procedure}")]
    Libvirt {
        /// The call.
        procedure: Procedure,
        /// The daemon's error.
        #[source]
        source: LibvirtError,
    },
    /// The answer is not what the protocol says it is.
    #[error("libvirt's answer to {procedure} is malformed")]
    Protocol {
        /// The call.
        procedure: Procedure,
        /// What is wrong with it.
        #[source]
        source: XdrError,
    },
    /// The arguments cannot be sent.
    #[error("the arguments of {procedure} cannot be sent")]
    Argument {
        /// The call.
        procedure: Procedure,
        /// What is wrong with them.
        #[source]
        source: XdrError,
    },
}

impl CallError {
    /// The daemon's own error, when this is one.
    #[must_use]
    pub fn libvirt(&self) -> Option<&LibvirtError> {
        if let CallError::Libvirt { source, .. } = self {
            Some(source)
        } else {
            None
        }
    }

    /// Whether the domain asked about does not exist (any more).
    #[must_use]
    pub fn is_no_domain(&self) -> bool {
        self.libvirt()
            .is_some_and(|error| error.code == code::NO_DOMAIN)
    }

    /// Whether the connection has ended, so that no further call on it can succeed.
    #[must_use]
    pub fn is_disconnected(&self) -> bool {
        matches!(self, CallError::Disconnected { .. })
    }

    /// Whether libvirt refuses the operation to this connection, as on a read-only one.
    #[must_use]
    pub fn is_denied(&self) -> bool {
        self.libvirt().is_some_and(|error| {
            error.code == code::OPERATION_DENIED || error.code == code::ACCESS_DENIED
        })
    }
}
