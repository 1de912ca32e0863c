//! The keeper: moves what is in memory into sealed files, merges small files, and forgets what is too
//! old. New files are durable before the manifest names them; old ones go only after that.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use plimsoll_model::{Columns, UnixMillis};

use crate::block::{self, Block, Place, Rows};
use crate::error::OpenError;
use crate::files::{Files, Handles};
use crate::frame::Kind;
use crate::handles::Lately;
use crate::head::Frozen;
use crate::kept::{self, Kept, KeptFile, Placed};
use crate::manifest::Manifest;
use crate::record::StoreOptions;
use crate::rollup::Tier;
use crate::sealed::{Draft, Sealed};

/// Files of one partition from which on they are merged.
const PARTITION_FILES: usize = 4;
/// How large a file of blocks may be to be merged again.
const MERGE_BYTES: u64 = 64 << 20;
/// Files of events from which on they are merged, and how large a file may be to be merged again.
const KEPT_FILES: usize = 8;
const KEPT_MERGE_BYTES: u64 = 64 << 20;

/// The keeper's own state: the manifest as it is on disk.
#[derive(Debug)]
pub(crate) struct Keeper {
    pub(crate) dir: PathBuf,
    pub(crate) partition_ms: u64,
    pub(crate) manifest: Manifest,
    pub(crate) files: Arc<Files>,
    /// When the keeper first saw that something was not sealed.
    pub(crate) waiting_since: Option<UnixMillis>,
    /// Files that a merge could not make fewer.
    pub(crate) settled: HashSet<u64>,
    pub(crate) handles: Handles,
    /// Before which instant no rollups of a tier are made, because they were forgotten.
    pub(crate) floors: HashMap<Tier, UnixMillis>,
    /// How many bytes files of events had when they were merged last.
    pub(crate) kept_tried: Option<u64>,
    /// Files of rollups that are damaged and cannot be made anew.
    pub(crate) beyond_repair: HashSet<u64>,
    /// Files of rollups in which a merge found damage.
    pub(crate) found_damaged: BTreeSet<u64>,
}

/// A new list of files, written and named by the manifest.
#[derive(Debug)]
pub(crate) struct Change {
    pub(crate) files: Arc<Files>,
    /// Files of blocks that came.
    pub(crate) sealed: Vec<Arc<Sealed>>,
    /// A file of events that came, with what it holds.
    pub(crate) kept: Option<(u64, Vec<Placed>)>,
    /// Files that nobody names any more.
    pub(crate) gone: Vec<PathBuf>,
    /// Samples written or forgotten.
    pub(crate) samples: u64,
    /// Samples that end before it were forgotten.
    pub(crate) forgotten: Option<UnixMillis>,
}

/// Gathers rows of partitions into files of blocks.
#[derive(Debug)]
struct Sealing<'a> {
    dir: &'a Path,
    opened: &'a Arc<Lately<File>>,
    next_file: &'a mut u64,
    partition_ms: u64,
    drafts: BTreeMap<UnixMillis, Draft>,
    done: Vec<Arc<Sealed>>,
}

impl Sealing<'_> {
    fn draft_id(next_file: &mut u64) -> u64 {
        *next_file += 1;
        *next_file - 1
    }

    fn add(&mut self, place: Place, columns: &Columns, mut rows: Rows) -> Result<(), OpenError> {
        let width = columns.len();
        rows.settle(width);
        let (mut windows, mut values) = (rows.windows.as_slice(), rows.values.as_slice());
        while let Some(first) = windows.first() {
            let length = i64::try_from(self.partition_ms).unwrap_or(i64::MAX).max(1);
            let begin = first.end.millis().div_euclid(length).saturating_mul(length);
            let begin = UnixMillis::from_millis(begin);
            let end = begin.plus(std::time::Duration::from_millis(self.partition_ms));
            let count = match windows.partition_point(|window| window.end < end) {
                // The end of time has no partition behind it.
                0 => windows.len(),
                count => count,
            };
            let (first_windows, later) = windows.split_at(count);
            let (first_values, later_values) = values.split_at(count * width);
            (windows, values) = (later, later_values);
            let next_file = &mut *self.next_file;
            let draft = self
                .drafts
                .entry(begin)
                .or_insert_with(|| Draft::new(Kind::Blocks, Self::draft_id(next_file)));
            let of_partition = (first_windows, first_values);
            block::encode(place, columns, of_partition, &mut |block| {
                draft.push(place, &block);
            });
            if draft.is_full() {
                self.close(begin)?;
            }
        }
        Ok(())
    }

    fn close(&mut self, begin: UnixMillis) -> Result<(), OpenError> {
        if let Some(draft) = self.drafts.remove(&begin) {
            let sealed = draft.write((self.dir, self.opened), (begin, self.partition_ms))?;
            self.done.push(Arc::new(sealed));
        }
        Ok(())
    }

    fn finish(mut self) -> Result<Vec<Arc<Sealed>>, OpenError> {
        while let Some((begin, _)) = self.drafts.first_key_value() {
            let begin = *begin;
            self.close(begin)?;
        }
        Ok(self.done)
    }
}

