//! What is really in use on a node, as a percentile over a span, and what its disks can still serve. It
//! knows no promises.

use std::collections::BTreeMap;
use std::time::Duration;

use plimsoll_estimate::round_u64;
use plimsoll_model::{Metric, NodeId, Ratio, SeriesKey, Subject, UnixMillis};

use super::CPU;
use crate::known::Known;

/// Requests to disks are counted over this span.
const REQUESTS_SPAN: Duration = Duration::from_secs(600);
/// A disk that is busy for less than this share tells nothing of what it could do.
const BUSY_MIN: f64 = 0.05;

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

/// Guesses how many requests the best disk of a node can still serve, from how busy it is with those it
/// serves now; nothing where no disk is busy enough to tell.
pub(super) fn requests_free(known: &Known, node: NodeId, now: UnixMillis) -> Option<u64> {
    let subject = Subject::Node(node);
    let begin = now.minus(REQUESTS_SPAN);
    let mut best = None;
    for busy in known.parts(subject, Metric::HostDiskIoTime) {
        let Some(share) = known.mean_rate(&busy, begin, now).map(|ns| ns / 1e9) else {
            continue;
        };
        let rate = |metric| {
            let part = busy.part.clone();
            let key = SeriesKey {
                subject,
                metric,
                part,
            };
            known.mean_rate(&key, begin, now)
        };
        let served = rate(Metric::HostDiskRdOps).zip(rate(Metric::HostDiskWrOps));
        let Some((read, written)) = served.filter(|_| share >= BUSY_MIN) else {
            continue;
        };
        let served = read + written;
        let free = (served / share.min(1.0) - served).max(0.0);
        best = Some(f64::max(best.unwrap_or(0.0), free));
    }
    best.map(round_u64)
}
