//! What the agent shows over SNMP, read by a client of SNMPv3.

use std::sync::Arc;
use std::time::Duration;

use async_snmp::{Auth, AuthProtocol, Client, Oid, PrivProtocol, Retry, UsmConfig, Value, VarBind};
use plimsoll_agent::look::{Look, Values};
use plimsoll_agent::publish::{Board, Publish, serve};
use plimsoll_model::{
    BootId, ByteSize, Clock as _, DiskFacts, DomainFacts, DomainId, HardwareFacts, Incarnation,
    Metric, NetworkCardFacts, NodeId, Subject, SystemClock, Window,
};
use plimsoll_proto::secret::Secret;
use tokio::net::UdpSocket;

const AUTHENTICATION: &str = "authentication-word";
const PRIVACY: &str = "privacy-word";

fn guest(node: NodeId) -> Look {
    let incarnation = Incarnation {
        boot: BootId::random(),
        started_ms: 5,
    };
    let domain = DomainId::from_bytes([7; 16]).unwrap();
    let facts = DomainFacts {
        domain,
        node,
        incarnation,
        name: "web-1".to_owned(),
        accelerator: None,
        machine: None,
        cpu_model: None,
        vcpu_count: Some(2),
        memory_max: Some(ByteSize::from_mib(512)),
        huge_pages: None,
        disks: vec![DiskFacts {
            target: "vda".to_owned(),
            source: Some("/images/web-1".to_owned()),
            ..DiskFacts::default()
        }],
        network_cards: vec![NetworkCardFacts {
            mac: "52:54:00:00:00:07".to_owned(),
            connection: "bridge".to_owned(),
            model: Some("virtio".to_owned()),
            ..NetworkCardFacts::default()
        }],
        host_device_count: 0,
        hardware: HardwareFacts::default(),
        project: None,
    };
    let at = SystemClock::new().now();
    let window = Window::between(at, at);
    let mut values = Values::default();
    values.whole(Metric::VmState, 1);
    values.whole(Metric::VmVcpuCount, 2);
    values.whole(Metric::VmMemCurrent, 256 << 20);
    values.whole(Metric::VmCpuTime, 9_000_000_000);
    values.indexed(Metric::VmVcpuTime, 0, 4_000_000_000);
    values.named(Metric::VmBlockRdBytes, "vda", u64::from(u32::MAX) + 7);
    values.named(Metric::VmDirtyRate, "1000", 20 << 20);
    values.named(Metric::VmDirtyMode, "1000", 0);
    let subject = Subject::Domain {
        domain,
        node,
        incarnation,
    };
    let mut host = Values::default();
    host.whole(Metric::HostMemTotal, 8 << 40);
    host.whole(Metric::HostLoad1, 4_340_000);
    Look {
        sweeps: [
            values.sweep(subject, window),
            host.sweep(Subject::Node(node), window),
        ]
        .into_iter()
        .flatten()
        .collect(),
        domain_facts: vec![facts],
        ..Look::default()
    }
}

fn auth(user: &str, authentication: &str, privacy: &str) -> Auth {
    let user = UsmConfig::new(user.to_owned());
    let user = user.auth_priv(
        AuthProtocol::Sha256,
        authentication,
        PrivProtocol::Aes128,
        privacy,
    );
    Auth::from(user.unwrap())
}

async fn client(address: &str, auth: Auth) -> Client {
    Client::builder(address.to_owned(), auth)
        .request_timeout(Duration::from_millis(500))
        .retry(Retry::fixed(3, Duration::from_millis(200)).unwrap())
        .connect()
        .await
        .unwrap()
}

fn oid(text: &str) -> Oid {
    Oid::parse(text).unwrap()
}

