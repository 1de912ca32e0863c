//! The sealed files that are true at one moment. A reader holds them as long as it reads; what takes
//! their place is a new list.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::{Hole, OpenError};
use crate::frame::io_error;
use crate::kept::{KeptFile, Placed};
use crate::manifest::Manifest;
use crate::sealed::Sealed;

/// The list.
#[derive(Debug, Clone, Default)]
pub(crate) struct Files {
    /// Files of blocks, in the order in which they were sealed.
    pub(crate) blocks: Vec<Arc<Sealed>>,
    /// Files of events, in the order in which they were sealed.
    pub(crate) kept: Vec<Arc<KeptFile>>,
}

/// What a file of events holds, with the number of the file.
pub(crate) type Recalled = Vec<(u64, Vec<Placed>)>;

impl Files {
    /// Opens what the manifest names; damage is noted.
    pub(crate) fn open(
        dir: &Path,
        manifest: &Manifest,
        holes: &mut Vec<Hole>,
    ) -> Result<(Self, Recalled), OpenError> {
        let mut files = Self::default();
        for entry in &manifest.blocks {
            files
                .blocks
                .extend(Sealed::open(dir, entry, holes)?.map(Arc::new));
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

    /// Finds a file of events by its number.
    pub(crate) fn kept(&self, id: u64) -> Option<&Arc<KeptFile>> {
        self.kept.iter().find(|file| file.entry.id == id)
    }
}

/// Removes files that no manifest names: a seal that did not come to its end, or one whose inputs were
/// to go. What they held is in the log or in the files that are named.
pub(crate) fn remove_strays(dir: &Path, manifest: &Manifest) -> Result<u64, OpenError> {
    let named = |path: &PathBuf| {
        manifest.blocks.iter().any(|entry| entry.path(dir) == *path)
            || manifest.kept.iter().any(|entry| entry.path(dir) == *path)
    };
    let mut removed = 0;
    let mut dirs = vec![dir.join("events")];
    dirs.extend(list(&dir.join("blocks"))?);
    for below in dirs {
        for path in list(&below)? {
            let ending = path.extension().and_then(|ending| ending.to_str());
            if matches!(ending, Some("blocks" | "events" | "tmp")) && !named(&path) {
                std::fs::remove_file(&path).map_err(io_error("remove", &path))?;
                removed += 1;
            }
        }
        // Fails where something is left, which is then still needed.
        std::fs::remove_dir(&below).ok();
    }
    Ok(removed)
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
