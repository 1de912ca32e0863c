//! The stage: a real cloud of two or more compute nodes on one machine, and the guests on it.
//!
//! [`stage`] raises network, mount and UTS namespaces, a shaped network between them and one
//! libvirtd in each; [`guest`] makes the machines that run there and dirty their memory by a
//! known pattern. The programs under test are started as processes, by path.
//!
//! [`synthetic`] is an agent without a host, for questions about the aggregator alone; [`peers`] holds its
//! store against other engines, [`cost`] the agent against other collectors.
//!
//! Not here: any code of the programs under test; of theirs only the wire is known. The stage asks
//! libvirt through `virsh` alone, so that it can judge the project's own client.

/// How far the total of a migration that ends may have been foretold off: a quarter of what it was.
pub const TOTAL_ERROR_MAX: f64 = 0.25;

pub mod accuracy;
pub mod cloud;
pub mod cost;
pub mod guest;
pub mod peers;
pub mod snmpd;
pub mod stage;
pub mod synthetic;
