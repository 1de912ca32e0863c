//! The catalogue: the one table that knows a metric. Names, kinds, units, parts, wire codes, store
//! keys and documentation derive from it. Codes are on disk and on the wire: never reuse one.

/// How the values of a metric behave.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Grows only, and starts again with a new incarnation or boot.
    Counter,
    /// May go up and down.
    Gauge,
}

/// What one unit of a metric's value is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Unit {
    /// A number that stands for a word.
    Enumeration,
    /// Things.
    Count,
    /// Bytes.
    Bytes,
    /// Bytes per second.
    BytesPerSecond,
    /// Memory pages.
    Pages,
    /// Memory pages per second.
    PagesPerSecond,
    /// Network packets.
    Packets,
    /// Nanoseconds.
    Nanoseconds,
    /// Milliseconds.
    Milliseconds,
    /// Seconds since 1970.
    UnixSeconds,
    /// Milliseconds since 1970.
    UnixMilliseconds,
    /// Cycles per second.
    Hertz,
    /// Millionths of one.
    Millionths,
    /// Things per second.
    PerSecond,
}

impl Unit {
    /// Returns the symbol that tables print.
    pub const fn symbol(self) -> &'static str {
        match self {
            Self::Enumeration | Self::Count => "1",
            Self::Bytes => "B",
            Self::BytesPerSecond => "B/s",
            Self::Pages => "pages",
            Self::PagesPerSecond => "pages/s",
            Self::Packets => "packets",
            Self::Nanoseconds => "ns",
            Self::Milliseconds | Self::UnixMilliseconds => "ms",
            Self::UnixSeconds => "s",
            Self::Hertz => "Hz",
            Self::Millionths => "1e-6",
            Self::PerSecond => "1/s",
        }
    }
}

/// Which parts of a subject a metric is told for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Parted {
    /// The subject as a whole.
    Whole,
    /// Each virtual processor, by number.
    Vcpu,
    /// Each processor of the node, by number.
    Cpu,
    /// Each disk, by name.
    Disk,
    /// Each network card of a domain, by hardware address where known.
    NetworkCard,
    /// Each interface of the node, by name.
    Interface,
    /// Each measuring window, by its length in milliseconds.
    WindowMs,
    /// Each NUMA node, by number.
    NumaNode,
    /// Each huge page size, in KiB.
    PageSizeKib,
    /// Each huge page size of each NUMA node: the node's number, a colon, the size in KiB.
    NumaPageSizeKib,
    /// Each peer, by address.
    Peer,
    /// Each mount point.
    Mount,
    /// Each device the node polls, by name.
    Device,
    /// Each limit of the agent, by its word.
    Limit,
}

/// How much depends on a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Priority {
    /// An estimate needs it.
    P0,
    /// Users expect it.
    P1,
    /// Told because its source is at hand.
    P2,
}

/// One row of the catalogue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// The metric.
    pub metric: Metric,
    /// Number on the wire and on disk.
    pub code: u16,
    /// Dotted name.
    pub name: &'static str,
    /// How its values behave.
    pub kind: Kind,
    /// What one unit of its value is.
    pub unit: Unit,
    /// Which parts it is told for.
    pub parted: Parted,
    /// How much depends on it.
    pub priority: Priority,
    /// What it means, one sentence.
    pub meaning: &'static str,
}

