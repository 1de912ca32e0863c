//! The process that is killed: it tells slices, keeps the store in order, and says what was acknowledged.
//!
//! Not here: any fault of its own; a refused slice is told again, as an agent would.

use std::fs::File;
use std::io::{IoSlice, Write as _};
use std::os::fd::AsFd as _;
use std::path::Path;

use anyhow::{Context as _, bail, ensure};
use plimsoll_store::{AppendError, Store};

use crate::world::{Disk, World, fits, now, options};

/// How often a slice is told before the child gives up.
const TRIES: u32 = 40;

/// Its voice. It speaks by writev, which the store never calls, so that faults in the store's writes
/// leave the voice alone.
struct Voice(File);

impl Voice {
    fn say(&mut self, line: &str) -> anyhow::Result<()> {
        let line = format!("{line}\n");
        let said = self.0.write_vectored(&[IoSlice::new(line.as_bytes())])?;
        ensure!(said == line.len(), "the line was cut");
        Ok(())
    }
}

/// Tells `slices` slices, or goes on until it is killed; then holds what the open store answers against
/// the world.
pub(crate) fn live(world: World, dir: &Path, slices: Option<u64>) -> anyhow::Result<()> {
    let mut voice = Voice(File::from(std::io::stdout().as_fd().try_clone_to_owned()?));
    let (store, _) = match Store::open(dir, options()) {
        Ok(opened) => opened,
        Err(error) => return voice.say(&format!("unopened {:#}", anyhow::Error::from(error))),
    };
    let first = world.resume(&store);
    voice.say(&format!("acked {}", first - 1))?;
    let last = slices.map_or(u64::MAX, |slices| first + slices - 1);
    for number in first..=last {
        match tell(world, &store, number, number <= first + 1, &mut voice)? {
            Told::Acked => voice.say(&format!("acked {number}"))?,
            Told::GaveUp => {
                voice.say("gave up")?;
                let held = world.holds(&store, number - 1, Disk::Failing);
                held.context("the store of a child that gave up")?;
                return voice.say("holds");
            }
            Told::Poisoned => return stays_poisoned(world, &store, (first, number), &mut voice),
        }
        if let Err(error) = store.maintain(now(number)) {
            voice.say(&format!("upkeep {:#}", anyhow::Error::from(error)))?;
        }
        if number.is_multiple_of(7)
            && let Err(error) = store.seal()
        {
            voice.say(&format!("seal {:#}", anyhow::Error::from(error)))?;
        }
    }
    world
        .holds(&store, last, Disk::Failing)
        .context("the open store")?;
    voice.say("holds")
}

enum Told {
    Acked,
    GaveUp,
    Poisoned,
}

fn tell(
    world: World,
    store: &Store,
    number: u64,
    resumed: bool,
    voice: &mut Voice,
) -> anyhow::Result<Told> {
    let (records, expected) = world.slice(number);
    for _ in 0..TRIES {
        match store.append(&records) {
            Ok(outcomes) => {
                ensure!(
                    fits(&outcomes, &expected, resumed),
                    "slice {number}: {outcomes:?} in place of {expected:?}"
                );
                return Ok(Told::Acked);
            }
            Err(AppendError::Poisoned { .. }) => return Ok(Told::Poisoned),
            Err(AppendError::Full { .. }) => voice.say(&format!("refused {number}"))?,
            Err(error @ AppendError::HeadFull { .. }) => {
                voice.say(&format!("refused {number}: {error}"))?;
                // Sealing frees memory, if the disk lets it.
                drop(store.maintain(now(number)));
            }
            Err(error) => bail!(error),
        }
    }
    Ok(Told::GaveUp)
}

/// After the first failure of the disk, nothing more may be written, and all is still answered.
fn stays_poisoned(
    world: World,
    store: &Store,
    (first, number): (u64, u64),
    voice: &mut Voice,
) -> anyhow::Result<()> {
    voice.say("poisoned")?;
    let (records, _) = world.slice(number);
    for _ in 0..3 {
        let again = store.append(&records);
        ensure!(
            matches!(again, Err(AppendError::Poisoned { .. })),
            "a poisoned store answered {again:?}"
        );
    }
    let whole = world.holds(store, number - 1, Disk::Failing);
    let whole = whole.context("the poisoned store")?;
    // The first slice may have been there before it was told again.
    ensure!(
        whole == number - 1 || number == first,
        "slice {number} was not acknowledged and is answered"
    );
    voice.say("holds")
}
