//! The constraints, one function each.

mod binding;
mod processor;

pub(super) use binding::{host_devices, huge_pages, pinning, shared_storage};
pub(super) use processor::cpu_features;

use super::text::{machine_version, network, version};
use super::{Constraint, Finding, Host, Limits, Move, Outcome};
use crate::answer::Verdict;

/// Missing processor features that are named; the rest is counted.
const FLAGS_NAMED: usize = 8;

fn found(constraint: Constraint, outcome: Outcome, evidence: impl Into<String>) -> Finding {
    Finding {
        constraint,
        outcome,
        evidence: evidence.into(),
    }
}

fn unknown(constraint: Constraint, what: impl Into<String>) -> Finding {
    found(constraint, Outcome::Unknown, what)
}

/// Says which of two hosts did not tell something.
fn untold<T>(one: &Move<'_>, what: &str, of: impl Fn(&Host) -> Option<T>) -> String {
    let silent: Vec<&str> = [one.source, one.target]
        .into_iter()
        .filter(|host| of(host).is_none())
        .map(|host| host.name.as_str())
        .collect();
    format!("{what} of {} is not known", silent.join(" and "))
}

pub(super) fn freshness(one: &Move<'_>, limits: &Limits) -> Finding {
    let told = |host: &Host| {
        format!(
            "{} was heard {:.1} s ago",
            host.name,
            host.silent_ms as f64 / 1e3
        )
    };
    let evidence = format!(
        "{}, {}; allowed are {:.0} s",
        told(one.source),
        told(one.target),
        limits.silent_max_ms as f64 / 1e3
    );
    let outcome = if one.target.silent_ms > limits.silent_max_ms {
        Outcome::Fail
    } else if one.source.silent_ms > limits.silent_max_ms {
        Outcome::Warn
    } else {
        Outcome::Pass
    };
    found(Constraint::Freshness, outcome, evidence)
}

pub(super) fn hypervisor_kind(one: &Move<'_>) -> Finding {
    let constraint = Constraint::HypervisorKind;
    match (&one.source.hypervisor, &one.target.hypervisor) {
        (Some(source), Some(target)) if source == target => {
            found(constraint, Outcome::Pass, format!("both are {source}"))
        }
        (Some(source), Some(target)) => found(
            constraint,
            Outcome::Fail,
            format!("{source} here, {target} there"),
        ),
        _ => unknown(
            constraint,
            untold(one, "the hypervisor", |host| host.hypervisor.clone()),
        ),
    }
}

pub(super) fn hypervisor_version(one: &Move<'_>) -> Finding {
    let constraint = Constraint::HypervisorVersion;
    let of = |host: &Host| version(host.qemu_version.as_deref()?);
    let Some((source, target)) = of(one.source).zip(of(one.target)) else {
        return unknown(constraint, untold(one, "the version of QEMU", of));
    };
    let evidence = format!(
        "QEMU {}.{} here, {}.{} there",
        source.0, source.1, target.0, target.1
    );
    // An older QEMU takes a guest of a newer one only if its machine type and state are old enough.
    let outcome = if target >= source {
        Outcome::Pass
    } else {
        Outcome::Warn
    };
    found(constraint, outcome, evidence)
}

pub(super) fn machine_type(one: &Move<'_>) -> Finding {
    let constraint = Constraint::MachineType;
    let Some(machine) = &one.guest.machine else {
        return unknown(constraint, "the machine type of the guest is not known");
    };
    let needed = machine_version(machine);
    let there = one.target.qemu_version.as_deref().and_then(version);
    let Some((needed, there)) = needed.zip(there) else {
        let evidence = format!("whether {} knows {machine} is not known", one.target.name);
        return unknown(constraint, evidence);
    };
    let evidence = format!(
        "{machine} needs QEMU {}.{}, {} has {}.{}",
        needed.0, needed.1, one.target.name, there.0, there.1
    );
    let outcome = if there >= needed {
        Outcome::Pass
    } else {
        Outcome::Fail
    };
    found(constraint, outcome, evidence)
}

