//! Facts and events.

use plimsoll_model as model;
use plimsoll_model::{
    Bandwidth, BootId, ByteSize, DirtyRate, Fact, NodeId, Part, Ratio, UnixMillis,
};

use super::{
    Excess, ParseError, at_most, device_id_opt, domain_id, text, text_opt, timestamp, unsigned,
    unsigned_opt, unsigned32, unsigned32_opt,
};
use crate::limits::{
    CPU_FLAGS_MAX, DESCRIPTION_BYTES_MAX, NAME_BYTES_MAX, PARTS_MAX, SOURCE_BYTES_MAX,
};
use crate::v1;

/// Reads an incarnation.
pub fn incarnation(
    field: &str,
    message: Option<v1::Incarnation>,
) -> Result<model::Incarnation, ParseError> {
    let message = message.ok_or_else(|| ParseError::new(field, "is missing"))?;
    let boot = BootId::from_slice(&message.boot_id)
        .map_err(|error| ParseError::new("boot_id", error.to_string()).within(field))?;
    Ok(model::Incarnation {
        boot,
        started_ms: unsigned("started_ms", message.started_ms)?,
    })
}

fn size_opt(field: &str, value: Option<i64>) -> Result<Option<ByteSize>, ParseError> {
    Ok(unsigned_opt(field, value)?.map(ByteSize::from_bytes))
}

fn bandwidth_opt(field: &str, value: Option<i64>) -> Result<Option<Bandwidth>, ParseError> {
    Ok(unsigned_opt(field, value)?.map(Bandwidth::from_bytes_per_second))
}

/// Reads facts about a node.
pub fn node_facts(message: v1::NodeFacts) -> Result<Fact, ParseError> {
    facts_of_node(message).map_err(|error| error.within("node_facts"))
}

fn facts_of_node(message: v1::NodeFacts) -> Result<Fact, ParseError> {
    at_most("cpu_flags", message.cpu_flags.len(), CPU_FLAGS_MAX)?;
    at_most("interfaces", message.interfaces.len(), PARTS_MAX)?;
    at_most("file_systems", message.file_systems.len(), PARTS_MAX)?;
    let short = |field, value| text_opt(field, value, NAME_BYTES_MAX);
    let facts = model::NodeFacts {
        hostname: text("hostname", message.hostname, NAME_BYTES_MAX)?,
        agent_version: text("agent_version", message.agent_version, NAME_BYTES_MAX)?,
        kernel_release: short("kernel_release", message.kernel_release)?,
        cpu_model: short("cpu_model", message.cpu_model)?,
        cpu_flags: message
            .cpu_flags
            .into_iter()
            .map(|flag| text("cpu_flags", flag, NAME_BYTES_MAX))
            .collect::<Result<_, _>>()?,
        cpu_count: unsigned32_opt("cpu_count", message.cpu_count)?,
        memory: size_opt("memory_bytes", message.memory_bytes)?,
        hypervisor_type: short("hypervisor_type", message.hypervisor_type)?,
        libvirt_version: short("libvirt_version", message.libvirt_version)?,
        qemu_version: short("qemu_version", message.qemu_version)?,
        migration_interface: short("migration_interface", message.migration_interface)?,
        migration_address: short("migration_address", message.migration_address)?,
        migration_bandwidth: bandwidth_opt(
            "migration_bandwidth_bytes_per_second",
            message.migration_bandwidth_bytes_per_second,
        )?,
        interfaces: message
            .interfaces
            .into_iter()
            .map(interface)
            .collect::<Result<_, _>>()?,
        overcommit: message.overcommit.map(overcommit).transpose()?,
        tsc_hz: unsigned_opt("tsc_hz", message.tsc_hz)?,
        tsc_scaling: message.tsc_scaling,
        file_systems: message
            .file_systems
            .into_iter()
            .map(file_system)
            .collect::<Result<_, _>>()?,
    };
    Ok(Fact::Node {
        seen: timestamp("seen_time", message.seen_time.as_ref())?,
        facts,
    })
}

fn file_system(message: v1::FileSystemFacts) -> Result<model::FileSystemFacts, ParseError> {
    Ok(model::FileSystemFacts {
        mount: text("file_systems.mount", message.mount, SOURCE_BYTES_MAX)?,
        kind: text("file_systems.kind", message.kind, NAME_BYTES_MAX)?,
        shared_id: text_opt(
            "file_systems.shared_id",
            message.shared_id,
            SOURCE_BYTES_MAX,
        )?,
    })
}

