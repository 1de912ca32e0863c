//! The guard: who may come in, and who may ask for what. It reads certificates and paths of calls,
//! never messages.
//!
//! A connection passes five doors in this order: [`door`] (how many, how fast), [`tls`] (which
//! certificate), [`calls`] (how many of them, how long), [`rules`] (which call), [`turnstile`] (how many questions, and how long). Without `[tls]` the caller is [`Caller::Local`], which may do
//! all; the configuration lets that happen on loopback only, unless told otherwise.

pub mod caller;
pub mod calls;
pub mod door;
pub mod limits;
pub mod memory;
pub mod pki;
mod places;
pub mod rules;
pub mod tls;
pub mod turnstile;
mod unread;
pub(crate) mod view;

pub use caller::{Caller, Role};
