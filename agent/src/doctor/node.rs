//! The node itself: its name, its /proc, and the network that migrations take.

use std::path::Path;

use plimsoll_model::Clock;

use super::Finding;
use crate::config::Config;
use crate::identity::{self, Origin};
use crate::source::host;

pub(super) async fn identity(config: &Config, clock: &dyn Clock) -> Finding {
    match identity::peek(config, clock).await {
        Ok((node, Origin::MachineId)) if config.libvirt.is_some() => Finding::warn(
            "identity",
            format!("{node}, from {}", Origin::MachineId.name()),
            "once libvirt answers, this node will have another; start libvirt first, or set `id` in [node]",
        ),
        Ok((node, origin)) => Finding::ok("identity", format!("{node}, from {}", origin.name())),
        Err(error) => Finding::fail("identity", "nobody can tell this node", error.to_string()),
    }
}

pub(super) fn host(root: &Path, config: &Config) -> Vec<Finding> {
    vec![sources(root), migration_network(root, config)]
}

fn sources(root: &Path) -> Finding {
    let missing = host::unreadable(root);
    let names = || missing.join(", ");
    if missing.is_empty() {
        Finding::ok("host", "processors, memory, disks and pressure can be read")
    } else if missing.iter().all(|path| path.contains("pressure")) {
        Finding::warn(
            "host",
            format!("no {}", names()),
            "start the kernel with psi=1 to have pressure readings",
        )
    } else {
        Finding::fail(
            "host",
            format!("cannot read {}", names()),
            "mount /proc where the agent runs, and let its user read it",
        )
    }
}

fn migration_network(root: &Path, config: &Config) -> Finding {
    const CHECK: &str = "network";
    let facts = host::facts::read(root, config);
    let Some(name) = &facts.migration_interface else {
        return Finding::warn(
            CHECK,
            "no default route says which interface migrations use",
            "set `interface` in [migration]",
        );
    };
    let card = facts.interfaces.iter().find(|card| card.name == *name);
    match (card, facts.migration_bandwidth) {
        (None, _) => Finding::fail(
            CHECK,
            format!("there is no interface {name}"),
            "correct `interface` in [migration]",
        ),
        (Some(card), _) if card.up == Some(false) => Finding::warn(
            CHECK,
            format!("{name} is down"),
            "bring it up, or name the interface that migrations use in [migration]",
        ),
        (Some(_), None) => Finding::warn(
            CHECK,
            format!("{name} tells no speed, as virtual ones do not"),
            "set `bandwidth` in [migration]; without it no estimate can name a time",
        ),
        (Some(_), Some(speed)) => Finding::ok(CHECK, format!("{name}, {speed}")),
    }
}
