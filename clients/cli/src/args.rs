//! The command line as clap reads it. It knows no server.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, Subcommand, ValueEnum};
use plimsoll_model::{Bandwidth, ByteSize, Ratio};

/// Ask a Plimsoll aggregator. Exit codes: 0 answered, 1 refused or not found, 2 usage, 69 unreachable.
#[derive(Debug, Parser)]
#[command(name = "plimsoll", version)]
pub(crate) struct Args {
    /// Aggregator to ask.
    #[arg(
        long,
        global = true,
        env = "PLIMSOLL_SERVER",
        default_value = "http://127.0.0.1:7077"
    )]
    pub(crate) server: String,
    /// Authority that signed the aggregator's certificate (PEM); with --cert and --key, for https://.
    #[arg(long, global = true, env = "PLIMSOLL_CA", requires_all = ["cert", "key"])]
    pub(crate) ca: Option<PathBuf>,
    /// Your certificate (PEM).
    #[arg(long, global = true, env = "PLIMSOLL_CERT", requires_all = ["ca", "key"])]
    pub(crate) cert: Option<PathBuf>,
    /// The key of your certificate (PEM), readable by you only.
    #[arg(long, global = true, env = "PLIMSOLL_KEY", requires_all = ["ca", "cert"])]
    pub(crate) key: Option<PathBuf>,
    /// Print JSON: ids as text, times in milliseconds since 1970, what is not known as null.
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// What to ask.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What to ask.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List nodes.
    Nodes,
    /// List domains, one row for each node that sees one.
    Domains {
        /// Only those this node sees, by UUID or host name.
        #[arg(long)]
        node: Option<String>,
        /// Only fresh ones.
        #[arg(long)]
        fresh: bool,
    },
    /// List the devices that nodes poll over SNMP.
    Devices {
        /// Only those that this node polls, by UUID or host name.
        #[arg(long)]
        node: Option<String>,
    },
    /// List series with their last values, or the values since some time.
    Series(Series),
    /// List events, the newest first.
    Events {
        /// Only of this domain, by UUID or name.
        #[arg(long)]
        domain: Option<String>,
        /// Only what this node saw, by UUID or host name.
        #[arg(long)]
        node: Option<String>,
        /// Only those of the last span, such as 10m or 2h.
        #[arg(long, value_parser = span)]
        since: Option<Duration>,
        /// At most so many.
        #[arg(long, default_value = "100", value_parser = clap::value_parser!(i32).range(1..=1_000))]
        limit: i32,
    },
    /// List spans of batches that were made and never stored.
    Gaps {
        /// Only of this node, by UUID or host name.
        #[arg(long)]
        node: Option<String>,
    },
    /// Say how a migration would go.
    Estimate(Estimate),
    /// Say how a migration would go in every mode, and which one harms the guest least.
    Compare {
        #[command(flatten)]
        question: Question,
        /// Downtime in milliseconds that can be borne; any if not given.
        #[arg(long, value_parser = clap::value_parser!(i64).range(1..=86_400_000))]
        downtime_max_ms: Option<i64>,
    },
    /// Say how much room nodes have.
    Headroom(Headroom),
    /// Judge whether a domain may move, constraint by constraint.
    Feasible {
        /// Domain, by UUID or name.
        domain: String,
        /// Target nodes, by UUID or host name; none means all others.
        #[arg(long)]
        to: Vec<String>,
        /// Show what passes too.
        #[arg(long)]
        all: bool,
        #[command(flatten)]
        limits: Limits,
    },
    /// Order the nodes to which a domain may move, the best first.
    Targets {
        /// Domain, by UUID or name.
        domain: String,
        /// Leave out nodes of which something is not known, too.
        #[arg(long)]
        strict: bool,
        /// At most so many.
        #[arg(long, default_value = "10", value_parser = clap::value_parser!(i32).range(1..=1_000))]
        limit: i32,
        #[command(flatten)]
        limits: Limits,
    },
    /// Say how long it takes to empty a node, in which order, and who cannot leave.
    Evacuate {
        /// Node, by UUID or host name.
        node: String,
        /// Nodes that may take its domains, by UUID or host name; none means all others.
        #[arg(long)]
        to: Vec<String>,
        /// Moves at once, at most; the best number is found.
        #[arg(long, default_value = "4", value_parser = clap::value_parser!(i32).range(1..=16))]
        at_once: i32,
        /// Time in which all must be over, such as 30m.
        #[arg(long, value_parser = span)]
        deadline: Option<Duration>,
        /// Give no domain to nodes of which something is not known.
        #[arg(long)]
        strict: bool,
        #[command(flatten)]
        limits: Limits,
    },
    /// List domains that run on several nodes at once.
    Conflicts,
    /// Say how true predictions were, beside simpler formulas.
    Accuracy {
        /// Only of migrations that began in the last span, such as 2h or 7d.
        #[arg(long, value_parser = span)]
        since: Option<Duration>,
    },
    /// List migrations, each beside the prediction made before it.
    Migrations {
        /// Only of this domain, by UUID or name.
        #[arg(long)]
        domain: Option<String>,
        /// Only those that left or reached this node, by UUID or host name.
        #[arg(long)]
        node: Option<String>,
        /// Only those that began in the last span, such as 2h or 7d.
        #[arg(long, value_parser = span)]
        since: Option<Duration>,
        /// At most so many.
        #[arg(long, default_value = "100", value_parser = clap::value_parser!(i32).range(1..=1_000))]
        limit: i32,
    },
}

