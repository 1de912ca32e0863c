//! The command line as clap reads it. It knows no server.

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
    Domains,
    /// List series with their last values.
    Series {
        /// Only of this domain, by UUID or name.
        #[arg(long)]
        domain: Option<String>,
        /// Dotted name; ends in * to match a beginning.
        #[arg(long, default_value = "")]
        metric: String,
    },
    /// Say how a migration would go.
    Estimate(Estimate),
    /// Say how much room nodes have.
    Headroom(Headroom),
    /// List migrations, each beside the prediction made before it.
    Migrations,
}

/// How the migration would be run.
#[derive(Debug, clap::Args)]
pub(crate) struct Estimate {
    /// Domain, by UUID or name.
    pub(crate) domain: String,
    /// Target node, by UUID or host name.
    #[arg(long)]
    pub(crate) to: Option<String>,
    /// How memory is carried over.
    #[arg(long, value_enum, default_value = "precopy")]
    pub(crate) mode: Mode,
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
    /// Size to be fitted, as name:vcpus:memory, such as m1.small:1:2GiB; may be given again.
    #[arg(long, value_parser = flavor)]
    pub(crate) flavor: Vec<(String, i32, ByteSize)>,
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
    fn a_flavor_has_three_fields() {
        let small = ("m1.small".to_owned(), 1, ByteSize::from_mib(2048));
        assert_eq!(flavor("m1.small:1:2GiB"), Ok(small));
        assert!(flavor("m1.small").unwrap_err().contains("m1.small:1:2GiB"));
    }
}
