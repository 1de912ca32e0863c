//! Configuration: raw TOML becomes a checked [`Config`] here and nowhere else.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use plimsoll_model::text::{line_at, line_of_key};
use plimsoll_model::{Bandwidth, ByteSize, Ratio};
use plimsoll_store::{Floor, Keep, StoreOptions};
use serde::{Deserialize, Serialize};

use crate::guard::tls::TlsFiles;
use crate::traps::Traps;

/// The commented default configuration, as packages ship it; a test holds it equal to the defaults.
pub const DEFAULT_TEXT: &str = include_str!("../default.toml");

/// What the aggregator is told. Every key has a default.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Address and port of the gRPC server.
    pub listen: SocketAddr,
    /// Address and port of `/metrics`, such as `127.0.0.1:9177`; empty for none.
    pub metrics_listen: String,
    /// Directory of the store.
    pub data_dir: PathBuf,
    /// Whether to serve beyond loopback although there is no TLS.
    pub allow_plaintext_listen: bool,
    /// Memory of its own that it may take; zero is three quarters of what there is.
    pub memory_size_max: String,
    /// How old a connection may become; its certificate is looked at again then.
    #[serde(with = "humantime_serde")]
    pub connection_age_max: Duration,
    /// Interval the agents sample at; data older than three of them is stale.
    #[serde(with = "humantime_serde")]
    pub interval: Duration,
    /// How long samples are kept; zero keeps them for ever.
    #[serde(with = "humantime_serde")]
    pub retention: Duration,
    /// What is kept beside samples and how much of all.
    pub keep: Keeping,
    /// How much of the file system is left free.
    pub space: Space,
    /// Bandwidth assumed for a migration where none is configured, told by a card or measured.
    pub assumed_bandwidth: String,
    /// What a feasible move may cost, unless a caller says otherwise.
    pub limits: Limits,
    /// Certificates; without them everybody who reaches the port may do all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<TlsFiles>,
    /// Where word of what is about to go wrong is sent as SNMPv3 traps; nowhere if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub traps: Option<Traps>,
}

/// What is kept beside samples and how much of all. Every key has a default; zero sets no limit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Keeping {
    /// Bytes of samples at most.
    pub samples_size_max: String,
    /// How long rollups of five minutes are kept.
    #[serde(with = "humantime_serde")]
    pub five_minutes: Duration,
    /// Bytes of rollups of five minutes at most.
    pub five_minutes_size_max: String,
    /// How long rollups of one hour are kept.
    #[serde(with = "humantime_serde")]
    pub hours: Duration,
    /// Bytes of rollups of one hour at most.
    pub hours_size_max: String,
    /// How long facts, events, gaps and migrations are kept.
    #[serde(with = "humantime_serde")]
    pub events: Duration,
    /// Bytes of those at most.
    pub events_size_max: String,
}

impl Default for Keeping {
    fn default() -> Self {
        const DAY: u64 = 24 * 3600;
        let unlimited = || "0B".to_owned();
        Self {
            samples_size_max: unlimited(),
            five_minutes: Duration::from_secs(180 * DAY),
            five_minutes_size_max: unlimited(),
            hours: Duration::from_secs(1_095 * DAY),
            hours_size_max: unlimited(),
            events: Duration::from_secs(1_095 * DAY),
            events_size_max: unlimited(),
        }
    }
}

/// How much of the file system is left free. Every key has a default.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Space {
    /// Bytes that stay free.
    pub free_size_min: String,
    /// Share of the file system that stays free; the greater of both holds.
    pub free_share_min: String,
    /// Samples younger than this are never forgotten for want of room.
    #[serde(with = "humantime_serde")]
    pub spared: Duration,
}

impl Default for Space {
    fn default() -> Self {
        Self {
            free_size_min: "1GiB".to_owned(),
            free_share_min: "0.05".to_owned(),
            spared: Duration::from_secs(24 * 3600),
        }
    }
}

