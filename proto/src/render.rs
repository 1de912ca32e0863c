//! The door out: words become messages. Rendering cannot fail; what has no place on the wire (a number
//! beyond a signed 64-bit one) is held at the largest that has.

use plimsoll_model as model;
use plimsoll_model::{SeriesKey, Subject, UnixMillis, Window};

use crate::v1;

/// Renders an unsigned number as the wire's signed one; holds at the largest.
pub fn int(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// Renders an unsigned number as the wire's signed one of 32 bits; holds at the largest.
pub fn int32(value: u32) -> i32 {
    i32::try_from(value).unwrap_or(i32::MAX)
}

/// Renders an instant.
pub fn timestamp(at: UnixMillis) -> prost_types::Timestamp {
    let nanos = i32::try_from(at.millis().rem_euclid(1_000) * 1_000_000).unwrap_or(0);
    prost_types::Timestamp {
        seconds: at.millis().div_euclid(1_000),
        nanos,
    }
}

/// Renders a span.
pub fn duration(span: std::time::Duration) -> prost_types::Duration {
    prost_types::Duration {
        seconds: int(span.as_secs()),
        nanos: i32::try_from(span.subsec_nanos()).unwrap_or(0),
    }
}

/// Renders an incarnation.
pub fn incarnation(incarnation: model::Incarnation) -> v1::Incarnation {
    v1::Incarnation {
        boot_id: incarnation.boot.as_bytes().to_vec(),
        started_ms: int(incarnation.started_ms),
    }
}

/// Renders the declaration of a series under a number of the session.
pub fn declaration(index: u32, key: &SeriesKey) -> v1::SeriesDeclaration {
    let (domain_id, incarnation) = domain_of(&key.subject);
    v1::SeriesDeclaration {
        index: int32(index),
        metric_code: i32::from(key.metric.code()),
        part: key.part.as_str().to_owned(),
        domain_id,
        incarnation,
        device_id: device_of(&key.subject),
        port_index: key.subject.port().map(int32),
        counting_since_ms: counting_since(&key.subject).map(UnixMillis::millis),
    }
}

/// Renders the device of a subject; empty if it is neither one nor a port of one.
pub fn device_of(subject: &Subject) -> Vec<u8> {
    let device = subject.device();
    device.map_or(Vec::new(), |device| device.as_bytes().to_vec())
}

/// Tells since when the counters of a device or port count.
pub fn counting_since(subject: &Subject) -> Option<UnixMillis> {
    match subject {
        Subject::Device { counting_since, .. } | Subject::Port { counting_since, .. } => {
            Some(*counting_since)
        }
        Subject::Node(_) | Subject::Domain { .. } => None,
    }
}

/// Renders which domain a subject is, if it is one.
pub fn domain_of(subject: &Subject) -> (Vec<u8>, Option<v1::Incarnation>) {
    match subject {
        Subject::Node(_) | Subject::Device { .. } | Subject::Port { .. } => (Vec::new(), None),
        Subject::Domain {
            domain,
            incarnation: at,
            ..
        } => (domain.as_bytes().to_vec(), Some(incarnation(*at))),
    }
}

/// Renders values that share a window; the indexes are best ascending, which makes them small.
pub fn sweep(window: Window, values: &[(u32, u64)]) -> v1::Sweep {
    let mut before = 0;
    let index_deltas = values
        .iter()
        .map(|(index, _)| {
            let index = int32(*index);
            let delta = index - before;
            before = index;
            delta
        })
        .collect();
    v1::Sweep {
        end_time_ms: window.end.millis(),
        width_ms: i64::from(window.width_ms),
        index_deltas,
        values: values.iter().map(|(_, value)| int(*value)).collect(),
    }
}

/// Renders facts about a node.
pub fn node_facts(facts: &model::NodeFacts, seen: UnixMillis) -> v1::NodeFacts {
    v1::NodeFacts {
        seen_time: Some(timestamp(seen)),
        hostname: facts.hostname.clone(),
        agent_version: facts.agent_version.clone(),
        kernel_release: facts.kernel_release.clone(),
        cpu_model: facts.cpu_model.clone(),
        cpu_flags: facts.cpu_flags.clone(),
        cpu_count: facts.cpu_count.map(int32),
        memory_bytes: facts.memory.map(|size| int(size.bytes())),
        hypervisor_type: facts.hypervisor_type.clone(),
        libvirt_version: facts.libvirt_version.clone(),
        qemu_version: facts.qemu_version.clone(),
        migration_interface: facts.migration_interface.clone(),
        migration_address: facts.migration_address.clone(),
        migration_bandwidth_bytes_per_second: facts
            .migration_bandwidth
            .map(|rate| int(rate.bytes_per_second())),
        interfaces: facts.interfaces.iter().map(interface).collect(),
        overcommit: facts.overcommit.map(overcommit),
        tsc_hz: facts.tsc_hz.map(int),
        tsc_scaling: facts.tsc_scaling,
        file_systems: facts.file_systems.iter().map(file_system).collect(),
    }
}

fn file_system(facts: &model::FileSystemFacts) -> v1::FileSystemFacts {
    v1::FileSystemFacts {
        mount: facts.mount.clone(),
        kind: facts.kind.clone(),
        shared_id: facts.shared_id.clone(),
    }
}

fn interface(facts: &model::InterfaceFacts) -> v1::InterfaceFacts {
    v1::InterfaceFacts {
        name: facts.name.clone(),
        speed_bytes_per_second: facts.speed.map(|rate| int(rate.bytes_per_second())),
        mtu_bytes: facts.mtu_bytes.map(int32),
        up: facts.up,
        full_duplex: facts.full_duplex,
        master: facts.master.clone(),
        addresses: facts.addresses.clone(),
    }
}

fn overcommit(facts: model::OvercommitFacts) -> v1::OvercommitFacts {
    v1::OvercommitFacts {
        cpu_ratio_millionths: int(facts.cpu_ratio.millionths()),
        memory_ratio_millionths: int(facts.memory_ratio.millionths()),
        reserved_cpu_count: int32(facts.reserved_cpu_count),
        reserved_memory_bytes: int(facts.reserved_memory.bytes()),
    }
}

/// Renders facts about a domain for ingest, where the node is not told.
pub fn domain_facts(facts: &model::DomainFacts, seen: UnixMillis) -> v1::DomainFacts {
    v1::DomainFacts {
        seen_time: Some(timestamp(seen)),
        domain_id: facts.domain.as_bytes().to_vec(),
        incarnation: Some(incarnation(facts.incarnation)),
        name: facts.name.clone(),
        accelerator: match facts.accelerator {
            None => v1::Accelerator::Unspecified,
            Some(model::Accelerator::Kvm) => v1::Accelerator::Kvm,
            Some(model::Accelerator::Tcg) => v1::Accelerator::Tcg,
        }
        .into(),
        machine: facts.machine.clone(),
        cpu_model: facts.cpu_model.clone(),
        vcpu_count: facts.vcpu_count.map(int32),
        memory_max_bytes: facts.memory_max.map(|size| int(size.bytes())),
        huge_pages: facts.huge_pages,
        disks: facts.disks.iter().map(disk).collect(),
        network_cards: facts.network_cards.iter().map(network_card).collect(),
        host_device_count: int32(facts.host_device_count),
        node_id: Vec::new(),
        // Nothing known is told as nothing.
        hardware: (facts.hardware != model::HardwareFacts::default())
            .then(|| hardware(&facts.hardware)),
        project: facts.project.clone(),
    }
}

fn disk(facts: &model::DiskFacts) -> v1::DiskFacts {
    v1::DiskFacts {
        target: facts.target.clone(),
        source: facts.source.clone(),
        shared: facts.shared,
        storage: facts.storage.clone(),
    }
}

fn network_card(facts: &model::NetworkCardFacts) -> v1::NetworkCardFacts {
    v1::NetworkCardFacts {
        mac: facts.mac.clone(),
        target: facts.target.clone(),
        connection: facts.connection.clone(),
        model: facts.model.clone(),
        bridge: facts.bridge.clone(),
        mtu_bytes: facts.mtu_bytes.map(int32),
    }
}

fn hardware(facts: &model::HardwareFacts) -> v1::HardwareFacts {
    let device = |device: &model::DeviceFacts| v1::DeviceFacts {
        kind: device.kind.clone(),
        address: device.address.clone(),
    };
    v1::HardwareFacts {
        cpu_mode: facts.cpu_mode.clone(),
        cpu_features: facts.cpu_features.clone(),
        tsc_hz: facts.tsc_hz.map(int),
        memory: facts.memory.as_ref().map(|memory| v1::MemoryFacts {
            source: memory.source.clone(),
            shared: memory.shared,
            locked: memory.locked,
            page_bytes: memory.page.map(|size| int(size.bytes())),
        }),
        launch_security: facts.launch_security.clone(),
        tpm: facts.tpm.clone(),
        devices: facts.devices.iter().map(device).collect(),
        pinning: facts.pinning.as_ref().map(|pinning| v1::PinningFacts {
            cpus: pinning.cpus.clone(),
            memory_nodes: pinning.memory_nodes.clone(),
        }),
    }
}

/// Renders facts about a domain for an answer, which names the node.
pub fn domain_facts_with_node(facts: &model::DomainFacts, seen: UnixMillis) -> v1::DomainFacts {
    v1::DomainFacts {
        node_id: facts.node.as_bytes().to_vec(),
        ..domain_facts(facts, seen)
    }
}

/// Renders facts about a device for ingest, where the node is not told.
pub fn device_facts(facts: &model::PolledFacts, seen: UnixMillis) -> v1::PolledFacts {
    v1::PolledFacts {
        seen_time: Some(timestamp(seen)),
        device_id: facts.device.as_bytes().to_vec(),
        name: facts.name.clone(),
        address: facts.address.clone(),
        profile: facts.profile.clone(),
        interval: Some(duration(facts.interval)),
        system_name: facts.system_name.clone(),
        description: facts.description.clone(),
        node_id: Vec::new(),
    }
}

/// Renders facts about a device for an answer, which names the node.
pub fn device_facts_with_node(facts: &model::PolledFacts, seen: UnixMillis) -> v1::PolledFacts {
    v1::PolledFacts {
        node_id: facts.node.as_bytes().to_vec(),
        ..device_facts(facts, seen)
    }
}

/// Renders an event; the node that saw it is told apart.
pub fn event(event: &model::Event) -> v1::Event {
    use model::EventKind as Kind;
    use v1::event::Kind as Wire;
    let (domain, at, kind) = match &event.kind {
        Kind::DomainState {
            domain,
            incarnation,
            state,
            detail,
        } => {
            let state = domain_state(*state).into();
            let kind = v1::DomainStateChanged {
                state,
                detail: int32(*detail),
            };
            (domain, *incarnation, Wire::DomainStateChanged(kind))
        }
        Kind::MigrationStarted {
            domain,
            incarnation,
            role,
            downtime_limit_ms,
            bandwidth_cap,
        } => {
            let kind = v1::MigrationStarted {
                role: match role {
                    model::MigrationRole::Source => v1::MigrationRole::Source,
                    model::MigrationRole::Target => v1::MigrationRole::Target,
                }
                .into(),
                downtime_limit_ms: downtime_limit_ms.map(int),
                bandwidth_cap_bytes_per_second: bandwidth_cap
                    .map(|rate| int(rate.bytes_per_second())),
            };
            (domain, Some(*incarnation), Wire::MigrationStarted(kind))
        }
        Kind::MigrationIteration {
            domain,
            incarnation,
            iteration: pass,
        } => (
            domain,
            Some(*incarnation),
            Wire::MigrationIteration(iteration(pass)),
        ),
        Kind::MigrationEnded {
            domain,
            incarnation,
            end,
        } => (
            domain,
            Some(*incarnation),
            Wire::MigrationEnded(migration_ended(end)),
        ),
    };
    v1::Event {
        seen_time: Some(timestamp(event.seen)),
        domain_id: domain.as_bytes().to_vec(),
        incarnation: at.map(incarnation),
        kind: Some(kind),
    }
}

/// Renders a pass over the memory.
pub fn iteration(pass: &model::Iteration) -> v1::MigrationIteration {
    v1::MigrationIteration {
        number: int32(pass.number),
        elapsed_ms: pass.elapsed_ms.map(int),
        remaining_bytes: pass.remaining.map(|size| int(size.bytes())),
        dirty_bytes_per_second: pass.dirty_rate.map(|rate| int(rate.bytes_per_second())),
    }
}

/// Renders the outcome of a migration.
pub fn migration_ended(end: &model::MigrationEnded) -> v1::MigrationEnded {
    v1::MigrationEnded {
        end: match end.end {
            model::MigrationEnd::Completed => v1::MigrationEnd::Completed,
            model::MigrationEnd::Aborted => v1::MigrationEnd::Aborted,
            model::MigrationEnd::Failed => v1::MigrationEnd::Failed,
        }
        .into(),
        start_time: Some(timestamp(end.started)),
        total_ms: end.total_ms.map(int),
        downtime_ms: end.downtime_ms.map(int),
        setup_ms: end.setup_ms.map(int),
        iteration_count: end.iterations.map(int32),
        memory_total_bytes: end.memory_total.map(|size| int(size.bytes())),
        memory_processed_bytes: end.memory_processed.map(|size| int(size.bytes())),
        memory_normal_bytes: end.memory_normal.map(|size| int(size.bytes())),
        zero_page_count: end.zero_page_count.map(int),
        throughput_bytes_per_second: end.throughput.map(|rate| int(rate.bytes_per_second())),
    }
}

fn domain_state(state: model::DomainState) -> v1::DomainState {
    match state {
        model::DomainState::Defined => v1::DomainState::Defined,
        model::DomainState::Undefined => v1::DomainState::Undefined,
        model::DomainState::Started => v1::DomainState::Started,
        model::DomainState::Suspended => v1::DomainState::Suspended,
        model::DomainState::Resumed => v1::DomainState::Resumed,
        model::DomainState::Stopped => v1::DomainState::Stopped,
        model::DomainState::Shutdown => v1::DomainState::Shutdown,
        model::DomainState::PowerSuspended => v1::DomainState::PowerSuspended,
        model::DomainState::Crashed => v1::DomainState::Crashed,
    }
}

/// Renders the name of a series for an answer.
pub fn series(key: &SeriesKey) -> v1::Series {
    let (domain_id, incarnation) = domain_of(&key.subject);
    v1::Series {
        node_id: key.subject.node().as_bytes().to_vec(),
        domain_id,
        incarnation,
        metric: key.metric.name().to_owned(),
        part: key.part.as_str().to_owned(),
        unit: key.metric.unit().symbol().to_owned(),
        counter: key.metric.kind() == model::Kind::Counter,
        device_id: device_of(&key.subject),
        port_index: key.subject.port().map(int32),
        counting_since_time: counting_since(&key.subject).map(timestamp),
    }
}

/// Renders a reading for an answer.
pub fn sample(window: Window, value: u64) -> v1::Sample {
    v1::Sample {
        end_time: Some(timestamp(window.end)),
        width: Some(duration(std::time::Duration::from_millis(u64::from(
            window.width_ms,
        )))),
        value: int(value),
    }
}

/// Renders a gap.
pub fn gap(gap: &model::SampleGap) -> v1::Gap {
    v1::Gap {
        session_id: gap.session.as_bytes().to_vec(),
        first_sequence: int(gap.first_sequence),
        last_sequence: int(gap.last_sequence),
        reading_count: gap.reading_count.map(int),
        reason: match gap.reason {
            model::GapReason::SpoolFull => v1::GapReason::SpoolFull,
            model::GapReason::Corrupt => v1::GapReason::Corrupt,
            model::GapReason::ServerRollback => v1::GapReason::ServerRollback,
            model::GapReason::AgentCrash => v1::GapReason::AgentCrash,
            model::GapReason::Rejected => v1::GapReason::Rejected,
        }
        .into(),
    }
}
