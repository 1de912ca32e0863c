//! Devices over UDP, played by sockets of our own; the real snmpd is asked by the stories of the stage.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a story ends where its parts are not what they must be, and prints its figures"
)]

mod bent;
mod crowd;
mod fake;
mod published;
mod wire;
