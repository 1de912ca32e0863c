//! Programs that a story starts on the stage and that run beside it.
//!
//! Not here: restarting them. A story that wants one again starts it again.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::Signal;

use super::clock::wait_until;
use super::error::StageError;
use super::process::Process;
use super::record::{DaemonRecord, Record};

/// A program that runs on the stage; it outlives this handle, but not the stage.
#[derive(Debug, Clone)]
pub struct Daemon {
    name: String,
    process: Process,
    log_path: PathBuf,
}

impl Daemon {
    /// Starts `command`, with all it says in one log, and notes it in the stage's record.
    pub(super) fn spawn(
        stage: &Path,
        name: &str,
        command: &mut Command,
    ) -> Result<Self, StageError> {
        let logs = stage.join("logs");
        let log_path = logs.join(format!("{name}.log"));
        let what = format!("open {}", log_path.display());
        std::fs::create_dir_all(&logs).map_err(StageError::io(what.clone()))?;
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&log_path)
            .map_err(StageError::io(what.clone()))?;
        let child = command
            .stdin(Stdio::null())
            .stdout(log.try_clone().map_err(StageError::io(what))?)
            .stderr(log)
            .process_group(0)
            .spawn()
            .map_err(StageError::io(format!("start {name}")))?;
        let process = Process::observe(child.id()).ok_or_else(|| StageError::NoSuch {
            what: format!("process of {name}: see {}", log_path.display()),
        })?;
        let entry = DaemonRecord {
            name: name.to_owned(),
            process,
        };
        Record::change(stage, |record| record.daemons.push(entry))?;
        Ok(Self {
            name: name.to_owned(),
            process,
            log_path,
        })
    }

    /// The name it was started under.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its process.
    pub fn process(&self) -> Process {
        self.process
    }

    /// Whether it still runs.
    pub fn is_alive(&self) -> bool {
        self.process.is_alive()
    }

    /// Where all it says is written.
    pub fn log_path(&self) -> &Path {
        &self.log_path
    }

    /// All it has said so far, and what earlier programs of the same name have said.
    ///
    /// # Errors
    ///
    /// Says that the log cannot be read.
    pub fn log(&self) -> Result<String, StageError> {
        std::fs::read(&self.log_path)
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .map_err(StageError::io(format!("read {}", self.log_path.display())))
    }

    /// Asks it to end and waits until it has.
    ///
    /// # Errors
    ///
    /// Says that it did not end within the limit; it is left running then.
    pub fn stop(&self, limit: Duration) -> Result<(), StageError> {
        self.end(Signal::TERM, limit)
    }

    /// Ends it without a word, as a power cut would.
    ///
    /// # Errors
    ///
    /// Says that it did not end within the limit.
    pub fn kill(&self, limit: Duration) -> Result<(), StageError> {
        self.end(Signal::KILL, limit)
    }

    fn end(&self, signal: Signal, limit: Duration) -> Result<(), StageError> {
        self.process.signal(signal);
        let what = format!("{} to end", self.name);
        wait_until(&what, limit, || Ok((!self.is_alive()).then_some(())))
    }
}