/// What a feasible move may cost. Every key has a default.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Longest round trip between source and target.
    #[serde(with = "humantime_serde")]
    pub rtt_max: Duration,
    /// Largest loss of disk requests, as a share such as 0.1.
    pub iops_loss_max: String,
    /// Moves one node may have under way beside the one that is judged.
    pub moves_max: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            rtt_max: Duration::from_millis(5),
            iops_loss_max: "0.1".to_owned(),
            moves_max: 1,
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 7077)),
            metrics_listen: String::new(),
            data_dir: PathBuf::from("/var/lib/plimsoll-aggregator"),
            allow_plaintext_listen: false,
            memory_size_max: "0B".to_owned(),
            connection_age_max: Duration::from_secs(3_600),
            interval: Duration::from_secs(10),
            retention: Duration::from_secs(15 * 24 * 3600),
            keep: Keeping::default(),
            space: Space::default(),
            assumed_bandwidth: "1Gbit/s".to_owned(),
            limits: Limits::default(),
            tls: None,
            traps: None,
        }
    }
}

/// Rollups are made of six hours that have been over for four, and of samples that were sealed by then.
const RETENTION_MIN: Duration = Duration::from_secs(12 * 3600);

/// Why a configuration is not taken.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// A line of the file is not what is expected.
    #[error("{}:{line}: {problem}; `plimsoll-aggregator config default` prints every key", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// The line; the first is 1.
        line: usize,
        /// What is wrong, with the key, in one line.
        problem: String,
    },
    /// A value lies outside what is allowed.
    #[error("{place}{key}: {problem}")]
    Value {
        /// File and line that set it, with a colon and a space after them; empty where a flag did.
        place: String,
        /// The key.
        key: &'static str,
        /// What is wrong and what would be right.
        problem: String,
    },
}

impl ConfigError {
    pub(crate) fn value(key: &'static str, problem: String) -> Self {
        let place = String::new();
        Self::Value {
            place,
            key,
            problem,
        }
    }
}

