//! What is done from time to time: seals, merges, rolls up, forgets, and watches how much room is left.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};

use plimsoll_model::UnixMillis;

use crate::error::{AppendError, Hole, OpenError, UpkeepError};
use crate::frame::io_error;
use crate::keeper::Keeper;
use crate::record::{Floor, Upkeep};
use crate::rollup::{Due, Tier};
use crate::space::{Room, Space};
use crate::store::Store;

/// Merges in one upkeep, so that it ends.
const MERGES_MAX: usize = 16;
/// Spans that are rolled up in one upkeep, so that seals do not wait for long.
const ROLLS_MAX: usize = 8;

/// Whether there is room to append, as upkeep found it.
#[derive(Debug)]
pub(crate) struct Watch {
    space: Arc<dyn Space>,
    is_low: AtomicBool,
    free: AtomicU64,
    floor: AtomicU64,
}

impl Watch {
    pub(crate) fn new(space: Arc<dyn Space>) -> Self {
        Self {
            space,
            is_low: AtomicBool::new(false),
            free: AtomicU64::new(0),
            floor: AtomicU64::new(0),
        }
    }

    /// Refuses what is to be appended while there is too little room.
    pub(crate) fn allows(&self, dir: &Path) -> Result<(), AppendError> {
        if !self.is_low.load(Ordering::Relaxed) {
            return Ok(());
        }
        Err(AppendError::LowSpace {
            path: dir.to_owned(),
            free_bytes: self.free.load(Ordering::Relaxed),
            floor_bytes: self.floor.load(Ordering::Relaxed),
        })
    }

    /// Asks how many bytes are missing below the floor.
    fn missing(&self, dir: &Path, floor: Floor) -> Result<u64, OpenError> {
        if floor.bytes == 0 && floor.share.millionths() == 0 {
            return Ok(0);
        }
        let room = self.space.room(dir);
        let Room { free, total } = room.map_err(io_error("ask for the free space around", dir))?;
        let floor = floor.bytes.max(floor.share.of(total));
        self.free.store(free, Ordering::Relaxed);
        self.floor.store(floor, Ordering::Relaxed);
        Ok(floor.saturating_sub(free))
    }
}

impl Store {
    /// Seals what is due, merges small files, rolls up what is settled, and forgets what is older than
    /// the retention, or earlier where room is scarce. After an error the store is as it was; the next
    /// call tries again.
    pub fn maintain(&self, now: UnixMillis) -> Result<Upkeep, UpkeepError> {
        let mut keeper = self.keeper();
        let mut upkeep = Upkeep::default();
        let by_age = self.options.retention.map(|retention| now.minus(retention));
        {
            // Whatever fails below, what is too old is not told any more.
            let mut head = self.write();
            head.horizon = head.horizon.max(by_age);
        }
        let has_room = self.make_room(&mut keeper, now, &mut upkeep)?;
        if self.is_due(&mut keeper, now) {
            upkeep.sealed_samples = self.seal_all(&mut keeper)?;
        }
        for _ in 0..MERGES_MAX {
            let change = if has_room {
                keeper.merge_blocks(now)?
            } else {
                None
            };
            let Some(change) = change else { break };
            upkeep.merged_files += change.gone.len() as u64;
            self.change(&keeper, change, |_| {})?;
        }
        let horizon = self.read().horizon;
        let urgent = keeper.horizon_due(horizon, self.options.retention_bytes);
        self.roll_up(&mut keeper, (now, urgent), &mut upkeep)?;
        // What is not rolled up yet waits for the next upkeep.
        let horizon = urgent.map(|urgent| keeper.spares(urgent));
        upkeep.expired_files = self.expire(&mut keeper, horizon)?;
        self.expire_rollups(&mut keeper, now, &mut upkeep)?;
        self.keep_events(&mut keeper, now, &mut upkeep)?;
        Ok(upkeep)
    }

    /// Merges the files of every partition, even of those that late samples may still come for; says
    /// how many files that were.
    pub fn merge_all(&self) -> Result<u64, UpkeepError> {
        let mut keeper = self.keeper();
        let mut merged = 0;
        while let Some(change) = keeper.merge_blocks(UnixMillis::from_millis(i64::MAX))? {
            merged += change.gone.len() as u64;
            self.change(&keeper, change, |_| {})?;
        }
        Ok(merged)
    }

