//! [snmp]: the devices that are polled, as they are written and as they are checked.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use plimsoll_model::{Metric, Part};
use plimsoll_proto::secret::Secret;
use serde::{Deserialize, Serialize};

use super::check::{Wrong, wrong};
use crate::source::snmp::login::{Authentication, Login, Privacy};
use crate::source::snmp::oid::Oid;
use crate::source::snmp::profile::{OWN, Profile, Scalar};
use crate::source::snmp::{Pace, Target};

const INTERVAL_MIN: Duration = Duration::from_secs(1);
const INTERVAL_MAX: Duration = Duration::from_secs(3_600);
const TARGETS_MAX: usize = 4_096;
const SCALARS_MAX: usize = 64;
/// The shortest password of a user, which SNMPv3 itself sets.
pub(super) const PASSWORD_BYTES_MIN: usize = 8;
const PORT: &str = ":161";

/// [snmp] as it is written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RawSnmp {
    /// Time between two polls of a device.
    #[serde(with = "humantime_serde")]
    pub interval: Duration,
    /// How long one answer is waited for.
    #[serde(with = "humantime_serde")]
    pub timeout: Duration,
    /// How often a question is sent again.
    pub retries: u32,
    /// How long a whole poll may take.
    #[serde(with = "humantime_serde")]
    pub deadline: Duration,
    /// Questions that are under way at once.
    pub outstanding_max: usize,
    /// Failures in a row after which a device is taken for a new one.
    pub rebuild_after: u32,
    /// How young a device's SNMP agent may be and tell counters.
    #[serde(with = "humantime_serde")]
    pub warm_up: Duration,
    /// What devices are asked with.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub credential: Vec<RawCredential>,
    /// Further profiles.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub profile: Vec<RawProfile>,
    /// The devices.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub target: Vec<RawTarget>,
}

/// What devices are asked with: a user of SNMPv3, or a community of SNMPv2c. Secrets stand in files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawCredential {
    /// What targets call it.
    pub name: String,
    /// Name of the user.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// How messages are authenticated.
    #[serde(default)]
    pub authentication: Authentication,
    /// File with the password for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub authentication_password_file: Option<PathBuf>,
    /// How messages are encrypted.
    #[serde(default)]
    pub privacy: Privacy,
    /// File with the password for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub privacy_password_file: Option<PathBuf>,
    /// File with the community, instead of a user.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub community_file: Option<PathBuf>,
}

/// What devices of one kind are asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawProfile {
    /// What targets call it.
    pub name: String,
    /// Whether ports are read.
    #[serde(default)]
    pub ports: bool,
    /// Whether disks are read.
    #[serde(default)]
    pub disks: bool,
    /// Values of the whole device.
    #[serde(default)]
    pub value: Vec<RawScalar>,
}

/// A value of the whole device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawScalar {
    /// Its name on the device.
    pub oid: String,
    /// The metric it is.
    pub metric: String,
    /// What it is multiplied by to become one.
    #[serde(default = "one")]
    pub times: u64,
}

fn one() -> u64 {
    1
}

/// A device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawTarget {
    /// Its name.
    pub name: String,
    /// Address, with a port if it is not 161.
    pub address: String,
    /// What it is asked for.
    pub profile: String,
    /// What it is asked with.
    pub credential: String,
    /// Whether it may be asked with a community, which goes over the wire in clear.
    #[serde(default)]
    pub allow_insecure: bool,
}

impl Default for RawSnmp {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(30),
            timeout: Duration::from_secs(1),
            retries: 2,
            deadline: Duration::from_secs(10),
            outstanding_max: 256,
            rebuild_after: 3,
            warm_up: Duration::from_secs(15),
            credential: Vec::new(),
            profile: Vec::new(),
            target: Vec::new(),
        }
    }
}

/// What [snmp] says, checked. Secrets are not read yet.
#[derive(Debug, Clone)]
pub struct Snmp {
    /// How often devices are polled.
    pub pace: Pace,
    /// The devices; none before [`unlock`] was called.
    pub targets: Vec<Arc<Target>>,
}

