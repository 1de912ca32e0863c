//! Libvirt and its guests, seen as the agent sees them.

use std::path::Path;
use std::time::Duration;

use plimsoll_libvirt::{CallError, Connection, DomainRef, ListFlags, StatsFlags, StatsGroups};

use super::Finding;
use crate::chain::chain;
use crate::config::{Access, Config, Libvirt};
use crate::source::libvirt::{self, Sight};

const LIBVIRT: &str = "libvirt";
/// Names that are told of many.
const NAMES_MAX: usize = 5;

pub(super) async fn examine(config: &Config) -> Vec<Finding> {
    let Some(told) = &config.libvirt else {
        return vec![Finding::ok(
            LIBVIRT,
            "switched off: the host alone is watched",
        )];
    };
    let connection = match libvirt::open(told).await {
        Ok(connection) => connection,
        Err(error) => return vec![unreachable(told, &error)],
    };
    let mut findings = vec![versions(told, &connection).await];
    let deadline = told.call_deadline;
    let listed = connection
        .list_all_domains(ListFlags::ACTIVE, deadline)
        .await;
    match listed {
        Ok(domains) => {
            findings.push(answers(&connection, &domains, deadline).await);
            findings.extend(processes(Path::new("/"), &domains));
        }
        Err(error) => findings.push(Finding::fail(
            "guests",
            format!("cannot be listed: {}", chain(&error)),
            "see whether `virsh list` answers; restart libvirt if not",
        )),
    }
    findings.push(dirty_rates(told, config.dirty.helper.as_deref()).await);
    findings
}

fn unreachable(told: &Libvirt, error: &CallError) -> Finding {
    let seen = chain(error);
    match error {
        CallError::SocketMissing { .. } if told.socket.is_none() => Finding::warn(
            LIBVIRT,
            seen,
            "install and start libvirt, or set `enabled = false` in [libvirt] to watch the host alone",
        ),
        _ => Finding::fail(
            LIBVIRT,
            seen,
            "see whether `virsh -c qemu:///system list` answers as this user; then `socket` and `access` in [libvirt]",
        ),
    }
}

async fn versions(told: &Libvirt, connection: &Connection) -> Finding {
    let (library, hypervisor) = tokio::join!(
        connection.lib_version(told.call_deadline),
        connection.hypervisor_version(libvirt::probe_deadline(told))
    );
    let socket = libvirt::socket(told);
    match (library, hypervisor) {
        (Ok(library), Ok(hypervisor)) => Finding::ok(
            LIBVIRT,
            format!(
                "{} with hypervisor {} at {}",
                libvirt::version(library),
                libvirt::version(hypervisor),
                socket.display()
            ),
        ),
        (Err(error), _) | (_, Err(error)) => Finding::fail(
            LIBVIRT,
            chain(&error),
            "restart libvirt, or raise `call_deadline` in [libvirt]",
        ),
    }
}

/// Asks every guest at the price of the agent's cheapest question, one after the other.
async fn answers(connection: &Connection, domains: &[DomainRef], deadline: Duration) -> Finding {
    let mut silent = Vec::new();
    for domain in domains {
        let groups = StatsGroups::STATE | StatsGroups::BALLOON;
        let asked = connection.domain_stats(domain, groups, StatsFlags::NOWAIT, deadline);
        if asked.await.is_err() {
            silent.push(domain.name.as_str());
        }
    }
    if silent.is_empty() {
        return Finding::ok("guests", format!("{} running, all answer", domains.len()));
    }
    Finding::warn(
        "guests",
        format!("no answer within {deadline:?} from {}", some(&silent)),
        "look at their QEMU processes; meanwhile they are read from /proc",
    )
}

fn processes(root: &Path, domains: &[DomainRef]) -> Option<Finding> {
    let named = |wanted: Sight| -> Vec<&str> {
        let seen = |domain: &&DomainRef| libvirt::sight(root, domain) == wanted;
        domains
            .iter()
            .filter(seen)
            .map(|domain| domain.name.as_str())
            .collect()
    };
    let (hidden, closed) = (named(Sight::Nothing), named(Sight::Process));
    Some(if !hidden.is_empty() {
        Finding::warn(
            "processes",
            format!("not seen: those of {}", some(&hidden)),
            "let the agent's user read /run/libvirt/qemu, and run it in the process namespace of the host",
        )
    } else if !closed.is_empty() {
        Finding::warn(
            "processes",
            format!("the touched memory cannot be read of {}", some(&closed)),
            "give the agent CAP_SYS_PTRACE; without it all memory counts as touched",
        )
    } else if domains.is_empty() {
        return None;
    } else {
        Finding::ok("processes", "seen, with the memory they touched")
    })
}

async fn dirty_rates(told: &Libvirt, helper: Option<&Path>) -> Finding {
    if let Some(socket) = helper {
        return match tokio::net::UnixStream::connect(socket).await {
            Ok(_) => Finding::ok(
                "dirty rates",
                format!("measured by the helper at {}", socket.display()),
            ),
            Err(error) => Finding::warn(
                "dirty rates",
                format!("not measured: nobody at {}: {error}", socket.display()),
                "start plimsoll-dirty-helper, and let the agent's user into the group of its socket",
            ),
        };
    }
    match told.access {
        Access::ReadWrite => Finding::ok("dirty rates", "may be measured"),
        Access::ReadOnly => Finding::warn(
            "dirty rates",
            "not measured: `access` is \"read-only\"",
            "run plimsoll-dirty-helper and name it by `helper` in [dirty], or set `access = \"read-write\"` \
             in [libvirt], which equals root on this node; without either no verdict on convergence can be given",
        ),
    }
}

fn some(names: &[&str]) -> String {
    let shown = names.iter().take(NAMES_MAX).copied().collect::<Vec<_>>();
    let more = names.len().saturating_sub(NAMES_MAX);
    match more {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}
