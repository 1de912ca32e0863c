//! The one place where values of the configuration are judged.

use std::net::IpAddr;
use std::time::Duration;

use plimsoll_model::{ByteSize, OvercommitFacts, Ratio};
use plimsoll_proto::dial::Credentials;

use super::{Config, Dirty, Libvirt, Promises, Raw, devices, path, publish};
use crate::measure::{PAGES_PER_GIB, WINDOW_MAX, WINDOW_MIN};

const INTERVAL_MIN: Duration = Duration::from_millis(500);
const INTERVAL_MAX: Duration = Duration::from_secs(600);
const SECOND: Duration = Duration::from_secs(1);
const WINDOWS_MAX: usize = 8;
const SPOOL_MIN: ByteSize = ByteSize::from_mib(16);

/// A key and what is wrong with its value.
#[derive(Debug)]
pub(super) struct Wrong {
    pub(super) key: String,
    pub(super) message: String,
}

pub(super) fn wrong<T>(key: impl Into<String>, message: impl ToString) -> Result<T, Wrong> {
    Err(Wrong {
        key: key.into(),
        message: message.to_string(),
    })
}

fn value<T>(key: &'static str, text: Option<&str>) -> Result<Option<T>, Wrong>
where
    T: std::str::FromStr,
    T::Err: std::fmt::Display,
{
    match text.map(str::parse) {
        None => Ok(None),
        Some(Ok(value)) => Ok(Some(value)),
        Some(Err(error)) => wrong(key, error),
    }
}

/// Checks every value.
pub(super) fn check(raw: &Raw) -> Result<Config, Wrong> {
    let credentials = check_aggregator(raw)?;
    publish::check(&raw.publish)?;
    if raw.interval < INTERVAL_MIN || raw.interval > INTERVAL_MAX {
        return wrong("interval", "must lie between 500ms and 10min");
    }
    if raw.state_dir.as_os_str().is_empty() {
        return wrong("state_dir", "must name a directory the agent may write");
    }
    let spool_size = raw.spool.size.parse::<ByteSize>();
    let spool_size = spool_size.or_else(|error| wrong("spool.size", error))?;
    if spool_size < SPOOL_MIN {
        return wrong("spool.size", "must be 16MiB or more");
    }
    Ok(Config {
        aggregator: raw.aggregator.clone(),
        credentials,
        state_dir: raw.state_dir.clone(),
        interval: raw.interval,
        node_id: value("node.id", raw.node.id.as_deref())?,
        hostname: raw.node.hostname.clone(),
        libvirt: check_libvirt(raw)?,
        dirty: check_dirty(&raw.dirty)?,
        migration_interface: raw.migration.interface.clone(),
        migration_address: check_address(raw)?,
        migration_bandwidth: value("migration.bandwidth", raw.migration.bandwidth.as_deref())?,
        overcommit: check_overcommit(raw)?,
        promises: check_promises(raw)?,
        snmp: devices::check(&raw.snmp)?,
        path: path::check(&raw.path)?,
        publish: None,
        spool_size,
        log_format: raw.log.format,
    })
}

fn check_aggregator(raw: &Raw) -> Result<Option<Credentials>, Wrong> {
    let url = &raw.aggregator;
    let secure = url.strip_prefix("https://");
    let host = secure
        .or_else(|| url.strip_prefix("http://"))
        .unwrap_or_default();
    if host.is_empty() || host.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return wrong(
            "aggregator",
            format!("{url:?} is not a URL; write for example http://127.0.0.1:7077"),
        );
    }
    match (&raw.tls, secure.is_some()) {
        (None, false) => Ok(None),
        (None, true) => wrong("aggregator", "https:// needs the certificates of [tls]"),
        (Some(_), false) => wrong("aggregator", "must begin with https://, since [tls] is set"),
        (Some(tls), true) => Ok(Some(Credentials {
            ca: tls.ca.clone(),
            certificate: tls.certificate.clone(),
            key: tls.key.clone(),
        })),
    }
}

fn check_address(raw: &Raw) -> Result<Option<String>, Wrong> {
    let Some(text) = &raw.migration.address else {
        return Ok(None);
    };
    let read = || {
        let (address, prefix) = text.split_once('/')?;
        let (address, prefix): (IpAddr, u8) = (address.parse().ok()?, prefix.parse().ok()?);
        let width = if address.is_ipv4() { 32 } else { 128 };
        (prefix <= width).then(|| format!("{address}/{prefix}"))
    };
    match read() {
        Some(address) => Ok(Some(address)),
        None => wrong(
            "migration.address",
            format!(
                "{text:?} is no address with its prefix length; write for example 192.0.2.1/24"
            ),
        ),
    }
}

