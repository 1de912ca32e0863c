//! `plimsoll-cost`: raises a stage with real guests, has the agent and its peers look at them one after the
//! other, and prints one table of what that costs.
//!
//! Not here: installing the peers; what is missing is named in the table.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::Parser;
use plimsoll_tests::cost::run::{self, Order};
use plimsoll_tests::cost::{System, table};
use plimsoll_tests::stage::DEFAULT_BASE;

/// Holds the agent against other collectors on the same guests.
///
/// Needs root, for namespaces and mounts, and about seven minutes. Debian's packages of the peers:
/// prometheus-libvirt-exporter, prometheus-node-exporter, collectd-core, ceilometer-agent-compute.
#[derive(Debug, Parser)]
#[command(name = "plimsoll-cost", version)]
struct Cli {
    /// Real guests, 2 to 32.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(2..=32))]
    guests: u32,
    /// The pace of all.
    #[arg(long, value_parser = span, default_value = "10s")]
    interval: Duration,
    /// How long each samples in peace.
    #[arg(long, value_parser = span, default_value = "60s")]
    window: Duration,
    /// How long each samples with one guest stopped; libvirt waits 30 s for such a one.
    #[arg(long, value_parser = span, default_value = "40s")]
    stuck: Duration,
    /// What is measured.
    #[arg(long, value_enum, value_delimiter = ',')]
    systems: Vec<System>,
    /// Before how many recorded guests the agent is put, each up to 1000.
    #[arg(long, value_delimiter = ',', default_value = "50,100,250,500", value_parser = clap::value_parser!(u32).range(1..=1_000))]
    recorded: Vec<u32>,
    /// Where the agent, the aggregator and the command are; beside this program if absent.
    #[arg(long)]
    programs: Option<PathBuf>,
    /// Under which stages are raised.
    #[arg(long, default_value = DEFAULT_BASE)]
    dir: PathBuf,
}

fn span(text: &str) -> Result<Duration, String> {
    let span =
        humantime_serde::re::humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if span < Duration::from_secs(1) {
        return Err("one second is the least".to_owned());
    }
    Ok(span)
}

fn main() -> ExitCode {
    match obey(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nobody is left to be told if this cannot be written either.
            drop(writeln!(
                std::io::stderr().lock(),
                "plimsoll-cost: {error:#}"
            ));
            ExitCode::FAILURE
        }
    }
}

fn obey(cli: Cli) -> anyhow::Result<()> {
    let mut systems = cli.systems;
    if systems.is_empty() {
        systems = System::ALL.to_vec();
    }
    // The agent comes first and always: what libvirt answers it is recorded.
    systems.push(System::Plimsoll);
    systems.sort_unstable();
    systems.dedup();
    let beside = std::env::current_exe().context("cannot tell where this program is")?;
    let beside = beside.parent().map(PathBuf::from).unwrap_or_default();
    let order = Order {
        guests: cli.guests,
        interval: cli.interval,
        window: cli.window,
        stuck: cli.stuck,
        systems,
        recorded: cli.recorded,
        programs: cli.programs.unwrap_or(beside),
        base: cli.dir,
    };
    let text = table::render(&order, &run::run(&order)?)?;
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "{text}").context("cannot write to standard output")
}
