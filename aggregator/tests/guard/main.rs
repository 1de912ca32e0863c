//! The guard on real connections: which certificates come in, and who may call what.
#![expect(
    clippy::unwrap_used,
    reason = "a test ends where its parts are not what they must be"
)]

mod forged;
mod site;
mod told;

use std::sync::Arc;

use plimsoll_aggregator::guard::pki::{self, Holder};
use plimsoll_aggregator::guard::tls::Current;
use plimsoll_model::{Clock as _, NodeId, SystemClock};
use plimsoll_proto::dial::Credentials;
use plimsoll_proto::v1;
use plimsoll_proto::v1::ingest_service_client::IngestServiceClient;
use plimsoll_proto::v1::query_service_client::QueryServiceClient;
use prost::Message as _;
use rcgen::{ExtendedKeyUsagePurpose, Issuer, KeyPair, SanType};
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::site::{DAY, NODE, OTHER, Site, good, uri};

/// Certificates of the right authority that say the wrong thing.
fn wrongly_named(site: &Site) -> Vec<(&'static str, Credentials)> {
    vec![
        (
            "expired",
            site.forge("expired", |p| p.not_after = p.not_before + DAY),
        ),
        (
            "of tomorrow",
            site.forge("tomorrow", |p| p.not_before = p.not_after - DAY),
        ),
        (
            "for servers",
            site.forge("servers", |p| {
                p.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
            }),
        ),
        (
            "without a name",
            site.forge("nameless", |p| p.subject_alt_names.clear()),
        ),
        (
            "with two names",
            site.forge("two", |p| {
                p.subject_alt_names.push(uri("spiffe://site-a/planner/too"));
            }),
        ),
        (
            "of any node",
            site.forge("any", |p| {
                p.subject_alt_names = vec![uri("spiffe://site-a/node/*")];
            }),
        ),
        (
            "of a role nobody knows",
            site.forge("role", |p| {
                p.subject_alt_names = vec![uri("spiffe://site-a/root/me")];
            }),
        ),
        (
            "with a host's name only",
            site.forge("host", |p| {
                p.subject_alt_names = vec![SanType::DnsName("localhost".try_into().unwrap())];
            }),
        ),
        (
            "with the name of a web page",
            site.forge("web", |p| {
                p.subject_alt_names = vec![uri("https://site-a/operator/forged")];
            }),
        ),
    ]
}

/// Certificates that say the right thing, signed by whom it is not to say.
fn wrongly_signed(site: &Site, right: &Credentials) -> Vec<(&'static str, Credentials)> {
    let key = KeyPair::generate().unwrap();
    let own = good().self_signed(&key).unwrap().pem();
    let elsewhere = site.dir.path().join("elsewhere");
    pki::init(&elsewhere, "site-a", SystemClock::new().now()).unwrap();
    let foreign = Holder::Operator("me".to_owned());
    let foreign = pki::issue(&elsewhere, &foreign, 30, SystemClock::new().now()).unwrap();
    let foreign = Credentials {
        ca: site.dir.path().join("ca.pem"),
        certificate: foreign.certificate,
        key: foreign.key,
    };
    let leaf_key = KeyPair::from_pem(&std::fs::read_to_string(&right.key).unwrap()).unwrap();
    let leaf = Issuer::new(good(), leaf_key);
    let child = KeyPair::generate().unwrap();
    let signed_by_leaf = good().signed_by(&child, &leaf).unwrap().pem()
        + &std::fs::read_to_string(&right.certificate).unwrap();
    vec![
        ("signed by itself", site.keep("self", &own, &key)),
        ("of another authority", foreign),
        (
            "signed by a holder",
            site.keep("child", &signed_by_leaf, &child),
        ),
    ]
}

#[tokio::test]
async fn of_all_certificates_only_the_right_one_comes_in() {
    let site = Site::begin().await;
    let right = site.forge("right", |_| {});
    site.list_nodes(&right).await.unwrap();

    let mut wrong = wrongly_named(&site);
    wrong.extend(wrongly_signed(&site, &right));
    assert_eq!(wrong.len(), 12);
    for (what, credentials) in wrong {
        assert!(
            site.list_nodes(&credentials).await.is_err(),
            "one {what} came in"
        );
    }
    site.list_nodes(&right).await.unwrap();
}

