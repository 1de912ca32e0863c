//! File systems of the host: which there are, and how much room those of the network have.
//!
//! Their list is text of the kernel and never hangs; a network file system itself is asked through
//! [`SlowPaths`] only.

use std::path::Path;

use plimsoll_model::{Clock, FileSystemFacts, Metric, NodeId, Subject, Sweep, Window};

use super::files::KeptFile;
use super::sys;
use crate::look::Values;
use crate::source::slow::SlowPaths;

/// Most file systems.
const MOUNTS_MAX: usize = 4_096;

/// File systems on disks of the host alone.
const LOCAL: [&str; 6] = ["ext2", "ext3", "ext4", "xfs", "btrfs", "zfs"];
/// File systems that several hosts mount, by a name that is the same on all of them.
const OF_THE_NETWORK: [&str; 5] = ["nfs", "nfs4", "ceph", "fuse.glusterfs", "cifs"];
/// File systems on a disk that several hosts share.
const CLUSTERED: [&str; 2] = ["gfs2", "ocfs2"];

/// Lists the file systems that hold files; others are views of the kernel.
pub fn list(root: &Path) -> Vec<FileSystemFacts> {
    let mut mounts = list_all(root);
    mounts.retain(|mount| is_shared(&mount.kind).is_some());
    mounts
}

/// Where file systems are mounted, found anew only when the kernel's list became another.
#[derive(Debug)]
pub(super) struct Mounted {
    file: KeptFile,
    text: String,
    local: Vec<String>,
    shared: Vec<String>,
}

impl Mounted {
    pub(super) fn new(root: &Path) -> Self {
        Self {
            file: KeptFile::optional(root.join("proc/self/mounts")),
            text: String::new(),
            local: Vec::new(),
            shared: Vec::new(),
        }
    }

    /// Lists those of this host alone.
    pub(super) fn local(&mut self) -> &[String] {
        let text = self.file.read().unwrap_or_default();
        if text != self.text {
            text.clone_into(&mut self.text);
            let mut all = parse(text);
            all.retain(|mount| is_shared(&mount.kind).is_some());
            let (shared, local): (Vec<_>, Vec<_>) = all
                .into_iter()
                .partition(|mount| is_shared(&mount.kind) == Some(true));
            let places = |all: Vec<FileSystemFacts>| all.into_iter().map(|one| one.mount).collect();
            (self.local, self.shared) = (places(local), places(shared));
        }
        &self.local
    }

    /// Lists those of the network that were there when those of this host were listed.
    pub(super) fn shared(&self) -> &[String] {
        &self.shared
    }
}

/// Lists all file systems, to find the one that holds a path.
pub fn list_all(root: &Path) -> Vec<FileSystemFacts> {
    let text = sys::text(&root.join("proc/self/mounts")).unwrap_or_default();
    parse(&text)
}

/// Whether other hosts reach a kind of file system; absent for kinds that are not known.
pub fn is_shared(kind: &str) -> Option<bool> {
    if LOCAL.contains(&kind) {
        Some(false)
    } else if OF_THE_NETWORK.contains(&kind) || CLUSTERED.contains(&kind) {
        Some(true)
    } else {
        None
    }
}

fn parse(mounts: &str) -> Vec<FileSystemFacts> {
    let mut found: Vec<FileSystemFacts> = Vec::new();
    for line in mounts.lines() {
        let mut fields = line.split_ascii_whitespace();
        let (Some(device), Some(mount), Some(kind)) = (fields.next(), fields.next(), fields.next())
        else {
            continue;
        };
        if found.len() >= MOUNTS_MAX {
            continue;
        }
        let mount = unescaped(mount);
        // What was mounted over another hides it.
        found.retain(|earlier| earlier.mount != mount);
        found.push(FileSystemFacts {
            mount,
            kind: kind.to_owned(),
            shared_id: is_shared(kind)
                .filter(|shared| *shared)
                .map(|_| unescaped(device)),
        });
    }
    found.sort_by(|a, b| a.mount.cmp(&b.mount));
    found
}

