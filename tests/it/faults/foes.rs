//! Callers who mean no good, or never read: others are served all the same, and memory stays bounded.
//!
//! `PLIMSOLL_FOES_SECONDS` says how long each kind of foe goes on, and `PLIMSOLL_FOES` how many there are of a kind.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use plimsoll_model::{Clock as _, SystemClock};
use plimsoll_proto::v1;
use plimsoll_proto::v1::query_service_client::QueryServiceClient;
use plimsoll_tests::stage::Deadline;
use plimsoll_tests::synthetic::{Identity, Stream};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tonic::transport::Endpoint;

use super::chaos::setting;
use super::{Way, memory_bytes};

/// What foes may cost the aggregator.
const MEMORY_MORE_MAX: u64 = 32 << 20;
/// Whatever foes do.
const SERVED_WITHIN: Duration = Duration::from_secs(2);
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut bytes = vec![length[1], length[2], length[3], kind, flags];
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

const SETTINGS: u8 = 4;
const HEADERS: u8 = 1;
const DATA: u8 = 0;
const RESET: u8 = 3;
const CONTINUATION: u8 = 9;
const PING: u8 = 6;
const END_OF_HEADERS: u8 = 4;

fn literal(name: &str, value: &str) -> Vec<u8> {
    let mut bytes = vec![0, u8::try_from(name.len()).unwrap()];
    bytes.extend(name.as_bytes());
    bytes.push(u8::try_from(value.len()).unwrap());
    bytes.extend(value.as_bytes());
    bytes
}

/// The head of a call, after HPACK: POST, http, and the rest spelt out.
fn call(path: &str, more: &[(&str, &str)]) -> Vec<u8> {
    let mut bytes = vec![0x83, 0x86];
    bytes.extend(literal(":path", path));
    bytes.extend(literal(":authority", "a"));
    bytes.extend(literal("content-type", "application/grpc"));
    bytes.extend(literal("te", "trailers"));
    for (name, value) in more {
        bytes.extend(literal(name, value));
    }
    bytes
}

const INGEST: &str = "/plimsoll.v1.IngestService/Ingest";

/// The kinds of foes.
#[derive(Debug, Clone, Copy)]
enum Foe {
    /// Says nothing.
    Silent,
    /// Opens calls and takes them back, as fast as it can.
    RapidReset,
    /// Headers without an end.
    HeadersBomb,
    /// A frame, and a message, that are longer than any may be.
    Oversize,
    /// Ten MiB of nothing, packed into ten KiB.
    Packed,
    /// Calls that there are not, and a call that announces much and says no more.
    Unknown,
    /// Asks for signs of life without an end.
    Pings,
}

impl Foe {
    const ALL: [Self; 7] = [
        Self::Silent,
        Self::RapidReset,
        Self::HeadersBomb,
        Self::Oversize,
        Self::Packed,
        Self::Unknown,
        Self::Pings,
    ];

    /// What it says at the beginning, and again and again.
    fn words(self, round: u32) -> Vec<u8> {
        let stream = round * 2 + 1;
        match self {
            Self::Silent => Vec::new(),
            Self::RapidReset => {
                let head = frame(HEADERS, END_OF_HEADERS, stream, &call(INGEST, &[]));
                [head, frame(RESET, 0, stream, &8_u32.to_be_bytes())].concat()
            }
            Self::HeadersBomb if round == 0 => frame(HEADERS, 0, 1, &call(INGEST, &[])),
            Self::HeadersBomb => {
                let header = literal("x", &"y".repeat(100));
                frame(CONTINUATION, 0, 1, &header.repeat(100))
            }
            Self::Oversize if round.is_multiple_of(2) => {
                let head = frame(HEADERS, END_OF_HEADERS, stream, &call(INGEST, &[]));
                let announced = [&[0][..], &u32::MAX.to_be_bytes()].concat();
                [head, frame(DATA, 0, stream, &announced)].concat()
            }
            Self::Oversize => frame(DATA, 0, stream - 2, &vec![0; (1 << 20) + 7]),
            Self::Packed => {
                let more = [("grpc-encoding", "gzip")];
                let head = frame(HEADERS, END_OF_HEADERS, stream, &call(INGEST, &more));
                // A gzip head and a stored block of zeros: what matters is that it says it is packed.
                let mut packed = vec![1];
                packed.extend(10_240_u32.to_be_bytes());
                packed.extend([0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255]);
                packed.resize(10_245, 0);
                [head, frame(DATA, 0, stream, &packed)].concat()
            }
            Self::Unknown => {
                let head = call("/plimsoll.v1.NoService/NoCall", &[]);
                let announced = [&[0][..], &4_000_000_u32.to_be_bytes()].concat();
                let ingest = frame(HEADERS, END_OF_HEADERS, stream + 2, &call(INGEST, &[]));
                let unknown = frame(HEADERS, END_OF_HEADERS, stream, &head);
                [unknown, ingest, frame(DATA, 0, stream + 2, &announced)].concat()
            }
            Self::Pings => frame(PING, 0, 0, &[7; 8]),
        }
    }

