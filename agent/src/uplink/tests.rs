//! Stories of the uplink, told to an aggregator that says what a real one says seldom. Its frames are
//! handed to the story, which answers by hand.

use plimsoll_model::{Metric, Part, Subject, Sweep, SystemClock, UnixMillis, Window};
use plimsoll_proto::v1;
use plimsoll_proto::v1::ingest_request::Frame as Out;
use plimsoll_proto::v1::ingest_response::Frame as In;
use plimsoll_proto::v1::ingest_service_server::{IngestService, IngestServiceServer};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Code, Request, Response, Status, Streaming};
use tonic_types::ErrorDetails;

use super::*;
use crate::body::Body;
use crate::look::Look;
use crate::sampler::Latest;
use crate::spool::SEGMENT_BYTES_MAX;

const LIMIT: Duration = Duration::from_secs(20);
/// Long enough for a frame that must not come to come.
const QUIET: Duration = Duration::from_millis(200);
const SPOOL_BYTES: u64 = 64 << 20;

type Replies = mpsc::Sender<Result<v1::IngestResponse, Status>>;

/// One stream, seen from the aggregator.
struct Talk {
    frames: Streaming<v1::IngestRequest>,
    replies: Replies,
}

struct Fake(mpsc::Sender<Talk>);

#[tonic::async_trait]
impl IngestService for Fake {
    type IngestStream = ReceiverStream<Result<v1::IngestResponse, Status>>;

    async fn ingest(
        &self,
        request: Request<Streaming<v1::IngestRequest>>,
    ) -> Result<Response<Self::IngestStream>, Status> {
        let (replies, answers) = mpsc::channel(8);
        let frames = request.into_inner();
        let talk = Talk { frames, replies };
        self.0
            .send(talk)
            .await
            .map_err(|_| Status::unavailable("the story is over"))?;
        Ok(Response::new(ReceiverStream::new(answers)))
    }
}

impl Talk {
    async fn hear(&mut self) -> Option<Out> {
        let heard = tokio::time::timeout(LIMIT, self.frames.message()).await;
        heard.expect("a frame in time").ok().flatten()?.frame
    }

    /// Hears frames up to one that is not a declaration, in a word.
    async fn hear_word(&mut self) -> String {
        loop {
            return match self.hear().await {
                None => "end".to_owned(),
                Some(Out::Declarations(_)) => continue,
                Some(Out::Hello(hello)) => {
                    format!("hello {}..{}", hello.first_sequence, hello.next_sequence)
                }
                Some(Out::Batch(batch)) => format!("batch {}", batch.sequence),
                Some(Out::Gap(gap)) => format!(
                    "gap {}..{} {}",
                    gap.first_sequence,
                    gap.last_sequence,
                    gap.reason().as_str_name()
                ),
                Some(Out::Snapshot(snapshot)) => format!("snapshot of {}", snapshot.sweeps.len()),
            };
        }
    }

    async fn hear_words(&mut self, count: usize) -> Vec<String> {
        let mut heard = Vec::new();
        for _ in 0..count {
            heard.push(self.hear_word().await);
        }
        heard
    }

    async fn hears_nothing(&mut self) -> bool {
        tokio::time::timeout(QUIET, self.frames.message())
            .await
            .is_err()
    }

    async fn say(&self, frame: In) {
        let response = v1::IngestResponse { frame: Some(frame) };
        self.replies.send(Ok(response)).await.unwrap();
    }

    /// Hears the Hello and welcomes it.
    async fn greet(&mut self, durable: i64, batches_max: i32) -> v1::Hello {
        let Some(Out::Hello(hello)) = self.hear().await else {
            panic!("the first frame is no Hello")
        };
        self.say(In::Welcome(v1::Welcome {
            session_id: hello.session_id.clone(),
            durable_sequence: durable,
            inflight_batches_max: batches_max,
            inflight_bytes_max: 1 << 20,
            ..v1::Welcome::default()
        }))
        .await;
        hello
    }

    async fn acknowledge(&self, durable: i64) {
        let ack = v1::Ack {
            durable_sequence: durable,
            ..v1::Ack::default()
        };
        self.say(In::Ack(ack)).await;
    }
}

/// An uplink with its spool, and the aggregator it talks to.
struct House {
    spool: SharedSpool,
    added: watch::Sender<u64>,
    latest: Latest,
    talks: mpsc::Receiver<Talk>,
    tasks: [JoinHandle<()>; 2],
}

