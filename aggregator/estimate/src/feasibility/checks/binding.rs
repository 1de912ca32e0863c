//! What binds the guest to the host it is on: disks, devices, pages, places.

use super::{FLAGS_NAMED, found, unknown};
use crate::feasibility::{Constraint, Device, Finding, Move, Outcome};

pub(in crate::feasibility) fn shared_storage(one: &Move<'_>) -> Finding {
    let constraint = Constraint::SharedStorage;
    let named = |shared: Option<bool>| {
        let disks = one.guest.disks.iter().filter(|disk| disk.shared == shared);
        disks
            .map(|disk| disk.target.as_str())
            .collect::<Vec<_>>()
            .join(", ")
    };
    let (local, untold) = (named(Some(false)), named(None));
    if !local.is_empty() {
        let evidence = format!(
            "{local} is on storage of {} alone and would have to be copied",
            one.source.name
        );
        return found(constraint, Outcome::Fail, evidence);
    }
    if !untold.is_empty() {
        return unknown(
            constraint,
            format!("whether {} reaches {untold} is not known", one.target.name),
        );
    }
    if let Some(finding) = mounted(one) {
        return finding;
    }
    let evidence = match one.guest.disks.len() {
        0 => "the guest has no disks".to_owned(),
        count => format!("all {count} disks are on shared storage"),
    };
    found(constraint, Outcome::Pass, evidence)
}

/// Judges whether the target mounts what the disks lie in; absent if nothing speaks against it.
fn mounted(one: &Move<'_>) -> Option<Finding> {
    let constraint = Constraint::SharedStorage;
    let storages = one
        .guest
        .disks
        .iter()
        .filter_map(|disk| disk.storage.as_ref());
    let target = one.target.storages.as_ref();
    let missing: Vec<&str> = storages
        .filter(|storage| !target.is_some_and(|there| there.contains(storage)))
        .map(String::as_str)
        .collect();
    if missing.is_empty() {
        return None;
    }
    let (name, missing) = (&one.target.name, missing.join(", "));
    Some(match target {
        Some(_) => found(
            constraint,
            Outcome::Fail,
            format!("{name} does not mount {missing}"),
        ),
        None => unknown(
            constraint,
            format!("whether {name} mounts {missing} is not known"),
        ),
    })
}

pub(in crate::feasibility) fn host_devices(one: &Move<'_>) -> Finding {
    let constraint = Constraint::HostDevices;
    if let Some(kind) = &one.guest.launch_security {
        let evidence = format!(
            "its memory is sealed by {kind} and cannot leave {}",
            one.source.name
        );
        return found(constraint, Outcome::Fail, evidence);
    }
    let named = |devices: Vec<&Device>| {
        let names = devices.iter().take(FLAGS_NAMED);
        let names = names.map(|device| format!("{} {}", device.kind, device.address));
        names.collect::<Vec<_>>().join(", ")
    };
    // These have a program of the host at their other end, which the target must have as well.
    let is_served = |device: &&Device| ["vhostuser", "filesystem"].contains(&device.kind.as_str());
    let (served, bound): (Vec<_>, Vec<_>) = one.guest.devices.iter().partition(is_served);
    if one.guest.host_device_count > 0 {
        let count = one.guest.host_device_count;
        let mut evidence = format!("{count} devices of {} are passed through", one.source.name);
        if !bound.is_empty() {
            evidence = format!("{evidence}: {}", named(bound));
        }
        return found(constraint, Outcome::Fail, evidence);
    }
    if !served.is_empty() {
        let evidence = format!(
            "programs of {} serve {}; whether {} has their like is not known",
            one.source.name,
            named(served),
            one.target.name
        );
        return found(constraint, Outcome::Warn, evidence);
    }
    found(constraint, Outcome::Pass, "no device is passed through")
}

pub(in crate::feasibility) fn huge_pages(one: &Move<'_>) -> Finding {
    let constraint = Constraint::HugePages;
    match one.guest.huge_pages {
        None => return unknown(constraint, "whether the guest uses huge pages is not known"),
        Some(false) => return found(constraint, Outcome::Pass, "the guest uses none"),
        Some(true) => {}
    }
    let Some((free, needed)) = one.target.huge_pages_free.zip(one.guest.memory) else {
        return unknown(
            constraint,
            format!("the free huge pages of {} are not known", one.target.name),
        );
    };
    let evidence = format!(
        "{free} are free on {}, {needed} are needed",
        one.target.name
    );
    let outcome = if free >= needed {
        Outcome::Pass
    } else {
        Outcome::Fail
    };
    found(constraint, outcome, evidence)
}

pub(in crate::feasibility) fn pinning(one: &Move<'_>) -> Finding {
    let constraint = Constraint::Pinning;
    match one.guest.pinned {
        None => unknown(
            constraint,
            "whether the guest is bound to processors is not known",
        ),
        Some(false) => found(
            constraint,
            Outcome::Pass,
            "the guest is bound to no processor",
        ),
        Some(true) => {
            let evidence = format!(
                "the guest is bound to {} of {}; the same must be free on {}",
                match one.guest.bound_to.as_str() {
                    "" => "processors",
                    words => words,
                },
                one.source.name,
                one.target.name
            );
            found(constraint, Outcome::Warn, evidence)
        }
    }
}