    /// Forgets the oldest samples before their time where room is scarce; where that does not help,
    /// appending is refused until this finds room again. Says whether there is room.
    fn make_room(
        &self,
        keeper: &mut Keeper,
        now: UnixMillis,
        upkeep: &mut Upkeep,
    ) -> Result<bool, UpkeepError> {
        let floor = self.options.floor;
        let missing = self.room.missing(&self.dir, floor)?;
        if missing == 0 {
            self.room.is_low.store(false, Ordering::Relaxed);
            return Ok(true);
        }
        let bytes: u64 = keeper
            .files
            .blocks
            .iter()
            .map(|file| file.entry.bytes)
            .sum();
        let spared = now.minus(floor.spared);
        let horizon = keeper.horizon_due(None, Some(bytes.saturating_sub(missing)));
        if let Some(horizon) = horizon.map(|horizon| horizon.min(spared)) {
            // Rollups take little. Where there is no room even for them, room comes first.
            let rolled = self.roll_up(keeper, (now, Some(horizon)), upkeep);
            let horizon = rolled.map_or(horizon, |()| keeper.spares(horizon));
            let expired = self.expire(keeper, Some(horizon));
            let is_low = expired.is_err() || self.room.missing(&self.dir, floor)? > 0;
            self.room.is_low.store(is_low, Ordering::Relaxed);
            upkeep.early_files = expired?;
        } else {
            self.room.is_low.store(true, Ordering::Relaxed);
        }
        Ok(false)
    }

    /// Tells whether appending is refused for want of room.
    pub fn is_read_only(&self) -> bool {
        self.room.is_low.load(Ordering::Relaxed)
    }

    fn roll_up(
        &self,
        keeper: &mut Keeper,
        (now, urgent): (UnixMillis, Option<UnixMillis>),
        upkeep: &mut Upkeep,
    ) -> Result<(), UpkeepError> {
        for _ in 0..ROLLS_MAX {
            let suspects = self.suspects();
            let due = Due {
                now,
                forgotten: keeper.manifest.forgotten,
                urgent,
                settle_after: self.options.settle_after,
                suspects: &suspects,
            };
            let Some(change) = keeper.roll(&due)? else {
                return Ok(());
            };
            let count = |files: &crate::files::Files| files.rollups.len() as u64;
            upkeep.rolled_files += (count(&change.files) + change.gone.len() as u64)
                .saturating_sub(count(&self.read().files));
            self.change(keeper, change, |_| {})?;
        }
        Ok(())
    }

    fn expire(&self, keeper: &mut Keeper, horizon: Option<UnixMillis>) -> Result<u64, UpkeepError> {
        let Some(horizon) = horizon else { return Ok(0) };
        let mut count = 0;
        if let Some(change) = keeper.expire(Some(horizon))? {
            count = change.gone.len() as u64;
            self.change(keeper, change, |head| {
                head.horizon = head.horizon.max(Some(horizon))
            })?;
        }
        let mut head = self.write();
        head.horizon = head.horizon.max(Some(horizon));
        head.forget(horizon);
        Ok(count)
    }

    fn expire_rollups(
        &self,
        keeper: &mut Keeper,
        now: UnixMillis,
        upkeep: &mut Upkeep,
    ) -> Result<(), UpkeepError> {
        let options = &self.options;
        let tiers = [
            (Tier::FiveMinutes, options.five_minutes),
            (Tier::Hour, options.hours),
        ];
        for (tier, keep) in tiers {
            if let Some(mut change) = keeper.expire_rollups(tier, keep, now)? {
                upkeep.expired_rollups += change.gone.len() as u64;
                change.forgotten = self.read().horizon;
                self.change(keeper, change, |_| {})?;
            }
        }
        Ok(())
    }

    fn keep_events(
        &self,
        keeper: &mut Keeper,
        now: UnixMillis,
        upkeep: &mut Upkeep,
    ) -> Result<(), UpkeepError> {
        let options = &self.options;
        let horizon = options
            .events_retention
            .map(|retention| now.minus(retention));
        if let Some(horizon) = horizon {
            self.write().inventory.forget(horizon);
        }
        let Some((change, horizon)) = keeper.merge_kept(horizon, options.events_bytes)? else {
            return Ok(());
        };
        upkeep.merged_files += change.gone.len() as u64;
        self.change(keeper, change, |head| {
            let stays = |gap: &plimsoll_model::SampleGap| {
                horizon.is_none_or(|horizon| gap.declared >= horizon)
            };
            head.gaps.values_mut().for_each(|gaps| gaps.retain(stays));
        })?;
        let files = Arc::clone(&keeper.files);
        self.with_index(|index| index.forget_documents(|file| files.kept(file).is_none()));
        self.with_index(|index| index.stamp(keeper.manifest.generation));
        Ok(())
    }

    /// Remembers the files of rollups among damaged places, so that they are made anew.
    pub(crate) fn suspect(&self, holes: &[Hole]) {
        let mut suspects = self.suspects.lock().unwrap_or_else(PoisonError::into_inner);
        suspects.extend(holes.iter().filter_map(rollup_at));
    }

    fn suspects(&self) -> BTreeSet<u64> {
        let suspects = self.suspects.lock().unwrap_or_else(PoisonError::into_inner);
        suspects.clone()
    }
}

/// Returns the number of the file of rollups that is damaged.
pub(crate) fn rollup_at(hole: &Hole) -> Option<u64> {
    hole.path.extension().filter(|end| *end == "rollup")?;
    hole.path.file_stem()?.to_str()?.parse().ok()
}
