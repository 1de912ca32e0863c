//! Facts about the host that change seldom: processor, kernel, interfaces, the migration network.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::net::IpAddr;
use std::path::Path;

use plimsoll_model::{ByteSize, InterfaceFacts, NodeFacts};

use super::{mounts, sys};
use crate::config::Config;
use crate::source::path::Link;

/// Most interfaces that are told.
const INTERFACES_MAX: usize = 64;
/// Most addresses of one interface that are told.
const ADDRESSES_MAX: usize = 64;

/// Addresses with their prefix lengths, by interface.
type Addresses = BTreeMap<String, Vec<(IpAddr, u8)>>;

/// Finds the link that migrations use and what it carries; absent where its bandwidth is not known.
pub fn link(root: &Path, config: &Config) -> Option<Link> {
    let route = || std::fs::read_to_string(root.join("proc/net/route")).unwrap_or_default();
    let told = config.migration_interface.clone();
    let name = told.or_else(|| default_interface(&route()))?;
    let interface = root.join("sys/class/net").join(name);
    let bandwidth = config.migration_bandwidth;
    Some(Link {
        bandwidth: bandwidth.or_else(|| sys::speed(&interface))?,
        sent: interface.join("statistics/tx_bytes"),
    })
}

/// Files that change whenever an address does.
const OF_ADDRESSES: [&str; 3] = ["proc/net/route", "proc/net/if_inet6", "proc/net/fib_trie"];

/// Reads facts again and again; what is dear to read is kept while nothing says that it changed.
#[derive(Debug, Default)]
pub struct Inventory {
    addresses: Option<(u64, Addresses)>,
}

impl Inventory {
    /// Reads what is known without libvirt.
    pub fn read(&mut self, root: &Path, config: &Config) -> NodeFacts {
        let sign = sign_of_addresses(root);
        if self.addresses.as_ref().is_none_or(|(old, _)| *old != sign) {
            self.addresses = Some((sign, addresses()));
        }
        let none = Addresses::new();
        let known = self.addresses.as_ref();
        read_with(
            known.map_or(&none, |(_, addresses)| addresses),
            root,
            config,
        )
    }
}

fn sign_of_addresses(root: &Path) -> u64 {
    let mut hasher = DefaultHasher::new();
    for file in OF_ADDRESSES {
        let text = std::fs::read(root.join(file)).unwrap_or_default();
        text.hash(&mut hasher);
    }
    sys::interfaces(root).hash(&mut hasher);
    hasher.finish()
}

/// Reads what is known without libvirt.
pub fn read(root: &Path, config: &Config) -> NodeFacts {
    read_with(&addresses(), root, config)
}

