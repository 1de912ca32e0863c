//! What the store answers. Nothing here writes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use plimsoll_model::{
    DomainFacts, DomainId, Event, Metric, NodeFacts, NodeId, Part, PolledFacts, Reading, SampleGap,
    SeriesKey, Subject, UnixMillis, Window,
};

use crate::block::Place;
use crate::head::domain_of;
use crate::inventory::Told;
use crate::kept::Kept;
use crate::range::{Range, Source, Wanted};
use crate::record::{Document, EventFilter, NodeSeen, Rate, SeriesFilter};
use crate::store::Store;

impl Store {
    /// Lists series, sorted.
    pub fn series(&self, filter: &SeriesFilter) -> Vec<SeriesKey> {
        let mut found = BTreeSet::new();
        let mut add = |place: Place, metric, part: &Part| {
            let key = SeriesKey {
                subject: place.into(),
                metric,
                part: part.clone(),
            };
            if filter.matches(&key) {
                found.insert(key);
            }
        };
        let horizon = {
            let head = self.read();
            let horizon = head.horizon;
            let first = filter.node.map(Place::of_node);
            let places = match first {
                Some(first) => head.subjects.range(first..),
                None => head.subjects.range(..),
            };
            let of_node = |place: &Place| filter.node.is_none_or(|node| place.node == node);
            for (place, lanes) in places.take_while(|(place, _)| of_node(place)) {
                if filter.domain.is_some() && filter.domain != place.domain.map(|(id, _)| id) {
                    continue;
                }
                let recent = |lane: &&crate::head::Lane| Some(lane.last.0.end) >= horizon;
                for (metric, part) in lanes.iter().filter(recent).flat_map(|lane| &*lane.columns) {
                    add(*place, *metric, part);
                }
            }
            horizon
        };
        for (place, columns) in
            self.with_index(|index| index.subjects((filter.node, filter.domain), filter.past))
        {
            for (metric, part, last) in &columns {
                if filter.past || Some(*last) >= horizon {
                    add(place, *metric, part);
                }
            }
        }
        found.into_iter().collect()
    }

    /// Counts the series of a node that told something since then and are in memory: all that an agent
    /// tells are, and of those before a start the ones that were told again.
    pub fn told_since(&self, node: NodeId, since: UnixMillis) -> usize {
        let head = self.read();
        let of_node = head.subjects.range(Place::of_node(node)..);
        let lanes = of_node
            .take_while(|(place, _)| place.node == node)
            .flat_map(|(_, lanes)| lanes);
        let recent = lanes.filter(|lane| lane.last.0.end >= since);
        recent.map(|lane| lane.columns.len()).sum()
    }

    /// Lists the series of one subject that are kept, and whether each told something since then.
    pub fn kept_of(&self, subject: Subject, since: UnixMillis) -> BTreeMap<(Metric, Part), bool> {
        let place = subject.into();
        let sealed = self.with_index(|index| index.columns(place));
        let mut kept: BTreeMap<_, _> = sealed
            .into_iter()
            .map(|(metric, part, last)| ((metric, part), last >= since))
            .collect();
        let head = self.read();
        for lane in head.subjects.get(&place).into_iter().flatten() {
            for column in &*lane.columns {
                let is_recent = kept.entry(column.clone()).or_default();
                *is_recent |= lane.last.0.end >= since;
            }
        }
        kept
    }

    /// Lists the parts of a metric of one subject, sorted.
    pub fn parts(&self, subject: Subject, metric: Metric) -> Vec<Part> {
        let place = subject.into();
        let mut parts = BTreeSet::new();
        let horizon = {
            let head = self.read();
            let horizon = head.horizon;
            let lanes = head.subjects.get(&place).into_iter().flatten();
            let recent = lanes.filter(|lane| Some(lane.last.0.end) >= horizon);
            let columns = recent.flat_map(|lane| lane.columns.iter());
            let of_metric = columns.filter(|(of, _)| *of == metric);
            parts.extend(of_metric.map(|(_, part)| part.clone()));
            horizon
        };
        let sealed = self.with_index(|index| index.columns(place));
        let recent = sealed
            .into_iter()
            .filter(|(of, _, last)| *of == metric && Some(*last) >= horizon);
        parts.extend(recent.map(|(_, part, _)| part));
        parts.into_iter().collect()
    }

    /// Returns the last sample of a series.
    pub fn latest(&self, key: &SeriesKey) -> Option<Reading> {
        let to = UnixMillis::from_millis(i64::MAX);
        let (newest, source, wanted) = {
            let head = self.read();
            let place = key.subject.into();
            let from = head.horizon.unwrap_or(UnixMillis::from_millis(i64::MIN));
            let lanes = head.subjects.get(&place).into_iter().flatten();
            let of_lane = |lane: &crate::head::Lane| {
                let mut columns = lane.columns.iter();
                let same = |(metric, part): &(_, _)| *metric == key.metric && *part == key.part;
                let value = lane.last.1.get(columns.position(same)?)?;
                (lane.last.0.end >= from).then_some((lane.last.0, *value))
            };
            let newest = lanes.filter_map(of_lane).max_by_key(|(window, _)| *window);
            let wanted = Wanted { key, from, to };
            let sealed = head.sealed_last.get(&place);
            let is_newest = newest.is_some_and(|(window, _)| Some(&window.end) > sealed);
            (
                newest,
                (!is_newest).then(|| Source::take(&head, wanted)),
                wanted,
            )
        };
        // After a start, the newest sample may be sealed, and what came since may be late.
        let sealed = source.and_then(|source| source.newest(wanted));
        let (window, value) = match (newest, sealed) {
            // Of two values in one window the first that came holds, and the sealed one came first.
            (Some(newest), Some(sealed)) if newest.0 <= sealed.0 => sealed,
            (newest, sealed) => newest.or(sealed)?,
        };
        Some(Reading {
            key: key.clone(),
            window,
            value,
        })
    }