fn collect(all: &mut Vec<(Columns, Rows)>, columns: Columns, rows: Rows) {
    match all.iter_mut().find(|(known, _)| *known == columns) {
        Some((_, known)) => known.extend(&rows),
        None => all.push((columns, rows)),
    }
}

impl Keeper {
    pub(crate) fn new(
        dir: &Path,
        (manifest, files, handles): (Manifest, Arc<Files>, Handles),
        options: &StoreOptions,
    ) -> Self {
        let partition = u64::try_from(options.partition.as_millis()).unwrap_or(u64::MAX);
        Self {
            dir: dir.to_owned(),
            partition_ms: partition.max(1),
            manifest,
            files,
            waiting_since: None,
            settled: HashSet::new(),
            handles,
            floors: HashMap::new(),
            kept_tried: None,
            beyond_repair: HashSet::new(),
            found_damaged: BTreeSet::new(),
        }
    }

    fn sealing<'a>(&'a self, next_file: &'a mut u64) -> Sealing<'a> {
        Sealing {
            dir: &self.dir,
            opened: &self.handles.blocks,
            next_file,
            partition_ms: self.partition_ms,
            drafts: BTreeMap::new(),
            done: Vec::new(),
        }
    }

    /// Makes a new manifest the truth.
    pub(crate) fn commit(&mut self, mut manifest: Manifest, files: Files) -> Result<(), OpenError> {
        manifest.generation += 1;
        let there = files.blocks.iter().filter(|file| !file.missing);
        manifest.blocks = there.map(|file| file.entry.clone()).collect();
        manifest.kept = files.kept.iter().map(|file| file.entry).collect();
        manifest.rollups = files
            .rollups
            .iter()
            .map(|file| file.entry.clone())
            .collect();
        manifest.stale.clone_from(&files.stale);
        if let Err(error) = manifest.write(&self.dir) {
            if !manifest.is_older_on_disk(&self.dir) {
                // It names the new files although it could not be replaced as a whole: their numbers
                // are spent, and the next manifest must be newer.
                self.manifest.generation = manifest.generation;
                self.manifest.next_file = manifest.next_file;
            }
            return Err(error);
        }
        self.manifest = manifest;
        self.files = Arc::new(files);
        Ok(())
    }

    /// Writes what was in memory to files.
    pub(crate) fn seal(&mut self, frozen: &Frozen) -> Result<Change, OpenError> {
        let mut manifest = self.manifest.clone();
        let mut sealing = self.sealing(&mut manifest.next_file);
        for (place, lanes) in &frozen.subjects {
            for (columns, held) in lanes {
                sealing.add(*place, columns, held.rows(columns.len()))?;
            }
        }
        let sealed = sealing.finish()?;
        let mut all = frozen.kept.clone();
        all.extend(frozen.documents.values().cloned().map(Kept::Document));
        let mut files = (*self.files).clone();
        files.blocks.extend(sealed.iter().cloned());
        files.mark_stale(&sealed);
        let mut kept = None;
        if !all.is_empty() {
            let id = manifest.next_file;
            manifest.next_file += 1;
            let (file, placed) = KeptFile::write(&self.dir, id, all)?;
            files.kept.push(Arc::new(file));
            kept = Some((id, placed));
        }
        manifest.begin = frozen.begin;
        self.commit(manifest, files)?;
        self.waiting_since = None;
        Ok(Change {
            files: Arc::clone(&self.files),
            samples: sealed.iter().map(|file| file.entry.samples).sum(),
            sealed,
            kept,
            gone: Vec::new(),
            forgotten: None,
        })
    }

