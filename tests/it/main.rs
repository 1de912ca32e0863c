//! Stories told on real parts, one a file. What a story needs and does not find is printed by name; with
//! `PLIMSOLL_TESTS_COMPLETE=1` it fails instead.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a story ends where its parts are not what they must be"
)]

mod canary;
mod cost;
mod curve;
mod devices;
mod diary;
mod eyes;
mod faults;
mod forecast;
mod fuzz;
mod helped;
mod house;
mod limits;
mod moving;
mod peers;
mod pitfalls;
mod promises;
mod published;
mod reflection;
mod refusals;
mod restarts;
mod sealed;
mod tidy;
mod traps;
mod units;
mod wire;
