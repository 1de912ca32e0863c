//! The wire of Plimsoll: the messages and services of `plimsoll.v1`, and the two doors between them
//! and the words of `plimsoll-model`.
//!
//! [`parse`] believes nothing and may refuse; [`render`] cannot fail. Inside the doors types cannot be
//! wrong, so nobody checks again. [`columns`] packs numbers by the thousand. [`dial`] says how an
//! aggregator is reached, [`secret`] how passwords are read, `snmp_engine` who speaks SNMPv3. This crate
//! opens no connection and knows no agent or aggregator.

pub mod columns;
pub mod dial;
pub mod limits;
pub mod parse;
pub mod render;
pub mod secret;
#[cfg(feature = "snmp")]
pub mod snmp_engine;

/// Generated messages, clients and servers of `plimsoll.v1`; the .proto files document them.
#[expect(
    clippy::too_many_lines,
    unused_qualifications,
    clippy::allow_attributes,
    clippy::allow_attributes_without_reason,
    reason = "generated code is as it is"
)]
pub mod v1 {
    tonic::include_proto!("plimsoll.v1");
}

/// Version of the ingest protocol that this release speaks.
pub const PROTOCOL_VERSION: i32 = 1;

/// Series that an agent declares with one message: an aggregator holds a buffer as long as the longest message
/// of each stream, and a batch takes a few KiB.
pub const DECLARED_AT_ONCE: usize = 128;

/// Encoded `FileDescriptorSet` of `plimsoll.v1`, for server reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
