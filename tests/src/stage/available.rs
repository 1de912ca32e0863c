//! Whether this machine can carry a stage.
//!
//! Not here: installing anything. What is absent is named, with the Debian package that has it.

use std::path::Path;

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

fn is_on_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|directory| directory.join(program).is_file())
}
