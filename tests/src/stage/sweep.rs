//! Takes a stage away, whatever state it is in.
//!
//! Processes end first, those of the stories after a word of warning; then the network
//! namespaces go, and with them links and bridge; the mounts were private to mount namespaces
//! that went with their last process; the directory goes last, for it holds the state file.
//!
//! Not here: anything the stage's own record does not name.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;

use super::clock::wait_until;
use super::error::StageError;
use super::process::{Process, in_network_namespace, run};
use super::record::{Record, namespace_prefix};

/// Where `ip netns` keeps network namespaces by name.
const NAMESPACES: &str = "/run/netns";
/// How long a story's program may take to end well.
const GRACE: Duration = Duration::from_secs(3);
/// How long the kernel may take to end the rest.
const LIMIT: Duration = Duration::from_secs(20);

/// Takes away the stage that `record` describes and `directory` holds.
pub(super) fn sweep(record: &Record, directory: &Path) -> Result<(), StageError> {
    let daemons: Vec<Process> = record.daemons.iter().map(|daemon| daemon.process).collect();
    for daemon in &daemons {
        daemon.signal(Signal::TERM);
    }
    let patience = wait_until("the programs of the story to end", GRACE, || {
        Ok((!daemons.iter().any(Process::is_alive)).then_some(()))
    });
    // Out of patience is no failure: what is left is killed with the rest.
    drop(patience);
    let namespaces: Vec<String> = record.network_namespaces().map(str::to_owned).collect();
    sweep_all(&namespaces, &record.processes(), directory)
}

/// Takes away a stage whose state file says nothing: by the names its parts are given.
pub(super) fn sweep_by_name(id: &str, directory: &Path) -> Result<(), StageError> {
    let prefix = namespace_prefix(id);
    let namespaces: Vec<String> = match std::fs::read_dir(NAMESPACES) {
        Ok(entries) => entries
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter(|name| name.starts_with(&prefix))
            .collect(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(StageError::io(format!("list {NAMESPACES}"))(error)),
    };
    sweep_all(&namespaces, &[], directory)
}

fn sweep_all(namespaces: &[String], known: &[Process], directory: &Path) -> Result<(), StageError> {
    wait_until("the stage's processes to end", LIMIT, || {
        let mut left: Vec<Process> = namespaces
            .iter()
            .flat_map(|name| in_network_namespace(name))
            .collect();
        left.extend(known.iter().copied().filter(Process::is_alive));
        for process in &left {
            process.signal(Signal::KILL);
        }
        Ok(left.is_empty().then_some(()))
    })?;
    for name in namespaces {
        if Path::new(NAMESPACES).join(name).exists() {
            run(Command::new("ip").args(["netns", "delete", name]), LIMIT)?;
        }
    }
    match std::fs::remove_dir_all(directory) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        result => result.map_err(StageError::io(format!("remove {}", directory.display()))),
    }
}
