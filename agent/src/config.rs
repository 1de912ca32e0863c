//! Configuration: read once at the door, checked whole, and believed everywhere else.
//!
//! It does not watch files and does not end the process: the caller prints the error and exits 78.

mod check;
mod devices;
mod path;
mod publish;
mod raw;

use std::path::{Path, PathBuf};
use std::time::Duration;

use plimsoll_model::{Bandwidth, ByteSize, NodeId, OvercommitFacts, Ratio};
use plimsoll_proto::dial::Credentials;

use crate::publish::Publish;
use crate::source::path::Probing;

pub use devices::{RawSnmp, Snmp};
pub use path::{RawPath, RawPeer};
pub use publish::RawPublish;
pub use raw::{Access, Dirty, LogFormat, Raw};

/// The commented default configuration.
pub const DEFAULT_TOML: &str = include_str!("config/default.toml");

/// Exit code of a program whose configuration is wrong, as sysexits names it.
pub const EXIT_CONFIG: u8 = 78;

/// Why a configuration cannot be used. The text names file, line and key.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read configuration {}; create it with `plimsoll-agent config default`", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The text is not TOML, or holds a key that is not known.
    #[error("{origin}:{line}: {message}")]
    Syntax {
        /// The file.
        origin: String,
        /// The line.
        line: usize,
        /// What is wrong there, naming the key.
        message: String,
    },
    /// A key has a value that cannot be.
    #[error("{place}: {key}: {message}")]
    Value {
        /// The file and the line, or the flags.
        place: String,
        /// The key.
        key: String,
        /// What is wrong, and what would do.
        message: String,
    },
}

/// Flags that stand above the file.
#[derive(Debug, Clone, Default)]
pub struct Overrides {
    /// Where the aggregator listens.
    pub aggregator: Option<String>,
    /// Where the agent keeps its spool.
    pub state_dir: Option<PathBuf>,
    /// Libvirt's socket.
    pub libvirt_socket: Option<PathBuf>,
    /// What may be asked of libvirt.
    pub libvirt_access: Option<Access>,
    /// Time between two looks.
    pub interval: Option<Duration>,
}

/// How libvirt is reached.
#[derive(Debug, Clone)]
pub struct Libvirt {
    /// Its socket; found by itself if absent.
    pub socket: Option<PathBuf>,
    /// What may be asked of it.
    pub access: Access,
    /// The longest wait for one answer.
    pub call_deadline: Duration,
    /// Every how many intervals processors and disks of domains are read.
    pub dear_every: u32,
}

/// What the node promises beside processors and memory in general. Absent is not told.
#[derive(Debug, Clone, Default)]
pub struct Promises {
    /// Processors kept for guests that are bound to them.
    pub dedicated_cpu_count: Option<u32>,
    /// Directory in which guests have their local disks.
    pub disk_directory: Option<PathBuf>,
    /// Promised disk space per disk space.
    pub disk_ratio: Option<Ratio>,
    /// Disk space kept for the host.
    pub reserved_disk: Option<ByteSize>,
}

/// The configuration, checked.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where the aggregator listens.
    pub aggregator: String,
    /// What the agent identifies itself with; absent where there is no TLS.
    pub credentials: Option<Credentials>,
    /// Where the agent keeps its spool.
    pub state_dir: PathBuf,
    /// Time between two looks.
    pub interval: Duration,
    /// The node, where it is told.
    pub node_id: Option<NodeId>,
    /// The host name, where it is told.
    pub hostname: Option<String>,
    /// How libvirt is reached; absent if it is switched off.
    pub libvirt: Option<Libvirt>,
    /// How dirty rates are measured.
    pub dirty: Dirty,
    /// Interface that migrations use, where it is told.
    pub migration_interface: Option<String>,
    /// Address that migrations use, where it is told.
    pub migration_address: Option<String>,
    /// Bandwidth of migrations, where it is told.
    pub migration_bandwidth: Option<Bandwidth>,
    /// What the node promises, where it is told.
    pub overcommit: Option<OvercommitFacts>,
    /// What the node promises besides.
    pub promises: Promises,
    /// The devices that are polled.
    pub snmp: Snmp,
    /// How the way to peers is measured.
    pub path: Probing,
    /// Where what the agent sees is served over SNMP, if it is.
    pub publish: Option<Publish>,
    /// Most bytes of the spool.
    pub spool_size: ByteSize,
    /// Form of the log.
    pub log_format: LogFormat,
}

/// Loads and checks a configuration: the file if one is named, the defaults if none, flags above both.
pub fn load(path: Option<&Path>, overrides: &Overrides) -> Result<(Config, Raw), ConfigError> {
    let (text, origin) = match path {
        None => (String::new(), "flags and defaults".to_owned()),
        Some(path) => {
            let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Unreadable {
                path: path.to_owned(),
                source,
            })?;
            (text, path.display().to_string())
        }
    };
    let mut raw = parse(&text, &origin)?;
    raw.override_by(overrides);
    let checked = check::check(&raw).and_then(|mut config| {
        config.snmp.targets = devices::unlock(&raw.snmp)?;
        config.publish = publish::unlock(&raw.publish)?;
        Ok(config)
    });
    let config = checked.map_err(|wrong| ConfigError::Value {
        place: match line_of(&text, &wrong.key) {
            Some(line) => format!("{origin}:{line}"),
            None => origin,
        },
        key: wrong.key,
        message: wrong.message,
    })?;
    Ok((config, raw))
}

