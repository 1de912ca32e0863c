//! Things that happened, once, at an instant.

use crate::id::{DomainId, Incarnation, NodeId};
use crate::time::UnixMillis;
use crate::unit::{Bandwidth, ByteSize, DirtyRate};

/// An event as one node saw it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// The node that saw it.
    pub node: NodeId,
    /// When it was seen.
    pub seen: UnixMillis,
    /// What happened.
    pub kind: EventKind,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EventKind {
    /// A domain changed its state.
    DomainState {
        /// The domain.
        domain: DomainId,
        /// The QEMU process, if there is one.
        incarnation: Option<Incarnation>,
        /// What it came to be.
        state: DomainState,
        /// Libvirt's number of the reason within the event.
        detail: u32,
    },
    /// A migration began.
    MigrationStarted {
        /// The domain.
        domain: DomainId,
        /// The QEMU process on this node.
        incarnation: Incarnation,
        /// On which end this node is.
        role: MigrationRole,
        /// Downtime limit at the start, where libvirt told it.
        downtime_limit_ms: Option<u64>,
        /// Bandwidth cap at the start, where libvirt told one.
        bandwidth_cap: Option<Bandwidth>,
    },
    /// A pass over the memory began on the source.
    MigrationIteration {
        /// The domain.
        domain: DomainId,
        /// The QEMU process on this node.
        incarnation: Incarnation,
        /// What the pass began with.
        iteration: Iteration,
    },
    /// A migration ended, as the source saw it.
    MigrationEnded {
        /// The domain.
        domain: DomainId,
        /// The QEMU process on this node.
        incarnation: Incarnation,
        /// How it ended.
        end: MigrationEnded,
    },
}

/// State of a domain, as its lifecycle events tell it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DomainState {
    /// Defined.
    Defined,
    /// Undefined.
    Undefined,
    /// Started.
    Started,
    /// Suspended.
    Suspended,
    /// Resumed.
    Resumed,
    /// Stopped.
    Stopped,
    /// Shut down by the guest.
    Shutdown,
    /// Suspended by power management of the guest.
    PowerSuspended,
    /// Crashed.
    Crashed,
}

/// On which end of a migration a node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MigrationRole {
    /// The domain leaves.
    Source,
    /// The domain comes.
    Target,
}

/// How memory is carried over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MigrationMode {
    /// Copy while the guest runs, then stop it for the rest.
    Precopy,
    /// Pre-copy that slows the guest until it converges.
    PrecopyAutoConverge,
    /// Switch the guest over, then fetch its memory.
    Postcopy,
    /// Stop the guest, then copy all.
    StopCopy,
}

/// The beginning of a pass over the memory: a free point on the curve of dirty memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Iteration {
    /// Which pass; the first is 1.
    pub number: u32,
    /// Time since the migration began, where it was read.
    pub elapsed_ms: Option<u64>,
    /// Memory left to send, where it was read.
    pub remaining: Option<ByteSize>,
    /// Memory made dirty per second, where it was read.
    pub dirty_rate: Option<DirtyRate>,
}

/// How a migration ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MigrationEnd {
    /// The guest runs on the target.
    Completed,
    /// It was called off or given up; the guest runs on the source.
    Aborted,
    /// It broke, or its end was not seen.
    Failed,
}

/// The outcome of a migration. Absent means libvirt did not tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MigrationEnded {
    /// How it ended.
    pub end: MigrationEnd,
    /// When it began.
    pub started: UnixMillis,
    /// Time from the start to the switch-over and the end, as QEMU counts it.
    pub total_ms: Option<u64>,
    /// Time in which the guest did not run.
    pub downtime_ms: Option<u64>,
    /// Time spent before the first byte.
    pub setup_ms: Option<u64>,
    /// Passes over the memory.
    pub iterations: Option<u32>,
    /// Memory of the guest, zero pages included.
    pub memory_total: Option<ByteSize>,
    /// Bytes of memory that crossed the wire.
    pub memory_processed: Option<ByteSize>,
    /// Bytes of pages that were sent in full.
    pub memory_normal: Option<ByteSize>,
    /// Pages that were all zero.
    pub zero_page_count: Option<u64>,
    /// Throughput at the end.
    pub throughput: Option<Bandwidth>,
}
