//! What of a domain's description binds it to hosts of some kind.

use std::collections::BTreeSet;

use plimsoll_model::{DeviceFacts, HardwareFacts, MemoryFacts, PinningFacts};
use roxmltree::Node;

use super::{PARTS_MAX, child, cut, devices, size};

/// Kinds of devices that QEMU cannot hand to another host.
const PASSED_THROUGH: [&str; 9] = [
    "pci",
    "usb",
    "scsi",
    "scsi_host",
    "mdev",
    "storage",
    "misc",
    "net",
    "vdpa",
];
/// Processors of a set that are written out.
const CPUS_MAX: usize = 4_096;

pub(super) fn read(root: Node<'_, '_>) -> HardwareFacts {
    let cpu = child(root, "cpu");
    let mut features: Vec<String> = cpu
        .into_iter()
        .flat_map(|cpu| cpu.children())
        .filter(|node| node.has_tag_name("feature"))
        .filter(|node| matches!(node.attribute("policy"), Some("require" | "force")))
        .filter_map(|node| node.attribute("name"))
        .map(cut)
        .take(PARTS_MAX)
        .collect();
    features.sort_unstable();
    features.dedup();
    HardwareFacts {
        // Without a mode a model is meant; without a processor QEMU's own default.
        cpu_mode: cpu.map(|cpu| cut(cpu.attribute("mode").unwrap_or("custom"))),
        cpu_features: features,
        tsc_hz: time_stamp_counter(root),
        memory: Some(memory_of(root)),
        launch_security: child(root, "launchSecurity")
            .and_then(|node| node.attribute("type"))
            .map(cut),
        tpm: devices(root, "tpm")
            .find_map(|tpm| child(tpm, "backend")?.attribute("type"))
            .map(cut),
        devices: held(root).into_iter().take(PARTS_MAX).collect(),
        pinning: Some(pinning(root)),
    }
}

/// Counts what is passed through; the other devices may have their like on another host.
pub(super) fn passed_through(facts: &HardwareFacts) -> u32 {
    let is_bound = |device: &&DeviceFacts| PASSED_THROUGH.contains(&device.kind.as_str());
    let devices = facts.devices.iter().filter(is_bound).count();
    let tpm = usize::from(facts.tpm.as_deref() == Some("passthrough"));
    u32::try_from(devices + tpm).unwrap_or(u32::MAX)
}

fn time_stamp_counter(root: Node<'_, '_>) -> Option<u64> {
    let mut timers = child(root, "clock")?.children();
    let tsc = timers.find(|timer| timer.attribute("name") == Some("tsc"))?;
    tsc.attribute("frequency")?.parse().ok()
}

fn memory_of(root: Node<'_, '_>) -> MemoryFacts {
    let Some(backing) = child(root, "memoryBacking") else {
        return MemoryFacts::default();
    };
    let word = |name, attribute| child(backing, name).and_then(|node| node.attribute(attribute));
    let page = child(backing, "hugepages")
        .and_then(|pages| pages.children().find(|page| page.has_tag_name("page")));
    MemoryFacts {
        source: word("source", "type").map(cut),
        shared: word("access", "mode") == Some("shared"),
        locked: child(backing, "locked").is_some(),
        page: page.and_then(page_size),
    }
}

fn page_size(page: Node<'_, '_>) -> Option<plimsoll_model::ByteSize> {
    size(page.attribute("size")?, page.attribute("unit"))
}

/// Lists what lies outside of QEMU and is held by it.
fn held(root: Node<'_, '_>) -> Vec<DeviceFacts> {
    let mut held: Vec<DeviceFacts> = devices(root, "hostdev").map(host_device).collect();
    for card in devices(root, "interface") {
        let kind = card.attribute("type").unwrap_or_default();
        let source = child(card, "source");
        let address = match kind {
            "hostdev" => source.and_then(address_of),
            "vdpa" => source.and_then(|source| source.attribute("dev").map(cut)),
            "vhostuser" => source.and_then(|source| source.attribute("path").map(cut)),
            _ => continue,
        };
        held.push(DeviceFacts {
            // A card that is passed through is a device of the bus it sits on.
            kind: if kind == "hostdev" { "pci" } else { kind }.to_owned(),
            address: address.unwrap_or_else(|| "unnamed".to_owned()),
        });
    }
    for node in devices(root, "filesystem") {
        let target = child(node, "target").and_then(|target| target.attribute("dir"));
        held.push(DeviceFacts {
            kind: "filesystem".to_owned(),
            address: target.map_or_else(|| "unnamed".to_owned(), cut),
        });
    }
    held
}