    /// Attacks until it is told to stop; comes again when it is turned away.
    async fn attack(
        self,
        number: u32,
        to: SocketAddr,
        over: Arc<AtomicBool>,
        turned: Arc<AtomicU64>,
    ) {
        while !over.load(Ordering::Relaxed) {
            if self.converse(number, to, &over).await.is_some() {
                turned.fetch_add(1, Ordering::Relaxed);
            }
            tokio::time::timeout(Duration::from_millis(5), std::future::pending::<()>())
                .await
                .ok();
        }
    }

    /// Talks over one connection; says so when it was closed.
    async fn converse(self, number: u32, to: SocketAddr, over: &AtomicBool) -> Option<()> {
        let mut line = connect(number, to).await?;
        if !matches!(self, Self::Silent) {
            let hello = [PREFACE, &frame(SETTINGS, 0, 0, &[])].concat();
            line.write_all(&hello).await.ok()?;
        }
        let (mut heard, mut round) = ([0; 4096], 0);
        while !over.load(Ordering::Relaxed) {
            let words = self.words(round);
            // Unknown calls open two streams at a time.
            round += if matches!(self, Self::Unknown) { 2 } else { 1 };
            let moment = Duration::from_millis(if words.is_empty() { 50 } else { 1 });
            if !words.is_empty() && line.write_all(&words).await.is_err() {
                return Some(());
            }
            let heard = tokio::time::timeout(moment, line.read(&mut heard)).await;
            if let Ok(Ok(0) | Err(_)) = heard {
                return Some(());
            }
        }
        None
    }
}

/// Connects from an address of the foe's own: there are as many strangers as addresses allow.
async fn connect(number: u32, to: SocketAddr) -> Option<TcpStream> {
    let [_, _, high, low] = number.to_be_bytes();
    let from = SocketAddr::from(([127, 9, high, 1 + low % 250], 0));
    let socket = TcpSocket::new_v4().ok()?;
    socket.bind(from).ok()?;
    socket.connect(to).await.ok()
}

/// The acknowledgement that only one of a hundred took longer than, of those that came within a time.
async fn slow_acknowledgement(
    stream: &mut Stream,
    identity: &mut Identity,
    within: Duration,
) -> (Duration, usize) {
    let over = Deadline::after(within);
    let mut took = Vec::new();
    while !over.is_over() {
        let began = Deadline::after(within);
        let now_ms = SystemClock::new().now().millis();
        stream.deliver(identity, now_ms).await.unwrap();
        took.push(began.elapsed());
    }
    took.sort_unstable();
    (took[took.len() * 99 / 100], took.len())
}

#[test]
fn foes_of_every_kind_cost_little_memory_and_agents_are_served_meanwhile() {
    let dir = tempfile::tempdir().unwrap();
    let (house, address) = Way::default().aggregator("127.0.0.1:0", &dir.path().join("data"), "");
    let (url, to) = (format!("http://{address}"), address.parse().unwrap());
    let seconds = Duration::from_secs(setting("PLIMSOLL_FOES_SECONDS", 2));
    let foes = u32::try_from(setting("PLIMSOLL_FOES", 40)).unwrap();
    let pid = house.program.0.id();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let mut identity = Identity::new(3);
        let mut stream = Stream::open(&url, &identity).await.unwrap();
        let (idle, _) = slow_acknowledgement(&mut stream, &mut identity, seconds).await;
        let before = memory_bytes(pid);
        println!(
            "alone: one acknowledgement of a hundred takes {idle:?}; {} KiB",
            before >> 10
        );
        for foe in Foe::ALL {
            let (over, turned) = (Arc::default(), Arc::default());
            let mut all = JoinSet::new();
            for number in 0..foes {
                let (over, turned) = (Arc::clone(&over), Arc::clone(&turned));
                all.spawn(foe.attack(number, to, over, turned));
            }
            let (slow, count) = slow_acknowledgement(&mut stream, &mut identity, seconds).await;
            let memory = memory_bytes(pid);
            over.store(true, Ordering::Relaxed);
            while all.join_next().await.is_some() {}
            let turned = turned.load(Ordering::Relaxed);
            println!(
                "{foe:?}: {slow:?} of {count}; {} KiB; {turned} connections closed",
                memory >> 10
            );
            assert!(
                memory < before + MEMORY_MORE_MAX,
                "{foe:?}: {before} bytes grew to {memory}"
            );
            // Foes and aggregator share two processors here, perhaps with other stories: how many times slower
            // it is, the line above tells; here it is that agents are served at all.
            assert!(slow < SERVED_WITHIN, "{foe:?}: {slow:?}, alone {idle:?}");
        }
        assert!(
            Stream::open(&url, &identity).await.is_ok(),
            "all are let in again"
        );
    });
}

