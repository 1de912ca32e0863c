//! The configuration as it is written. It holds texts and numbers nobody has checked yet.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Overrides;
use super::devices::RawSnmp;
use super::path::RawPath;
use super::publish::RawPublish;

/// What may be asked of libvirt.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Access {
    /// Reads only.
    #[default]
    ReadOnly,
    /// Reads, and measurements of dirty rates, which equals root on the node.
    ReadWrite,
}

/// Form of the log.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LogFormat {
    /// Lines for people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// The whole file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Raw {
    /// Where the aggregator listens.
    pub aggregator: String,
    /// Where the agent keeps its spool.
    pub state_dir: PathBuf,
    /// Time between two looks.
    #[serde(with = "humantime_serde")]
    pub interval: Duration,
    /// What the agent identifies itself with, where the aggregator's URL begins with https.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<RawTls>,
    /// Who the node is.
    pub node: RawNode,
    /// How libvirt is reached.
    pub libvirt: RawLibvirt,
    /// How dirty rates are measured.
    pub dirty: Dirty,
    /// What migrations use.
    pub migration: RawMigration,
    /// What the node promises.
    pub overcommit: RawOvercommit,
    /// Devices that are polled.
    pub snmp: RawSnmp,
    /// Whose agents are probed over the migration network.
    pub path: RawPath,
    /// Where what the agent sees is served over SNMP.
    pub publish: RawPublish,
    /// What is kept while the aggregator is away.
    pub spool: RawSpool,
    /// The log.
    pub log: RawLog,
}

/// What the agent identifies itself with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawTls {
    /// The authority that signed the aggregator's certificate.
    pub ca: PathBuf,
    /// The agent's certificate.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

/// Who the node is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RawNode {
    /// UUID of the node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Host name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
}

/// How libvirt is reached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RawLibvirt {
    /// Whether it is asked at all.
    pub enabled: bool,
    /// Its socket; found by itself if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub socket: Option<PathBuf>,
    /// What may be asked of it.
    pub access: Access,
    /// The longest wait for one answer.
    #[serde(with = "humantime_serde")]
    pub call_deadline: Duration,
    /// Every how many intervals processors and disks of domains are read.
    pub dear_every: u32,
}

/// How dirty rates are measured.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Dirty {
    /// Lengths of the measurements.
    #[serde(with = "windows_text")]
    pub windows: Vec<Duration>,
    /// How old the last measurement of a domain may become.
    #[serde(with = "humantime_serde")]
    pub every: Duration,
    /// Measurements under way at once.
    pub concurrent_max: usize,
    /// Pages of each GiB to look at, by the monitor of QEMU; libvirt's own 512 if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sample_pages: Option<u32>,
    /// Socket of the helper that measures in the agent's stead.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub helper: Option<PathBuf>,
}

/// What migrations use.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RawMigration {
    /// Interface.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
    /// Address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// Bandwidth; the card's speed if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bandwidth: Option<String>,
}

/// What the node promises.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RawOvercommit {
    /// Virtual processors per processor.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_ratio: Option<String>,
    /// Promised memory per installed memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_ratio: Option<String>,
    /// Processors kept for the host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reserved_cpus: Option<u32>,
    /// Memory kept for the host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reserved_memory: Option<String>,
    /// Processors kept for guests that are bound to them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dedicated_cpus: Option<u32>,
    /// Directory in which guests have their local disks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk_directory: Option<PathBuf>,
    /// Promised disk space per disk space.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk_ratio: Option<String>,
    /// Disk space kept for the host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reserved_disk: Option<String>,
}

/// What is kept while the aggregator is away.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RawSpool {
    /// Most bytes on the disk.
    pub size: String,
}

/// The log.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RawLog {
    /// Its form.
    pub format: LogFormat,
}

impl Default for Raw {
    fn default() -> Self {
        Self {
            aggregator: "http://127.0.0.1:7077".to_owned(),
            state_dir: PathBuf::from("/var/lib/plimsoll-agent"),
            interval: Duration::from_secs(10),
            tls: None,
            node: RawNode::default(),
            libvirt: RawLibvirt::default(),
            dirty: Dirty::default(),
            migration: RawMigration::default(),
            overcommit: RawOvercommit::default(),
            snmp: RawSnmp::default(),
            path: RawPath::default(),
            publish: RawPublish::default(),
            spool: RawSpool::default(),
            log: RawLog::default(),
        }
    }
}

impl Default for RawLibvirt {
    fn default() -> Self {
        Self {
            enabled: true,
            socket: None,
            access: Access::ReadOnly,
            call_deadline: Duration::from_secs(3),
            dear_every: 1,
        }
    }
}

impl Default for Dirty {
    fn default() -> Self {
        Self {
            windows: vec![Duration::from_secs(1), Duration::from_secs(5)],
            every: Duration::from_secs(60),
            concurrent_max: 1,
            sample_pages: None,
            helper: None,
        }
    }
}

impl Default for RawSpool {
    fn default() -> Self {
        Self {
            size: "512MiB".to_owned(),
        }
    }
}

impl Raw {
    /// Puts flags above what the file says.
    pub fn override_by(&mut self, flags: &Overrides) {
        if let Some(aggregator) = &flags.aggregator {
            self.aggregator.clone_from(aggregator);
        }
        if let Some(state_dir) = &flags.state_dir {
            self.state_dir.clone_from(state_dir);
        }
        if let Some(socket) = &flags.libvirt_socket {
            self.libvirt.socket = Some(socket.clone());
        }
        if let Some(access) = flags.libvirt_access {
            self.libvirt.access = access;
        }
        if let Some(interval) = flags.interval {
            self.interval = interval;
        }
    }
}

/// Lengths of time as texts in a list.
mod windows_text {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Serialize, Deserialize)]
    struct Text(#[serde(with = "humantime_serde")] Duration);

    pub(super) fn serialize<S: Serializer>(
        windows: &[Duration],
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(windows.iter().map(|window| Text(*window)))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Vec<Duration>, D::Error> {
        let texts = Vec::<Text>::deserialize(deserializer)?;
        Ok(texts.into_iter().map(|text| text.0).collect())
    }
}