/// What a move may cost; where nothing is said, what the aggregator is configured for.
#[derive(Debug, clap::Args)]
pub(crate) struct Limits {
    /// Longest round trip between the nodes, in microseconds.
    #[arg(long, value_parser = clap::value_parser!(i64).range(1..=60_000_000))]
    pub(crate) rtt_max_us: Option<i64>,
    /// Largest loss of disk requests, as a share such as 0.1.
    #[arg(long)]
    pub(crate) iops_loss_max: Option<Ratio>,
    /// Moves a node may have under way beside this one.
    #[arg(long, value_parser = clap::value_parser!(i32).range(0..=1_000))]
    pub(crate) moves_max: Option<i32>,
}

/// Which series.
#[derive(Debug, clap::Args)]
pub(crate) struct Series {
    /// Domain, node or device they are of, by UUID or name; none means all.
    pub(crate) of: Option<String>,
    /// Dotted name; ends in * to match a beginning.
    #[arg(long, default_value = "")]
    pub(crate) metric: String,
    /// Part, such as vda.
    #[arg(long)]
    pub(crate) part: Option<String>,
    /// Port of the device, by its number (ifIndex).
    #[arg(long, value_parser = clap::value_parser!(i32).range(1..))]
    pub(crate) port: Option<i32>,
    /// The values of the last span, such as 10m or 2h, instead of the last value.
    #[arg(long, value_parser = span)]
    pub(crate) since: Option<Duration>,
    /// Growth per second of counters instead of their values; no rate across a restart.
    #[arg(long, requires = "since")]
    pub(crate) rate: bool,
    /// One value for each step of this length, such as 5m or 1d; long spans are read from rollups.
    #[arg(long, value_parser = span, requires = "since")]
    pub(crate) step: Option<Duration>,
    /// What to tell of a step.
    #[arg(
        long,
        value_enum,
        default_value = "mean",
        requires = "step",
        conflicts_with = "rate"
    )]
    pub(crate) tell: Tell,
}

/// What to tell of a step.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
pub(crate) enum Tell {
    /// The mean of the samples.
    Mean,
    /// The mean over time.
    MeanOverTime,
    /// The least.
    Min,
    /// The greatest.
    Max,
    /// The sum.
    Sum,
    /// How many samples there are.
    Count,
    /// The newest.
    Last,
    /// The value below or at which 95 of 100 lie.
    P95,
    /// Growth of a counter.
    Increase,
}

/// A migration, and how memory is carried over.
#[derive(Debug, clap::Args)]
pub(crate) struct Estimate {
    #[command(flatten)]
    pub(crate) question: Question,
    /// How memory is carried over.
    #[arg(long, value_enum, default_value = "precopy")]
    pub(crate) mode: Mode,
}

