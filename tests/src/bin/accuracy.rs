//! `accuracy`: runs migrations on the stage, each held against the estimate made before it, and prints
//! one table. Stopped at any time, it goes on where it was.
//!
//! Not here: any estimate; the aggregator under test makes them.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::Parser;
use plimsoll_tests::accuracy::record::{self, Record};
use plimsoll_tests::accuracy::run::{self, Order};
use plimsoll_tests::accuracy::table;

/// Holds estimates against real migrations.
#[derive(Debug, Parser)]
#[command(name = "accuracy", version)]
struct Cli {
    /// Settings to run in all, those already recorded among them; 0 only prints the table.
    #[arg(long, default_value_t = 0)]
    runs: u32,
    /// Time after which no further setting is begun.
    #[arg(long, default_value_t = 3_600)]
    within_s: u64,
    /// Where records are kept, one JSON object a line.
    #[arg(long, default_value = "docs/accuracy/records.jsonl")]
    records: PathBuf,
    /// Where the aggregator keeps what it learned from one time to the next; forgotten if not given.
    #[arg(long)]
    data: Option<PathBuf>,
    /// Also writes the table here.
    #[arg(long)]
    table: Option<PathBuf>,
}

fn main() -> ExitCode {
    match obey(&Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nobody is left to be told if this cannot be written either.
            drop(writeln!(std::io::stderr().lock(), "accuracy: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn obey(cli: &Cli) -> anyhow::Result<()> {
    let programs = std::env::current_exe().context("cannot tell where this program is")?;
    let order = Order {
        runs: cli.runs,
        within: Duration::from_secs(cli.within_s),
        records: cli.records.clone(),
        programs: programs.parent().map(PathBuf::from).unwrap_or_default(),
        data: cli.data.clone(),
    };
    let left = if cli.runs == 0 {
        0
    } else {
        run::run(&order, |record| drop(say(&line(record))))?
    };
    let rendered = table::render(&record::read(&cli.records)?);
    say(&rendered)?;
    if let Some(path) = &cli.table {
        std::fs::write(path, &rendered)
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    if left > 0 {
        say(&format!("{left} settings are left: run it again"))?;
    }
    Ok(())
}

fn line(record: &Record) -> String {
    let (said, was) = (&record.answer, &record.outcome);
    let number = |value: Option<f64>| value.map_or("-".to_owned(), |value| format!("{value:.0}"));
    format!(
        "{:>3}.{} {:?} {:?}: {} p {} total said {} was {} ms, downtime said {} was {} ms, bytes said {} was {}{}",
        record.setting.id,
        record.leg,
        record.setting.aim,
        record.setting.shape,
        said.verdict,
        said.probability
            .map_or("-".to_owned(), |p| format!("{p:.2}")),
        number(said.total_ms.map(|bounds| bounds.p50)),
        number(was.total_ms),
        number(said.downtime_ms.map(|bounds| bounds.p50)),
        number(was.downtime_ms),
        number(said.wire_bytes.map(|bounds| bounds.p50)),
        number(was.wire_bytes),
        if was.converged { "" } else { " (did not end)" },
    )
}

fn say(text: &str) -> anyhow::Result<()> {
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "{text}").context("cannot write to standard output")?;
    stdout.flush().context("cannot write to standard output")
}