/// Reads the text of a configuration without checking its values.
pub fn parse(text: &str, origin: &str) -> Result<Raw, ConfigError> {
    toml::from_str(text).map_err(|error| {
        let start = error.span().map_or(0, |span| span.start);
        let before = text.get(..start).unwrap_or(text);
        ConfigError::Syntax {
            origin: origin.to_owned(),
            line: before.matches('\n').count() + 1,
            message: error.message().replace('\n', " "),
        }
    })
}

/// Finds the line on which a key such as `dirty.windows` or `snmp.target[1].address` is set; where it is
/// not, that of the table it belongs in; absent if it stands in no file.
fn line_of(text: &str, key: &str) -> Option<usize> {
    let (section, name) = key.rsplit_once('.').unwrap_or(("", key));
    let (section, mut place) = match section
        .strip_suffix(']')
        .and_then(|one| one.rsplit_once('['))
    {
        Some((section, place)) => (section, place.parse().unwrap_or(0)),
        None => (section, 0_usize),
    };
    let (mut here, mut table) = (section.is_empty(), None);
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.trim();
        if let Some(header) = line.strip_prefix('[') {
            let is_section = header.trim_matches(['[', ']']).trim() == section;
            here = is_section && place == 0;
            if here {
                table = Some(number);
            }
            place = place.saturating_sub(usize::from(is_section));
        } else if here
            && let Some((found, _)) = line.split_once('=')
            && found.trim() == name
        {
            return Some(number);
        }
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_printed_default_is_the_default() {
        let printed = parse(DEFAULT_TOML, "default").unwrap();
        assert_eq!(printed, Raw::default());
    }

    #[test]
    fn every_optional_key_of_the_printed_default_is_a_key() {
        let uncommented: String = DEFAULT_TOML
            .lines()
            .map(|line| line.strip_prefix("#: ").unwrap_or(line))
            .flat_map(|line| [line, "\n"])
            .collect();
        let mut raw = parse(&uncommented, "default").unwrap();
        assert!(check::check(&raw).unwrap_err().message.contains("https://"));
        raw.aggregator = "https://aggregator.example.org:7077".to_owned();
        assert!(check::check(&raw).unwrap().credentials.is_some());
    }

    #[test]
    fn an_unknown_key_is_named_with_its_line() {
        let error = parse("interval = \"10s\"\nintervall = \"5s\"\n", "a.toml").unwrap_err();
        let text = error.to_string();
        assert!(
            text.starts_with("a.toml:2: unknown field `intervall`"),
            "{text}"
        );
        assert!(!text.contains('\n'));
    }

    #[test]
    fn a_value_that_cannot_be_is_named_with_its_key_and_line() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("agent.toml");
        std::fs::write(&path, "\n[dirty]\nevery = \"60s\"\nwindows = [\"1s\"]\n").unwrap();
        let error = load(Some(&path), &Overrides::default()).unwrap_err();
        let text = error.to_string();
        assert!(text.contains(":4: dirty.windows: at least two"), "{text}");
    }

    #[test]
    fn a_wrong_flag_is_told_without_a_line() {
        let overrides = Overrides {
            interval: Some(Duration::from_millis(1)),
            ..Overrides::default()
        };
        let text = load(None, &overrides).unwrap_err().to_string();
        assert!(text.starts_with("flags and defaults: interval: "), "{text}");
    }

    #[test]
    fn windows_below_a_second_need_somebody_who_can_measure_them() {
        let mut raw = Raw::default();
        raw.dirty.windows = vec![Duration::from_millis(500), Duration::from_secs(5)];
        let said = |raw: &Raw| check::check(raw).map(|config| config.dirty.windows.len());
        assert!(said(&raw).unwrap_err().message.contains("`sample_pages`"));
        raw.dirty.sample_pages = Some(16_384);
        assert_eq!(said(&raw).unwrap(), 2);
        raw.dirty.sample_pages = Some(16_385);
        assert_eq!(said(&raw).unwrap_err().key, "dirty.sample_pages");
        raw.dirty.sample_pages = None;
        raw.dirty.helper = Some(PathBuf::from("/run/x.sock"));
        assert_eq!(said(&raw).unwrap(), 2);
        raw.dirty.windows[0] = Duration::from_millis(49);
        assert!(said(&raw).unwrap_err().message.contains("50ms"));
    }

    #[test]
    fn a_migration_address_has_a_prefix_length() {
        let said = |address: &str| {
            let mut raw = Raw::default();
            raw.migration.address = Some(address.to_owned());
            check::check(&raw).map(|config| config.migration_address)
        };
        assert_eq!(said("10.0.0.5/24").unwrap().as_deref(), Some("10.0.0.5/24"));
        for wrong in ["10.0.0.5", "10.0.0.5/33", "host/24", "::1/129"] {
            assert!(said(wrong).unwrap_err().message.contains("192.0.2.1/24"));
        }
    }

    #[test]
    fn flags_stand_above_the_file() {
        let overrides = Overrides {
            interval: Some(Duration::from_secs(2)),
            ..Overrides::default()
        };
        let (config, raw) = load(None, &overrides).unwrap();
        assert_eq!(config.interval, Duration::from_secs(2));
        assert!(toml::to_string(&raw).unwrap().contains("interval = \"2s\""));
    }
}
