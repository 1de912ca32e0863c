//! Who this program is among all SNMP engines, and how often it was started: kept on disk, since the other
//! end takes an engine whose count went back for a forger.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use async_snmp::v3::{AuthoritativeEngine, PersistedAuthoritativeEngine, generate_engine_id};
use serde::{Deserialize, Serialize};

/// Why the state cannot be kept.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The file holds something else.
    #[error("{} holds no state of an SNMP engine; remove it, and tell the other end of the new one", path.display())]
    Broken {
        /// The file.
        path: PathBuf,
    },
    /// The file cannot be read or written.
    #[error("cannot keep the state of the SNMP engine in {}", path.display())]
    Kept {
        /// The file.
        path: PathBuf,
        /// What went wrong.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

#[derive(Debug, Serialize, Deserialize)]
struct State {
    engine_id: Vec<u8>,
    boots: u32,
}

/// Takes up the engine of earlier starts, or makes one; counts this start.
///
/// # Errors
/// If the file cannot be read or written, or holds something else.
pub fn open(path: &Path) -> Result<AuthoritativeEngine, EngineError> {
    let kept = |source: Box<dyn std::error::Error + Send + Sync>| EngineError::Kept {
        path: path.to_owned(),
        source,
    };
    let broken = || EngineError::Broken {
        path: path.to_owned(),
    };
    let target = path.to_owned();
    let write = move |state: &PersistedAuthoritativeEngine| {
        let state = State {
            engine_id: state.engine_id().to_vec(),
            boots: state.engine_boots(),
        };
        keep(&target, &state)
    };
    match std::fs::read(path) {
        Ok(bytes) => {
            let state: State = serde_json::from_slice(&bytes).map_err(|_| broken())?;
            let before = PersistedAuthoritativeEngine::new(state.engine_id, state.boots)
                .map_err(|_| broken())?;
            AuthoritativeEngine::restart(before, write).map_err(|error| kept(error))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let id = generate_engine_id().map_err(|error| kept(error))?;
            AuthoritativeEngine::install(id, write).map_err(|error| kept(error))
        }
        Err(error) => Err(kept(error.into())),
    }
}

/// Keeps the state whole or not at all.
fn keep(path: &Path, state: &State) -> std::io::Result<()> {
    let new = path.with_extension("new");
    let dir = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(dir)?;
    let mut file = std::fs::File::create(&new)?;
    file.write_all(&serde_json::to_vec(state)?)?;
    file.sync_all()?;
    std::fs::rename(&new, path)?;
    std::fs::File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_engine_stays_who_it_is_and_counts_its_starts() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state/snmp-engine");
        let first = open(&path).unwrap();
        let second = open(&path).unwrap();
        assert_eq!(first.engine_id(), second.engine_id());
        assert_eq!((first.engine_boots(), second.engine_boots()), (1, 2));
        std::fs::write(&path, "{}").unwrap();
        let error = open(&path).unwrap_err().to_string();
        assert!(
            error.contains("snmp-engine") && error.contains("remove it"),
            "{error}"
        );
    }
}
