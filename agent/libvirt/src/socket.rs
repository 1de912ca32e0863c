//! Where the daemon's sockets may be.
//!
//! It does not connect, and does not ask the system's service manager.

use std::path::{Path, PathBuf};

/// Directory of the sockets of a system daemon.
pub const DEFAULT_RUN_DIR: &str = "/run/libvirt";

/// A place where a socket may be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Path of the socket.
    pub path: PathBuf,
    /// Whether a file was there when asked; nobody may listen on it all the same.
    pub exists: bool,
}

/// Lists the sockets to try under a run directory, best first: the modular QEMU daemon, then the
/// monolithic one.
#[must_use]
pub fn socket_candidates(run_dir: &Path, read_only: bool) -> Vec<Candidate> {
    let names = if read_only {
        ["virtqemud-sock-ro", "libvirt-sock-ro"]
    } else {
        ["virtqemud-sock", "libvirt-sock"]
    };
    names
        .iter()
        .map(|name| {
            let path = run_dir.join(name);
            let exists = path.exists();
            Candidate { path, exists }
        })
        .collect()
}
