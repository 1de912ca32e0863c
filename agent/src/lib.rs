//! The eyes of Plimsoll: samples a compute node and streams what it saw.
//!
//! It estimates nothing, and the agent listens on nothing unless told to ([`publish`]); a source that fails is
//! left out and named in the log.

pub mod beat;
pub mod body;
mod chain;
pub mod config;
pub mod doctor;
pub mod errand;
#[cfg(test)]
mod fake_libvirt;
pub mod identity;
pub mod limits;
pub mod look;
pub mod measure;
pub mod once;
pub mod outside;
pub mod publish;
pub mod run;
pub mod sampler;
pub mod slewed;
pub mod source;
pub mod spool;
pub mod uplink;
