//! The numbers that series are called by.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use plimsoll_model::{Columns, Metric, NodeId, Part, SessionId, Subject, UnixMillis};
use prost::encoding::decode_varint;

use super::{
    ParseError, device_id_opt, domain_id, inventory, session_id, unsigned_opt, unsigned32,
    unsigned32_opt,
};
use crate::limits;
use crate::v1;

/// Readings that the plans of one table remember at most; then they begin anew.
const PLANNED_MAX: usize = 4 * limits::SERIES_PER_SESSION_MAX;

/// What a number stands for; the subject by its place in the table.
#[derive(Debug, PartialEq)]
struct Declared {
    subject: usize,
    metric: Metric,
    part: Part,
}

/// How a sweep with some numbers is read. An agent sends the same ones every interval.
#[derive(Debug)]
pub(super) struct Plan {
    /// Values of the sweep.
    pub(super) count: usize,
    pub(super) rows: Vec<PlannedRow>,
}

/// The values of one subject in a sweep.
#[derive(Debug)]
pub(super) struct PlannedRow {
    pub(super) subject: Subject,
    pub(super) columns: Columns,
    /// Where each column's value lies; `None` where they lie in the order of the columns.
    pub(super) places: Option<Vec<usize>>,
}

/// The series of one session by their numbers. A number never changes its meaning.
#[derive(Debug)]
pub struct SeriesTable {
    pub(super) node: NodeId,
    pub(super) session: SessionId,
    subjects: Vec<Subject>,
    series: BTreeMap<u32, Option<Declared>>,
    /// Sets of columns, so that all rows with the same share one.
    sets: HashSet<Columns>,
    /// Plans by the numbers, as a sweep carries them.
    plans: HashMap<Vec<u8>, Plan>,
    /// Readings in all plans.
    planned: usize,
}

impl SeriesTable {
    /// Makes an empty table for a session of a node.
    pub fn new(node: NodeId, session: SessionId) -> Self {
        Self {
            node,
            session,
            subjects: Vec::new(),
            series: BTreeMap::new(),
            sets: HashSet::new(),
            plans: HashMap::new(),
            planned: 0,
        }
    }

    /// Takes declarations. A metric of a later release is remembered as unknown; its values are
    /// dropped by [`rows`], since an older aggregator cannot keep what it has no name for.
    pub fn declare(&mut self, message: v1::SeriesDeclarations) -> Result<(), ParseError> {
        self.check_session("declarations.session_id", &message.session_id)?;
        for series in message.series {
            self.declare_one(series)
                .map_err(|error| error.within("declarations.series"))?;
        }
        Ok(())
    }

    fn declare_one(&mut self, message: v1::SeriesDeclaration) -> Result<(), ParseError> {
        let index = unsigned32("index", message.index)?;
        if usize::try_from(index).unwrap_or(usize::MAX) >= limits::SERIES_PER_SESSION_MAX {
            let problem = format!(
                "must be below {}, got {index}",
                limits::SERIES_PER_SESSION_MAX
            );
            return Err(ParseError::new("index", problem));
        }
        let part = Part::named(&message.part)
            .map_err(|error| ParseError::new("part", error.to_string()))?;
        let subject = self.subject(&message)?;
        let code = u16::try_from(message.metric_code)
            .map_err(|_| ParseError::new("metric_code", "must lie in 0 to 65535"))?;
        let subject = self.place_of(subject);
        let declared = Metric::from_code(code).map(|metric| Declared {
            subject,
            metric,
            part,
        });
        match self.series.get(&index) {
            Some(before) if *before != declared => {
                let problem = format!("{index} was declared before as another series");
                Err(ParseError::new("index", problem))
            }
            _ => {
                self.series.insert(index, declared);
                Ok(())
            }
        }
    }

    fn subject(&self, message: &v1::SeriesDeclaration) -> Result<Subject, ParseError> {
        let node = self.node;
        let device = device_id_opt("device_id", &message.device_id)?;
        let Some(device) = device else {
            if message.domain_id.is_empty() {
                return Ok(Subject::Node(node));
            }
            return Ok(Subject::Domain {
                domain: domain_id("domain_id", &message.domain_id)?,
                node,
                incarnation: inventory::incarnation("incarnation", message.incarnation.clone())?,
            });
        };
        if !message.domain_id.is_empty() {
            return Err(ParseError::new("device_id", "stands beside a domain_id"));
        }
        let since = unsigned_opt("counting_since_ms", message.counting_since_ms)?
            .and_then(|since| i64::try_from(since).ok())
            .ok_or_else(|| ParseError::new("counting_since_ms", "is missing"))?;
        let counting_since = UnixMillis::from_millis(since);
        Ok(match unsigned32_opt("port_index", message.port_index)? {
            None => Subject::Device {
                device,
                node,
                counting_since,
            },
            Some(0) => return Err(ParseError::new("port_index", "must be 1 or more, got 0")),
            Some(port) => Subject::Port {
                device,
                port,
                node,
                counting_since,
            },
        })
    }