impl Drop for House {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl House {
    async fn build(spool: Spool) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (begun, talks) = mpsc::channel(4);
        let serving = tokio::spawn(async move {
            let server = tonic::transport::Server::builder()
                .add_service(IngestServiceServer::new(Fake(begun)))
                .serve_with_incoming(TcpListenerStream::new(listener));
            server.await.unwrap();
        });
        let spool = SharedSpool::new(spool);
        let (added, on_added) = watch::channel(0);
        let latest = Latest::default();
        let uplink = Uplink {
            way: Arc::new(Network {
                url,
                credentials: None,
            }),
            node: NodeId::random(),
            spool: spool.clone(),
            clock: Arc::new(SystemClock::new()),
            added: on_added,
            latest: latest.clone(),
        };
        let sending = tokio::spawn(uplink.run());
        Self {
            spool,
            added,
            latest,
            talks,
            tasks: [serving, sending],
        }
    }

    async fn stream(&mut self) -> Talk {
        let begun = tokio::time::timeout(LIMIT, self.talks.recv()).await;
        begun.expect("a stream in time").unwrap()
    }

    /// Waits until the spool is as it should be.
    async fn spool_becomes(&self, is_so: fn(&Spool) -> bool) {
        let reached = async {
            while self.spool.with(move |spool| is_so(spool)).await != Some(true) {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(LIMIT, reached)
            .await
            .expect("the spool in time");
    }
}

fn open(dir: &tempfile::TempDir, batches: usize) -> Spool {
    let mut spool = Spool::open(dir.path(), SPOOL_BYTES, UnixMillis::from_millis(1));
    push(&mut spool, batches, 1);
    spool
}

fn push(spool: &mut Spool, batches: usize, bytes: usize) {
    for _ in 0..batches {
        let body = Body {
            bytes: vec![7; bytes],
            numbers: Vec::new(),
            reading_count: 1,
            sweeps: Vec::new(),
        };
        spool.push(&body);
    }
}

#[tokio::test]
async fn what_is_acknowledged_is_deleted_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let mut house = House::build(open(&dir, 3)).await;
    let mut talk = house.stream().await;
    let hello = talk.greet(0, 8).await;
    assert_eq!((hello.first_sequence, hello.next_sequence), (1, 4));
    assert_eq!(talk.hear_words(3).await, ["batch 1", "batch 2", "batch 3"]);
    assert!(house.spool.lock().has_unacknowledged());
    talk.acknowledge(3).await;
    house
        .spool_becomes(|spool| !spool.has_unacknowledged())
        .await;
}

#[tokio::test]
async fn what_is_under_way_when_the_sampler_ends_is_still_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let mut house = House::build(open(&dir, 2)).await;
    let mut talk = house.stream().await;
    talk.greet(0, 1).await;
    assert_eq!(talk.hear_word().await, "batch 1");
    drop(std::mem::replace(&mut house.added, watch::channel(0).0));
    assert!(talk.hears_nothing().await, "the end was seen");
    talk.acknowledge(1).await;
    assert_eq!(talk.hear_word().await, "batch 2");
    talk.acknowledge(2).await;
    house
        .spool_becomes(|spool| !spool.has_unacknowledged())
        .await;
}

#[tokio::test]
async fn a_nack_is_answered_from_the_number_that_is_expected() {
    let dir = tempfile::tempdir().unwrap();
    let mut house = House::build(open(&dir, 3)).await;
    let mut talk = house.stream().await;
    talk.greet(0, 8).await;
    talk.hear_words(3).await;
    let nack = v1::Nack {
        expected_sequence: 2,
        ..v1::Nack::default()
    };
    talk.say(In::Nack(nack)).await;
    assert_eq!(talk.hear_words(2).await, ["batch 2", "batch 3"]);
}

#[tokio::test]
async fn a_refused_batch_becomes_a_gap_in_its_place_and_is_set_aside() {
    let dir = tempfile::tempdir().unwrap();
    let mut house = House::build(open(&dir, 3)).await;
    let mut talk = house.stream().await;
    talk.greet(0, 8).await;
    talk.hear_words(3).await;
    // A real one answers what came before first.
    talk.acknowledge(1).await;
    let rejection = v1::Rejection {
        sequence: 2,
        reason: "a poisoned batch".to_owned(),
        ..v1::Rejection::default()
    };
    talk.say(In::Rejection(rejection)).await;
    let heard = talk.hear_words(2).await;
    assert_eq!(heard, ["gap 2..2 GAP_REASON_REJECTED", "batch 3"]);
    let aside = std::fs::read_dir(dir.path().join("quarantine")).unwrap();
    assert_eq!(aside.count(), 1);
}

