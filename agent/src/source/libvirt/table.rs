//! Which of libvirt's fields is which metric: one table. A field that is absent stays absent.

use std::collections::HashMap;

use plimsoll_libvirt::TypedParams;
use plimsoll_model::Metric;

use crate::look::Values;

const KIB: u64 = 1 << 10;
/// Most disks, cards or processors of a domain that are told.
const PARTS_MAX: u64 = 512;

/// Field of the whole domain, metric, factor.
const WHOLE: [(&str, Metric, u64); 12] = [
    ("state.state", Metric::VmState, 1),
    ("state.reason", Metric::VmStateReason, 1),
    ("cpu.time", Metric::VmCpuTime, 1),
    ("cpu.user", Metric::VmCpuUser, 1),
    ("cpu.system", Metric::VmCpuSystem, 1),
    ("vcpu.current", Metric::VmVcpuCount, 1),
    ("vcpu.maximum", Metric::VmVcpuMax, 1),
    ("balloon.current", Metric::VmMemCurrent, KIB),
    ("balloon.maximum", Metric::VmMemMax, KIB),
    ("balloon.rss", Metric::VmMemRss, KIB),
    ("balloon.available", Metric::VmMemGuestAvailable, KIB),
    ("balloon.usable", Metric::VmMemGuestUsable, KIB),
];

const GUEST: [(&str, Metric, u64); 10] = [
    ("balloon.unused", Metric::VmMemGuestUnused, KIB),
    ("balloon.disk_caches", Metric::VmMemGuestDiskCaches, KIB),
    ("balloon.swap_in", Metric::VmMemSwapIn, KIB),
    ("balloon.swap_out", Metric::VmMemSwapOut, KIB),
    ("balloon.major_fault", Metric::VmMemMajorFault, 1),
    ("balloon.minor_fault", Metric::VmMemMinorFault, 1),
    ("balloon.hugetlb_pgalloc", Metric::VmMemHugetlbPgalloc, 1),
    ("balloon.hugetlb_pgfail", Metric::VmMemHugetlbPgfail, 1),
    ("cpu.haltpoll.success.time", Metric::VmCpuHaltpollSuccess, 1),
    ("cpu.haltpoll.fail.time", Metric::VmCpuHaltpollFail, 1),
];

/// Events of processors; there only where they were switched on.
const PERF: [(&str, Metric, u64); 22] = [
    ("perf.cmt", Metric::VmPerfCmt, 1),
    ("perf.mbmt", Metric::VmPerfMbmt, 1),
    ("perf.mbml", Metric::VmPerfMbml, 1),
    ("perf.cpu_cycles", Metric::VmPerfCpuCycles, 1),
    ("perf.instructions", Metric::VmPerfInstructions, 1),
    ("perf.cache_references", Metric::VmPerfCacheReferences, 1),
    ("perf.cache_misses", Metric::VmPerfCacheMisses, 1),
    (
        "perf.branch_instructions",
        Metric::VmPerfBranchInstructions,
        1,
    ),
    ("perf.branch_misses", Metric::VmPerfBranchMisses, 1),
    ("perf.bus_cycles", Metric::VmPerfBusCycles, 1),
    (
        "perf.stalled_cycles_frontend",
        Metric::VmPerfStalledCyclesFrontend,
        1,
    ),
    (
        "perf.stalled_cycles_backend",
        Metric::VmPerfStalledCyclesBackend,
        1,
    ),
    ("perf.ref_cpu_cycles", Metric::VmPerfRefCpuCycles, 1),
    ("perf.cpu_clock", Metric::VmPerfCpuClock, 1),
    ("perf.task_clock", Metric::VmPerfTaskClock, 1),
    ("perf.page_faults", Metric::VmPerfPageFaults, 1),
    ("perf.context_switches", Metric::VmPerfContextSwitches, 1),
    ("perf.cpu_migrations", Metric::VmPerfCpuMigrations, 1),
    ("perf.page_faults_min", Metric::VmPerfPageFaultsMin, 1),
    ("perf.page_faults_maj", Metric::VmPerfPageFaultsMaj, 1),
    ("perf.alignment_faults", Metric::VmPerfAlignmentFaults, 1),
    ("perf.emulation_faults", Metric::VmPerfEmulationFaults, 1),
];

/// The names that end in `sum` are QEMU's own and may change with it; one that does is absent.
const VCPU: [(&str, Metric); 5] = [
    ("time", Metric::VmVcpuTime),
    ("delay", Metric::VmVcpuDelay),
    ("wait", Metric::VmVcpuWait),
    ("exits.sum", Metric::VmVcpuExits),
    ("halt_exits.sum", Metric::VmVcpuHaltExits),
];

