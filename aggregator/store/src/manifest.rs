//! The manifest: which files are true and where the log begins. It is replaced as a whole, and a copy
//! follows it; files go only after both name what took their place, so either one alone is enough.

use std::path::{Path, PathBuf};

use plimsoll_model::UnixMillis;

use crate::codec::{Malformed, Pack, pack_all, unpack_all};
use crate::error::{Hole, OpenError};
use crate::frame::{self, Item, Items, Kind, Link, io_error};
use crate::log::Begin;
use crate::rollup::{RollupEntry, Span};
use crate::sealed::Entry;

/// What the manifest says of a file of facts, events, gaps, documents and sessions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct KeptEntry {
    /// Number in its name.
    pub(crate) id: u64,
    /// Length of the file.
    pub(crate) bytes: u64,
}

impl KeptEntry {
    /// Names its file below the directory of the store.
    pub(crate) fn path(&self, dir: &Path) -> PathBuf {
        dir.join("events").join(format!("{:016}.events", self.id))
    }
}

/// What is wrong with a manifest of no frame or several.
pub(crate) const NOT_ONE_FRAME: &str = "it does not hold one frame";

/// Which files are true.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Manifest {
    /// Grows with each replacement.
    pub(crate) generation: u64,
    /// The lowest file number that was never given out.
    pub(crate) next_file: u64,
    /// Where the log begins.
    pub(crate) begin: Begin,
    /// Files of blocks, in the order in which they were sealed.
    pub(crate) blocks: Vec<Entry>,
    /// Files of events, in the order in which they were sealed.
    pub(crate) kept: Vec<KeptEntry>,
    /// Files of rollups.
    pub(crate) rollups: Vec<RollupEntry>,
    /// Spans whose rollups do not know all samples yet; begin and end in milliseconds.
    pub(crate) stale: Vec<Span>,
    /// Before which instant samples were forgotten; what is left of them is no whole.
    pub(crate) forgotten: Option<UnixMillis>,
}

impl Pack for Entry {
    fn pack(&self, out: &mut Vec<u8>) {
        self.id.pack(out);
        self.partition.pack(out);
        self.partition_ms.pack(out);
        self.bytes.pack(out);
        self.footer.pack(out);
        self.samples.pack(out);
    }

    fn unpack(input: &mut &[u8]) -> Result<Self, Malformed> {
        Ok(Self {
            id: Pack::unpack(input)?,
            partition: Pack::unpack(input)?,
            partition_ms: Pack::unpack(input)?,
            bytes: Pack::unpack(input)?,
            footer: Pack::unpack(input)?,
            samples: Pack::unpack(input)?,
        })
    }
}

impl Pack for KeptEntry {
    fn pack(&self, out: &mut Vec<u8>) {
        self.id.pack(out);
        self.bytes.pack(out);
    }

    fn unpack(input: &mut &[u8]) -> Result<Self, Malformed> {
        Ok(Self {
            id: Pack::unpack(input)?,
            bytes: Pack::unpack(input)?,
        })
    }
}

impl Pack for Manifest {
    fn pack(&self, out: &mut Vec<u8>) {
        self.generation.pack(out);
        self.next_file.pack(out);
        self.begin.id.pack(out);
        self.begin.previous.bytes.pack(out);
        self.begin.previous.crc.pack(out);
        pack_all(&self.blocks, out);
        pack_all(&self.kept, out);
        pack_all(&self.rollups, out);
        pack_all(&self.stale, out);
        self.forgotten.pack(out);
    }

    fn unpack(input: &mut &[u8]) -> Result<Self, Malformed> {
        let mut manifest = Self {
            generation: Pack::unpack(input)?,
            next_file: Pack::unpack(input)?,
            begin: Begin {
                id: Pack::unpack(input)?,
                previous: Link {
                    bytes: Pack::unpack(input)?,
                    crc: Pack::unpack(input)?,
                },
            },
            blocks: unpack_all(input)?,
            kept: unpack_all(input)?,
            ..Self::default()
        };
        // The first format ends here.
        if !input.is_empty() {
            manifest.rollups = unpack_all(input)?;
            manifest.stale = unpack_all(input)?;
            manifest.forgotten = Pack::unpack(input)?;
        }
        Ok(manifest)
    }
}

