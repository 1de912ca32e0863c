//! The certificates: what the aggregator shows, whom it believes, and how both change while it runs.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use rustls::server::{NoServerSessionStorage, ServerConfig, WebPkiClientVerifier};
use serde::{Deserialize, Serialize};

/// Mode bits that let others than the owner touch a key.
const OTHERS: u32 = 0o077;

/// The files of the aggregator's TLS.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsFiles {
    /// The aggregator's certificate, and after it those between it and the authority (PEM).
    pub certificate: PathBuf,
    /// The key of the certificate (PEM), readable by its owner only.
    pub key: PathBuf,
    /// The authority that signs the certificates of callers (PEM).
    pub client_ca: PathBuf,
    /// Certificates the authority took back (PEM, one or more lists); none if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked: Option<PathBuf>,
    /// How often the files are looked at.
    #[serde(with = "humantime_serde", default = "look_every")]
    pub look_every: Duration,
}

fn look_every() -> Duration {
    Duration::from_secs(5)
}

/// Why TLS cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("tls.{key}: cannot read {}", path.display())]
    Read {
        /// The key of the configuration.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The private key lies open.
    #[error("tls.key: {} can be read by others (mode {mode:03o}); run chmod 600 on it", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// A file does not hold what it should.
    #[error("tls.{key}: {} {problem}", path.display())]
    Content {
        /// The key of the configuration.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
}

impl TlsFiles {
    /// Reads the files and makes of them what a handshake needs: TLS 1.3 only, a client certificate
    /// always, no resumption (a resumed session would outlive the certificate it began with).
    ///
    /// # Errors
    /// If a file cannot be read, is not what it should be, or the key lies open to others.
    pub fn load(&self) -> Result<Arc<ServerConfig>, TlsError> {
        let chain = certificates("certificate", &self.certificate)?;
        let key = private_key(&self.key)?;
        let authorities = certificates("client_ca", &self.client_ca)?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let problem = |key: &'static str, path: &Path, problem: String| TlsError::Content {
            key,
            path: path.to_owned(),
            problem,
        };
        let mut roots = RootCertStore::empty();
        for authority in authorities {
            roots.add(authority).map_err(|error| {
                problem(
                    "client_ca",
                    &self.client_ca,
                    format!("is no authority: {error}"),
                )
            })?;
        }
        let mut verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
        if let Some(path) = &self.revoked {
            verifier = verifier
                .with_crls(revocations(path)?)
                .only_check_end_entity_revocation()
                .allow_unknown_revocation_status();
        }
        let verifier = verifier.build().map_err(|error| {
            problem(
                "client_ca",
                &self.client_ca,
                format!("cannot be used: {error}"),
            )
        })?;
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .and_then(|builder| {
                builder
                    .with_client_cert_verifier(verifier)
                    .with_single_cert(chain, key)
            })
            .map_err(|error| {
                problem(
                    "certificate",
                    &self.certificate,
                    format!("does not go with the key {}: {error}", self.key.display()),
                )
            })?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Arc::new(config))
    }

    /// Returns the stamp of each file; absent where it cannot be seen.
    fn stamps(&self) -> Vec<Option<Stamp>> {
        [
            Some(&self.certificate),
            Some(&self.key),
            Some(&self.client_ca),
            self.revoked.as_ref(),
        ]
        .into_iter()
        .flatten()
        .map(|path| {
            let seen = std::fs::metadata(path).ok()?;
            Some((seen.modified().ok()?, seen.len(), seen.ino()))
        })
        .collect()
    }
}

/// What tells a file from the one that was there before: time of change, length and number. The time alone
/// would not: it moves in steps, and a file may be changed twice in one.
type Stamp = (SystemTime, u64, u64);

fn read(key: &'static str, path: &Path) -> Result<Vec<u8>, TlsError> {
    std::fs::read(path).map_err(|source| TlsError::Read {
        key,
        path: path.to_owned(),
        source,
    })
}

fn certificates(key: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let content = |problem: String| TlsError::Content {
        key,
        path: path.to_owned(),
        problem,
    };
    let text = read(key, path)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    let found = found.map_err(|error| content(format!("is no PEM file: {error}")))?;
    if found.is_empty() {
        return Err(content("holds no certificate".to_owned()));
    }
    Ok(found)
}

fn revocations(path: &Path) -> Result<Vec<CertificateRevocationListDer<'static>>, TlsError> {
    let text = read("revoked", path)?;
    let found: Result<Vec<_>, _> = CertificateRevocationListDer::pem_slice_iter(&text).collect();
    found.map_err(|error| TlsError::Content {
        key: "revoked",
        path: path.to_owned(),
        problem: format!("is no PEM file: {error}"),
    })
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    let text = read("key", path)?;
    let mode = std::fs::metadata(path)
        .map(|seen| seen.permissions().mode() & 0o777)
        .map_err(|source| TlsError::Read {
            key: "key",
            path: path.to_owned(),
            source,
        })?;
    if mode & OTHERS != 0 {
        return Err(TlsError::Open {
            path: path.to_owned(),
            mode,
        });
    }
    // The parser's error is left out: nothing that was read from a key may come into a log.
    PrivateKeyDer::from_pem_slice(&text).map_err(|_| TlsError::Content {
        key: "key",
        path: path.to_owned(),
        problem: "holds no private key in PEM form".to_owned(),
    })
}

/// What handshakes use now; new files take its place while the aggregator runs.
#[derive(Debug)]
pub struct Current {
    files: TlsFiles,
    now: Mutex<Arc<ServerConfig>>,
    seen: Mutex<Vec<Option<Stamp>>>,
}

impl Current {
    /// Reads the files for the first time.
    ///
    /// # Errors
    /// As [`TlsFiles::load`].
    pub fn load(files: TlsFiles) -> Result<Self, TlsError> {
        // Before the files are read: what changes in between is then seen by the first look.
        let seen = Mutex::new(files.stamps());
        let now = Mutex::new(files.load()?);
        Ok(Self { files, now, seen })
    }

    /// Returns what the next handshake uses.
    pub fn config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.now.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Looks at the files once and takes over what changed. Files that cannot be used change nothing and
    /// are reported once for each change.
    pub fn look(&self) {
        let stamps = self.files.stamps();
        {
            let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            if *seen == stamps {
                return;
            }
            *seen = stamps;
        }
        match self.files.load() {
            Ok(config) => {
                *self.now.lock().unwrap_or_else(PoisonError::into_inner) = config;
                tracing::info!("new certificates are in use");
            }
            Err(error) => tracing::error!(
                error = %error,
                "the changed certificates cannot be used; the old ones stay"
            ),
        }
    }

    /// Looks at the files again and again. Ends only when dropped.
    pub async fn follow(self: Arc<Self>) {
        // A period of zero is no period.
        let every = self.files.look_every.max(Duration::from_millis(1));
        let mut looks = tokio::time::interval(every);
        looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            looks.tick().await;
            self.look();
        }
    }
}