    /// Returns where a subject stands; declarations go subject by subject, so it is looked for from the
    /// end.
    fn place_of(&mut self, subject: Subject) -> usize {
        let known = self.subjects.iter().rposition(|known| *known == subject);
        known.unwrap_or_else(|| {
            self.subjects.push(subject);
            self.subjects.len() - 1
        })
    }

    /// Returns the plan for numbers as a sweep carries them; makes it where they come for the first time.
    pub(super) fn plan(&mut self, packed_deltas: &[u8]) -> Result<&Plan, ParseError> {
        if !self.plans.contains_key(packed_deltas) {
            let index_deltas = deltas(packed_deltas)?;
            let plan = self.make_plan(&index_deltas)?;
            self.planned += plan.count;
            if self.planned > PLANNED_MAX {
                self.plans.clear();
                self.planned = plan.count;
            }
            self.plans.insert(packed_deltas.to_vec(), plan);
        }
        self.plans
            .get(packed_deltas)
            .ok_or_else(|| ParseError::new("index_deltas", "cannot be planned"))
    }

    fn make_plan(&mut self, index_deltas: &[i32]) -> Result<Plan, ParseError> {
        let mut by_subject: BTreeMap<Subject, Vec<(Metric, &Part, usize)>> = BTreeMap::new();
        let mut index = 0_i32;
        for (place, delta) in index_deltas.iter().enumerate() {
            index = index
                .checked_add(*delta)
                .ok_or_else(|| ParseError::new("index_deltas", "add up beyond every index"))?;
            let declared = self.series.get(&unsigned32("index_deltas", index)?);
            let declared = declared.ok_or_else(|| {
                ParseError::new("index_deltas", format!("{index} is not declared"))
            })?;
            if let Some(Declared {
                subject,
                metric,
                part,
            }) = declared
                && let Some(subject) = self.subjects.get(*subject)
            {
                let series = by_subject.entry(*subject).or_default();
                series.push((*metric, part, place));
            }
        }
        let mut rows = Vec::new();
        for (subject, mut series) in by_subject {
            series.sort();
            let twice = |pair: &[(Metric, &Part, usize)]| matches!(pair, [a, b] if (a.0, a.1) == (b.0, b.1));
            if series.windows(2).any(twice) {
                return Err(ParseError::new("index_deltas", "name a series twice"));
            }
            let names = series.iter();
            let columns: Columns = names
                .map(|(metric, part, _)| (*metric, (*part).clone()))
                .collect();
            let shared = self.sets.get(&columns).cloned();
            let columns = shared.unwrap_or_else(|| {
                self.sets.insert(Arc::clone(&columns));
                columns
            });
            let places: Vec<usize> = series.iter().map(|(_, _, place)| *place).collect();
            let as_they_are = places.len() == index_deltas.len() && places.is_sorted();
            rows.push(PlannedRow {
                subject,
                columns,
                places: (!as_they_are).then_some(places),
            });
        }
        Ok(Plan {
            count: index_deltas.len(),
            rows,
        })
    }

    pub(super) fn check_session(&self, field: &str, bytes: &[u8]) -> Result<(), ParseError> {
        if session_id(field, bytes)? == self.session {
            return Ok(());
        }
        Err(ParseError::new(
            field,
            format!("is not {}, which this stream sends", self.session),
        ))
    }
}

fn deltas(mut packed: &[u8]) -> Result<Vec<i32>, ParseError> {
    let mut deltas = Vec::new();
    while !packed.is_empty() {
        let number = decode_varint(&mut packed)
            .map_err(|error| ParseError::new("index_deltas", error.to_string()))?;
        let zigzag = u32::try_from(number)
            .map_err(|_| ParseError::new("index_deltas", "add up beyond every index"))?;
        deltas.push((zigzag >> 1).cast_signed() ^ -(zigzag & 1).cast_signed());
    }
    Ok(deltas)
}
