//! What is kept: a checksummed log on disk, and everything it holds arranged in memory for questions.
//!
//! No async, no network; it knows neither the wire nor a clock. A record is acknowledged only after
//! fdatasync, and the key by which a repeated one is known lies in the same frame as its data.
//!
//! This is the first form of the store: all samples within the retention are in memory and the log is
//! never shortened. Sealed blocks and the sled index over them are not there yet.

mod check;
mod codec;
mod error;
mod head;
mod log;
mod record;
mod store;

pub use check::{Report, check};
pub use error::{AppendError, Hole, OpenError, RecoveryReport, Torn};
pub use record::{
    Appended, Document, EventFilter, NodeSeen, Rate, Record, SeriesFilter, StoreOptions,
};
pub use store::Store;
