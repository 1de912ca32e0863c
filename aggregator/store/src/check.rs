//! What an operator does with a store that nobody has open: verify every checksum, print everything,
//! make the index anew. Only the last of them changes anything, and only the index.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use plimsoll_model::Subject;

use crate::block::Block;
use crate::codec;
use crate::error::{Hole, OpenError, RecoveryReport};
use crate::frame::{self, Item, Items, Kind, Link, io_error};
use crate::kept;
use crate::log::{self, Chain};
use crate::manifest::Manifest;
use crate::record::StoreOptions;
use crate::rollup::{self, Cells, Tier};
use crate::sealed;
use crate::store::{Store, lock};

/// What a check found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Files read.
    pub files: u64,
    /// Bytes read.
    pub bytes: u64,
    /// Frames that are whole.
    pub frames: u64,
    /// What is damaged.
    pub holes: Vec<Hole>,
}

impl Report {
    fn read(&mut self, path: &Path) -> Result<Option<Vec<u8>>, OpenError> {
        match std::fs::read(path) {
            Ok(bytes) => {
                self.files += 1;
                self.bytes += bytes.len() as u64;
                Ok(Some(bytes))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.hole(path, 0, "the file is missing");
                Ok(None)
            }
            Err(error) => Err(io_error("read", path)(error)),
        }
    }

    fn hole(&mut self, path: &Path, offset: u64, what: &'static str) {
        let path = path.to_owned();
        self.holes.push(Hole { path, offset, what });
    }

    fn error(&mut self, path: &Path, error: &OpenError) {
        let offset = match error {
            OpenError::Corrupt { offset, .. } => *offset,
            _ => 0,
        };
        self.hole(path, offset, codec::what_of(error));
    }

    fn log(&mut self, dir: &Path, manifest: &Manifest) -> Result<(), OpenError> {
        let dir = dir.join("log");
        let mut chain = Chain::new(&dir, manifest.begin);
        let segments = if dir.exists() {
            log::segments(&dir)?
        } else {
            Vec::new()
        };
        for (id, path) in segments
            .into_iter()
            .filter(|(id, _)| *id >= manifest.begin.id)
        {
            let Some(bytes) = self.read(&path)? else {
                continue;
            };
            let header = frame::check_header(&path, Kind::Log, id, &bytes);
            if let Err(error) = &header {
                self.error(&path, error);
            }
            self.holes
                .extend(chain.enter(id, header.as_ref().ok().copied()));
            let scan = log::scan(&bytes, id);
            self.frames += scan.frames.len() as u64;
            for (offset, payload) in &scan.frames {
                if let Err(error) = codec::decode(payload) {
                    self.hole(&path, *offset as u64, error.what);
                }
            }
            for (offset, what) in scan.holes.iter().chain(&scan.torn) {
                self.hole(&path, *offset as u64, what);
            }
            let whole = header.is_ok() && scan.holes.is_empty() && scan.torn.is_none();
            let end = Link {
                bytes: bytes.len() as u64,
                crc: crc32c::crc32c(&bytes),
            };
            chain.leave(id, whole.then_some(end));
        }
        Ok(())
    }
}

/// Reads all files of a store that nobody has open and verifies every checksum. It changes nothing.
pub fn check(dir: &Path) -> Result<Report, OpenError> {
    let _lock = lock(dir)?;
    let mut report = Report::default();
    let manifest = match Manifest::read(dir) {
        Ok((manifest, holes)) => {
            report.holes.extend(holes);
            manifest
        }
        Err(error @ (OpenError::Io { .. } | OpenError::Locked { .. })) => return Err(error),
        Err(error) => {
            // Without a manifest nobody knows which files are true; the log can still be told.
            report.error(&dir.join("MANIFEST"), &error);
            Manifest::default()
        }
    };
    report.log(dir, &manifest)?;
    for entry in &manifest.blocks {
        let path = entry.path(dir);
        let Some(bytes) = report.read(&path)? else {
            continue;
        };
        match sealed::check(&path, entry, &bytes) {
            Ok(frames) => report.frames += frames,
            Err(holes) => report.holes.extend(holes),
        }
    }
    for entry in &manifest.rollups {
        let path = entry.path(dir);
        let Some(bytes) = report.read(&path)? else {
            continue;
        };
        match rollup::check(&path, entry, &bytes) {
            Ok(frames) => report.frames += frames,
            Err(holes) => report.holes.extend(holes),
        }
        // Made while something was damaged, it is whole and yet may not tell all.
        for lost in &entry.lost {
            let what = "rollups were made while this was damaged";
            report.hole(&dir.join(&lost.name), lost.offset, what);
        }
    }
    for entry in &manifest.kept {
        let path = entry.path(dir);
        let Some(bytes) = report.read(&path)? else {
            continue;
        };
        match kept::read(&path, *entry, &bytes, &mut report.holes) {
            Ok(placed) => report.frames += placed.len() as u64,
            Err(error) => report.error(&path, &error),
        }
    }
    Ok(report)
}