    /// Merges the files of one partition that has too many: where late samples came, or many seals.
    pub(crate) fn merge_blocks(&mut self, now: UnixMillis) -> Result<Option<Change>, OpenError> {
        let mut by_partition: BTreeMap<(UnixMillis, u64), Vec<Arc<Sealed>>> = BTreeMap::new();
        for file in &self.files.blocks {
            // A damaged file stays as it is: merged, its hole would be forgotten.
            let done = self.settled.contains(&file.entry.id) || file.entry.bytes > MERGE_BYTES;
            if file.damaged || done {
                continue;
            }
            let partition = (file.entry.partition, file.entry.partition_ms);
            by_partition
                .entry(partition)
                .or_default()
                .push(Arc::clone(file));
        }
        for ((_, partition_ms), inputs) in by_partition {
            let over = inputs.iter().any(|file| {
                let settled = std::time::Duration::from_millis(partition_ms.saturating_mul(2));
                file.entry.end().plus(settled) < now
            });
            let due = inputs.len() >= PARTITION_FILES || (over && inputs.len() > 1);
            if due
                && partition_ms == self.partition_ms
                && let Some(change) = self.merge_partition(&inputs)?
            {
                return Ok(Some(change));
            }
        }
        Ok(None)
    }

    fn merge_partition(&mut self, inputs: &[Arc<Sealed>]) -> Result<Option<Change>, OpenError> {
        let mut places: Vec<Place> = inputs
            .iter()
            .flat_map(|file| file.footer.blocks.keys().copied())
            .collect();
        places.sort();
        places.dedup();
        let mut manifest = self.manifest.clone();
        let mut sealing = self.sealing(&mut manifest.next_file);
        for place in places {
            let Some(all) = rows_of(inputs, place) else {
                self.settled.extend(inputs.iter().map(|file| file.entry.id));
                return Ok(None);
            };
            for (columns, rows) in all {
                sealing.add(place, &columns, rows)?;
            }
        }
        let sealed = sealing.finish()?;
        if sealed.len() > 1 {
            self.settled.extend(sealed.iter().map(|file| file.entry.id));
        }
        let mut files = (*self.files).clone();
        let is_input = |file: &Arc<Sealed>| inputs.iter().any(|input| Arc::ptr_eq(input, file));
        files.blocks.retain(|file| !is_input(file));
        files.blocks.extend(sealed.iter().cloned());
        self.commit(manifest, files)?;
        Ok(Some(Change {
            files: Arc::clone(&self.files),
            samples: sealed.iter().map(|file| file.entry.samples).sum(),
            sealed,
            kept: None,
            gone: inputs.iter().map(|file| file.path.clone()).collect(),
            forgotten: None,
        }))
    }

    /// Returns the horizon that follows from the age and from how many bytes samples may take: what
    /// ends before it is to be forgotten. The newest partition always stays.
    pub(crate) fn horizon_due(
        &self,
        horizon: Option<UnixMillis>,
        bytes_max: Option<u64>,
    ) -> Option<UnixMillis> {
        let mut left: Vec<(UnixMillis, u64)> = self
            .files
            .blocks
            .iter()
            .map(|file| (file.entry.end(), file.entry.bytes))
            .collect();
        let mut horizon = horizon;
        loop {
            let bytes: u64 = left.iter().map(|(_, bytes)| bytes).sum();
            let (oldest, newest) = (left.iter().min(), left.iter().max());
            let (oldest, newest) = (oldest.map(|(end, _)| *end), newest.map(|(end, _)| *end));
            if bytes_max.is_none_or(|most| bytes <= most) || oldest == newest {
                return horizon;
            }
            horizon = horizon.max(oldest);
            left.retain(|(end, _)| Some(*end) > oldest);
        }
    }

