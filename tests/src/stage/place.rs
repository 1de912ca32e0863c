//! A place: one network, mount and UTS namespace, kept by a process that only sleeps.
//!
//! Not here: a process namespace, users or limits. Places share the machine's processes, cores
//! and memory; only what a compute node would see of the network and of libvirt is its own.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use super::clock::wait_until;
use super::error::StageError;
use super::process::{Process, outcome, run};
use super::record::PlaceRecord;

const LIMIT: Duration = Duration::from_secs(20);

/// What the holder does before it sleeps: `$1` the host name, `$2` the place's directory, `$3` the directory
/// whose `usr` goes over the machine's, or nothing. The tree under /sys must be mounted anew, or it would show the machine's links.
const HOLDER: &str = r#"
hostname "$1"
if [ -n "$3" ]; then
    mount -t overlay -o "lowerdir=$3/usr:/usr" overlay /usr
    # Modules of another release do not load, and libvirtd gives up over the first.
    for modules in "$3"/usr/lib/*/libvirt "$3"/usr/lib/*/qemu; do
        if [ -d "$modules" ]; then mount --bind "$modules" "${modules#"$3"}"; fi
    done
fi
if mountpoint -q /sys/fs/cgroup; then mount --rbind /sys/fs/cgroup "$2/cgroup"; fi
mount -t sysfs sysfs /sys
if mountpoint -q "$2/cgroup"; then mount --move "$2/cgroup" /sys/fs/cgroup; fi
mount --bind "$2/hostname" /etc/hostname
mount --bind "$2/hosts" /etc/hosts
mount --bind "$2/boot_id" /proc/sys/kernel/random/boot_id
mount --bind "$2/run" /run
for name in etc var/lib var/cache var/log; do
    mkdir -p "/$name/libvirt"
    mount --bind "$2/$name/libvirt" "/$name/libvirt"
done
echo ready > "$2/ready"
exec sleep infinity
"#;

/// A namespace of the stage that programs can be run in.
#[derive(Debug, Clone)]
pub struct Place {
    name: String,
    address: String,
    holder: Process,
    directory: PathBuf,
}

impl Place {
    /// Makes the namespaces and the private files in them.
    pub(super) fn raise(
        record: &PlaceRecord,
        directory: &Path,
        hosts: &str,
        programs: Option<&Path>,
    ) -> Result<Self, StageError> {
        furnish(directory, &record.name, hosts)?;
        let namespace = &record.network_namespace;
        run(Command::new("ip").args(["netns", "add", namespace]), LIMIT)?;
        let log = std::fs::File::create(directory.join("holder.log"))
            .map_err(StageError::io("make a log"))?;
        let child = Command::new("nsenter")
            .arg(format!("--net=/run/netns/{namespace}"))
            .args(["--", "unshare", "--mount", "--uts", "--propagation"])
            .args(["private", "sh", "-euc", HOLDER, "holder", &record.name])
            .arg(directory)
            .arg(programs.unwrap_or(Path::new("")))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .process_group(0)
            .spawn()
            .map_err(StageError::io("start nsenter"))?;
        let pid = child.id();
        wait_until(&format!("the namespaces of {}", record.name), LIMIT, || {
            Ok(directory.join("ready").exists().then_some(()))
        })?;
        let holder = Process::observe(pid).ok_or_else(|| StageError::NoSuch {
            what: format!("holder of {}", record.name),
        })?;
        Ok(Self::of(record, directory, holder))
    }

    /// A place that another process has made.
    pub(super) fn of(record: &PlaceRecord, directory: &Path, holder: Process) -> Self {
        Self {
            name: record.name.clone(),
            address: record.address.clone(),
            holder,
            directory: directory.to_owned(),
        }
    }

    /// Its host name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its address on the migration network.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The directory that holds its private files, as seen from outside.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    pub(super) fn holder(&self) -> Process {
        self.holder
    }

    /// A program that will run inside, from the root directory.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--target={}", self.holder.pid))
            .args(["--net", "--mount", "--uts", "--"])
            .arg(program);
        command
    }

    /// Runs a program inside, which must succeed, and gives what it printed.
    ///
    /// # Errors
    ///
    /// Says that it could not be started, failed, or did not end within the limit.
    pub fn run(&self, program: &str, args: &[&str], limit: Duration) -> Result<String, StageError> {
        run(self.command(program).args(args), limit)
    }

    /// Whether a program run inside ends well within a short time.
    pub(super) fn succeeds(&self, program: &str, args: &[&str]) -> Result<bool, StageError> {
        let outcome = outcome(self.command(program).args(args), LIMIT)?;
        Ok(outcome.status.success())
    }
}

/// Writes the files and directories that are mounted over the machine's own.
fn furnish(directory: &Path, name: &str, hosts: &str) -> Result<(), StageError> {
    let made = StageError::io(format!("furnish {}", directory.display()));
    let furnish = || -> std::io::Result<()> {
        for part in ["run", "cgroup", "etc", "var/lib", "var/cache", "var/log"] {
            std::fs::create_dir_all(directory.join(part).join("libvirt"))?;
        }
        std::fs::remove_dir(directory.join("cgroup/libvirt"))?;
        std::fs::write(directory.join("hostname"), format!("{name}\n"))?;
        std::fs::write(directory.join("hosts"), hosts)?;
        let boot_id = uuid::Uuid::new_v4();
        std::fs::write(directory.join("boot_id"), format!("{boot_id}\n"))
    };
    furnish().map_err(made)
}
