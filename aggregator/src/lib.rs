//! Memory and voice of Plimsoll: takes what agents saw, keeps it, and answers planners.
//!
//! One batch comes in through [`ingest`], is written by [`writer`] and acknowledged once durable.
//! [`query`] tells what was seen; [`forecast`] what is expected, by way of [`planner`] and [`room`];
//! [`witness`] holds each finished migration against the prediction made before it.

pub mod answer;
pub mod config;
pub mod forecast;
pub mod ingest;
pub mod known;
pub mod page;
pub mod planner;
pub mod query;
pub mod room;
pub mod roster;
pub mod serve;
pub mod witness;
pub mod writer;
