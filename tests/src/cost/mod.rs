//! What watching costs: the agent and its peers, each a real process, look at the same guests of one stage,
//! one after the other, through a socket that counts what they ask of libvirt.
//!
//! [`proxy`] is that socket, [`meter`] reads /proc, [`system`] starts and asks each of them, [`replay`]
//! answers for hundreds of guests what one answered; [`run`] goes through the steps and [`table`] prints.
//!
//! Not here: installing the peers, or building the agent; what is missing is named in the table.

mod frame;
mod meter;
mod proxy;
mod replay;
pub mod run;
mod system;
pub mod table;

pub use system::System;
