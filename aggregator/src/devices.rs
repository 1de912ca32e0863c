//! The devices that nodes poll, as rows of an answer. It asks no device anything.

use std::collections::HashMap;
use std::time::Duration;

use plimsoll_model::{
    DeviceId, Metric, NodeId, Part, PolledFacts, Reading, SeriesKey, Subject, UnixMillis,
};
use plimsoll_proto::{render, v1};
use plimsoll_store::Told;

use crate::known::Known;

/// How many intervals of its own may pass before what a device told is stale.
pub(crate) const STALE_INTERVALS: u32 = 3;

/// Returns the pace of each device.
pub(crate) fn intervals(known: &Known) -> HashMap<DeviceId, Duration> {
    let told = known.store.device_facts().into_iter();
    told.map(|told| (told.facts.device, told.facts.interval))
        .collect()
}

/// Lists devices by name: all, or those that one node polls.
pub fn list(known: &Known, node: Option<NodeId>) -> Vec<v1::Device> {
    let mut told = known.store.device_facts();
    told.retain(|told| node.is_none_or(|node| told.facts.node == node));
    told.sort_by(|a, b| (&a.facts.name, a.facts.node).cmp(&(&b.facts.name, b.facts.node)));
    let row = |told: &Told<PolledFacts>| device(known, &told.facts, told.seen);
    told.iter().map(row).collect()
}

fn device(known: &Known, facts: &PolledFacts, seen: UnixMillis) -> v1::Device {
    let asked = last_asked(known, facts);
    let last = asked.as_ref().map(|reading| reading.window.end);
    let age = last.map(|last| known.clock.now().since(last));
    let fresh = age.is_some_and(|age| age <= facts.interval * STALE_INTERVALS);
    v1::Device {
        facts: Some(render::device_facts_with_node(facts, seen)),
        answers: asked.map(|reading| reading.value == 1),
        last_asked_time: last.map(render::timestamp),
        freshness: match fresh {
            true => v1::Freshness::Fresh.into(),
            false => v1::Freshness::Stale.into(),
        },
        hostname: known.hostname(facts.node),
    }
}

fn last_asked(known: &Known, facts: &PolledFacts) -> Option<Reading> {
    known.latest(&SeriesKey {
        subject: Subject::Node(facts.node),
        metric: Metric::HostSnmpUp,
        part: Part::named(&facts.name).ok()?,
    })
}
