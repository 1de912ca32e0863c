//! Words as bytes: the payload of a frame. FORMAT.md draws them. Decoding believes nothing: any bytes
//! give a value or [`Malformed`], never a panic.

mod grown;
mod subject;

use std::time::Duration;

use plimsoll_model::{
    Accelerator, Bandwidth, Batch, BootId, ByteSize, DeviceFacts, DeviceId, DirtyRate, DiskFacts,
    DomainFacts, DomainId, DomainState, Event, EventKind, Fact, FileSystemFacts, GapReason,
    HardwareFacts, Incarnation, InterfaceFacts, Iteration, MemoryFacts, Metric, MigrationEnd,
    MigrationEnded, MigrationRole, NetworkCardFacts, NodeFacts, NodeId, OvercommitFacts, Part,
    PinningFacts, PolledFacts, Ratio, Rows, SampleGap, SessionId, UnixMillis, Window,
};

use crate::error::OpenError;
use crate::record::{Document, Record};
use crate::rows;
use grown::{Grown, is_told};

/// Bytes that are no record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the bytes are no record: {what}")]
pub(crate) struct Malformed {
    /// What is wrong.
    pub(crate) what: &'static str,
}

fn malformed<T>(what: &'static str) -> Result<T, Malformed> {
    Err(Malformed { what })
}

/// Says what is wrong with a file, without its name.
pub(crate) fn what_of(error: &OpenError) -> &'static str {
    match error {
        OpenError::Corrupt { what, .. } => what,
        OpenError::Newer { .. } => "it was written by a later release",
        OpenError::Locked { .. } | OpenError::Io { .. } => "it cannot be read",
    }
}

/// What goes into a frame and comes out of it.
pub(crate) trait Pack: Sized {
    /// Appends the bytes.
    fn pack(&self, out: &mut Vec<u8>);
    /// Takes the bytes off the front.
    fn unpack(input: &mut &[u8]) -> Result<Self, Malformed>;
}

/// Encodes a record.
pub(crate) fn encode(record: &Record) -> Vec<u8> {
    let mut out = Vec::new();
    record.pack(&mut out);
    out
}

/// Decodes a record; bytes left over make it malformed.
pub(crate) fn decode(mut input: &[u8]) -> Result<Record, Malformed> {
    let record = Record::unpack(&mut input)?;
    if input.is_empty() {
        Ok(record)
    } else {
        malformed("bytes are left over")
    }
}

pub(crate) fn take<'a>(input: &mut &'a [u8], count: usize) -> Result<&'a [u8], Malformed> {
    let Some((head, tail)) = input.split_at_checked(count) else {
        return malformed("it ends too early");
    };
    *input = tail;
    Ok(head)
}

impl Pack for u64 {
    fn pack(&self, out: &mut Vec<u8>) {
        let mut rest = *self;
        while rest >= 0x80 {
            out.push(u8::try_from(rest & 0x7f).unwrap_or_default() | 0x80);
            rest >>= 7;
        }
        out.push(u8::try_from(rest).unwrap_or_default());
    }

    fn unpack(input: &mut &[u8]) -> Result<Self, Malformed> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let [byte] = take(input, 1)? else {
                return malformed("it ends too early");
            };
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                return malformed("a number is too large");
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        malformed("a number is too long")
    }
}

impl Pack for Duration {
    fn pack(&self, out: &mut Vec<u8>) {
        u64::try_from(self.as_millis())
            .unwrap_or(u64::MAX)
            .pack(out);
    }

    fn unpack(input: &mut &[u8]) -> Result<Self, Malformed> {
        u64::unpack(input).map(Self::from_millis)
    }
}

impl Pack for u32 {
    fn pack(&self, out: &mut Vec<u8>) {
        u64::from(*self).pack(out);
    }

    fn unpack(input: &mut &[u8]) -> Result<Self, Malformed> {
        u64::unpack(input)?
            .try_into()
            .or_else(|_| malformed("a number is too large"))
    }
}

impl Pack for u8 {
    fn pack(&self, out: &mut Vec<u8>) {
        out.push(*self);
    }

    fn unpack(input: &mut &[u8]) -> Result<Self, Malformed> {
        match take(input, 1)? {
            [byte] => Ok(*byte),
            _ => malformed("it ends too early"),
        }
    }
}

