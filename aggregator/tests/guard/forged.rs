//! A node that was taken over says everything it can in the name of another one.

use std::collections::BTreeMap;
use std::io::Write as _;

use plimsoll_aggregator::guard::pki::Holder;
use plimsoll_model::{Clock as _, Metric, SystemClock};
use plimsoll_proto::v1::ingest_request::Frame;
use plimsoll_proto::v1::ingest_response::Frame as Reply;
use plimsoll_proto::v1::ingest_service_client::IngestServiceClient;
use plimsoll_proto::{render, v1};
use prost::Message as _;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Status, Streaming};

use crate::site::{NODE, OTHER, Site, free_port};
use crate::told::{counted, known, other};

/// Attempts, unless `PLIMSOLL_FORGERIES` says another number.
const ATTEMPTS: usize = 400;
/// Session of the true node.
const TRUE_SESSION: [u8; 16] = [0x0b; 16];
/// Its domain.
const DOMAIN: [u8; 16] = [0xd0; 16];

fn attempts() -> usize {
    let told = std::env::var("PLIMSOLL_FORGERIES").ok();
    told.map_or(ATTEMPTS, |told| told.parse().unwrap())
}

/// One open stream.
struct Line {
    frames: mpsc::Sender<v1::IngestRequest>,
    answers: Streaming<v1::IngestResponse>,
}

impl Line {
    /// Opens a stream with a greeting; whatever the answer, it is the first one.
    async fn open(channel: &Channel, hello: v1::Hello) -> Result<Self, Status> {
        let (frames, requests) = mpsc::channel(16);
        let first = v1::IngestRequest {
            frame: Some(Frame::Hello(hello)),
        };
        frames.send(first).await.unwrap();
        let mut client = IngestServiceClient::new(channel.clone());
        let answers = client.ingest(ReceiverStream::new(requests)).await?;
        let mut line = Self {
            frames,
            answers: answers.into_inner(),
        };
        match line.hear().await? {
            Some(Reply::Welcome(_)) => Ok(line),
            answer => Err(Status::internal(format!("no welcome but {answer:?}"))),
        }
    }

    async fn say(&self, frame: Frame) {
        let request = v1::IngestRequest { frame: Some(frame) };
        // It may have been ended already.
        drop(self.frames.send(request).await);
    }

    async fn hear(&mut self) -> Result<Option<Reply>, Status> {
        let answer = self.answers.message().await?;
        Ok(answer.and_then(|answer| answer.frame))
    }

    /// Says no more, and hears the rest.
    async fn end(self) -> Result<Vec<Reply>, Status> {
        let Self {
            frames,
            mut answers,
        } = self;
        drop(frames);
        let mut all = Vec::new();
        while let Some(answer) = answers.message().await? {
            all.extend(answer.frame);
        }
        Ok(all)
    }
}

fn hello(session: &[u8]) -> v1::Hello {
    v1::Hello {
        protocol_version: plimsoll_proto::PROTOCOL_VERSION,
        session_id: session.to_vec(),
        ..v1::Hello::default()
    }
}

fn series(session: &[u8], domain: &[u8], index: i32) -> Frame {
    let series = v1::SeriesDeclaration {
        index,
        metric_code: Metric::VmCpuTime.code().into(),
        domain_id: domain.to_vec(),
        incarnation: Some(incarnation()),
        ..v1::SeriesDeclaration::default()
    };
    Frame::Declarations(v1::SeriesDeclarations {
        session_id: session.to_vec(),
        series: vec![series],
    })
}

fn incarnation() -> v1::Incarnation {
    v1::Incarnation {
        boot_id: vec![0xb0; 16],
        started_ms: 5,
    }
}

fn sweep(value: i64) -> v1::Sweep {
    v1::Sweep {
        end_time_ms: SystemClock::new().now().millis(),
        width_ms: 1,
        index_deltas: vec![0],
        values: vec![value],
    }
}

fn batch(session: &[u8], sequence: i64, body: v1::BatchBody) -> Frame {
    let now = SystemClock::new().now();
    let body = v1::BatchBody {
        made_time: Some(render::timestamp(now)),
        ..body
    }
    .encode_to_vec();
    Frame::Batch(v1::Batch {
        session_id: session.to_vec(),
        sequence,
        body_crc32c: i64::from(crc32c::crc32c(&body)),
        body: body.into(),
    })
}

