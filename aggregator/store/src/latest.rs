//! The last samples of many series at once.

use std::collections::BTreeMap;

use plimsoll_model::{Metric, Part, Reading, SeriesKey, Window};

use crate::block::Place;
use crate::head::{Head, Lane};
use crate::index::Column;
use crate::record::SeriesFilter;
use crate::store::Store;

/// What memory tells of one subject.
#[derive(Default)]
struct Told<'a> {
    /// The newest row of each series.
    newest: BTreeMap<(Metric, &'a Part), (Window, u64)>,
    /// Whether a sealed sample may be newer than one of them.
    unsure: bool,
}

impl<'a> Told<'a> {
    fn of(head: &'a Head, place: &Place) -> Self {
        let sealed = head.sealed_last.get(place);
        let mut told = Self::default();
        for lane in head.subjects.get(place).into_iter().flatten() {
            told.unsure |= sealed >= Some(&lane.last.0.end);
            told.take(lane);
        }
        told
    }

    fn take(&mut self, lane: &'a Lane) {
        let window = lane.last.0;
        for ((metric, part), value) in lane.columns.iter().zip(&*lane.last.1) {
            let newest = self
                .newest
                .entry((*metric, part))
                .or_insert((window, *value));
            if newest.0 < window {
                *newest = (window, *value);
            }
        }
    }
}

impl Store {
    /// Returns the last sample of each series that is meant, sorted by series.
    pub fn latest_of_all(&self, filter: &SeriesFilter) -> Vec<Reading> {
        let sealed = self.with_index(|index| index.subjects(filter.node, filter.domain));
        let mut subjects: BTreeMap<Place, Vec<Column>> = sealed.into_iter().collect();
        let mut readings = Vec::new();
        let mut unsure = Vec::new();
        {
            let head = self.read();
            let young = head.places(filter.node, filter.domain);
            young.for_each(|place| {
                subjects.entry(*place).or_default();
            });
            for (place, columns) in &subjects {
                let told = Told::of(&head, place);
                let key = |metric: Metric, part: &Part| SeriesKey {
                    subject: (*place).into(),
                    metric,
                    part: part.clone(),
                };
                let only_sealed = columns.iter().filter(|(metric, part, last)| {
                    Some(*last) >= head.horizon && !told.newest.contains_key(&(*metric, part))
                });
                unsure.extend(only_sealed.map(|(metric, part, _)| key(*metric, part)));
                let recent = told
                    .newest
                    .iter()
                    .filter(|(_, (window, _))| Some(window.end) >= head.horizon);
                for ((metric, part), (window, value)) in recent {
                    let key = key(*metric, part);
                    if told.unsure {
                        unsure.push(key);
                    } else {
                        let (window, value) = (*window, *value);
                        readings.push(Reading { key, window, value });
                    }
                }
            }
        }
        readings.retain(|reading| filter.matches(&reading.key));
        unsure.retain(|key| filter.matches(key));
        readings.extend(unsure.iter().filter_map(|key| self.latest(key)));
        readings.sort_by(|a, b| a.key.cmp(&b.key));
        readings
    }
}