/// Checks everything but the secrets.
pub(super) fn check(raw: &RawSnmp) -> Result<Snmp, Wrong> {
    let pace = pace(raw)?;
    for (place, credential) in raw.credential.iter().enumerate() {
        check_credential(place, credential)?;
    }
    unique("credential", raw.credential.iter().map(|one| &one.name))?;
    unique("profile", raw.profile.iter().map(|one| &one.name))?;
    unique("target", raw.target.iter().map(|one| &one.name))?;
    let profiles = profiles(raw)?;
    if raw.target.len() > TARGETS_MAX {
        return wrong(
            "snmp.target",
            format!("at most {TARGETS_MAX}; share them among agents"),
        );
    }
    for (place, target) in raw.target.iter().enumerate() {
        check_target(raw, (place, target), &profiles)?;
    }
    let targets = Vec::new();
    Ok(Snmp { pace, targets })
}

fn pace(raw: &RawSnmp) -> Result<Pace, Wrong> {
    if !(INTERVAL_MIN..=INTERVAL_MAX).contains(&raw.interval) {
        return wrong("snmp.interval", "must lie between 1s and 1h");
    }
    if !(Duration::from_millis(50)..=Duration::from_secs(30)).contains(&raw.timeout) {
        return wrong("snmp.timeout", "must lie between 50ms and 30s");
    }
    if raw.retries > 10 {
        return wrong("snmp.retries", "must be 10 or fewer");
    }
    if raw.deadline < raw.timeout || raw.deadline > Duration::from_secs(60) {
        return wrong("snmp.deadline", "must lie between `timeout` and 60s");
    }
    if !(1..=256).contains(&raw.outstanding_max) {
        return wrong("snmp.outstanding_max", "must lie between 1 and 256");
    }
    if raw.rebuild_after == 0 {
        return wrong("snmp.rebuild_after", "must be 1 or more");
    }
    if raw.warm_up > Duration::from_secs(600) {
        return wrong("snmp.warm_up", "must be 10min or less");
    }
    Ok(Pace {
        interval: raw.interval,
        timeout: raw.timeout,
        retries: raw.retries,
        deadline: raw.deadline,
        outstanding_max: raw.outstanding_max,
        rebuild_after: raw.rebuild_after,
        warm_up: raw.warm_up,
    })
}

/// Names of one kind must be names, and no two the same.
fn unique<'a>(kind: &str, names: impl Iterator<Item = &'a String>) -> Result<(), Wrong> {
    let mut known = BTreeSet::new();
    for (place, name) in names.enumerate() {
        let key = format!("snmp.{kind}[{place}].name");
        if name.is_empty() {
            return wrong(key, "must not be empty");
        }
        if let Err(error) = Part::named(name) {
            return wrong(key, error);
        }
        if !known.insert(name) {
            return wrong(key, format!("{name:?} was given before"));
        }
    }
    Ok(())
}

fn check_credential(place: usize, raw: &RawCredential) -> Result<(), Wrong> {
    let key = |name: &str| format!("snmp.credential[{place}].{name}");
    match (&raw.user, &raw.community_file) {
        (Some(_), Some(_)) => wrong(
            key("community_file"),
            "stands beside `user`; one of them does",
        ),
        (None, None) => wrong(key("name"), "needs `user`, or `community_file` for SNMPv2c"),
        (None, Some(_)) => Ok(()),
        (Some(user), None) if user.is_empty() || user.len() > 32 => {
            wrong(key("user"), "must have 1 to 32 bytes")
        }
        (Some(_), None) if raw.authentication_password_file.is_none() => wrong(
            key("authentication_password_file"),
            "is missing: a user needs authentication and privacy",
        ),
        (Some(_), None) if raw.privacy_password_file.is_none() => wrong(
            key("privacy_password_file"),
            "is missing: a user needs authentication and privacy",
        ),
        (Some(_), None) => Ok(()),
    }
}

fn profiles(raw: &RawSnmp) -> Result<Vec<Arc<Profile>>, Wrong> {
    let mut all: Vec<Arc<Profile>> = OWN
        .into_iter()
        .filter_map(Profile::own)
        .map(Arc::new)
        .collect();
    for (place, one) in raw.profile.iter().enumerate() {
        let key = |name: &str| format!("snmp.profile[{place}].{name}");
        if OWN.contains(&one.name.as_str()) {
            return wrong(
                key("name"),
                format!("{:?} is there already; take another name", one.name),
            );
        }
        if one.value.len() > SCALARS_MAX {
            return wrong(key("value"), format!("at most {SCALARS_MAX}"));
        }
        let scalars = one.value.iter().map(|value| {
            let oid: Oid = match value.oid.parse() {
                Ok(oid) => oid,
                Err(error) => return wrong(key("value"), format!("{:?} {error}", value.oid)),
            };
            let Some(metric) = Metric::from_name(&value.metric) else {
                return wrong(key("value"), format!("{:?} is no metric", value.metric));
            };
            if value.times == 0 {
                return wrong(key("value"), "`times` must be 1 or more");
            }
            Ok(Scalar {
                oid,
                metric,
                times: value.times,
            })
        });
        all.push(Arc::new(Profile {
            name: one.name.clone(),
            scalars: scalars.collect::<Result<_, _>>()?,
            ports: one.ports,
            disks: one.disks,
        }));
    }
    Ok(all)
}

