//! Whether this machine can carry a stage.
//!
//! Not here: installing anything. What is absent is named, with the Debian package that has it.

use std::path::{Path, PathBuf};

/// Programs the stage runs, and the Debian packages they come in.
const PROGRAMS: [(&str, &str); 9] = [
    ("ip", "iproute2"),
    ("tc", "iproute2"),
    ("mount", "mount"),
    ("nsenter", "util-linux"),
    ("unshare", "util-linux"),
    ("hostname", "hostname"),
    ("virsh", "libvirt-clients"),
    ("libvirtd", "libvirt-daemon"),
    ("qemu-system-x86_64", "qemu-system-x86"),
];

/// libvirtd can do nothing with QEMU unless this driver is there.
const QEMU_DRIVER_PACKAGE: &str = "libvirt-daemon-driver-qemu";

/// The directories where Debian keeps libvirt's drivers, by architecture.
const DRIVERS: [&str; 3] = [
    "/usr/lib/x86_64-linux-gnu/libvirt/connection-driver/libvirt_driver_qemu.so",
    "/usr/lib/aarch64-linux-gnu/libvirt/connection-driver/libvirt_driver_qemu.so",
    "/usr/lib64/libvirt/connection-driver/libvirt_driver_qemu.so",
];

/// What a directory of other programs must hold, or the machine's own would be tried instead.
const LAID_OVER: [&str; 4] = [
    "usr/bin/qemu-system-x86_64",
    "usr/bin/virsh",
    "usr/sbin/libvirtd",
    "usr/share/seabios/bios-256k.bin",
];

/// The first part that is not there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Missing {
    /// Namespaces, bridges and mounts need root.
    #[error("the stage must run as root")]
    Root,
    /// A program is on none of the paths.
    #[error("{program} is not installed (Debian package {package})")]
    Program {
        /// The program.
        program: &'static str,
        /// The package that has it.
        package: &'static str,
    },
    /// A directory of other programs lacks one.
    #[error("{} is not there; `packaging/stage-newer` fetches and unpacks it", path.display())]
    LaidOver {
        /// Where it was looked for.
        path: PathBuf,
    },
}

/// Says whether a stage can be raised here, and if not, which part is missing.
///
/// # Errors
///
/// Names the first part that is missing.
pub fn available() -> Result<(), Missing> {
    if !rustix::process::geteuid().is_root() {
        return Err(Missing::Root);
    }
    for (program, package) in PROGRAMS {
        if !is_on_path(program) {
            return Err(Missing::Program { program, package });
        }
    }
    if !DRIVERS.iter().any(|driver| Path::new(driver).exists()) {
        return Err(Missing::Program {
            program: "libvirt_driver_qemu.so",
            package: QEMU_DRIVER_PACKAGE,
        });
    }
    Ok(())
}

/// Says whether a directory holds programs that can be laid over the machine's own.
///
/// # Errors
///
/// Names the first that is missing.
pub fn available_in(programs: &Path) -> Result<(), Missing> {
    for part in LAID_OVER {
        let path = programs.join(part);
        if !path.exists() {
            return Err(Missing::LaidOver { path });
        }
    }
    Ok(())
}

fn is_on_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|directory| directory.join(program).is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_of_programs_that_lacks_one_is_not_used_half() {
        let directory = tempfile::tempdir().unwrap();
        for part in LAID_OVER {
            let lacking = available_in(directory.path()).unwrap_err().to_string();
            assert!(lacking.contains(part), "{lacking}");
            let path = directory.path().join(part);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "").unwrap();
        }
        assert_eq!(available_in(directory.path()), Ok(()));
    }
}
