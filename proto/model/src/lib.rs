//! The words of Plimsoll: ids, units, time, the metric catalogue, series, batches, facts and events.
//!
//! Every other crate speaks these words. This one does no input or output (the system clock is the
//! one thing it reads, behind [`Clock`]), knows no wire format and keeps nothing.

pub mod batch;
pub mod event;
pub mod fact;
pub mod id;
pub mod metric;
pub mod series;
pub mod text;
pub mod time;
pub mod unit;

pub use batch::{Batch, Columns, GapReason, Row, Rows, SampleGap, Sweep};
pub use event::{
    DomainState, Event, EventKind, Iteration, MigrationEnd, MigrationEnded, MigrationMode,
    MigrationRole,
};
pub use fact::{
    Accelerator, DeviceFacts, DiskFacts, DomainFacts, Fact, FileSystemFacts, HardwareFacts,
    InterfaceFacts, MemoryFacts, NetworkCardFacts, NodeFacts, OvercommitFacts, PinningFacts,
    PolledFacts,
};
pub use id::{BootId, DeviceId, DomainId, IdError, Incarnation, NodeId, SessionId};
pub use metric::{Kind, Metric, Parted, Priority, Unit};
pub use series::{Part, PartError, Reading, SeriesKey, Subject};
pub use time::{Clock, Monotonic, SystemClock, UnixMillis, Window};
pub use unit::{Bandwidth, ByteSize, CpuTime, DirtyRate, Ratio};
