//! What the poller wants of whoever speaks SNMP for it. Nothing here knows a socket or a crate.

use std::fmt;

use futures_util::future::BoxFuture;

use super::Target;
use super::oid::Oid;

/// A value that a device told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Said {
    /// INTEGER.
    Integer(i32),
    /// Counter32, which begins again at zero after 4294967295.
    Counter32(u32),
    /// Counter64.
    Counter64(u64),
    /// Gauge32 or Unsigned32.
    Gauge(u32),
    /// TimeTicks, hundredths of a second.
    Ticks(u32),
    /// OCTET STRING.
    Bytes(Vec<u8>),
    /// There is no such value, or nothing behind it.
    Nothing,
    /// A value of a kind nobody here asks for.
    Other,
}

/// A name and its value.
pub type Binding = (Oid, Said);

/// Why a question has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AskError {
    /// Nothing came back in time.
    #[error("no answer")]
    Silent,
    /// The device is there, and refuses who asks.
    #[error("the device answers, credentials rejected")]
    Rejected,
    /// The device answered with an error.
    #[error("the device answers with the error {status}")]
    Refused {
        /// Its name.
        status: String,
    },
    /// The answer is not one to the question.
    #[error("the device answers what was not asked: {what}")]
    Nonsense {
        /// What is wrong with it.
        what: &'static str,
    },
    /// The poll took too long, although answers came.
    #[error("the answers came too slowly for one poll")]
    Slow,
    /// The question never left this node.
    #[error("the question could not be sent: {what}")]
    Local {
        /// What the system said.
        what: String,
    },
}

/// One device as it can be asked. An answer belongs to its question: never to an earlier one.
pub trait Session: Send + Sync + fmt::Debug {
    /// Asks for values by their names.
    fn get<'a>(&'a self, names: &'a [Oid]) -> BoxFuture<'a, Result<Vec<Binding>, AskError>>;

    /// Asks for the values behind each name, so many in a row (GETBULK).
    fn get_bulk<'a>(
        &'a self,
        behind: &'a [Oid],
        repetitions: u32,
    ) -> BoxFuture<'a, Result<Vec<Binding>, AskError>>;
}

/// Who opens sessions.
pub trait Dial: Send + Sync + fmt::Debug {
    /// Opens a session; nothing need be sent.
    fn dial<'a>(&'a self, target: &'a Target) -> BoxFuture<'a, Result<Box<dyn Session>, AskError>>;
}
