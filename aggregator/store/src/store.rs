//! The store: one writer, many readers. Readers never wait for the disk.

use std::fs::File;
use std::path::Path;
use std::sync::{Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use plimsoll_model::{
    DomainId, Event, Fact, NodeId, Reading, SampleGap, SeriesKey, SessionId, UnixMillis, Window,
};

use crate::codec;
use crate::error::{AppendError, OpenError, RecoveryReport};
use crate::head::{Head, domain_of};
use crate::log::{Log, PAYLOAD_BYTES_MAX, make_dir};
use crate::record::{
    Appended, Document, EventFilter, NodeSeen, Rate, Record, SeriesFilter, StoreOptions,
};

/// The store. All methods take `&self`; share it in an `Arc`. [`Store::append`] blocks on the disk:
/// keep it off the executor's threads.
#[derive(Debug)]
pub struct Store {
    // Held through write and fdatasync; readers never take it.
    log: Mutex<Log>,
    head: RwLock<Head>,
    options: StoreOptions,
    // Released by the system when the process ends, however it ends.
    _lock: File,
}

impl Store {
    /// Opens the directory, makes it if it is not there, and reads back what it holds.
    pub fn open(dir: &Path, options: StoreOptions) -> Result<(Self, RecoveryReport), OpenError> {
        let io = |action| {
            let path = dir.to_owned();
            move |source| OpenError::Io {
                action,
                path,
                source,
            }
        };
        make_dir(dir).map_err(io("make"))?;
        let path = dir.join("LOCK");
        let lock = File::create(&path).map_err(io("lock"))?;
        rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive)
            .map_err(|_| OpenError::Locked { path })?;
        let mut head = Head::default();
        let mut samples = 0;
        let (log, found) = Log::open(&dir.join("log"), options.segment_bytes, |payload| {
            let record = codec::decode(payload).map_err(|error| error.what)?;
            if let Record::Batch(batch) = &record {
                samples += batch.reading_count() as u64;
            }
            head.take(record);
            Ok(())
        })?;
        let report = RecoveryReport {
            frames: found.frames,
            samples,
            torn: found.torn,
            holes: found.holes,
        };
        let store = Self {
            log: Mutex::new(log),
            head: RwLock::new(head),
            options,
            _lock: lock,
        };
        Ok((store, report))
    }

    fn read(&self) -> RwLockReadGuard<'_, Head> {
        self.head.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Head> {
        self.head.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes records; what it calls [`Appended::Stored`] survives a power cut from here on. On an
    /// error none of the slice may be acknowledged.
    pub fn append(&self, records: &[Record]) -> Result<Vec<Appended>, AppendError> {
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        let mut outcomes = Vec::with_capacity(records.len());
        // A slice may hold several batches of one session: each is judged after those before it.
        let mut from = 0;
        while from < records.len() {
            let rest = records.get(from..).unwrap_or_default();
            let taken = self.append_some(&mut log, from, rest, &mut outcomes)?;
            from += taken;
        }
        Ok(outcomes)
    }

    /// Writes records up to the first whose session was written to in the same go.
    fn append_some(
        &self,
        log: &mut Log,
        from: usize,
        records: &[Record],
        outcomes: &mut Vec<Appended>,
    ) -> Result<usize, AppendError> {
        let mut payloads = Vec::new();
        let mut stored = Vec::new();
        let mut sessions = std::collections::HashSet::new();
        let mut taken = 0;
        {
            let head = self.read();
            for record in records {
                if session_of(record).is_some_and(|session| !sessions.insert(session)) {
                    break;
                }
                let outcome = head.judge(record);
                if outcome == Appended::Stored {
                    payloads.push(payload(from + taken, record)?);
                    stored.push(record);
                }
                outcomes.push(outcome);
                taken += 1;
            }
        }
        if !payloads.is_empty() {
            log.append(&payloads)?;
            let mut head = self.write();
            for record in stored {
                head.take(record.clone());
            }
        }
        Ok(taken)
    }

    /// Writes one document durably.
    pub fn put_document(&self, document: Document) -> Result<(), AppendError> {
        self.append(&[Record::Document(document)]).map(|_| ())
    }

    /// Forgets samples that are older than the retention. The log keeps them.
    pub fn maintain(&self, now: UnixMillis) {
        if let Some(retention) = self.options.retention {
            self.write().forget(now.minus(retention));
        }
    }

    /// Returns the last sequence number of a session that is durable or declared lost.
    pub fn durable_sequence(&self, node: NodeId, session: SessionId) -> Option<u64> {
        self.read().durable(node, session)
    }

    /// Lists series, sorted.
    pub fn series(&self, filter: &SeriesFilter) -> Vec<SeriesKey> {
        self.read()
            .series
            .keys()
            .filter(|key| filter.matches(key))
            .cloned()
            .collect()
    }

    /// Returns the last sample of a series.
    pub fn latest(&self, key: &SeriesKey) -> Option<Reading> {
        let head = self.read();
        let (window, value) = head.series.get(key)?.last()?;
        Some(Reading {
            key: key.clone(),
            window: *window,
            value: *value,
        })
    }

    /// Returns the samples whose windows end in `from..=to`, sorted, each window once.
    pub fn range(&self, key: &SeriesKey, from: UnixMillis, to: UnixMillis) -> Vec<(Window, u64)> {
        let head = self.read();
        let Some(samples) = head.series.get(key) else {
            return Vec::new();
        };
        let begin = samples.partition_point(|(window, _)| window.end < from);
        let end = samples.partition_point(|(window, _)| window.end <= to);
        samples.get(begin..end).unwrap_or_default().to_vec()
    }

    /// Returns the growth of a counter between samples that follow each other; where it went down
    /// there is none.
    pub fn rate(&self, key: &SeriesKey, from: UnixMillis, to: UnixMillis) -> Vec<Rate> {
        let samples = self.range(key, from, to);
        let pairs = samples.windows(2).filter_map(|pair| match pair {
            [(first, before), (second, after)] if second.end > first.end => {
                let increase = after.checked_sub(*before)?;
                Some(Rate {
                    begin: first.end,
                    end: second.end,
                    increase,
                })
            }
            _ => None,
        });
        pairs.collect()
    }

    /// Returns the newest facts about a node ([`Fact::Node`]).
    pub fn latest_facts(&self, node: NodeId) -> Option<Fact> {
        self.read().node_facts.get(&node).cloned()
    }

    /// Returns the newest facts about a domain from each node that told any ([`Fact::Domain`]).
    pub fn facts_of(&self, domain: DomainId) -> Vec<Fact> {
        let head = self.read();
        let rows = head
            .domain_facts
            .iter()
            .filter(|((_, about), _)| *about == domain);
        rows.map(|(_, fact)| fact.clone()).collect()
    }

    /// Returns the newest facts about each domain on a node ([`Fact::Domain`]), by domain.
    pub fn domain_facts_on(&self, node: NodeId) -> Vec<Fact> {
        let head = self.read();
        let rows = head
            .domain_facts
            .iter()
            .filter(|((seen_by, _), _)| *seen_by == node);
        rows.map(|(_, fact)| fact.clone()).collect()
    }

    /// Lists events seen in `from..=to`, in the order in which they were stored.
    pub fn events(&self, from: UnixMillis, to: UnixMillis, filter: &EventFilter) -> Vec<Event> {
        let head = self.read();
        let wanted = |event: &&Event| {
            (from..=to).contains(&event.seen)
                && filter.node.is_none_or(|node| event.node == node)
                && filter
                    .domain
                    .is_none_or(|domain| domain_of(event) == domain)
        };
        head.events.iter().filter(wanted).cloned().collect()
    }

    /// Lists the gaps of a node, in the order in which they were stored.
    pub fn gaps(&self, node: NodeId) -> Vec<SampleGap> {
        self.read()
            .gaps
            .iter()
            .filter(|gap| gap.node == node)
            .cloned()
            .collect()
    }

    /// Lists all nodes, by id.
    pub fn nodes(&self) -> Vec<NodeSeen> {
        let head = self.read();
        head.nodes
            .iter()
            .map(|(node, last)| NodeSeen {
                node: *node,
                last: *last,
            })
            .collect()
    }

    /// Lists documents of a kind, by time.
    pub fn documents(&self, kind: u8) -> Vec<Document> {
        let head = self.read();
        let of_kind = head
            .documents
            .values()
            .filter(|document| document.kind == kind);
        let mut documents: Vec<Document> = of_kind.cloned().collect();
        documents.sort_by_key(|document| document.time);
        documents
    }
}

fn session_of(record: &Record) -> Option<(NodeId, SessionId)> {
    match record {
        Record::Batch(batch) => Some((batch.node, batch.session)),
        Record::Gap(gap) => Some((gap.node, gap.session)),
        Record::Document(_) => None,
    }
}

fn payload(index: usize, record: &Record) -> Result<Vec<u8>, AppendError> {
    if let Record::Document(document) = record
        && (document.key.len() > Document::KEY_BYTES_MAX
            || document.payload.len() > Document::PAYLOAD_BYTES_MAX)
    {
        return Err(AppendError::Unfit {
            index,
            what: "the document is too large",
        });
    }
    let payload = codec::encode(record);
    if payload.len() > PAYLOAD_BYTES_MAX {
        return Err(AppendError::Unfit {
            index,
            what: "it is larger than a frame may be",
        });
    }
    Ok(payload)
}