pub(super) fn subnet(one: &Move<'_>) -> Finding {
    let constraint = Constraint::Subnet;
    let of = |host: &Host| network(host.migration_address.as_deref()?);
    let Some((source, target)) = of(one.source).zip(of(one.target)) else {
        return unknown(constraint, untold(one, "the migration address", of));
    };
    let address = |host: &Host| host.migration_address.clone().unwrap_or_default();
    let evidence = format!(
        "{} here, {} there",
        address(one.source),
        address(one.target)
    );
    let outcome = if source == target {
        Outcome::Pass
    } else {
        Outcome::Fail
    };
    found(constraint, outcome, evidence)
}

pub(super) fn mtu(one: &Move<'_>) -> Finding {
    let constraint = Constraint::Mtu;
    let Some((source, target)) = one.source.mtu_bytes.zip(one.target.mtu_bytes) else {
        return unknown(
            constraint,
            untold(one, "the packet size", |host| host.mtu_bytes),
        );
    };
    let evidence = format!("{source} bytes here, {target} there");
    // Large packets that are dropped on the way stall a migration without an error.
    let outcome = if source == target {
        Outcome::Pass
    } else {
        Outcome::Warn
    };
    found(constraint, outcome, evidence)
}

pub(super) fn latency(one: &Move<'_>, limits: &Limits) -> Finding {
    let constraint = Constraint::Latency;
    let Some(rtt) = one.path.rtt_ns else {
        return unknown(
            constraint,
            "the round trip between the hosts was not measured",
        );
    };
    let evidence = format!(
        "{:.2} ms there and back; allowed are {:.2} ms",
        rtt as f64 / 1e6,
        limits.rtt_max_ns as f64 / 1e6
    );
    let outcome = if rtt <= limits.rtt_max_ns {
        Outcome::Pass
    } else {
        Outcome::Fail
    };
    found(constraint, outcome, evidence)
}

pub(super) fn source_room(one: &Move<'_>) -> Finding {
    let constraint = Constraint::SourceRoom;
    let room = one.source.room.as_ref();
    let left = room.and_then(|room| room.cpu.physical.zip(room.memory.physical));
    let Some((cpu, memory)) = left else {
        return unknown(
            constraint,
            format!("what {} really uses was not measured", one.source.name),
        );
    };
    let evidence = format!(
        "{:.2} processors and {:.1} GiB are left on {} during the move",
        cpu as f64 / 1e6,
        gib(memory),
        one.source.name
    );
    let outcome = if cpu < 0 || memory < 0 {
        Outcome::Fail
    } else {
        Outcome::Pass
    };
    found(constraint, outcome, evidence)
}

fn gib(bytes: i128) -> f64 {
    bytes as f64 / f64::from(1_u32 << 30)
}

pub(super) fn target_room(one: &Move<'_>) -> Finding {
    let constraint = Constraint::TargetRoom;
    let Some((vcpus, memory)) = one.guest.vcpu_count.zip(one.guest.memory) else {
        return unknown(
            constraint,
            "processors or memory of the guest are not known",
        );
    };
    let Some(room) = &one.target.room else {
        return unknown(
            constraint,
            format!("processors or memory of {} are not known", one.target.name),
        );
    };
    let (vcpus, memory) = (i128::from(vcpus) * 1_000_000, i128::from(memory.bytes()));
    let promise = format!(
        "{:.0} processors and {:.1} GiB may still be promised, {:.0} and {:.1} are asked for",
        room.cpu.allocation as f64 / 1e6,
        gib(room.memory.allocation),
        vcpus as f64 / 1e6,
        gib(memory)
    );
    if room.cpu.allocation < vcpus || room.memory.allocation < memory {
        return found(constraint, Outcome::Fail, promise);
    }
    let Some((cpu_left, memory_left)) = room.cpu.physical.zip(room.memory.physical) else {
        let evidence = format!(
            "{promise}; what {} really uses was not measured",
            one.target.name
        );
        return unknown(constraint, evidence);
    };
    let evidence = format!(
        "{promise}; really free are {:.2} processors and {:.1} GiB",
        cpu_left as f64 / 1e6,
        gib(memory_left)
    );
    // A guest may touch all of its memory; of processors it needs what it uses, which is not known there.
    let outcome = if memory_left < memory || cpu_left < 0 {
        Outcome::Fail
    } else if cpu_left < vcpus {
        Outcome::Warn
    } else {
        Outcome::Pass
    };
    found(constraint, outcome, evidence)
}

