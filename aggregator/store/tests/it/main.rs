//! The stories of the store: what is acknowledged is there again, whatever happens to the process or to
//! the bytes.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a story ends where its parts are not what they must be"
)]

/// What a test does to a file.
type Damage<'a> = (&'a str, &'a dyn Fn(&mut Vec<u8>));

mod damage;
mod files;
#[path = "../../examples/ordeal/fold.rs"]
mod fold;
mod full;
mod fuzz;
mod golden;
mod handles;
mod keeps;
mod model;
mod ordeals;
mod rolls;
#[path = "../../examples/ordeal/rollups.rs"]
mod rollups;
mod room;
mod scene;
mod seals;
#[path = "../../examples/ordeal/world.rs"]
#[expect(dead_code, reason = "the program needs more of it")]
mod world;

/// Makes a directory for a test that needs no real disk: in memory, where that can be had.
fn scratch() -> tempfile::TempDir {
    let memory = std::path::Path::new("/dev/shm");
    if memory.is_dir() {
        tempfile::tempdir_in(memory).unwrap()
    } else {
        tempfile::tempdir().unwrap()
    }
}
