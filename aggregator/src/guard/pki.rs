//! Certificates for a small site: an authority of its own, and what it signs. A site that has an
//! authority already uses that one; [`super::caller`] says which names are needed.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use plimsoll_model::{NodeId, UnixMillis};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType,
};

use super::caller::plain;

/// Name of the authority's files, without ending.
const AUTHORITY: &str = "ca";
const DAY: Duration = Duration::from_secs(24 * 3_600);
/// Days the authority is good for.
const AUTHORITY_DAYS: u32 = 3_650;
/// Clocks of a site may differ by this.
const SKEW: Duration = Duration::from_secs(3_600);
/// Most days a certificate may be good for.
pub const DAYS_MAX: u32 = 825;

/// For whom a certificate is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Holder {
    /// The agent of a node.
    Node(NodeId),
    /// A planner, by name.
    Planner(String),
    /// An operator, by name.
    Operator(String),
    /// Those of a project, by the project's id.
    Tenant(String),
    /// An aggregator, by the host names and addresses it is reached at.
    Server(Vec<String>),
}

/// Why no certificate was made.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// A file is there already.
    #[error("{} is there already and is not overwritten; remove it or choose another directory", .0.display())]
    Exists(PathBuf),
    /// A file cannot be read or written.
    #[error("cannot {what} {}", path.display())]
    File {
        /// What was tried.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// A value cannot be put into a certificate.
    #[error("{field}: {problem}")]
    Value {
        /// The flag.
        field: &'static str,
        /// What is wrong, and what would be right.
        problem: String,
    },
    /// The library refused.
    #[error("the certificate cannot be made")]
    Make(#[from] rcgen::Error),
}

/// What [`issue`] and [`init`] wrote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// The certificate.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

/// Makes an authority in `dir` (`ca.pem`, `ca.key`), which is made if it is not there.
///
/// # Errors
/// If the files are there already or cannot be written, or `trust` is no plain name.
pub fn init(dir: &Path, trust: &str, now: UnixMillis) -> Result<Written, PkiError> {
    if !plain(trust) {
        return Err(PkiError::Value {
            field: "--trust-domain",
            problem: format!(
                "{trust:?} must be 1 to 64 letters, digits, dots, dashes or underscores"
            ),
        });
    }
    std::fs::create_dir_all(dir).map_err(|source| PkiError::File {
        what: "make",
        path: dir.to_owned(),
        source,
    })?;
    let mut params = fresh(trust, now, AUTHORITY_DAYS)?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let key = KeyPair::generate()?;
    let certificate = params.self_signed(&key)?;
    write(dir, AUTHORITY, &certificate.pem(), &key)
}

/// Makes a certificate signed by the authority in `dir`, good for `days`, as `NAME.pem` and
/// `NAME.key` in the same directory.
///
/// # Errors
/// If the authority is missing or cannot be read, a name cannot be put into a certificate, or the
/// files are there already.
pub fn issue(dir: &Path, holder: &Holder, days: u32, now: UnixMillis) -> Result<Written, PkiError> {
    if !(1..=DAYS_MAX).contains(&days) {
        return Err(PkiError::Value {
            field: "--days",
            problem: format!("must lie in 1 to {DAYS_MAX}, got {days}"),
        });
    }
    let authority = read(dir, "pem")?;
    let authority_key = KeyPair::from_pem(&read(dir, "key")?)?;
    let trust = trust_of(&authority).ok_or_else(|| PkiError::Value {
        field: "ca.pem",
        problem: "is no certificate that `pki init` made".to_owned(),
    })?;
    let issuer = Issuer::from_ca_cert_pem(&authority, authority_key)?;
    let (file, params) = wanted(holder, &trust, days, now)?;
    let key = KeyPair::generate()?;
    let certificate = params.signed_by(&key, &issuer)?;
    write(dir, &file, &certificate.pem(), &key)
}

fn wanted(
    holder: &Holder,
    trust: &str,
    days: u32,
    now: UnixMillis,
) -> Result<(String, CertificateParams), PkiError> {
    let client = |role: &str, field: &'static str, name: &str| {
        if !plain(name) {
            return Err(PkiError::Value {
                field,
                problem: format!(
                    "{name:?} must be 1 to 64 letters, digits, dots, dashes or underscores"
                ),
            });
        }
        let mut params = fresh(name, now, days)?;
        let uri = format!("spiffe://{trust}/{role}/{name}").try_into()?;
        params.subject_alt_names = vec![SanType::URI(uri)];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        Ok((format!("{role}-{name}"), params))
    };
    match holder {
        Holder::Node(node) => client("node", "--node", &node.to_string()),
        Holder::Planner(name) => client("planner", "--planner", name),
        Holder::Operator(name) => client("operator", "--operator", name),
        Holder::Tenant(project) => client("tenant", "--tenant", project),
        Holder::Server(hosts) => {
            let first = hosts.first().ok_or_else(|| PkiError::Value {
                field: "--server",
                problem: "needs at least one host name or address".to_owned(),
            })?;
            let file = format!("server-{}", first.replace([':', '/'], "-"));
            let mut params = CertificateParams::new(hosts.clone())?;
            let dated = fresh(first, now, days)?;
            params.distinguished_name = dated.distinguished_name;
            params.not_before = dated.not_before;
            params.not_after = dated.not_after;
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
            Ok((file, params))
        }
    }
}

