//! The bytes of one file of the store, looked at without a store around them: the door of fuzzers and of
//! whoever wants to know what is left of a file.
//!
//! Not here: what only the files beside it tell, such as an end that is missing between two frames.

use std::path::Path;

use crate::block::Block;
use crate::codec;
use crate::footer::{self, Footer};
use crate::frame::{self, Item, Items, Kind};
use crate::kept;
use crate::manifest::{self, Manifest};
use crate::rollup::{self, Cells};

/// A kind of file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    /// A segment of the log.
    Log,
    /// A file of sealed blocks.
    Blocks,
    /// A file of facts, events, gaps, documents and sessions.
    Events,
    /// A file of rollups.
    Rollup,
    /// The manifest.
    Manifest,
}

impl FileKind {
    fn inside(self) -> Kind {
        match self {
            Self::Log => Kind::Log,
            Self::Blocks => Kind::Blocks,
            Self::Events => Kind::Kept,
            Self::Rollup => Kind::Rollup,
            Self::Manifest => Kind::Manifest,
        }
    }
}

/// What the bytes of a file hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Examined<'a> {
    /// Whole frames: where each begins, and its payload.
    pub frames: Vec<(u64, &'a [u8])>,
    /// Damage: where it begins, and what is wrong.
    pub holes: Vec<(u64, &'static str)>,
}

/// Verifies the header and all checksums in the bytes of a file with a number, and decodes nothing; any
/// bytes will do.
pub fn examine_checksums(kind: FileKind, id: u64, bytes: &[u8]) -> Examined<'_> {
    let mut examined = Examined::default();
    if let Err(error) = frame::check_header(Path::new(""), kind.inside(), id, bytes) {
        examined.holes.push((0, codec::what_of(&error)));
    }
    for item in Items::new(bytes, id) {
        match item {
            Item::Hole { offset, what } => examined.holes.push((offset as u64, what)),
            Item::Frame {
                offset, payload, ..
            } => examined.frames.push((offset as u64, payload)),
        }
    }
    examined
}

/// Verifies everything in the bytes of a file with a number; any bytes will do.
pub fn examine(kind: FileKind, id: u64, bytes: &[u8]) -> Examined<'_> {
    let mut examined = examine_checksums(kind, id, bytes);
    for (offset, payload) in &examined.frames {
        let read = examine_payload(kind, payload);
        examined
            .holes
            .extend(read.err().map(|what| (*offset, what)));
    }
    match (kind, examined.frames.as_slice()) {
        (FileKind::Blocks | FileKind::Rollup, frames) => {
            let footer = frames.last().map_or(0, |(offset, _)| *offset);
            let told = if kind == FileKind::Blocks {
                footer::tells_all((id, bytes, footer), footer::told_by_samples)
            } else {
                rollup::tells_all(id, bytes, footer)
            };
            if let Err(what) = told
                && examined.holes.iter().all(|(offset, _)| *offset != footer)
            {
                examined.holes.push((footer, what));
            }
        }
        (FileKind::Manifest, [_]) | (FileKind::Log | FileKind::Events, _) => {}
        (FileKind::Manifest, _) => examined.holes.push((0, manifest::NOT_ONE_FRAME)),
    }
    examined
}

/// Decodes the payload of one frame; says what is wrong with it. Any bytes will do.
pub fn examine_payload(kind: FileKind, payload: &[u8]) -> Result<(), &'static str> {
    let read = match kind {
        FileKind::Log => codec::decode(payload).map(|_| ()),
        FileKind::Events => kept::decode(payload).map(|_| ()),
        FileKind::Manifest => Manifest::decode(payload).map(|_| ()),
        FileKind::Blocks | FileKind::Rollup if payload.first() == Some(&footer::TAG) => {
            Footer::unpack(payload).map(|_| ())
        }
        FileKind::Blocks => Block::parse(payload)
            .and_then(|block| block.rows())
            .map(|_| ()),
        FileKind::Rollup => Cells::parse(payload)
            .and_then(|cells| cells.lanes(|_, _| true))
            .map(|_| ()),
    };
    read.map_err(|error| error.what)
}