impl Manifest {
    /// Decodes the one frame; bytes left over make it malformed.
    pub(crate) fn decode(mut payload: &[u8]) -> Result<Self, Malformed> {
        let manifest = Self::unpack(&mut payload)?;
        if payload.is_empty() {
            return Ok(manifest);
        }
        Err(Malformed {
            what: "bytes are left over",
        })
    }

    /// Makes this the truth.
    pub(crate) fn write(&self, dir: &Path) -> Result<(), OpenError> {
        let mut payload = Vec::new();
        self.pack(&mut payload);
        let mut bytes = frame::header(Kind::Manifest, 0, Link::default());
        frame::push(&mut bytes, 0, 0, &payload);
        for path in paths(dir) {
            frame::write_whole(&path, &bytes).map_err(io_error("write", &path))?;
        }
        Ok(())
    }

    /// Writes the manifest of a new store, before there is any file that it could fail to name.
    pub(crate) fn write_first(&self, dir: &Path) -> Result<(), OpenError> {
        if self.generation > 0 || paths(dir).iter().any(|path| path.exists()) {
            return Ok(());
        }
        self.write(dir)
    }

    /// Tells whether the disk surely holds nothing of this manifest, after it could not be written.
    pub(crate) fn is_older_on_disk(&self, dir: &Path) -> bool {
        Self::read(dir).is_ok_and(|(found, _)| found.generation < self.generation)
    }

    /// Reads the manifest, from its copy where it is damaged; without either, the store is new.
    pub(crate) fn read(dir: &Path) -> Result<(Self, Vec<Hole>), OpenError> {
        let mut holes = Vec::new();
        let mut best: Option<Self> = None;
        let mut missing = 0;
        for path in paths(dir) {
            match std::fs::read(&path) {
                Ok(bytes) => match parse(&path, &bytes) {
                    Ok(found) => {
                        let newer = |best: &Self| best.generation < found.generation;
                        if best.as_ref().is_none_or(newer) {
                            best = Some(found);
                        }
                    }
                    Err(newer @ OpenError::Newer { .. }) => return Err(newer),
                    Err(error) => holes.push(Hole {
                        path,
                        offset: 0,
                        what: crate::codec::what_of(&error),
                    }),
                },
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => missing += 1,
                Err(error) => return Err(io_error("read", &path)(error)),
            }
        }
        let sealed = ["blocks", "events", "rollup"]
            .iter()
            .any(|name| dir.join(name).exists());
        match best {
            Some(manifest) => Ok((manifest, holes)),
            None if missing == 2 && !sealed => Ok((Self::default(), holes)),
            None => Err(OpenError::Corrupt {
                path: dir.join("MANIFEST"),
                offset: 0,
                what: "neither the manifest nor its copy is whole",
                remedy: "restore this whole directory from one backup",
            }),
        }
    }
}

fn paths(dir: &Path) -> [PathBuf; 2] {
    ["MANIFEST", "MANIFEST.copy"].map(|name| dir.join(name))
}

fn parse(path: &Path, bytes: &[u8]) -> Result<Manifest, OpenError> {
    frame::check_header(path, Kind::Manifest, 0, bytes)?;
    let corrupt = |what| OpenError::Corrupt {
        path: path.to_owned(),
        offset: frame::HEADER_BYTES as u64,
        what,
        remedy: "its copy is read in its place",
    };
    let mut items = Items::new(bytes, 0);
    let payload = match (items.next(), items.next()) {
        (Some(Item::Frame { payload, .. }), None) => payload,
        (Some(Item::Hole { what, .. }), _) => return Err(corrupt(what)),
        _ => return Err(corrupt(NOT_ONE_FRAME)),
    };
    Manifest::decode(payload).map_err(|error| corrupt(error.what))
}
