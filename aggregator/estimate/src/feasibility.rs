//! Whether a guest may move to a host at all: one finding for each constraint, with its evidence.
//! What is not known gives `Unknown`, never `Pass`. It fetches nothing and decides nothing for the caller.

mod checks;
mod text;

use plimsoll_model::{Bandwidth, ByteSize};

use crate::answer::Verdict;
use crate::headroom::Headroom;

/// What became of one constraint. The order is that of badness.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Outcome {
    /// It holds.
    Pass,
    /// It holds, but something speaks against the move.
    Warn,
    /// A fact is missing.
    Unknown,
    /// It does not hold.
    Fail,
}

/// A constraint on a move.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Constraint {
    /// What is known of both hosts is recent.
    Freshness,
    /// Both hosts run the same kind of hypervisor.
    HypervisorKind,
    /// The target's QEMU is not older than the source's.
    HypervisorVersion,
    /// The target has every processor feature the guest may use, and its clock.
    CpuFeatures,
    /// The target knows the machine type of the guest.
    MachineType,
    /// Both hosts are in one migration subnet.
    Subnet,
    /// Both hosts send packets of the same size on the migration network.
    Mtu,
    /// The round trip between the hosts is short enough.
    Latency,
    /// Every disk is reached from both hosts.
    SharedStorage,
    /// The source bears the cost of the move.
    SourceRoom,
    /// The target may be promised the guest and has room for it and for the cost of the move.
    TargetRoom,
    /// The target's storage serves the guest without too much loss.
    IopsLoss,
    /// The guest runs in one place, and the target has no other of its id.
    OneActive,
    /// No device of the source is passed through, and the guest's memory can leave its host.
    HostDevices,
    /// The target has the huge pages the guest needs.
    HugePages,
    /// The guest is bound to no processor or memory node of the source.
    Pinning,
    /// Neither the guest nor the hosts are busy with other moves.
    Jobs,
    /// The path carries the guest's changes away faster than they come.
    Convergence,
}

impl Constraint {
    /// Returns its name, such as `shared_storage`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Freshness => "freshness",
            Self::HypervisorKind => "hypervisor_kind",
            Self::HypervisorVersion => "hypervisor_version",
            Self::CpuFeatures => "cpu_features",
            Self::MachineType => "machine_type",
            Self::Subnet => "subnet",
            Self::Mtu => "mtu",
            Self::Latency => "latency",
            Self::SharedStorage => "shared_storage",
            Self::SourceRoom => "source_room",
            Self::TargetRoom => "target_room",
            Self::IopsLoss => "iops_loss",
            Self::OneActive => "one_active",
            Self::HostDevices => "host_devices",
            Self::HugePages => "huge_pages",
            Self::Pinning => "pinning",
            Self::Jobs => "jobs",
            Self::Convergence => "convergence",
        }
    }
}

/// What was found about one constraint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The constraint.
    pub constraint: Constraint,
    /// What became of it.
    pub outcome: Outcome,
    /// The facts and numbers it rests on, in one sentence.
    pub evidence: String,
}

/// A disk of the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disk {
    /// Name in the guest.
    pub target: String,
    /// Whether other hosts reach its storage; absent where that cannot be told.
    pub shared: Option<bool>,
    /// What hosts that mount its file system call it; absent where it lies in none that is shared.
    pub storage: Option<String>,
}

/// A device that the guest holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Device {
    /// Kind, such as `pci`.
    pub kind: String,
    /// Which one.
    pub address: String,
}

/// The guest that is to move. Absent is not known.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Guest {
    /// Virtual processors.
    pub vcpu_count: Option<u32>,
    /// Memory at most.
    pub memory: Option<ByteSize>,
    /// Machine type.
    pub machine: Option<String>,
    /// Processor mode or model.
    pub cpu_model: Option<String>,
    /// Whether its memory is in huge pages.
    pub huge_pages: Option<bool>,
    /// Processor features it cannot do without; none means not known.
    pub cpu_features: Vec<String>,
    /// Frequency of the time stamp counter it was promised, in Hz.
    pub tsc_hz: Option<u64>,
    /// Kind of protection of its memory from the host.
    pub launch_security: Option<String>,
    /// Whether it is bound to processors or memory nodes.
    pub pinned: Option<bool>,
    /// What it is bound to, in words; empty where it is not, or that is not known.
    pub bound_to: String,
    /// Devices of the host that are passed through.
    pub host_device_count: u32,
    /// Devices it holds, as far as they were named; they may be more than are passed through.
    pub devices: Vec<Device>,
    /// Disks.
    pub disks: Vec<Disk>,
    /// Requests per second to its disks.
    pub iops: Option<u64>,
    /// Host names on which it runs now.
    pub runs_on: Vec<String>,
    /// Whether a move of it is under way.
    pub moving: bool,
}

