//! The sealed files that are true at one moment. A reader holds them as long as it reads; what takes
//! their place is a new list.

use std::collections::HashSet;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use plimsoll_model::UnixMillis;

use crate::error::{Hole, OpenError};
use crate::frame::io_error;
use crate::handles::Lately;
use crate::kept::{KeptFile, Placed};
use crate::log;
use crate::manifest::Manifest;
use crate::rollup::{Opened, Rolled, Span};
use crate::sealed::Sealed;

/// Files of blocks that are open at once.
const OPEN_BLOCKS_MAX: usize = 256;
/// Files of rollups that are open at once; the footer of each is in memory as long.
const OPEN_ROLLUPS_MAX: usize = 64;

/// What is open of sealed files.
#[derive(Debug, Clone)]
pub(crate) struct Handles {
    pub(crate) blocks: Arc<Lately<File>>,
    pub(crate) rollups: Arc<Lately<Opened>>,
}

impl Default for Handles {
    fn default() -> Self {
        Self {
            blocks: Arc::new(Lately::new(OPEN_BLOCKS_MAX)),
            rollups: Arc::new(Lately::new(OPEN_ROLLUPS_MAX)),
        }
    }
}

/// The list.
#[derive(Debug, Clone, Default)]
pub(crate) struct Files {
    /// Files of blocks, in the order in which they were sealed.
    pub(crate) blocks: Vec<Arc<Sealed>>,
    /// Files of events, in the order in which they were sealed.
    pub(crate) kept: Vec<Arc<KeptFile>>,
    /// Files of rollups.
    pub(crate) rollups: Vec<Arc<Rolled>>,
    /// Spans whose rollups do not know all sealed samples.
    pub(crate) stale: Vec<Span>,
}

/// What a file of events holds, with the number of the file.
pub(crate) type Recalled = Vec<(u64, Vec<Placed>)>;

impl Files {
    /// Opens what the manifest names; damage is noted.
    pub(crate) fn open(
        (dir, handles): (&Path, &Handles),
        manifest: &Manifest,
        holes: &mut Vec<Hole>,
    ) -> Result<(Self, Recalled), OpenError> {
        let mut files = Self {
            stale: manifest.stale.clone(),
            ..Self::default()
        };
        for entry in &manifest.blocks {
            let sealed = Sealed::open((dir, &handles.blocks), entry, holes)?;
            files.blocks.push(Arc::new(sealed));
        }
        for entry in &manifest.rollups {
            let rolled = Rolled::open((dir, &handles.rollups), entry, holes)?;
            files.rollups.push(Arc::new(rolled));
        }
        let mut recalled = Vec::new();
        for entry in &manifest.kept {
            if let Some((file, placed)) = KeptFile::open(dir, *entry, holes)? {
                files.kept.push(Arc::new(file));
                recalled.push((entry.id, placed));
            }
        }
        Ok((files, recalled))
    }

    /// Lists the files of blocks with samples of a span, so that what they hold comes in order of time as
    /// far as can be: a merged file stands behind younger ones.
    pub(crate) fn blocks_in(&self, from: UnixMillis, to: UnixMillis) -> Vec<&Arc<Sealed>> {
        let apart = |file: &Sealed| file.entry.end() <= from || file.entry.partition > to;
        let mut files: Vec<_> = self.blocks.iter().filter(|file| !apart(file)).collect();
        let length = files.first().map(|file| file.entry.partition_ms);
        // Partitions of one length that are not the same share no window, so what was stored first still
        // comes before what was stored again.
        if files
            .iter()
            .all(|file| Some(file.entry.partition_ms) == length)
        {
            files.sort_by_key(|file| file.entry.partition);
        }
        files
    }

    /// Names the files of blocks that have lost nobody knows what of a span.
    pub(crate) fn lost_in(&self, from: UnixMillis, to: UnixMillis) -> Vec<Hole> {
        let within = |file: &&Arc<Sealed>| file.entry.partition <= to && from < file.entry.end();
        let files = self.blocks.iter().filter(within);
        files.filter_map(|file| file.lost.clone()).collect()
    }

    /// Keeps what is about to be removed readable for those who hold it.
    pub(crate) fn pin(&self, gone: &[PathBuf]) {
        let is_gone = |path: &PathBuf| gone.contains(path);
        let blocks = self.blocks.iter().filter(|file| is_gone(&file.path));
        blocks.for_each(|file| file.pin());
        let rollups = self.rollups.iter().filter(|file| is_gone(&file.path));
        rollups.for_each(|file| file.pin());
    }

    /// Finds a file of events by its number.
    pub(crate) fn kept(&self, id: u64) -> Option<&Arc<KeptFile>> {
        self.kept.iter().find(|file| file.entry.id == id)
    }
}

/// Removes files that no manifest names: a seal that did not come to its end, or one whose inputs were
/// to go. What they held is in the log or in the files that are named.
pub(crate) fn remove_strays(dir: &Path, manifest: &Manifest) -> Result<u64, OpenError> {
    let blocks = manifest.blocks.iter().map(|entry| entry.path(dir));
    let kept = manifest.kept.iter().map(|entry| entry.path(dir));
    let named: HashSet<PathBuf> = blocks.chain(kept).collect();
    let rollups = manifest.rollups.iter().map(|entry| entry.path(dir));
    let rollups: HashSet<PathBuf> = rollups.collect();
    let mut dirs = vec![dir.join("events")];
    dirs.extend(list(&dir.join("blocks"))?);
    dirs.extend(list(&dir.join("rollup"))?);
    let mut strays = Vec::new();
    for below in &dirs {
        strays.extend(list(below)?.into_iter().filter(|path| {
            let ending = path.extension().and_then(|ending| ending.to_str());
            let ours = matches!(ending, Some("blocks" | "events" | "rollup" | "tmp"));
            ours && !named.contains(path) && !rollups.contains(path)
        }));
    }
    believe(dir, manifest, &named, &strays)?;
    for path in &strays {
        std::fs::remove_file(path).map_err(io_error("remove", path))?;
    }
    for below in dirs {
        // Fails where something is left, which is then still needed.
        std::fs::remove_dir(&below).ok();
    }
    Ok(strays.len() as u64)
}

/// Refuses a manifest that is older than the files beside it, as one out of a backup is: what it names
/// is gone, and what it does not name is all there is.
fn believe(
    dir: &Path,
    manifest: &Manifest,
    named: &HashSet<PathBuf>,
    strays: &[PathBuf],
) -> Result<(), OpenError> {
    let is_newer = |path: &&PathBuf| {
        let stem = path.file_stem().and_then(|stem| stem.to_str());
        let whole = path.extension().is_some_and(|ending| ending != "tmp");
        whole && stem.and_then(|stem| stem.parse().ok()) >= Some(manifest.next_file)
    };
    let begin = log::segment(&dir.join("log"), manifest.begin.id);
    let gone = !begin.exists() || named.iter().any(|path| !path.exists());
    match strays.iter().find(is_newer) {
        Some(stray) if gone => Err(OpenError::Corrupt {
            path: stray.clone(),
            offset: 0,
            what: "the manifest is older than this file and names others that are gone",
            remedy: "restore the whole directory from one backup, or move this file away",
        }),
        _ => Ok(()),
    }
}

fn list(dir: &Path) -> Result<Vec<PathBuf>, OpenError> {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(io_error("list", dir)(error)),
    };
    let mut paths = Vec::new();
    for entry in entries {
        paths.push(entry.map_err(io_error("list", dir))?.path());
    }
    Ok(paths)
}
