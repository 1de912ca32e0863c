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

mod crash;
mod damage;
mod full;
mod golden;
mod keeps;
mod scene;
mod seals;