fn check_target(
    raw: &RawSnmp,
    (place, target): (usize, &RawTarget),
    profiles: &[Arc<Profile>],
) -> Result<(), Wrong> {
    let key = |name: &str| format!("snmp.target[{place}].{name}");
    let address = &target.address;
    if address.is_empty() || address.contains(|c: char| c.is_whitespace() || c.is_control()) {
        let message =
            format!("{address:?} is no address; write for example 192.0.2.1 or switch-1:161");
        return wrong(key("address"), message);
    }
    if !profiles
        .iter()
        .any(|profile| profile.name == target.profile)
    {
        let known: Vec<&str> = profiles
            .iter()
            .map(|profile| profile.name.as_str())
            .collect();
        let message = format!(
            "{:?} is no profile; there is {}",
            target.profile,
            known.join(", ")
        );
        return wrong(key("profile"), message);
    }
    let credential = raw
        .credential
        .iter()
        .find(|one| one.name == target.credential);
    match credential {
        None => wrong(
            key("credential"),
            format!("no [[snmp.credential]] is named {:?}", target.credential),
        ),
        Some(credential) if credential.user.is_none() && !target.allow_insecure => wrong(
            key("credential"),
            "is a community, which goes over the wire in clear; use a user of SNMPv3, or set \
             `allow_insecure = true` for this target",
        ),
        Some(_) => Ok(()),
    }
}

/// Reads the secrets and makes the targets.
pub(super) fn unlock(raw: &RawSnmp) -> Result<Vec<Arc<Target>>, Wrong> {
    let profiles = profiles(raw)?;
    let mut logins = Vec::new();
    for (place, credential) in raw.credential.iter().enumerate() {
        logins.push((&credential.name, Arc::new(login(place, credential)?)));
    }
    let targets = raw.target.iter().filter_map(|target| {
        let profile = profiles.iter().find(|one| one.name == target.profile)?;
        let (_, login) = logins
            .iter()
            .find(|(name, _)| **name == target.credential)?;
        Some(Arc::new(Target {
            name: target.name.clone(),
            address: with_port(&target.address),
            profile: Arc::clone(profile),
            credential: target.credential.clone(),
            login: Arc::clone(login),
        }))
    });
    Ok(targets.collect())
}

/// Adds the port that devices listen on where none is told.
fn with_port(address: &str) -> String {
    let is_six = address.parse::<std::net::Ipv6Addr>().is_ok();
    if is_six {
        format!("[{address}]{PORT}")
    } else if address.ends_with(']') || !address.contains(':') {
        format!("{address}{PORT}")
    } else {
        address.to_owned()
    }
}