const BLOCK: [(&str, Metric); 12] = [
    ("rd.reqs", Metric::VmBlockRdReqs),
    ("rd.bytes", Metric::VmBlockRdBytes),
    ("rd.times", Metric::VmBlockRdTime),
    ("wr.reqs", Metric::VmBlockWrReqs),
    ("wr.bytes", Metric::VmBlockWrBytes),
    ("wr.times", Metric::VmBlockWrTime),
    ("fl.reqs", Metric::VmBlockFlReqs),
    ("fl.times", Metric::VmBlockFlTime),
    ("capacity", Metric::VmBlockCapacity),
    ("allocation", Metric::VmBlockAllocation),
    ("physical", Metric::VmBlockPhysical),
    ("threshold", Metric::VmBlockThreshold),
];

const NET: [(&str, Metric); 8] = [
    ("rx.bytes", Metric::VmNetRxBytes),
    ("rx.pkts", Metric::VmNetRxPackets),
    ("rx.errs", Metric::VmNetRxErrs),
    ("rx.drop", Metric::VmNetRxDrop),
    ("tx.bytes", Metric::VmNetTxBytes),
    ("tx.pkts", Metric::VmNetTxPackets),
    ("tx.errs", Metric::VmNetTxErrs),
    ("tx.drop", Metric::VmNetTxDrop),
];

/// Field of a job, metric, factor.
const JOB: [(&str, Metric, u64); 27] = [
    ("operation", Metric::VmMigOperation, 1),
    ("memory_iteration", Metric::VmMigIteration, 1),
    ("time_elapsed", Metric::VmMigElapsed, 1),
    ("setup_time", Metric::VmMigSetup, 1),
    ("memory_total", Metric::VmMigMemTotal, 1),
    ("memory_processed", Metric::VmMigMemProcessed, 1),
    ("memory_remaining", Metric::VmMigMemRemaining, 1),
    ("memory_constant", Metric::VmMigMemConstantPages, 1),
    ("memory_normal", Metric::VmMigMemNormalPages, 1),
    ("memory_normal_bytes", Metric::VmMigMemNormalBytes, 1),
    ("memory_bps", Metric::VmMigMemBps, 1),
    ("memory_dirty_rate", Metric::VmMigMemDirtyPagesPerS, 1),
    ("memory_page_size", Metric::VmMigMemPageSize, 1),
    ("memory_postcopy_requests", Metric::VmMigMemPostcopyReqs, 1),
    ("downtime", Metric::VmMigDowntimeExpected, 1),
    ("downtime_net", Metric::VmMigDowntimeExpected, 1),
    // Percent become millionths.
    ("auto_converge_throttle", Metric::VmMigThrottle, 10_000),
    ("disk_total", Metric::VmMigDiskTotal, 1),
    ("disk_processed", Metric::VmMigDiskProcessed, 1),
    ("disk_remaining", Metric::VmMigDiskRemaining, 1),
    ("disk_bps", Metric::VmMigDiskBps, 1),
    ("compression_cache", Metric::VmMigCompressionCache, 1),
    ("compression_bytes", Metric::VmMigCompressionBytes, 1),
    ("compression_pages", Metric::VmMigCompressionPages, 1),
    (
        "compression_cache_misses",
        Metric::VmMigCompressionCacheMisses,
        1,
    ),
    ("compression_overflow", Metric::VmMigCompressionOverflow, 1),
    ("vfio_data_transferred", Metric::VmMigVfioTransferred, 1),
];

/// Turns statistics of a domain into values; cards are named by hardware address where `macs` knows
/// the interface.
pub(super) fn stats(params: &TypedParams, macs: &HashMap<String, String>, values: &mut Values) {
    for (field, metric, factor) in WHOLE.iter().chain(&GUEST).chain(&PERF) {
        put(params, field, *metric, *factor, values);
    }
    // Zero means that no driver in the guest ever told anything.
    if let Some(at) = params.u64("balloon.last-update").filter(|at| *at > 0) {
        values.whole(Metric::VmMemGuestLastUpdate, at);
    }
    for index in 0..count(params, "vcpu.maximum") {
        for (field, metric) in VCPU {
            if let (Some(value), Ok(part)) = (
                params.u64(&format!("vcpu.{index}.{field}")),
                u32::try_from(index),
            ) {
                values.indexed(metric, part, value);
            }
        }
    }
    for index in 0..count(params, "vcpu.maximum") {
        let halted = params.bool(&format!("vcpu.{index}.halted"));
        if let (Some(halted), Ok(part)) = (halted, u32::try_from(index)) {
            values.indexed(Metric::VmVcpuHalted, part, u64::from(halted));
        }
    }
    for index in 0..count(params, "block.count") {
        let Some(name) = params.str(&format!("block.{index}.name")) else {
            continue;
        };
        for (field, metric) in BLOCK {
            if let Some(value) = params.u64(&format!("block.{index}.{field}")) {
                values.named(metric, name, value);
            }
        }
    }
    for index in 0..count(params, "net.count") {
        let Some(name) = params.str(&format!("net.{index}.name")) else {
            continue;
        };
        let part = macs.get(name).map_or(name, String::as_str);
        for (field, metric) in NET {
            if let Some(value) = params.u64(&format!("net.{index}.{field}")) {
                values.named(metric, part, value);
            }
        }
    }
}

