//! The store: one writer, many readers.

use std::path::Path;
use plimsoll_model::*;
use crate::error::*;
use crate::record::*;

/// The store. All methods take `&self`; share it in an `Arc`. Calls block on disk: keep them off
/// the executor's threads.
#[derive(Debug)]
pub struct Store {}

#[expect(unused_variables, clippy::unimplemented, clippy::missing_errors_doc, reason = "signatures come first")]
impl Store {
    /// Opens the directory, makes it if it is not there, and reads back what it holds.
    pub fn open(dir: &Path, options: StoreOptions) -> Result<(Self, RecoveryReport), OpenError> { unimplemented!() }
    /// Writes records; what it calls [`Appended::Stored`] survives a power cut from here on.
    pub fn append(&self, records: &[Record]) -> Result<Vec<Appended>, AppendError> { unimplemented!() }
    /// Writes one document durably.
    pub fn put_document(&self, document: Document) -> Result<(), AppendError> { unimplemented!() }
    /// Returns the last sequence number of a session that is durable or declared lost.
    pub fn durable_sequence(&self, node: NodeId, session: SessionId) -> Option<u64> { unimplemented!() }
    /// Seals what is due and removes what is too old. Call it once a minute or so.
    pub fn maintain(&self, now: UnixMillis) -> Result<Maintained, MaintainError> { unimplemented!() }
    /// Seals all samples in memory, due or not.
    pub fn seal(&self) -> Result<u64, MaintainError> { unimplemented!() }
    /// Lists series, sorted.
    pub fn series(&self, filter: &SeriesFilter) -> Vec<SeriesKey> { unimplemented!() }
    /// Returns the last sample of a series.
    pub fn latest(&self, key: &SeriesKey) -> Result<Option<Reading>, QueryError> { unimplemented!() }
    /// Returns the samples whose windows end in `from..=to`, sorted, each window once.
    pub fn range(&self, key: &SeriesKey, from: UnixMillis, to: UnixMillis) -> Result<Vec<(Window, u64)>, QueryError> { unimplemented!() }
    /// Returns the growth of a counter between samples that follow each other; where it went down there is none.
    pub fn rate(&self, key: &SeriesKey, from: UnixMillis, to: UnixMillis) -> Result<Vec<Rate>, QueryError> { unimplemented!() }
    /// Returns the newest facts about a node ([`Fact::Node`]).
    pub fn latest_facts(&self, node: NodeId) -> Option<Fact> { unimplemented!() }
    /// Returns the newest facts about a domain from each node that told any ([`Fact::Domain`]), newest first.
    pub fn facts_of(&self, domain: DomainId) -> Vec<Fact> { unimplemented!() }
    /// Returns the newest facts about each domain on a node ([`Fact::Domain`]), by domain.
    pub fn domain_facts_on(&self, node: NodeId) -> Vec<Fact> { unimplemented!() }
    /// Lists events seen in `from..=to`, oldest first.
    pub fn events(&self, from: UnixMillis, to: UnixMillis, filter: &EventFilter) -> Vec<Event> { unimplemented!() }
    /// Lists the gaps of a node, in the order in which they were stored.
    pub fn gaps(&self, node: NodeId) -> Vec<SampleGap> { unimplemented!() }
    /// Lists all nodes, by id.
    pub fn nodes(&self) -> Vec<NodeSeen> { unimplemented!() }
    /// Lists all incarnations of domains that have samples.
    pub fn domains(&self) -> Vec<DomainSeen> { unimplemented!() }
    /// Returns a document.
    pub fn document(&self, kind: u8, key: &[u8]) -> Option<Document> { unimplemented!() }
    /// Lists documents of a kind with times in `from..=to`, oldest first.
    pub fn documents(&self, kind: u8, from: UnixMillis, to: UnixMillis) -> Vec<Document> { unimplemented!() }
    /// Returns figures about the store.
    pub fn statistics(&self) -> Statistics { unimplemented!() }
}