/// A migration, and how it would be run.
#[derive(Debug, clap::Args)]
pub(crate) struct Question {
    /// Domain, by UUID or name.
    pub(crate) domain: String,
    /// Target node, by UUID or host name.
    #[arg(long)]
    pub(crate) to: Option<String>,
    /// Downtime limit in milliseconds; QEMU's own is 300.
    #[arg(long, value_parser = clap::value_parser!(i64).range(1..=2_000_000))]
    pub(crate) downtime_ms: Option<i64>,
    /// Time in seconds after which the migration is given up.
    #[arg(long, value_parser = clap::value_parser!(i64).range(1..=604_800))]
    pub(crate) timeout_s: Option<i64>,
    /// Bandwidth cap, such as 100MB/s.
    #[arg(long)]
    pub(crate) bandwidth_cap: Option<Bandwidth>,
    /// Bandwidth of the path, if you know better, such as 10Gbit/s.
    #[arg(long)]
    pub(crate) path_bandwidth: Option<Bandwidth>,
}

/// How memory is carried over.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Mode {
    /// Copy while the guest runs.
    Precopy,
    /// Slow the guest until it converges.
    AutoConverge,
    /// Switch over, then fetch.
    Postcopy,
    /// Stop, then copy.
    StopCopy,
}

/// What is promised and kept back.
#[derive(Debug, clap::Args)]
pub(crate) struct Headroom {
    /// Nodes, by UUID or host name; none means all.
    pub(crate) nodes: Vec<String>,
    /// Virtual processors per processor, such as 16.
    #[arg(long)]
    pub(crate) cpu_ratio: Option<Ratio>,
    /// Promised memory per installed memory, such as 1.5.
    #[arg(long)]
    pub(crate) ram_ratio: Option<Ratio>,
    /// Processors kept for the host.
    #[arg(long)]
    pub(crate) reserved_cpus: Option<i32>,
    /// Memory kept for the host, such as 4GiB.
    #[arg(long)]
    pub(crate) reserved_ram: Option<ByteSize>,
    /// Share kept free of measured use, such as 0.1.
    #[arg(long)]
    pub(crate) margin: Option<Ratio>,
    /// Span over which use is measured, such as 2h; an hour if not given.
    #[arg(long, value_parser = span)]
    pub(crate) horizon: Option<Duration>,
    /// Percentile of the use within that span; 95 if not given.
    #[arg(long, value_parser = clap::value_parser!(i32).range(1..=100))]
    pub(crate) percentile: Option<i32>,
    /// Size to be fitted, as name:vcpus:memory, such as m1.small:1:2GiB; may be given again.
    #[arg(long, value_parser = flavor)]
    pub(crate) flavor: Vec<(String, i32, ByteSize)>,
}

/// Reads a span such as 90s, 10m, 2h, 7d; none is refused.
fn span(text: &str) -> Result<Duration, String> {
    let span = humantime::parse_duration(text).ok();
    span.filter(|span| !span.is_zero())
        .ok_or_else(|| "no span; write for example 90s, 10m, 2h or 7d".to_owned())
}

fn flavor(text: &str) -> Result<(String, i32, ByteSize), String> {
    let example = || format!("{text:?} is no flavor; write for example m1.small:1:2GiB");
    let mut fields = text.splitn(3, ':');
    let (Some(name), Some(vcpus), Some(memory)) = (fields.next(), fields.next(), fields.next())
    else {
        return Err(example());
    };
    let vcpus = vcpus.parse::<i32>().map_err(|_| example())?;
    Ok((
        name.to_owned(),
        vcpus,
        memory.parse().map_err(|_| example())?,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_needs_its_unit() {
        assert_eq!(span("10m"), Ok(Duration::from_secs(600)));
        assert_eq!(span("7d"), Ok(Duration::from_secs(604_800)));
        assert_eq!(span("1h 30m"), Ok(Duration::from_secs(5_400)));
        for wrong in ["10", "m", "0s", "1x", "-1h"] {
            assert!(span(wrong).unwrap_err().contains("10m"), "{wrong}");
        }
    }

    #[test]
    fn a_flavor_has_three_fields() {
        let small = ("m1.small".to_owned(), 1, ByteSize::from_mib(2048));
        assert_eq!(flavor("m1.small:1:2GiB"), Ok(small));
        assert!(flavor("m1.small").unwrap_err().contains("m1.small:1:2GiB"));
    }
}