/// What a change of tells that a domain was given or lost a part, so that its description is old.
const SHAPE: [&str; 4] = [
    "vcpu.maximum",
    "balloon.maximum",
    "block.count",
    "net.count",
];

/// How many parts a domain has; absent where a field was not asked for.
pub(super) type Shape = [Option<u64>; SHAPE.len()];

/// Tells how many parts a domain has.
pub(super) fn shape(params: &TypedParams) -> Shape {
    SHAPE.map(|field| params.u64(field))
}

/// Adds up the size of those disks that are told to lie on the node alone; absent if no disk was told.
pub(super) fn local_disks(params: &TypedParams, is_local: impl Fn(&str) -> bool) -> Option<u64> {
    let count = params.u64("block.count")?.min(PARTS_MAX);
    let mut bytes = 0_u64;
    for index in 0..count {
        let name = params.str(&format!("block.{index}.name"));
        if name.is_some_and(&is_local) {
            let size = params.u64(&format!("block.{index}.capacity"))?;
            bytes = bytes.saturating_add(size);
        }
    }
    Some(bytes)
}

/// Estimates the share of memory that was never touched; pages of huge memory are not in the
/// resident size, so nothing is told about such guests.
pub(super) fn zero_fraction(params: &TypedParams, huge_pages: Option<bool>) -> Option<u64> {
    let (rss, current) = (params.u64("balloon.rss")?, params.u64("balloon.current")?);
    if huge_pages != Some(false) || current == 0 {
        return None;
    }
    Some(current.saturating_sub(rss).saturating_mul(1_000_000) / current)
}

/// Turns statistics of a job into values.
pub(super) fn job(params: &TypedParams, values: &mut Values) {
    for (field, metric, factor) in JOB {
        put(params, field, metric, factor, values);
    }
}

fn put(params: &TypedParams, field: &str, metric: Metric, factor: u64, values: &mut Values) {
    if let Some(value) = params.u64(field) {
        values.whole(metric, value.saturating_mul(factor));
    }
}

fn count(params: &TypedParams, field: &str) -> u64 {
    params.u64(field).unwrap_or(0).min(PARTS_MAX)
}

#[cfg(test)]
mod tests {
    use plimsoll_libvirt::TypedValue;
    use plimsoll_model::{NodeId, Subject, UnixMillis, Window};

    use super::*;

    fn params(entries: &[(&str, TypedValue)]) -> TypedParams {
        TypedParams::new(
            entries
                .iter()
                .map(|(name, value)| ((*name).to_owned(), value.clone()))
                .collect(),
        )
    }

    fn told(values: Values) -> Vec<(Metric, String, u64)> {
        let at = UnixMillis::from_millis(1);
        let sweep = values.sweep(Subject::Node(NodeId::random()), Window::between(at, at));
        let found = sweep.map(|sweep| sweep.values).unwrap_or_default();
        found
            .into_iter()
            .map(|(m, p, v)| (m, p.as_str().to_owned(), v))
            .collect()
    }

    #[test]
    fn kib_become_bytes_and_absent_fields_stay_absent() {
        let mut values = Values::default();
        let given = [
            ("balloon.rss", TypedValue::ULong(3)),
            ("balloon.last-update", TypedValue::ULong(0)),
        ];
        stats(&params(&given), &HashMap::new(), &mut values);
        assert_eq!(told(values), [(Metric::VmMemRss, String::new(), 3_072)]);
    }

    #[test]
    fn a_card_is_named_by_its_hardware_address_not_by_its_place() {
        let mut values = Values::default();
        let given = [
            ("net.count", TypedValue::UInt(2)),
            ("net.0.name", TypedValue::String("vnet4".to_owned())),
            ("net.0.rx.bytes", TypedValue::ULong(9)),
            ("net.1.name", TypedValue::String("vnet5".to_owned())),
            ("net.1.rx.bytes", TypedValue::ULong(8)),
        ];
        let macs = HashMap::from([("vnet4".to_owned(), "52:54:00:00:00:01".to_owned())]);
        stats(&params(&given), &macs, &mut values);
        let expected = [
            (Metric::VmNetRxBytes, "52:54:00:00:00:01".to_owned(), 9),
            (Metric::VmNetRxBytes, "vnet5".to_owned(), 8),
        ];
        assert_eq!(told(values), expected);
    }