fn interface(message: v1::InterfaceFacts) -> Result<model::InterfaceFacts, ParseError> {
    at_most("interfaces.addresses", message.addresses.len(), PARTS_MAX)?;
    Ok(model::InterfaceFacts {
        name: text("interfaces.name", message.name, NAME_BYTES_MAX)?,
        speed: bandwidth_opt(
            "interfaces.speed_bytes_per_second",
            message.speed_bytes_per_second,
        )?,
        mtu_bytes: unsigned32_opt("interfaces.mtu_bytes", message.mtu_bytes)?,
        up: message.up,
        full_duplex: message.full_duplex,
        master: text_opt("interfaces.master", message.master, NAME_BYTES_MAX)?,
        addresses: message
            .addresses
            .into_iter()
            .map(|address| text("interfaces.addresses", address, NAME_BYTES_MAX))
            .collect::<Result<_, _>>()?,
    })
}

fn overcommit(message: v1::OvercommitFacts) -> Result<model::OvercommitFacts, ParseError> {
    let ratio = |field, value| unsigned(field, value).map(Ratio::from_millionths);
    Ok(model::OvercommitFacts {
        cpu_ratio: ratio(
            "overcommit.cpu_ratio_millionths",
            message.cpu_ratio_millionths,
        )?,
        memory_ratio: ratio(
            "overcommit.memory_ratio_millionths",
            message.memory_ratio_millionths,
        )?,
        reserved_cpu_count: unsigned32(
            "overcommit.reserved_cpu_count",
            message.reserved_cpu_count,
        )?,
        reserved_memory: unsigned(
            "overcommit.reserved_memory_bytes",
            message.reserved_memory_bytes,
        )
        .map(ByteSize::from_bytes)?,
    })
}

/// Reads facts that a node tells about a domain; the message may not name a node.
pub fn domain_facts(node: NodeId, message: v1::DomainFacts) -> Result<Fact, ParseError> {
    facts_of_domain(node, message).map_err(|error| error.within("domain_facts"))
}

fn facts_of_domain(node: NodeId, message: v1::DomainFacts) -> Result<Fact, ParseError> {
    if !message.node_id.is_empty() {
        return Err(foreign("must be empty: an agent speaks for its own node"));
    }
    at_most("disks", message.disks.len(), PARTS_MAX)?;
    at_most("network_cards", message.network_cards.len(), PARTS_MAX)?;
    let facts = model::DomainFacts {
        domain: domain_id("domain_id", &message.domain_id)?,
        node,
        accelerator: match message.accelerator() {
            v1::Accelerator::Unspecified => None,
            v1::Accelerator::Kvm => Some(model::Accelerator::Kvm),
            v1::Accelerator::Tcg => Some(model::Accelerator::Tcg),
        },
        incarnation: incarnation("incarnation", message.incarnation)?,
        name: text("name", message.name, NAME_BYTES_MAX)?,
        machine: text_opt("machine", message.machine, NAME_BYTES_MAX)?,
        cpu_model: text_opt("cpu_model", message.cpu_model, NAME_BYTES_MAX)?,
        vcpu_count: unsigned32_opt("vcpu_count", message.vcpu_count)?,
        memory_max: size_opt("memory_max_bytes", message.memory_max_bytes)?,
        huge_pages: message.huge_pages,
        disks: message
            .disks
            .into_iter()
            .map(disk)
            .collect::<Result<_, _>>()?,
        network_cards: message
            .network_cards
            .into_iter()
            .map(network_card)
            .collect::<Result<_, _>>()?,
        host_device_count: unsigned32("host_device_count", message.host_device_count)?,
        hardware: match message.hardware {
            Some(told) => hardware(told).map_err(|error| error.within("hardware"))?,
            None => model::HardwareFacts::default(),
        },
        project: text_opt("project", message.project, NAME_BYTES_MAX)?,
    };
    Ok(Fact::Domain {
        seen: timestamp("seen_time", message.seen_time.as_ref())?,
        facts,
    })
}

fn disk(message: v1::DiskFacts) -> Result<model::DiskFacts, ParseError> {
    Ok(model::DiskFacts {
        target: text("disks.target", message.target, NAME_BYTES_MAX)?,
        source: text_opt("disks.source", message.source, SOURCE_BYTES_MAX)?,
        shared: message.shared,
        storage: text_opt("disks.storage", message.storage, SOURCE_BYTES_MAX)?,
    })
}

