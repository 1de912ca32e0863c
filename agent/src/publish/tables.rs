//! The rows of VM-MIB (RFC 7666) and of PLIMSOLL-MIB (packaging/mibs). A value that was not read has no
//! row; it is never 0.

use async_snmp::Value;
use plimsoll_model::{ByteSize, Metric, Part};

use super::board::{Guest, Rows, Seen};

/// vmMIB
pub(super) const VM_MIB: &[u32] = &[1, 3, 6, 1, 2, 1, 236];
/// plimsollMIB, below netSnmpPlaypen until there is a number of our own.
pub(super) const OWN: &[u32] = &[1, 3, 6, 1, 4, 1, 8072, 9999, 9999, 7077];

/// Bytes in which both memory and disks are counted (vmMemUnit, vmStorageSizeUnit): Integer32 takes no more.
const UNIT: u64 = 1 << 20;
/// Nanoseconds of a microsecond.
const MICROSECOND: u64 = 1_000;
/// What VM-MIB says where there is no such bound.
const NO_BOUND: i32 = -1;

/// Makes all rows.
pub(super) fn rows(seen: &Seen) -> Rows {
    let mut rows = Table::default();
    hypervisor(seen, &mut rows);
    for guest in seen.guests.values() {
        virtual_machine(guest, &mut rows);
        processors(guest, &mut rows);
        disks(guest, &mut rows);
        network_cards(guest, &mut rows);
        dirtying(guest, &mut rows);
    }
    node(seen, &mut rows);
    rows.0
}

#[derive(Debug, Default)]
struct Table(Rows);

impl Table {
    fn put(&mut self, root: &[u32], tail: &[u32], value: Option<Value>) {
        if let Some(value) = value {
            self.0.insert([root, tail].concat(), value);
        }
    }

    fn text(&mut self, root: &[u32], tail: &[u32], text: Option<&str>) {
        let text =
            text.map(|text| Value::from(text.chars().take(255).collect::<String>().as_str()));
        self.put(root, tail, text);
    }
}

fn integer(value: u64) -> Option<Value> {
    i32::try_from(value).ok().map(Value::Integer)
}

fn gauge(value: u64) -> Option<Value> {
    u32::try_from(value).ok().map(Value::Gauge32)
}

/// A size in [`UNIT`]s, rounded up.
fn units(bytes: Option<u64>) -> Option<Value> {
    integer(bytes?.div_ceil(UNIT))
}

fn microseconds(nanoseconds: Option<u64>) -> Option<Value> {
    Some(Value::Counter64(nanoseconds? / MICROSECOND))
}

fn hypervisor(seen: &Seen, rows: &mut Table) {
    let node = seen.node.as_ref();
    let software = node.and_then(|node| node.hypervisor_type.as_deref());
    rows.text(VM_MIB, &[1, 1, 1, 0], software);
    let version = node.and_then(|node| node.qemu_version.as_deref());
    rows.text(VM_MIB, &[1, 1, 2, 0], version);
    let count = u64::try_from(seen.guests.len()).ok();
    rows.put(VM_MIB, &[1, 2, 0], count.and_then(integer));
}

fn virtual_machine(guest: &Guest, rows: &mut Table) {
    let (facts, read) = (&guest.facts, &guest.readings);
    let mut put = |column, value| rows.put(VM_MIB, &[1, 4, 1, column, guest.index], value);
    let vcpus = read
        .whole(Metric::VmVcpuCount)
        .or(facts.vcpu_count.map(u64::from));
    put(3, Some(Value::from(facts.domain.to_string().as_str())));
    put(6, Some(Value::Integer(operational(guest))));
    put(9, vcpus.and_then(integer));
    put(10, Some(Value::Integer(NO_BOUND)));
    put(11, read.whole(Metric::VmVcpuMax).and_then(integer));
    put(12, integer(UNIT));
    put(13, units(read.whole(Metric::VmMemCurrent)));
    put(14, Some(Value::Integer(NO_BOUND)));
    put(15, units(facts.memory_max.map(ByteSize::bytes)));
    put(17, microseconds(read.whole(Metric::VmCpuTime)));
    rows.text(VM_MIB, &[1, 4, 1, 2, guest.index], Some(&facts.name));
}

/// VirtualMachineOperState of libvirt's number of a state.
fn operational(guest: &Guest) -> i32 {
    if guest.readings.whole(Metric::VmMigActive) == Some(1) {
        return 9;
    }
    match guest.readings.whole(Metric::VmState) {
        // Blocked on a resource is running, too.
        Some(1 | 2) => 4,
        Some(3) => 8,
        Some(4) => 10,
        Some(5) => 11,
        Some(6) => 12,
        Some(7) => 6,
        _ => 1,
    }
}