    #[test]
    fn a_count_that_lies_does_not_loop_for_long() {
        let mut values = Values::default();
        stats(
            &params(&[("block.count", TypedValue::ULong(u64::MAX))]),
            &HashMap::new(),
            &mut values,
        );
        assert!(values.is_empty());
    }

    #[test]
    fn a_throttle_in_percent_becomes_millionths() {
        let mut values = Values::default();
        job(
            &params(&[("auto_converge_throttle", TypedValue::Int(20))]),
            &mut values,
        );
        assert_eq!(
            told(values),
            [(Metric::VmMigThrottle, String::new(), 200_000)]
        );
    }

    #[test]
    fn a_halted_processor_steal_and_wait_are_told_apart() {
        let mut values = Values::default();
        let given = [
            ("vcpu.maximum", TypedValue::UInt(1)),
            ("vcpu.0.delay", TypedValue::ULong(7)),
            ("vcpu.0.wait", TypedValue::ULong(0)),
            ("vcpu.0.halted", TypedValue::Boolean(true)),
            ("vcpu.0.exits.cur", TypedValue::ULong(1)),
            ("vcpu.0.exits.sum", TypedValue::ULong(5)),
        ];
        stats(&params(&given), &HashMap::new(), &mut values);
        let row = |metric, part: &str, value| (metric, part.to_owned(), value);
        let expected = [
            row(Metric::VmVcpuMax, "", 1),
            row(Metric::VmVcpuDelay, "0", 7),
            row(Metric::VmVcpuWait, "0", 0),
            row(Metric::VmVcpuHalted, "0", 1),
            row(Metric::VmVcpuExits, "0", 5),
        ];
        assert_eq!(told(values), expected);
    }

    #[test]
    fn a_disk_of_the_network_has_no_path_and_is_named_by_its_target() {
        let mut values = Values::default();
        let given = [
            ("block.count", TypedValue::UInt(2)),
            ("block.0.name", TypedValue::String("vda".to_owned())),
            ("block.0.rd.reqs", TypedValue::ULong(4)),
            ("block.0.errors", TypedValue::Long(9)),
            ("block.1.path", TypedValue::String("/a".to_owned())),
            ("block.1.rd.reqs", TypedValue::ULong(5)),
        ];
        stats(&params(&given), &HashMap::new(), &mut values);
        let expected = [(Metric::VmBlockRdReqs, "vda".to_owned(), 4)];
        assert_eq!(told(values), expected);
    }

    #[test]
    fn disks_that_other_nodes_reach_take_no_room_here() {
        let given = params(&[
            ("block.count", TypedValue::UInt(2)),
            ("block.0.name", TypedValue::String("vda".to_owned())),
            ("block.0.capacity", TypedValue::ULong(100)),
            ("block.1.name", TypedValue::String("vdb".to_owned())),
            ("block.1.capacity", TypedValue::ULong(7)),
        ]);
        assert_eq!(local_disks(&given, |name| name == "vdb"), Some(7));
        assert_eq!(local_disks(&params(&[]), |_| true), None, "not asked for");
    }

    #[test]
    fn compression_devices_and_disks_of_a_job_are_told_only_where_they_are() {
        let mut values = Values::default();
        let given = [
            ("compression_pages", TypedValue::ULong(3)),
            ("vfio_data_transferred", TypedValue::ULong(9)),
            ("disk_total", TypedValue::ULong(0)),
        ];
        job(&params(&given), &mut values);
        let row = |metric, value| (metric, String::new(), value);
        let expected = [
            row(Metric::VmMigDiskTotal, 0),
            row(Metric::VmMigCompressionPages, 3),
            row(Metric::VmMigVfioTransferred, 9),
        ];
        assert_eq!(told(values), expected);
    }

    #[test]
    fn nothing_is_told_of_untouched_memory_where_pages_are_huge_or_that_is_not_known() {
        let given = params(&[
            ("balloon.rss", TypedValue::ULong(25)),
            ("balloon.current", TypedValue::ULong(100)),
        ]);
        assert_eq!(zero_fraction(&given, Some(false)), Some(750_000));
        assert_eq!(zero_fraction(&given, Some(true)), None);
        assert_eq!(zero_fraction(&given, None), None);
    }
}