impl Pack for bool {
    fn pack(&self, out: &mut Vec<u8>) {
        out.push(u8::from(*self));
    }

    fn unpack(input: &mut &[u8]) -> Result<Self, Malformed> {
        match u8::unpack(input)? {
            0 => Ok(false),
            1 => Ok(true),
            _ => malformed("a truth is neither 0 nor 1"),
        }
    }
}

impl Pack for UnixMillis {
    fn pack(&self, out: &mut Vec<u8>) {
        out.extend(self.millis().to_le_bytes());
    }

    fn unpack(input: &mut &[u8]) -> Result<Self, Malformed> {
        let bytes = take(input, 8)?
            .try_into()
            .or_else(|_| malformed("it ends too early"))?;
        Ok(Self::from_millis(i64::from_le_bytes(bytes)))
    }
}

impl Pack for Vec<u8> {
    fn pack(&self, out: &mut Vec<u8>) {
        (self.len() as u64).pack(out);
        out.extend(self);
    }

    fn unpack(input: &mut &[u8]) -> Result<Self, Malformed> {
        let length = usize::try_from(u64::unpack(input)?).unwrap_or(usize::MAX);
        take(input, length).map(<[u8]>::to_vec)
    }
}

impl Pack for String {
    fn pack(&self, out: &mut Vec<u8>) {
        (self.len() as u64).pack(out);
        out.extend(self.as_bytes());
    }

    fn unpack(input: &mut &[u8]) -> Result<Self, Malformed> {
        Self::from_utf8(Vec::unpack(input)?).or_else(|_| malformed("a text is not UTF-8"))
    }
}

impl Pack for Part {
    fn pack(&self, out: &mut Vec<u8>) {
        self.as_str().to_owned().pack(out);
    }

    fn unpack(input: &mut &[u8]) -> Result<Self, Malformed> {
        Self::named(&String::unpack(input)?).or_else(|_| malformed("a part has no such name"))
    }
}

impl Pack for Metric {
    fn pack(&self, out: &mut Vec<u8>) {
        u32::from(self.code()).pack(out);
    }

    fn unpack(input: &mut &[u8]) -> Result<Self, Malformed> {
        let code = u16::try_from(u32::unpack(input)?).ok();
        code.and_then(Self::from_code)
            .map_or_else(|| malformed("a metric is not known"), Ok)
    }
}

impl<T: Pack> Pack for Option<T> {
    fn pack(&self, out: &mut Vec<u8>) {
        self.is_some().pack(out);
        if let Some(value) = self {
            value.pack(out);
        }
    }

    fn unpack(input: &mut &[u8]) -> Result<Self, Malformed> {
        if bool::unpack(input)? {
            T::unpack(input).map(Some)
        } else {
            Ok(None)
        }
    }
}

/// Appends a list with its length before it.
pub(crate) fn pack_all<T: Pack>(items: &[T], out: &mut Vec<u8>) {
    (items.len() as u64).pack(out);
    for item in items {
        item.pack(out);
    }
}

/// Takes a list off the front.
pub(crate) fn unpack_all<T: Pack>(input: &mut &[u8]) -> Result<Vec<T>, Malformed> {
    let count = u64::unpack(input)?;
    // Every item takes a byte at least, so a forged count cannot ask for more than came.
    if count > input.len() as u64 {
        return malformed("a count is larger than what follows");
    }
    (0..count).map(|_| T::unpack(input)).collect()
}

