//! How true the estimates are: many real migrations on the stage, each held against what the aggregator
//! said before it and against what simpler formulas say.
//!
//! The estimate sees nothing but what agents and aggregator measured. What the guests truly do is known
//! here alone; it makes the row of the oracle, which tells errors of the model from those of telemetry.

pub mod design;
pub mod record;
pub mod run;
pub mod table;
