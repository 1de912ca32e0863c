//! How an aggregator is dialled: its URL and, where that begins with `https`, the caller's
//! certificates. It prepares a connection and opens none.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Identity};

/// Mode bits that let others than the owner touch a key.
const OTHERS: u32 = 0o077;

/// The files a caller identifies itself with, all PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The authority that signed the aggregator's certificate.
    pub ca: PathBuf,
    /// The caller's certificate, and after it those between it and its authority.
    pub certificate: PathBuf,
    /// The key of the certificate, readable by its owner only.
    pub key: PathBuf,
}

/// Why an aggregator cannot be dialled.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// The URL cannot be used.
    #[error("{url:?} is no URL of an aggregator; write http://HOST:7077 or https://HOST:7077")]
    Url {
        /// The URL.
        url: String,
    },
    /// The URL wants TLS and there are no certificates.
    #[error("{url} needs certificates: name ca, certificate and key")]
    Bare {
        /// The URL.
        url: String,
    },
    /// There are certificates and the URL does not want TLS.
    #[error("{url} would be dialled without TLS although certificates are named; write https://")]
    Plain {
        /// The URL.
        url: String,
    },
    /// A file cannot be read.
    #[error("{field}: cannot read {}", path.display())]
    Read {
        /// What the file is for.
        field: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The private key lies open.
    #[error("key: {} can be read by others (mode {mode:03o}); run chmod 600 on it", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// The files are not what they should be.
    #[error("ca, certificate or key of {url} is no PEM file of its kind")]
    Content {
        /// The URL.
        url: String,
    },
}

/// Prepares a connection. The files are read each time, so that new ones are in use at the next dial.
///
/// # Errors
/// If the URL is none, if it and the credentials contradict each other, or if a file cannot be used.
pub fn endpoint(url: &str, credentials: Option<&Credentials>) -> Result<Endpoint, DialError> {
    let url = || url.to_owned();
    let endpoint = Endpoint::from_shared(url()).map_err(|_| DialError::Url { url: url() })?;
    let secure = match endpoint.uri().scheme_str() {
        Some("http") => false,
        Some("https") => true,
        _ => return Err(DialError::Url { url: url() }),
    };
    match (secure, credentials) {
        (false, None) => Ok(endpoint),
        (false, Some(_)) => Err(DialError::Plain { url: url() }),
        (true, None) => Err(DialError::Bare { url: url() }),
        (true, Some(credentials)) => endpoint
            .tls_config(tls(credentials)?)
            .map_err(|_| DialError::Content { url: url() }),
    }
}

fn tls(credentials: &Credentials) -> Result<ClientTlsConfig, DialError> {
    let key = &credentials.key;
    let mode = std::fs::metadata(key)
        .map(|seen| seen.permissions().mode() & 0o777)
        .map_err(|source| unreadable("key", key, source))?;
    if mode & OTHERS != 0 {
        return Err(DialError::Open {
            path: key.clone(),
            mode,
        });
    }
    let certificate = read("certificate", &credentials.certificate)?;
    let identity = Identity::from_pem(certificate, read("key", key)?);
    let authority = Certificate::from_pem(read("ca", &credentials.ca)?);
    Ok(ClientTlsConfig::new()
        .ca_certificate(authority)
        .identity(identity))
}

fn read(field: &'static str, path: &Path) -> Result<Vec<u8>, DialError> {
    std::fs::read(path).map_err(|source| unreadable(field, path, source))
}

fn unreadable(field: &'static str, path: &Path, source: std::io::Error) -> DialError {
    DialError::Read {
        field,
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nowhere() -> Credentials {
        Credentials {
            ca: "/nowhere/ca.pem".into(),
            certificate: "/nowhere/me.pem".into(),
            key: "/nowhere/me.key".into(),
        }
    }

    #[test]
    fn url_and_certificates_must_agree() {
        assert!(endpoint("http://127.0.0.1:7077", None).is_ok());
        let says = |url: &str, credentials: Option<&Credentials>| {
            endpoint(url, credentials).unwrap_err().to_string()
        };
        assert!(says("https://a:7077", None).contains("needs certificates"));
        assert!(says("http://a:7077", Some(&nowhere())).contains("write https://"));
        assert!(says("https://a:7077", Some(&nowhere())).contains("/nowhere/me.key"));
        for url in ["", "a b", "127.0.0.1:7077", "ftp://a"] {
            assert!(says(url, None).contains("no URL"), "{url}");
        }
    }

    #[test]
    fn an_open_key_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let key = dir.path().join("me.key");
        std::fs::write(&key, "secret").unwrap();
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o640)).unwrap();
        let credentials = Credentials { key, ..nowhere() };
        let text = endpoint("https://a:7077", Some(&credentials))
            .unwrap_err()
            .to_string();
        assert!(
            text.contains("mode 640") && text.contains("chmod 600"),
            "{text}"
        );
    }
}