fn host_device(node: Node<'_, '_>) -> DeviceFacts {
    let kind = node.attribute("type").unwrap_or("misc");
    let address = child(node, "source").and_then(address_of);
    DeviceFacts {
        kind: cut(kind),
        address: address.unwrap_or_else(|| "unnamed".to_owned()),
    }
}

/// Writes the address of a device as the kernel does: of the bus, or the UUID of a mediated one.
fn address_of(source: Node<'_, '_>) -> Option<String> {
    let Some(address) = child(source, "address") else {
        let name = child(source, "vendor")?.attribute("id")?;
        let product = child(source, "product").and_then(|product| product.attribute("id"));
        return Some(cut(&format!("{name}:{}", product.unwrap_or_default())));
    };
    if let Some(uuid) = address.attribute("uuid") {
        return Some(cut(uuid));
    }
    let part = |name| {
        let text = address.attribute(name)?;
        u32::from_str_radix(text.trim_start_matches("0x"), 16).ok()
    };
    let (domain, function) = (part("domain").unwrap_or(0), part("function"));
    match (part("bus"), part("slot"), function) {
        (Some(bus), Some(slot), Some(function)) => {
            Some(format!("{domain:04x}:{bus:02x}:{slot:02x}.{function:x}"))
        }
        _ => {
            let (bus, device) = (address.attribute("bus")?, address.attribute("device")?);
            Some(cut(&format!("{bus}:{device}")))
        }
    }
}

/// Reads what binds processors and memory; a preference binds nothing.
fn pinning(root: Node<'_, '_>) -> PinningFacts {
    let mut cpus = BTreeSet::new();
    let of_all = child(root, "vcpu").and_then(|vcpu| vcpu.attribute("cpuset"));
    cpus.extend(of_all.into_iter().flat_map(set));
    let tune = child(root, "cputune").into_iter();
    let pins = tune
        .flat_map(|tune| tune.children())
        .filter(|node| node.has_tag_name("vcpupin"));
    cpus.extend(pins.filter_map(|pin| pin.attribute("cpuset")).flat_map(set));
    let mut nodes = BTreeSet::new();
    let memory = child(root, "numatune").into_iter();
    let bound = memory.flat_map(|tune| tune.children()).filter(|node| {
        let by_name = node.has_tag_name("memory") || node.has_tag_name("memnode");
        by_name && node.attribute("mode").unwrap_or("strict") == "strict"
    });
    nodes.extend(
        bound
            .filter_map(|node| node.attribute("nodeset"))
            .flat_map(set),
    );
    PinningFacts {
        cpus: text(&cpus),
        memory_nodes: text(&nodes),
    }
}

/// Reads a set such as `0-3,^2,8`.
fn set(text: &str) -> BTreeSet<u32> {
    let mut numbers = BTreeSet::new();
    for part in text.split(',').map(str::trim) {
        let (part, is_out) = match part.strip_prefix('^') {
            Some(part) => (part, true),
            None => (part, false),
        };
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (Ok(first), Ok(last)) = (first.parse::<u32>(), last.parse::<u32>()) else {
            continue;
        };
        for number in (first..=last).take(CPUS_MAX) {
            if is_out {
                numbers.remove(&number);
            } else {
                numbers.insert(number);
            }
        }
    }
    numbers
}

/// Writes a set as `0-1,3,8`; absent if it is empty.
fn text(numbers: &BTreeSet<u32>) -> Option<String> {
    let mut ranges: Vec<(u32, u32)> = Vec::new();
    for number in numbers.iter().take(CPUS_MAX) {
        match ranges.last_mut() {
            Some((_, last)) if last.checked_add(1) == Some(*number) => *last = *number,
            _ => ranges.push((*number, *number)),
        }
    }
    let words = ranges.iter().map(|(first, last)| match first == last {
        true => first.to_string(),
        false => format!("{first}-{last}"),
    });
    let text = words.collect::<Vec<_>>().join(",");
    (!text.is_empty()).then(|| cut(&text))
}

#[cfg(test)]
mod tests {
    use plimsoll_model::ByteSize;

    use super::*;

    fn facts(inside: &str) -> HardwareFacts {
        let xml = format!("<domain type='kvm'>{inside}</domain>");
        let document = roxmltree::Document::parse(&xml).unwrap();
        read(document.root_element())
    }

