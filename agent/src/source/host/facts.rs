//! Facts about the host that change seldom: processor, kernel, interfaces, the migration network.

use std::path::Path;

use plimsoll_model::{ByteSize, InterfaceFacts, NodeFacts};

use super::sys;
use crate::config::Config;

/// Most interfaces that are told.
const INTERFACES_MAX: usize = 64;

/// Reads what is known without libvirt.
pub fn read(root: &Path, config: &Config) -> NodeFacts {
    let cpuinfo = std::fs::read_to_string(root.join("proc/cpuinfo")).unwrap_or_default();
    let system = sysinfo::System::new_with_specifics(
        sysinfo::RefreshKind::nothing()
            .with_memory(sysinfo::MemoryRefreshKind::nothing().with_ram()),
    );
    let interfaces = interfaces(root);
    let migration_interface = config.migration_interface.clone().or_else(|| {
        default_interface(&std::fs::read_to_string(root.join("proc/net/route")).unwrap_or_default())
    });
    let card = interfaces
        .iter()
        .find(|card| Some(&card.name) == migration_interface.as_ref());
    let card_speed = card.and_then(|card| card.speed);
    let cpu_count = cpuinfo
        .lines()
        .filter(|line| line.starts_with("processor"))
        .count();
    NodeFacts {
        hostname: hostname(config),
        agent_version: env!("CARGO_PKG_VERSION").to_owned(),
        kernel_release: sysinfo::System::kernel_version().ok(),
        cpu_model: cpuinfo_value(&cpuinfo, "model name").map(str::to_owned),
        cpu_flags: cpu_flags(&cpuinfo),
        cpu_count: u32::try_from(cpu_count).ok().filter(|count| *count > 0),
        memory: system
            .ok()
            .map(|system| system.total_memory())
            .filter(|bytes| *bytes > 0)
            .map(ByteSize::from_bytes),
        migration_interface,
        migration_address: config.migration_address.clone(),
        migration_bandwidth: config.migration_bandwidth.or(card_speed),
        interfaces,
        overcommit: config.overcommit,
        ..NodeFacts::default()
    }
}

/// Returns the host name: the configured one, else the kernel's.
pub fn hostname(config: &Config) -> String {
    let told = config.hostname.clone();
    told.unwrap_or_else(|| {
        rustix::system::uname()
            .nodename()
            .to_string_lossy()
            .into_owned()
    })
}

fn cpuinfo_value<'a>(cpuinfo: &'a str, key: &str) -> Option<&'a str> {
    let line = cpuinfo.lines().find(|line| line.starts_with(key))?;
    line.split_once(':').map(|(_, value)| value.trim())
}

fn cpu_flags(cpuinfo: &str) -> Vec<String> {
    let flags = cpuinfo_value(cpuinfo, "flags").or_else(|| cpuinfo_value(cpuinfo, "Features"));
    let mut flags: Vec<String> = flags
        .unwrap_or_default()
        .split_ascii_whitespace()
        .map(str::to_owned)
        .collect();
    flags.sort_unstable();
    flags.dedup();
    flags.truncate(plimsoll_proto::limits::CPU_FLAGS_MAX);
    flags
}

fn interfaces(root: &Path) -> Vec<InterfaceFacts> {
    let directory = root.join("sys/class/net");
    let mut names = sys::names(&directory);
    names.retain(|name| name != "lo" && !name.starts_with("vnet") && !name.starts_with("tap"));
    names.truncate(INTERFACES_MAX);
    let facts = |name: String| {
        let path = directory.join(&name);
        InterfaceFacts {
            speed: sys::speed(&path),
            mtu_bytes: sys::number(&path.join("mtu")).and_then(|mtu| u32::try_from(mtu).ok()),
            up: sys::is_up(&path),
            name,
        }
    };
    names.into_iter().map(facts).collect()
}

/// Finds the interface of the default route in /proc/net/route.
fn default_interface(routes: &str) -> Option<String> {
    routes.lines().skip(1).find_map(|line| {
        let mut fields = line.split_ascii_whitespace();
        let interface = fields.next()?;
        (fields.next()? == "00000000").then(|| interface.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_migration_interface_is_the_one_of_the_default_route_unless_told() {
        let routes = "Iface\tDestination\tGateway\neth1\t0000A8C0\t0\neth0\t00000000\t0102A8C0\n";
        assert_eq!(default_interface(routes), Some("eth0".to_owned()));
        assert_eq!(default_interface("Iface\tDestination\n"), None);
    }

    #[test]
    fn flags_are_sorted_and_told_once() {
        let cpuinfo =
            "processor : 0\nflags\t\t: sse vmx aes\nprocessor : 1\nflags\t\t: sse vmx aes\n";
        assert_eq!(cpu_flags(cpuinfo), ["aes", "sse", "vmx"]);
    }
}