fn network_card(message: v1::NetworkCardFacts) -> Result<model::NetworkCardFacts, ParseError> {
    Ok(model::NetworkCardFacts {
        mac: text("network_cards.mac", message.mac, NAME_BYTES_MAX)?,
        target: text_opt("network_cards.target", message.target, NAME_BYTES_MAX)?,
        connection: text(
            "network_cards.connection",
            message.connection,
            NAME_BYTES_MAX,
        )?,
        model: text_opt("network_cards.model", message.model, NAME_BYTES_MAX)?,
        bridge: text_opt("network_cards.bridge", message.bridge, NAME_BYTES_MAX)?,
        mtu_bytes: unsigned32_opt("network_cards.mtu_bytes", message.mtu_bytes)?,
    })
}

fn hardware(message: v1::HardwareFacts) -> Result<model::HardwareFacts, ParseError> {
    at_most("cpu_features", message.cpu_features.len(), CPU_FLAGS_MAX)?;
    at_most("devices", message.devices.len(), PARTS_MAX)?;
    let short = |field, value| text_opt(field, value, NAME_BYTES_MAX);
    let device = |device: v1::DeviceFacts| {
        Ok(model::DeviceFacts {
            kind: text("devices.kind", device.kind, NAME_BYTES_MAX)?,
            address: text("devices.address", device.address, SOURCE_BYTES_MAX)?,
        })
    };
    let memory = |memory: v1::MemoryFacts| {
        Ok(model::MemoryFacts {
            source: short("memory.source", memory.source)?,
            shared: memory.shared,
            locked: memory.locked,
            page: size_opt("memory.page_bytes", memory.page_bytes)?,
        })
    };
    let pinning = |pinning: v1::PinningFacts| {
        Ok(model::PinningFacts {
            cpus: text_opt("pinning.cpus", pinning.cpus, SOURCE_BYTES_MAX)?,
            memory_nodes: text_opt(
                "pinning.memory_nodes",
                pinning.memory_nodes,
                SOURCE_BYTES_MAX,
            )?,
        })
    };
    Ok(model::HardwareFacts {
        cpu_mode: short("cpu_mode", message.cpu_mode)?,
        cpu_features: message
            .cpu_features
            .into_iter()
            .map(|feature| text("cpu_features", feature, NAME_BYTES_MAX))
            .collect::<Result<_, _>>()?,
        tsc_hz: unsigned_opt("tsc_hz", message.tsc_hz)?,
        memory: message.memory.map(memory).transpose()?,
        launch_security: short("launch_security", message.launch_security)?,
        tpm: short("tpm", message.tpm)?,
        devices: message
            .devices
            .into_iter()
            .map(device)
            .collect::<Result<_, _>>()?,
        pinning: message.pinning.map(pinning).transpose()?,
    })
}

fn foreign(problem: &str) -> ParseError {
    ParseError::new("node_id", problem).exceeding(Excess::Authority)
}

/// Reads facts about a device that a node polls.
pub fn device_facts(node: NodeId, message: v1::PolledFacts) -> Result<Fact, ParseError> {
    facts_of_device(node, message).map_err(|error| error.within("device_facts"))
}

fn facts_of_device(node: NodeId, message: v1::PolledFacts) -> Result<Fact, ParseError> {
    if !message.node_id.is_empty() {
        return Err(foreign("must be empty: the stream names the node"));
    }
    let device = device_id_opt("device_id", &message.device_id)?;
    let interval = message.interval.map(std::time::Duration::try_from);
    let description = message.description;
    let facts = model::PolledFacts {
        device: device.ok_or_else(|| ParseError::new("device_id", "is missing"))?,
        node,
        name: text("name", message.name, Part::LENGTH_BYTES_MAX)?,
        address: text("address", message.address, NAME_BYTES_MAX)?,
        profile: text("profile", message.profile, NAME_BYTES_MAX)?,
        interval: match interval {
            Some(Ok(interval)) if !interval.is_zero() => interval,
            _ => return Err(ParseError::new("interval", "must be longer than 0")),
        },
        system_name: text_opt("system_name", message.system_name, NAME_BYTES_MAX)?,
        description: text_opt("description", description, DESCRIPTION_BYTES_MAX)?,
    };
    Ok(Fact::Device {
        seen: timestamp("seen_time", message.seen_time.as_ref())?,
        facts,
    })
}

/// Reads an event that a node saw.
pub fn event(node: NodeId, message: v1::Event) -> Result<model::Event, ParseError> {
    let seen = timestamp("seen_time", message.seen_time.as_ref());
    let kind = event_kind(message);
    match (seen, kind) {
        (Ok(seen), Ok(kind)) => Ok(model::Event { node, seen, kind }),
        (Err(error), _) | (_, Err(error)) => Err(error.within("events")),
    }
}