fn domain_facts(node: Vec<u8>) -> v1::DomainFacts {
    v1::DomainFacts {
        seen_time: Some(render::timestamp(SystemClock::new().now())),
        domain_id: DOMAIN.to_vec(),
        incarnation: Some(incarnation()),
        name: "forged".to_owned(),
        node_id: node,
        ..v1::DomainFacts::default()
    }
}

fn event() -> v1::Event {
    v1::Event {
        seen_time: Some(render::timestamp(SystemClock::new().now())),
        domain_id: DOMAIN.to_vec(),
        incarnation: Some(incarnation()),
        kind: Some(v1::event::Kind::MigrationStarted(v1::MigrationStarted {
            role: v1::MigrationRole::Source.into(),
            ..v1::MigrationStarted::default()
        })),
    }
}

/// What came of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Fate {
    /// The stream was refused or ended.
    Ended(i32),
    /// The message was rejected, and the stream went on.
    Rejected,
    /// It was taken for what the forger's own node says.
    OfItsOwn,
}

/// Makes one attempt of some kind; returns what came of it.
#[expect(
    clippy::too_many_lines,
    reason = "a table of all kinds is read best in one piece"
)]
async fn attempt(channel: &Channel, kind: usize, random: &mut fastrand::Rng) -> Fate {
    let own: [u8; 16] = std::array::from_fn(|_| random.u8(..));
    let (session, greeting) = match kind {
        // Greetings.
        0 => (
            own,
            v1::Hello {
                claimed_node_id: other(),
                ..hello(&own)
            },
        ),
        1 => (
            TRUE_SESSION,
            v1::Hello {
                claimed_node_id: other(),
                ..hello(&TRUE_SESSION)
            },
        ),
        2 => (
            own,
            v1::Hello {
                current_session_id: TRUE_SESSION.to_vec(),
                ..hello(&own)
            },
        ),
        3 => {
            let finished = v1::FinishedSession {
                session_id: TRUE_SESSION.to_vec(),
                last_sequence: random.i64(2..1_000),
            };
            (
                own,
                v1::Hello {
                    finished_sessions: vec![finished],
                    ..hello(&own)
                },
            )
        }
        // The session of the true node, from the number that it would send next.
        4..=6 => (
            TRUE_SESSION,
            v1::Hello {
                first_sequence: 2,
                next_sequence: 9,
                ..hello(&TRUE_SESSION)
            },
        ),
        _ => (own, hello(&own)),
    };
    let line = match Line::open(channel, greeting).await {
        Ok(line) => line,
        Err(status) => return Fate::Ended(status.code().into()),
    };
    let body = v1::BatchBody::default;
    let sequence = random.i64(1..4);
    let frames = match kind {
        4 => vec![
            series(&session, &DOMAIN, 0),
            batch(
                &session,
                2,
                v1::BatchBody {
                    sweeps: vec![sweep(666)],
                    ..body()
                },
            ),
        ],
        5 => vec![Frame::Gap(v1::Gap {
            session_id: session.to_vec(),
            first_sequence: 1,
            last_sequence: 9,
            ..v1::Gap::default()
        })],
        6 => vec![
            series(&session, &DOMAIN, 0),
            Frame::Snapshot(v1::Snapshot {
                session_id: session.to_vec(),
                sweeps: vec![sweep(666)],
            }),
        ],
        7 => vec![series(&TRUE_SESSION, &DOMAIN, 0)],
        8 => vec![batch(&TRUE_SESSION, 2, body())],
        9 => vec![Frame::Gap(v1::Gap {
            session_id: TRUE_SESSION.to_vec(),
            first_sequence: 2,
            last_sequence: 9,
            ..v1::Gap::default()
        })],
        10 => vec![
            series(&session, &DOMAIN, 0),
            Frame::Snapshot(v1::Snapshot {
                session_id: TRUE_SESSION.to_vec(),
                sweeps: vec![sweep(666)],
            }),
        ],
        11 => vec![batch(
            &session,
            sequence,
            v1::BatchBody {
                domain_facts: vec![domain_facts(other())],
                ..body()
            },
        )],
        12 => {
            let device = v1::PolledFacts {
                node_id: other(),
                device_id: vec![3; 16],
                ..v1::PolledFacts::default()
            };
            vec![batch(
                &session,
                sequence,
                v1::BatchBody {
                    device_facts: vec![device],
                    ..body()
                },
            )]
        }
        13 => vec![batch(
            &session,
            1,
            v1::BatchBody {
                events: vec![event()],
                ..body()
            },
        )],
        14 => vec![
            series(&session, &other(), 0),
            batch(
                &session,
                1,
                v1::BatchBody {
                    sweeps: vec![sweep(666)],
                    ..body()
                },
            ),
        ],
        15 => {
            let facts = v1::NodeFacts {
                seen_time: Some(render::timestamp(SystemClock::new().now())),
                hostname: "the-true-one".to_owned(),
                ..v1::NodeFacts::default()
            };
            vec![batch(
                &session,
                1,
                v1::BatchBody {
                    node_facts: Some(facts),
                    domain_facts: vec![domain_facts(Vec::new())],
                    ..body()
                },
            )]
        }
        _ => vec![],
    };
    for frame in frames {
        line.say(frame).await;
    }
    match line.end().await {
        Err(status) => Fate::Ended(status.code().into()),
        Ok(answers)
            if answers
                .iter()
                .any(|answer| matches!(answer, Reply::Rejection(_))) =>
        {
            Fate::Rejected
        }
        Ok(_) => Fate::OfItsOwn,
    }
}