    /// Forgets partitions that end before the horizon.
    pub(crate) fn expire(
        &mut self,
        horizon: Option<UnixMillis>,
    ) -> Result<Option<Change>, OpenError> {
        let mut files = (*self.files).clone();
        let gone: Vec<_> = files
            .blocks
            .extract_if(.., |file| Some(file.entry.end()) <= horizon)
            .collect();
        if gone.is_empty() {
            return Ok(None);
        }
        let mut manifest = self.manifest.clone();
        manifest.forgotten = manifest.forgotten.max(horizon);
        self.commit(manifest, files)?;
        Ok(Some(Change {
            files: Arc::clone(&self.files),
            sealed: Vec::new(),
            kept: None,
            gone: gone.iter().map(|file| file.path.clone()).collect(),
            samples: gone.iter().map(|file| file.entry.samples).sum(),
            forgotten: horizon,
        }))
    }

    /// Merges files of events when there are many, and all of them when they take too many bytes; what
    /// lies before the horizon is forgotten, and the oldest until the rest fits. Returns the horizon that
    /// follows.
    pub(crate) fn merge_kept(
        &mut self,
        horizon: Option<UnixMillis>,
        bytes_max: Option<u64>,
    ) -> Result<Option<(Change, Option<UnixMillis>)>, OpenError> {
        // Newer words replace older ones, so only neighbours at the end may be merged.
        let small = |file: &&Arc<KeptFile>| file.entry.bytes < KEPT_MERGE_BYTES && !file.damaged;
        let mut count = self.files.kept.iter().rev().take_while(small).count();
        let bytes: u64 = self.files.kept.iter().map(|file| file.entry.bytes).sum();
        let most = bytes_max.filter(|most| bytes > *most);
        // What can never fit is not written again and again.
        let tried = self.kept_tried == Some(bytes);
        if most.is_some() && !tried {
            count = self.files.kept.len();
        } else if count < KEPT_FILES {
            return Ok(None);
        }
        let mut files = (*self.files).clone();
        let inputs = files.kept.split_off(files.kept.len() - count);
        let mut all = Vec::new();
        for input in &inputs {
            let mut holes = Vec::new();
            let read = input.read_all(&mut holes)?.into_iter();
            all.extend(read.map(|(_, _, kept)| kept));
            if !holes.is_empty() {
                return Ok(None);
            }
        }
        let mut all = kept::merge(all, horizon);
        let mut horizon = horizon;
        if let Some(most) = most.filter(|_| !tried) {
            // A quarter less, so that it does not begin again with the next seal.
            let (fitting, before) = kept::fit(all, most / 4 * 3);
            (all, horizon) = (fitting, horizon.max(before));
        }
        let mut manifest = self.manifest.clone();
        let id = manifest.next_file;
        manifest.next_file += 1;
        let (file, placed) = KeptFile::write(&self.dir, id, all)?;
        files.kept.push(Arc::new(file));
        self.commit(manifest, files)?;
        let bytes = self.files.kept.iter().map(|file| file.entry.bytes).sum();
        self.kept_tried = Some(bytes);
        let path = |input: &Arc<KeptFile>| input.entry.path(&self.dir);
        let change = Change {
            files: Arc::clone(&self.files),
            sealed: Vec::new(),
            kept: Some((id, placed)),
            gone: inputs.iter().map(path).collect(),
            samples: 0,
            forgotten: None,
        };
        Ok(Some((change, horizon)))
    }
}

/// Reads all rows of a subject from several files; `None` where one of them is damaged.
fn rows_of(inputs: &[Arc<Sealed>], place: Place) -> Option<Vec<(Columns, Rows)>> {
    let mut all = Vec::new();
    for file in inputs {
        for located in file.footer.blocks.get(&place).into_iter().flatten() {
            let bytes = file.read(located).ok()?;
            let block = Block::parse_as(&bytes, file.columns(located)).ok()?;
            let rows = block.rows().ok()?;
            collect(&mut all, block.columns, rows);
        }
    }
    Some(all)
}