/// Walks both subtrees: each value where the MIBs have it, and nothing else.
async fn hold_tables(reader: &Client) {
    let walked = reader
        .walk(oid("1.3.6.1.2.1.236"))
        .unwrap()
        .collect()
        .await
        .unwrap();
    let value = |all: &[VarBind], name: &str| {
        let found = all.iter().find(|one| one.oid == oid(name));
        found.map(|one| one.value.clone())
    };
    let vm = |tail: &str| value(&walked, &format!("1.3.6.1.2.1.236.1.{tail}"));
    assert_eq!(vm("2.0"), Some(Value::Integer(1)));
    assert_eq!(vm("4.1.2.1"), Some(Value::from("web-1")));
    assert_eq!(
        vm("4.1.3.1"),
        Some(Value::from("07070707-0707-0707-0707-070707070707"))
    );
    assert_eq!(vm("4.1.6.1"), Some(Value::Integer(4)), "running");
    assert_eq!(vm("4.1.13.1"), Some(Value::Integer(256)));
    assert_eq!(vm("4.1.15.1"), Some(Value::Integer(512)));
    assert_eq!(vm("4.1.17.1"), Some(Value::Counter64(9_000_000)));
    assert_eq!(vm("5.1.2.1.1"), Some(Value::Counter64(4_000_000)));
    assert_eq!(vm("7.1.6.1.1"), Some(Value::from("/images/web-1")));
    assert_eq!(
        vm("7.1.15.1.1"),
        Some(Value::Counter64(u64::from(u32::MAX) + 7))
    );
    assert_eq!(vm("7.1.16.1.1"), None, "what was not read is not there");
    assert_eq!(vm("8.1.4.1.1"), Some(Value::from("virtio")));
    let mac = vec![0x52, 0x54, 0, 0, 0, 7];
    assert_eq!(vm("8.1.5.1.1"), Some(Value::OctetString(mac.into())));
    assert!(
        walked
            .iter()
            .all(|one| one.oid.starts_with(&oid("1.3.6.1.2.1.236")))
    );

    let root = "1.3.6.1.4.1.8072.9999.9999.7077";
    let walked = reader.walk(oid(root)).unwrap().collect().await.unwrap();
    let own = |tail: &str| value(&walked, &format!("{root}.1.{tail}"));
    assert_eq!(own("1.1.0"), Some(Value::Counter64(8 << 40)));
    assert_eq!(own("1.3.0"), Some(Value::Gauge32(434)));
    assert_eq!(own("3.1.2.1.1000"), Some(Value::Counter64(20 << 20)));
    assert_eq!(own("3.1.4.1.1000"), Some(Value::Integer(1)));
    assert_eq!(own("2.1.1.1"), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn guests_and_node_are_walked_by_their_one_user_and_by_nobody_else() {
    let dir = tempfile::tempdir().unwrap();
    let free = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let listen = free.local_addr().unwrap();
    drop(free);
    let publish = Publish {
        listen,
        user: "reader".to_owned(),
        authentication_password: Secret::of(AUTHENTICATION),
        privacy_password: Secret::of(PRIVACY),
    };
    let clock = Arc::new(SystemClock::new());
    let board = Board::new(Duration::from_secs(10), clock);
    board.see(&guest(NodeId::random()));
    let state = dir.path().to_owned();
    let serving = tokio::spawn(async move { serve(publish, board, &state).await });
    let address = listen.to_string();
    let reader = client(&address, auth("reader", AUTHENTICATION, PRIVACY)).await;

    hold_tables(&reader).await;

    let name = oid("1.3.6.1.2.1.236.1.4.1.2.1");
    assert!(reader.set(&name, Value::from("other")).await.is_err());
    for (user, authentication, privacy) in [
        ("reader", "another-word-of-it", PRIVACY),
        ("reader", AUTHENTICATION, "another-word-of-it"),
        ("writer", AUTHENTICATION, PRIVACY),
    ] {
        let stranger = client(&address, auth(user, authentication, privacy)).await;
        assert!(stranger.get(&name).await.is_err(), "{user}");
    }
    let clear = client(&address, Auth::v2c("public")).await;
    assert!(clear.get(&name).await.is_err());
    let bare = client(&address, Auth::usm("reader")).await;
    let answer = bare.get(&name).await;
    let told = answer.is_ok_and(|answer| {
        answer
            .single()
            .is_some_and(|one| one.value == Value::from("web-1"))
    });
    assert!(!told, "without authentication nothing is told");
    serving.abort();
}