#[test]
fn who_never_reads_the_answers_is_given_up_and_costs_a_bounded_part_of_memory() {
    let dir = tempfile::tempdir().unwrap();
    let (house, address) = Way::default().aggregator("127.0.0.1:0", &dir.path().join("data"), "");
    let url = format!("http://{address}");
    let pid = house.program.0.id();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        // Ten thousand series: their latest values are more than a MiB.
        let mut identity = Identity::new(400);
        let mut stream = Stream::open(&url, &identity).await.unwrap();
        let now_ms = SystemClock::new().now().millis();
        stream.deliver(&mut identity, now_ms).await.unwrap();
        assert_eq!(latest(&url, None).await, Some(identity.readings()));
        let mut small = Identity::new(3);
        let mut agent = Stream::open(&url, &small).await.unwrap();
        let before = memory_bytes(pid);
        let mut unread = JoinSet::new();
        for _ in 0..4 {
            let channel = window(&url, Some(1)).await;
            for _ in 0..60 {
                let channel = channel.clone();
                unread.spawn(async move {
                    // Who is refused for want of a place asks again; who gets an answer does not read it.
                    while let Err(status) = ask(channel.clone()).await
                        && status.code() == tonic::Code::ResourceExhausted
                    {}
                });
            }
        }
        let over = Deadline::after(Duration::from_secs(14));
        let (mut most, mut answered, mut asked) = (0, 0, 0);
        let mut slowest = Duration::ZERO;
        while !over.is_over() {
            let (slow, _) =
                slow_acknowledgement(&mut agent, &mut small, Duration::from_millis(300)).await;
            slowest = slowest.max(slow);
            most = memory_bytes(pid).max(most);
            asked += 1;
            answered += usize::from(latest(&url, None).await.is_some());
        }
        println!(
            "{} KiB grew to {} KiB; {answered} of {asked} who read were answered; \
             acknowledged within {slowest:?}",
            before >> 10,
            most >> 10
        );
        // As many answers as may be unread, of more than a MiB each in buffers that doubled as they grew,
        // and those in the making.
        assert!(most < before + (160 << 20), "{before} bytes grew to {most}");
        assert!(slowest < SERVED_WITHIN, "{slowest:?}");
        assert!(
            answered > 0,
            "those who read are answered once others were given up"
        );
        drop(unread);
        let all = identity.readings() + small.readings();
        assert_eq!(latest(&url, None).await, Some(all));
    });
}

/// A connection on which so many bytes of an answer may be under way.
async fn window(url: &str, bytes: Option<u32>) -> tonic::transport::Channel {
    let endpoint = Endpoint::from_shared(url.to_owned()).unwrap();
    let endpoint = endpoint.initial_stream_window_size(bytes);
    endpoint.connect().await.unwrap()
}

async fn ask(
    channel: tonic::transport::Channel,
) -> Result<tonic::Response<v1::GetLatestResponse>, tonic::Status> {
    let mut client = QueryServiceClient::new(channel).max_decoding_message_size(64 << 20);
    let request = v1::GetLatestRequest {
        page_size: 10_000,
        ..v1::GetLatestRequest::default()
    };
    client.get_latest(request).await
}

/// How many readings are told; absent where the question was refused.
async fn latest(url: &str, bytes: Option<u32>) -> Option<usize> {
    let answer = ask(window(url, bytes).await).await;
    answer.ok().map(|answer| answer.into_inner().readings.len())
}