impl Config {
    /// Reads a file, or takes the defaults if there is none, lets flags stand above it, and checks the whole.
    ///
    /// # Errors
    /// If the file cannot be read or a value cannot be; names file and line where the file is to blame.
    pub fn load(path: Option<&Path>, flags: impl FnOnce(&mut Self)) -> Result<Self, ConfigError> {
        let Some(path) = path else {
            let mut config = Self::default();
            flags(&mut config);
            config.check()?;
            return Ok(config);
        };
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
            path: path.to_owned(),
            source,
        })?;
        let file: Self = toml::from_str(&text).map_err(|error| ConfigError::Parse {
            path: path.to_owned(),
            line: line_at(&text, error.span().map_or(0, |span| span.start)),
            problem: error.message().replace('\n', " "),
        })?;
        let mut config = file.clone();
        flags(&mut config);
        match config.check() {
            Ok(()) => Ok(config),
            Err(error) => Err(file.blamed(error, path, &text)),
        }
    }

    /// Adds the place to an error that this file makes without any flag.
    fn blamed(&self, error: ConfigError, path: &Path, text: &str) -> ConfigError {
        let own = self.check();
        match (error, own) {
            (
                ConfigError::Value { key, problem, .. },
                Err(ConfigError::Value { key: same, .. }),
            ) if key == same => {
                let line = line_of_key(text, key).map_or(String::new(), |line| format!("{line}:"));
                ConfigError::Value {
                    place: format!("{}:{line} ", path.display()),
                    key,
                    problem,
                }
            }
            (error, _) => error,
        }
    }

    /// Returns where `/metrics` is served, if it is.
    pub fn metrics_address(&self) -> Result<Option<SocketAddr>, ConfigError> {
        if self.metrics_listen.is_empty() {
            return Ok(None);
        }
        let wrong = |problem| ConfigError::value("metrics_listen", problem);
        let address: SocketAddr = self.metrics_listen.parse().map_err(|_| {
            let text = &self.metrics_listen;
            wrong(format!(
                "{text:?} is no address; write for example 127.0.0.1:9177"
            ))
        })?;
        if !address.ip().is_loopback() && !self.allow_plaintext_listen {
            let problem = "other machines reach it and there is no TLS; bind 127.0.0.1, or set \
                           allow_plaintext_listen = true where every machine is trusted";
            return Err(wrong(problem.to_owned()));
        }
        Ok(Some(address))
    }

    /// Returns how much memory it may take, if that is told.
    ///
    /// # Errors
    /// If the text is no size.
    pub fn memory_max(&self) -> Result<Option<ByteSize>, ConfigError> {
        let bytes = size("memory_size_max", &self.memory_size_max)?;
        Ok((bytes > 0).then(|| ByteSize::from_bytes(bytes)))
    }

    /// Returns how the store is to be kept.
    pub fn store_options(&self) -> Result<StoreOptions, ConfigError> {
        let (keep, space) = (&self.keep, &self.space);
        let age = |age: Duration| (!age.is_zero()).then_some(age);
        let most = |key, text: &str| Ok(Some(size(key, text)?).filter(|bytes| *bytes > 0));
        let share = space.free_share_min.parse::<Ratio>().ok();
        let share = share.filter(|share| *share < Ratio::ONE);
        Ok(StoreOptions {
            retention: age(self.retention),
            retention_bytes: most("keep.samples_size_max", &keep.samples_size_max)?,
            events_retention: age(keep.events),
            events_bytes: most("keep.events_size_max", &keep.events_size_max)?,
            five_minutes: Keep {
                age: age(keep.five_minutes),
                bytes: most("keep.five_minutes_size_max", &keep.five_minutes_size_max)?,
            },
            hours: Keep {
                age: age(keep.hours),
                bytes: most("keep.hours_size_max", &keep.hours_size_max)?,
            },
            floor: Floor {
                bytes: size("space.free_size_min", &space.free_size_min)?,
                share: share.ok_or_else(|| {
                    let problem = format!(
                        "{:?} is no share below one; write for example \"0.05\"",
                        space.free_share_min
                    );
                    ConfigError::value("space.free_share_min", problem)
                })?,
                spared: space.spared,
            },
            ..StoreOptions::default()
        })
    }

    /// Checks what a type cannot say, flags included.
    fn check(&self) -> Result<(), ConfigError> {
        let open = self.tls.is_none() && !self.allow_plaintext_listen;
        if open && !self.listen.ip().is_loopback() {
            let problem = format!(
                "{} is reachable from other machines and there is no TLS; set [tls] (`pki init` \
                 makes certificates), bind 127.0.0.1, or set allow_plaintext_listen = true on a \
                 network where every machine is trusted",
                self.listen
            );
            return Err(ConfigError::value("listen", problem));
        }
        if self.interval < Duration::from_secs(1) || self.interval > Duration::from_secs(3600) {
            let problem = "must lie in 1s to 1h".to_owned();
            return Err(ConfigError::value("interval", problem));
        }
        if !self.retention.is_zero() && self.retention < RETENTION_MIN {
            let problem = "must be 12h at least, or 0s for ever: rollups are made of samples that have \
                           settled";
            return Err(ConfigError::value("retention", problem.to_owned()));
        }
        if self.connection_age_max < Duration::from_secs(1) {
            let problem = "must be 1s or more".to_owned();
            return Err(ConfigError::value("connection_age_max", problem));
        }
        self.metrics_address()?;
        self.memory_max()?;
        self.store_options()?;
        if let Some(traps) = &self.traps {
            traps.auth()?;
        }
        let share = self.limits.iops_loss_max.parse::<Ratio>();
        if !share.is_ok_and(|share| share <= Ratio::ONE) {
            let problem = format!(
                "{:?} is no share; write a number from 0 to 1, such as \"0.1\"",
                self.limits.iops_loss_max
            );
            return Err(ConfigError::value("limits.iops_loss_max", problem));
        }
        self.bandwidth().map(|_| ())
    }

    /// Returns the bandwidth that is assumed where none is known.
    ///
    /// # Errors
    /// If the text is no bandwidth.
    pub fn bandwidth(&self) -> Result<Bandwidth, ConfigError> {
        let assumed = self.assumed_bandwidth.parse::<Bandwidth>();
        assumed.map_err(|error| ConfigError::value("assumed_bandwidth", error.to_string()))
    }
}