/// Parameters with a name and a time of validity.
fn fresh(name: &str, now: UnixMillis, days: u32) -> Result<CertificateParams, PkiError> {
    let mut params = CertificateParams::new(Vec::new())?;
    let mut called = DistinguishedName::new();
    called.push(DnType::CommonName, name);
    params.distinguished_name = called;
    let today = rcgen::date_time_ymd(1970, 1, 1)
        + Duration::from_millis(u64::try_from(now.millis()).unwrap_or(0));
    params.not_before = today - SKEW;
    params.not_after = today + DAY * days;
    Ok(params)
}

/// The trust domain is the authority's common name.
fn trust_of(authority: &str) -> Option<String> {
    let (_, pem) = x509_parser::pem::parse_x509_pem(authority.as_bytes()).ok()?;
    let parsed = pem.parse_x509().ok()?;
    let name = parsed.subject().iter_common_name().next()?;
    let name = name.as_str().ok()?;
    plain(name).then(|| name.to_owned())
}

fn read(dir: &Path, ending: &str) -> Result<String, PkiError> {
    let path = dir.join(format!("{AUTHORITY}.{ending}"));
    std::fs::read_to_string(&path).map_err(|source| PkiError::File {
        what: "read the authority (`pki init` makes one)",
        path,
        source,
    })
}

fn write(dir: &Path, name: &str, pem: &str, key: &KeyPair) -> Result<Written, PkiError> {
    let written = Written {
        certificate: dir.join(format!("{name}.pem")),
        key: dir.join(format!("{name}.key")),
    };
    for path in [&written.certificate, &written.key] {
        if path.exists() {
            return Err(PkiError::Exists(path.clone()));
        }
    }
    create(&written.key, &key.serialize_pem(), 0o600)?;
    create(&written.certificate, pem, 0o644)?;
    Ok(written)
}

fn create(path: &Path, text: &str, mode: u32) -> Result<(), PkiError> {
    let failed = |source| PkiError::File {
        what: "write",
        path: path.to_owned(),
        source,
    };
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(mode);
    let mut file = options.open(path).map_err(failed)?;
    file.write_all(text.as_bytes()).map_err(failed)?;
    file.sync_all().map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    const NOW: UnixMillis = UnixMillis::from_millis(1_795_000_000_000);

    #[test]
    fn nothing_is_overwritten_and_keys_are_closed() {
        let dir = tempfile::tempdir().unwrap();
        let authority = init(dir.path(), "site-a", NOW).unwrap();
        let before = std::fs::read(&authority.key).unwrap();
        let again = init(dir.path(), "site-a", NOW).unwrap_err();
        assert!(matches!(again, PkiError::Exists(_)), "{again}");
        assert_eq!(std::fs::read(&authority.key).unwrap(), before);
        let mode = std::fs::metadata(&authority.key)
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_wrong_value_names_its_flag() {
        let dir = tempfile::tempdir().unwrap();
        init(dir.path(), "site-a", NOW).unwrap();
        let planner = Holder::Planner("a/b".to_owned());
        let error = issue(dir.path(), &planner, 30, NOW)
            .unwrap_err()
            .to_string();
        assert!(error.contains("--planner"), "{error}");
        let planner = Holder::Planner("watcher".to_owned());
        for days in [0, DAYS_MAX + 1] {
            let error = issue(dir.path(), &planner, days, NOW)
                .unwrap_err()
                .to_string();
            assert!(error.contains("--days"), "{error}");
        }
        issue(dir.path(), &planner, DAYS_MAX, NOW).unwrap();
    }

    #[test]
    fn without_an_authority_the_remedy_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let server = Holder::Server(vec!["localhost".to_owned()]);
        let error = issue(dir.path(), &server, 30, NOW).unwrap_err().to_string();
        assert!(error.contains("pki init"), "{error}");
    }
}
