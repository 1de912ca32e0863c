//! What is kept longer than samples and never thinned: facts, events, gaps, documents, and the state of
//! sessions by which a repeated batch is known. Each seal writes one file; files are merged later.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::path::{Path, PathBuf};

use plimsoll_model::{Event, Fact, NodeId, SampleGap, SessionId, UnixMillis};

use crate::codec::{Malformed, Pack, pack_all, unpack_all};
use crate::error::{Hole, OpenError};
use crate::frame::{self, Item, Items, Kind, Link, io_error, make_dir};
use crate::manifest::KeptEntry;
use crate::record::Document;
use crate::sessions::Session;

/// One thing that is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Kept {
    /// How far a session has come.
    Session(NodeId, SessionId, Session),
    /// When a node was last heard of.
    Node(NodeId, UnixMillis),
    /// A fact, and the node that told it.
    Fact(NodeId, Box<Fact>),
    /// An event.
    Event(Event),
    /// A gap.
    Gap(SampleGap),
    /// A document.
    Document(Document),
}

impl Pack for (u64, u32) {
    fn pack(&self, out: &mut Vec<u8>) {
        self.0.pack(out);
        self.1.pack(out);
    }

    fn unpack(input: &mut &[u8]) -> Result<Self, Malformed> {
        Ok((Pack::unpack(input)?, Pack::unpack(input)?))
    }
}

impl Pack for Session {
    fn pack(&self, out: &mut Vec<u8>) {
        self.durable.pack(out);
        self.last.pack(out);
        let checksums: Vec<(u64, u32)> = self.checksums.iter().copied().collect();
        pack_all(&checksums, out);
    }

    fn unpack(input: &mut &[u8]) -> Result<Self, Malformed> {
        Ok(Self {
            durable: Pack::unpack(input)?,
            last: Pack::unpack(input)?,
            checksums: unpack_all::<(u64, u32)>(input)?.into(),
        })
    }
}

impl Pack for Kept {
    fn pack(&self, out: &mut Vec<u8>) {
        match self {
            Self::Session(node, id, session) => {
                out.push(1);
                node.pack(out);
                id.pack(out);
                session.pack(out);
            }
            Self::Node(node, last) => {
                out.push(2);
                node.pack(out);
                last.pack(out);
            }
            Self::Fact(node, fact) => {
                out.push(3);
                node.pack(out);
                fact.pack(out);
            }
            Self::Event(event) => {
                out.push(4);
                event.pack(out);
            }
            Self::Gap(gap) => {
                out.push(5);
                gap.pack(out);
            }
            Self::Document(document) => {
                out.push(6);
                document.pack(out);
            }
        }
    }

    fn unpack(input: &mut &[u8]) -> Result<Self, Malformed> {
        Ok(match u8::unpack(input)? {
            1 => Self::Session(
                Pack::unpack(input)?,
                Pack::unpack(input)?,
                Pack::unpack(input)?,
            ),
            2 => Self::Node(Pack::unpack(input)?, Pack::unpack(input)?),
            3 => Self::Fact(Pack::unpack(input)?, Box::new(Pack::unpack(input)?)),
            4 => Self::Event(Pack::unpack(input)?),
            5 => Self::Gap(Pack::unpack(input)?),
            6 => Self::Document(Pack::unpack(input)?),
            _ => {
                return Err(Malformed {
                    what: "what is kept is not known",
                });
            }
        })
    }
}

/// Decodes one frame of a file of events.
pub(crate) fn decode(mut payload: &[u8]) -> Result<Kept, Malformed> {
    let kept = Kept::unpack(&mut payload)?;
    if payload.is_empty() {
        Ok(kept)
    } else {
        Err(Malformed {
            what: "bytes are left over",
        })
    }
}

/// A file of events, open for reading.
#[derive(Debug)]
pub(crate) struct KeptFile {
    pub(crate) entry: KeptEntry,
    path: PathBuf,
    file: File,
    // First and last event in it, if there are any.
    events: Option<(UnixMillis, UnixMillis)>,
    /// Something in it could not be read when it was opened. Merged, that would be forgotten.
    pub(crate) damaged: bool,
}

/// One thing with the place of its frame.
pub(crate) type Placed = (u64, u32, Kept);