fn size(key: &'static str, text: &str) -> Result<u64, ConfigError> {
    let parsed = text.parse::<ByteSize>();
    let bytes = parsed.map(ByteSize::bytes);
    bytes.map_err(|error| ConfigError::value(key, error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shipped_text_says_what_the_defaults_are() {
        let shipped: Config = toml::from_str(DEFAULT_TEXT).unwrap();
        assert_eq!(shipped, Config::default());
    }

    #[test]
    fn an_unknown_key_is_one_line_that_names_file_line_and_key() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("aggregator.toml");
        let refused = |text: &str| {
            std::fs::write(&path, text).unwrap();
            let error = anyhow::Error::from(Config::load(Some(&path), |_| {}).unwrap_err());
            let text = format!("{error:#}");
            assert_eq!(text.lines().count(), 1, "{text}");
            text
        };
        let text = refused("interval = \"10s\"\nlisten_addr = \"x\"\n");
        assert!(text.contains("aggregator.toml:2: "), "{text}");
        assert!(
            text.contains("listen_addr") && text.contains("config default"),
            "{text}"
        );
        let text = refused("\n\n[limits]\nrtt_max = 5\n");
        assert!(text.contains("aggregator.toml:4: "), "{text}");
    }

    #[test]
    fn a_value_that_cannot_be_is_named_with_its_line_unless_a_flag_is_to_blame() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("aggregator.toml");
        let refused = |text: &str, flags: fn(&mut Config)| {
            std::fs::write(&path, text).unwrap();
            let error = Config::load(Some(&path), flags).unwrap_err();
            error.to_string()
        };
        let of_file = refused("# fast\ninterval = \"1ms\"\n", |_| {});
        assert!(
            of_file.ends_with("aggregator.toml:2: interval: must lie in 1s to 1h"),
            "{of_file}"
        );
        let short = refused("retention = \"11h\"\n", |_| {});
        assert!(
            short.contains("aggregator.toml:1: retention: must be 12h"),
            "{short}"
        );
        assert!(Config::load(None, |config| config.retention = Duration::ZERO).is_ok());
        let in_table = refused("[limits]\niops_loss_max = \"7\"\n", |_| {});
        assert!(
            in_table.contains("aggregator.toml:2: limits.iops_loss_max: "),
            "{in_table}"
        );
        let of_flag = refused("interval = \"5s\"\n", |config| {
            config.interval = Duration::ZERO;
        });
        assert!(of_flag.starts_with("interval: "), "{of_flag}");
        let default = Config::load(None, |config| config.interval = Duration::ZERO);
        let of_default = default.unwrap_err().to_string();
        assert!(of_default.starts_with("interval: "), "{of_default}");
    }

    #[test]
    fn metrics_and_limits_that_cannot_be_are_refused_by_their_key() {
        let refused = |config: Config| config.check().unwrap_err().to_string();
        let wide = |metrics_listen: &str| Config {
            metrics_listen: metrics_listen.to_owned(),
            ..Config::default()
        };
        assert!(refused(wide("0.0.0.0:9177")).starts_with("metrics_listen"));
        assert!(refused(wide("here")).contains("127.0.0.1:9177"));
        assert!(wide("127.0.0.1:9177").check().is_ok());
        let mut config = Config::default();
        config.keep.hours_size_max = "much".to_owned();
        assert!(refused(config).starts_with("keep.hours_size_max"));
        let mut config = Config::default();
        config.space.free_share_min = "1".to_owned();
        assert!(refused(config).starts_with("space.free_share_min"));
        let mut config = Config::default();
        config.limits.iops_loss_max = "1.5".to_owned();
        assert!(refused(config).starts_with("limits.iops_loss_max"));
    }

    #[test]
    fn it_binds_beyond_loopback_only_when_told_so() {
        let wide = Config {
            listen: SocketAddr::from(([0, 0, 0, 0], 1)),
            ..Config::default()
        };
        assert!(
            wide.check()
                .unwrap_err()
                .to_string()
                .contains("allow_plaintext_listen")
        );
        assert!(
            Config {
                allow_plaintext_listen: true,
                ..wide
            }
            .check()
            .is_ok()
        );
    }
}
