//! A disk that comes near its end while slices are told faster than any agent would: the oldest samples go
//! before their time, then appending is refused, and no call ever finds the disk full.
//!
//! Not here: what is left of the samples; how early they go depends on the disk.

use std::io::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use plimsoll_model::Ratio;
use plimsoll_store::{
    AppendError, Floor, RealSpace, Space as _, Store, StoreOptions, Upkeep, check,
};

use crate::Row;
use crate::power::{Kind, Mounted};
use crate::world::{World, now, options};

const MIB: u64 = 1 << 20;
/// What the store leaves free; 5 % of the disk are less.
const FLOOR_BYTES: u64 = 12 * MIB;
/// Slices between two changes of what else lies on the disk.
const ROUND: u64 = 150;

fn low_options() -> StoreOptions {
    StoreOptions {
        floor: Floor {
            bytes: FLOOR_BYTES,
            share: Ratio::from_millionths(50_000),
            spared: Duration::from_secs(5 * 3_600),
        },
        // The log of one round must not outweigh the floor.
        segment_bytes: 1 << 18,
        ..options()
    }
}

/// What was seen in one run.
#[derive(Debug, Default)]
struct Seen {
    told: u64,
    refused: u64,
    early: u64,
    least_free: Option<u64>,
}

impl Seen {
    fn look(&mut self, dir: &Path) -> anyhow::Result<u64> {
        let free = RealSpace.room(dir)?.free;
        self.least_free = Some(self.least_free.map_or(free, |least| least.min(free)));
        Ok(free)
    }

    fn keep(&mut self, store: &Store, number: u64) -> anyhow::Result<Upkeep> {
        let upkeep = store.maintain(now(number)).context("upkeep")?;
        self.early += upkeep.early_files;
        Ok(upkeep)
    }
}

/// Takes up room until this much is left.
fn take_room(ballast: &Path, seen: &mut Seen, leave: u64) -> anyhow::Result<()> {
    let mut file = std::fs::File::options()
        .create(true)
        .append(true)
        .open(ballast)?;
    let dir = ballast.parent().context("no directory")?;
    while seen.look(dir)? > leave + MIB {
        file.write_all(&vec![7; 1 << 19])?;
        file.sync_all()?;
    }
    Ok(())
}

/// Tells slices for some time while other files come and go.
pub(crate) fn low(world: World, span: Duration) -> anyhow::Result<Row> {
    let disk = Mounted::make(Kind::Ext4, 64)?;
    let (dir, ballast) = (disk.path().join("data"), disk.path().join("ballast"));
    let (store, _) = Store::open(&dir, low_options())?;
    let mut seen = Seen::default();
    let mut row = Row::named("");
    let begun = Instant::now();
    let mut number = 1;
    while begun.elapsed() < span || row.cycles < 2 {
        let (told, refused) = (seen.told, seen.refused);
        // Near the floor first, then below it, then with room again.
        for leave in [Some(FLOOR_BYTES + MIB), Some(FLOOR_BYTES / 2), None] {
            match leave {
                Some(leave) => take_room(&ballast, &mut seen, leave)?,
                None => std::fs::remove_file(&ballast)?,
            }
            seen.keep(&store, number)?;
            for _ in 0..ROUND {
                match store.append(&world.slice(number).0) {
                    Ok(_) => (seen.told, number) = (seen.told + 1, number + 1),
                    Err(AppendError::LowSpace { .. }) if leave.is_some() => seen.refused += 1,
                    Err(AppendError::HeadFull { .. }) => {}
                    Err(error) => bail!("with {leave:?} bytes left: {error}"),
                }
                seen.keep(&store, number)?;
                seen.look(&dir)?;
            }
        }
        ensure!(
            seen.told >= told + ROUND && seen.refused > refused,
            "a round was told {} slices and refused {}",
            seen.told - told,
            seen.refused - refused
        );
        row.cycles += 1;
    }
    let durable = world.durable(&store);
    ensure!(
        durable.iter().all(|durable| *durable == number - 1),
        "{} slices were acknowledged, {durable:?} are there",
        number - 1
    );
    drop(store);
    let holes = check(&dir)?.holes;
    ensure!(holes.is_empty(), "the check finds holes: {holes:?}");
    row.slices = number - 1;
    row.name = format!(
        "low space: {} refused, {} files early, {} KiB left at least",
        seen.refused,
        seen.early,
        seen.least_free.unwrap_or(0) >> 10
    );
    Ok(row)
}