#[tokio::test]
async fn who_shows_nothing_or_speaks_an_older_tls_does_not_come_in() {
    let site = Site::begin().await;
    let authority = std::fs::read_to_string(site.dir.path().join("ca.pem")).unwrap();
    let bare = tonic::transport::ClientTlsConfig::new()
        .ca_certificate(tonic::transport::Certificate::from_pem(&authority));
    let url = format!("https://localhost:{}", site.address.port());
    let endpoint = Channel::from_shared(url).unwrap().tls_config(bare).unwrap();
    let came_in = match endpoint.connect().await {
        Ok(channel) => QueryServiceClient::new(channel)
            .list_nodes(v1::ListNodesRequest::default())
            .await
            .is_ok(),
        Err(_) => false,
    };
    assert!(!came_in, "nobody comes in without a certificate");
    let plain = Channel::from_shared(format!("http://{}", site.address)).unwrap();
    let came_in = match plain.connect().await {
        Ok(channel) => QueryServiceClient::new(channel)
            .list_nodes(v1::ListNodesRequest::default())
            .await
            .is_ok(),
        Err(_) => false,
    };
    assert!(!came_in, "nobody comes in without TLS");

    use rustls::pki_types::pem::PemObject as _;
    let mut roots = rustls::RootCertStore::empty();
    let read = rustls::pki_types::CertificateDer::from_pem_slice(authority.as_bytes()).unwrap();
    roots.add(read).unwrap();
    let right = site.issue(&Holder::Operator("old".to_owned()));
    let chain = rustls::pki_types::CertificateDer::from_pem_file(&right.certificate).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::from_pem_file(&right.key).unwrap();
    for (version, comes_in) in [
        (&rustls::version::TLS12, false),
        (&rustls::version::TLS13, true),
    ] {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let client = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[version])
            .unwrap()
            .with_root_certificates(roots.clone())
            .with_client_auth_cert(vec![chain.clone()], key.clone_key())
            .unwrap();
        let tcp = tokio::net::TcpStream::connect(site.address).await.unwrap();
        let name = "localhost".try_into().unwrap();
        let shaken = tokio_rustls::TlsConnector::from(Arc::new(client))
            .connect(name, tcp)
            .await;
        assert_eq!(shaken.is_ok(), comes_in, "{version:?}");
    }
}

/// Calls with an empty message and says what came of it.
async fn call(channel: &Channel, path: &str) -> Result<(), Status> {
    let mut client = tonic::client::Grpc::new(channel.clone());
    client.ready().await.unwrap();
    let codec = tonic_prost::ProstCodec::<(), ()>::default();
    let messages = tokio_stream::iter([()]);
    let path = path.parse().unwrap();
    let answer = client
        .streaming(tonic::Request::new(messages), path, codec)
        .await?;
    // A stream of answers may begin before it is refused.
    answer.into_inner().message().await.map(|_| ())
}

fn own_calls() -> Vec<String> {
    let set = prost_types::FileDescriptorSet::decode(plimsoll_proto::DESCRIPTORS).unwrap();
    let mut calls = Vec::new();
    for file in &set.file {
        for service in &file.service {
            for method in &service.method {
                calls.push(format!(
                    "/{}.{}/{}",
                    file.package(),
                    service.name(),
                    method.name()
                ));
            }
        }
    }
    calls
}

#[tokio::test]
async fn every_call_meets_every_role() {
    let site = Site::begin().await;
    let mut channels = Vec::new();
    for (role, holder) in [
        ("node", Holder::Node(NODE.parse().unwrap())),
        ("planner", Holder::Planner("watcher".to_owned())),
        ("operator", Holder::Operator("me".to_owned())),
        ("tenant", Holder::Tenant("a1b2".to_owned())),
    ] {
        channels.push((role, site.dial(&site.issue(&holder)).await.unwrap()));
    }
    let calls = own_calls();
    assert!(calls.len() >= 11, "{calls:?}");
    for path in &calls {
        let ingest = path.contains("IngestService");
        let raw = path.contains("QueryService")
            && !path.ends_with("/ListNodes")
            && !path.ends_with("/ListDomains");
        let theirs = [
            "/ListDomains",
            "/EstimateMigration",
            "/ListMigrations",
            "/ListSeries",
            "/GetLatest",
            "/QueryRange",
        ];
        for (role, channel) in &channels {
            let may = match *role {
                "node" => ingest,
                "planner" => !ingest && !raw,
                "tenant" => theirs.iter().any(|call| path.ends_with(call)),
                _ => !ingest,
            };
            let refused = matches!(call(channel, path).await,
                Err(status) if status.code() == Code::PermissionDenied);
            assert_eq!(refused, !may, "{role} at {path}");
        }
    }
}

fn hello(node: &str) -> v1::IngestRequest {
    let node: NodeId = node.parse().unwrap();
    v1::IngestRequest {
        frame: Some(v1::ingest_request::Frame::Hello(v1::Hello {
            protocol_version: plimsoll_proto::PROTOCOL_VERSION,
            session_id: vec![7; 16],
            claimed_node_id: node.as_bytes().to_vec(),
            ..v1::Hello::default()
        })),
    }
}

