//! Turns on the stage: one story at a time, and none where the stage cannot stand.
//!
//! Not here: choosing stories. `cargo test` does that by name.

use std::fs::File;
use std::io::Write;
use std::path::PathBuf;

use super::available::{available, available_in};
use super::record::lock;

/// Set to 1 where nothing may be left out: then a missing part fails the story.
const COMPLETE: &str = "PLIMSOLL_TESTS_COMPLETE";
const LOCK: &str = "/tmp/plimsoll-stage.lock";

/// Names the directory of newer programs that `packaging/stage-newer` has made.
const NEWER: &str = "PLIMSOLL_STAGE_NEWER";

/// A story's turn: while it is held, no other story of any process raises a stage.
#[derive(Debug)]
pub struct Turn {
    _lock: File,
}

/// Waits for this story's turn; none, with the story's name printed, where no stage can stand.
///
/// # Panics
///
/// If a part is missing, or the lock cannot be taken, where `PLIMSOLL_TESTS_COMPLETE` is 1.
pub fn turn(story: &str) -> Option<Turn> {
    match take() {
        Ok(turn) => Some(turn),
        Err(reason) => {
            leave_out(story, &reason);
            None
        }
    }
}

/// The same for a story that wants newer programs, and the directory that has them.
///
/// # Panics
///
/// As [`turn`]; also where nobody says which directory it is, or the directory lacks a part.
pub fn turn_on_newer(story: &str) -> Option<(Turn, PathBuf)> {
    let newer = std::env::var_os(NEWER)
        .map(PathBuf::from)
        .ok_or_else(|| format!("{NEWER} names no directory that `packaging/stage-newer` has made"))
        .and_then(|newer| match available_in(&newer) {
            Ok(()) => Ok(newer),
            Err(missing) => Err(missing.to_string()),
        });
    match newer.and_then(|newer| Ok((take()?, newer))) {
        Ok(turn) => Some(turn),
        Err(reason) => {
            leave_out(story, &reason);
            None
        }
    }
}

fn take() -> Result<Turn, String> {
    available().map_err(|missing| missing.to_string())?;
    let lock = lock(LOCK.as_ref()).map_err(|error| error.to_string())?;
    Ok(Turn { _lock: lock })
}

fn leave_out(story: &str, reason: &str) {
    let must_be_complete = std::env::var_os(COMPLETE).is_some_and(|value| value == "1");
    assert!(!must_be_complete, "story {story} cannot be told: {reason}");
    // Not through the test harness, which would swallow it.
    drop(writeln!(std::io::stderr(), "left out: {story}: {reason}"));
}
