//! What devices are asked for, and which metric each answer is. It asks nothing.

use plimsoll_model::Metric;

use super::oid::Oid;

/// sysDescr.0
pub(super) const DESCRIPTION: &[u32] = &[1, 3, 6, 1, 2, 1, 1, 1, 0];
/// sysUpTime.0
pub(super) const UPTIME: &[u32] = &[1, 3, 6, 1, 2, 1, 1, 3, 0];
/// sysName.0
pub(super) const NAME: &[u32] = &[1, 3, 6, 1, 2, 1, 1, 5, 0];

/// UCD-SNMP-MIB, below enterprises.
const UCD: &[u32] = &[1, 3, 6, 1, 4, 1, 2021];
/// diskIOEntry
const DISKS: &[u32] = &[1, 3, 6, 1, 4, 1, 2021, 13, 15, 1, 1];
/// ifEntry
const INTERFACES: &[u32] = &[1, 3, 6, 1, 2, 1, 2, 2, 1];
/// ifXEntry
const INTERFACES_X: &[u32] = &[1, 3, 6, 1, 2, 1, 31, 1, 1, 1];

/// Nanoseconds of a tick of a device's processors.
const TICK_NS: u64 = 10_000_000;
/// Millionths of a hundredth.
const HUNDREDTH: u64 = 10_000;
const KIB: u64 = 1_024;

/// A value by its name, and what it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scalar {
    /// Its name.
    pub oid: Oid,
    /// The metric it is.
    pub metric: Metric,
    /// What it is multiplied by.
    pub times: u64,
}

/// What devices of one kind are asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Profile {
    /// Its name in the configuration.
    pub name: String,
    /// Values of the whole device; of one metric the first that is told holds.
    pub scalars: Vec<Scalar>,
    /// Whether its ports are read.
    pub ports: bool,
    /// Whether its disks are read.
    pub disks: bool,
}

/// Names of the profiles that need no configuration.
pub const OWN: [&str; 2] = ["host", "switch"];

impl Profile {
    /// Returns a profile that needs no configuration.
    pub fn own(name: &str) -> Option<Self> {
        let is_host = match name {
            "host" => true,
            "switch" => false,
            _ => return None,
        };
        Some(Self {
            name: name.to_owned(),
            scalars: if is_host { host() } else { Vec::new() },
            ports: true,
            disks: is_host,
        })
    }
}

/// What UCD-SNMP-MIB tells of a host. Its processors' times are the sums over all of them.
#[rustfmt::skip]
fn host() -> Vec<Scalar> {
    let rows: [(&[u32], Metric, u64); 26] = [
        (&[11, 50, 0], Metric::HostCpuTimeUser, TICK_NS),
        (&[11, 51, 0], Metric::HostCpuTimeNice, TICK_NS),
        (&[11, 52, 0], Metric::HostCpuTimeSystem, TICK_NS),
        (&[11, 53, 0], Metric::HostCpuTimeIdle, TICK_NS),
        (&[11, 54, 0], Metric::HostCpuTimeIowait, TICK_NS),
        (&[11, 56, 0], Metric::HostCpuTimeIrq, TICK_NS),
        (&[11, 61, 0], Metric::HostCpuTimeSoftirq, TICK_NS),
        (&[11, 64, 0], Metric::HostCpuTimeSteal, TICK_NS),
        (&[11, 65, 0], Metric::HostCpuTimeGuest, TICK_NS),
        (&[11, 66, 0], Metric::HostCpuTimeGuestNice, TICK_NS),
        (&[11, 67, 0], Metric::HostCpuOnline, 1),
        // laLoadInt
        (&[10, 1, 5, 1], Metric::HostLoad1, HUNDREDTH),
        (&[10, 1, 5, 2], Metric::HostLoad5, HUNDREDTH),
        (&[10, 1, 5, 3], Metric::HostLoad15, HUNDREDTH),
        // The X variants are 64 bits wide; the others end at 2 TiB and stand in where those are missing.
        (&[4, 18, 0], Metric::HostMemSwapTotal, KIB),
        (&[4, 19, 0], Metric::HostMemSwapFree, KIB),
        (&[4, 20, 0], Metric::HostMemTotal, KIB),
        (&[4, 21, 0], Metric::HostMemFree, KIB),
        (&[4, 25, 0], Metric::HostMemBuffers, KIB),
        (&[4, 26, 0], Metric::HostMemCached, KIB),
        (&[4, 27, 0], Metric::HostMemAvailable, KIB),
        (&[4, 3, 0], Metric::HostMemSwapTotal, KIB),
        (&[4, 4, 0], Metric::HostMemSwapFree, KIB),
        (&[4, 5, 0], Metric::HostMemTotal, KIB),
        (&[4, 6, 0], Metric::HostMemFree, KIB),
        (&[4, 14, 0], Metric::HostMemBuffers, KIB),
    ];
    let scalar = |(tail, metric, times): &(&[u32], Metric, u64)| Scalar {
        oid: Oid::new(&[UCD, tail].concat()),
        metric: *metric,
        times: *times,
    };
    rows.iter().map(scalar).collect()
}

