//! The numbers that series are called by.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use plimsoll_model::{Columns, Metric, NodeId, Part, PartError, SessionId, Subject, UnixMillis};
use prost::encoding::decode_varint;

use super::{
    Excess, ParseError, device_id_opt, domain_id, inventory, session_id, unsigned_opt, unsigned32,
    unsigned32_opt,
};
use crate::limits;
use crate::v1;

/// Readings that the plans of one table remember at most; then they begin anew.
const PLANNED_MAX: usize = 4 * limits::SERIES_PER_SESSION_MAX;

/// What a number stands for: places in the table, which has no more of either than there are numbers.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Declared {
    /// Nothing yet.
    Nothing,
    /// A metric of a later release.
    Unknown,
    /// A series that the judge did not let pass.
    Refused,
    /// A series.
    Series { subject: u16, name: u16 },
}

/// How a sweep with some numbers is read. An agent sends the same ones every interval.
#[derive(Debug)]
pub(super) struct Plan {
    /// Values of the sweep.
    pub(super) count: usize,
    pub(super) rows: Box<[PlannedRow]>,
}

/// Metric and part of a value, and where in the sweep it lies.
type Named<'a> = (Metric, &'a Part, u32);

/// The values of one subject in a sweep.
#[derive(Debug)]
pub(super) struct PlannedRow {
    subject: u16,
    pub(super) columns: Columns,
    /// Where each column's value lies; `None` where they lie in the order of the columns.
    pub(super) places: Option<Box<[u32]>>,
}

impl PlannedRow {
    /// Returns whose values they are, out of the subjects of the table.
    pub(super) fn subject(&self, subjects: &[Subject]) -> Option<Subject> {
        subjects.get(usize::from(self.subject)).copied()
    }
}