/// Prints everything that is whole in a store that nobody has open, one thing a line. It changes
/// nothing.
pub fn dump(dir: &Path, out: &mut dyn Write) -> Result<(), OpenError> {
    let _lock = lock(dir)?;
    let (manifest, _) = Manifest::read(dir)?;
    let read = |path: &Path| std::fs::read(path).map_err(io_error("read", path));
    for entry in &manifest.blocks {
        let path = entry.path(dir);
        for item in Items::new(&read(&path)?, entry.id) {
            let Item::Frame { payload, .. } = item else {
                continue;
            };
            if let Ok(block) = Block::parse(payload) {
                dump_block(&path, &block, out)?;
            }
        }
    }
    for entry in &manifest.rollups {
        let path = entry.path(dir);
        for item in Items::new(&read(&path)?, entry.id) {
            if let Item::Frame { payload, .. } = item
                && let Ok(cells) = Cells::parse(payload)
            {
                dump_cells(&path, entry.tier, &cells, out)?;
            }
        }
    }
    for entry in &manifest.kept {
        let path = entry.path(dir);
        for (_, _, kept) in kept::read(&path, *entry, &read(&path)?, &mut Vec::new())? {
            line(&path, &format_args!("{kept:?}"), out)?;
        }
    }
    let log = dir.join("log");
    let segments = if log.exists() {
        log::segments(&log)?
    } else {
        Vec::new()
    };
    for (id, path) in segments
        .into_iter()
        .filter(|(id, _)| *id >= manifest.begin.id)
    {
        for (_, payload) in log::scan(&read(&path)?, id).frames {
            if let Ok(record) = codec::decode(payload) {
                line(&path, &format_args!("{record:?}"), out)?;
            }
        }
    }
    Ok(())
}

fn line(path: &Path, what: &std::fmt::Arguments<'_>, out: &mut dyn Write) -> Result<(), OpenError> {
    writeln!(out, "{} {what}", path.display()).map_err(io_error("print", path))
}

fn dump_block(path: &Path, block: &Block<'_>, out: &mut dyn Write) -> Result<(), OpenError> {
    let Ok(rows) = block.rows() else {
        return Ok(());
    };
    let subject = Subject::from(block.place);
    let values = rows.values.chunks(block.columns.len().max(1));
    for (window, values) in rows.windows.iter().zip(values) {
        for ((metric, part), value) in block.columns.iter().zip(values) {
            let end = window.end.millis();
            let width = window.width_ms;
            let what = format_args!("{subject:?} {metric}{{{part}}} {end}ms-{width}ms {value}");
            line(path, &what, out)?;
        }
    }
    Ok(())
}

fn dump_cells(
    path: &Path,
    tier: Tier,
    cells: &Cells<'_>,
    out: &mut dyn Write,
) -> Result<(), OpenError> {
    let subject = Subject::from(cells.place);
    for lane in cells.lanes(|_, _| true).unwrap_or_default() {
        let (metric, part) = (lane.metric, &lane.part);
        for cell in &lane.cells {
            let (begin, length) = (tier.begin(cell.number), tier.name());
            let held = lane.shape.told(cell);
            let what = format_args!("{subject:?} {metric}{{{part}}} {begin}ms+{length} {held}");
            line(path, &what, out)?;
        }
    }
    Ok(())
}

/// Removes the index of a store that nobody has open and makes it anew.
pub fn rebuild_index(dir: &Path) -> Result<RecoveryReport, OpenError> {
    {
        let _lock = lock(dir)?;
        let index: PathBuf = dir.join("index");
        match std::fs::remove_dir_all(&index) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(io_error("remove", &index)(error));
            }
            _ => {}
        }
    }
    Store::open(dir, StoreOptions::default()).map(|(_, report)| report)
}