impl KeptFile {
    /// Writes a file durably; returns it with what it holds.
    pub(crate) fn write(
        dir: &Path,
        id: u64,
        all: Vec<Kept>,
    ) -> Result<(Self, Vec<Placed>), OpenError> {
        let mut bytes = frame::header(Kind::Kept, id, Link::default());
        let mut placed = Vec::with_capacity(all.len());
        for kept in all {
            let mut payload = Vec::new();
            kept.pack(&mut payload);
            let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
            placed.push((bytes.len() as u64, length, kept));
            frame::push(&mut bytes, id, 0, &payload);
        }
        let entry = KeptEntry {
            id,
            bytes: bytes.len() as u64,
        };
        let path = entry.path(dir);
        if let Some(dir) = path.parent() {
            make_dir(dir).map_err(io_error("make", dir))?;
        }
        frame::write_whole(&path, &bytes).map_err(io_error("write", &path))?;
        let file = File::open(&path).map_err(io_error("open", &path))?;
        let events = span(&placed);
        let kept = Self {
            entry,
            path,
            file,
            events,
            damaged: false,
        };
        Ok((kept, placed))
    }

    /// Opens a file and reads all that is whole in it.
    pub(crate) fn open(
        dir: &Path,
        entry: KeptEntry,
        holes: &mut Vec<Hole>,
    ) -> Result<Option<(Self, Vec<Placed>)>, OpenError> {
        let path = entry.path(dir);
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let (offset, what) = (0, "the file is missing");
                holes.push(Hole { path, offset, what });
                return Ok(None);
            }
            Err(error) => return Err(io_error("read", &path)(error)),
        };
        let file = File::open(&path).map_err(io_error("open", &path))?;
        let known = holes.len();
        let placed = read(&path, entry, &bytes, holes)?;
        let events = span(&placed);
        let kept = Self {
            entry,
            path,
            file,
            events,
            damaged: holes.len() > known,
        };
        Ok(Some((kept, placed)))
    }

    /// Reads all that is whole in the file.
    pub(crate) fn read_all(&self, holes: &mut Vec<Hole>) -> Result<Vec<Placed>, OpenError> {
        use std::os::unix::fs::FileExt as _;
        // Of a file that lost its end, the rest can still be read.
        let there = self.file.metadata().map_err(io_error("read", &self.path))?;
        let length = there.len().min(self.entry.bytes);
        let mut bytes = vec![0; usize::try_from(length).unwrap_or(usize::MAX)];
        self.file
            .read_exact_at(&mut bytes, 0)
            .map_err(io_error("read", &self.path))?;
        read(&self.path, self.entry, &bytes, holes)
    }

    /// Tells whether events of the span may be in it.
    pub(crate) fn has_events(&self, from: UnixMillis, to: UnixMillis) -> bool {
        self.events
            .is_some_and(|(first, last)| first <= to && from <= last)
    }

    /// Reads one document.
    pub(crate) fn document(&self, at: (u64, u32)) -> Result<Document, Hole> {
        let payload = frame::read_at(&self.file, &self.path, self.entry.id, at)?;
        match decode(&payload) {
            Ok(Kept::Document(document)) => Ok(document),
            _ => Err(Hole {
                path: self.path.clone(),
                offset: at.0,
                what: "there is no document where one should be",
            }),
        }
    }
}

fn span(placed: &[Placed]) -> Option<(UnixMillis, UnixMillis)> {
    let seen = placed.iter().filter_map(|(_, _, kept)| match kept {
        Kept::Event(event) => Some(event.seen),
        _ => None,
    });
    seen.fold(None, |span, at| match span {
        None => Some((at, at)),
        Some((first, last)) => Some((at.min(first), at.max(last))),
    })
}

/// Reads all that is whole in the bytes of a file of events; damage is noted.
pub(crate) fn read(
    path: &Path,
    entry: KeptEntry,
    bytes: &[u8],
    holes: &mut Vec<Hole>,
) -> Result<Vec<Placed>, OpenError> {
    let mut hole = |offset: u64, what| {
        let path = path.to_owned();
        holes.push(Hole { path, offset, what });
    };
    match frame::check_header(path, Kind::Kept, entry.id, bytes) {
        Ok(_) => {}
        Err(newer @ OpenError::Newer { .. }) => return Err(newer),
        Err(error) => hole(0, crate::codec::what_of(&error)),
    }
    if bytes.len() as u64 != entry.bytes {
        let what = "the file has another length than the manifest says";
        hole(bytes.len() as u64, what);
    }
    let mut placed = Vec::new();
    for item in Items::new(bytes, entry.id) {
        match item {
            Item::Hole { offset, what } => hole(offset as u64, what),
            Item::Frame {
                offset, payload, ..
            } => {
                let kept = decode(payload).map_err(|error| OpenError::Corrupt {
                    path: path.to_owned(),
                    offset: offset as u64,
                    what: error.what,
                    remedy: "start the release that wrote the file again",
                })?;
                let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
                placed.push((offset as u64, length, kept));
            }
        }
    }
    Ok(placed)
}

