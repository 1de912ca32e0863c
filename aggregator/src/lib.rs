//! Memory and voice of Plimsoll: takes what agents saw, keeps it, and answers planners.
//!
//! One batch comes in through [`ingest`], is written by [`writer`] and acknowledged once durable.
//! [`query`] tells what was seen; [`forecast`] what is expected, by way of [`planner`] and [`room`];
//! [`guard`] decides who comes in and who may ask for what;
//! [`witness`] holds each finished migration against the prediction made before it.

pub mod advise;
pub mod answer;
mod columns;
pub mod config;
mod conflict;
pub mod credit;
pub mod devices;
pub mod forecast;
pub mod guard;
pub mod ingest;
pub mod known;
pub mod lessons;
mod metrics;
pub mod outside;
pub mod page;
pub mod past;
pub mod planner;
pub mod query;
pub mod reached;
pub mod room;
pub mod roster;
#[cfg(test)]
mod scene;
pub mod serve;
mod steps;
pub mod traps;
pub mod truth;
mod weigh;
pub mod witness;
pub mod writer;
