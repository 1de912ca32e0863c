//! `plimsoll-stage`: raises compute nodes on this machine, and takes them away.
//!
//! Not here: anything the library does not do; this only reads the command line and prints.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::{Args, Parser, Subcommand, ValueEnum};
use plimsoll_tests::guest::{Guest, PAGE_BYTES, PageSet, Pattern};
use plimsoll_tests::stage::{
    DEFAULT_BASE, HUB, JobInfo, MigrateOptions, Migration, Stage, StageConfig, Standing, standing,
    take_away,
};

/// Raises compute nodes with libvirt and QEMU guests on this machine, and takes them away.
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
    Up(Up),
    /// Takes away the stages left standing or forgotten.
    Down {
        /// Takes away even a stage whose owner still runs.
        #[arg(long)]
        all: bool,
    },
    /// Lists the stages and the guests on them.
    Status,
    /// Starts a guest on a node.
    Guest(GuestOrder),
    /// Runs a program on a node, or in the hub.
    Exec {
        /// The node's name, or `hub`.
        node: String,
        /// The program and its arguments.
        #[arg(trailing_var_arg = true, required = true)]
        program: Vec<String>,
    },
    /// Moves a running guest from one node to another.
    Migrate(MigrateOrder),
}

#[derive(Debug, Args)]
struct Up {
    /// How many nodes to raise.
    #[arg(long, default_value_t = 2)]
    nodes: u32,
    /// The speed of every node's link.
    #[arg(long, default_value_t = 400)]
    link_mbit: u32,
    /// Keeps the stage while standard input stays open, then takes it away.
    #[arg(long)]
    attend: bool,
    /// With `--attend`: leaves the stage standing in the end.
    #[arg(long)]
    keep: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum PatternName {
    Idle,
    Uniform,
    Hotcold,
    Cyclic,
}

#[derive(Debug, Args)]
struct GuestOrder {
    /// The node's name.
    node: String,
    /// The guest's name.
    name: String,
    /// Its memory.
    #[arg(long, default_value_t = 256)]
    memory_mib: u32,
    /// The memory it fills at its start; half of its memory if not given.
    #[arg(long)]
    fill_mib: Option<u32>,
    /// Its processors.
    #[arg(long, default_value_t = 1)]
    vcpus: u32,
    /// How it dirties memory.
    #[arg(long, value_enum, default_value_t = PatternName::Idle)]
    pattern: PatternName,
    /// Pages it writes a second; 256 are one MiB.
    #[arg(long, default_value_t = 5120)]
    rate_pages: u32,
    /// The memory it writes them to.
    #[arg(long, default_value_t = 64)]
    working_set_mib: u32,
    /// With `hotcold`: pages it writes a second to the cold set.
    #[arg(long, default_value_t = 256)]
    cold_rate_pages: u32,
    /// With `hotcold`: the size of the cold set.
    #[arg(long, default_value_t = 64)]
    cold_set_mib: u32,
    /// The beginning of its pseudo-random sequence.
    #[arg(long, default_value_t = 1)]
    seed: u32,
}

#[derive(Debug, Args)]
struct MigrateOrder {
    /// The guest's name.
    name: String,
    /// The node it is on.
    from: String,
    /// The node it is to go to.
    to: String,
    /// The downtime QEMU may plan with.
    #[arg(long)]
    max_downtime_ms: Option<u64>,
    /// A cap below the link's speed.
    #[arg(long)]
    bandwidth_mib_per_second: Option<u64>,
    /// After this the migration is aborted.
    #[arg(long, default_value_t = 60)]
    timeout_seconds: u64,
    /// Lets QEMU slow the guest down until it converges.
    #[arg(long)]
    auto_converge: bool,
    /// Switches to post-copy after the first round.
    #[arg(long)]
    postcopy: bool,
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
    match &cli.order {
        Order::Up(order) => up(&cli.dir, order)?,
        Order::Down { all } => down(cli, *all)?,
        Order::Status => status(&cli.dir)?,
        Order::Guest(order) => start_guest(&attach(cli)?, order)?,
        Order::Exec { node, program } => return exec(&attach(cli)?, node, program),
        Order::Migrate(order) => return migrate(&attach(cli)?, order),
    }
    Ok(ExitCode::SUCCESS)
}

fn say(line: &str) -> anyhow::Result<()> {
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "{line}").context("cannot write to standard output")?;
    stdout.flush().context("cannot write to standard output")
}

fn up(base: &Path, order: &Up) -> anyhow::Result<()> {
    let stage = Stage::raise(&StageConfig {
        nodes: order.nodes,
        link_mbit: order.link_mbit,
        base: base.to_owned(),
    })?;
    say(&format!(
        "stage {} stands in {}",
        stage.id(),
        stage.directory().display()
    ))?;
    for node in stage.nodes() {
        say(&format!(
            "{} {} {}",
            node.name(),
            node.address(),
            node.uuid()
        ))?;
    }
    if order.attend {
        let mut ignored = Vec::new();
        std::io::stdin()
            .read_to_end(&mut ignored)
            .context("cannot read standard input")?;
        if !order.keep {
            return stage.fall().context("the stage did not fall");
        }
    }
    stage.leave_standing()?;
    Ok(())
}

