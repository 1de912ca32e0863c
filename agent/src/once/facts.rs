//! Facts and events as JSON, for people and scripts. What is not known is left out.

use plimsoll_model::{
    Accelerator, DeviceFacts, DiskFacts, DomainFacts, Event, FileSystemFacts, InterfaceFacts,
    NetworkCardFacts, NodeFacts,
};
use serde_json::{Map, Value, json};

/// Drops what is not known.
fn known(value: Value) -> Value {
    match value {
        Value::Object(entries) => {
            let entries = entries.into_iter().map(|(key, value)| (key, known(value)));
            Value::Object(entries.filter(|(_, value)| !value.is_null()).collect())
        }
        Value::Array(items) => Value::Array(items.into_iter().map(known).collect()),
        other => other,
    }
}

fn all<T>(items: &[T], of: fn(&T) -> Value) -> Vec<Value> {
    items.iter().map(of).collect()
}

/// Writes facts about the node.
pub(super) fn node(facts: &NodeFacts) -> Value {
    let overcommit = facts.overcommit.map(|told| {
        json!({
            "cpu_ratio": told.cpu_ratio.to_string(),
            "memory_ratio": told.memory_ratio.to_string(),
            "reserved_cpu_count": told.reserved_cpu_count,
            "reserved_memory_bytes": told.reserved_memory.bytes(),
        })
    });
    known(json!({
        "agent_version": facts.agent_version.as_str(),
        "kernel_release": facts.kernel_release.as_deref(),
        "cpu_model": facts.cpu_model.as_deref(),
        "cpu_flags": facts.cpu_flags.join(" "),
        "cpu_count": facts.cpu_count,
        "tsc_hz": facts.tsc_hz,
        "tsc_scaling": facts.tsc_scaling,
        "memory_bytes": facts.memory.map(|size| size.bytes()),
        "hypervisor_type": facts.hypervisor_type.as_deref(),
        "libvirt_version": facts.libvirt_version.as_deref(),
        "qemu_version": facts.qemu_version.as_deref(),
        "migration_interface": facts.migration_interface.as_deref(),
        "migration_address": facts.migration_address.as_deref(),
        "migration_bandwidth_bytes_per_second":
            facts.migration_bandwidth.map(|rate| rate.bytes_per_second()),
        "interfaces": all(&facts.interfaces, interface),
        "file_systems": all(&facts.file_systems, file_system),
        "overcommit": overcommit,
    }))
}

fn interface(facts: &InterfaceFacts) -> Value {
    json!({
        "name": facts.name.as_str(),
        "speed_bytes_per_second": facts.speed.map(|rate| rate.bytes_per_second()),
        "mtu_bytes": facts.mtu_bytes,
        "up": facts.up,
        "full_duplex": facts.full_duplex,
        "master": facts.master.as_deref(),
        "addresses": facts.addresses.as_slice(),
    })
}

fn file_system(facts: &FileSystemFacts) -> Value {
    json!({
        "mount": facts.mount.as_str(),
        "kind": facts.kind.as_str(),
        "shared_id": facts.shared_id.as_deref(),
    })
}

/// Writes facts about a domain.
pub(super) fn domain(facts: &DomainFacts) -> Value {
    let hardware = &facts.hardware;
    let memory = hardware.memory.as_ref().map(|memory| {
        json!({
            "source": memory.source.as_deref(),
            "shared": memory.shared,
            "locked": memory.locked,
            "page_bytes": memory.page.map(|size| size.bytes()),
        })
    });
    let pinning = hardware.pinning.as_ref().map(|pinning| {
        json!({
            "cpus": pinning.cpus.as_deref(),
            "memory_nodes": pinning.memory_nodes.as_deref(),
        })
    });
    known(json!({
        "accelerator": facts.accelerator.map(|one| match one {
            Accelerator::Kvm => "kvm",
            Accelerator::Tcg => "tcg",
        }),
        "machine": facts.machine.as_deref(),
        "cpu_model": facts.cpu_model.as_deref(),
        "cpu_mode": hardware.cpu_mode.as_deref(),
        "cpu_features": hardware.cpu_features.join(" "),
        "tsc_hz": hardware.tsc_hz,
        "vcpu_count": facts.vcpu_count,
        "memory_max_bytes": facts.memory_max.map(|size| size.bytes()),
        "huge_pages": facts.huge_pages,
        "memory": memory,
        "pinning": pinning,
        "launch_security": hardware.launch_security.as_deref(),
        "tpm": hardware.tpm.as_deref(),
        "devices": all(&hardware.devices, device),
        "disks": all(&facts.disks, disk),
        "network_cards": all(&facts.network_cards, card),
    }))
}

fn device(facts: &DeviceFacts) -> Value {
    json!({ "kind": facts.kind.as_str(), "address": facts.address.as_str() })
}

fn disk(facts: &DiskFacts) -> Value {
    json!({
        "target": facts.target.as_str(),
        "source": facts.source.as_deref(),
        "shared": facts.shared,
        "storage": facts.storage.as_deref(),
    })
}

fn card(facts: &NetworkCardFacts) -> Value {
    json!({
        "mac": facts.mac.as_str(),
        "target": facts.target.as_deref(),
        "connection": facts.connection.as_str(),
        "model": facts.model.as_deref(),
        "bridge": facts.bridge.as_deref(),
        "mtu_bytes": facts.mtu_bytes,
    })
}

/// Writes an event.
pub(super) fn event(event: &Event) -> Value {
    json!({ "seen_ms": event.seen.millis(), "what": format!("{:?}", event.kind) })
}

/// Lists what an object tells, one entry a line.
pub(super) fn entries(told: &Value) -> impl Iterator<Item = (&str, String)> {
    let entries = told.as_object().into_iter().flat_map(Map::iter);
    entries.map(|(key, value)| {
        let text = match value {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        (key.as_str(), text)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_known_is_left_out_of_the_facts() {
        let told = node(&NodeFacts {
            cpu_model: Some("x".to_owned()),
            tsc_hz: Some(7),
            interfaces: vec![InterfaceFacts {
                name: "eth0".to_owned(),
                ..InterfaceFacts::default()
            }],
            ..NodeFacts::default()
        });
        let lines: Vec<_> = entries(&told).collect();
        assert!(lines.contains(&("tsc_hz", "7".to_owned())));
        assert!(lines.contains(&("cpu_model", "x".to_owned())));
        assert!(!lines.iter().any(|(key, _)| *key == "libvirt_version"));
        assert_eq!(told["interfaces"][0].as_object().unwrap().len(), 2);
    }
}
