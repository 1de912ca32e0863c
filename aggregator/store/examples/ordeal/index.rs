//! The index (sled) gone, cut, flipped: the answers stay, and how fast it is made anew.

use std::path::Path;
use std::time::Instant;

use anyhow::{Context as _, ensure};
use plimsoll_model::{
    Batch, BootId, DomainId, Incarnation, Metric, NodeId, Part, SessionId, Subject, Sweep,
    UnixMillis, Window,
};
use plimsoll_store::{Record, Store, StoreOptions};

use crate::Row;
use crate::run::{Living, child, copy, files, scratch};
use crate::world::World;

const COLUMNS: u32 = 20;
const ROWS: u64 = 60;

/// Damages the index `cycles` times, each time in another way.
pub(crate) fn damage(world: World, cycles: u64) -> anyhow::Result<Row> {
    let place = scratch()?;
    let origin = place.path().join("origin");
    let (good, said) = Living::start(&child(&origin, world.seed, Some(160))?, None)?.wait()?;
    ensure!(good && said.held, "{said:?}");
    let mut row = Row::named("damaged index");
    for cycle in 0..cycles {
        let dir = place.path().join("damaged");
        copy(&origin, &dir)?;
        let how = hurt(world, &dir.join("index"), cycle)?;
        let (slices, report) = world
            .holds_after_crash(&dir, said.acked)
            .with_context(|| format!("index {how}, cycle {cycle}, seed {}", world.seed))?;
        row.add(&Row {
            cycles: 1,
            slices,
            index_rebuilt: u64::from(report.index_rebuilt),
            ..Row::default()
        });
        std::fs::remove_dir_all(&dir)?;
    }
    ensure!(row.index_rebuilt > cycles / 2, "most damage was not seen");
    Ok(row)
}

fn hurt(world: World, index: &Path, cycle: u64) -> anyhow::Result<&'static str> {
    let roll = |salt, sides| usize::try_from(world.dice(cycle, salt, sides)).unwrap_or(0);
    let all = files(index)?;
    let path = all.get(roll(1, all.len() as u64)).context("no file")?;
    let mut bytes = std::fs::read(path)?;
    let length = bytes.len() as u64;
    let how = match roll(2, 6) {
        0 => {
            std::fs::remove_dir_all(index)?;
            return Ok("removed");
        }
        1 => {
            std::fs::remove_file(path)?;
            return Ok("without one file");
        }
        2 => {
            bytes.truncate(roll(3, length.max(1)));
            "cut"
        }
        3 => {
            // As a power cut leaves it: pages that were never written.
            let from = roll(4, length.max(1)) & !4_095;
            bytes
                .iter_mut()
                .skip(from)
                .take(4_096)
                .for_each(|byte| *byte = 0);
            "with a page of zeros"
        }
        _ => {
            for flip in 0..=world.dice(cycle, 5, 40) {
                let place = roll(6 + flip, length.max(1));
                bytes
                    .iter_mut()
                    .skip(place)
                    .take(1)
                    .for_each(|byte| *byte ^= 1 << (flip % 8));
            }
            "flipped"
        }
    };
    std::fs::write(path, &bytes)?;
    Ok(how)
}

fn batch(number: u64, subjects: std::ops::Range<u32>) -> Batch {
    let node = NodeId::from_bytes([9; 16]).unwrap();
    let end = UnixMillis::from_millis(1_795_520_000_000 + i64::try_from(number).unwrap() * 10_000);
    let sweep = |subject: u32| Sweep {
        subject: Subject::Domain {
            domain: DomainId::from_bytes(
                [[7; 12].as_slice(), &subject.to_be_bytes()]
                    .concat()
                    .try_into()
                    .unwrap(),
            )
            .unwrap(),
            node,
            incarnation: Incarnation {
                boot: BootId::from_bytes([50; 16]).unwrap(),
                started_ms: 1,
            },
        },
        window: Window { end, width_ms: 3 },
        values: (0..COLUMNS)
            .map(|column| {
                (
                    Metric::VmState,
                    Part::index(column),
                    number * u64::from(subject + column),
                )
            })
            .collect(),
    };
    Batch {
        node,
        session: SessionId::from_bytes([1; 16]).unwrap(),
        sequence: 0,
        made: end,
        body_crc: 1,
        rows: subjects.map(sweep).collect(),
        facts: Vec::new(),
        events: Vec::new(),
    }
}

/// Makes the index of a store with many series anew; says how fast.
pub(crate) fn rate(series: u32) -> anyhow::Result<String> {
    let place = scratch()?;
    let subjects = series.div_ceil(COLUMNS);
    let options = StoreOptions::default();
    let (store, _) = Store::open(place.path(), options.clone())?;
    let mut sequence = 0;
    for row in 0..ROWS {
        for from in (0..subjects).step_by(500) {
            sequence += 1;
            let mut batch = batch(row, from..subjects.min(from + 500));
            batch.sequence = sequence;
            store.append(&[Record::Batch(batch)])?;
        }
        store.maintain(UnixMillis::from_millis(1_795_520_000_000))?;
    }
    store.seal()?;
    drop(store);
    let mut times = Vec::new();
    for remove in [false, true] {
        if remove {
            std::fs::remove_dir_all(place.path().join("index"))?;
        }
        let begin = Instant::now();
        let (_store, report) = Store::open(place.path(), options.clone())?;
        times.push(begin.elapsed().as_secs_f64());
        ensure!(report.index_rebuilt == remove, "{report:?}");
    }
    let (whole, anew) = (times.first().unwrap(), times.last().unwrap());
    let series = f64::from(subjects * COLUMNS);
    let samples = series * f64::from(u32::try_from(ROWS)?);
    Ok(format!(
        "index of {series} series, {samples} samples made anew: opened in {anew:.3} s, {whole:.3} s with the index; \
         {:.0} series/s, {:.0} samples/s",
        series / anew,
        samples / anew
    ))
}