macro_rules! packed {
    (ids: $($id:ident),*) => {$(
        impl Pack for $id {
            fn pack(&self, out: &mut Vec<u8>) {
                out.extend(self.as_bytes());
            }

            fn unpack(input: &mut &[u8]) -> Result<Self, Malformed> {
                Self::from_slice(take(input, 16)?).or_else(|_| malformed("an id is all zeros"))
            }
        }
    )*};
    (units: $($unit:ident: $from:ident, $to:ident;)*) => {$(
        impl Pack for $unit {
            fn pack(&self, out: &mut Vec<u8>) {
                self.$to().pack(out);
            }

            fn unpack(input: &mut &[u8]) -> Result<Self, Malformed> {
                u64::unpack(input).map(Self::$from)
            }
        }
    )*};
    (lists: $($item:ty),*) => {$(
        impl Pack for Vec<$item> {
            fn pack(&self, out: &mut Vec<u8>) {
                pack_all(self, out);
            }

            fn unpack(input: &mut &[u8]) -> Result<Self, Malformed> {
                unpack_all(input)
            }
        }
    )*};
    (words: $($word:ident { $($code:literal = $variant:ident),* })*) => {$(
        impl Pack for $word {
            fn pack(&self, out: &mut Vec<u8>) {
                out.push(match self { $(Self::$variant => $code,)* });
            }

            fn unpack(input: &mut &[u8]) -> Result<Self, Malformed> {
                match u8::unpack(input)? {
                    $($code => Ok(Self::$variant),)*
                    _ => malformed(concat!("a ", stringify!($word), " is not known")),
                }
            }
        }
    )*};
    (structs: $($name:ident { $($field:ident),* })*) => {$(
        impl Pack for $name {
            fn pack(&self, out: &mut Vec<u8>) {
                $(self.$field.pack(out);)*
            }

            fn unpack(input: &mut &[u8]) -> Result<Self, Malformed> {
                Ok(Self { $($field: Pack::unpack(input)?,)* })
            }
        }
    )*};
    // Things that grew after their bytes were released: first what they always had, and what came
    // later apart from it.
    (grown: $($name:ident { $($field:ident),* } { $($new:ident),* } [ $($list:ident),* ] $(+ $apart:ident)?)*) => {$(
        impl Pack for $name {
            fn pack(&self, out: &mut Vec<u8>) {
                $(self.$field.pack(out);)*
            }

            fn unpack(input: &mut &[u8]) -> Result<Self, Malformed> {
                Ok(Self { $($field: Pack::unpack(input)?,)* $($new: Default::default(),)* $($apart: Default::default())? })
            }
        }

        impl Grown for $name {
            fn has_grown(&self) -> bool {
                $(is_told(&self.$new) ||)* $(self.$list.iter().any(Grown::has_grown) ||)* false
            }

            fn pack_growth(&self, out: &mut Vec<u8>) {
                $(self.$new.pack(out);)*
                $(self.$list.iter().for_each(|item| item.pack_growth(out));)*
            }

            fn unpack_growth(&mut self, input: &mut &[u8]) -> Result<(), Malformed> {
                $(self.$new = Pack::unpack(input)?;)*
                $(self.$list.iter_mut().try_for_each(|item| item.unpack_growth(input))?;)*
                Ok(())
            }
        }
    )*};
    (choices: $($name:ident { $($code:literal = $variant:ident { $($field:ident),* })* })*) => {$(
        impl Pack for $name {
            fn pack(&self, out: &mut Vec<u8>) {
                match self {
                    $(Self::$variant { $($field),* } => {
                        out.push($code);
                        $($field.pack(out);)*
                    })*
                }
            }

            fn unpack(input: &mut &[u8]) -> Result<Self, Malformed> {
                match u8::unpack(input)? {
                    $($code => Ok(Self::$variant { $($field: Pack::unpack(input)?),* }),)*
                    _ => malformed(concat!("a ", stringify!($name), " is not known")),
                }
            }
        }
    )*};
}

packed!(ids: NodeId, DomainId, DeviceId, BootId, SessionId);
packed!(units:
    ByteSize: from_bytes, bytes;
    Bandwidth: from_bytes_per_second, bytes_per_second;
    DirtyRate: from_bytes_per_second, bytes_per_second;
    Ratio: from_millionths, millionths;
);
packed!(lists: Fact, Event, String, InterfaceFacts, DiskFacts,
    NetworkCardFacts, FileSystemFacts, DeviceFacts);
