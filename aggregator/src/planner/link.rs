//! What the link between two nodes can carry for one more migration: what the caller says, else the speed of
//! the slower card less what else crosses it, or what finished migrations reached where that is clearly less.
//! It knows no memory.

use std::time::Duration;

use plimsoll_estimate::{BandwidthSource, LinkBandwidth, network, round_u64};
use plimsoll_model::{Bandwidth, Metric, NodeFacts, NodeId, Part, SeriesKey, Subject, UnixMillis};

use super::{Input, Question};
use crate::known::{DomainRow, Known};

/// Packets of a network whose cards tell no size.
const MTU_BYTES_USUAL: u32 = 1500;
/// Other traffic is judged over this span, by its middle: a migration that came and went is no standing load.
const TRAFFIC_SPAN: Duration = Duration::from_secs(900);
/// TCP takes at least this share of a link from whoever uses it already, as one in ten.
const SHARE_LEAST: f64 = 0.1;

/// Finds the bandwidth and notes what it was made from.
pub(super) fn bandwidth(
    known: &Known,
    row: &DomainRow,
    question: &Question,
    assumed: Bandwidth,
    gathered: &mut Vec<Input>,
) -> LinkBandwidth {
    let best = question
        .target
        .and_then(|target| known.learned.reached.best(row.facts.node, target));
    gathered.extend(best.map(|best| Input {
        name: "path.reached".to_owned(),
        value: format!("{} (best of {})", best.rate, best.count),
        source: "measured",
        read: None,
    }));
    let mut push = |name: &str, rate: Bandwidth, source, read| {
        gathered.push(Input {
            name: name.to_owned(),
            value: rate.to_string(),
            source,
            read,
        });
    };
    let told = |rate, source| LinkBandwidth {
        rate,
        uncertainty: None,
        source,
    };
    if let Some(rate) = question.path_bandwidth {
        push("path_bandwidth", rate, "request", None);
        return told(rate, BandwidthSource::Capacity);
    }
    if let Some((speed, free)) = of_cards(known, row, question, &mut push) {
        push("node.migration_bandwidth", speed, "fact", None);
        return match best {
            Some(best) if falls_short(best.rate, free) => {
                told(best.rate, BandwidthSource::Measured)
            }
            _ => told(free, BandwidthSource::Capacity),
        };
    }
    if let Some(best) = best {
        return told(best.rate, BandwidthSource::Measured);
    }
    push("assumed_bandwidth", assumed, "prior", None);
    let source = known.node_facts(row.facts.node).map(|(facts, _)| facts);
    let mtu = source.map_or(MTU_BYTES_USUAL, |facts| mtu_bytes(&facts));
    told(
        network::ethernet_goodput(assumed, mtu),
        BandwidthSource::Assumed,
    )
}

/// The speed of the slower card, and what the fuller one has left of it; absent where no speed is told.
fn of_cards(
    known: &Known,
    row: &DomainRow,
    question: &Question,
    push: &mut impl FnMut(&str, Bandwidth, &'static str, Option<UnixMillis>),
) -> Option<(Bandwidth, Bandwidth)> {
    let ends = [
        (Some(row.facts.node), Metric::HostNetTxBytes),
        (question.target, Metric::HostNetRxBytes),
    ];
    let mut slowest: Option<Bandwidth> = None;
    let mut free: Option<Bandwidth> = None;
    for (node, metric) in ends {
        let Some((facts, _)) = node.and_then(|node| known.node_facts(node)) else {
            continue;
        };
        let Some(speed) = facts.migration_bandwidth else {
            continue;
        };
        let mut rate = network::ethernet_goodput(speed, mtu_bytes(&facts));
        if let Some((other, read)) = node.and_then(|node| traffic(known, node, &facts, metric)) {
            push(
                &format!("node.other_traffic{{{}}}", metric.name()),
                other,
                "measured",
                Some(read),
            );
            rate = less(rate, other);
        }
        slowest = Some(slowest.map_or(speed, |slowest| slowest.min(speed)));
        free = Some(free.map_or(rate, |free| free.min(rate)));
    }
    slowest.zip(free)
}

/// Whether a way gave less than nine tenths of what the cards have left, however often it was gone.
fn falls_short(reached: Bandwidth, free: Bandwidth) -> bool {
    let tenths = |rate: Bandwidth, count: u128| u128::from(rate.bytes_per_second()) * count;
    tenths(reached, 10) < tenths(free, 9)
}

fn mtu_bytes(facts: &NodeFacts) -> u32 {
    let card = facts.migration_interface.as_ref();
    let of_card = facts.interfaces.iter().find(|one| Some(&one.name) == card);
    of_card
        .and_then(|one| one.mtu_bytes)
        .unwrap_or(MTU_BYTES_USUAL)
}

/// The middle of what else crossed the card of a node, and when it was last read.
fn traffic(
    known: &Known,
    node: NodeId,
    facts: &NodeFacts,
    metric: Metric,
) -> Option<(Bandwidth, UnixMillis)> {
    let card = facts.migration_interface.as_ref()?;
    let key = SeriesKey {
        subject: Subject::Node(node),
        metric,
        part: Part::named(card).ok()?,
    };
    let now = known.clock.now();
    let mut rates = known.store.rate(&key, now.minus(TRAFFIC_SPAN), now);
    let read = rates.last()?.end;
    rates.sort_by(|one, other| one.per_second().total_cmp(&other.per_second()));
    let middle = rates.get(rates.len() / 2)?.per_second();
    Some((Bandwidth::from_bytes_per_second(round_u64(middle)), read))
}

/// Takes off whole hundredths, rounded up: links that are as good as alike are then the same to whoever
/// compares targets.
fn less(rate: Bandwidth, other: Bandwidth) -> Bandwidth {
    let all = rate.bytes_per_second();
    let hundredth = (all / 100).max(1);
    let taken = other.bytes_per_second().div_ceil(hundredth);
    let left = all.saturating_sub(taken.saturating_mul(hundredth));
    let least = round_u64(all as f64 * SHARE_LEAST).max(1);
    Bandwidth::from_bytes_per_second(left.max(least))
}