fn event_kind(message: v1::Event) -> Result<model::EventKind, ParseError> {
    use model::EventKind as Kind;
    use v1::event::Kind as Wire;
    let domain = domain_id("domain_id", &message.domain_id)?;
    let at = message.incarnation;
    let kind = message
        .kind
        .ok_or_else(|| ParseError::new("kind", "is missing or not known"))?;
    Ok(match kind {
        Wire::DomainStateChanged(change) => Kind::DomainState {
            domain,
            incarnation: at
                .map(|at| incarnation("incarnation", Some(at)))
                .transpose()?,
            state: domain_state(change.state())?,
            detail: unsigned32("domain_state_changed.detail", change.detail)?,
        },
        Wire::MigrationStarted(start) => Kind::MigrationStarted {
            domain,
            incarnation: incarnation("incarnation", at)?,
            role: match start.role() {
                v1::MigrationRole::Unspecified => {
                    return Err(ParseError::new("migration_started.role", "is missing"));
                }
                v1::MigrationRole::Source => model::MigrationRole::Source,
                v1::MigrationRole::Target => model::MigrationRole::Target,
            },
            downtime_limit_ms: unsigned_opt("downtime_limit_ms", start.downtime_limit_ms)?,
            bandwidth_cap: bandwidth_opt(
                "bandwidth_cap_bytes_per_second",
                start.bandwidth_cap_bytes_per_second,
            )?,
        },
        Wire::MigrationIteration(pass) => Kind::MigrationIteration {
            domain,
            incarnation: incarnation("incarnation", at)?,
            iteration: model::Iteration {
                number: unsigned32("migration_iteration.number", pass.number)?,
                elapsed_ms: unsigned_opt("elapsed_ms", pass.elapsed_ms)?,
                remaining: size_opt("remaining_bytes", pass.remaining_bytes)?,
                dirty_rate: unsigned_opt("dirty_bytes_per_second", pass.dirty_bytes_per_second)?
                    .map(DirtyRate::from_bytes_per_second),
            },
        },
        Wire::MigrationEnded(end) => Kind::MigrationEnded {
            domain,
            incarnation: incarnation("incarnation", at)?,
            end: migration_ended(&end)?,
        },
    })
}

/// Reads the outcome of a migration.
pub fn migration_ended(message: &v1::MigrationEnded) -> Result<model::MigrationEnded, ParseError> {
    let started: UnixMillis = timestamp("start_time", message.start_time.as_ref())?;
    Ok(model::MigrationEnded {
        end: match message.end() {
            v1::MigrationEnd::Unspecified => {
                return Err(ParseError::new(
                    "migration_ended.end",
                    "is missing or not known",
                ));
            }
            v1::MigrationEnd::Completed => model::MigrationEnd::Completed,
            v1::MigrationEnd::Aborted => model::MigrationEnd::Aborted,
            v1::MigrationEnd::Failed => model::MigrationEnd::Failed,
        },
        started,
        total_ms: unsigned_opt("total_ms", message.total_ms)?,
        downtime_ms: unsigned_opt("downtime_ms", message.downtime_ms)?,
        setup_ms: unsigned_opt("setup_ms", message.setup_ms)?,
        iterations: unsigned32_opt("iteration_count", message.iteration_count)?,
        memory_total: size_opt("memory_total_bytes", message.memory_total_bytes)?,
        memory_processed: size_opt("memory_processed_bytes", message.memory_processed_bytes)?,
        memory_normal: size_opt("memory_normal_bytes", message.memory_normal_bytes)?,
        zero_page_count: unsigned_opt("zero_page_count", message.zero_page_count)?,
        throughput: bandwidth_opt(
            "throughput_bytes_per_second",
            message.throughput_bytes_per_second,
        )?,
    })
}

fn domain_state(state: v1::DomainState) -> Result<model::DomainState, ParseError> {
    Ok(match state {
        v1::DomainState::Unspecified => {
            return Err(ParseError::new(
                "domain_state_changed.state",
                "is missing or not known",
            ));
        }
        v1::DomainState::Defined => model::DomainState::Defined,
        v1::DomainState::Undefined => model::DomainState::Undefined,
        v1::DomainState::Started => model::DomainState::Started,
        v1::DomainState::Suspended => model::DomainState::Suspended,
        v1::DomainState::Resumed => model::DomainState::Resumed,
        v1::DomainState::Stopped => model::DomainState::Stopped,
        v1::DomainState::Shutdown => model::DomainState::Shutdown,
        v1::DomainState::PowerSuspended => model::DomainState::PowerSuspended,
        v1::DomainState::Crashed => model::DomainState::Crashed,
    })
}
