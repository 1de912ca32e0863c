//! kill -9 while it writes, seals, merges and forgets: the page cache lives on.

use anyhow::Context as _;

use crate::Row;
use crate::run::{Living, child, scratch};
use crate::world::World;

/// Kills a child `cycles` times on one directory.
pub(crate) fn kills(world: World, cycles: u64) -> anyhow::Result<Row> {
    let dir = scratch()?;
    let mut row = Row::named("kill -9");
    let mut acked = 0;
    for cycle in 0..cycles {
        let words = child(dir.path(), world.seed, None)?;
        let mut living = Living::start(&words, None)?;
        living.hear_acks(2 + cycle * 13 % 41)?;
        acked = living.kill()?.acked.max(acked);
        let (whole, report) = world
            .holds_after_crash(dir.path(), acked)
            .with_context(|| format!("after kill {cycle}, seed {}", world.seed))?;
        row.add(&Row {
            cycles: 1,
            slices: whole,
            torn: u64::from(report.torn.is_some()),
            index_rebuilt: u64::from(report.index_rebuilt),
            ..Row::default()
        });
    }
    Ok(row)
}
