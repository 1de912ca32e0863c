//! The migration network: a bridge in the hub, and one shaped link from it to every node.
//!
//! Both ends of a link are shaped, so that neither what a node sends nor what it receives can
//! go faster than the link.
//!
//! Not here: IPv6, a second network for management, loss and delay (a story can add them with
//! `tc` inside a place).

use std::process::Command;
use std::time::Duration;

use super::error::StageError;
use super::place::Place;
use super::process::run;
use super::record::Record;

const LIMIT: Duration = Duration::from_secs(20);
const BRIDGE: &str = "migration";
/// The name of a node's link to the migration network, inside the node.
pub const NODE_LINK: &str = "mig0";

/// The bridge, with the hub's own address on it.
pub(super) fn raise_hub(hub: &Place) -> Result<(), StageError> {
    let address = format!("{}/24", hub.address());
    ip(hub, &["link", "set", "lo", "up"])?;
    ip(
        hub,
        &[
            "link",
            "add",
            BRIDGE,
            "type",
            "bridge",
            "forward_delay",
            "0",
        ],
    )?;
    ip(hub, &["address", "add", &address, "dev", BRIDGE])?;
    ip(hub, &["link", "set", BRIDGE, "up"])
}

/// The link from a node to the bridge; both ends are made inside, so none is ever outside.
pub(super) fn connect(record: &Record, hub: &Place, node: &Place) -> Result<(), StageError> {
    let inside = record
        .nodes
        .iter()
        .find(|candidate| candidate.place.name == node.name())
        .map(|candidate| candidate.place.network_namespace.as_str())
        .unwrap_or_default();
    let outside = record.hub.network_namespace.as_str();
    run(
        Command::new("ip")
            .args(["link", "add", NODE_LINK, "netns", inside, "type", "veth"])
            .args(["peer", "name", node.name(), "netns", outside]),
        LIMIT,
    )?;
    let address = format!("{}/24", node.address());
    ip(hub, &["link", "set", node.name(), "master", BRIDGE, "up"])?;
    ip(node, &["link", "set", "lo", "up"])?;
    ip(node, &["address", "add", &address, "dev", NODE_LINK])?;
    ip(node, &["link", "set", NODE_LINK, "up"])?;
    shape(hub, node, record.link_mbit)
}

/// Sets the speed of a node's link in both directions; it may have one already.
pub(super) fn shape(hub: &Place, node: &Place, mbit: u32) -> Result<(), StageError> {
    let rate = format!("{mbit}mbit");
    for (place, link) in [(node, NODE_LINK), (hub, node.name())] {
        let words = [
            "qdisc", "replace", "dev", link, "root", "tbf", "rate", &rate,
        ];
        let rest = ["burst", "256k", "latency", "50ms"];
        run(place.command("tc").args(words).args(rest), LIMIT)?;
    }
    Ok(())
}

fn ip(place: &Place, args: &[&str]) -> Result<(), StageError> {
    place.run("ip", args, LIMIT).map(drop)
}
