//! How a connection is opened.
//!
//! It does not read configuration: every value is the caller's.

use std::time::Duration;

/// Calls in flight unless told otherwise: one less than the daemon serves per client by default.
pub(crate) const CALLS_IN_FLIGHT_DEFAULT: usize = 4;
/// Events that wait for a slow reader unless told otherwise.
pub(crate) const EVENT_CAPACITY_DEFAULT: usize = 1024;

/// What [`crate::Connection::open`] asks of the daemon and of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenOptions {
    /// The driver to open; absent lets the daemon choose.
    pub uri: Option<String>,
    /// Opens for reading only; the read-only socket enforces it besides.
    pub read_only: bool,
    /// Time for connecting and the handshake together.
    pub deadline: Duration,
    /// Silence after which the daemon is pinged; zero turns own pings off.
    pub keepalive_interval: Duration,
    /// Pings without any sign of life after which the daemon counts as dead.
    pub keepalive_count: u32,
    /// Calls the daemon works on at a time, abandoned ones included; at least one.
    pub calls_in_flight_max: usize,
    /// Events that may wait to be received; more are dropped and counted; at least one.
    pub event_capacity: usize,
}

impl Default for OpenOptions {
    fn default() -> OpenOptions {
        OpenOptions {
            uri: Some("qemu:///system".to_owned()),
            read_only: true,
            deadline: Duration::from_secs(5),
            keepalive_interval: Duration::from_secs(5),
            keepalive_count: 2,
            calls_in_flight_max: CALLS_IN_FLIGHT_DEFAULT,
            event_capacity: EVENT_CAPACITY_DEFAULT,
        }
    }
}
