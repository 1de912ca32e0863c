//! What a stage is to look like, and what it cannot be.
//!
//! Not here: raising it.

use std::path::PathBuf;

use super::available::available_in;
use super::error::StageError;

/// Where stages are kept unless told otherwise.
pub const DEFAULT_BASE: &str = "/tmp/plimsoll-stage";

const NODES_MAX: u32 = 16;
const LINK_MBIT_MAX: u32 = 100_000;

/// What a stage is to look like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StageConfig {
    /// How many nodes there are, 1 to 16; two cores carry two with busy guests.
    pub nodes: u32,
    /// The speed of every node's link, in both directions.
    pub link_mbit: u32,
    /// The directory under which the stage gets its own.
    pub base: PathBuf,
    /// A directory whose `usr` is laid over the machine's in every node: other releases of QEMU and libvirt
    /// than are installed, such as `packaging/stage-newer` unpacks. The machine's own if absent.
    pub programs: Option<PathBuf>,
}

impl Default for StageConfig {
    fn default() -> Self {
        Self {
            nodes: 2,
            link_mbit: 400,
            base: PathBuf::from(DEFAULT_BASE),
            programs: None,
        }
    }
}

/// Refuses what no stage can be.
pub(super) fn check(config: &StageConfig) -> Result<(), StageError> {
    if let Some(programs) = &config.programs {
        available_in(programs).map_err(StageError::Missing)?;
    }
    for (field, value, max) in [
        ("nodes", config.nodes, NODES_MAX),
        ("link_mbit", config.link_mbit, LINK_MBIT_MAX),
    ] {
        if !(1..=max).contains(&value) {
            return Err(StageError::Config {
                what: format!("{field} is {value}, must be 1 to {max}"),
            });
        }
    }
    Ok(())
}