const KINDS: usize = 16;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_was_taken_over_writes_nothing_of_another_one() {
    let metrics = format!("127.0.0.1:{}", free_port());
    let listen = metrics.clone();
    let site = Site::begin_with(|config| config.metrics_listen = listen).await;
    let of = |holder: &Holder| site.issue(holder);
    let truth = site
        .dial(&of(&Holder::Node(OTHER.parse().unwrap())))
        .await
        .unwrap();
    let forger = site
        .dial(&of(&Holder::Node(NODE.parse().unwrap())))
        .await
        .unwrap();
    let operator = site
        .dial(&of(&Holder::Operator("me".to_owned())))
        .await
        .unwrap();

    let mut line = Line::open(&truth, hello(&TRUE_SESSION)).await.unwrap();
    line.say(series(&TRUE_SESSION, &DOMAIN, 0)).await;
    let said = v1::BatchBody {
        sweeps: vec![sweep(1)],
        domain_facts: vec![v1::DomainFacts {
            name: "true".to_owned(),
            ..domain_facts(Vec::new())
        }],
        events: vec![event()],
        ..v1::BatchBody::default()
    };
    line.say(batch(&TRUE_SESSION, 1, said)).await;
    assert!(matches!(line.hear().await, Ok(Some(Reply::Ack(_)))));
    let before = known(&operator).await;

    let mut random = fastrand::Rng::with_seed(0x51);
    let mut fates: BTreeMap<(usize, Fate), usize> = BTreeMap::new();
    let (count, mut foreign) = (attempts(), 0);
    for number in 0..count {
        // Each kind at least once, and then any.
        let kind = if number < KINDS {
            number
        } else {
            random.usize(..KINDS)
        };
        foreign += u64::from([0, 1, 11, 12].contains(&kind));
        let fate = attempt(&forger, kind, &mut random).await;
        *fates.entry((kind, fate)).or_default() += 1;
    }
    assert_eq!(known(&operator).await, before, "{fates:?}");
    for kind in [0, 1] {
        let refused = (kind, Fate::Ended(Code::PermissionDenied.into()));
        assert!(fates.contains_key(&refused), "{fates:?}");
    }
    for kind in [11, 12] {
        assert!(fates.contains_key(&(kind, Fate::Rejected)), "{fates:?}");
    }
    assert!(
        !fates
            .keys()
            .any(|(kind, fate)| [7, 8, 9, 10].contains(kind) && *fate == Fate::OfItsOwn),
        "{fates:?}"
    );
    assert_eq!(counted(&metrics, "foreign_node").await, foreign);

    // Its stream was never taken from the true node, and it goes on where it was.
    line.say(batch(
        &TRUE_SESSION,
        2,
        v1::BatchBody {
            sweeps: vec![sweep(2)],
            ..v1::BatchBody::default()
        },
    ))
    .await;
    assert!(matches!(line.hear().await, Ok(Some(Reply::Ack(ack))) if ack.durable_sequence == 2));
    // Past the harness, so that who counts attempts sees how many there were.
    let told = format!("{count} forgeries of {KINDS} kinds: nothing was written of the other node");
    drop(writeln!(std::io::stdout(), "{told}"));
}
