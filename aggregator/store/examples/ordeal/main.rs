//! `ordeal`: breaks a store in every way that a machine can, and holds what is left against what was
//! acknowledged. `cargo run --release -p plimsoll-store --example ordeal -- --help` lists the ways.
//!
//! Each campaign ends with one line; the first thing that does not hold ends the program with exit code 1
//! and leaves the seed.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::disallowed_methods,
    clippy::indexing_slicing,
    reason = "it measures, prints, and ends where something does not hold"
)]

mod answers;
mod calls;
mod child;
mod disk;
mod flips;
mod fold;
mod index;
mod kills;
mod low;
mod mutants;
mod order;
mod power;
mod rollups;
mod run;
mod world;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand, ValueEnum as _};

use crate::calls::Fault;
use crate::world::World;

/// Breaks a store and looks at what is left.
#[derive(Debug, Parser)]
struct Cli {
    /// From which all that is told follows.
    #[arg(long, global = true, default_value_t = 1)]
    seed: u64,
    #[command(subcommand)]
    campaign: Campaign,
}

#[derive(Debug, Subcommand)]
enum Campaign {
    /// Tells slices until it is killed; the other orders start it.
    #[command(hide = true)]
    Child {
        /// The directory of the store.
        dir: PathBuf,
        /// Slices to tell.
        #[arg(long)]
        slices: Option<u64>,
    },
    /// kill -9 at some instant.
    Kill {
        /// How often.
        #[arg(long, default_value_t = 500)]
        cycles: u64,
    },
    /// Power cuts on loop-mounted file systems (needs root, e2fsprogs, xfsprogs).
    Power {
        /// On which; on both if none is named.
        #[arg(long)]
        on: Vec<power::Kind>,
        /// How often on each.
        #[arg(long, default_value_t = 300)]
        cycles: u64,
    },
    /// The order of system calls: nothing is acknowledged or removed too early (needs strace).
    Order {
        /// Slices to tell.
        #[arg(long, default_value_t = 200)]
        slices: u64,
    },
    /// A small disk that is full again and again (needs root, e2fsprogs).
    Full {
        /// How often.
        #[arg(long, default_value_t = 60)]
        cycles: u64,
    },
    /// A disk that comes near its end again and again (needs root, e2fsprogs).
    Low {
        /// For how long.
        #[arg(long, default_value_t = 600)]
        seconds: u64,
    },
    /// Writes that the kernel cuts short (needs prlimit, of util-linux).
    Short {
        /// Bytes between two limits.
        #[arg(long, default_value_t = 17)]
        stride: usize,
    },
    /// Every prefix and every flipped byte of 256 KiB of real files.
    Flips {
        /// Takes only every so many bytes.
        #[arg(long, default_value_t = 1)]
        stride: usize,
        /// Opens a store on every so many of those.
        #[arg(long, default_value_t = 64)]
        of_stores: usize,
    },
    /// Builds stores with a fault in them and shows that the tests kill each.
    Mutants {
        /// Only verifies that all of them can be made.
        #[arg(long)]
        check: bool,
    },
    /// The index gone, cut and flipped, and how fast it is made anew.
    Index {
        /// How often it is damaged.
        #[arg(long, default_value_t = 300)]
        cycles: u64,
        /// How many series are made anew.
        #[arg(long, default_value_t = 1_000_000)]
        series: u32,
    },
    /// Faults at every system call that changes a disk (needs strace).
    Calls {
        /// Which faults; all if none is named.
        #[arg(long)]
        fault: Vec<Fault>,
        /// At which calls; at all that change a disk if none is named.
        #[arg(long)]
        call: Option<String>,
        /// Strikes only at every so many calls of a kind.
        #[arg(long, default_value_t = 1)]
        stride: u64,
    },
}

/// What a campaign found; a line of the table.
#[derive(Debug, Clone, Default)]
pub(crate) struct Row {
    pub(crate) name: String,
    pub(crate) cycles: u64,
    pub(crate) slices: u64,
    pub(crate) torn: u64,
    pub(crate) index_rebuilt: u64,
    pub(crate) poisoned: u64,
}

impl Row {
    pub(crate) fn named(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            ..Self::default()
        }
    }

    /// Adds what one cycle found.
    pub(crate) fn add(&mut self, other: &Self) {
        self.cycles += other.cycles;
        self.slices = self.slices.max(other.slices);
        self.torn += other.torn;
        self.index_rebuilt += other.index_rebuilt;
        self.poisoned += other.poisoned;
    }

    fn print(&self) {
        println!(
            "{:<44} {:>6} cycles {:>6} slices, {:>4} torn ends, {:>4} indexes made anew: nothing lost, nothing wrong",
            self.name, self.cycles, self.slices, self.torn, self.index_rebuilt
        );
    }
}

fn main() -> ExitCode {
    match obey(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Without the backtrace that Debug would add.
            eprintln!("ordeal: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn obey(cli: Cli) -> anyhow::Result<()> {
    let world = World { seed: cli.seed };
    match cli.campaign {
        Campaign::Child { dir, slices } => child::live(world, &dir, slices)?,
        Campaign::Kill { cycles } => kills::kills(world, cycles)?.print(),
        Campaign::Power { on, cycles } => {
            let all = power::Kind::value_variants();
            for kind in if on.is_empty() { all } else { &on } {
                power::cuts(world, *kind, cycles)?.print();
            }
        }
        Campaign::Order { slices } => order::order(world, slices)?.print(),
        Campaign::Full { cycles } => disk::full(world, cycles)?.print(),
        Campaign::Low { seconds } => {
            low::low(world, std::time::Duration::from_secs(seconds))?.print();
        }
        Campaign::Short { stride } => disk::short_writes(world, stride.max(1))?.print(),
        Campaign::Flips { stride, of_stores } => {
            let rows = flips::flips(world, stride.max(1), of_stores.max(1))?;
            rows.iter().for_each(Row::print);
        }
        Campaign::Index { cycles, series } => {
            index::damage(world, cycles)?.print();
            println!("{}", index::rate(series)?);
        }
        Campaign::Mutants { check: true } => {
            println!("{} mutants can be made", mutants::check()?);
        }
        Campaign::Mutants { check: false } => mutants::mutants(|line| println!("{line}"))?,
        Campaign::Calls {
            fault,
            call,
            stride,
        } => {
            let all = Fault::value_variants();
            let faults = if fault.is_empty() { all } else { &fault };
            let rows = calls::calls(world, faults, (call.as_deref(), stride.max(1)))?;
            rows.iter().for_each(Row::print);
        }
    }
    Ok(())
}