fn processors(guest: &Guest, rows: &mut Table) {
    for (part, time) in guest.readings.parts(Metric::VmVcpuTime) {
        let Some(number) = part
            .as_str()
            .parse::<u32>()
            .ok()
            .and_then(|n| n.checked_add(1))
        else {
            continue;
        };
        rows.put(
            VM_MIB,
            &[1, 5, 1, 2, guest.index, number],
            microseconds(Some(time)),
        );
    }
}

fn disks(guest: &Guest, rows: &mut Table) {
    for (number, disk) in (1_u32..).zip(&guest.facts.disks) {
        let Ok(part) = Part::named(&disk.target) else {
            continue;
        };
        let read = |metric| guest.readings.part(metric, &part);
        let counter = |metric| read(metric).map(Value::Counter64);
        let mut put =
            |column, value| rows.put(VM_MIB, &[1, 7, 1, column, guest.index, number], value);
        put(10, integer(UNIT));
        put(11, units(read(Metric::VmBlockCapacity)));
        put(12, units(read(Metric::VmBlockAllocation)));
        put(13, counter(Metric::VmBlockRdReqs));
        put(14, counter(Metric::VmBlockWrReqs));
        put(15, counter(Metric::VmBlockRdBytes));
        put(16, counter(Metric::VmBlockWrBytes));
        put(17, microseconds(read(Metric::VmBlockRdTime)));
        put(18, microseconds(read(Metric::VmBlockWrTime)));
        rows.text(
            VM_MIB,
            &[1, 7, 1, 6, guest.index, number],
            disk.source.as_deref(),
        );
    }
}

fn network_cards(guest: &Guest, rows: &mut Table) {
    for (number, card) in (1_u32..).zip(&guest.facts.network_cards) {
        let octets = card
            .mac
            .split(':')
            .map(|octet| u8::from_str_radix(octet, 16));
        let address: Option<Vec<u8>> = octets.collect::<Result<_, _>>().ok();
        let address = address.map(|bytes| Value::OctetString(bytes.into()));
        rows.put(VM_MIB, &[1, 8, 1, 5, guest.index, number], address);
        rows.text(
            VM_MIB,
            &[1, 8, 1, 4, guest.index, number],
            card.model.as_deref(),
        );
    }
}

/// plimsollNode
fn node(seen: &Seen, rows: &mut Table) {
    let read = |metric| seen.readings.whole(metric).map(Value::Counter64);
    rows.put(OWN, &[1, 1, 1, 0], read(Metric::HostMemTotal));
    rows.put(OWN, &[1, 1, 2, 0], read(Metric::HostMemAvailable));
    let load = seen.readings.whole(Metric::HostLoad1);
    rows.put(
        OWN,
        &[1, 1, 3, 0],
        load.and_then(|load| gauge(load / 10_000)),
    );
    let node = seen.node.as_ref();
    let bandwidth = node.and_then(|node| node.migration_bandwidth);
    let bandwidth = bandwidth.map(|rate| Value::Counter64(rate.bytes_per_second()));
    rows.put(OWN, &[1, 1, 4, 0], bandwidth);
    rows.put(OWN, &[1, 1, 5, 0], read(Metric::HostAllocMemUsed));
    let vcpus = seen.readings.whole(Metric::HostAllocVcpuUsed);
    rows.put(OWN, &[1, 1, 6, 0], vcpus.and_then(gauge));
}

/// plimsollVmTable, and plimsollDirtyTable with a row for each window.
fn dirtying(guest: &Guest, rows: &mut Table) {
    let read = |metric| guest.readings.whole(metric).map(Value::Counter64);
    let mut put = |column, value| rows.put(OWN, &[1, 2, 1, column, guest.index], value);
    put(1, read(Metric::VmMemTouched));
    put(2, read(Metric::VmDirtyWss));
    put(3, read(Metric::VmDirtyHotRate));
    let zero = guest.readings.whole(Metric::VmMemZeroFraction);
    put(4, zero.and_then(gauge));
    for (part, rate) in guest.readings.parts(Metric::VmDirtyRate) {
        let Ok(window) = part.as_str().parse::<u32>() else {
            continue;
        };
        let of_window = |metric| guest.readings.part(metric, part);
        let mut put = |column, value| rows.put(OWN, &[1, 3, 1, column, guest.index, window], value);
        put(2, Some(Value::Counter64(rate)));
        put(3, of_window(Metric::VmDirtySampleSd).map(Value::Counter64));
        // 1 page sampling, 2 dirty bitmap, 3 dirty ring: an enumeration of SMIv2 begins at 1.
        put(
            4,
            of_window(Metric::VmDirtyMode).and_then(|mode| integer(mode + 1)),
        );
        put(5, of_window(Metric::VmDirtyStartedAt).map(Value::Counter64));
    }
}
