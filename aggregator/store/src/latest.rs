//! The last samples of many series at once.

use std::collections::BTreeMap;

use plimsoll_model::{Metric, Part, Reading, SeriesKey, Window};

use crate::block::Place;
use crate::head::{Head, Lane};
use crate::index::Column;
use crate::record::SeriesFilter;
use crate::store::Store;

/// The last samples of the series that are meant, as far as memory knows them.
struct Gathered<'a> {
    filter: &'a SeriesFilter,
    readings: Vec<Reading>,
    /// Series of which a sealed sample may be newer than what memory knows.
    unsure: Vec<SeriesKey>,
}

impl Gathered<'_> {
    fn key(&self, place: Place, metric: Metric, part: &Part) -> Option<SeriesKey> {
        let key = SeriesKey {
            subject: place.into(),
            metric,
            part: part.clone(),
        };
        self.filter.matches(&key).then_some(key)
    }

    /// Takes a subject; `sealed` are the columns of it that are in files.
    fn take(&mut self, head: &Head, place: Place, sealed: &[Column]) {
        let lanes = head.subjects.get(&place).map_or(&[][..], Vec::as_slice);
        let sealed_last = head.sealed_last.get(&place);
        let is_newest = |lane: &Lane| sealed_last < Some(&lane.last.0.end);
        let mut newest: BTreeMap<(Metric, &Part), (Window, u64)> = BTreeMap::new();
        for lane in lanes {
            let window = lane.last.0;
            for ((metric, part), value) in lane.columns.iter().zip(&*lane.last.1) {
                let known = newest.entry((*metric, part)).or_insert((window, *value));
                if known.0 < window {
                    *known = (window, *value);
                }
            }
        }
        for (metric, part, last) in sealed {
            if Some(*last) >= head.horizon && !newest.contains_key(&(*metric, part)) {
                let key = self.key(place, *metric, part);
                self.unsure.extend(key);
            }
        }
        let sure = lanes.iter().all(is_newest);
        for ((metric, part), (window, value)) in newest {
            if Some(window.end) < head.horizon {
                continue;
            }
            let Some(key) = self.key(place, metric, part) else {
                continue;
            };
            if sure {
                self.readings.push(Reading { key, window, value });
            } else {
                self.unsure.push(key);
            }
        }
    }
}

impl Store {
    /// Returns the last sample of each series that is meant, sorted by series.
    pub fn latest_of_all(&self, filter: &SeriesFilter) -> Vec<Reading> {
        let sealed = self.with_index(|index| index.subjects((filter.node, filter.domain), false));
        let mut subjects: BTreeMap<Place, Vec<Column>> = sealed.into_iter().collect();
        let mut gathered = Gathered {
            filter,
            readings: Vec::new(),
            unsure: Vec::new(),
        };
        {
            let head = self.read();
            for place in head.places(filter.node, filter.domain) {
                subjects.entry(place).or_default();
            }
            for (place, sealed) in &subjects {
                gathered.take(&head, *place, sealed);
            }
        }
        let Gathered {
            mut readings,
            unsure,
            ..
        } = gathered;
        readings.extend(unsure.iter().filter_map(|key| self.latest(key)));
        readings.sort_by(|a, b| a.key.cmp(&b.key));
        readings
    }
}
