//! Which node this is: told by the configuration, else by libvirt, else by the machine.
//!
//! An identity that libvirt told once is kept beside the spool, so that a start without libvirt does
//! not make a second node of this one. It does not register nodes anywhere.

use std::path::{Path, PathBuf};
use std::time::Duration;

use plimsoll_libvirt::CallError;
use plimsoll_model::{Clock, NodeId};

use crate::chain::chain;
use crate::config::{Config, Libvirt};
use crate::source::libvirt;

/// How long a libvirt that nobody reaches is waited for at the first start.
const REFUSED_WAIT: Duration = Duration::from_secs(3);
/// How long a libvirt that is there but does not answer is waited for at the first start.
const SLOW_WAIT: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(500);
const MACHINE_ID: &str = "etc/machine-id";
const PRODUCT_UUID: &str = "sys/class/dmi/id/product_uuid";

/// Who said which node this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// `id` in [node].
    Configuration,
    /// Libvirt's host UUID, told now.
    Libvirt,
    /// Libvirt's host UUID, told at an earlier start.
    Kept,
    /// The machine id of the operating system.
    MachineId,
}

impl Origin {
    /// Names it for people.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Configuration => "`id` in [node]",
            Self::Libvirt => "libvirt's host UUID",
            Self::Kept => "libvirt's host UUID of an earlier start",
            Self::MachineId => "/etc/machine-id",
        }
    }
}

/// Why it cannot be said which node this is.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// Nothing says it.
    #[error(
        "nothing says which node this is; set `id` in [node], or give the machine an /etc/machine-id"
    )]
    Nobody,
    /// The kept identity cannot be read.
    #[error("{} holds no UUID; remove the file, or set `id` in [node]", path.display())]
    Kept {
        /// The file.
        path: PathBuf,
    },
    /// The state was made on another machine.
    #[error(
        "{} was kept by node {kept}, but this machine is {here}; was it copied? remove `state_dir`, \
         or set `id` in [node]",
        path.display()
    )]
    Copied {
        /// The file.
        path: PathBuf,
        /// What it says.
        kept: NodeId,
        /// What libvirt and the machine say.
        here: NodeId,
    },
}

/// Finds out which node this is, and keeps what libvirt says for later starts.
///
/// At the first start it waits for libvirt: 3 s if nobody listens, 60 s if it is slow. At later starts it
/// asks once, which takes as long as a probe may.
///
/// # Errors
/// If nothing says it, or if the kept identity is that of another machine or is damaged.
pub async fn find(config: &Config, clock: &dyn Clock) -> Result<(NodeId, Origin), IdentityError> {
    let found = decide(config, clock, true).await?;
    if found.1 == Origin::Libvirt {
        keep(&kept_in(config), found.0);
    }
    Ok(found)
}

/// Finds out which node this is without waiting, and keeps nothing.
///
/// # Errors
/// As [`find`].
pub async fn peek(config: &Config, clock: &dyn Clock) -> Result<(NodeId, Origin), IdentityError> {
    decide(config, clock, false).await
}

async fn decide(
    config: &Config,
    clock: &dyn Clock,
    is_patient: bool,
) -> Result<(NodeId, Origin), IdentityError> {
    if let Some(told) = config.node_id {
        return Ok((told, Origin::Configuration));
    }
    let path = kept_in(config);
    let kept = read_kept(&path)?;
    let said = match &config.libvirt {
        Some(libvirt) => ask(libvirt, kept.is_some() || !is_patient, clock).await,
        None => None,
    };
    settle(Path::new("/"), &path, kept, said)
}

fn kept_in(config: &Config) -> PathBuf {
    config.state_dir.join("node-id")
}

/// Asks libvirt, once or until it answers or was waited for long enough.
async fn ask(libvirt: &Libvirt, once: bool, clock: &dyn Clock) -> Option<NodeId> {
    let started = clock.monotonic();
    let mut told = false;
    loop {
        let (error, wait) = match libvirt::identify(libvirt).await {
            Ok(node) => return node,
            Err(error) if is_unreachable(&error) => (error, REFUSED_WAIT),
            Err(error) => (error, SLOW_WAIT),
        };
        if once || clock.monotonic().since(started) >= wait {
            return None;
        }
        if !told && !is_unreachable(&error) {
            tracing::info!(
                error = chain(&error),
                "waiting for libvirt to say which node this is"
            );
            told = true;
        }
        tokio::time::sleep(PAUSE).await;
    }
}

