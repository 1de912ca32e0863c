//! The stories of the store: what is acknowledged is there again, whatever happens to the process or to
//! the bytes.
#![expect(
    clippy::unwrap_used,
    reason = "a story ends where its parts are not what they must be"
)]

mod crash;
mod damage;
mod full;
mod golden;
mod keeps;
mod scene;
mod seals;