    fn told(facts: &HardwareFacts) -> Vec<(&str, &str)> {
        facts
            .devices
            .iter()
            .map(|device| (device.kind.as_str(), device.address.as_str()))
            .collect()
    }

    #[test]
    fn cards_that_are_passed_through_count_like_other_devices_of_the_host() {
        let facts = facts(
            "<devices><hostdev mode='subsystem' type='pci'><source>\
            <address domain='0x0000' bus='0x3b' slot='0x02' function='0x1'/></source></hostdev>\
            <hostdev mode='subsystem' type='mdev' model='vfio-pci'><source>\
            <address uuid='c2177883-f1bb-47f0-914d-32a22e3a8804'/></source></hostdev>\
            <interface type='hostdev'><source>\
            <address type='pci' domain='0x0000' bus='0x3b' slot='0x02' function='0x2'/></source></interface>\
            <interface type='vdpa'><source dev='/dev/vhost-vdpa-0'/></interface>\
            <interface type='vhostuser'><source type='unix' path='/run/vhu1' mode='server'/></interface>\
            <interface type='bridge'><source bridge='br0'/></interface>\
            <filesystem type='mount'><target dir='share'/></filesystem></devices>",
        );
        let expected = [
            ("pci", "0000:3b:02.1"),
            ("mdev", "c2177883-f1bb-47f0-914d-32a22e3a8804"),
            ("pci", "0000:3b:02.2"),
            ("vdpa", "/dev/vhost-vdpa-0"),
            ("vhostuser", "/run/vhu1"),
            ("filesystem", "share"),
        ];
        assert_eq!(told(&facts), expected);
        assert_eq!(passed_through(&facts), 4);
    }

    #[test]
    fn a_guest_that_is_bound_to_processors_or_memory_nodes_says_so() {
        let unbound =
            facts("<vcpu>2</vcpu><numatune><memory mode='preferred' nodeset='0'/></numatune>");
        assert!(!unbound.pinning.unwrap().is_bound());
        let bound = facts(
            "<vcpu>3</vcpu><cputune><shares>9</shares><vcpupin vcpu='0' cpuset='4'/>\
            <vcpupin vcpu='1' cpuset='5-7,^6'/></cputune>\
            <numatune><memory mode='strict' nodeset='0-1'/></numatune>",
        );
        let pinning = bound.pinning.unwrap();
        assert_eq!(pinning.cpus.as_deref(), Some("4-5,7"));
        assert_eq!(pinning.memory_nodes.as_deref(), Some("0-1"));
        assert!(
            facts("<vcpu cpuset='0-1'>2</vcpu>")
                .pinning
                .unwrap()
                .is_bound()
        );
    }

    #[test]
    fn memory_tells_what_it_is_made_of() {
        let plain = facts("").memory.unwrap();
        assert_eq!(plain, MemoryFacts::default());
        let memory = facts(
            "<memoryBacking><hugepages><page size='2048' unit='KiB'/></hugepages><locked/>\
            <source type='memfd'/><access mode='shared'/></memoryBacking>",
        );
        let expected = MemoryFacts {
            source: Some("memfd".to_owned()),
            shared: true,
            locked: true,
            page: Some(ByteSize::from_mib(2)),
        };
        assert_eq!(memory.memory, Some(expected));
    }

    #[test]
    fn the_processor_and_what_seals_the_guest_are_told() {
        let facts = facts(
            "<cpu mode='host-model'><model>Skylake-Server</model><feature policy='require' name='vmx'/>\
            <feature policy='disable' name='mpx'/><feature policy='require' name='aes'/></cpu>\
            <clock><timer name='tsc' frequency='2400000000'/></clock>\
            <launchSecurity type='sev'/><devices><tpm model='tpm-crb'><backend type='passthrough'/>\
            </tpm></devices>",
        );
        assert_eq!(facts.cpu_mode.as_deref(), Some("host-model"));
        assert_eq!(facts.cpu_features, ["aes", "vmx"]);
        assert_eq!(facts.tsc_hz, Some(2_400_000_000));
        assert_eq!(facts.launch_security.as_deref(), Some("sev"));
        assert_eq!(facts.tpm.as_deref(), Some("passthrough"));
        assert_eq!(passed_through(&facts), 1);
    }

    #[test]
    fn a_set_that_lies_about_its_size_does_not_grow_without_bound() {
        assert_eq!(set("0-4294967295").len(), CPUS_MAX);
        assert!(set("x-y,,^").is_empty());
    }
}
