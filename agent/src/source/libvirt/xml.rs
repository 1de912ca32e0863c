//! Facts from libvirt's XML. The text comes from outside: its size is bounded, DTDs are refused. It asks
//! no file system: where a disk lies is told by [`super::storage`].

mod hardware;

use std::collections::HashMap;
use std::path::PathBuf;

use plimsoll_model::{
    Accelerator, ByteSize, DiskFacts, DomainFacts, DomainId, Incarnation, Metric, NetworkCardFacts,
    NodeId,
};
use roxmltree::{Document, Node};

/// Longest description that is read.
const XML_BYTES_MAX: usize = 1 << 20;
/// Most elements that are read.
const NODES_MAX: u32 = 65_536;
/// Most disks and cards that are told.
const PARTS_MAX: usize = 512;
const TEXT_BYTES_MAX: usize = 256;

/// What a description tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Described {
    pub(super) facts: DomainFacts,
    /// Hardware address by interface of the node.
    pub(super) macs: HashMap<String, String>,
    /// What disks are held to.
    pub(super) throttles: Vec<Throttle>,
    /// Path of each disk that lies in a file, by its place in the facts.
    pub(super) files: Vec<(usize, PathBuf)>,
}

/// What a disk is held to: the disk, the limit, its value.
pub(super) type Throttle = (String, Metric, u64);

/// Element of `iotune`, metric; the general limit stands for both kinds of requests.
const THROTTLES: [(&str, Metric); 6] = [
    ("total_bytes_sec", Metric::VmBlockIotuneTotalBytes),
    ("read_bytes_sec", Metric::VmBlockIotuneRdBytes),
    ("write_bytes_sec", Metric::VmBlockIotuneWrBytes),
    ("total_iops_sec", Metric::VmBlockIotuneTotalReqs),
    ("read_iops_sec", Metric::VmBlockIotuneRdReqs),
    ("write_iops_sec", Metric::VmBlockIotuneWrReqs),
];

/// Who a description is about.
#[derive(Debug, Clone, Copy)]
pub(super) struct About {
    pub(super) domain: DomainId,
    pub(super) node: NodeId,
    pub(super) incarnation: Incarnation,
}

fn parse(xml: &str) -> Option<Document<'_>> {
    if xml.len() > XML_BYTES_MAX {
        return None;
    }
    let options = roxmltree::ParsingOptions {
        nodes_limit: NODES_MAX,
        ..roxmltree::ParsingOptions::default()
    };
    Document::parse_with_options(xml, options).ok()
}

/// Reads the node's UUID from the capabilities of the host.
pub(super) fn host_uuid(capabilities: &str) -> Option<NodeId> {
    let document = parse(capabilities)?;
    let host = child(document.root_element(), "host")?;
    child(host, "uuid")?.text()?.parse().ok()
}

/// Reads frequency and scaling of the time stamp counter from the capabilities of the host.
pub(super) fn time_stamp_counter(capabilities: &str) -> Option<(u64, Option<bool>)> {
    let document = parse(capabilities)?;
    let cpu = child(child(document.root_element(), "host")?, "cpu")?;
    let mut counters = cpu.children().filter(|node| node.has_tag_name("counter"));
    let tsc = counters.find(|counter| counter.attribute("name") == Some("tsc"))?;
    let hz = tsc.attribute("frequency")?.parse().ok()?;
    let scaling = tsc.attribute("scaling").map(|scaling| scaling == "yes");
    Some((hz, scaling))
}

/// Reads the facts of a domain; absent if the text is no description.
pub(super) fn domain(xml: &str, about: About) -> Option<Described> {
    let document = parse(xml)?;
    let root = document.root_element();
    let mut macs = HashMap::new();
    let cards: Vec<NetworkCardFacts> = devices(root, "interface")
        .filter_map(card)
        .take(PARTS_MAX)
        .collect();
    for card in &cards {
        if let Some(target) = &card.target {
            macs.insert(target.clone(), card.mac.clone());
        }
    }
    let nodes: Vec<_> = devices(root, "disk").take(PARTS_MAX).collect();
    let hardware = hardware::read(root);
    let facts = DomainFacts {
        domain: about.domain,
        node: about.node,
        incarnation: about.incarnation,
        name: child(root, "name")
            .and_then(|name| name.text())
            .map(cut)
            .unwrap_or_default(),
        accelerator: match root.attribute("type") {
            Some("kvm") => Some(Accelerator::Kvm),
            Some("qemu") => Some(Accelerator::Tcg),
            _ => None,
        },
        machine: child(root, "os")
            .and_then(|os| child(os, "type"))
            .and_then(|kind| kind.attribute("machine"))
            .map(cut),
        cpu_model: cpu_model(root),
        vcpu_count: child(root, "vcpu").and_then(|vcpu| {
            vcpu.attribute("current")
                .or_else(|| vcpu.text())
                .and_then(|count| count.trim().parse().ok())
        }),
        memory_max: child(root, "memory").and_then(memory),
        huge_pages: Some(
            child(root, "memoryBacking")
                .is_some_and(|backing| child(backing, "hugepages").is_some()),
        ),
        disks: nodes.iter().copied().filter_map(disk).collect(),
        network_cards: cards,
        host_device_count: hardware::passed_through(&hardware),
        hardware,
        project: project(root),
    };
    let named = nodes.iter().copied().filter(|node| disk(*node).is_some());
    let files = named.clone().enumerate();
    Some(Described {
        files: files
            .filter_map(|(place, node)| Some((place, file(node)?)))
            .collect(),
        throttles: named.flat_map(throttles).collect(),
        facts,
        macs,
    })
}