/// One end of the move. Absent is not known.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Host {
    /// Name.
    pub name: String,
    /// Time since it was last heard of, in milliseconds.
    pub silent_ms: u64,
    /// Kind of hypervisor.
    pub hypervisor: Option<String>,
    /// Version of QEMU.
    pub qemu_version: Option<String>,
    /// Processor model.
    pub cpu_model: Option<String>,
    /// Processor features; none means not known.
    pub cpu_flags: Vec<String>,
    /// Address with prefix length on the migration network.
    pub migration_address: Option<String>,
    /// Largest packet on the migration network.
    pub mtu_bytes: Option<u32>,
    /// Frequency of the time stamp counter, in Hz.
    pub tsc_hz: Option<u64>,
    /// Whether the processor can show a guest another frequency.
    pub tsc_scaling: Option<bool>,
    /// Shared file systems that it mounts, by the name that all hosts call them; absent is not told.
    pub storages: Option<Vec<String>>,
    /// Free huge pages in all.
    pub huge_pages_free: Option<ByteSize>,
    /// Room while it bears the cost of the move.
    pub room: Option<Headroom>,
    /// Requests per second its storage can still serve.
    pub iops_free: Option<u64>,
    /// Moves from or to it that are under way.
    pub move_count: u32,
    /// Whether it sees a domain of the guest's id already.
    pub sees_guest: bool,
}

/// The way between the hosts. Absent is not known.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Path {
    /// Median round trip, in nanoseconds.
    pub rtt_ns: Option<u64>,
    /// What the estimate says; absent if none was made.
    pub verdict: Option<Verdict>,
    /// Least bandwidth with which the move ends.
    pub bandwidth_needed: Option<Bandwidth>,
}

/// What is still allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Longest round trip, in nanoseconds.
    pub rtt_max_ns: u64,
    /// Largest loss of disk requests, in millionths of what the guest asks for.
    pub iops_loss_max_millionths: u64,
    /// Moves one host may have under way, this one not counted.
    pub moves_max: u32,
    /// Age beyond which data is stale, in milliseconds.
    pub silent_max_ms: u64,
}

impl Default for Limits {
    /// 5 ms, 10 %, one other move, 30 s.
    fn default() -> Self {
        Self {
            rtt_max_ns: 5_000_000,
            iops_loss_max_millionths: 100_000,
            moves_max: 1,
            silent_max_ms: 30_000,
        }
    }
}

/// A move to be judged.
#[derive(Debug, Clone, Copy)]
pub struct Move<'a> {
    /// The guest.
    pub guest: &'a Guest,
    /// Where it runs.
    pub source: &'a Host,
    /// Where it is to go.
    pub target: &'a Host,
    /// The way.
    pub path: Path,
}

/// Judges a move: one finding for each constraint, always in the same order.
pub fn check(one: &Move<'_>, limits: &Limits) -> Vec<Finding> {
    vec![
        checks::freshness(one, limits),
        checks::hypervisor_kind(one),
        checks::hypervisor_version(one),
        checks::cpu_features(one),
        checks::machine_type(one),
        checks::subnet(one),
        checks::mtu(one),
        checks::latency(one, limits),
        checks::shared_storage(one),
        checks::source_room(one),
        checks::target_room(one),
        checks::iops_loss(one, limits),
        checks::one_active(one),
        checks::host_devices(one),
        checks::huge_pages(one),
        checks::pinning(one),
        checks::jobs(one, limits),
        checks::convergence(one),
    ]
}

/// Returns the worst of all findings; `Pass` if there are none.
pub fn overall(findings: &[Finding]) -> Outcome {
    let worst = findings.iter().map(|finding| finding.outcome).max();
    worst.unwrap_or(Outcome::Pass)
}

#[cfg(test)]
mod tests;