macro_rules! catalogue {
    ($($ident:ident = $code:literal, $name:literal, $kind:ident, $unit:ident, $parted:ident,
       $priority:ident, $meaning:literal;)*) => {
        /// A metric of the catalogue.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u16)]
        pub enum Metric {
            $(#[doc = $meaning] $ident = $code,)*
        }

        /// Every metric, in the order of the codes.
        pub const CATALOGUE: &[Entry] = &[
            $(Entry {
                metric: Metric::$ident,
                code: $code,
                name: $name,
                kind: Kind::$kind,
                unit: Unit::$unit,
                parted: Parted::$parted,
                priority: Priority::$priority,
                meaning: $meaning,
            },)*
        ];

        impl Metric {
            /// Returns the row of the catalogue.
            pub const fn entry(self) -> Entry {
                match self {
                    $(Self::$ident => Entry {
                        metric: Self::$ident,
                        code: $code,
                        name: $name,
                        kind: Kind::$kind,
                        unit: Unit::$unit,
                        parted: Parted::$parted,
                        priority: Priority::$priority,
                        meaning: $meaning,
                    },)*
                }
            }

            /// Finds a metric by its code; codes of later releases are not known.
            pub const fn from_code(code: u16) -> Option<Self> {
                match code {
                    $($code => Some(Self::$ident),)*
                    _ => None,
                }
            }
        }
    };
}

// Metric = code, name, kind, unit, part, priority, meaning.
#[rustfmt::skip]
catalogue! {
    VmState = 1, "vm.state", Gauge, Enumeration, Whole, P0, "State of the domain, libvirt's number.";
    VmStateReason = 2, "vm.state.reason", Gauge, Enumeration, Whole, P0, "Reason of the state, libvirt's number.";
    VmCpuTime = 3, "vm.cpu.time", Counter, Nanoseconds, Whole, P0, "Processor time of the whole QEMU process.";
    VmCpuUser = 4, "vm.cpu.user", Counter, Nanoseconds, Whole, P1, "Processor time of the QEMU process in user mode.";
    VmCpuSystem = 5, "vm.cpu.system", Counter, Nanoseconds, Whole, P1, "Processor time of the QEMU process in the kernel.";
    VmVcpuCount = 6, "vm.vcpu.count", Gauge, Count, Whole, P0, "Virtual processors that are online.";
    VmVcpuMax = 7, "vm.vcpu.max", Gauge, Count, Whole, P0, "Virtual processors at most.";
    VmVcpuTime = 8, "vm.vcpu.time", Counter, Nanoseconds, Vcpu, P0, "Processor time of one virtual processor.";
    VmVcpuDelay = 9, "vm.vcpu.delay", Counter, Nanoseconds, Vcpu, P0, "Time one virtual processor was ready but not run (steal).";
    VmMemCurrent = 10, "vm.mem.current", Gauge, Bytes, Whole, P0, "Balloon target.";
    VmMemMax = 11, "vm.mem.max", Gauge, Bytes, Whole, P0, "Memory of the guest at most.";
    VmMemRss = 12, "vm.mem.rss", Gauge, Bytes, Whole, P0, "Resident memory of the QEMU process; not what the guest uses.";
    VmMemGuestAvailable = 13, "vm.mem.guest.available", Gauge, Bytes, Whole, P0, "Memory the guest's kernel manages (its total, not what is free).";
    VmMemGuestUsable = 14, "vm.mem.guest.usable", Gauge, Bytes, Whole, P0, "Memory the guest could use without swapping.";
    VmMemGuestUnused = 15, "vm.mem.guest.unused", Gauge, Bytes, Whole, P0, "Memory the guest left untouched.";
    VmMemGuestDiskCaches = 16, "vm.mem.guest.disk_caches", Gauge, Bytes, Whole, P0, "Memory the guest could reclaim from its caches.";
    VmMemGuestLastUpdate = 17, "vm.mem.guest.last_update", Gauge, UnixSeconds, Whole, P0, "When the guest last told its memory; absent without a balloon driver.";
    VmMemZeroFraction = 18, "vm.mem.zero_fraction", Gauge, Millionths, Whole, P0, "Share of memory that was never touched: 1 - resident / current.";
    VmDirtyRate = 19, "vm.dirty.rate", Gauge, BytesPerSecond, WindowMs, P0, "Unique memory made dirty within the window, per second.";
    VmDirtyMode = 20, "vm.dirty.mode", Gauge, Enumeration, WindowMs, P0, "How it was measured: 0 page sampling, 1 dirty bitmap, 2 dirty ring.";
    VmDirtyStartedAt = 21, "vm.dirty.started_at", Gauge, UnixMilliseconds, WindowMs, P0, "When the measurement was started, by the agent's own clock.";
    VmDirtySampleSd = 22, "vm.dirty.sample_sd", Gauge, BytesPerSecond, WindowMs, P0, "Standard deviation of the measured rate that sampling alone explains.";
    VmDirtyWss = 23, "vm.dirty.wss", Gauge, Bytes, Whole, P0, "Working set that a fit of the windows gives.";
    VmDirtyHotRate = 24, "vm.dirty.hot_rate", Gauge, BytesPerSecond, Whole, P0, "Rate of first writes into the working set that the same fit gives.";
    VmBlockRdReqs = 25, "vm.block.rd.reqs", Counter, Count, Disk, P0, "Requests that read.";
    VmBlockRdBytes = 26, "vm.block.rd.bytes", Counter, Bytes, Disk, P0, "Bytes read.";
    VmBlockRdTime = 27, "vm.block.rd.time", Counter, Nanoseconds, Disk, P0, "Time spent in requests that read.";
    VmBlockWrReqs = 28, "vm.block.wr.reqs", Counter, Count, Disk, P0, "Requests that wrote.";
    VmBlockWrBytes = 29, "vm.block.wr.bytes", Counter, Bytes, Disk, P0, "Bytes written.";
    VmBlockWrTime = 30, "vm.block.wr.time", Counter, Nanoseconds, Disk, P0, "Time spent in requests that wrote.";
    VmBlockFlReqs = 31, "vm.block.fl.reqs", Counter, Count, Disk, P0, "Flush requests.";
    VmBlockFlTime = 32, "vm.block.fl.time", Counter, Nanoseconds, Disk, P0, "Time spent in flush requests.";
    VmBlockCapacity = 33, "vm.block.capacity", Gauge, Bytes, Disk, P1, "Size of the disk as the guest sees it.";
    VmBlockAllocation = 34, "vm.block.allocation", Gauge, Bytes, Disk, P1, "Bytes the disk takes on the host.";
    VmBlockPhysical = 35, "vm.block.physical", Gauge, Bytes, Disk, P1, "Size of the file or device behind the disk.";
    VmNetRxBytes = 36, "vm.net.rx.bytes", Counter, Bytes, NetworkCard, P0, "Bytes received by the guest.";
    VmNetRxPackets = 37, "vm.net.rx.packets", Counter, Packets, NetworkCard, P0, "Packets received by the guest.";
    VmNetRxErrs = 38, "vm.net.rx.errs", Counter, Count, NetworkCard, P0, "Errors in packets received by the guest.";
    VmNetRxDrop = 39, "vm.net.rx.drop", Counter, Packets, NetworkCard, P0, "Packets dropped of those received by the guest.";
    VmNetTxBytes = 40, "vm.net.tx.bytes", Counter, Bytes, NetworkCard, P0, "Bytes sent by the guest.";
    VmNetTxPackets = 41, "vm.net.tx.packets", Counter, Packets, NetworkCard, P0, "Packets sent by the guest.";
    VmNetTxErrs = 42, "vm.net.tx.errs", Counter, Count, NetworkCard, P0, "Errors in packets sent by the guest.";
    VmNetTxDrop = 43, "vm.net.tx.drop", Counter, Packets, NetworkCard, P0, "Packets dropped of those sent by the guest.";
    VmMigActive = 44, "vm.mig.active", Gauge, Enumeration, Whole, P0, "Whether a migration job runs: 0 no, 1 yes.";
    VmMigOperation = 45, "vm.mig.operation", Gauge, Enumeration, Whole, P0, "Operation of the job, libvirt's number.";
    VmMigIteration = 46, "vm.mig.iteration", Gauge, Count, Whole, P0, "Pass over the memory.";
    VmMigElapsed = 47, "vm.mig.elapsed", Gauge, Milliseconds, Whole, P0, "Time since the migration began.";
    VmMigSetup = 48, "vm.mig.setup", Gauge, Milliseconds, Whole, P0, "Time spent before the first byte.";
    VmMigMemTotal = 49, "vm.mig.mem.total", Gauge, Bytes, Whole, P0, "Memory to migrate, zero pages included.";
    VmMigMemProcessed = 50, "vm.mig.mem.processed", Gauge, Bytes, Whole, P0, "Memory sent so far; may exceed the total.";
    VmMigMemRemaining = 51, "vm.mig.mem.remaining", Gauge, Bytes, Whole, P0, "Memory left to send.";
    VmMigMemConstantPages = 52, "vm.mig.mem.constant_pages", Gauge, Pages, Whole, P0, "Pages that were all zero.";
    VmMigMemNormalPages = 53, "vm.mig.mem.normal_pages", Gauge, Pages, Whole, P0, "Pages sent in full.";
    VmMigMemNormalBytes = 54, "vm.mig.mem.normal_bytes", Gauge, Bytes, Whole, P0, "Bytes of pages sent in full.";
    VmMigMemBps = 55, "vm.mig.mem.bps", Gauge, BytesPerSecond, Whole, P0, "Throughput of the migration.";
    VmMigMemDirtyPagesPerS = 56, "vm.mig.mem.dirty_pages_per_s", Gauge, PagesPerSecond, Whole, P0, "Pages made dirty per second; 0 in the first pass.";
    VmMigMemPageSize = 57, "vm.mig.mem.page_size", Gauge, Bytes, Whole, P0, "Size of a page.";
    VmMigMemPostcopyReqs = 58, "vm.mig.mem.postcopy_reqs", Gauge, Count, Whole, P0, "Pages the target had to ask for.";
    VmMigDowntimeExpected = 59, "vm.mig.downtime_expected", Gauge, Milliseconds, Whole, P0, "Downtime QEMU expects while the migration runs.";
    VmMigThrottle = 60, "vm.mig.throttle", Gauge, Millionths, Whole, P0, "Share of processor time auto-converge takes away.";
    VmMemSwappedByHost = 61, "vm.mem.swapped_by_host", Gauge, Bytes, Whole, P1, "Memory of the QEMU process that the host swapped out.";
    VmMemTouched = 62, "vm.mem.touched", Gauge, Bytes, Whole, P0, "Guest memory that the host ever gave pages to; the rest is zero.";
    VmMemSwapIn = 63, "vm.mem.swap_in", Counter, Bytes, Whole, P1, "Memory the guest read back from its own swap.";
    VmMemSwapOut = 64, "vm.mem.swap_out", Counter, Bytes, Whole, P1, "Memory the guest wrote to its own swap.";
    VmMemMajorFault = 65, "vm.mem.major_fault", Counter, Count, Whole, P1, "Faults of the guest that took a disk to serve.";
    VmMemMinorFault = 66, "vm.mem.minor_fault", Counter, Count, Whole, P1, "Faults of the guest that took no disk to serve.";
    VmMemHugetlbPgalloc = 67, "vm.mem.hugetlb_pgalloc", Counter, Count, Whole, P1, "Huge pages the guest got.";
    VmMemHugetlbPgfail = 68, "vm.mem.hugetlb_pgfail", Counter, Count, Whole, P1, "Huge pages the guest asked for and did not get.";
    VmMemPss = 69, "vm.mem.pss", Gauge, Bytes, Whole, P0, "Memory of the QEMU process, shared pages divided by those who share them.";
    VmMemAnonHuge = 70, "vm.mem.anon_huge", Gauge, Bytes, Whole, P0, "Memory of the QEMU process in transparent huge pages.";
    VmMemZeroCounted = 71, "vm.mem.zero_counted", Gauge, Millionths, Whole, P0, "Share of memory that the first pass of a migration found to be all zero.";
    VmCpuHaltpollSuccess = 72, "vm.cpu.haltpoll.success", Counter, Nanoseconds, Whole, P2, "Time of polling for work that came.";
    VmCpuHaltpollFail = 73, "vm.cpu.haltpoll.fail", Counter, Nanoseconds, Whole, P2, "Time of polling for work that did not come.";
    VmVcpuWait = 74, "vm.vcpu.wait", Counter, Nanoseconds, Vcpu, P2, "Time one virtual processor waited for anything; 0 on kernels that do not count it.";
    VmVcpuHalted = 75, "vm.vcpu.halted", Gauge, Enumeration, Vcpu, P1, "Whether the guest halted one virtual processor: 0 no, 1 yes.";
    VmVcpuPcpu = 76, "vm.vcpu.pcpu", Gauge, Enumeration, Vcpu, P1, "Processor of the node that ran one virtual processor last, by number.";
    VmVcpuAffinity = 77, "vm.vcpu.affinity", Gauge, Count, Vcpu, P1, "Processors of the node that may run one virtual processor.";
    VmVcpuExits = 78, "vm.vcpu.exits", Counter, Count, Vcpu, P2, "Times one virtual processor left the guest.";
    VmVcpuHaltExits = 79, "vm.vcpu.halt_exits", Counter, Count, Vcpu, P2, "Times one virtual processor left the guest because it had nothing to do.";
    VmDirtyStatus = 80, "vm.dirty.status", Gauge, Enumeration, WindowMs, P0, "State of the measurement: 0 not begun, 1 under way, 2 done.";
    VmDirtySamplePages = 81, "vm.dirty.sample_pages", Gauge, Pages, WindowMs, P0, "Pages of each GiB that the measurement looked at.";
    VmDirtyPassRate = 82, "vm.dirty.pass.rate", Gauge, BytesPerSecond, Whole, P0, "Unique memory made dirty during one pass of a migration, per second of its window.";
    VmBlockThreshold = 83, "vm.block.threshold", Gauge, Bytes, Disk, P1, "Offset whose writing raises an event.";
    VmBlockIotuneTotalBytes = 84, "vm.block.iotune.total.bytes", Gauge, BytesPerSecond, Disk, P1, "Most bytes that all requests may move.";
    VmBlockIotuneRdBytes = 85, "vm.block.iotune.rd.bytes", Gauge, BytesPerSecond, Disk, P1, "Most bytes that requests that read may move.";
    VmBlockIotuneWrBytes = 86, "vm.block.iotune.wr.bytes", Gauge, BytesPerSecond, Disk, P1, "Most bytes that requests that write may move.";
    VmBlockIotuneTotalReqs = 87, "vm.block.iotune.total.reqs", Gauge, PerSecond, Disk, P1, "All requests at most.";
    VmBlockIotuneRdReqs = 88, "vm.block.iotune.rd.reqs", Gauge, PerSecond, Disk, P1, "Requests that read at most.";
    VmBlockIotuneWrReqs = 89, "vm.block.iotune.wr.reqs", Gauge, PerSecond, Disk, P1, "Requests that write at most.";
    VmMigDiskTotal = 90, "vm.mig.disk.total", Gauge, Bytes, Whole, P1, "Disks to migrate.";
    VmMigDiskProcessed = 91, "vm.mig.disk.processed", Gauge, Bytes, Whole, P1, "Bytes of disks sent so far.";
    VmMigDiskRemaining = 92, "vm.mig.disk.remaining", Gauge, Bytes, Whole, P1, "Bytes of disks left to send.";
    VmMigDiskBps = 93, "vm.mig.disk.bps", Gauge, BytesPerSecond, Whole, P1, "Throughput of the disks.";
    VmMigCompressionCache = 94, "vm.mig.compression.cache", Gauge, Bytes, Whole, P0, "Cache in which pages are compared before they are sent.";
    VmMigCompressionBytes = 95, "vm.mig.compression.bytes", Gauge, Bytes, Whole, P0, "Bytes sent of compressed pages.";
    VmMigCompressionPages = 96, "vm.mig.compression.pages", Gauge, Pages, Whole, P0, "Pages sent compressed.";
    VmMigCompressionCacheMisses = 97, "vm.mig.compression.cache_misses", Gauge, Count, Whole, P0, "Pages that were not in the cache.";
    VmMigCompressionOverflow = 98, "vm.mig.compression.overflow", Gauge, Count, Whole, P0, "Pages that grew when compressed.";
    VmMigVfioTransferred = 99, "vm.mig.vfio_transferred", Gauge, Bytes, Whole, P0, "State of passed-through devices sent so far.";
    VmPerfCmt = 100, "vm.perf.cmt", Gauge, Bytes, Whole, P2, "Last-level cache in use.";
    VmPerfMbmt = 101, "vm.perf.mbmt", Counter, Bytes, Whole, P2, "Memory traffic in all.";
    VmPerfMbml = 102, "vm.perf.mbml", Counter, Bytes, Whole, P2, "Memory traffic within the NUMA node.";
    VmPerfCpuCycles = 103, "vm.perf.cpu_cycles", Counter, Count, Whole, P2, "Processor cycles.";
    VmPerfInstructions = 104, "vm.perf.instructions", Counter, Count, Whole, P2, "Instructions executed.";
    VmPerfCacheReferences = 105, "vm.perf.cache_references", Counter, Count, Whole, P2, "Cache accesses.";
    VmPerfCacheMisses = 106, "vm.perf.cache_misses", Counter, Count, Whole, P2, "Cache misses.";
    VmPerfBranchInstructions = 107, "vm.perf.branch_instructions", Counter, Count, Whole, P2, "Branches.";
    VmPerfBranchMisses = 108, "vm.perf.branch_misses", Counter, Count, Whole, P2, "Branches that were guessed wrong.";
    VmPerfBusCycles = 109, "vm.perf.bus_cycles", Counter, Count, Whole, P2, "Bus cycles.";
    VmPerfStalledCyclesFrontend = 110, "vm.perf.stalled_cycles_frontend", Counter, Count, Whole, P2, "Cycles in which no instruction could be fetched.";
    VmPerfStalledCyclesBackend = 111, "vm.perf.stalled_cycles_backend", Counter, Count, Whole, P2, "Cycles in which no instruction could be finished.";
    VmPerfRefCpuCycles = 112, "vm.perf.ref_cpu_cycles", Counter, Count, Whole, P2, "Processor cycles at a steady clock.";
    VmPerfCpuClock = 113, "vm.perf.cpu_clock", Counter, Nanoseconds, Whole, P2, "Time by the clock of the processor.";
    VmPerfTaskClock = 114, "vm.perf.task_clock", Counter, Nanoseconds, Whole, P2, "Time by the clock of the task.";
    VmPerfPageFaults = 115, "vm.perf.page_faults", Counter, Count, Whole, P2, "Page faults.";
    VmPerfContextSwitches = 116, "vm.perf.context_switches", Counter, Count, Whole, P2, "Context switches.";
    VmPerfCpuMigrations = 117, "vm.perf.cpu_migrations", Counter, Count, Whole, P2, "Changes of processor.";
    VmPerfPageFaultsMin = 118, "vm.perf.page_faults_min", Counter, Count, Whole, P2, "Page faults that took no disk.";
    VmPerfPageFaultsMaj = 119, "vm.perf.page_faults_maj", Counter, Count, Whole, P2, "Page faults that took a disk.";
    VmPerfAlignmentFaults = 120, "vm.perf.alignment_faults", Counter, Count, Whole, P2, "Alignment faults.";
    VmPerfEmulationFaults = 121, "vm.perf.emulation_faults", Counter, Count, Whole, P2, "Emulation faults.";
    HostCpuTimeUser = 1000, "host.cpu.time.user", Counter, Nanoseconds, Cpu, P0, "Time of one processor in mode user.";
    HostCpuTimeNice = 1001, "host.cpu.time.nice", Counter, Nanoseconds, Cpu, P0, "Time of one processor in mode nice.";
    HostCpuTimeSystem = 1002, "host.cpu.time.system", Counter, Nanoseconds, Cpu, P0, "Time of one processor in mode system.";
    HostCpuTimeIdle = 1003, "host.cpu.time.idle", Counter, Nanoseconds, Cpu, P0, "Time of one processor in mode idle.";
    HostCpuTimeIowait = 1004, "host.cpu.time.iowait", Counter, Nanoseconds, Cpu, P0, "Time of one processor in mode iowait.";
    HostCpuTimeIrq = 1005, "host.cpu.time.irq", Counter, Nanoseconds, Cpu, P0, "Time of one processor in mode irq.";
    HostCpuTimeSoftirq = 1006, "host.cpu.time.softirq", Counter, Nanoseconds, Cpu, P0, "Time of one processor in mode softirq.";
    HostCpuTimeSteal = 1007, "host.cpu.time.steal", Counter, Nanoseconds, Cpu, P0, "Time of one processor in mode steal.";
    HostCpuTimeGuest = 1008, "host.cpu.time.guest", Counter, Nanoseconds, Cpu, P0, "Time of one processor in mode guest (already inside user).";
    HostCpuTimeGuestNice = 1009, "host.cpu.time.guest_nice", Counter, Nanoseconds, Cpu, P0, "Time of one processor in mode guest_nice (already inside nice).";
    HostCpuCount = 1010, "host.cpu.count", Gauge, Count, Whole, P0, "Processors installed.";
    HostCpuOnline = 1011, "host.cpu.online", Gauge, Count, Whole, P0, "Processors online.";
    HostCpuFreqCur = 1012, "host.cpu.freq_cur", Gauge, Hertz, Cpu, P0, "Present clock of one processor.";
    HostCpuFreqMax = 1013, "host.cpu.freq_max", Gauge, Hertz, Cpu, P0, "Highest clock of one processor.";
    HostLoad1 = 1014, "host.load1", Gauge, Millionths, Whole, P1, "Load average over 1 min.";
    HostLoad5 = 1015, "host.load5", Gauge, Millionths, Whole, P1, "Load average over 5 min.";
    HostLoad15 = 1016, "host.load15", Gauge, Millionths, Whole, P1, "Load average over 15 min.";
    HostPsiCpuSome = 1017, "host.psi.cpu.some.total", Counter, Nanoseconds, Whole, P0, "Time in which some tasks waited for cpu.";
    HostPsiCpuFull = 1018, "host.psi.cpu.full.total", Counter, Nanoseconds, Whole, P0, "Time in which all tasks waited for cpu.";
    HostPsiMemorySome = 1019, "host.psi.memory.some.total", Counter, Nanoseconds, Whole, P0, "Time in which some tasks waited for memory.";
    HostPsiMemoryFull = 1020, "host.psi.memory.full.total", Counter, Nanoseconds, Whole, P0, "Time in which all tasks waited for memory.";
    HostPsiIoSome = 1021, "host.psi.io.some.total", Counter, Nanoseconds, Whole, P0, "Time in which some tasks waited for io.";
    HostPsiIoFull = 1022, "host.psi.io.full.total", Counter, Nanoseconds, Whole, P0, "Time in which all tasks waited for io.";
    HostMemTotal = 1023, "host.mem.total", Gauge, Bytes, Whole, P0, "Memory installed.";
    HostMemAvailable = 1024, "host.mem.available", Gauge, Bytes, Whole, P0, "Memory that could be used without swapping.";
    HostMemFree = 1025, "host.mem.free", Gauge, Bytes, Whole, P0, "Memory in no use.";
    HostMemBuffers = 1026, "host.mem.buffers", Gauge, Bytes, Whole, P0, "Memory in buffers.";
    HostMemCached = 1027, "host.mem.cached", Gauge, Bytes, Whole, P0, "Memory in the page cache.";
    HostMemSlab = 1028, "host.mem.slab", Gauge, Bytes, Whole, P0, "Memory of kernel objects.";
    HostMemCommitted = 1029, "host.mem.committed", Gauge, Bytes, Whole, P0, "Memory promised to processes.";
    HostMemSwapTotal = 1030, "host.mem.swap_total", Gauge, Bytes, Whole, P0, "Swap space.";
    HostMemSwapFree = 1031, "host.mem.swap_free", Gauge, Bytes, Whole, P0, "Swap space in no use.";
    HostMemNumaTotal = 1032, "host.mem.numa.total", Gauge, Bytes, NumaNode, P0, "Memory of one NUMA node.";
    HostMemNumaFree = 1033, "host.mem.numa.free", Gauge, Bytes, NumaNode, P0, "Free memory of one NUMA node.";
    HostHugepagesTotal = 1034, "host.hugepages.total", Gauge, Pages, PageSizeKib, P0, "Huge pages of one size.";
    HostHugepagesFree = 1035, "host.hugepages.free", Gauge, Pages, PageSizeKib, P0, "Huge pages of one size in no use.";
    HostHugepagesResv = 1036, "host.hugepages.resv", Gauge, Pages, PageSizeKib, P0, "Huge pages of one size promised but not yet used.";
    HostNetRxBytes = 1037, "host.net.rx.bytes", Counter, Bytes, Interface, P0, "Bytes received by an interface.";
    HostNetRxPackets = 1038, "host.net.rx.packets", Counter, Packets, Interface, P0, "Packets received by an interface.";
    HostNetRxErrs = 1039, "host.net.rx.errs", Counter, Count, Interface, P0, "Errors in packets received by an interface.";
    HostNetRxDrop = 1040, "host.net.rx.drop", Counter, Packets, Interface, P0, "Packets dropped of those received by an interface.";
    HostNetTxBytes = 1041, "host.net.tx.bytes", Counter, Bytes, Interface, P0, "Bytes sent by an interface.";
    HostNetTxPackets = 1042, "host.net.tx.packets", Counter, Packets, Interface, P0, "Packets sent by an interface.";
    HostNetTxErrs = 1043, "host.net.tx.errs", Counter, Count, Interface, P0, "Errors in packets sent by an interface.";
    HostNetTxDrop = 1044, "host.net.tx.drop", Counter, Packets, Interface, P0, "Packets dropped of those sent by an interface.";
    HostNetSpeed = 1045, "host.net.speed", Gauge, BytesPerSecond, Interface, P0, "Speed of an interface; absent where the driver does not know it.";
    HostNetMtu = 1046, "host.net.mtu", Gauge, Bytes, Interface, P0, "Largest packet of an interface.";
    HostNetOperstate = 1047, "host.net.operstate", Gauge, Enumeration, Interface, P0, "Whether an interface is up: 0 no, 1 yes.";
    HostNetPathRttP50 = 1048, "host.net.path.rtt_p50", Gauge, Nanoseconds, Peer, P0, "Median round trip to a peer on the migration network.";
    HostNetPathRttP99 = 1049, "host.net.path.rtt_p99", Gauge, Nanoseconds, Peer, P0, "99th percentile of the round trip to a peer.";
    HostNetPathLoss = 1050, "host.net.path.loss", Gauge, Millionths, Peer, P0, "Share of probes to a peer that were lost.";
    HostNetPathCapacity = 1051, "host.net.path.capacity_est", Gauge, BytesPerSecond, Peer, P0, "What the link of this node has left on the way to a peer: its speed less its own traffic. What finished migrations reached bounds it in estimates.";
    HostDiskRdOps = 1052, "host.disk.rd.ops", Counter, Count, Disk, P0, "Requests that read.";
    HostDiskRdBytes = 1053, "host.disk.rd.bytes", Counter, Bytes, Disk, P0, "Bytes read.";
    HostDiskRdTime = 1054, "host.disk.rd.time", Counter, Nanoseconds, Disk, P0, "Time spent in requests that read.";
    HostDiskWrOps = 1055, "host.disk.wr.ops", Counter, Count, Disk, P0, "Requests that wrote.";
    HostDiskWrBytes = 1056, "host.disk.wr.bytes", Counter, Bytes, Disk, P0, "Bytes written.";
    HostDiskWrTime = 1057, "host.disk.wr.time", Counter, Nanoseconds, Disk, P0, "Time spent in requests that wrote.";
    HostDiskIoTime = 1058, "host.disk.io_time", Counter, Nanoseconds, Disk, P0, "Time in which the disk was busy.";
    HostDiskWeighted = 1059, "host.disk.weighted", Counter, Nanoseconds, Disk, P0, "Time in requests, each counted.";
    HostDiskInflight = 1060, "host.disk.inflight", Gauge, Count, Disk, P0, "Requests under way.";
    HostFsSize = 1061, "host.fs.size", Gauge, Bytes, Mount, P0, "Size of a file system.";
    HostFsAvail = 1062, "host.fs.avail", Gauge, Bytes, Mount, P0, "Space of a file system that is left to users.";
    HostLibvirtUp = 1063, "host.libvirt.up", Gauge, Enumeration, Whole, P0, "Whether the agent reaches libvirt: 0 no, 1 yes.";
    HostLibvirtCallLatency = 1064, "host.libvirt.call_latency", Gauge, Nanoseconds, Whole, P0, "Longest libvirt call of the interval.";
    HostLibvirtCallsTimedOut = 1065, "host.libvirt.calls_timed_out", Counter, Count, Whole, P0, "Libvirt calls that missed their deadline.";
    HostAllocVcpuTotal = 1066, "host.alloc.vcpu.total", Gauge, Count, Whole, P0, "Amount that can be given to guests, before ratio and reserve, virtual processors.";
    HostAllocVcpuReserved = 1067, "host.alloc.vcpu.reserved", Gauge, Count, Whole, P0, "Amount kept for the host, virtual processors.";
    HostAllocVcpuUsed = 1068, "host.alloc.vcpu.used", Gauge, Count, Whole, P0, "Sum over the guests defined as running, virtual processors.";
    HostAllocVcpuRatio = 1069, "host.alloc.vcpu.ratio", Gauge, Millionths, Whole, P0, "Overcommit ratio, virtual processors.";
    HostAllocMemTotal = 1070, "host.alloc.mem.total", Gauge, Bytes, Whole, P0, "Amount that can be given to guests, before ratio and reserve, memory.";
    HostAllocMemReserved = 1071, "host.alloc.mem.reserved", Gauge, Bytes, Whole, P0, "Amount kept for the host, memory.";
    HostAllocMemUsed = 1072, "host.alloc.mem.used", Gauge, Bytes, Whole, P0, "Sum over the guests defined as running, memory.";
    HostAllocMemRatio = 1073, "host.alloc.mem.ratio", Gauge, Millionths, Whole, P0, "Overcommit ratio, memory.";
    HostHugepagesNumaTotal = 1074, "host.hugepages.numa.total", Gauge, Pages, NumaPageSizeKib, P0, "Huge pages of one size on one NUMA node.";
    HostHugepagesNumaFree = 1075, "host.hugepages.numa.free", Gauge, Pages, NumaPageSizeKib, P0, "Huge pages of one size on one NUMA node in no use.";
    HostKsmShared = 1076, "host.ksm.shared", Gauge, Pages, Whole, P1, "Pages that stand for several alike.";
    HostKsmSharing = 1077, "host.ksm.sharing", Gauge, Pages, Whole, P1, "Pages saved by being alike; they come back when written to.";
    HostKsmUnshared = 1078, "host.ksm.unshared", Gauge, Pages, Whole, P1, "Pages that are looked at again and again and have no like.";
    HostKsmVolatile = 1079, "host.ksm.volatile", Gauge, Pages, Whole, P1, "Pages that change too fast to be merged.";
    HostKsmFullScans = 1080, "host.ksm.full_scans", Counter, Count, Whole, P1, "Times all memory was looked through for pages alike.";
    HostVmstatPgmajfault = 1081, "host.vmstat.pgmajfault", Counter, Count, Whole, P1, "Faults that took a disk to serve.";
    HostVmstatPswpin = 1082, "host.vmstat.pswpin", Counter, Pages, Whole, P1, "Pages read back from swap.";
    HostVmstatPswpout = 1083, "host.vmstat.pswpout", Counter, Pages, Whole, P1, "Pages written to swap.";
    HostVmstatOomKill = 1084, "host.vmstat.oom_kill", Counter, Count, Whole, P1, "Processes killed for want of memory.";
    HostSliceQemuCpuUsage = 1085, "host.slice.qemu.cpu.usage", Counter, Nanoseconds, Whole, P1, "Processor time of all guests together.";
    HostSliceQemuCpuThrottled = 1086, "host.slice.qemu.cpu.throttled", Counter, Nanoseconds, Whole, P1, "Time in which guests were held back by a quota.";
    HostSliceQemuMemCurrent = 1087, "host.slice.qemu.mem.current", Gauge, Bytes, Whole, P1, "Memory of all guests together.";
    HostSliceQemuIoRdBytes = 1088, "host.slice.qemu.io.rd.bytes", Counter, Bytes, Whole, P1, "Bytes read by all guests together.";
    HostSliceQemuIoWrBytes = 1089, "host.slice.qemu.io.wr.bytes", Counter, Bytes, Whole, P1, "Bytes written by all guests together.";
    HostSliceQemuIoRdOps = 1090, "host.slice.qemu.io.rd.ops", Counter, Count, Whole, P1, "Requests to read by all guests together.";
    HostSliceQemuIoWrOps = 1091, "host.slice.qemu.io.wr.ops", Counter, Count, Whole, P1, "Requests to write by all guests together.";
    HostAllocPcpuTotal = 1092, "host.alloc.pcpu.total", Gauge, Count, Whole, P0, "Processors kept for guests that are bound to them; never overcommitted.";
    HostAllocPcpuUsed = 1093, "host.alloc.pcpu.used", Gauge, Count, Whole, P0, "Virtual processors of running guests that are bound to processors.";
    HostAllocDiskTotal = 1094, "host.alloc.disk.total", Gauge, Bytes, Whole, P0, "Amount that can be given to guests, before ratio and reserve, local disk space.";
    HostAllocDiskReserved = 1095, "host.alloc.disk.reserved", Gauge, Bytes, Whole, P0, "Amount kept for the host, local disk space.";
    HostAllocDiskUsed = 1096, "host.alloc.disk.used", Gauge, Bytes, Whole, P0, "Sum over the running guests, local disk space as the guests see it.";
    HostAllocDiskRatio = 1097, "host.alloc.disk.ratio", Gauge, Millionths, Whole, P0, "Overcommit ratio, local disk space.";
    HostSnmpUp = 1100, "host.snmp.up", Gauge, Enumeration, Device, P0, "Whether a device answers the node that polls it: 0 no, 1 yes.";
    HostSnmpPollTime = 1101, "host.snmp.poll_time", Gauge, Nanoseconds, Device, P1, "How long the last whole poll of a device took.";
    HostUptime = 1102, "host.uptime", Gauge, Milliseconds, Whole, P1, "Time since a polled device's SNMP agent started (sysUpTime).";
    HostAgentLimitMet = 1103, "host.agent.limit_met", Counter, Count, Limit, P2, "How often something was refused or dropped at a limit of the node's agent (LIMITS.md).";
}

impl Metric {
    /// Returns the number on the wire and on disk.
    pub const fn code(self) -> u16 {
        self.entry().code
    }

    /// Returns the dotted name.
    pub const fn name(self) -> &'static str {
        self.entry().name
    }

    /// Returns how its values behave.
    pub const fn kind(self) -> Kind {
        self.entry().kind
    }

    /// Returns what one unit of its value is.
    pub const fn unit(self) -> Unit {
        self.entry().unit
    }

    /// Finds a metric by its dotted name.
    pub fn from_name(name: &str) -> Option<Self> {
        CATALOGUE
            .iter()
            .find(|entry| entry.name == name)
            .map(|entry| entry.metric)
    }
}