fn is_unreachable(error: &CallError) -> bool {
    matches!(
        error,
        CallError::SocketMissing { .. }
            | CallError::NotListening { .. }
            | CallError::PermissionDenied { .. }
            | CallError::Connect { .. }
    )
}

/// Decides between what is kept and what libvirt says.
fn settle(
    root: &Path,
    path: &Path,
    kept: Option<NodeId>,
    said: Option<NodeId>,
) -> Result<(NodeId, Origin), IdentityError> {
    match (kept, said) {
        (None, Some(said)) => Ok((said, Origin::Libvirt)),
        (Some(kept), Some(said)) if kept == said => Ok((kept, Origin::Libvirt)),
        // Where the board has no UUID, libvirt makes up a new one at each of its starts.
        (Some(kept), Some(here)) if is_of_this_machine(root, here) => {
            let path = path.to_owned();
            Err(IdentityError::Copied { path, kept, here })
        }
        (Some(kept), _) => Ok((kept, Origin::Kept)),
        (None, None) => {
            let machine = read_id(&root.join(MACHINE_ID)).ok_or(IdentityError::Nobody)?;
            Ok((machine, Origin::MachineId))
        }
    }
}

fn is_of_this_machine(root: &Path, said: NodeId) -> bool {
    [PRODUCT_UUID, MACHINE_ID]
        .iter()
        .any(|path| read_id(&root.join(path)) == Some(said))
}

fn read_id(path: &Path) -> Option<NodeId> {
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

fn read_kept(path: &Path) -> Result<Option<NodeId>, IdentityError> {
    match std::fs::read_to_string(path) {
        Ok(text) => text
            .trim()
            .parse()
            .map(Some)
            .map_err(|_| IdentityError::Kept {
                path: path.to_owned(),
            }),
        // What cannot be read was not kept by this agent; libvirt is asked.
        Err(_) => Ok(None),
    }
}

/// Keeps the identity whole or not at all; only a convenience for a start while libvirt is down.
fn keep(path: &Path, node: NodeId) {
    let new = path.with_extension("new");
    let kept = path
        .parent()
        .map_or(Ok(()), std::fs::create_dir_all)
        .and_then(|()| std::fs::write(&new, format!("{node}\n")))
        .and_then(|()| std::fs::rename(&new, path));
    if let Err(error) = kept {
        tracing::debug!(%error, path = %path.display(), "the identity could not be kept");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(product: &str) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in [
            (PRODUCT_UUID, product),
            (MACHINE_ID, "0123456789abcdef0123456789abcdef\n"),
        ] {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        root
    }

    #[test]
    fn what_libvirt_said_once_stays_unless_the_machine_itself_is_another() {
        let (kept, said) = (NodeId::random(), NodeId::random());
        let file = Path::new("node-id");
        let made_up = machine("Not Settable\n");
        let settled = settle(made_up.path(), file, Some(kept), Some(said)).unwrap();
        assert_eq!(settled, (kept, Origin::Kept), "libvirt made its UUID up");
        let real = machine(&format!("{said}\n"));
        let error = settle(real.path(), file, Some(kept), Some(said)).unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains(&kept.to_string()) && text.contains(&said.to_string()),
            "{text}"
        );
        let settled = settle(real.path(), file, None, Some(said)).unwrap();
        assert_eq!(settled, (said, Origin::Libvirt));
    }

    #[test]
    fn without_libvirt_the_kept_identity_stands_above_the_machine_s() {
        let root = machine("");
        let kept = NodeId::random();
        let file = Path::new("node-id");
        assert_eq!(
            settle(root.path(), file, Some(kept), None).unwrap(),
            (kept, Origin::Kept)
        );
        let settled = settle(root.path(), file, None, None).unwrap();
        assert_eq!(settled.1, Origin::MachineId);
        let empty = tempfile::tempdir().unwrap();
        assert!(matches!(
            settle(empty.path(), file, None, None),
            Err(IdentityError::Nobody)
        ));
    }

    #[test]
    fn an_identity_is_kept_and_a_damaged_one_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state/node-id");
        assert_eq!(read_kept(&path).unwrap(), None);
        let node = NodeId::random();
        keep(&path, node);
        assert_eq!(read_kept(&path).unwrap(), Some(node));
        std::fs::write(&path, "nonsense").unwrap();
        assert!(
            read_kept(&path)
                .unwrap_err()
                .to_string()
                .contains("state/node-id")
        );
    }
}
