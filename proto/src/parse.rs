//! The door in: messages become words. It believes nothing; what it lets through is never checked
//! again. It names the field that is wrong and what would be right.

mod batch;
mod inventory;
mod series;
mod sweep;

use plimsoll_model::{DeviceId, DomainId, IdError, NodeId, SessionId, UnixMillis};

pub use batch::{batch, finished, gap};
pub use inventory::{device_facts, domain_facts, event, incarnation, migration_ended, node_facts};
pub use series::SeriesTable;
pub use sweep::{rows, snapshot};

/// What a message has too much of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Excess {
    /// Series of a session.
    Series,
    /// Bytes of a batch.
    BatchBytes,
    /// Readings of a batch.
    Readings,
    /// Items of a list.
    Items,
    /// Bytes of a text.
    Text,
    /// Distance of a sample from now.
    Time,
    /// Samples of an answer.
    Answer,
    /// Samples that are read for an answer.
    Scan,
    /// Authority: it is said of another node.
    Authority,
}

/// Why a message is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct ParseError {
    /// The field, such as `batch.body.sweeps[3].values`.
    pub field: String,
    /// What is wrong and what would be right.
    pub problem: String,
    /// Which limit it exceeds; absent where it is wrong otherwise.
    pub excess: Option<Excess>,
}

impl ParseError {
    /// Makes the error.
    pub fn new(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self {
            field: field.into(),
            problem: problem.into(),
            excess: None,
        }
    }

    /// Says which limit the field exceeds.
    #[must_use]
    pub fn exceeding(self, excess: Excess) -> Self {
        let excess = Some(excess);
        Self { excess, ..self }
    }

    /// Puts the name of the message that holds the field before it.
    #[must_use]
    pub fn within(mut self, holder: &str) -> Self {
        self.field = format!("{holder}.{}", self.field);
        self
    }
}

fn id_error(field: &str) -> impl Fn(IdError) -> ParseError + '_ {
    move |error| ParseError::new(field, error.to_string())
}

/// Reads a session id.
pub fn session_id(field: &str, bytes: &[u8]) -> Result<SessionId, ParseError> {
    SessionId::from_slice(bytes).map_err(id_error(field))
}

/// Reads a node id.
pub fn node_id(field: &str, bytes: &[u8]) -> Result<NodeId, ParseError> {
    NodeId::from_slice(bytes).map_err(id_error(field))
}

/// Reads a node id that may be left out.
pub fn node_id_opt(field: &str, bytes: &[u8]) -> Result<Option<NodeId>, ParseError> {
    if bytes.is_empty() {
        Ok(None)
    } else {
        node_id(field, bytes).map(Some)
    }
}

/// Reads a domain id.
pub fn domain_id(field: &str, bytes: &[u8]) -> Result<DomainId, ParseError> {
    DomainId::from_slice(bytes).map_err(id_error(field))
}

/// Reads a domain id that may be left out.
pub fn domain_id_opt(field: &str, bytes: &[u8]) -> Result<Option<DomainId>, ParseError> {
    if bytes.is_empty() {
        Ok(None)
    } else {
        domain_id(field, bytes).map(Some)
    }
}

/// Reads a device id that may be left out.
pub fn device_id_opt(field: &str, bytes: &[u8]) -> Result<Option<DeviceId>, ParseError> {
    if bytes.is_empty() {
        Ok(None)
    } else {
        DeviceId::from_slice(bytes)
            .map(Some)
            .map_err(id_error(field))
    }
}

/// Reads a number that may not be negative.
pub fn unsigned(field: &str, value: i64) -> Result<u64, ParseError> {
    u64::try_from(value)
        .map_err(|_| ParseError::new(field, format!("must be 0 or more, got {value}")))
}

fn unsigned32(field: &str, value: i32) -> Result<u32, ParseError> {
    u32::try_from(value)
        .map_err(|_| ParseError::new(field, format!("must be 0 or more, got {value}")))
}

fn unsigned_opt(field: &str, value: Option<i64>) -> Result<Option<u64>, ParseError> {
    value.map(|value| unsigned(field, value)).transpose()
}

/// Reads a number of 32 bits that may be left out.
pub fn unsigned32_opt(field: &str, value: Option<i32>) -> Result<Option<u32>, ParseError> {
    value.map(|value| unsigned32(field, value)).transpose()
}

/// Reads a sequence number, which begins at 1.
pub fn sequence(field: &str, value: i64) -> Result<u64, ParseError> {
    match unsigned(field, value)? {
        0 => Err(ParseError::new(field, "must be 1 or more, got 0")),
        value => Ok(value),
    }
}

/// Reads an instant.
pub fn timestamp(
    field: &str,
    at: Option<&prost_types::Timestamp>,
) -> Result<UnixMillis, ParseError> {
    let at = at.ok_or_else(|| ParseError::new(field, "is missing"))?;
    if !(0..1_000_000_000).contains(&at.nanos) {
        return Err(ParseError::new(field, "nanos must lie in 0 to 999999999"));
    }
    at.seconds
        .checked_mul(1_000)
        .and_then(|millis| millis.checked_add(i64::from(at.nanos) / 1_000_000))
        .map(UnixMillis::from_millis)
        .ok_or_else(|| ParseError::new(field, "lies beyond what can be told in milliseconds"))
}

/// Reads a text; cuts nothing: too long or with control characters is refused.
fn text(field: &str, value: String, bytes_max: usize) -> Result<String, ParseError> {
    if value.len() > bytes_max {
        let problem = format!("has {} bytes, at most {bytes_max} are allowed", value.len());
        return Err(ParseError::new(field, problem).exceeding(Excess::Text));
    }
    if value.chars().any(char::is_control) {
        return Err(ParseError::new(field, "holds control characters"));
    }
    Ok(value)
}

fn text_opt(
    field: &str,
    value: Option<String>,
    bytes_max: usize,
) -> Result<Option<String>, ParseError> {
    value.map(|value| text(field, value, bytes_max)).transpose()
}

fn at_most(field: &str, count: usize, max: usize) -> Result<(), ParseError> {
    if count > max {
        let problem = format!("has {count} items, at most {max} are allowed");
        return Err(ParseError::new(field, problem).exceeding(Excess::Items));
    }
    Ok(())
}