#[tokio::test]
async fn a_node_speaks_for_itself_only() {
    let site = Site::begin().await;
    let credentials = site.issue(&Holder::Node(NODE.parse().unwrap()));
    let mut client = IngestServiceClient::new(site.dial(&credentials).await.unwrap());
    let (kept, frames) = tokio::sync::mpsc::channel(1);
    kept.send(hello(OTHER)).await.unwrap();
    let frames = tokio_stream::wrappers::ReceiverStream::new(frames);
    let mut answers = client.ingest(frames).await.unwrap().into_inner();
    let refused = answers.message().await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    assert!(refused.message().contains(NODE) && refused.message().contains(OTHER));

    let (kept, frames) = tokio::sync::mpsc::channel(1);
    kept.send(hello(NODE)).await.unwrap();
    let frames = tokio_stream::wrappers::ReceiverStream::new(frames);
    let mut answers = client.ingest(frames).await.unwrap().into_inner();
    assert!(answers.message().await.unwrap().is_some(), "it is welcome");
}

#[tokio::test]
async fn a_silent_connection_is_closed_and_its_place_is_free_again() {
    use tokio::io::AsyncReadExt as _;
    let site = Site::begin().await;
    let strangers = plimsoll_aggregator::guard::door::STRANGERS_MAX;
    let mut silent = Vec::new();
    for _ in 0..strangers {
        silent.push(tokio::net::TcpStream::connect(site.address).await.unwrap());
    }
    let right = site.issue(&Holder::Operator("me".to_owned()));
    // All places of this address are taken by now, or will be before the handshake is over.
    for tcp in &mut silent {
        let mut rest = Vec::new();
        let within = plimsoll_aggregator::guard::door::SPEAK_WITHIN * 4;
        tokio::time::timeout(within, tcp.read_to_end(&mut rest))
            .await
            .unwrap()
            .ok();
    }
    site.list_nodes(&right).await.unwrap();
}

#[test]
fn changed_files_that_cannot_be_used_change_nothing_until_they_are_mended() {
    let dir = tempfile::tempdir().unwrap();
    let files = site::certify(dir.path());
    let authority = files.client_ca.clone();
    let current = Current::load(files).unwrap();
    let first = current.config();
    current.look();
    assert!(
        Arc::ptr_eq(&first, &current.config()),
        "nothing has changed"
    );

    let whole = std::fs::read(&authority).unwrap();
    site::replace(&authority, b"no certificate");
    current.look();
    assert!(Arc::ptr_eq(&first, &current.config()), "the old ones stay");

    site::replace(&authority, &whole);
    current.look();
    assert!(
        !Arc::ptr_eq(&first, &current.config()),
        "new ones are in use"
    );
}

#[tokio::test]
async fn new_certificates_and_revocations_are_taken_over_without_a_restart() {
    let site = Site::begin().await;
    let before = site.issue(&Holder::Operator("before".to_owned()));
    let open = site.dial(&before).await.unwrap();
    let ask = |channel: Channel| async move {
        let mut client = QueryServiceClient::new(channel);
        client
            .list_nodes(v1::ListNodesRequest::default())
            .await
            .is_ok()
    };
    assert!(ask(open.clone()).await);

    let authority = site.dir.path().join("ca.pem");
    std::fs::copy(&authority, site.dir.path().join("old.pem")).unwrap();
    let believing_old = Credentials {
        ca: site.dir.path().join("old.pem"),
        ..before.clone()
    };
    site.list_nodes(&believing_old).await.unwrap();

    // A new authority takes the place of the old one.
    let elsewhere = tempfile::tempdir().unwrap();
    let now = SystemClock::new().now();
    pki::init(elsewhere.path(), "site-a", now).unwrap();
    let after = pki::issue(
        elsewhere.path(),
        &Holder::Operator("after".to_owned()),
        30,
        now,
    )
    .unwrap();
    let new = elsewhere.path().join("ca.pem");
    site::replace(&authority, &std::fs::read(new).unwrap());
    let after = Credentials {
        ca: site.dir.path().join("old.pem"),
        certificate: after.certificate,
        key: after.key,
    };
    site::until("the new authority is believed", async || {
        site.list_nodes(&after).await.is_ok()
    })
    .await;
    assert!(
        site.list_nodes(&believing_old).await.is_err(),
        "the old one still is"
    );
    assert!(ask(open).await, "the open connection goes on");
}

