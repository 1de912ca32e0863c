//! A program under test: started, watched through /proc, ended.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::stage::wait_until;

const END_LIMIT: Duration = Duration::from_secs(120);

/// A running program; it is killed when dropped.
#[derive(Debug)]
pub(super) struct Server {
    child: Child,
    log: PathBuf,
}

impl Server {
    /// Starts a program; what it says goes behind what is in the log.
    pub(super) fn start(program: &Path, args: &[String], log: &Path) -> anyhow::Result<Self> {
        let out = File::options().create(true).append(true).open(log)?;
        let child = Command::new(program)
            .args(args)
            .env("NO_COLOR", "1")
            .stdin(Stdio::null())
            .stdout(out.try_clone()?)
            .stderr(out)
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        let log = log.to_owned();
        Ok(Self { child, log })
    }

    /// Returns all it said.
    pub(super) fn said(&self) -> anyhow::Result<String> {
        Ok(String::from_utf8_lossy(&std::fs::read(&self.log)?).into_owned())
    }

    /// Fails with what it said where it has ended.
    pub(super) fn must_run(&mut self) -> anyhow::Result<()> {
        if let Some(status) = self.child.try_wait()? {
            let said = self.said()?;
            let last: Vec<&str> = said.lines().rev().take(5).collect();
            bail!("it ended with {status}: {}", last.join(" / "));
        }
        Ok(())
    }

    /// Processor time it has used, in user mode and in the kernel.
    pub(super) fn cpu_s(&self) -> anyhow::Result<f64> {
        cpu_s_of(&self.child.id().to_string(), 11)
    }

    /// Resident memory, and the part of it that is no mapped file, in bytes.
    pub(super) fn resident(&self) -> anyhow::Result<(u64, u64)> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let bytes = |key: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(key))?;
            let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
            Some(kib * 1_024)
        };
        bytes("VmRSS:")
            .zip(bytes("RssAnon:"))
            .context("/proc does not tell its memory")
    }

    /// Ends it without a word.
    pub(super) fn kill(&mut self) -> anyhow::Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Asks it to end and waits until it has.
    pub(super) fn stop(&mut self) -> anyhow::Result<()> {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        kill_process(pid.context("it has no number")?, Signal::TERM)?;
        wait_until("a server to end", END_LIMIT, || {
            Ok(self.child.try_wait().ok().flatten())
        })?;
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Processor time that children used that have ended.
pub(super) fn children_cpu_s() -> anyhow::Result<f64> {
    cpu_s_of("self", 13)
}

/// Sums up two fields of a stat file, counted behind the name of the program.
fn cpu_s_of(process: &str, field: usize) -> anyhow::Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat"))?;
    let (_, rest) = stat.rsplit_once(')').context("/proc speaks in tongues")?;
    let ticks = rest.split_whitespace().skip(field).take(2);
    let ticks: u64 = ticks.filter_map(|tick| tick.parse::<u64>().ok()).sum();
    Ok(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
}

/// Adds up the files below a directory, in bytes.
pub(super) fn bytes_below(dir: &Path) -> anyhow::Result<u64> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(dir).with_context(|| format!("cannot list {}", dir.display()))? {
        let entry = entry?;
        let meta = entry.metadata()?;
        bytes += if meta.is_dir() {
            bytes_below(&entry.path())?
        } else {
            meta.len()
        };
    }
    Ok(bytes)
}

/// Finds a program on the path.
pub(super) fn on_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let mut all = std::env::split_paths(&path).map(|dir| dir.join(program));
    all.find(|path| path.is_file())
}
