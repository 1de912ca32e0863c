//! What can go wrong on the stage.
//!
//! Not here: retries. A stage that fails to rise is torn down by whoever raised it.

use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

use super::available::Missing;
use crate::guest::GuestError;

/// Why the stage did not do what was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StageError {
    /// A part the stage is made of is not on this machine.
    #[error("this machine cannot carry a stage")]
    Missing(#[source] Missing),
    /// A program ran and failed.
    #[error("{what} failed with {status}: {stderr}")]
    Command {
        /// The program and its arguments.
        what: String,
        /// How it ended.
        status: ExitStatus,
        /// What it complained about.
        stderr: String,
    },
    /// Something took longer than its limit and was given up.
    #[error("waited {limit:?} in vain for {what}")]
    TimedOut {
        /// What was waited for.
        what: String,
        /// How long.
        limit: Duration,
    },
    /// The operating system refused.
    #[error("cannot {what}")]
    Io {
        /// What was tried, and on which file.
        what: String,
        /// The refusal.
        #[source]
        source: std::io::Error,
    },
    /// A state file does not hold what a stage wrote.
    #[error("state file {} is damaged: `plimsoll-stage down` takes the stage away", path.display())]
    Record {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
    /// A node, guest or stage of that name is not there, or not exactly once.
    #[error("no such {what}")]
    NoSuch {
        /// What was looked for.
        what: String,
    },
    /// The stage was asked to be larger or slower than it can be.
    #[error("{what}")]
    Config {
        /// The field and its bounds.
        what: String,
    },
    /// The guest cannot be made.
    #[error("guest refused")]
    Guest(#[source] GuestError),
    /// A program answered in a form the stage does not know.
    #[error("cannot read {field} in the answer of {what}")]
    Answer {
        /// The program.
        what: String,
        /// The part that was missing or odd.
        field: String,
    },
}

impl StageError {
    /// Wraps a refusal of the operating system.
    pub(super) fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }
}