    /// Returns the samples whose windows end in `from..=to`, sorted, each window once. What is damaged
    /// is left out; [`Store::range_with_holes`] tells of it.
    pub fn range(&self, key: &SeriesKey, from: UnixMillis, to: UnixMillis) -> Vec<(Window, u64)> {
        self.range_with_holes(key, from, to).samples
    }

    /// Returns the samples whose windows end in `from..=to`, and the damaged places in which more of
    /// them may have been.
    pub fn range_with_holes(&self, key: &SeriesKey, from: UnixMillis, to: UnixMillis) -> Range {
        let (source, wanted) = {
            let head = self.read();
            let from = head.horizon.map_or(from, |horizon| from.max(horizon));
            let wanted = Wanted { key, from, to };
            (Source::take(&head, wanted), wanted)
        };
        let lost = source.lost(wanted);
        let mut range = source.read(wanted);
        range.holes.extend(lost);
        self.note(range.holes.clone());
        range
    }

    /// Returns from when on samples are kept; `None` where none were forgotten.
    pub fn samples_from(&self) -> Option<UnixMillis> {
        self.read().horizon
    }

    /// Returns the growth of a counter between samples that follow each other; where it went down
    /// there is none.
    pub fn rate(&self, key: &SeriesKey, from: UnixMillis, to: UnixMillis) -> Vec<Rate> {
        Rate::between(&self.range(key, from, to))
    }

    /// Returns the newest facts about a node.
    pub fn latest_facts(&self, node: NodeId) -> Option<Told<NodeFacts>> {
        self.read().inventory.node(node).cloned()
    }

    /// Returns the newest facts about a domain from each node that told any.
    pub fn facts_of(&self, domain: DomainId) -> Vec<Told<DomainFacts>> {
        self.read().inventory.of(domain).cloned().collect()
    }

    /// Returns the newest facts about each domain on a node, by domain.
    pub fn domain_facts_on(&self, node: NodeId) -> Vec<Told<DomainFacts>> {
        self.read().inventory.domains_on(node).cloned().collect()
    }

    /// Returns the newest facts about each device that nodes poll, by node and device.
    pub fn device_facts(&self) -> Vec<Told<PolledFacts>> {
        self.read().inventory.devices().cloned().collect()
    }

    /// Lists events seen in `from..=to`, in the order in which they were stored.
    pub fn events(&self, from: UnixMillis, to: UnixMillis, filter: &EventFilter) -> Vec<Event> {
        let wanted = |event: &Event| {
            (from..=to).contains(&event.seen)
                && filter.node.is_none_or(|node| event.node == node)
                && filter
                    .domain
                    .is_none_or(|domain| domain_of(event) == domain)
        };
        let only = |kept: &Kept| match kept {
            Kept::Event(event) if wanted(event) => Some(event.clone()),
            _ => None,
        };
        let (files, young) = {
            let head = self.read();
            let frozen = head.frozen.iter().flat_map(|frozen| &frozen.kept);
            let young: Vec<Event> = frozen.chain(&head.pending).filter_map(only).collect();
            (Arc::clone(&head.files), young)
        };
        let mut events = Vec::new();
        let mut holes = Vec::new();
        for file in files.kept.iter().filter(|file| file.has_events(from, to)) {
            if let Ok(placed) = file.read_all(&mut holes) {
                events.extend(placed.iter().filter_map(|(_, _, kept)| only(kept)));
            }
        }
        self.note(holes);
        events.extend(young);
        events
    }

    /// Lists the gaps of a node, in the order in which they were stored.
    pub fn gaps(&self, node: NodeId) -> Vec<SampleGap> {
        self.read().gaps.get(&node).cloned().unwrap_or_default()
    }

    /// Lists all nodes, by id.
    pub fn nodes(&self) -> Vec<NodeSeen> {
        let all = self.all_nodes().into_iter();
        all.map(|(node, last)| NodeSeen { node, last }).collect()
    }

    /// Returns when a node was last heard of.
    pub fn last_heard(&self, node: NodeId) -> Option<UnixMillis> {
        let young = self.read().last_heard(node);
        young.max(self.with_index(|index| index.node(node)))
    }

    /// Returns how many batches of a node were taken since the store was opened: where it is the same as
    /// before, nothing the node told has changed.
    pub fn batch_count(&self, node: NodeId) -> u64 {
        let head = self.read();
        head.batch_counts.get(&node).copied().unwrap_or(0)
    }

    /// Lists documents of a kind, by time.
    pub fn documents(&self, kind: u8) -> Vec<Document> {
        let (files, placed, young) = {
            let head = self.read();
            let frozen = head.frozen.iter().flat_map(|frozen| &frozen.documents);
            let young: BTreeMap<Vec<u8>, Document> = frozen
                .chain(&head.documents)
                .filter(|((of_kind, _), _)| *of_kind == kind)
                .map(|((_, key), document)| (key.clone(), document.clone()))
                .collect();
            // Under the head's lock, so that places and files belong together.
            let placed = self.places_of_documents(&head, kind);
            (Arc::clone(&head.files), placed, young)
        };
        let mut holes = Vec::new();
        let mut documents = Vec::new();
        for (key, place) in placed {
            if young.contains_key(&key) {
                continue;
            }
            if let Some(file) = files.kept(place.file) {
                match file.document(place.at) {
                    Ok(document) => documents.push(document),
                    Err(hole) => holes.push(hole),
                }
            }
        }
        self.note(holes);
        documents.extend(young.into_values());
        documents.sort_by_key(|document| document.time);
        documents
    }
}