// Codes are on disk: never reuse one.
packed!(words:
    GapReason { 1 = SpoolFull, 2 = Corrupt, 3 = ServerRollback, 4 = AgentCrash, 5 = Rejected }
    Accelerator { 1 = Kvm, 2 = Tcg }
    MigrationRole { 1 = Source, 2 = Target }
    MigrationEnd { 1 = Completed, 2 = Aborted, 3 = Failed }
    DomainState {
        1 = Defined, 2 = Undefined, 3 = Started, 4 = Suspended, 5 = Resumed, 6 = Stopped,
        7 = Shutdown, 8 = PowerSuspended, 9 = Crashed
    }
);
packed!(structs:
    Incarnation { boot, started_ms }
    Window { end, width_ms }
    SampleGap { node, session, first_sequence, last_sequence, reading_count, declared, reason }
    Document { kind, key, time, payload }
    OvercommitFacts { cpu_ratio, memory_ratio, reserved_cpu_count, reserved_memory }
    FileSystemFacts { mount, kind, shared_id }
    HardwareFacts {
        cpu_mode, cpu_features, tsc_hz, memory, launch_security, tpm, devices, pinning
    }
    MemoryFacts { source, shared, locked, page }
    DeviceFacts { kind, address }
    PinningFacts { cpus, memory_nodes }
    PolledFacts { device, node, name, address, profile, interval, system_name, description }
    Event { node, seen, kind }
    Iteration { number, elapsed_ms, remaining, dirty_rate }
    MigrationEnded {
        end, started, total_ms, downtime_ms, setup_ms, iterations, memory_total,
        memory_processed, memory_normal, zero_page_count, throughput
    }
);
packed!(grown:
    InterfaceFacts { name, speed, mtu_bytes, up } { full_duplex, master, addresses } []
    NodeFacts {
        hostname, agent_version, kernel_release, cpu_model, cpu_flags, cpu_count, memory,
        hypervisor_type, libvirt_version, qemu_version, migration_interface, migration_address,
        migration_bandwidth, interfaces, overcommit
    } { tsc_hz, tsc_scaling, file_systems } [ interfaces ]
    DiskFacts { target, source, shared } { storage } []
    NetworkCardFacts { mac, target, connection } { model, bridge, mtu_bytes } []
    DomainFacts {
        domain, node, incarnation, name, accelerator, machine, cpu_model, vcpu_count, memory_max,
        huge_pages, disks, network_cards, host_device_count
    } { hardware } [ disks, network_cards ] + project
);
packed!(choices:
    EventKind {
        1 = DomainState { domain, incarnation, state, detail }
        2 = MigrationStarted { domain, incarnation, role, downtime_limit_ms, bandwidth_cap }
        3 = MigrationIteration { domain, incarnation, iteration }
        4 = MigrationEnded { domain, incarnation, end }
    }
);

fn pack_batch(batch: &Batch, out: &mut Vec<u8>) {
    batch.node.pack(out);
    batch.session.pack(out);
    batch.sequence.pack(out);
    batch.made.pack(out);
    batch.body_crc.pack(out);
    rows::pack(&batch.rows, out);
    batch.facts.pack(out);
    batch.events.pack(out);
}

/// Takes a batch off the front whose rows are in one of their forms.
fn unpack_batch(
    input: &mut &[u8],
    rows: fn(&mut &[u8]) -> Result<Rows, Malformed>,
) -> Result<Batch, Malformed> {
    Ok(Batch {
        node: Pack::unpack(input)?,
        session: Pack::unpack(input)?,
        sequence: Pack::unpack(input)?,
        made: Pack::unpack(input)?,
        body_crc: Pack::unpack(input)?,
        rows: rows(input)?,
        facts: Pack::unpack(input)?,
        events: Pack::unpack(input)?,
    })
}

impl Pack for Record {
    fn pack(&self, out: &mut Vec<u8>) {
        match self {
            Self::Batch(batch) => {
                out.push(4);
                pack_batch(batch, out);
            }
            Self::Gap(gap) => {
                out.push(2);
                gap.pack(out);
            }
            Self::Document(document) => {
                out.push(3);
                document.pack(out);
            }
        }
    }

    fn unpack(input: &mut &[u8]) -> Result<Self, Malformed> {
        match u8::unpack(input)? {
            1 => unpack_batch(input, rows::unpack_sweeps).map(Self::Batch),
            2 => SampleGap::unpack(input).map(Self::Gap),
            3 => Document::unpack(input).map(Self::Document),
            4 => unpack_batch(input, rows::unpack).map(Self::Batch),
            _ => malformed("a record is not known"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_number_survives(value: u64) {
            let mut bytes = Vec::new();
            value.pack(&mut bytes);
            prop_assert_eq!(u64::unpack(&mut bytes.as_slice()), Ok(value));
        }

        #[test]
        fn any_bytes_are_a_record_or_malformed(bytes: Vec<u8>) {
            if let Ok(record) = decode(&bytes) {
                prop_assert_eq!(decode(&encode(&record)), Ok(record));
            }
        }
    }
}
