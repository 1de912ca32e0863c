//! What happens on a stage: guests start, programs run, guests move.
//!
//! Not here: raising a stage or taking it away (see `upkeep`).

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::{Args, ValueEnum};
use plimsoll_tests::guest::{Guest, PAGE_BYTES, PageSet, Pattern};
use plimsoll_tests::stage::{HUB, JobInfo, MigrateOptions, Migration, Stage};

use crate::say;

/// Pages in one MiB.
const MIB_PAGES: u32 = (1 << 20) / PAGE_BYTES;

#[derive(Debug, Clone, Copy, ValueEnum)]
enum PatternName {
    /// Nothing; the guest sleeps.
    Idle,
    /// Pages of one set at random.
    Uniform,
    /// A small set often, another one seldom.
    #[value(alias = "hotcold")]
    HotCold,
    /// Pages of one set in turn, round and round.
    Cyclic,
}

#[derive(Debug, Args)]
pub(crate) struct GuestOrder {
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
    /// How much memory it writes to each second, a page counted whole.
    #[arg(long, default_value_t = 20)]
    rate_mib_s: u32,
    /// The memory it writes them to.
    #[arg(long, default_value_t = 64)]
    working_set_mib: u32,
    /// With `hot-cold`: how much of the cold set it writes to each second.
    #[arg(long, default_value_t = 1)]
    cold_rate_mib_s: u32,
    /// With `hot-cold`: the size of the cold set.
    #[arg(long, default_value_t = 64)]
    cold_set_mib: u32,
    /// The beginning of its pseudo-random sequence.
    #[arg(long, default_value_t = 1)]
    seed: u32,
}

#[derive(Debug, Args)]
pub(crate) struct MigrateOrder {
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
    /// More options for `virsh migrate`, after `--`.
    #[arg(last = true)]
    virsh: Vec<String>,
}

/// Starts a guest and waits until it has begun its pattern.
pub(crate) fn guest(stage: &Stage, order: &GuestOrder) -> anyhow::Result<()> {
    let set = |mib: u32, rate_mib_s: u32| PageSet {
        working_set_bytes: mib.saturating_mul(MIB_PAGES).saturating_mul(PAGE_BYTES),
        pages_per_second: rate_mib_s.saturating_mul(MIB_PAGES),
    };
    let hot = set(order.working_set_mib, order.rate_mib_s);
    let cold = set(order.cold_set_mib, order.cold_rate_mib_s);
    let pattern = match order.pattern {
        PatternName::Idle => Pattern::Idle,
        PatternName::Uniform => Pattern::Uniform(hot),
        PatternName::HotCold => Pattern::HotCold { hot, cold },
        PatternName::Cyclic => Pattern::Cyclic(hot),
    };
    let mut guest = Guest::new(&order.name, order.memory_mib, pattern);
    guest.vcpus = order.vcpus;
    guest.seed = order.seed;
    if let Some(mib) = order.fill_mib {
        guest.fill_bytes = mib.saturating_mul(MIB_PAGES).saturating_mul(PAGE_BYTES);
    }
    stage.node_named(&order.node)?.define_and_start(&guest)?;
    say(&format!(
        "guest {} {} runs on {}",
        guest.name, guest.uuid, order.node
    ))
}

/// Runs a program on a node to its end; its exit code is ours.
pub(crate) fn exec(stage: &Stage, node: &str, program: &[String]) -> anyhow::Result<ExitCode> {
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

/// Moves a guest and prints what libvirt says of it.
pub(crate) fn migrate(stage: &Stage, order: &MigrateOrder) -> anyhow::Result<ExitCode> {
    let options = MigrateOptions {
        max_downtime_ms: order.max_downtime_ms,
        bandwidth_mib_per_second: order.bandwidth_mib_per_second,
        timeout: Duration::from_secs(order.timeout_seconds),
        auto_converge: order.auto_converge,
        postcopy: order.postcopy,
        virsh: order.virsh.clone(),
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
