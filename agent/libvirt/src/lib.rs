//! Async client of libvirt's RPC protocol over its unix socket, without the C library.
//!
//! One [`Connection`] carries many calls at once: each has its own deadline, and a call that is
//! not answered in time is abandoned alone while the others go on. The daemon goes on working on
//! an abandoned call, so it keeps its place in the bound of calls in flight until its late reply
//! comes; [`Connection::abandoned_calls`] tells how many there are.
//!
//! ```no_run
//! # async fn example() -> Result<(), plimsoll_libvirt::CallError> {
//! use plimsoll_libvirt::{Connection, ListFlags, OpenOptions, StatsFlags, StatsGroups};
//! use std::{path::Path, time::Duration};
//!
//! let socket = Path::new("/run/libvirt/libvirt-sock-ro");
//! let connection = Connection::open(socket, OpenOptions::default()).await?;
//! let deadline = Duration::from_secs(3);
//! for domain in connection.list_all_domains(ListFlags::ACTIVE, deadline).await? {
//!     let groups = StatsGroups::STATE | StatsGroups::BALLOON;
//!     let stats = connection.domain_stats(&domain, groups, StatsFlags::NOWAIT, deadline).await?;
//!     if let Some(kibibytes) = stats.u64("balloon.current") {
//!         let _ = (domain.name.as_str(), kibibytes);
//!     }
//! }
//! # Ok(())
//! # }
//! ```
//!
//! What it does not do: it never retries or reconnects on its own, speaks no TLS, SASL or SSH,
//! starts no daemon, caches nothing, and offers no call that changes a domain, with two
//! exceptions that a read-only connection refuses: starting a dirty-rate measurement and the QEMU
//! monitor.

pub mod calls;
mod connection;
mod domain;
mod error;
mod events;
mod flags;
pub mod job;
mod keepalive;
pub mod lifecycle;
mod options;
mod packet;
mod procedure;
mod socket;
pub mod state;
mod stream;
mod table;
mod typed;
pub mod xdr;

pub use connection::Connection;
pub use domain::{DomainRef, DomainState};
pub use error::{AuthType, CallError, DisconnectReason, LibvirtError, code};
pub use events::{DomainEvent, DomainEventKind, EventId, Events};
pub use flags::{
    DirtyRateMode, JobStatsFlags, ListFlags, MonitorFlags, StatsFlags, StatsGroups, XmlFlags,
};
pub use options::OpenOptions;
pub use packet::MESSAGE_BYTES_MAX;
pub use procedure::Procedure;
pub use socket::{Candidate, DEFAULT_RUN_DIR, socket_candidates};
pub use typed::{TypedParams, TypedValue};