#[tokio::test]
async fn of_several_refused_batches_under_way_each_becomes_a_gap() {
    let dir = tempfile::tempdir().unwrap();
    let mut house = House::build(open(&dir, 3)).await;
    let mut talk = house.stream().await;
    talk.greet(0, 8).await;
    talk.hear_words(3).await;
    for sequence in [1, 2] {
        let rejection = v1::Rejection {
            sequence,
            ..v1::Rejection::default()
        };
        talk.say(In::Rejection(rejection)).await;
    }
    let heard = talk.hear_words(6).await;
    let gaps = [
        "gap 1..1 GAP_REASON_REJECTED",
        "gap 2..2 GAP_REASON_REJECTED",
    ];
    assert_eq!(heard[3..], [gaps[0], gaps[1], "batch 3"], "{heard:?}");
}

#[tokio::test]
async fn a_broken_stream_is_taken_up_where_the_aggregator_s_disk_ends() {
    let dir = tempfile::tempdir().unwrap();
    let mut house = House::build(open(&dir, 3)).await;
    let mut talk = house.stream().await;
    talk.greet(0, 8).await;
    talk.hear_words(3).await;
    // As when a newer stream of the same node takes over.
    let superseded = Err(Status::aborted("a newer stream"));
    talk.replies.send(superseded).await.unwrap();
    let mut talk = house.stream().await;
    talk.greet(2, 8).await;
    assert_eq!(talk.hear_word().await, "batch 3");
}

#[tokio::test]
async fn an_aggregator_that_lost_what_it_had_gets_again_what_is_left_and_a_gap_for_the_rest() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = open(&dir, 0);
    // No two share a segment, and a segment goes with its last batch.
    let filler = usize::try_from(SEGMENT_BYTES_MAX / 8 * 5).unwrap();
    for bytes in [filler, filler, 1] {
        push(&mut spool, 1, bytes);
    }
    let held = spool.disk_bytes();
    let mut house = House::build(spool).await;
    let mut talk = house.stream().await;
    talk.greet(0, 8).await;
    assert_eq!(talk.hear_word().await, "batch 1");
    talk.acknowledge(1).await;
    assert_eq!(talk.hear_word().await, "batch 2");
    assert!(house.spool.lock().disk_bytes() < held);
    drop(talk);
    let mut talk = house.stream().await;
    talk.greet(0, 8).await;
    let heard = talk.hear_words(2).await;
    assert_eq!(heard, ["gap 1..1 GAP_REASON_SERVER_ROLLBACK", "batch 2"]);
}

#[tokio::test]
async fn no_more_is_under_way_than_the_credits_allow() {
    let dir = tempfile::tempdir().unwrap();
    let mut house = House::build(open(&dir, 5)).await;
    let mut talk = house.stream().await;
    talk.greet(0, 2).await;
    assert_eq!(talk.hear_words(2).await, ["batch 1", "batch 2"]);
    assert!(talk.hears_nothing().await);
    talk.acknowledge(1).await;
    assert_eq!(talk.hear_word().await, "batch 3");
    assert!(talk.hears_nothing().await);
}

#[tokio::test]
async fn fresh_values_pass_a_backlog() {
    let dir = tempfile::tempdir().unwrap();
    let mut house = House::build(open(&dir, 8)).await;
    let mut talk = house.stream().await;
    talk.greet(0, 1).await;
    assert_eq!(talk.hear_word().await, "batch 1");
    house.latest.put(vec![v1::Sweep {
        index_deltas: vec![0],
        values: vec![42],
        ..v1::Sweep::default()
    }]);
    house.spool.with(|spool| push(spool, 1, 1)).await;
    house.added.send_modify(|count| *count += 1);
    assert_eq!(talk.hear_word().await, "snapshot of 1");
    talk.acknowledge(1).await;
    assert_eq!(talk.hear_word().await, "batch 2", "the backlog goes on");
}

#[tokio::test]
async fn an_earlier_run_is_sent_first_and_then_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    let earlier = {
        let mut spool = open(&dir, 2);
        spool.sync();
        spool.current().unwrap()
    };
    let spool = open(&dir, 1);
    let own = spool.current().unwrap();
    let mut house = House::build(spool).await;
    let mut talk = house.stream().await;
    let hello = talk.greet(0, 8).await;
    assert_eq!(hello.session_id, earlier.as_bytes());
    assert_eq!(talk.hear_words(2).await, ["batch 1", "batch 2"]);
    talk.acknowledge(2).await;
    let mut talk = house.stream().await;
    let hello = talk.greet(0, 8).await;
    assert_eq!(hello.session_id, own.as_bytes());
    assert!(hello.prior_session_ids.is_empty(), "it was finished");
    assert_eq!(talk.hear_word().await, "batch 1");
    assert_eq!(house.spool.lock().sessions(), [own]);
}