/// Reads the project that owns the domain, as Nova writes it.
fn project(root: Node<'_, '_>) -> Option<String> {
    let owner = child(child(child(root, "metadata")?, "instance")?, "owner")?;
    let project = cut(child(owner, "project")?.attribute("uuid")?);
    (!project.is_empty()).then_some(project)
}

/// Lists the devices of a kind.
fn devices<'a, 'i>(
    root: Node<'a, 'i>,
    name: &'static str,
) -> impl Iterator<Item = Node<'a, 'i>> + use<'a, 'i> {
    let devices = child(root, "devices").into_iter();
    devices
        .flat_map(|devices| devices.children())
        .filter(move |node| node.has_tag_name(name))
}

fn child<'a, 'i>(node: Node<'a, 'i>, name: &str) -> Option<Node<'a, 'i>> {
    node.children().find(|child| child.has_tag_name(name))
}

/// Cuts what a guest's owner may have chosen to a length the wire takes.
fn cut(text: &str) -> String {
    let mut end = text.len().min(TEXT_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.get(..end).unwrap_or_default().trim().to_owned()
}

fn cpu_model(root: Node<'_, '_>) -> Option<String> {
    let cpu = child(root, "cpu")?;
    let mode = cpu.attribute("mode").filter(|mode| *mode != "custom");
    mode.or_else(|| child(cpu, "model")?.text()).map(cut)
}

fn memory(node: Node<'_, '_>) -> Option<ByteSize> {
    size(node.text()?, node.attribute("unit"))
}

fn size(amount: &str, unit: Option<&str>) -> Option<ByteSize> {
    let amount: u64 = amount.trim().parse().ok()?;
    let factor: u64 = match unit.unwrap_or("KiB") {
        "b" | "bytes" => 1,
        "KB" => 1_000,
        "k" | "KiB" => 1 << 10,
        "MB" => 1_000_000,
        "M" | "MiB" => 1 << 20,
        "GB" => 1_000_000_000,
        "G" | "GiB" => 1 << 30,
        _ => return None,
    };
    amount.checked_mul(factor).map(ByteSize::from_bytes)
}

fn disk(node: Node<'_, '_>) -> Option<DiskFacts> {
    let target = cut(child(node, "target")?.attribute("dev")?);
    let source = child(node, "source");
    let told = source.and_then(|source| {
        ["file", "dev", "name", "volume", "dir"]
            .iter()
            .find_map(|key| source.attribute(*key))
    });
    Some(DiskFacts {
        target,
        source: told.map(cut),
        shared: (node.attribute("type") == Some("network")).then_some(true),
        storage: None,
    })
}

/// Returns the path of a disk that lies in a file or a directory.
fn file(node: Node<'_, '_>) -> Option<PathBuf> {
    let source = child(node, "source")?;
    let path = source
        .attribute("file")
        .or_else(|| source.attribute("dir"))?;
    path.starts_with('/').then(|| PathBuf::from(path))
}

fn throttles(node: Node<'_, '_>) -> Vec<Throttle> {
    let read = || {
        let disk = child(node, "target")?.attribute("dev")?;
        let tune = child(node, "iotune")?;
        let limit = |(name, metric): (&'static str, Metric)| {
            let value: u64 = child(tune, name)?.text()?.trim().parse().ok()?;
            (value > 0).then(|| (cut(disk), metric, value))
        };
        Some(THROTTLES.into_iter().filter_map(limit).collect())
    };
    read().unwrap_or_default()
}

fn card(node: Node<'_, '_>) -> Option<NetworkCardFacts> {
    Some(NetworkCardFacts {
        mac: cut(child(node, "mac")?.attribute("address")?),
        target: child(node, "target")
            .and_then(|target| target.attribute("dev"))
            .map(cut),
        connection: cut(node.attribute("type").unwrap_or_default()),
        model: child(node, "model")
            .and_then(|model| model.attribute("type"))
            .map(cut),
        bridge: child(node, "source").and_then(|source| {
            let names = ["bridge", "network", "dev"].into_iter();
            names
                .filter_map(|name| source.attribute(name))
                .map(cut)
                .next()
        }),
        mtu_bytes: child(node, "mtu")
            .and_then(|mtu| mtu.attribute("size"))
            .and_then(|size| size.parse().ok()),
    })
}

#[cfg(test)]
mod tests {
    use plimsoll_model::BootId;

    use super::*;

    fn about() -> About {
        let incarnation = Incarnation {
            boot: BootId::random(),
            started_ms: 7,
        };
        About {
            domain: DomainId::random(),
            node: NodeId::random(),
            incarnation,
        }
    }

    #[test]
    fn a_description_tells_its_facts() {
        let xml = "<domain type='qemu'><name>web-1</name><memory unit='KiB'>524288</memory>\
            <vcpu current='1'>2</vcpu><os><type machine='pc-i440fx-7.2'>hvm</type></os>\
            <cpu mode='custom'><model>qemu64</model></cpu><devices>\
            <disk type='network'><source protocol='rbd' name='pool/a'/><target dev='vda'/></disk>\
            <disk type='file'><target dev='sda'/></disk>\
            <interface type='bridge'><mac address='52:54:00:00:00:01'/><target dev='vnet0'/></interface>\
            <hostdev mode='subsystem' type='usb'/></devices></domain>";
        let Described { facts, macs, .. } = domain(xml, about()).unwrap();
        assert_eq!(facts.name, "web-1");
        assert_eq!(facts.accelerator, Some(Accelerator::Tcg));
        assert_eq!(facts.memory_max, Some(ByteSize::from_mib(512)));
        assert_eq!((facts.vcpu_count, facts.host_device_count), (Some(1), 1));
        assert_eq!(facts.cpu_model.as_deref(), Some("qemu64"));
        assert_eq!(facts.disks[0].shared, Some(true));
        assert_eq!(facts.disks[1].shared, None, "an empty drive is nowhere");
        assert_eq!(
            macs.get("vnet0").map(String::as_str),
            Some("52:54:00:00:00:01")
        );
    }

    fn described(xml: &str) -> Described {
        domain(xml, about()).unwrap()
    }

    #[test]
    fn a_disk_tells_its_file_and_its_limits_and_a_card_its_plug() {
        let Described {
            facts,
            throttles,
            files,
            ..
        } = described(
            "<domain type='kvm'><name>a</name><devices>\
            <disk type='file' device='cdrom'><target dev='sda'/></disk>\
            <disk type='file'><source file='/srv/a.img'/><target dev='vda'/><iotune>\
            <total_bytes_sec>1048576</total_bytes_sec><read_iops_sec>0</read_iops_sec>\
            <write_iops_sec>90</write_iops_sec></iotune></disk>\
            <interface type='bridge'><mac address='52:54:00:00:00:01'/><source bridge='br0'/>\
            <model type='virtio'/><mtu size='9000'/></interface></devices></domain>",
        );
        assert_eq!(files, [(1, PathBuf::from("/srv/a.img"))]);
        let limit = |metric, value| ("vda".to_owned(), metric, value);
        let expected = [
            limit(Metric::VmBlockIotuneTotalBytes, 1 << 20),
            limit(Metric::VmBlockIotuneWrReqs, 90),
        ];
        assert_eq!(throttles, expected, "0 is no limit");
        let card = &facts.network_cards[0];
        assert_eq!(card.model.as_deref(), Some("virtio"));
        assert_eq!(card.bridge.as_deref(), Some("br0"));
        assert_eq!(card.mtu_bytes, Some(9_000));
    }

    #[test]
    fn the_time_stamp_counter_is_told_by_the_capabilities() {
        let xml = "<capabilities><host><cpu><arch>x86_64</arch>\
            <counter name='tsc' frequency='2803224000' scaling='no'/></cpu></host></capabilities>";
        assert_eq!(time_stamp_counter(xml), Some((2_803_224_000, Some(false))));
        assert_eq!(
            time_stamp_counter("<capabilities><host/></capabilities>"),
            None
        );
    }

    #[test]
    fn the_project_of_a_guest_stands_in_what_nova_wrote() {
        let read = |metadata: &str| {
            let xml = format!("<domain><name>a</name><metadata>{metadata}</metadata></domain>");
            domain(&xml, about()).unwrap().facts.project
        };
        let nova = |owner: &str| {
            format!(
                "<nova:instance xmlns:nova='http://openstack.org/xmlns/libvirt/nova/1.1'>\
                 <nova:owner>{owner}</nova:owner></nova:instance>"
            )
        };
        let told =
            nova("<nova:user uuid='u1'>me</nova:user><nova:project uuid='a1b2'>p</nova:project>");
        assert_eq!(read(&told).as_deref(), Some("a1b2"));
        assert_eq!(read(&nova("<nova:user uuid='u1'>me</nova:user>")), None);
        assert_eq!(read(&nova("<nova:project uuid=' '>p</nova:project>")), None);
        assert_eq!(read(""), None);
    }

    #[test]
    fn a_text_that_would_grow_is_refused() {
        let xml = "<!DOCTYPE d [<!ENTITY a 'aaaa'>]><domain><name>&a;</name></domain>";
        assert_eq!(domain(xml, about()), None);
        assert_eq!(domain(&"<a>".repeat(500_000), about()), None);
    }

    #[test]
    fn the_node_is_named_by_the_capabilities() {
        let xml = "<capabilities><host><uuid>3b1f6a52-6f0e-4d0c-9d1b-0a5c8e1c7d11</uuid></host></capabilities>";
        assert_eq!(
            host_uuid(xml).unwrap().to_string(),
            "3b1f6a52-6f0e-4d0c-9d1b-0a5c8e1c7d11"
        );
    }
}
