//! A real aggregator on a port of its own, and agents that are no more than their words.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

use plimsoll_model::{
    BootId, Clock as _, DomainId, Incarnation, Metric, NodeId, Part, SeriesKey, SessionId, Subject,
    SystemClock, UnixMillis, Window,
};
use plimsoll_proto::v1::ingest_service_client::IngestServiceClient;
use plimsoll_proto::v1::{ingest_request::Frame, ingest_response::Frame as Reply};
use plimsoll_proto::{PROTOCOL_VERSION, render, v1};
use prost::Message as _;
use tokio_stream::StreamExt as _;

/// The aggregator's program, built now if it is older than its source.
fn program() -> &'static Path {
    static BUILT: OnceLock<std::path::PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let own = Path::new(env!("CARGO_BIN_EXE_plimsoll"));
        let mut build = Command::new(env!("CARGO"));
        // Of the whole workspace, for one package alone would have its dependencies built again with
        // other features.
        build.args(["build", "--quiet", "--workspace"]);
        build.args(["--bin", "plimsoll-aggregator", "--manifest-path"]);
        build.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"));
        if own.parent().unwrap().ends_with("release") {
            build.arg("--release");
        }
        assert!(build.status().unwrap().success());
        own.with_file_name("plimsoll-aggregator")
    })
}

/// What the command said.
pub(crate) struct Said {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

/// The aggregator; it ends with the story.
pub(crate) struct Aggregator {
    child: Child,
    pub(crate) url: String,
    _dir: tempfile::TempDir,
}

impl Drop for Aggregator {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

impl Aggregator {
    pub(crate) fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut child = Command::new(program())
            .args(["run", "--listen", "127.0.0.1:0", "--data-dir"])
            .arg(dir.path())
            .env("NO_COLOR", "1")
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let words = |line: String| line.split_once("listen=").map(|(_, rest)| rest.to_owned());
        let rest = lines
            .by_ref()
            .map_while(Result::ok)
            .find_map(words)
            .unwrap();
        let address = rest.split_whitespace().next().unwrap();
        let url = format!("http://{address}");
        // Read on, so that the aggregator never waits for a full pipe.
        std::thread::spawn(move || lines.for_each(drop));
        Self {
            child,
            url,
            _dir: dir,
        }
    }

    pub(crate) fn ask(&self, args: &[&str]) -> Said {
        ask(&self.url, args)
    }

    /// Asks and reads the JSON answer.
    pub(crate) fn json(&self, args: &[&str]) -> serde_json::Value {
        let said = self.ask(&[&["--json"], args].concat());
        assert_eq!(said.code, Some(0), "{args:?}: {}", said.err);
        serde_json::from_str(&said.out).unwrap()
    }
}

pub(crate) fn ask(url: &str, args: &[&str]) -> Said {
    let output = Command::new(env!("CARGO_BIN_EXE_plimsoll"))
        .args(["--server", url])
        .args(args)
        .output()
        .unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Said {
        code: output.status.code(),
        out: text(output.stdout),
        err: text(output.stderr),
    }
}

/// A node and what it tells.
pub(crate) struct Node {
    pub(crate) id: NodeId,
    session: SessionId,
    boot: BootId,
    sequence: i64,
    facts: v1::NodeFacts,
}

/// A guest.
#[derive(Clone)]
pub(crate) struct Guest {
    pub(crate) id: DomainId,
    pub(crate) name: &'static str,
}

impl Guest {
    pub(crate) fn new(name: &'static str) -> Self {
        Self {
            id: DomainId::random(),
            name,
        }
    }
}

impl Node {
    /// A node of 16 processors and 64 GiB whose migrations go over 10 Gbit/s.
    pub(crate) fn new(hostname: &str, change: impl FnOnce(&mut v1::NodeFacts)) -> Self {
        let mut facts = v1::NodeFacts {
            hostname: hostname.to_owned(),
            agent_version: "test".to_owned(),
            cpu_model: Some("Some Processor".to_owned()),
            cpu_flags: vec!["avx".to_owned(), "sse2".to_owned()],
            cpu_count: Some(16),
            memory_bytes: Some(64 << 30),
            hypervisor_type: Some("QEMU".to_owned()),
            libvirt_version: Some("11.3.0".to_owned()),
            qemu_version: Some("10.0.0".to_owned()),
            migration_interface: Some("eth1".to_owned()),
            migration_address: Some("10.0.0.5/24".to_owned()),
            migration_bandwidth_bytes_per_second: Some(1_250_000_000),
            interfaces: vec![v1::InterfaceFacts {
                name: "eth1".to_owned(),
                speed_bytes_per_second: Some(1_250_000_000),
                mtu_bytes: Some(9_000),
                up: Some(true),
                ..v1::InterfaceFacts::default()
            }],
            ..v1::NodeFacts::default()
        };
        change(&mut facts);
        Self {
            id: NodeId::random(),
            session: SessionId::random(),
            boot: BootId::random(),
            sequence: 0,
            facts,
        }
    }

    fn incarnation(&self) -> Incarnation {
        Incarnation {
            boot: self.boot,
            started_ms: 5_000,
        }
    }

