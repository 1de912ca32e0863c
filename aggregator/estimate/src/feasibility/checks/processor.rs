//! Whether the target's processor is one the guest can go on with.

use super::{FLAGS_NAMED, found, unknown, untold};
use crate::feasibility::{Constraint, Finding, Host, Move, Outcome};

pub(in crate::feasibility) fn cpu_features(one: &Move<'_>) -> Finding {
    // A clock that runs at another speed breaks a guest that was promised one, whatever else is there.
    if let Some(finding) = clock(one).filter(|finding| finding.outcome == Outcome::Fail) {
        return finding;
    }
    let found = flags(one);
    match clock(one) {
        Some(clock) if clock.outcome > found.outcome => clock,
        _ => found,
    }
}

/// Judges the time stamp counter of a guest that was promised a frequency.
fn clock(one: &Move<'_>) -> Option<Finding> {
    let constraint = Constraint::CpuFeatures;
    let promised = one.guest.tsc_hz?;
    let name = &one.target.name;
    let Some(there) = one.target.tsc_hz else {
        let evidence = format!(
            "the guest was promised a time stamp counter of {promised} Hz; that of {name} is not known"
        );
        return Some(unknown(constraint, evidence));
    };
    // KVM takes frequencies within 250 millionths for the same.
    let is_near = promised.abs_diff(there) <= promised / 4_000;
    let evidence = format!(
        "the guest was promised a time stamp counter of {promised} Hz, {name} has {there} Hz"
    );
    let outcome = match (is_near, one.target.tsc_scaling) {
        (true, _) | (false, Some(true)) => Outcome::Pass,
        (false, Some(false)) => Outcome::Fail,
        (false, None) => Outcome::Unknown,
    };
    Some(found(constraint, outcome, evidence))
}

/// Writes a feature as the kernel does, where libvirt writes it with a dot or a dash.
fn as_flag(feature: &str) -> String {
    feature.replace(['.', '-'], "_")
}

fn flags(one: &Move<'_>) -> Finding {
    let constraint = Constraint::CpuFeatures;
    let of = |host: &Host| (!host.cpu_flags.is_empty()).then_some(());
    if of(one.source).and(of(one.target)).is_none() {
        return unknown(constraint, untold(one, "the processor", of));
    }
    let lacks = |flag: &&String| !one.target.cpu_flags.contains(flag);
    let missing: Vec<&str> = one
        .source
        .cpu_flags
        .iter()
        .filter(lacks)
        .map(String::as_str)
        .collect();
    let passthrough = one.guest.cpu_model.as_deref() == Some("host-passthrough");
    if missing.is_empty() {
        let same = one.source.cpu_model.is_some() && one.source.cpu_model == one.target.cpu_model;
        let count = one.source.cpu_flags.len();
        let evidence = format!("all {count} features of {} are there", one.source.name);
        return if passthrough && !same {
            let more = format!(
                "{evidence}, but the guest sees the host's own processor, which is another"
            );
            found(constraint, Outcome::Warn, more)
        } else {
            found(constraint, Outcome::Pass, evidence)
        };
    }
    let named = missing
        .get(..FLAGS_NAMED.min(missing.len()))
        .unwrap_or_default()
        .join(" ");
    let evidence = format!(
        "{} lacks {} features: {named}",
        one.target.name,
        missing.len()
    );
    match one.guest.cpu_model.as_deref() {
        Some("host-passthrough" | "host-model") => found(constraint, Outcome::Fail, evidence),
        Some(model) => {
            // Of names that the kernel writes in another way nothing is said.
            let needed = one.guest.cpu_features.iter().map(|name| as_flag(name));
            let lost: Vec<String> = needed
                .filter(|name| missing.contains(&name.as_str()))
                .collect();
            if !lost.is_empty() {
                let named = lost.iter().take(FLAGS_NAMED).cloned();
                let named = named.collect::<Vec<_>>().join(" ");
                let more = format!("{evidence}; the guest was started with {named}");
                return found(constraint, Outcome::Fail, more);
            }
            let more = format!("{evidence}; whether {model} needs them is not known");
            found(constraint, Outcome::Warn, more)
        }
        None => unknown(
            constraint,
            format!("{evidence}; what the guest sees is not known"),
        ),
    }
}
