//! Sources of samples. Each reads one part of the world and knows neither batches nor the wire.

pub mod host;
pub mod libvirt;
pub mod path;
pub(crate) mod slow;
pub mod snmp;