#[tokio::test]
async fn an_aggregator_that_breaks_the_protocol_is_left_and_nothing_is_deleted() {
    let dir = tempfile::tempdir().unwrap();
    let mut house = House::build(open(&dir, 2)).await;
    let mut talk = house.stream().await;
    talk.greet(0, 8).await;
    talk.hear_words(2).await;
    talk.acknowledge(7).await;
    assert_eq!(talk.hear_word().await, "end");
    let mut talk = house.stream().await;
    let hello = talk.greet(0, 8).await;
    assert_eq!((hello.first_sequence, hello.next_sequence), (1, 3));
    assert_eq!(talk.hear_words(2).await, ["batch 1", "batch 2"]);
}

#[test]
fn one_that_is_not_let_in_comes_again_after_a_minute_and_others_within_the_backoff() {
    let ended = |code| StreamError::Ended(Box::new(Status::new(code, "")));
    let backoff = Duration::from_secs(4);
    for code in [Code::Unauthenticated, Code::PermissionDenied] {
        let wait = patience(&ended(code), backoff);
        assert!((60..=64).contains(&wait.as_secs()), "{code}: {wait:?}");
    }
    let wait = patience(&ended(Code::Unavailable), backoff);
    assert!(
        wait >= Duration::from_millis(50) && wait <= backoff,
        "{wait:?}"
    );
}

#[tokio::test]
async fn an_aggregator_that_says_when_to_come_again_is_obeyed() {
    let dir = tempfile::tempdir().unwrap();
    let mut house = House::build(open(&dir, 1)).await;
    let asked = Duration::from_millis(900);
    let talk = house.stream().await;
    let details = ErrorDetails::with_retry_info(Some(asked));
    let later = Status::with_error_details(Code::ResourceExhausted, "no room", details);
    talk.replies.send(Err(later)).await.unwrap();
    let clock = SystemClock::new();
    let began = clock.monotonic();
    let mut talk = house.stream().await;
    assert!(clock.monotonic().since(began) >= asked - QUIET);
    talk.greet(0, 8).await;
    assert_eq!(talk.hear_word().await, "batch 1", "nothing was given up");
}

#[test]
fn who_says_when_to_come_again_is_believed_up_to_a_bound() {
    let backoff = Duration::from_secs(4);
    for (asked, least) in [(20, 20), (599, 599), (600, 600), (601, 600), (86_400, 600)] {
        let details = ErrorDetails::with_retry_info(Some(Duration::from_secs(asked)));
        let status = Status::with_error_details(Code::Unavailable, "later", details);
        let wait = patience(&StreamError::Ended(Box::new(status)), backoff).as_secs();
        assert!((least..=least + 4).contains(&wait), "{asked} s: {wait} s");
    }
}

#[tokio::test]
async fn fresh_values_of_this_run_pass_an_earlier_one_that_is_sent() {
    let dir = tempfile::tempdir().unwrap();
    let earlier = {
        let mut spool = open(&dir, 2);
        spool.sync();
        spool.current().unwrap()
    };
    let mut spool = Spool::open(dir.path(), SPOOL_BYTES, UnixMillis::from_millis(2));
    let at = UnixMillis::from_millis(2);
    let sweep = Sweep {
        subject: Subject::Node(NodeId::random()),
        window: Window::between(at, at),
        values: vec![(Metric::HostMemFree, Part::whole(), 42)],
    };
    let look = Look {
        sweeps: vec![sweep],
        ..Look::default()
    };
    let bodies = crate::body::bodies(look, at, spool.book());
    let sweeps = bodies.iter().flat_map(|body| body.sweeps.clone()).collect();
    for body in &bodies {
        spool.push(body);
    }
    let current = spool.current().unwrap();
    let mut house = House::build(spool).await;
    let mut talk = house.stream().await;
    let hello = talk.greet(0, 1).await;
    assert_eq!(hello.session_id, earlier.as_bytes());
    assert_eq!(hello.current_session_id, current.as_bytes());
    assert_eq!(talk.hear_word().await, "batch 1");
    house.latest.put(sweeps);
    house.added.send_modify(|count| *count += 1);
    let Some(Out::Declarations(told)) = talk.hear().await else {
        panic!("numbers are told before they are used");
    };
    assert_eq!(told.session_id, current.as_bytes());
    assert_eq!(told.series.len(), 1);
    let Some(Out::Snapshot(snapshot)) = talk.hear().await else {
        panic!("fresh values do not wait for the earlier run");
    };
    assert_eq!(snapshot.session_id, current.as_bytes());
    assert_eq!(snapshot.sweeps[0].values, [42]);
    talk.acknowledge(1).await;
    assert_eq!(talk.hear_word().await, "batch 2", "the earlier run goes on");
}
