//! Facts from libvirt's XML. The text comes from outside: its size is bounded, DTDs are refused.

use std::collections::HashMap;

use plimsoll_model::{
    Accelerator, ByteSize, DiskFacts, DomainFacts, DomainId, Incarnation, NetworkCardFacts, NodeId,
};
use roxmltree::{Document, Node};

/// Longest description that is read.
const XML_BYTES_MAX: usize = 1 << 20;
/// Most elements that are read.
const NODES_MAX: u32 = 65_536;
/// Most disks and cards that are told.
const PARTS_MAX: usize = 512;
const TEXT_BYTES_MAX: usize = 256;

/// File systems that other nodes reach too, by the magic number of statfs: NFS, Ceph, Gluster and
/// other FUSE file systems are apart, OCFS2, GFS2, SMB.
const SHARED_MAGIC: [u64; 6] = [
    0x6969,
    0x00c3_6400,
    0x7461_636f,
    0x0116_1970,
    0xff53_4d42,
    0xfe53_4d42,
];
const FUSE_MAGIC: u64 = 0x6573_5546;

/// What a description tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Described {
    pub(super) facts: DomainFacts,
    /// Hardware address by interface of the node.
    pub(super) macs: HashMap<String, String>,
}

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

/// Reads the facts of a domain; absent if the text is no description.
pub(super) fn domain(xml: &str, about: About) -> Option<Described> {
    let document = parse(xml)?;
    let root = document.root_element();
    let mut macs = HashMap::new();
    let devices = child(root, "devices");
    let of_kind = |name: &'static str| {
        let devices = devices.into_iter().flat_map(|devices| devices.children());
        devices.filter(move |node| node.has_tag_name(name))
    };
    let cards: Vec<NetworkCardFacts> = of_kind("interface")
        .filter_map(card)
        .take(PARTS_MAX)
        .collect();
    for card in &cards {
        if let Some(target) = &card.target {
            macs.insert(target.clone(), card.mac.clone());
        }
    }
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
        disks: of_kind("disk").filter_map(disk).take(PARTS_MAX).collect(),
        network_cards: cards,
        host_device_count: u32::try_from(of_kind("hostdev").count()).unwrap_or(u32::MAX),
    };
    Some(Described { facts, macs })
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
    let amount: u64 = node.text()?.trim().parse().ok()?;
    let factor: u64 = match node.attribute("unit").unwrap_or("KiB") {
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
    let shared = match (node.attribute("type"), told) {
        (Some("network"), _) => Some(true),
        (Some("file" | "dir"), Some(path)) => on_shared_storage(path),
        _ => None,
    };
    Some(DiskFacts {
        target,
        source: told.map(cut),
        shared,
    })
}

/// Asks the file system of a path; absent where it cannot be told.
fn on_shared_storage(path: &str) -> Option<bool> {
    let magic = u64::try_from(rustix::fs::statfs(path).ok()?.f_type).ok()?;
    if SHARED_MAGIC.contains(&magic) {
        Some(true)
    } else if magic == FUSE_MAGIC {
        None
    } else {
        Some(false)
    }
}

fn card(node: Node<'_, '_>) -> Option<NetworkCardFacts> {
    Some(NetworkCardFacts {
        mac: cut(child(node, "mac")?.attribute("address")?),
        target: child(node, "target")
            .and_then(|target| target.attribute("dev"))
            .map(cut),
        connection: cut(node.attribute("type").unwrap_or_default()),
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
            <hostdev/></devices></domain>";
        let Described { facts, macs } = domain(xml, about()).unwrap();
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
