//! The calls: what each sends and what its answer means.
//!
//! Every call takes its own deadline. None is made on the caller's behalf, none is repeated, and
//! nothing is remembered between two of them.

mod domain;
mod host;
mod migration;

pub use domain::BlockInfo;
pub use host::NodeInfo;
