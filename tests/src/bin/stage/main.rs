//! `plimsoll-stage`: raises compute nodes on this machine, shows Plimsoll on them, and takes them away.
//!
//! Not here: anything the library does not do; this only reads the command line and prints.

mod demo;
mod order;
mod upkeep;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::{Parser, Subcommand};
use plimsoll_tests::stage::DEFAULT_BASE;

/// Raises compute nodes with libvirt and QEMU guests on this machine, and takes them away.
///
/// Needs root, for namespaces and mounts. Nothing of a stage reaches the machine's own network or libvirt.
#[derive(Debug, Parser)]
#[command(name = "plimsoll-stage", version)]
struct Cli {
    /// The directory under which stages are kept.
    #[arg(long, global = true, default_value = DEFAULT_BASE)]
    dir: PathBuf,
    /// The stage meant, if more than one stands in the directory.
    #[arg(long, global = true)]
    id: Option<String>,
    #[command(subcommand)]
    order: Order,
}

#[derive(Debug, Subcommand)]
enum Order {
    /// Raises a stage and leaves it standing.
    Up(upkeep::Up),
    /// Takes away the stages left standing, forgotten or broken.
    Down {
        /// Takes away even a stage whose owner still runs.
        #[arg(long)]
        all: bool,
    },
    /// Lists the stages and the guests on them.
    Status,
    /// Starts a guest on a node.
    Guest(order::GuestOrder),
    /// Runs a program on a node, or in the hub.
    Exec {
        /// The node's name, or `hub`.
        node: String,
        /// The program and its arguments.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
        program: Vec<String>,
    },
    /// Moves a running guest from one node to another.
    Migrate(order::MigrateOrder),
    /// Raises a cloud, predicts two migrations, runs them, and prints prediction beside outcome.
    Demo(demo::Demo),
}

fn main() -> ExitCode {
    match obey(&Cli::parse()) {
        Ok(code) => code,
        Err(error) => {
            // Nobody is left to be told if this cannot be written either.
            drop(writeln!(
                std::io::stderr().lock(),
                "plimsoll-stage: {error:#}"
            ));
            ExitCode::FAILURE
        }
    }
}

fn obey(cli: &Cli) -> anyhow::Result<ExitCode> {
    let id = cli.id.as_deref();
    match &cli.order {
        Order::Up(up) => upkeep::up(&cli.dir, up)?,
        Order::Down { all } => upkeep::down(&cli.dir, id, *all)?,
        Order::Status => upkeep::status(&cli.dir)?,
        Order::Guest(guest) => order::guest(&upkeep::attach(&cli.dir, id)?, guest)?,
        Order::Exec { node, program } => {
            return order::exec(&upkeep::attach(&cli.dir, id)?, node, program);
        }
        Order::Migrate(order) => {
            return order::migrate(&upkeep::attach(&cli.dir, id)?, order);
        }
        Order::Demo(demo) => return demo::demo(&cli.dir, demo),
    }
    Ok(ExitCode::SUCCESS)
}

fn say(line: &str) -> anyhow::Result<()> {
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "{line}").context("cannot write to standard output")?;
    stdout.flush().context("cannot write to standard output")
}
