//! Typed inventory, sent whole when it changes. Facts are words about a thing, readings are numbers.

use std::time::Duration;

use crate::id::{DeviceId, DomainId, Incarnation, NodeId};
use crate::time::UnixMillis;
use crate::unit::{Bandwidth, ByteSize, Ratio};

/// A fact and the instant at which it was seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fact {
    /// About the node.
    Node {
        /// When it was seen.
        seen: UnixMillis,
        /// What was seen.
        facts: NodeFacts,
    },
    /// About one incarnation of a domain.
    Domain {
        /// When it was seen.
        seen: UnixMillis,
        /// What was seen.
        facts: DomainFacts,
    },
    /// About a device that the node polls.
    Device {
        /// When it was seen.
        seen: UnixMillis,
        /// What was seen.
        facts: PolledFacts,
    },
}

/// What a polled device is. Absent means that it never told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolledFacts {
    /// The device.
    pub device: DeviceId,
    /// The node that polls it.
    pub node: NodeId,
    /// Name in the configuration of that node.
    pub name: String,
    /// Address and port at which it is asked.
    pub address: String,
    /// Profile that says what it is asked for.
    pub profile: String,
    /// Time between two polls.
    pub interval: Duration,
    /// The name it gives itself (sysName).
    pub system_name: Option<String>,
    /// What it says of itself (sysDescr).
    pub description: Option<String>,
}

/// What a node is. Absent means not known.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodeFacts {
    /// Host name.
    pub hostname: String,
    /// Version of the agent.
    pub agent_version: String,
    /// Kernel release.
    pub kernel_release: Option<String>,
    /// Processor model, as the kernel names it.
    pub cpu_model: Option<String>,
    /// Processor features, sorted.
    pub cpu_flags: Vec<String>,
    /// Online processors.
    pub cpu_count: Option<u32>,
    /// Installed memory.
    pub memory: Option<ByteSize>,
    /// Hypervisor driver, `QEMU` for KVM and TCG alike; absent on a node without libvirt.
    pub hypervisor_type: Option<String>,
    /// Version of libvirt, such as `9.0.0`.
    pub libvirt_version: Option<String>,
    /// Version of QEMU, such as `7.2.0`.
    pub qemu_version: Option<String>,
    /// Interface of the migration network.
    pub migration_interface: Option<String>,
    /// Address of the node on the migration network with its prefix length, such as `10.0.0.5/24`.
    pub migration_address: Option<String>,
    /// Speed that migrations may count on: configured, or the card's.
    pub migration_bandwidth: Option<Bandwidth>,
    /// Network interfaces.
    pub interfaces: Vec<InterfaceFacts>,
    /// Overcommit and reserve of the node, where its configuration tells them.
    pub overcommit: Option<OvercommitFacts>,
    /// Frequency of the time stamp counter, in Hz.
    pub tsc_hz: Option<u64>,
    /// Whether the processor can show a guest another frequency.
    pub tsc_scaling: Option<bool>,
    /// File systems that hold files.
    pub file_systems: Vec<FileSystemFacts>,
}

/// A file system of a node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FileSystemFacts {
    /// Where it is mounted.
    pub mount: String,
    /// Kind, such as `xfs` or `nfs4`.
    pub kind: String,
    /// What other nodes that mount it call it too; absent for local ones.
    pub shared_id: Option<String>,
}

/// A network interface of a node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct InterfaceFacts {
    /// Name.
    pub name: String,
    /// Speed of the card; absent where the driver does not know it (virtio).
    pub speed: Option<Bandwidth>,
    /// Largest packet.
    pub mtu_bytes: Option<u32>,
    /// Whether the link is up.
    pub up: Option<bool>,
    /// Whether it sends and receives at once.
    pub full_duplex: Option<bool>,
    /// Bridge or bond that it is a part of.
    pub master: Option<String>,
    /// Addresses with their prefix lengths.
    pub addresses: Vec<String>,
}

/// How far a node may be promised beyond what it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OvercommitFacts {
    /// Virtual processors per processor.
    pub cpu_ratio: Ratio,
    /// Promised memory per installed memory.
    pub memory_ratio: Ratio,
    /// Processors kept for the host, taken off before the ratio.
    pub reserved_cpu_count: u32,
    /// Memory kept for the host, taken off before the ratio.
    pub reserved_memory: ByteSize,
}

