//! `plimsoll-peers`: feeds the aggregator, VictoriaMetrics and Prometheus the same telemetry, asks all the
//! same, holds the answers against what was fed, and prints one table.
//!
//! Not here: installing them; what is missing is named.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::{Parser, ValueEnum};
use plimsoll_model::{Clock as _, SystemClock};
use plimsoll_tests::peers::run::{self, Name, Order};
use plimsoll_tests::peers::shape::{NODE_SERIES, Size};
use plimsoll_tests::peers::table;

/// Holds the store against its peers.
#[derive(Debug, Parser)]
#[command(name = "plimsoll-peers", version)]
struct Cli {
    /// A size that has a name; `--series`, `--span` and `--systems` change parts of it.
    #[arg(long, value_enum, default_value_t = Preset::Day)]
    preset: Preset,
    /// Series, such as 100k; a thousand each node.
    #[arg(long, value_parser = count)]
    series: Option<u32>,
    /// Span of the samples, such as 24h.
    #[arg(long, value_parser = span)]
    span: Option<Duration>,
    /// Time between the samples of a series.
    #[arg(long, value_parser = span, default_value = "10s")]
    interval: Duration,
    /// What is fed and asked.
    #[arg(long, value_enum, value_delimiter = ',')]
    systems: Vec<System>,
    /// Samples of one request to a peer.
    #[arg(long, default_value_t = 10_000)]
    batch: usize,
    /// Samples of each series in one request to a peer; 1 is how telemetry comes.
    #[arg(long, default_value_t = 1)]
    peer_rows: u32,
    /// How often each question is asked.
    #[arg(long, default_value_t = 200)]
    asks: u32,
    /// Where temporary directories are made; memory is no disk.
    #[arg(long, default_value = ".")]
    dir: PathBuf,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Preset {
    /// 2 k series, 20 min: only whether all answer the same.
    Short,
    /// 10 k series, 24 h.
    Day,
    /// 100 k series, 24 h: 864 M samples, about an hour and a half on two cores.
    Full,
    /// 1 M series, 5 min.
    Million,
    /// 10 k, 100 k and 1 M series, 20 M samples each: how the cost grows; without Prometheus.
    Sizes,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum System {
    Plimsoll,
    Victoria,
    Prometheus,
}

fn count(text: &str) -> Result<u32, String> {
    let (digits, factor) = match text.strip_suffix(['k', 'M']) {
        Some(digits) if text.ends_with('k') => (digits, 1_000),
        Some(digits) => (digits, 1_000_000),
        None => (text, 1),
    };
    let number: u32 = digits
        .parse()
        .map_err(|_| "write such as 100k".to_owned())?;
    number
        .checked_mul(factor)
        .ok_or_else(|| "too many".to_owned())
}

fn span(text: &str) -> Result<Duration, String> {
    humantime_serde::re::humantime::parse_duration(text).map_err(|error| error.to_string())
}

fn main() -> ExitCode {
    match obey(&Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nobody is left to be told if this cannot be written either.
            drop(writeln!(
                std::io::stderr().lock(),
                "plimsoll-peers: {error:#}"
            ));
            ExitCode::FAILURE
        }
    }
}

fn obey(cli: &Cli) -> anyhow::Result<()> {
    if cli.preset == Preset::Sizes {
        return sizes(cli);
    }
    let (series, minutes) = match cli.preset {
        Preset::Short => (2_000, 20),
        Preset::Day | Preset::Sizes => (10_000, 1_440),
        Preset::Full => (100_000, 1_440),
        Preset::Million => (1_000_000, 5),
    };
    let span = cli.span.unwrap_or(Duration::from_secs(minutes * 60));
    let order = order(cli, cli.series.unwrap_or(series), span)?;
    say(&table::render(&order, &run::run(&order)?)?)
}

fn sizes(cli: &Cli) -> anyhow::Result<()> {
    let samples = 20_000_000;
    let mut runs = Vec::new();
    for series in [10_000, 100_000, 1_000_000] {
        let span = cli.interval * (samples / series);
        let mut order = order(cli, series, span)?;
        if cli.systems.is_empty() {
            // It would take longer than the others together.
            order.names.retain(|name| *name != Name::Prometheus);
        }
        let all = run::run(&order)?.into_iter();
        runs.extend(all.map(|figures| (u64::from(series), figures)));
    }
    say(&table::by_size(&runs)?)
}

fn order(cli: &Cli, series: u32, span: Duration) -> anyhow::Result<Order> {
    let programs = std::env::current_exe().context("cannot tell where this program is")?;
    let interval_ms = i64::try_from(cli.interval.as_millis())?;
    let per_node = u32::try_from(NODE_SERIES)?;
    if interval_ms < 1_000 || series < per_node || span < cli.interval {
        bail!("an interval of 1 s, {per_node} series and one interval are the least");
    }
    let rows = u32::try_from(span.as_millis() / cli.interval.as_millis())?;
    // A minute ago, so that no engine calls the last samples future ones.
    let end_ms = SystemClock::new().now().millis() / 1_000 * 1_000 - 60_000;
    let all = [
        (System::Plimsoll, Name::Plimsoll),
        (System::Victoria, Name::VictoriaMetrics),
        (System::Prometheus, Name::Prometheus),
    ];
    let wanted = |system: &System| cli.systems.is_empty() || cli.systems.contains(system);
    let names = all.into_iter().filter(|(system, _)| wanted(system));
    Ok(Order {
        size: Size {
            nodes: series.div_ceil(per_node),
            rows,
            interval_ms,
            // The tail that is fed before the kill lies behind the span.
            begin_ms: end_ms - (i64::from(rows) + 60) * interval_ms,
        },
        names: names.map(|(_, name)| name).collect(),
        batch: cli.batch,
        peer_rows: cli.peer_rows,
        asks: cli.asks,
        programs: programs.parent().map(PathBuf::from).unwrap_or_default(),
        dir: cli.dir.clone(),
    })
}

fn say(text: &str) -> anyhow::Result<()> {
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "{text}").context("cannot write to standard output")
}
