//! The state file of a stage: what it has made, written before it is made.
//!
//! Processes, mounts and links need no entry before they exist: they live in network and mount
//! namespaces that have one, so a teardown finds them even if their maker died a moment later.
//!
//! Not here: the teardown itself (see `sweep`).

use std::fs::File;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::error::StageError;
use super::process::Process;

const FILE: &str = "stage.json";
/// What names of directories begin with that are not yet a stage.
const FRESH: &str = "new-";
const LOCK: &str = "stage.lock";

/// Everything needed to use a stage from another process, or to take it away.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Record {
    /// The unique part of every name.
    pub(super) id: String,
    /// The process it falls with; none if it was left standing on purpose.
    pub(super) owner: Option<Process>,
    pub(super) link_mbit: u32,
    pub(super) hub: PlaceRecord,
    pub(super) nodes: Vec<NodeRecord>,
    /// Programs that were started for a story and deserve a word before the end.
    pub(super) daemons: Vec<DaemonRecord>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PlaceRecord {
    pub(super) name: String,
    pub(super) network_namespace: String,
    pub(super) address: String,
    /// The process that keeps the namespaces; none until it has been started.
    pub(super) holder: Option<Process>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NodeRecord {
    pub(super) place: PlaceRecord,
    pub(super) uuid: uuid_text::UuidText,
    pub(super) libvirtd: Option<Process>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct DaemonRecord {
    pub(super) name: String,
    pub(super) process: Process,
}

/// UUIDs as text, for the uuid crate is built without serde here.
pub(super) mod uuid_text {
    use serde::{Deserialize, Serialize};
    use uuid::Uuid;

    #[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
    #[serde(try_from = "String", into = "String")]
    pub(in super::super) struct UuidText(pub(in super::super) Uuid);

    impl TryFrom<String> for UuidText {
        type Error = uuid::Error;

        fn try_from(text: String) -> Result<Self, uuid::Error> {
            Uuid::parse_str(&text).map(Self)
        }
    }

    impl From<UuidText> for String {
        fn from(text: UuidText) -> Self {
            text.0.to_string()
        }
    }
}

impl Record {
    /// The processes the stage knows by number, those of the stories last.
    pub(super) fn processes(&self) -> Vec<Process> {
        let holders = self.nodes.iter().filter_map(|node| node.place.holder);
        let libvirtds = self.nodes.iter().filter_map(|node| node.libvirtd);
        let daemons = self.daemons.iter().map(|daemon| daemon.process);
        self.hub
            .holder
            .into_iter()
            .chain(holders)
            .chain(libvirtds)
            .chain(daemons)
            .collect()
    }

    pub(super) fn network_namespaces(&self) -> impl Iterator<Item = &str> {
        std::iter::once(&self.hub)
            .chain(self.nodes.iter().map(|node| &node.place))
            .map(|place| place.network_namespace.as_str())
    }

    /// Whether the process this stage falls with is gone.
    pub(super) fn is_stale(&self) -> bool {
        self.owner.is_some_and(|owner| !owner.is_alive())
    }

    /// Reads the state file of a stage; none if there is no stage in the directory.
    pub(super) fn read(directory: &Path) -> Result<Option<Self>, StageError> {
        let path = directory.join(FILE);
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(StageError::io(format!("read {}", path.display()))(error)),
        };
        match serde_json::from_str(&text) {
            Ok(record) => Ok(Some(record)),
            Err(source) => Err(StageError::Record { path, source }),
        }
    }

    /// Replaces the state file in one step, so that a reader never sees half of it.
    pub(super) fn write(&self, directory: &Path) -> Result<(), StageError> {
        let path = directory.join(FILE);
        let fresh = directory.join("stage.json.new");
        let text = serde_json::to_string_pretty(self).map_err(|source| StageError::Record {
            path: path.clone(),
            source,
        })?;
        std::fs::write(&fresh, text)
            .and_then(|()| std::fs::rename(&fresh, &path))
            .map_err(StageError::io(format!("write {}", path.display())))
    }

    /// Changes the state file while no other process does.
    pub(super) fn change(
        directory: &Path,
        edit: impl FnOnce(&mut Self),
    ) -> Result<Self, StageError> {
        let _lock = lock(&directory.join(LOCK))?;
        let mut record = Self::read(directory)?.ok_or_else(|| StageError::NoSuch {
            what: format!("stage in {}", directory.display()),
        })?;
        edit(&mut record);
        record.write(directory)?;
        Ok(record)
    }
}

/// Takes a lock that ends with the file, hence with the process at the latest.
pub(super) fn lock(path: &Path) -> Result<File, StageError> {
    let what = format!("lock {}", path.display());
    let file = File::create(path).map_err(StageError::io(what.clone()))?;
    file.lock().map_err(StageError::io(what))?;
    Ok(file)
}

/// What the network namespaces of the stage with this id begin with.
pub(super) fn namespace_prefix(id: &str) -> String {
    format!("plimsoll-{id}-")
}

/// What the directory of a stage is called until its record is in it: whose it is stands in the name, for
/// there is nowhere else yet.
pub(super) fn fresh_name(id: &str, owner: Option<Process>) -> String {
    let (pid, start_ticks) = owner.map_or((0, 0), |owner| (owner.pid, owner.start_ticks));
    format!("{FRESH}{id}-{pid}-{start_ticks}")
}

/// Whether a directory was begun by a process that ended before it wrote a record.
pub(super) fn is_stray(directory: &Path) -> bool {
    let name = directory.file_name().and_then(|name| name.to_str());
    let Some(rest) = name.and_then(|name| name.strip_prefix(FRESH)) else {
        return false;
    };
    let mut fields = rest.rsplit('-').map(str::parse);
    let (Some(Ok(start_ticks)), Some(Ok(pid))) = (fields.next(), fields.next()) else {
        return false;
    };
    let owner = u32::try_from(pid).map(|pid| Process { pid, start_ticks });
    !directory.join(FILE).exists() && owner.is_ok_and(|owner| !owner.is_alive())
}

/// The directories under `base` that hold a stage, or the stray beginning of one.
pub(super) fn directories(base: &Path) -> Result<Vec<PathBuf>, StageError> {
    let entries = match std::fs::read_dir(base) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(StageError::io(format!("list {}", base.display()))(error)),
    };
    let mut found: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.join(FILE).is_file() || is_stray(path))
        .collect();
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_begun_by_one_who_died_is_found_and_that_of_a_living_one_left_alone() {
        let base = tempfile::tempdir().unwrap();
        let own = Process::own().unwrap();
        let gone = Process {
            start_ticks: own.start_ticks + 1,
            ..own
        };
        let make = |name: &str| {
            let path = base.path().join(name);
            std::fs::create_dir(&path).unwrap();
            path
        };
        make(&fresh_name("aaaaaa", Some(own)));
        make("new-thing");
        make("other");
        let stray = make(&fresh_name("bbbbbb", Some(gone)));
        assert_eq!(
            directories(base.path()).unwrap(),
            std::slice::from_ref(&stray)
        );
        let taken = crate::stage::take_away(base.path(), |stage| stage.is_stale).unwrap();
        assert_eq!(taken.len(), 1);
        assert!(!stray.exists());
        assert_eq!(std::fs::read_dir(base.path()).unwrap().count(), 3);
    }
}
