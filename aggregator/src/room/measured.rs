//! What is really in use on a node, as a percentile over a span. It knows no promises.

use std::collections::BTreeMap;

use plimsoll_estimate::round_u64;
use plimsoll_model::{Metric, NodeId, Ratio, Subject, UnixMillis};

use super::CPU;
use crate::known::Known;

/// The wall of one percentile: the value below which so many hundredths lie.
fn percentile(mut values: Vec<u64>, percent: i32) -> Option<u64> {
    values.sort_unstable();
    let last = values.len().checked_sub(1)?;
    let at = (last * usize::try_from(percent).unwrap_or(100)).div_ceil(100);
    values.get(at.min(last)).copied()
}

pub(super) fn cpu_used(
    known: &Known,
    node: NodeId,
    cpus: u64,
    span: (UnixMillis, UnixMillis),
    percent: i32,
) -> Option<(u64, UnixMillis)> {
    // Idle and waiting time per second, summed over processors that were read together.
    let mut idle: BTreeMap<UnixMillis, f64> = BTreeMap::new();
    for metric in [Metric::HostCpuTimeIdle, Metric::HostCpuTimeIowait] {
        for key in known.parts(Subject::Node(node), metric) {
            for rate in known.store.rate(&key, span.0, span.1) {
                *idle.entry(rate.end).or_default() += rate.per_second() / 1e9;
            }
        }
    }
    let last = idle.keys().next_back().copied();
    let used = |idle: &f64| {
        let busy = (1.0 - (idle / cpus as f64).clamp(0.0, 1.0)) * 1e6;
        Ratio::from_millionths(round_u64(busy)).of(cpus * CPU)
    };
    percentile(idle.values().map(used).collect(), percent).zip(last)
}

pub(super) fn memory_used(
    known: &Known,
    node: NodeId,
    span: (UnixMillis, UnixMillis),
    percent: i32,
) -> Option<(u64, UnixMillis)> {
    let key = |metric| known.parts(Subject::Node(node), metric).into_iter().next();
    let (total, available) = key(Metric::HostMemTotal).zip(key(Metric::HostMemAvailable))?;
    let totals: BTreeMap<_, _> = known
        .store
        .range(&total, span.0, span.1)
        .into_iter()
        .collect();
    let mut last = None;
    let mut used = Vec::new();
    for (window, available) in known.store.range(&available, span.0, span.1) {
        if let Some(total) = totals.get(&window) {
            used.push(total.saturating_sub(available));
            last = Some(window.end);
        }
    }
    percentile(used, percent).zip(last)
}
