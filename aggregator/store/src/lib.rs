//! What is kept: log, head, sealed blocks, events, index, recovery.

mod check;
mod error;
mod record;
mod store;

pub use check::{Report, check, rebuild_index};
pub use error::{AppendError, Hole, MaintainError, OpenError, QueryError, RecoveryReport, Torn};
pub use record::{
    Appended, Document, DomainSeen, EventFilter, Maintained, NodeSeen, Rate, Record, SeriesFilter,
    Statistics, StoreOptions,
};
pub use store::Store;
