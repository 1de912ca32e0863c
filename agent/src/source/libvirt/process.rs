//! The QEMU process behind a domain: its id, its start, and what /proc tells when libvirt does not
//! answer. It sends no signals.

use std::path::{Path, PathBuf};

use plimsoll_libvirt::DomainRef;
use plimsoll_model::{BootId, ByteSize, CpuTime, Incarnation, Metric};

use crate::look::Values;

/// Reads the boot of this node.
pub(super) fn boot_id(root: &Path) -> Option<BootId> {
    let text = std::fs::read_to_string(root.join("proc/sys/kernel/random/boot_id")).ok()?;
    text.trim().parse().ok()
}

/// Reads the id of a domain's process; absent where its file cannot be read.
pub(super) fn pid(root: &Path, domain: &DomainRef) -> Option<u32> {
    // A name with a slash cannot lead out of the directory.
    if domain.name.contains('/') {
        return None;
    }
    let path: PathBuf = root
        .join("run/libvirt/qemu")
        .join(format!("{}.pid", domain.name));
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// The fields of /proc/PID/stat after the name, which may hold anything.
fn stat_fields(root: &Path, pid: u32) -> Option<Vec<String>> {
    let text = std::fs::read_to_string(root.join(format!("proc/{pid}/stat"))).ok()?;
    let (_, rest) = text.rsplit_once(')')?;
    Some(rest.split_ascii_whitespace().map(str::to_owned).collect())
}

/// Field of /proc/PID/stat by its number in the manual page.
fn field(fields: &[String], number: usize) -> Option<u64> {
    fields.get(number.checked_sub(3)?)?.parse().ok()
}

/// Names the process by boot and start; absent where the process cannot be seen.
pub(super) fn incarnation(root: &Path, boot: BootId, domain: &DomainRef) -> Option<Incarnation> {
    let fields = stat_fields(root, pid(root, domain)?)?;
    let ticks = rustix::param::clock_ticks_per_second();
    let started = CpuTime::from_ticks(field(&fields, 22)?, ticks);
    Some(Incarnation {
        boot,
        started_ms: started.ns() / 1_000_000,
    })
}

/// Reads processor time and resident memory without libvirt.
pub(super) fn fallback(root: &Path, domain: &DomainRef, values: &mut Values) {
    let Some(fields) = pid(root, domain).and_then(|pid| stat_fields(root, pid)) else {
        return;
    };
    let ticks = rustix::param::clock_ticks_per_second();
    if let (Some(user), Some(system)) = (field(&fields, 14), field(&fields, 15)) {
        values.whole(
            Metric::VmCpuTime,
            CpuTime::from_ticks(user.saturating_add(system), ticks).ns(),
        );
    }
    if let Some(pages) = field(&fields, 24) {
        let page_bytes = u64::try_from(rustix::param::page_size()).unwrap_or(4_096);
        let resident = ByteSize::from_bytes(pages.saturating_mul(page_bytes));
        values.whole(Metric::VmMemRss, resident.bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_whose_name_holds_brackets_is_read_all_the_same() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(root.path().join("proc/42")).unwrap();
        std::fs::create_dir_all(root.path().join("run/libvirt/qemu")).unwrap();
        let rest: Vec<String> = (3..=30).map(|number| (number * 100).to_string()).collect();
        std::fs::write(
            root.path().join("proc/42/stat"),
            format!("42 (a) b (c) {}\n", rest.join(" ")),
        )
        .unwrap();
        std::fs::write(root.path().join("run/libvirt/qemu/web.pid"), "42\n").unwrap();
        let domain = DomainRef {
            name: "web".to_owned(),
            uuid: [1; 16],
            id: Some(1),
        };

        let found = incarnation(root.path(), BootId::random(), &domain).unwrap();

        let ticks = rustix::param::clock_ticks_per_second();
        assert_eq!(found.started_ms, 2_200 * 1_000 / ticks);
        let mut values = Values::default();
        fallback(root.path(), &domain, &mut values);
        assert!(!values.is_empty());
    }

    #[test]
    fn a_name_cannot_lead_out_of_the_directory() {
        let domain = DomainRef {
            name: "../../etc/x".to_owned(),
            uuid: [1; 16],
            id: None,
        };
        assert_eq!(pid(Path::new("/"), &domain), None);
    }
}