/// Merges what several files hold, the oldest first: of sessions, nodes and documents only the newest
/// word stays; of what happened before an instant, only the newest facts about each thing.
pub(crate) fn merge(all: Vec<Kept>, before: Option<UnixMillis>) -> Vec<Kept> {
    let mut sessions = BTreeMap::new();
    let mut nodes: BTreeMap<NodeId, UnixMillis> = BTreeMap::new();
    let mut documents = BTreeMap::new();
    let mut newest_fact = HashMap::new();
    let mut history = Vec::new();
    for kept in all {
        match kept {
            Kept::Session(node, id, session) => {
                sessions.insert((node, id), session);
            }
            Kept::Node(node, last) => {
                let seen = nodes.entry(node).or_insert(last);
                *seen = last.max(*seen);
            }
            Kept::Document(document) => {
                documents.insert((document.kind, document.key.clone()), document);
            }
            Kept::Fact(node, fact) => {
                let (about, _) = about(node, &fact);
                newest_fact.insert(about, history.len());
                history.push(Kept::Fact(node, fact));
            }
            other => history.push(other),
        }
    }
    let stays = |place: usize, kept: &Kept| {
        let Some(before) = before else { return true };
        match kept {
            Kept::Fact(node, fact) => {
                let (about, seen) = about(*node, fact);
                let newest = newest_fact.get(&about) == Some(&place);
                seen >= before || (newest && about.1.is_none())
            }
            Kept::Event(event) => event.seen >= before,
            Kept::Gap(gap) => gap.declared >= before,
            _ => true,
        }
    };
    let mut merged: Vec<Kept> = Vec::new();
    merged.extend(
        sessions
            .into_iter()
            .map(|((node, id), session)| Kept::Session(node, id, session)),
    );
    merged.extend(nodes.into_iter().map(|(node, last)| Kept::Node(node, last)));
    let history = history.into_iter().enumerate();
    merged.extend(
        history
            .filter(|(place, kept)| stays(*place, kept))
            .map(|(_, kept)| kept),
    );
    let recent = |document: &Document| before.is_none_or(|before| document.time >= before);
    merged.extend(documents.into_values().filter(recent).map(Kept::Document));
    merged
}

/// Forgets the oldest facts, events, gaps and documents that a later one replaced or nobody replaces,
/// until the rest takes no more bytes than allowed; returns before which instant. Sessions, nodes and
/// the newest facts about each node stay.
pub(crate) fn fit(all: Vec<Kept>, bytes_max: u64) -> (Vec<Kept>, Option<UnixMillis>) {
    let bytes = |kept: &Kept| {
        let mut payload = Vec::new();
        kept.pack(&mut payload);
        (payload.len() + frame::HEAD_BYTES) as u64
    };
    let when = |kept: &Kept| match kept {
        Kept::Fact(node, fact) => Some(about(*node, fact).1),
        Kept::Event(event) => Some(event.seen),
        Kept::Gap(gap) => Some(gap.declared),
        Kept::Document(document) => Some(document.time),
        Kept::Session(..) | Kept::Node(..) => None,
    };
    let mut sizes: Vec<(UnixMillis, u64)> = all
        .iter()
        .filter_map(|kept| Some((when(kept)?, bytes(kept))))
        .collect();
    sizes.sort_unstable();
    let mut total: u64 = all.iter().map(bytes).sum();
    let mut before = None;
    for (at, bytes) in sizes {
        if total <= bytes_max {
            break;
        }
        total -= bytes;
        before = Some(at.plus(std::time::Duration::from_millis(1)));
    }
    (merge(all, before), before)
}

/// Says what a fact is about and when it was seen.
pub(crate) fn about(node: NodeId, fact: &Fact) -> ((NodeId, Option<[u8; 16]>), UnixMillis) {
    match fact {
        Fact::Node { seen, .. } => ((node, None), *seen),
        Fact::Domain { seen, facts } => ((node, Some(*facts.domain.as_bytes())), *seen),
        Fact::Device { seen, facts } => ((node, Some(*facts.device.as_bytes())), *seen),
    }
}