fn check_libvirt(raw: &Raw) -> Result<Option<Libvirt>, Wrong> {
    let libvirt = &raw.libvirt;
    if libvirt.call_deadline < Duration::from_millis(100)
        || libvirt.call_deadline > Duration::from_secs(60)
    {
        return wrong("libvirt.call_deadline", "must lie between 100ms and 60s");
    }
    if !(1..=60).contains(&libvirt.dear_every) {
        return wrong("libvirt.dear_every", "must lie between 1 and 60");
    }
    Ok(libvirt.enabled.then(|| Libvirt {
        socket: libvirt.socket.clone(),
        access: libvirt.access,
        call_deadline: libvirt.call_deadline,
        dear_every: libvirt.dear_every,
    }))
}

fn check_dirty(dirty: &Dirty) -> Result<Dirty, Wrong> {
    if dirty.windows.len() < 2 {
        return wrong(
            "dirty.windows",
            "at least two are needed to tell a curve from a point",
        );
    }
    if dirty.windows.len() > WINDOWS_MAX {
        return wrong("dirty.windows", format!("at most {WINDOWS_MAX}"));
    }
    if dirty
        .sample_pages
        .is_some_and(|pages| !PAGES_PER_GIB.contains(&pages))
    {
        return wrong("dirty.sample_pages", "must lie between 128 and 16384");
    }
    check_windows(dirty)?;
    let mut windows = dirty.windows.clone();
    windows.sort_unstable();
    windows.dedup();
    if windows.len() != dirty.windows.len() {
        return wrong("dirty.windows", "must differ from each other");
    }
    if dirty.every < Duration::from_secs(1) {
        return wrong("dirty.every", "must be 1s or more");
    }
    if !(1..=16).contains(&dirty.concurrent_max) {
        return wrong("dirty.concurrent_max", "must lie between 1 and 16");
    }
    Ok(Dirty {
        windows,
        ..dirty.clone()
    })
}

fn check_windows(dirty: &Dirty) -> Result<(), Wrong> {
    let is_fine = dirty.helper.is_some() || dirty.sample_pages.is_some();
    let (least, step_ns, message) = if is_fine {
        let message = "each must be whole milliseconds from 50ms to 60s";
        (WINDOW_MIN, 1_000_000, message)
    } else {
        let message = "each must be whole seconds from 1s to 60s; shorter ones need `sample_pages` or `helper`";
        (SECOND, 1_000_000_000, message)
    };
    let fits = |window: &Duration| {
        (least..=WINDOW_MAX).contains(window) && window.as_nanos().is_multiple_of(step_ns)
    };
    if dirty.windows.iter().all(fits) {
        Ok(())
    } else {
        wrong("dirty.windows", message)
    }
}

fn check_promises(raw: &Raw) -> Result<Promises, Wrong> {
    let told = &raw.overcommit;
    let disk_ratio: Option<Ratio> = value("overcommit.disk_ratio", told.disk_ratio.as_deref())?;
    if disk_ratio.is_some_and(|ratio| ratio.millionths() == 0) {
        return wrong("overcommit.disk_ratio", "must be above 0");
    }
    Ok(Promises {
        dedicated_cpu_count: told.dedicated_cpus,
        disk_directory: told.disk_directory.clone(),
        disk_ratio,
        reserved_disk: value("overcommit.reserved_disk", told.reserved_disk.as_deref())?,
    })
}

fn check_overcommit(raw: &Raw) -> Result<Option<OvercommitFacts>, Wrong> {
    let told = &raw.overcommit;
    if told.cpu_ratio.is_none()
        && told.memory_ratio.is_none()
        && told.reserved_cpus.is_none()
        && told.reserved_memory.is_none()
    {
        return Ok(None);
    }
    let ratio = |key, text: &Option<String>| -> Result<Ratio, Wrong> {
        let ratio = value::<Ratio>(key, text.as_deref())?.unwrap_or(Ratio::ONE);
        if ratio.millionths() == 0 {
            return wrong(key, "must be above 0");
        }
        Ok(ratio)
    };
    Ok(Some(OvercommitFacts {
        cpu_ratio: ratio("overcommit.cpu_ratio", &told.cpu_ratio)?,
        memory_ratio: ratio("overcommit.memory_ratio", &told.memory_ratio)?,
        reserved_cpu_count: told.reserved_cpus.unwrap_or(0),
        reserved_memory: value(
            "overcommit.reserved_memory",
            told.reserved_memory.as_deref(),
        )?
        .unwrap_or_default(),
    }))
}
