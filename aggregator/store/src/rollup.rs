//! Rollups: what stays of samples for each five minutes and each hour, and is kept longer than they are.
//!
//! In the order of their making: [`cell`] folds samples into cells; [`block`] is cells as bytes; [`file`]
//! is a file of such blocks; [`making`] writes files out of samples and of older files; [`keeping`] decides
//! when one is made, made anew, merged or forgotten.
//!
//! Not here: how a question is answered from them, which `tiers` does.

mod block;
mod cell;
mod file;
mod keeping;
mod making;

pub use cell::{GAP, Tier};

pub(crate) use block::Cells;
pub(crate) use cell::{Cell, Shape, fold, nearest_rank};
pub(crate) use file::{Lost, Opened, Rolled, RollupEntry, Span, check, tells_all};
pub(crate) use keeping::{Due, hours_around, whole_from};