fn login(place: usize, raw: &RawCredential) -> Result<Login, Wrong> {
    let read = |name: &str, path: &Option<PathBuf>, least: usize| {
        let key = format!("snmp.credential[{place}].{name}");
        match path {
            None => wrong(key, "is missing"),
            Some(path) => Secret::read(path, least).or_else(|error| wrong(key, error)),
        }
    };
    let Some(user) = &raw.user else {
        return read("community_file", &raw.community_file, 1).map(Login::Community);
    };
    let password = |name: &str, path| read(name, path, PASSWORD_BYTES_MIN);
    Ok(Login::User {
        name: user.clone(),
        authentication: raw.authentication,
        authentication_password: password(
            "authentication_password_file",
            &raw.authentication_password_file,
        )?,
        privacy: raw.privacy,
        privacy_password: password("privacy_password_file", &raw.privacy_password_file)?,
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;
    use std::path::Path;

    use super::super::{Overrides, load};
    use super::*;

    fn secret(dir: &Path, name: &str, mode: u32) -> String {
        let path = dir.join(name);
        std::fs::write(&path, "canary-password\n").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        path.display().to_string()
    }

    fn text(dir: &Path) -> String {
        let (one, two) = (secret(dir, "one", 0o600), secret(dir, "two", 0o400));
        format!(
            "[[snmp.credential]]\nname = \"site\"\nuser = \"plimsoll\"\n\
             authentication_password_file = {one:?}\nprivacy_password_file = {two:?}\n\
             [[snmp.credential]]\nname = \"old\"\ncommunity_file = {one:?}\n\
             [[snmp.target]]\nname = \"a\"\naddress = \"192.0.2.1\"\nprofile = \"switch\"\n\
             credential = \"site\"\n\
             [[snmp.target]]\nname = \"b\"\naddress = \"2001:db8::1\"\nprofile = \"host\"\n\
             credential = \"old\"\nallow_insecure = true\n"
        )
    }

    fn refused(dir: &Path, text: &str) -> String {
        let path = dir.join("agent.toml");
        std::fs::write(&path, text).unwrap();
        load(Some(&path), &Overrides::default())
            .unwrap_err()
            .to_string()
    }

    #[test]
    fn targets_have_what_the_file_tells_and_nobody_prints_their_secrets() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.toml");
        std::fs::write(&path, text(dir.path())).unwrap();
        let (config, raw) = load(Some(&path), &Overrides::default()).unwrap();
        let targets = &config.snmp.targets;
        assert_eq!(targets[0].address, "192.0.2.1:161");
        assert_eq!(targets[1].address, "[2001:db8::1]:161");
        assert_eq!(
            *targets[1].login,
            Login::Community(Secret::of("canary-password"))
        );
        let shown = format!("{config:?} {raw:?} {}", toml::to_string(&raw).unwrap());
        assert!(!shown.contains("canary"), "{shown}");
        let again = super::super::parse(&toml::to_string(&raw).unwrap(), "again").unwrap();
        assert_eq!(again, raw);
    }

    #[test]
    fn what_is_wrong_is_named_by_its_line_and_key() {
        let dir = tempfile::tempdir().unwrap();
        let good = text(dir.path());
        for (from, to, line, words) in [
            (
                "allow_insecure = true\n",
                "",
                18,
                "snmp.target[1].credential: is a community",
            ),
            (
                "profile = \"host\"",
                "profile = \"tree\"",
                17,
                "there is host, switch",
            ),
            (
                "name = \"b\"",
                "name = \"a\"",
                15,
                "snmp.target[1].name: \"a\" was given before",
            ),
            (
                "credential = \"old\"",
                "credential = \"new\"",
                18,
                "no [[snmp.credential]] is named",
            ),
            (
                "community_file",
                "user",
                6,
                "snmp.credential[1].authentication_password_file: is missing",
            ),
            (
                "user = \"plimsoll\"\n",
                "",
                2,
                "snmp.credential[0].name: needs `user`",
            ),
        ] {
            let error = refused(dir.path(), &good.replacen(from, to, 1));
            assert!(
                error.contains(&format!("agent.toml:{line}: ")),
                "{line}: {error}"
            );
            assert!(error.contains(words), "{words}: {error}");
        }
        let error = refused(dir.path(), &format!("{good}[snmp]\ntimeout = \"20s\"\n"));
        assert!(error.contains("snmp.deadline"), "{error}");
        let error = refused(dir.path(), &good.replacen("allow_insecure", "allow", 1));
        assert!(error.contains("unknown field `allow`"), "{error}");
    }

    #[test]
    fn a_secret_that_others_can_read_stops_the_start_with_the_remedy() {
        let dir = tempfile::tempdir().unwrap();
        let good = text(dir.path());
        secret(dir.path(), "two", 0o640);
        let error = refused(dir.path(), &good);
        let line = "agent.toml:5: snmp.credential[0].privacy_password_file: ";
        assert!(
            error.contains(line) && error.contains("chmod 600"),
            "{error}"
        );
        assert!(!error.contains("canary"), "{error}");
    }

    #[test]
    fn a_profile_of_ones_own_tells_metrics_by_their_names() {
        let dir = tempfile::tempdir().unwrap();
        let own = |value: &str| {
            format!(
                "{}[[snmp.profile]]\nname = \"own\"\nvalue = [{{ {value} }}]\n",
                text(dir.path())
            )
        };
        for (value, words) in [
            (
                "oid = \"x\", metric = \"host.load1\"",
                "is no object identifier",
            ),
            ("oid = \"1.3\", metric = \"host.load\"", "is no metric"),
            (
                "oid = \"1.3\", metric = \"host.load1\", times = 0",
                "`times`",
            ),
        ] {
            let error = refused(dir.path(), &own(value));
            assert!(error.contains(":22: snmp.profile[0].value: "), "{error}");
            assert!(error.contains(words), "{words}: {error}");
        }
    }
}
