//! `demo`: the whole promise in one run, told as it happens.
//!
//! The tale itself runs in a child process; this one only waits, and takes the child's stage away however
//! the child ended. So Ctrl-C at any moment leaves nothing behind.
//!
//! Not here: raising clouds, asking and moving; the library does that.

mod table;
mod tale;

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::Args;
use plimsoll_tests::stage::{available, take_away};
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};

use crate::{say, upkeep};

/// What a shell calls the end of a program by Ctrl-C.
const EXIT_INTERRUPTED: u8 = 130;

#[derive(Debug, Args)]
pub(crate) struct Demo {
    /// Where plimsoll, plimsoll-agent and plimsoll-aggregator are; beside this program if not given.
    #[arg(long)]
    programs: Option<PathBuf>,
    /// Tells the tale in this very process.
    #[arg(long, hide = true)]
    told_here: bool,
}

/// Runs the demo; success means that both guests were called right.
pub(crate) fn demo(base: &Path, order: &Demo) -> anyhow::Result<ExitCode> {
    let own = std::env::current_exe().context("cannot find this program")?;
    let programs = match &order.programs {
        Some(programs) => programs.clone(),
        None => own.parent().unwrap_or(Path::new(".")).to_owned(),
    };
    if order.told_here {
        return tale::tell(base, &programs);
    }
    available().context("this machine cannot carry a stage")?;
    upkeep::mend(base)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start")?;
    runtime.block_on(attend(base, &own, &programs))
}

/// Starts the child, waits for its end or for a signal, and takes away what it leaves.
async fn attend(base: &Path, own: &Path, programs: &Path) -> anyhow::Result<ExitCode> {
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot hear Ctrl-C")?;
    let mut terminate = signal(SignalKind::terminate()).context("cannot hear SIGTERM")?;
    let mut hangup = signal(SignalKind::hangup()).context("cannot hear SIGHUP")?;
    let mut command = std::process::Command::new(own);
    command.arg("--dir").arg(base);
    command
        .args(["demo", "--told-here", "--programs"])
        .arg(programs);
    // A group of its own: Ctrl-C reaches this process alone, which then ends the child.
    command.process_group(0);
    let mut child = Command::from(command)
        .kill_on_drop(true)
        .spawn()
        .context("cannot start the demo")?;
    let pid = child.id();
    let code = tokio::select! {
        ended = child.wait() => ended.context("cannot wait for the demo")?.code(),
        _ = interrupt.recv() => end(&mut child).await?,
        _ = terminate.recv() => end(&mut child).await?,
        _ = hangup.recv() => end(&mut child).await?,
    };
    let is_of_child = |owner: plimsoll_tests::stage::Process| Some(owner.pid) == pid;
    take_away(base, |stage| stage.owner.is_some_and(is_of_child))
        .context("the stage of the demo did not fall: try down")?;
    // The directory stays if another demo has its stage there.
    std::fs::remove_dir(base).ok();
    let code = code.and_then(|code| u8::try_from(code).ok());
    Ok(code.map_or(ExitCode::FAILURE, ExitCode::from))
}

async fn end(child: &mut Child) -> anyhow::Result<Option<i32>> {
    child.kill().await.context("cannot end the demo")?;
    say("\ninterrupted: everything is taken down")?;
    Ok(Some(i32::from(EXIT_INTERRUPTED)))
}
