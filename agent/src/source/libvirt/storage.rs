//! Where the disks of a guest lie, and whether other nodes reach them there.

use std::path::Path;

use plimsoll_model::{DiskFacts, FileSystemFacts};

use crate::source::host::mounts;
use crate::source::slow::SlowPaths;

/// File systems that other nodes reach too, by the magic number of statfs: NFS, Ceph, Gluster and
/// other FUSE file systems are apart, OCFS2, GFS2, SMB.
const SHARED_MAGIC: [u64; 6] = [
    0x6969,
    0x00c3_6400,
    0x7461_636f,
    0x0116_1970,
    0xff53_4d42,
    0xfe53_4d42,
];
const FUSE_MAGIC: u64 = 0x6573_5546;

/// Tells of each disk in a file what its file system is; one that does not answer leaves it open.
pub(super) async fn tell(
    root: &Path,
    files: &[(usize, std::path::PathBuf)],
    disks: &mut [DiskFacts],
    slow: &SlowPaths,
) {
    if files.is_empty() {
        return;
    }
    let mounts = mounts::list(root);
    for (place, path) in files {
        let Some(disk) = disks.get_mut(*place) else {
            continue;
        };
        let holder = holder(path, &mounts);
        disk.storage = holder.and_then(|mount| mount.shared_id.clone());
        disk.shared = match holder.map(|mount| mounts::is_shared(&mount.kind)) {
            Some(Some(shared)) => Some(shared),
            _ => slow.ask(path, on_shared_storage).await,
        };
    }
}

/// Finds the file system that holds a path: the one mounted deepest above it, and last.
fn holder<'a>(path: &Path, mounts: &'a [FileSystemFacts]) -> Option<&'a FileSystemFacts> {
    let above = mounts.iter().filter(|mount| path.starts_with(&mount.mount));
    above.max_by_key(|mount| mount.mount.len())
}

/// Asks the file system of a path; absent where it cannot be told.
fn on_shared_storage(path: &Path) -> Option<bool> {
    let magic = u64::try_from(rustix::fs::statfs(path).ok()?.f_type).ok()?;
    if SHARED_MAGIC.contains(&magic) {
        Some(true)
    } else if magic == FUSE_MAGIC {
        None
    } else {
        Some(false)
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    #[tokio::test]
    async fn a_disk_on_a_dead_server_is_known_to_be_shared_without_asking_it() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(root.path().join("proc/self")).unwrap();
        let mounts = "/dev/vda1 / ext4 rw 0 0\nfiler:/vol /srv/nova nfs4 rw 0 0\n";
        std::fs::write(root.path().join("proc/self/mounts"), mounts).unwrap();
        let file = |path: &str| PathBuf::from(path);
        let files = [
            (0, file("/srv/nova/a.img")),
            (1, file("/var/b.img")),
            (2, file("/srv/novatwo/c.img")),
        ];
        let mut disks = vec![DiskFacts::default(); 3];
        let slow = SlowPaths::default();

        tell(root.path(), &files, &mut disks, &slow).await;

        let told = |disk: &DiskFacts| (disk.shared, disk.storage.clone());
        assert_eq!(told(&disks[0]), (Some(true), Some("filer:/vol".to_owned())));
        assert_eq!(told(&disks[1]), (Some(false), None));
        assert_eq!(told(&disks[2]), (Some(false), None));
    }
}