/// The series of one session by their numbers. A number never changes its meaning. Each agent has one as
/// long as its stream is open, so a series takes as few bytes as can be.
#[derive(Debug)]
pub struct SeriesTable {
    pub(super) node: NodeId,
    pub(super) session: SessionId,
    subjects: Vec<Subject>,
    /// Metric and part of all series; those of one subject are like those of the next.
    names: Vec<(Metric, Part)>,
    name_places: HashMap<(Metric, Part), u16>,
    /// By number, up to the highest that was declared.
    series: Vec<Declared>,
    /// Sets of columns, so that all rows with the same share one.
    sets: HashSet<Columns>,
    /// Plans by the numbers, as a sweep carries them.
    plans: HashMap<Box<[u8]>, Plan>,
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
            names: Vec::new(),
            name_places: HashMap::new(),
            series: Vec::new(),
            sets: HashSet::new(),
            plans: HashMap::new(),
            planned: 0,
        }
    }

    /// Takes declarations. A metric of a later release is remembered as unknown; its values are
    /// dropped by [`rows`], since an older aggregator cannot keep what it has no name for.
    pub fn declare(&mut self, message: v1::SeriesDeclarations) -> Result<(), ParseError> {
        self.declare_judged(message, &mut |_, _, _| true)
    }

    /// Takes declarations like [`SeriesTable::declare`]; what the judge refuses is treated like a metric of
    /// a later release, so that the series beside it go on. It is asked once for each series.
    pub fn declare_judged(
        &mut self,
        message: v1::SeriesDeclarations,
        judge: &mut dyn FnMut(Subject, Metric, &Part) -> bool,
    ) -> Result<(), ParseError> {
        self.check_session("declarations.session_id", &message.session_id)?;
        for series in message.series {
            self.declare_one(series, judge)
                .map_err(|error| error.within("declarations.series"))?;
        }
        Ok(())
    }

    fn declare_one(
        &mut self,
        message: v1::SeriesDeclaration,
        judge: &mut dyn FnMut(Subject, Metric, &Part) -> bool,
    ) -> Result<(), ParseError> {
        let index = unsigned32("index", message.index)?;
        let place = usize::try_from(index).unwrap_or(usize::MAX);
        if place >= limits::SERIES_PER_SESSION_MAX {
            let problem = format!(
                "must be below {}, got {index}",
                limits::SERIES_PER_SESSION_MAX
            );
            return Err(ParseError::new("index", problem).exceeding(Excess::Series));
        }
        let part = Part::named(&message.part).map_err(|error| {
            let refusal = ParseError::new("part", error.to_string());
            match error {
                PartError::TooLong { .. } => refusal.exceeding(Excess::Text),
                PartError::Control => refusal,
            }
        })?;
        let subject = self.subject(&message)?;
        let code = u16::try_from(message.metric_code)
            .map_err(|_| ParseError::new("metric_code", "must lie in 0 to 65535"))?;
        if self.series.len() <= place {
            self.series.resize(place + 1, Declared::Nothing);
        }
        let before = self.series.get(place).copied();
        let declared = match Metric::from_code(code) {
            Some(_) if before == Some(Declared::Refused) => Declared::Refused,
            Some(metric) if before == Some(Declared::Nothing) && !judge(subject, metric, &part) => {
                Declared::Refused
            }
            Some(metric) => Declared::Series {
                subject: self.place_of(subject)?,
                name: self.name_of((metric, part))?,
            },
            None => Declared::Unknown,
        };
        match self.series.get_mut(place) {
            Some(before) if *before == Declared::Nothing => *before = declared,
            Some(before) if *before == declared => {}
            _ => {
                let problem = format!("{index} was declared before as another series");
                return Err(ParseError::new("index", problem));
            }
        }
        Ok(())
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
    fn place_of(&mut self, subject: Subject) -> Result<u16, ParseError> {
        let known = self.subjects.iter().rposition(|known| *known == subject);
        let place = known.unwrap_or_else(|| {
            self.subjects.push(subject);
            self.subjects.len() - 1
        });
        place_in_table(place)
    }

    /// Returns where a name stands.
    fn name_of(&mut self, name: (Metric, Part)) -> Result<u16, ParseError> {
        if let Some(place) = self.name_places.get(&name) {
            return Ok(*place);
        }
        let place = place_in_table(self.names.len())?;
        self.names.push(name.clone());
        self.name_places.insert(name, place);
        Ok(place)
    }

    /// Returns the plan for numbers as a sweep carries them, and the subjects it names by their places;
    /// makes it where they come for the first time.
    pub(super) fn plan(&mut self, packed_deltas: &[u8]) -> Result<(&Plan, &[Subject]), ParseError> {
        if !self.plans.contains_key(packed_deltas) {
            let index_deltas = deltas(packed_deltas)?;
            let plan = self.make_plan(&index_deltas)?;
            self.planned += plan.count;
            if self.planned > PLANNED_MAX {
                self.plans.clear();
                self.planned = plan.count;
            }
            self.plans.insert(packed_deltas.into(), plan);
        }
        let plan = self.plans.get(packed_deltas);
        let plan = plan.ok_or_else(|| ParseError::new("index_deltas", "cannot be planned"))?;
        Ok((plan, &self.subjects))
    }

    fn make_plan(&mut self, index_deltas: &[i32]) -> Result<Plan, ParseError> {
        let mut by_subject: BTreeMap<(Subject, u16), Vec<Named<'_>>> = BTreeMap::new();
        let mut index = 0_i32;
        for (place, delta) in (0..).zip(index_deltas) {
            index = index
                .checked_add(*delta)
                .ok_or_else(|| ParseError::new("index_deltas", "add up beyond every index"))?;
            let number = usize::try_from(unsigned32("index_deltas", index)?).unwrap_or(usize::MAX);
            match self.series.get(number) {
                None | Some(Declared::Nothing) => {
                    let problem = format!("{index} is not declared");
                    return Err(ParseError::new("index_deltas", problem));
                }
                Some(Declared::Unknown | Declared::Refused) => {}
                Some(Declared::Series { subject, name }) => {
                    if let Some(of) = self.subjects.get(usize::from(*subject))
                        && let Some((metric, part)) = self.names.get(usize::from(*name))
                    {
                        let series = by_subject.entry((*of, *subject)).or_default();
                        series.push((*metric, part, place));
                    }
                }
            }
        }
        let mut rows = Vec::new();
        for ((_, subject), mut series) in by_subject {
            series.sort();
            let twice = |pair: &[Named<'_>]| matches!(pair, [a, b] if (a.0, a.1) == (b.0, b.1));
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
            let places: Box<[u32]> = series.iter().map(|(_, _, place)| *place).collect();
            let as_they_are = places.len() == index_deltas.len() && places.is_sorted();
            rows.push(PlannedRow {
                subject,
                columns,
                places: (!as_they_are).then_some(places),
            });
        }
        Ok(Plan {
            count: index_deltas.len(),
            rows: rows.into(),
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

/// A table has no more subjects and names than a session may declare series.
fn place_in_table(place: usize) -> Result<u16, ParseError> {
    u16::try_from(place).map_err(|_| ParseError::new("series", "are too many"))
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
