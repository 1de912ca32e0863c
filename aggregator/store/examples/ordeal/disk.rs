//! A disk that is really full: a small file system on a loop device, and a limit on the length of files,
//! past which the kernel writes a part of what it was given.

use std::io::Write as _;
use std::path::Path;

use anyhow::{Context as _, ensure};
use plimsoll_store::Store;

use crate::Row;
use crate::power::{Kind, Mounted};
use crate::run::{Living, child, scratch};
use crate::world::{Disk, World, options};

fn fill(path: &Path, leave: u64) -> anyhow::Result<()> {
    let mut filler = std::fs::File::create(path)?;
    for size in [1 << 16, 1 << 10, 1] {
        while filler.write_all(&vec![1; size]).is_ok() {}
    }
    let length = filler.metadata()?.len();
    filler.set_len(length.saturating_sub(leave))?;
    Ok(())
}

/// Fills the disk under a store again and again, each time with a little more left.
pub(crate) fn full(world: World, cycles: u64) -> anyhow::Result<Row> {
    let disk = Mounted::make(Kind::Ext4, 24)?;
    let (dir, filler) = (disk.path().join("data"), disk.path().join("filler"));
    let mut row = Row::named("full disk, Ext4 of 24 MiB");
    for cycle in 0..cycles {
        let (good, said) = Living::start(&child(&dir, world.seed, Some(20))?, None)?.wait()?;
        ensure!(
            good && said.held && said.refused == 0,
            "before it was full: {said:?}"
        );
        fill(&filler, cycle * 7_000 % 90_000)?;
        // Until nothing is left.
        let (good, said) = Living::start(&child(&dir, world.seed, None)?, None)?.wait()?;
        ensure!(
            good && said.held && said.gave_up,
            "on the full disk: {said:?}"
        );
        let (store, report) = Store::open(&dir, options()).context("on the full disk")?;
        ensure!(report.holes.is_empty(), "{:?}", report.holes);
        let slices = world.holds(&store, said.acked, Disk::Failing)?;
        std::fs::remove_file(&filler)?;
        // It goes on by itself: it was not opened anew.
        let next = world.resume(&store);
        for number in next..next + 3 {
            store
                .append(&world.slice(number).0)
                .context("with space again")?;
        }
        world
            .holds(&store, next + 2, Disk::Good)
            .context("with space again")?;
        row.add(&Row {
            cycles: 1,
            slices,
            torn: u64::from(report.torn.is_some()),
            index_rebuilt: u64::from(report.index_rebuilt),
            ..Row::default()
        });
    }
    Ok(row)
}

/// Limits the length of files, so that writes are cut short.
pub(crate) fn short_writes(world: World, stride: usize) -> anyhow::Result<Row> {
    let place = scratch()?;
    let mut row = Row::named("short writes (limit on the length of files)");
    for limit in (200..6_400).step_by(stride) {
        let dir = place.path().join(limit.to_string());
        let mut words = vec!["sh".to_owned(), "-c".to_owned()];
        // Without the signal, the kernel writes what fits and then says EFBIG.
        words.push(format!(
            "trap '' XFSZ; exec prlimit --fsize={limit}:{limit} \"$@\""
        ));
        words.push("sh".to_owned());
        words.extend(child(&dir, world.seed, Some(12))?);
        let (good, said) = Living::start(&words, None)?.wait()?;
        ensure!(
            good && (said.held || said.unopened.is_some()),
            "limit {limit}: {said:?}"
        );
        let (slices, report) = world
            .holds_after_crash(&dir, said.acked)
            .with_context(|| format!("limit {limit}, seed {}", world.seed))?;
        row.add(&Row {
            cycles: 1,
            slices,
            torn: u64::from(report.torn.is_some()),
            index_rebuilt: u64::from(report.index_rebuilt),
            poisoned: u64::from(said.poisoned),
            ..Row::default()
        });
    }
    ensure!(row.poisoned > 0, "no write was cut short");
    Ok(row)
}