fn down(cli: &Cli, all: bool) -> anyhow::Result<()> {
    let is_meant = |stage: &Standing| cli.id.as_ref().is_none_or(|id| *id == stage.id);
    let may_go = |stage: &Standing| all || stage.owner.is_none() || stage.is_stale;
    for stage in take_away(&cli.dir, |stage| is_meant(stage) && may_go(stage))? {
        say(&format!("stage {} is gone", stage.id))?;
    }
    for stage in standing(&cli.dir)?.iter().filter(|stage| is_meant(stage)) {
        let owner = stage.owner.map_or(0, |owner| owner.pid);
        say(&format!(
            "stage {} belongs to process {owner} and stays: use --all to take it away",
            stage.id
        ))?;
    }
    Ok(())
}

fn status(base: &Path) -> anyhow::Result<()> {
    for known in standing(base)? {
        let state = match known.owner {
            _ if known.is_stale => "forgotten".to_owned(),
            Some(owner) => format!("owned by process {}", owner.pid),
            None => "left standing".to_owned(),
        };
        say(&format!(
            "stage {} {state} in {}",
            known.id,
            known.directory.display()
        ))?;
        if known.is_stale {
            continue;
        }
        for node in Stage::attach(&known.directory)?.nodes() {
            let guests = node.guests()?.join(" ");
            say(&format!(
                "  {} {} guests: {guests}",
                node.name(),
                node.address()
            ))?;
        }
    }
    Ok(())
}

fn attach(cli: &Cli) -> anyhow::Result<Stage> {
    let mut meant = standing(&cli.dir)?;
    if let Some(id) = &cli.id {
        meant.retain(|stage| stage.id == *id);
    }
    match meant.as_slice() {
        [] => bail!(
            "no stage stands in {}: raise one with up",
            cli.dir.display()
        ),
        [stage] => Ok(Stage::attach(&stage.directory)?),
        [..] => bail!(
            "{} stages stand in {}: choose with --id",
            meant.len(),
            cli.dir.display()
        ),
    }
}

fn start_guest(stage: &Stage, order: &GuestOrder) -> anyhow::Result<()> {
    let set = |mib: u32, pages_per_second: u32| PageSet {
        working_set_bytes: mib.saturating_mul(256).saturating_mul(PAGE_BYTES),
        pages_per_second,
    };
    let hot = set(order.working_set_mib, order.rate_pages);
    let cold = set(order.cold_set_mib, order.cold_rate_pages);
    let pattern = match order.pattern {
        PatternName::Idle => Pattern::Idle,
        PatternName::Uniform => Pattern::Uniform(hot),
        PatternName::Hotcold => Pattern::HotCold { hot, cold },
        PatternName::Cyclic => Pattern::Cyclic(hot),
    };
    let mut guest = Guest::new(&order.name, order.memory_mib, pattern);
    guest.vcpus = order.vcpus;
    guest.seed = order.seed;
    if let Some(mib) = order.fill_mib {
        guest.fill_bytes = mib.saturating_mul(256).saturating_mul(PAGE_BYTES);
    }
    stage.node_named(&order.node)?.define_and_start(&guest)?;
    say(&format!(
        "guest {} {} runs on {}",
        guest.name, guest.uuid, order.node
    ))
}

fn exec(stage: &Stage, node: &str, program: &[String]) -> anyhow::Result<ExitCode> {
    let [program, arguments @ ..] = program else {
        bail!("no program was given");
    };
    let mut command = if node == HUB {
        stage.hub_command(program)?
    } else {
        stage.node_named(node)?.command(program)
    };
    let status = command
        .args(arguments)
        .status()
        .with_context(|| format!("cannot run {program}"))?;
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    Ok(code.map_or(ExitCode::FAILURE, ExitCode::from))
}

fn migrate(stage: &Stage, order: &MigrateOrder) -> anyhow::Result<ExitCode> {
    let options = MigrateOptions {
        max_downtime_ms: order.max_downtime_ms,
        bandwidth_mib_per_second: order.bandwidth_mib_per_second,
        timeout: Duration::from_secs(order.timeout_seconds),
        auto_converge: order.auto_converge,
        postcopy: order.postcopy,
    };
    let from = stage.node_named(&order.from)?;
    let to = stage.node_named(&order.to)?;
    match stage.migrate_named(&order.name, from, to, &options)? {
        Migration::Completed(info) => {
            say("completed")?;
            say_job(&info)?;
            Ok(ExitCode::SUCCESS)
        }
        Migration::Aborted { last } => {
            say("aborted: the guest stays where it was")?;
            say_job(&last.unwrap_or_default())?;
            Ok(ExitCode::FAILURE)
        }
    }
}

fn say_job(info: &JobInfo) -> anyhow::Result<()> {
    let figures = [
        ("time_elapsed_ms", info.time_elapsed_ms),
        ("downtime_ms", info.downtime_ms),
        ("memory_total_bytes", info.memory_total_bytes),
        ("memory_processed_bytes", info.memory_processed_bytes),
        ("memory_remaining_bytes", info.memory_remaining_bytes),
        ("memory_constant_pages", info.memory_constant_pages),
        ("memory_normal_pages", info.memory_normal_pages),
        ("memory_iterations", info.memory_iterations),
        (
            "memory_dirty_rate_pages_per_second",
            info.memory_dirty_rate_pages_per_second,
        ),
        ("memory_bytes_per_second", info.memory_bytes_per_second),
    ];
    for (name, value) in figures {
        if let Some(value) = value {
            say(&format!("{name} {value}"))?;
        }
    }
    Ok(())
}