impl std::fmt::Display for Metric {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn codes_and_names_are_unique_and_lead_back() {
        let codes: BTreeSet<u16> = CATALOGUE.iter().map(|entry| entry.code).collect();
        let names: BTreeSet<&str> = CATALOGUE.iter().map(|entry| entry.name).collect();
        assert_eq!(codes.len(), CATALOGUE.len());
        assert_eq!(names.len(), CATALOGUE.len());
        for entry in CATALOGUE {
            assert_eq!(Metric::from_code(entry.code), Some(entry.metric));
            assert_eq!(Metric::from_name(entry.name), Some(entry.metric));
        }
    }

    #[test]
    fn a_name_says_whose_metric_it_is_and_a_meaning_is_a_sentence() {
        for entry in CATALOGUE {
            let vm = entry.name.starts_with("vm.");
            assert!(vm || entry.name.starts_with("host."), "{}", entry.name);
            assert_eq!(vm, entry.code < 1000, "{}", entry.name);
            assert!(entry.meaning.ends_with('.'), "{}", entry.name);
        }
    }

    #[test]
    fn released_codes_keep_their_names() {
        // A change here breaks every store and every older agent.
        let released = [
            (1, "vm.state"),
            (3, "vm.cpu.time"),
            (12, "vm.mem.rss"),
            (19, "vm.dirty.rate"),
            (1000, "host.cpu.time.user"),
        ];
        for (code, name) in released {
            assert_eq!(Metric::from_code(code).map(Metric::name), Some(name));
        }
    }
}