pub(super) fn iops_loss(one: &Move<'_>, limits: &Limits) -> Finding {
    let constraint = Constraint::IopsLoss;
    let Some(asked) = one.guest.iops else {
        return unknown(
            constraint,
            "the disk requests of the guest were not measured",
        );
    };
    if asked == 0 {
        return found(
            constraint,
            Outcome::Pass,
            "the guest asks nothing of its disks",
        );
    }
    let Some(free) = one.target.iops_free else {
        let evidence = format!(
            "how many requests {} can still serve is not known; the guest makes {asked} per second",
            one.target.name
        );
        return unknown(constraint, evidence);
    };
    let lost = u128::from(asked.saturating_sub(free)) * 1_000_000 / u128::from(asked);
    let evidence = format!(
        "the guest makes {asked} requests per second, {} can serve {free} more: a loss of {:.1} %, allowed are {:.1} %",
        one.target.name,
        lost as f64 / 1e4,
        limits.iops_loss_max_millionths as f64 / 1e4
    );
    let outcome = if lost > u128::from(limits.iops_loss_max_millionths) {
        Outcome::Fail
    } else {
        Outcome::Pass
    };
    found(constraint, outcome, evidence)
}

pub(super) fn one_active(one: &Move<'_>) -> Finding {
    let constraint = Constraint::OneActive;
    match one.guest.runs_on.as_slice() {
        [] => unknown(constraint, "nobody sees the guest run now"),
        [only] if one.target.sees_guest => {
            let evidence = format!(
                "it runs on {only}, and {} has a domain of its id",
                one.target.name
            );
            found(constraint, Outcome::Fail, evidence)
        }
        [only] => found(
            constraint,
            Outcome::Pass,
            format!("it runs on {only} alone"),
        ),
        many => {
            let evidence = format!("it runs on {} at once", many.join(" and "));
            found(constraint, Outcome::Fail, evidence)
        }
    }
}

pub(super) fn jobs(one: &Move<'_>, limits: &Limits) -> Finding {
    if one.guest.moving {
        return found(
            Constraint::Jobs,
            Outcome::Fail,
            "the guest is moving already",
        );
    }
    let (here, there) = (one.source.move_count, one.target.move_count);
    let evidence = format!(
        "{here} moves on {}, {there} on {}; {} each are allowed beside this one",
        one.source.name, one.target.name, limits.moves_max
    );
    let outcome = if here.max(there) > limits.moves_max {
        Outcome::Warn
    } else {
        Outcome::Pass
    };
    found(Constraint::Jobs, outcome, evidence)
}

pub(super) fn convergence(one: &Move<'_>) -> Finding {
    let constraint = Constraint::Convergence;
    let needs = one
        .path
        .bandwidth_needed
        .map_or(String::new(), |rate| format!("; it needs {rate}"));
    match one.path.verdict {
        None | Some(Verdict::Unknown) => unknown(constraint, "no estimate could be made"),
        Some(Verdict::Converges) => found(constraint, Outcome::Pass, "the move comes to an end"),
        Some(Verdict::AtRisk) => found(
            constraint,
            Outcome::Warn,
            format!("the move may not come to an end{needs}"),
        ),
        Some(Verdict::DoesNotConverge) => found(
            constraint,
            Outcome::Fail,
            format!("the move would not come to an end{needs}"),
        ),
    }
}
