//! Power cuts: a file system on a loop device is shut down without its log being flushed
//! (`FS_IOC_GOINGDOWN`, no log flush) and mounted again. What was not synced is gone.
//!
//! The disk is taken to be honest: what it says it flushed is there. Disks that lie are not covered.

use std::path::{Path, PathBuf};

use anyhow::Context as _;

use crate::Row;
use crate::run::{Living, child, run, text};
use crate::world::World;

/// A file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Kind {
    Ext4,
    Xfs,
}

/// A file system in a file, mounted.
pub(crate) struct Mounted {
    /// Its loop device. It stays the same over all cuts: were it found anew for each, whoever else mounts at
    /// that moment could get it.
    device: String,
    at: PathBuf,
    // Holds both.
    _place: tempfile::TempDir,
}

impl Mounted {
    /// Makes a file system of this many MiB.
    pub(crate) fn make(kind: Kind, size_mib: u32) -> anyhow::Result<Self> {
        let place = tempfile::tempdir()?;
        let (image, at) = (place.path().join("image"), place.path().join("at"));
        std::fs::create_dir(&at)?;
        run(&["truncate", "-s", &format!("{size_mib}M"), &text(&image)?])?;
        let make = match kind {
            Kind::Ext4 => "mkfs.ext4",
            Kind::Xfs => "mkfs.xfs",
        };
        run(&[make, "-q", &text(&image)?])?;
        let device = run(&["losetup", "--find", "--show", &text(&image)?])?;
        let mounted = Self {
            device: device.trim().to_owned(),
            at,
            _place: place,
        };
        mounted.mount()?;
        Ok(mounted)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.at
    }

    fn mount(&self) -> anyhow::Result<()> {
        run(&["mount", &self.device, &text(&self.at)?])?;
        Ok(())
    }

    /// Cuts the power. Whoever writes here gets errors from now on.
    fn cut(&self) -> anyhow::Result<()> {
        run(&["xfs_io", "-x", "-c", "shutdown", &text(&self.at)?])?;
        Ok(())
    }

    /// Mounts it again; what is not on the disk is forgotten.
    fn restore(&self) -> anyhow::Result<()> {
        run(&["umount", &text(&self.at)?])?;
        self.mount()
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // Lazily, so that the directory can be removed whatever still lives below it.
        drop(text(&self.at).and_then(|at| run(&["umount", "-l", &at])));
        drop(run(&["losetup", "--detach", &self.device]));
    }
}

/// Cuts the power `cycles` times under one store.
pub(crate) fn cuts(world: World, kind: Kind, cycles: u64) -> anyhow::Result<Row> {
    let disk = Mounted::make(kind, 320)?;
    let dir = disk.path().join("data");
    let mut row = Row::named(format!("power cut, {kind:?}"));
    let mut acked = 0;
    for cycle in 0..cycles {
        let words = child(&dir, world.seed, None)?;
        let mut living = Living::start(&words, None)?;
        // Only what it said before counts: a sync under way may end well while the disk goes down.
        acked = living.hear_acks(1 + cycle * 11 % 29)?.acked.max(acked);
        disk.cut()?;
        living.kill_unheard()?;
        disk.restore()?;
        let (whole, report) = world
            .holds_after_crash(&dir, acked)
            .with_context(|| format!("after cut {cycle} on {kind:?}, seed {}", world.seed))?;
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