    fn domain_facts(&self, guest: &Guest, now: UnixMillis) -> v1::DomainFacts {
        v1::DomainFacts {
            seen_time: Some(render::timestamp(now)),
            domain_id: guest.id.as_bytes().to_vec(),
            incarnation: Some(render::incarnation(self.incarnation())),
            name: guest.name.to_owned(),
            accelerator: v1::Accelerator::Kvm.into(),
            machine: Some("pc-i440fx-7.2".to_owned()),
            cpu_model: Some("host-model".to_owned()),
            vcpu_count: Some(2),
            memory_max_bytes: Some(4 << 30),
            huge_pages: Some(false),
            ..v1::DomainFacts::default()
        }
    }

    /// Tells facts and values of running guests, and what happened; returns when it is durable.
    pub(crate) async fn tell(&mut self, url: &str, guests: &[Guest], events: Vec<v1::Event>) {
        let now = SystemClock::new().now();
        self.tell_at(now, url, guests, events).await;
    }

    /// The same, as seen at a given time.
    pub(crate) async fn tell_at(
        &mut self,
        now: UnixMillis,
        url: &str,
        guests: &[Guest],
        events: Vec<v1::Event>,
    ) {
        let (declarations, sweeps) = self.series(guests, now);
        let body = v1::BatchBody {
            made_time: Some(render::timestamp(now)),
            sweeps,
            node_facts: Some(v1::NodeFacts {
                seen_time: Some(render::timestamp(now)),
                ..self.facts.clone()
            }),
            domain_facts: guests
                .iter()
                .map(|guest| self.domain_facts(guest, now))
                .collect(),
            events,
            ..v1::BatchBody::default()
        };
        self.sequence += 1;
        let body = body.encode_to_vec();
        let batch = v1::Batch {
            session_id: self.session.as_bytes().to_vec(),
            sequence: self.sequence,
            body_crc32c: i64::from(crc32c::crc32c(&body)),
            body: body.into(),
        };
        let frames = [
            Frame::Hello(self.hello(now)),
            Frame::Declarations(declarations),
            Frame::Batch(batch),
        ];
        self.send(url, frames).await;
    }

    fn hello(&self, now: UnixMillis) -> v1::Hello {
        v1::Hello {
            protocol_version: PROTOCOL_VERSION,
            session_id: self.session.as_bytes().to_vec(),
            first_sequence: 1,
            next_sequence: self.sequence + 1,
            agent_version: "test".to_owned(),
            agent_time: Some(render::timestamp(now)),
            claimed_node_id: self.id.as_bytes().to_vec(),
            prior_session_ids: Vec::new(),
            current_session_id: Vec::new(),
            finished_sessions: Vec::new(),
        }
    }

    fn series(
        &self,
        guests: &[Guest],
        now: UnixMillis,
    ) -> (v1::SeriesDeclarations, Vec<v1::Sweep>) {
        let window = Window {
            end: now,
            width_ms: 1,
        };
        let mut series = Vec::new();
        let mut sweeps = Vec::new();
        let mut add = |subject, metric, value| {
            let index = u32::try_from(series.len()).unwrap();
            let part = Part::whole();
            let key = SeriesKey {
                subject,
                metric,
                part,
            };
            series.push(render::declaration(index, &key));
            sweeps.push(render::sweep(window, &[(index, value)]));
        };
        let node = Subject::Node(self.id);
        add(node, Metric::HostMemTotal, 64 << 30);
        add(node, Metric::HostMemAvailable, 48 << 30);
        for guest in guests {
            let subject = Subject::Domain {
                domain: guest.id,
                node: self.id,
                incarnation: self.incarnation(),
            };
            add(subject, Metric::VmState, 1);
            add(subject, Metric::VmMemMax, 4 << 30);
            add(subject, Metric::VmMemRss, 2 << 30);
            let spent = u64::try_from(now.millis()).unwrap() * 500_000;
            add(subject, Metric::VmCpuTime, spent);
        }
        let declarations = v1::SeriesDeclarations {
            session_id: self.session.as_bytes().to_vec(),
            series,
        };
        (declarations, sweeps)
    }

    /// An event of a guest that happens now.
    pub(crate) fn event(&self, guest: &Guest, kind: v1::event::Kind) -> v1::Event {
        v1::Event {
            seen_time: Some(render::timestamp(SystemClock::new().now())),
            domain_id: guest.id.as_bytes().to_vec(),
            incarnation: Some(render::incarnation(self.incarnation())),
            kind: Some(kind),
        }
    }

    async fn send(&self, url: &str, frames: impl IntoIterator<Item = Frame>) {
        let mut client = IngestServiceClient::connect(url.to_owned()).await.unwrap();
        let requests: Vec<_> = frames
            .into_iter()
            .map(|frame| v1::IngestRequest { frame: Some(frame) })
            .collect();
        // The stream stays open until the acknowledgement has come.
        let stream = tokio_stream::iter(requests).chain(tokio_stream::pending());
        let mut replies = client.ingest(stream).await.unwrap().into_inner();
        loop {
            match replies.message().await.unwrap().unwrap().frame.unwrap() {
                Reply::Welcome(_) => {}
                Reply::Ack(ack) => {
                    assert_eq!(ack.durable_sequence, self.sequence);
                    return;
                }
                other => assert_eq!(format!("{other:?}"), "an acknowledgement"),
            }
        }
    }
}
