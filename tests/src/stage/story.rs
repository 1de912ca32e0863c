//! Turns on the stage: one story at a time, and none where the stage cannot stand.
//!
//! Not here: choosing stories. `cargo test` does that by name.

use std::fs::File;
use std::io::Write;

use super::available::available;
use super::record::lock;

/// Set to 1 where nothing may be left out: then a missing part fails the story.
const COMPLETE: &str = "PLIMSOLL_TESTS_COMPLETE";
const LOCK: &str = "/tmp/plimsoll-stage.lock";

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
    let reason = match available() {
        Err(missing) => missing.to_string(),
        Ok(()) => match lock(LOCK.as_ref()) {
            Ok(lock) => return Some(Turn { _lock: lock }),
            Err(error) => error.to_string(),
        },
    };
    let must_be_complete = std::env::var_os(COMPLETE).is_some_and(|value| value == "1");
    assert!(!must_be_complete, "story {story} cannot be told: {reason}");
    // Not through the test harness, which would swallow it.
    drop(writeln!(std::io::stderr(), "left out: {story}: {reason}"));
    None
}
