//! Processes by pid and start time, and programs run to their end within a limit.
//!
//! Not here: killing by name. A pid is signalled only through a descriptor that was opened
//! before its start time was compared, so a pid used anew is never hit.

use std::io::{Read, Seek};
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};

use super::clock::wait_until;
use super::error::StageError;

/// A process that cannot be mistaken for a later one with the same number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Its number.
    pub pid: u32,
    /// When it started, in the kernel's ticks since boot.
    pub start_ticks: u64,
}

impl Process {
    /// Looks up a living process by its number.
    pub(super) fn observe(pid: u32) -> Option<Self> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name in brackets may itself hold spaces and brackets.
        let (_, rest) = stat.rsplit_once(')')?;
        let mut fields = rest.split_ascii_whitespace();
        let state = fields.next()?;
        if state == "Z" || state == "X" {
            return None;
        }
        let start_ticks = fields.nth(18)?.parse().ok()?;
        Some(Self { pid, start_ticks })
    }

    /// The process that asks.
    pub(super) fn own() -> Option<Self> {
        Self::observe(std::process::id())
    }

    /// Whether this very process still runs.
    pub fn is_alive(&self) -> bool {
        Self::observe(self.pid) == Some(*self)
    }

    /// Signals this very process; one that is gone already is left in peace.
    pub(super) fn signal(&self, signal: Signal) {
        let Some(pid) = i32::try_from(self.pid).ok().and_then(Pid::from_raw) else {
            return;
        };
        let Ok(descriptor) = pidfd_open(pid, PidfdFlags::empty()) else {
            return;
        };
        if self.is_alive() {
            // The one failure left is that it ended in between, which is what was wanted.
            pidfd_send_signal(descriptor, signal).ok();
        }
    }
}

/// Every process that lives in the network namespace with this name.
pub(super) fn in_network_namespace(name: &str) -> Vec<Process> {
    let Some(wanted) = file_identity(Path::new("/run/netns").join(name).as_path()) else {
        return Vec::new();
    };
    let Ok(entries) = std::fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok())
        .filter(|pid| {
            let link = format!("/proc/{pid}/ns/net");
            file_identity(Path::new(&link)) == Some(wanted)
        })
        .filter_map(Process::observe)
        .collect()
}

/// Device and inode: the identity of a namespace.
fn file_identity(path: &Path) -> Option<(u64, u64)> {
    use std::os::unix::fs::MetadataExt;
    let metadata = std::fs::metadata(path).ok()?;
    Some((metadata.dev(), metadata.ino()))
}

/// How a program ended and what it said.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// How it ended.
    pub status: ExitStatus,
    /// What it printed.
    pub stdout: String,
    /// What it complained about.
    pub stderr: String,
}

/// Runs a program to its end, or kills it at the limit.
///
/// # Errors
///
/// Says that it could not be started or did not end in time; a bad exit status is no error here.
pub fn outcome(command: &mut Command, limit: Duration) -> Result<Outcome, StageError> {
    let what = line_of(command);
    let scratch = || tempfile::tempfile().map_err(StageError::io("make a scratch file"));
    let (mut stdout, mut stderr) = (scratch()?, scratch()?);
    let shared = |file: &std::fs::File| file.try_clone().map_err(StageError::io("share a file"));
    let mut child = command
        .stdin(Stdio::null())
        .stdout(shared(&stdout)?)
        .stderr(shared(&stderr)?)
        .spawn()
        .map_err(StageError::io(format!("start {what}")))?;
    let ended = wait_until(&what, limit, || {
        child
            .try_wait()
            .map_err(StageError::io(format!("wait for {what}")))
    });
    if ended.is_err() {
        child
            .kill()
            .map_err(StageError::io(format!("end {what}")))?;
        child
            .wait()
            .map_err(StageError::io(format!("wait for {what}")))?;
    }
    Ok(Outcome {
        status: ended?,
        stdout: content(&mut stdout)?,
        stderr: content(&mut stderr)?.trim().to_owned(),
    })
}

/// Runs a program that must succeed, and gives what it printed.
///
/// # Errors
///
/// Says that it could not be started, did not end in time, or failed.
pub fn run(command: &mut Command, limit: Duration) -> Result<String, StageError> {
    let outcome = outcome(command, limit)?;
    if !outcome.status.success() {
        return Err(StageError::Command {
            what: line_of(command),
            status: outcome.status,
            stderr: outcome.stderr,
        });
    }
    Ok(outcome.stdout)
}

fn content(file: &mut std::fs::File) -> Result<String, StageError> {
    let mut bytes = Vec::new();
    file.rewind()
        .and_then(|()| file.read_to_end(&mut bytes))
        .map_err(StageError::io("read a program's output"))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The program and its arguments, without the entry into the node before them.
fn line_of(command: &Command) -> String {
    let words: Vec<_> = std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| word.to_string_lossy().into_owned())
        .collect();
    match words.iter().position(|word| word == "--") {
        Some(at) if words.first().is_some_and(|word| word == "nsenter") => {
            words.into_iter().skip(at + 1).collect::<Vec<_>>().join(" ")
        }
        _ => words.join(" "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_with_the_same_number_and_another_start_is_not_the_same() {
        let own = Process::own().unwrap();
        assert!(own.is_alive());
        let stranger = Process {
            start_ticks: own.start_ticks + 1,
            ..own
        };
        assert!(!stranger.is_alive());
        stranger.signal(Signal::KILL);
    }

    #[test]
    fn a_program_that_hangs_is_ended_at_its_limit() {
        let mut command = Command::new("sleep");
        command.arg("600");
        let result = run(&mut command, Duration::from_millis(50));
        assert!(matches!(result, Err(StageError::TimedOut { .. })));
    }

    #[test]
    fn a_failure_carries_what_the_program_complained_about() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo broken >&2; exit 3"]);
        let error = run(&mut command, Duration::from_secs(10)).unwrap_err();
        assert!(matches!(error, StageError::Command { stderr, .. } if stderr == "broken"));
    }
}