fn read_with(addresses: &Addresses, root: &Path, config: &Config) -> NodeFacts {
    let cpuinfo = std::fs::read_to_string(root.join("proc/cpuinfo")).unwrap_or_default();
    let system = sysinfo::System::new_with_specifics(
        sysinfo::RefreshKind::nothing()
            .with_memory(sysinfo::MemoryRefreshKind::nothing().with_ram()),
    );
    let interfaces = interfaces(root, addresses);
    let migration_interface = config.migration_interface.clone().or_else(|| {
        default_interface(&std::fs::read_to_string(root.join("proc/net/route")).unwrap_or_default())
    });
    let migration_address = config.migration_address.clone().or_else(|| {
        let name = migration_interface.as_ref()?;
        address_of(addresses.get(name)?)
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
        migration_address,
        migration_bandwidth: config.migration_bandwidth.or(card_speed),
        interfaces,
        overcommit: config.overcommit,
        file_systems: mounts::list(root),
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

fn interfaces(root: &Path, addresses: &Addresses) -> Vec<InterfaceFacts> {
    let mut names = sys::interfaces(root);
    names.truncate(INTERFACES_MAX);
    let facts = |name: String| {
        let path = root.join("sys/class/net").join(&name);
        let own = addresses.get(&name).map_or(&[][..], Vec::as_slice);
        InterfaceFacts {
            speed: sys::speed(&path),
            mtu_bytes: sys::number(&path.join("mtu")).and_then(|mtu| u32::try_from(mtu).ok()),
            up: sys::is_up(&path),
            full_duplex: match sys::text(&path.join("duplex")).as_deref() {
                Some("full") => Some(true),
                Some("half") => Some(false),
                _ => None,
            },
            master: std::fs::read_link(path.join("master"))
                .ok()
                .and_then(|link| Some(link.file_name()?.to_str()?.to_owned())),
            addresses: own.iter().map(with_prefix).take(ADDRESSES_MAX).collect(),
            name,
        }
    };
    names.into_iter().map(facts).collect()
}

/// Asks the kernel for the addresses of this network namespace.
fn addresses() -> Addresses {
    let Ok(networks) = sysinfo::Networks::new_with_refreshed_list() else {
        return Addresses::new();
    };
    let own = |(name, card): (&std::ffi::OsString, &sysinfo::NetworkData)| {
        let mut own: Vec<(IpAddr, u8)> = card
            .ip_networks()
            .iter()
            .map(|network| (network.addr, network.prefix))
            .collect();
        own.sort_unstable();
        (name.to_string_lossy().into_owned(), own)
    };
    networks.iter().map(own).collect()
}

/// Picks the address that others reach an interface by: no link-local one, and an old one before a new.
fn address_of(own: &[(IpAddr, u8)]) -> Option<String> {
    let is_reached = |(address, _): &&(IpAddr, u8)| match address {
        IpAddr::V4(address) => !address.is_link_local() && !address.is_loopback(),
        IpAddr::V6(address) => !address.is_unicast_link_local() && !address.is_loopback(),
    };
    own.iter().find(is_reached).map(with_prefix)
}

fn with_prefix((address, prefix): &(IpAddr, u8)) -> String {
    format!("{address}/{prefix}")
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
    fn the_migration_address_is_one_that_others_reach() {
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        let own = [
            (address("169.254.0.9"), 16),
            (address("10.0.0.5"), 24),
            (address("10.0.0.6"), 24),
            (address("fe80::1"), 64),
        ];
        assert_eq!(address_of(&own).as_deref(), Some("10.0.0.5/24"));
        let new = [(address("fe80::1"), 64), (address("2001:db8::5"), 64)];
        assert_eq!(address_of(&new).as_deref(), Some("2001:db8::5/64"));
        assert_eq!(address_of(&new[..1]), None);
    }

    #[test]
    fn this_machine_knows_its_own_loopback() {
        let loopback = addresses().remove("lo").unwrap_or_default();
        assert!(loopback.iter().any(|(address, _)| address.is_loopback()));
    }

    #[test]
    fn an_interface_tells_its_bridge_and_its_addresses() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("sys/class/net/eth0");
        std::fs::create_dir_all(&path).unwrap();
        std::fs::create_dir_all(root.path().join("sys/class/net/vnet3")).unwrap();
        std::fs::write(path.join("duplex"), "full\n").unwrap();
        std::os::unix::fs::symlink("../br0", path.join("master")).unwrap();
        let own = vec![("10.0.0.5".parse().unwrap(), 24)];
        let addresses = Addresses::from([("eth0".to_owned(), own)]);

        let told = interfaces(root.path(), &addresses);

        assert_eq!(told.len(), 1, "the tap is the guest's");
        assert_eq!(told[0].full_duplex, Some(true));
        assert_eq!(told[0].master.as_deref(), Some("br0"));
        assert_eq!(told[0].addresses, ["10.0.0.5/24"]);
    }

    #[test]
    fn flags_are_sorted_and_told_once() {
        let cpuinfo =
            "processor : 0\nflags\t\t: sse vmx aes\nprocessor : 1\nflags\t\t: sse vmx aes\n";
        assert_eq!(cpu_flags(cpuinfo), ["aes", "sse", "vmx"]);
    }
}
