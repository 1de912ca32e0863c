//! A site with an authority of its own and an aggregator that asks for certificates.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use plimsoll_aggregator::config::Config;
use plimsoll_aggregator::guard::pki::{self, Holder};
use plimsoll_aggregator::guard::tls::TlsFiles;
use plimsoll_aggregator::serve::serve;
use plimsoll_model::{Clock as _, SystemClock};
use plimsoll_proto::dial::{self, Credentials};
use plimsoll_proto::v1;
use plimsoll_proto::v1::query_service_client::QueryServiceClient;
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, Issuer, KeyPair, SanType};
use tokio::sync::oneshot;
use tonic::transport::Channel;

pub(crate) const NODE: &str = "0f0e7c4a-3f10-4a55-9d0e-3a1f7c1b2d11";
pub(crate) const OTHER: &str = "0f0e7c4a-3f10-4a55-9d0e-3a1f7c1b2d22";
pub(crate) const DAY: Duration = Duration::from_secs(24 * 3_600);

/// A site with an authority, and an aggregator that serves until this is dropped.
pub(crate) struct Site {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) address: SocketAddr,
    _stop: oneshot::Sender<()>,
}

pub(crate) fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

impl Site {
    pub(crate) async fn begin() -> Self {
        Self::begin_with(|_| {}).await
    }

    pub(crate) async fn begin_with(bend: impl FnOnce(&mut Config)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut config = Config {
            listen: SocketAddr::from(([127, 0, 0, 1], free_port())),
            data_dir: dir.path().join("data"),
            tls: Some(certify(dir.path())),
            ..Config::default()
        };
        bend(&mut config);
        let (stop, stopped) = oneshot::channel();
        let address = config.listen;
        tokio::spawn(async move {
            let stopped = async move { drop(stopped.await) };
            serve(&config, Arc::new(SystemClock::new()), stopped)
                .await
                .unwrap();
        });
        let site = Self {
            dir,
            address,
            _stop: stop,
        };
        site.until_it_listens().await;
        site
    }

    pub(crate) async fn until_it_listens(&self) {
        until("the aggregator listens", async || {
            tokio::net::TcpStream::connect(self.address).await.is_ok()
        })
        .await;
    }

    pub(crate) fn issue(&self, holder: &Holder) -> Credentials {
        let written = pki::issue(self.dir.path(), holder, 30, SystemClock::new().now()).unwrap();
        Credentials {
            ca: self.dir.path().join("ca.pem"),
            certificate: written.certificate,
            key: written.key,
        }
    }

    /// Writes a certificate signed by the site's authority whose parameters were bent.
    pub(crate) fn forge(
        &self,
        name: &str,
        bend: impl FnOnce(&mut CertificateParams),
    ) -> Credentials {
        let read = |ending: &str| {
            std::fs::read_to_string(self.dir.path().join(format!("ca.{ending}"))).unwrap()
        };
        let authority = KeyPair::from_pem(&read("key")).unwrap();
        let issuer = Issuer::from_ca_cert_pem(&read("pem"), authority).unwrap();
        let mut params = good();
        bend(&mut params);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &issuer).unwrap().pem();
        self.keep(name, &certificate, &key)
    }

    pub(crate) fn keep(&self, name: &str, certificate: &str, key: &KeyPair) -> Credentials {
        let path = |ending: &str| -> PathBuf { self.dir.path().join(format!("{name}.{ending}")) };
        std::fs::write(path("pem"), certificate).unwrap();
        write_closed(&path("key"), &key.serialize_pem());
        Credentials {
            ca: self.dir.path().join("ca.pem"),
            certificate: path("pem"),
            key: path("key"),
        }
    }

    pub(crate) async fn dial(
        &self,
        credentials: &Credentials,
    ) -> Result<Channel, tonic::transport::Error> {
        let url = format!("https://localhost:{}", self.address.port());
        let endpoint = dial::endpoint(&url, Some(credentials)).unwrap();
        endpoint.timeout(Duration::from_secs(10)).connect().await
    }

    /// Asks for nodes; in TLS 1.3 a client learns of a refused certificate at its first read.
    pub(crate) async fn list_nodes(&self, credentials: &Credentials) -> Result<(), String> {
        let channel = self
            .dial(credentials)
            .await
            .map_err(|error| error.to_string())?;
        let mut client = QueryServiceClient::new(channel);
        let asked = client.list_nodes(v1::ListNodesRequest::default());
        asked.await.map(|_| ()).map_err(|status| status.to_string())
    }
}

/// Makes an authority and what an aggregator shows and believes; nothing is revoked yet.
pub(crate) fn certify(dir: &Path) -> TlsFiles {
    let now = SystemClock::new().now();
    pki::init(dir, "site-a", now).unwrap();
    let server = Holder::Server(vec!["127.0.0.1".to_owned(), "localhost".to_owned()]);
    let shown = pki::issue(dir, &server, 30, now).unwrap();
    let revoked = dir.join("revoked.pem");
    std::fs::write(&revoked, "").unwrap();
    TlsFiles {
        certificate: shown.certificate,
        key: shown.key,
        client_ca: dir.join("ca.pem"),
        revoked: Some(revoked),
        look_every: Duration::from_millis(20),
    }
}

/// Puts a file in the place of another in one step, as those who renew certificates do.
pub(crate) fn replace(path: &Path, text: &[u8]) {
    let fresh = path.with_extension("fresh");
    std::fs::write(&fresh, text).unwrap();
    std::fs::rename(&fresh, path).unwrap();
}

/// Asks again and again until the answer is yes, and gives up after a while.
pub(crate) async fn until(what: &str, mut question: impl AsyncFnMut() -> bool) {
    let answered = tokio::time::timeout(Duration::from_secs(30), async {
        while !question().await {
            tokio::task::yield_now().await;
        }
    });
    let answered = answered.await;
    assert!(answered.is_ok(), "{what}: not within half a minute");
}

pub(crate) fn write_closed(path: &Path, text: &str) {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
}

pub(crate) fn uri(text: &str) -> SanType {
    SanType::URI(text.to_owned().try_into().unwrap())
}

/// Parameters of a certificate that is let in.
pub(crate) fn good() -> CertificateParams {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.subject_alt_names = vec![uri("spiffe://site-a/operator/forged")];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params.not_before = rcgen::date_time_ymd(2024, 1, 1);
    params.not_after = rcgen::date_time_ymd(2045, 1, 1);
    params
}