/// Undoes how the kernel writes blanks in a path.
fn unescaped(text: &str) -> String {
    let blanks = text.replace("\\040", " ").replace("\\011", "\t");
    blanks.replace("\\134", "\\")
}

/// Size and room of a file system; absent where it cannot be asked, or is no directory: a file that is
/// mounted would tell the same file system again.
pub(super) fn room(path: &Path) -> Option<[u64; 2]> {
    if !path.is_dir() {
        return None;
    }
    let told = rustix::fs::statvfs(path).ok()?;
    let bytes = |blocks: u64| blocks.saturating_mul(told.f_frsize);
    Some([bytes(told.f_blocks), bytes(told.f_bavail)])
}

pub(super) fn put(mount: &str, [size, avail]: [u64; 2], values: &mut Values) {
    values.named(Metric::HostFsSize, mount, size);
    values.named(Metric::HostFsAvail, mount, avail);
}

/// Reads the room of those of the network; each may hang alone.
pub async fn read_shared(
    mounts: &[String],
    (node, clock): (NodeId, &dyn Clock),
    slow: &SlowPaths,
) -> Vec<Sweep> {
    let mut sweeps = Vec::new();
    for mount in mounts {
        let begin = clock.now();
        if let Some(told) = slow.ask(Path::new(mount), room).await {
            let mut values = Values::default();
            put(mount, told, &mut values);
            let window = Window::between(begin, clock.now());
            sweeps.extend(values.sweep(Subject::Node(node), window));
        }
    }
    sweeps
}

/// Reads the size of the file system in which guests have their local disks.
pub async fn read_promised(
    directory: &Path,
    (node, clock): (NodeId, &dyn Clock),
    slow: &SlowPaths,
) -> Option<Sweep> {
    let begin = clock.now();
    let [size, _] = slow.ask(directory, room).await?;
    let mut values = Values::default();
    values.whole(Metric::HostAllocDiskTotal, size);
    values.sweep(Subject::Node(node), Window::between(begin, clock.now()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_mounted_and_unmounted_is_seen_at_once() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(root.path().join("proc/self")).unwrap();
        let file = root.path().join("proc/self/mounts");
        let mut mounted = Mounted::new(root.path());
        assert!(mounted.local().is_empty());
        std::fs::write(&file, "/dev/vda1 / ext4 rw 0 0\na:/b /srv nfs rw 0 0\n").unwrap();
        assert_eq!(mounted.local(), ["/"]);
        assert_eq!(mounted.shared(), ["/srv"]);
        std::fs::write(&file, "/dev/vda1 / ext4 rw 0 0\n").unwrap();
        assert_eq!(mounted.local(), ["/"]);
        assert!(mounted.shared().is_empty());
    }

    #[test]
    fn file_systems_that_hold_files_are_told_with_the_name_that_hosts_share() {
        let text = "proc /proc proc rw 0 0\n/dev/vda1 / ext4 rw 0 0\n/dev/vdb /srv xfs rw 0 0\n\
            10.0.0.9:/vol /srv nfs4 rw 0 0\nmon1,mon2:/ /mnt/my\\040ceph ceph rw 0 0\n";
        let told: Vec<_> = parse(text)
            .into_iter()
            .map(|one| (one.mount, one.kind, one.shared_id))
            .collect();
        let row = |mount: &str, kind: &str, id: Option<&str>| {
            (mount.to_owned(), kind.to_owned(), id.map(str::to_owned))
        };
        let expected = [
            row("/", "ext4", None),
            row("/mnt/my ceph", "ceph", Some("mon1,mon2:/")),
            row("/proc", "proc", None),
            row("/srv", "nfs4", Some("10.0.0.9:/vol")),
        ];
        assert_eq!(told, expected, "the later mount hides the earlier");
    }
}
