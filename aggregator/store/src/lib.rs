//! What is kept: a checksummed log, sealed blocks of columns that take its place, and what of it is in
//! memory for questions.
//!
//! No async, no network; it knows neither the wire nor a clock. A record is acknowledged only after
//! fdatasync, and the key by which a repeated one is known lies in the same frame as its data.
//!
//! Truth is `log/`, `blocks/`, `events/` and `MANIFEST`; `rollup/` outlives the samples it was made of.
//! `index/` is sled, whose flush is no fsync: it holds only what can be made anew from the others, and is made
//! anew whenever it does not match them.

mod block;
mod check;
mod codec;
mod column;
mod disk;
mod error;
mod examined;
mod files;
mod footer;
mod frame;
mod handles;
mod head;
mod held;
mod index;
mod inventory;
mod keeper;
mod kept;
mod latest;
mod log;
mod manifest;
mod query;
mod range;
mod record;
mod rollup;
mod rows;
mod sealed;
mod sessions;
mod space;
mod steps;
mod store;
mod table;
mod tiers;
mod upkeep;

pub use check::{Report, check, dump, rebuild_index};
pub use error::{AppendError, Hole, OpenError, RecoveryReport, Torn, UpkeepError};
pub use examined::{Examined, FileKind, examine, examine_checksums, examine_payload};
pub use inventory::Told;
pub use range::Range;
pub use record::{
    Appended, Document, EventFilter, Floor, Keep, NodeSeen, Rate, Record, SeriesFilter,
    StoreOptions, Upkeep,
};
pub use rollup::{GAP, Tier};
pub use space::{RealSpace, Room, Space};
pub use steps::{Function, STEPS_MAX, Step, Steps, StepsError};
pub use store::Store;
pub use table::Table;
pub use tiers::{Answer, Used};