/// What runs the guest's instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Accelerator {
    /// Hardware.
    Kvm,
    /// Software emulation.
    Tcg,
}

/// What a domain is. Absent means not known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DomainFacts {
    /// The domain.
    pub domain: DomainId,
    /// The node that sees it.
    pub node: NodeId,
    /// The QEMU process.
    pub incarnation: Incarnation,
    /// Name in libvirt.
    pub name: String,
    /// What runs its instructions.
    pub accelerator: Option<Accelerator>,
    /// Machine type, such as `pc-i440fx-7.2`.
    pub machine: Option<String>,
    /// Processor mode or model of the guest.
    pub cpu_model: Option<String>,
    /// Processors of the guest.
    pub vcpu_count: Option<u32>,
    /// Memory of the guest at most.
    pub memory_max: Option<ByteSize>,
    /// Whether its memory is in huge pages.
    pub huge_pages: Option<bool>,
    /// Disks.
    pub disks: Vec<DiskFacts>,
    /// Network cards.
    pub network_cards: Vec<NetworkCardFacts>,
    /// How many devices of the host are passed through.
    pub host_device_count: u32,
    /// What of its make-up binds it to hosts of some kind.
    pub hardware: HardwareFacts,
    /// Project that owns it, as Nova writes it into the domain's metadata; absent where none was told.
    pub project: Option<String>,
}

/// What of a domain's make-up binds it to hosts of some kind. Absent means not known.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HardwareFacts {
    /// How the processor is described: `custom`, `host-model`, `host-passthrough` or `maximum`.
    pub cpu_mode: Option<String>,
    /// Processor features that it was started with and cannot do without, sorted.
    pub cpu_features: Vec<String>,
    /// Frequency of the time stamp counter that the guest was promised, in Hz.
    pub tsc_hz: Option<u64>,
    /// What its memory is made of.
    pub memory: Option<MemoryFacts>,
    /// Kind of protection of its memory from the host, such as `sev`.
    pub launch_security: Option<String>,
    /// What stands behind its TPM, such as `emulator`.
    pub tpm: Option<String>,
    /// Devices of the host and of other programs on it that it holds.
    pub devices: Vec<DeviceFacts>,
    /// Where its processors and memory may be.
    pub pinning: Option<PinningFacts>,
}

/// What the memory of a domain is made of.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MemoryFacts {
    /// Where pages come from: `anonymous`, `file` or `memfd`; absent where nothing was chosen.
    pub source: Option<String>,
    /// Whether other programs on the host share it.
    pub shared: bool,
    /// Whether it can never be swapped out.
    pub locked: bool,
    /// Size of its pages where it is chosen.
    pub page: Option<ByteSize>,
}

/// A device outside of QEMU that a domain holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeviceFacts {
    /// Kind, such as `pci`, `mdev`, `vdpa`, `vhostuser` or `filesystem`.
    pub kind: String,
    /// Which one, such as `0000:3b:00.1`.
    pub address: String,
}

/// Where the processors and the memory of a domain may be, as texts such as `0-3,8`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PinningFacts {
    /// Processors of the node; absent if any will do.
    pub cpus: Option<String>,
    /// NUMA nodes; absent if any will do.
    pub memory_nodes: Option<String>,
}

impl PinningFacts {
    /// Whether anything is bound.
    pub fn is_bound(&self) -> bool {
        self.cpus.is_some() || self.memory_nodes.is_some()
    }
}

/// A disk of a domain.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DiskFacts {
    /// Name in the guest, such as `vda`.
    pub target: String,
    /// File, device or network name; absent for an empty drive.
    pub source: Option<String>,
    /// Whether other nodes can reach the same storage; absent where it cannot be told.
    pub shared: Option<bool>,
    /// What nodes that mount its file system call it; absent where that is not shared.
    pub storage: Option<String>,
}

/// A network card of a domain.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NetworkCardFacts {
    /// Hardware address, which stays across a migration.
    pub mac: String,
    /// Interface on the node, which may change in a migration.
    pub target: Option<String>,
    /// Kind of connection, such as `bridge`.
    pub connection: String,
    /// Model that the guest sees, such as `virtio`.
    pub model: Option<String>,
    /// Bridge or network that it is plugged into.
    pub bridge: Option<String>,
    /// Largest packet, where it is chosen.
    pub mtu_bytes: Option<u32>,
}