#[tokio::test]
async fn a_revoked_certificate_no_longer_comes_in() {
    let site = Site::begin().await;
    let serial = rcgen::SerialNumber::from(4_711_u64);
    let credentials = site.forge("lost", |p| p.serial_number = Some(serial.clone()));
    let other = site.forge("kept", |_| {});
    site.list_nodes(&credentials).await.unwrap();
    let read = |ending: &str| {
        std::fs::read_to_string(site.dir.path().join(format!("ca.{ending}"))).unwrap()
    };
    let authority = KeyPair::from_pem(&read("key")).unwrap();
    let issuer = Issuer::from_ca_cert_pem(&read("pem"), authority).unwrap();
    let list = rcgen::CertificateRevocationListParams {
        this_update: rcgen::date_time_ymd(2024, 1, 1),
        next_update: rcgen::date_time_ymd(2045, 1, 1),
        crl_number: rcgen::SerialNumber::from(1_u64),
        issuing_distribution_point: None,
        revoked_certs: vec![rcgen::RevokedCertParams {
            serial_number: serial,
            revocation_time: rcgen::date_time_ymd(2024, 1, 2),
            reason_code: None,
            invalidity_date: None,
        }],
        key_identifier_method: rcgen::KeyIdMethod::Sha256,
    };
    let list = list.signed_by(&issuer).unwrap().pem().unwrap();
    site::replace(&site.dir.path().join("revoked.pem"), list.as_bytes());
    site::until("the revoked certificate is refused", async || {
        site.list_nodes(&credentials).await.is_err()
    })
    .await;
    site.list_nodes(&other).await.unwrap();
}

/// Opens a stream of a node; what it sends next goes into the sender.
async fn greeted(
    channel: Channel,
) -> Result<
    (
        tokio::sync::mpsc::Sender<v1::IngestRequest>,
        tonic::Streaming<v1::IngestResponse>,
    ),
    Status,
> {
    let (kept, frames) = tokio::sync::mpsc::channel(4);
    kept.send(hello(NODE)).await.unwrap();
    let frames = tokio_stream::wrappers::ReceiverStream::new(frames);
    let mut answers = IngestServiceClient::new(channel)
        .ingest(frames)
        .await?
        .into_inner();
    let welcome = answers.message().await?;
    assert!(welcome.is_some(), "it is welcome");
    Ok((kept, answers))
}

#[tokio::test]
async fn a_stream_that_is_old_is_ended_and_the_next_one_is_welcome() {
    let site = Site::begin_with(|config| {
        config.connection_age_max = std::time::Duration::from_secs(1);
    })
    .await;
    let credentials = site.issue(&Holder::Node(NODE.parse().unwrap()));
    let clock = SystemClock::new();
    let began = clock.monotonic();
    let (_kept, mut answers) = greeted(site.dial(&credentials).await.unwrap())
        .await
        .unwrap();
    let ended = answers.message().await.unwrap_err();
    assert_eq!(ended.code(), Code::Unavailable);
    assert!(ended.message().starts_with("AGED"), "{ended}");
    let lasted = clock.monotonic().since(began).as_millis();
    assert!(lasted >= 900, "{lasted} ms");
    greeted(site.dial(&credentials).await.unwrap())
        .await
        .unwrap();
}

#[tokio::test]
async fn a_node_has_two_connections_and_a_third_only_when_one_has_gone() {
    let site = Site::begin().await;
    let credentials = site.issue(&Holder::Node(NODE.parse().unwrap()));
    let mut open = Vec::new();
    for _ in 0..plimsoll_aggregator::guard::door::OF_NODE_MAX {
        let channel = site.dial(&credentials).await.unwrap();
        open.push(greeted(channel).await.unwrap());
    }
    let comes_in = async || match site.dial(&credentials).await {
        Ok(channel) => greeted(channel).await.is_ok(),
        Err(_) => false,
    };
    assert!(!comes_in().await, "a third one came in");
    open.pop();
    site::until("a place is free again", comes_in).await;
}

#[tokio::test]
async fn where_memory_is_out_samples_and_questions_are_refused_until_later() {
    use tonic_types::StatusExt as _;
    let site = Site::begin_with(|config| config.memory_size_max = "1KiB".to_owned()).await;
    let operator = site.issue(&Holder::Operator("me".to_owned()));
    let mut query = QueryServiceClient::new(site.dial(&operator).await.unwrap());
    let asked = query.list_nodes(v1::ListNodesRequest::default()).await;
    let refused = asked.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert!(refused.get_details_retry_info().is_some());

    let credentials = site.issue(&Holder::Node(NODE.parse().unwrap()));
    let channel = site.dial(&credentials).await.unwrap();
    let (kept, mut answers) = greeted(channel).await.unwrap();
    let batch = v1::ingest_request::Frame::Batch(v1::Batch::default());
    let frame = v1::IngestRequest { frame: Some(batch) };
    kept.send(frame).await.unwrap();
    let refused = answers.message().await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert!(refused.get_details_retry_info().is_some());
}
