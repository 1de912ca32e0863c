//! Stages as a whole: up, down, status, and which one is meant.
//!
//! Not here: what happens on a stage (see `order`).

use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::Args;
use plimsoll_tests::stage::{Stage, StageConfig, Standing, available, standing, take_away};

use crate::say;

#[derive(Debug, Args)]
pub(crate) struct Up {
    /// How many nodes to raise, 1 to 16; two cores carry two with busy guests.
    #[arg(long, default_value_t = 2)]
    nodes: u32,
    /// The speed of every node's link.
    #[arg(long, default_value_t = 400)]
    link_mbit: u32,
    /// A directory whose `usr` is laid over the machine's in every node, such as `packaging/stage-newer` makes.
    #[arg(long)]
    programs: Option<PathBuf>,
    /// Keeps the stage while standard input stays open, then takes it away.
    #[arg(long)]
    attend: bool,
    /// With `--attend`: leaves the stage standing in the end.
    #[arg(long)]
    keep: bool,
}

/// Raises a stage, after mending what an owner that died has left.
pub(crate) fn up(base: &Path, order: &Up) -> anyhow::Result<()> {
    available().context("this machine cannot carry a stage")?;
    mend(base)?;
    let stage = Stage::raise(&StageConfig {
        nodes: order.nodes,
        link_mbit: order.link_mbit,
        base: base.to_owned(),
        programs: order.programs.clone(),
    })?;
    let directory = stage.directory().display();
    say(&format!("stage {} stands in {directory}", stage.id()))?;
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

/// Takes away the stages whose owner died, and says so.
pub(crate) fn mend(base: &Path) -> anyhow::Result<()> {
    for stage in take_away(base, |stage| stage.is_stale)? {
        say(&format!(
            "stage {} was left behind by {} and has been taken away",
            stage.id,
            whose(&stage)
        ))?;
    }
    Ok(())
}

/// Takes away all stages that nobody uses, or just all.
pub(crate) fn down(base: &Path, id: Option<&str>, all: bool) -> anyhow::Result<()> {
    must_be_root()?;
    let is_meant = |stage: &Standing| id.is_none_or(|id| id == stage.id);
    let may_go = |stage: &Standing| all || stage.owner.is_none() || stage.is_stale;
    let gone = take_away(base, |stage| is_meant(stage) && may_go(stage))?;
    for stage in &gone {
        say(&format!("stage {} is gone", stage.id))?;
    }
    let rest = standing(base)?;
    let left: Vec<&Standing> = rest.iter().filter(|stage| is_meant(stage)).collect();
    for stage in &left {
        say(&format!(
            "stage {} belongs to {} and stays: use --all to take it away",
            stage.id,
            whose(stage)
        ))?;
    }
    if gone.is_empty() && left.is_empty() {
        match id {
            Some(id) => bail!("no stage {id} stands in {}: see status", base.display()),
            None => say(&format!("no stage stands in {}", base.display()))?,
        }
    }
    Ok(())
}

fn whose(stage: &Standing) -> String {
    match stage.owner {
        _ if stage.is_damaged => "an unknown process (its state file is damaged)".to_owned(),
        Some(owner) if stage.is_stale => format!("process {}, which is gone,", owner.pid),
        Some(owner) => format!("process {}", owner.pid),
        None => "nobody".to_owned(),
    }
}

/// Lists the stages and the guests on them.
pub(crate) fn status(base: &Path) -> anyhow::Result<()> {
    must_be_root()?;
    let all = standing(base)?;
    if all.is_empty() {
        say(&format!("no stage stands in {}", base.display()))?;
    }
    for known in all {
        let directory = known.directory.display();
        let whose = match known.owner {
            None if !known.is_damaged => "was left standing".to_owned(),
            _ => format!("belongs to {}", whose(&known)),
        };
        say(&format!("stage {} {whose} in {directory}", known.id))?;
        match Stage::attach(&known.directory) {
            Ok(stage) => guests_of(&stage)?,
            Err(error) => say(&format!("  is broken ({error}): take it away with down"))?,
        }
    }
    Ok(())
}

fn guests_of(stage: &Stage) -> anyhow::Result<()> {
    for node in stage.nodes() {
        let guests = match node.guests() {
            Ok(guests) if guests.is_empty() => "no guests".to_owned(),
            Ok(guests) => format!("guests: {}", guests.join(" ")),
            Err(error) => format!("does not answer: {error}"),
        };
        say(&format!("  {} {} {guests}", node.name(), node.address()))?;
    }
    Ok(())
}

/// Uses the one stage that stands, or the one named.
pub(crate) fn attach(base: &Path, id: Option<&str>) -> anyhow::Result<Stage> {
    available().context("this machine cannot carry a stage")?;
    let mut meant = standing(base)?;
    meant.retain(|stage| id.is_none_or(|id| id == stage.id));
    match meant.as_slice() {
        [] => bail!("no stage stands in {}: raise one with up", base.display()),
        [stage] => Stage::attach(&stage.directory).with_context(|| {
            format!(
                "stage {} is broken: take it away with down and raise one with up",
                stage.id
            )
        }),
        [..] => bail!(
            "{} stages stand in {}: choose with --id",
            meant.len(),
            base.display()
        ),
    }
}

/// Of all that `available` asks for, taking away and looking need only this.
fn must_be_root() -> anyhow::Result<()> {
    match available() {
        Err(missing @ plimsoll_tests::stage::Missing::Root) => Err(missing.into()),
        _ => Ok(()),
    }
}
