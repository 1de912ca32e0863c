//! Batches, gaps and the numbers that series are called by.

use std::collections::BTreeMap;

use plimsoll_model::{
    Batch, GapReason, Metric, NodeId, Part, SampleGap, SessionId, Subject, Sweep, UnixMillis,
    Window,
};
use prost::Message as _;

use super::{
    ParseError, at_most, domain_id, inventory, sequence, session_id, timestamp, unsigned,
    unsigned_opt, unsigned32,
};
use crate::limits;
use crate::v1;

type Declared = (Subject, Metric, Part);

/// The series of one session by their numbers. A number never changes its meaning.
#[derive(Debug)]
pub struct SeriesTable {
    node: NodeId,
    session: SessionId,
    series: BTreeMap<u32, Option<Declared>>,
}

impl SeriesTable {
    /// Makes an empty table for a session of a node.
    pub fn new(node: NodeId, session: SessionId) -> Self {
        Self {
            node,
            session,
            series: BTreeMap::new(),
        }
    }

    /// Takes declarations. A metric of a later release is remembered as unknown; its values are
    /// dropped by [`sweeps`], since an older aggregator cannot keep what it has no name for.
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
        let subject = if message.domain_id.is_empty() {
            Subject::Node(self.node)
        } else {
            Subject::Domain {
                domain: domain_id("domain_id", &message.domain_id)?,
                node: self.node,
                incarnation: inventory::incarnation("incarnation", message.incarnation)?,
            }
        };
        let code = u16::try_from(message.metric_code)
            .map_err(|_| ParseError::new("metric_code", "must lie in 0 to 65535"))?;
        let declared = Metric::from_code(code).map(|metric| (subject, metric, part));
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

    fn check_session(&self, field: &str, bytes: &[u8]) -> Result<(), ParseError> {
        if session_id(field, bytes)? == self.session {
            return Ok(());
        }
        Err(ParseError::new(
            field,
            format!("is not {}, which this stream sends", self.session),
        ))
    }
}

/// Reads a batch of the table's session.
pub fn batch(table: &SeriesTable, message: &v1::Batch) -> Result<Batch, ParseError> {
    table.check_session("batch.session_id", &message.session_id)?;
    let sequence = sequence("batch.sequence", message.sequence)?;
    if message.body.len() > limits::BATCH_BODY_BYTES_MAX {
        let problem = format!(
            "has {} bytes, at most {} are allowed",
            message.body.len(),
            limits::BATCH_BODY_BYTES_MAX
        );
        return Err(ParseError::new("batch.body", problem));
    }
    let body_crc = crc32c::crc32c(&message.body);
    if i64::from(body_crc) != message.body_crc32c {
        return Err(ParseError::new(
            "batch.body_crc32c",
            "does not match the body",
        ));
    }
    let body = v1::BatchBody::decode(message.body.as_slice())
        .map_err(|error| ParseError::new("batch.body", error.to_string()))?;
    let within = |error: ParseError| error.within("batch.body");
    at_most(
        "batch.body.domain_facts",
        body.domain_facts.len(),
        limits::ITEMS_PER_BATCH_MAX,
    )?;
    at_most(
        "batch.body.events",
        body.events.len(),
        limits::ITEMS_PER_BATCH_MAX,
    )?;
    let mut facts = Vec::new();
    if let Some(node) = body.node_facts {
        facts.push(inventory::node_facts(node).map_err(within)?);
    }
    for domain in body.domain_facts {
        facts.push(inventory::domain_facts(table.node, domain).map_err(within)?);
    }
    let events = body
        .events
        .into_iter()
        .map(|event| inventory::event(table.node, event).map_err(within))
        .collect::<Result<_, _>>()?;
    Ok(Batch {
        node: table.node,
        session: table.session,
        sequence,
        made: timestamp("batch.body.made_time", body.made_time.as_ref())?,
        body_crc,
        sweeps: sweeps(table, &body.sweeps).map_err(within)?,
        facts,
        events,
    })
}

/// Reads sweeps; a sweep that spans several subjects becomes one for each.
pub fn sweeps(table: &SeriesTable, messages: &[v1::Sweep]) -> Result<Vec<Sweep>, ParseError> {
    let readings = messages.iter().map(|sweep| sweep.values.len()).sum();
    at_most("sweeps", readings, limits::READINGS_PER_BATCH_MAX)?;
    let mut all = Vec::new();
    for message in messages {
        sweep(table, message, &mut all).map_err(|error| error.within("sweeps"))?;
    }
    Ok(all)
}

fn sweep(
    table: &SeriesTable,
    message: &v1::Sweep,
    into: &mut Vec<Sweep>,
) -> Result<(), ParseError> {
    if message.index_deltas.len() != message.values.len() {
        return Err(ParseError::new("values", "must be as many as index_deltas"));
    }
    let width_ms = u32::try_from(message.width_ms)
        .map_err(|_| ParseError::new("width_ms", "must lie in 0 to 4294967295"))?;
    let window = Window {
        end: UnixMillis::from_millis(message.end_time_ms),
        width_ms,
    };
    let mut by_subject: BTreeMap<Subject, Vec<(Metric, Part, u64)>> = BTreeMap::new();
    let mut index = 0_i32;
    for (delta, value) in message.index_deltas.iter().zip(&message.values) {
        index = index
            .checked_add(*delta)
            .ok_or_else(|| ParseError::new("index_deltas", "add up beyond every index"))?;
        let declared = table
            .series
            .get(&unsigned32("index_deltas", index)?)
            .ok_or_else(|| ParseError::new("index_deltas", format!("{index} is not declared")))?;
        let value = unsigned("values", *value)?;
        if let Some((subject, metric, part)) = declared {
            by_subject
                .entry(*subject)
                .or_default()
                .push((*metric, part.clone(), value));
        }
    }
    for (subject, mut values) in by_subject {
        values.sort();
        if values
            .windows(2)
            .any(|pair| matches!(pair, [a, b] if (a.0, &a.1) == (b.0, &b.1)))
        {
            return Err(ParseError::new("index_deltas", "name a series twice"));
        }
        into.push(Sweep {
            subject,
            window,
            values,
        });
    }
    Ok(())
}

/// Reads a gap of a node.
pub fn gap(node: NodeId, now: UnixMillis, message: &v1::Gap) -> Result<SampleGap, ParseError> {
    let first_sequence = sequence("gap.first_sequence", message.first_sequence)?;
    let last_sequence = sequence("gap.last_sequence", message.last_sequence)?;
    if last_sequence < first_sequence {
        return Err(ParseError::new(
            "gap.last_sequence",
            "lies before first_sequence",
        ));
    }
    let reason = match message.reason() {
        v1::GapReason::Unspecified => {
            return Err(ParseError::new("gap.reason", "is missing or not known"));
        }
        v1::GapReason::SpoolFull => GapReason::SpoolFull,
        v1::GapReason::Corrupt => GapReason::Corrupt,
        v1::GapReason::ServerRollback => GapReason::ServerRollback,
        v1::GapReason::AgentCrash => GapReason::AgentCrash,
        v1::GapReason::Rejected => GapReason::Rejected,
    };
    Ok(SampleGap {
        node,
        session: session_id("gap.session_id", &message.session_id)?,
        first_sequence,
        last_sequence,
        reading_count: unsigned_opt("gap.reading_count", message.reading_count)?,
        declared: now,
        reason,
    })
}
