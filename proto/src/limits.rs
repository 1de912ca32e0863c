//! Limits of the wire; each is checked in `parse` and nowhere else.

/// Series one session may declare.
pub const SERIES_PER_SESSION_MAX: usize = 20_000;
/// Readings in one batch.
pub const READINGS_PER_BATCH_MAX: usize = 20_000;
/// Encoded bytes of one batch body.
pub const BATCH_BODY_BYTES_MAX: usize = 1 << 20;
/// Bytes of a host, domain or machine name.
pub const NAME_BYTES_MAX: usize = 256;
/// Bytes of what a device says of itself.
pub const DESCRIPTION_BYTES_MAX: usize = 256;
/// Bytes of a path or device that a disk is read from.
pub const SOURCE_BYTES_MAX: usize = 4096;
/// Disks, network cards, interfaces of one thing.
pub const PARTS_MAX: usize = 1_024;
/// Processor features of one node.
pub const CPU_FLAGS_MAX: usize = 1_024;
/// Domains and events told in one batch.
pub const ITEMS_PER_BATCH_MAX: usize = 4_096;
