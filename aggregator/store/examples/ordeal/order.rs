//! The order of system calls, as strace tells it: what no crash test finds on a file system that is kinder
//! than it must be, such as a directory that was never synced.
//!
//! Not here: the index, which is not to be trusted anyway.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context as _, ensure};

use crate::Row;
use crate::run::{child, run, scratch, text};
use crate::world::World;

const CALLS: &str = "trace=write,pwrite64,writev,fsync,fdatasync,rename,unlink,mkdir";

/// What is not durable yet.
#[derive(Debug, Default)]
struct Unsynced {
    files: BTreeSet<String>,
    /// Directories in which a name came.
    dirs: BTreeSet<String>,
}

impl Unsynced {
    fn is_empty(&self) -> bool {
        self.files.is_empty() && self.dirs.is_empty()
    }
}

/// Watches a store that begins, writes, seals, merges and forgets.
pub(crate) fn order(world: World, slices: u64) -> anyhow::Result<Row> {
    let place = scratch()?;
    let (dir, told) = (place.path().join("data"), place.path().join("told"));
    let mut words: Vec<String> = ["strace", "-f", "-qq", "-y", "-e", CALLS, "-o"]
        .map(str::to_owned)
        .to_vec();
    words.push(text(&told)?);
    words.extend(child(&dir, world.seed, Some(slices))?);
    run(&words)?;
    let told = std::fs::read_to_string(&told)?;
    let mut row = Row::named("order of writes, syncs, renames and acks");
    row.slices = slices;
    row.cycles = judge(&told, &text(&dir)?)?;
    ensure!(
        row.cycles >= slices,
        "only {} acknowledgements were seen",
        row.cycles
    );
    Ok(row)
}

fn parent(path: &str) -> String {
    let parent = Path::new(path).parent().and_then(Path::to_str);
    parent.unwrap_or_default().to_owned()
}

/// Reads what strace told; returns how many acknowledgements were in order.
fn judge(told: &str, dir: &str) -> anyhow::Result<u64> {
    let index = format!("{dir}/index");
    let mut unsynced = Unsynced::default();
    let mut acks = 0;
    for line in told.lines() {
        let line = line
            .split_once(' ')
            .map_or("", |(_, rest)| rest.trim_start());
        let Some((call, rest)) = line.split_once('(') else {
            continue;
        };
        let quoted: Vec<&str> = rest.split('"').skip(1).step_by(2).collect();
        let file = rest
            .split_once('<')
            .and_then(|(_, rest)| rest.split_once('>'));
        let file = file.map_or("", |(file, _)| file).to_owned();
        let of_index = |path: &str| path.starts_with(&index);
        match (call, quoted.as_slice()) {
            ("writev", [said, ..]) if said.starts_with("acked") => {
                ensure!(
                    unsynced.is_empty(),
                    "{said:?} before a sync of {unsynced:?}"
                );
                acks += 1;
            }
            ("write" | "pwrite64", _) if file.starts_with(dir) && !of_index(&file) => {
                unsynced.files.insert(file);
            }
            ("fsync" | "fdatasync", _) => {
                unsynced.files.remove(&file);
                unsynced.dirs.remove(&file);
            }
            ("rename", [from, to]) if to.starts_with(dir) && !of_index(to) => {
                ensure!(
                    !unsynced.files.contains(*from),
                    "{from} was renamed before its sync"
                );
                unsynced.dirs.insert(parent(to));
            }
            ("mkdir", [made]) if made.starts_with(dir) && !of_index(made) => {
                let there = rest.contains("EEXIST");
                unsynced.dirs.extend((!there).then(|| parent(made)));
            }
            ("unlink", [gone]) if gone.starts_with(dir) && !of_index(gone) => {
                ensure!(
                    unsynced.is_empty(),
                    "{gone} went before a sync of {unsynced:?}"
                );
            }
            _ => {}
        }
    }
    ensure!(unsynced.files.is_empty(), "never synced: {unsynced:?}");
    Some(acks).context("no acknowledgement")
}
