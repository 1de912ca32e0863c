//! The store beside its peers: the same telemetry fed to an aggregator, to VictoriaMetrics and to
//! Prometheus, each a real process on loopback, and the same questions asked of all.
//!
//! [`shape`] makes the samples; [`ours`] and [`peer`] each feed and ask one engine; [`run`] goes through
//! the stages and [`table`] prints them.
//!
//! Not here: installing anything, or building the aggregator; what is missing is named.

mod engine;
mod http;
mod ours;
mod peer;
mod progress;
mod remote_write;
pub mod run;
mod server;
pub mod shape;
pub mod table;