fn column(entry: &[u32], number: u32) -> Oid {
    Oid::new(entry).child(number)
}

/// The columns of one port, in the order in which [`Port`] names them.
pub(super) fn port_columns() -> Vec<Oid> {
    let plain = |number| column(INTERFACES, number);
    let wide = |number| column(INTERFACES_X, number);
    Port::ALL
        .iter()
        .map(|column| match column {
            Port::Description => plain(2),
            Port::Mtu => plain(4),
            Port::Operational => plain(8),
            Port::InDiscards => plain(13),
            Port::InErrors => plain(14),
            Port::OutDiscards => plain(19),
            Port::OutErrors => plain(20),
            Port::Name => wide(1),
            Port::InOctets => wide(6),
            Port::InUnicast => wide(7),
            Port::InMulticast => wide(8),
            Port::InBroadcast => wide(9),
            Port::OutOctets => wide(10),
            Port::OutUnicast => wide(11),
            Port::OutMulticast => wide(12),
            Port::OutBroadcast => wide(13),
            Port::MegabitsPerSecond => wide(15),
            Port::Discontinuity => wide(19),
        })
        .collect()
}

/// A column of the tables of ports: IF-MIB, its 64-bit counters where it has them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Port {
    Name,
    Description,
    Discontinuity,
    MegabitsPerSecond,
    Operational,
    Mtu,
    InOctets,
    OutOctets,
    InUnicast,
    InMulticast,
    InBroadcast,
    OutUnicast,
    OutMulticast,
    OutBroadcast,
    InErrors,
    OutErrors,
    InDiscards,
    OutDiscards,
}

impl Port {
    pub(super) const ALL: [Self; 18] = [
        Self::Name,
        Self::Description,
        Self::Discontinuity,
        Self::MegabitsPerSecond,
        Self::Operational,
        Self::Mtu,
        Self::InOctets,
        Self::OutOctets,
        Self::InUnicast,
        Self::InMulticast,
        Self::InBroadcast,
        Self::OutUnicast,
        Self::OutMulticast,
        Self::OutBroadcast,
        Self::InErrors,
        Self::OutErrors,
        Self::InDiscards,
        Self::OutDiscards,
    ];
}

/// The columns of disks: the name first, then each metric with what it is multiplied by.
pub(super) const DISK_METRICS: [(u32, Metric, u64); 5] = [
    (5, Metric::HostDiskRdOps, 1),
    (6, Metric::HostDiskWrOps, 1),
    (12, Metric::HostDiskRdBytes, 1),
    (13, Metric::HostDiskWrBytes, 1),
    // diskIOBusyTime, in microseconds.
    (14, Metric::HostDiskIoTime, 1_000),
];

pub(super) fn disk_columns() -> Vec<Oid> {
    let metrics = DISK_METRICS.iter().map(|(number, _, _)| *number);
    [2].into_iter()
        .chain(metrics)
        .map(|number| column(DISKS, number))
        .collect()
}
