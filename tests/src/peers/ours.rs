//! The aggregator: fed as agents do, one stream a node with durable acknowledgement, asked by gRPC.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use plimsoll_proto::columns::{unpack, unpack_ends};
use plimsoll_proto::v1::ingest_request::Frame;
use plimsoll_proto::v1::ingest_response::Frame as Reply;
use plimsoll_proto::v1::ingest_service_client::IngestServiceClient;
use plimsoll_proto::v1::query_service_client::QueryServiceClient;
use plimsoll_proto::{DECLARED_AT_ONCE, PROTOCOL_VERSION, v1};
use prost::Message as _;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::{Channel, Endpoint};
use uuid::Uuid;

use super::engine::{Answer, Engine, Load, Question, Share};
use super::progress::Progress;
use super::server::{Server, bytes_below, children_cpu_s};
use super::shape::{COLUMNS, GUESTS, Guest, NODE_SERIES, SERIES, Size, guest_id, node_id};
use crate::stage::Deadline;

const READY_LIMIT: Duration = Duration::from_secs(300);
/// Batches made ahead of each stream; with what the connection holds, fewer than an agent may have.
const AHEAD: usize = 4;
/// Streams on one connection, below what the aggregator allows; agents have one each.
const STREAMS: usize = 50;

/// An open stream of one node.
#[derive(Debug)]
struct Stream {
    session: Uuid,
    frames: mpsc::Sender<v1::IngestRequest>,
    sequence: i64,
    durable: watch::Receiver<i64>,
}

/// An aggregator that runs.
#[derive(Debug)]
pub(super) struct Ours {
    program: PathBuf,
    dir: PathBuf,
    url: String,
    server: Server,
    query: QueryServiceClient<Channel>,
    streams: Vec<Stream>,
}

/// An answer as it came.
#[derive(Debug)]
pub(super) enum Raw {
    Columns(Vec<v1::QueryColumnsResponse>),
    Latest(v1::GetLatestResponse),
}

impl Ours {
    /// Starts one with an empty directory.
    pub(super) async fn start(program: &Path, dir: &Path) -> anyhow::Result<Self> {
        std::fs::create_dir_all(dir)?;
        let (server, url, query) = serving(program, dir).await?;
        Ok(Self {
            program: program.to_owned(),
            dir: dir.to_owned(),
            url,
            server,
            query,
            streams: Vec::new(),
        })
    }

    async fn open_streams(&mut self, size: &Size, progress: &Arc<Progress>) -> anyhow::Result<()> {
        let mut channel = None;
        for node in 0..size.nodes {
            let here = match channel {
                Some(channel) if !self.streams.len().is_multiple_of(STREAMS) => channel,
                _ => endpoint(&self.url)?.connect().await?,
            };
            let stream = Stream::open(here.clone(), node, Arc::clone(progress)).await?;
            self.streams.push(stream);
            channel = Some(here);
        }
        Ok(())
    }
}

fn endpoint(url: &str) -> anyhow::Result<Endpoint> {
    Ok(Endpoint::from_shared(url.to_owned())?.tcp_nodelay(true))
}

async fn serving(
    program: &Path,
    dir: &Path,
) -> anyhow::Result<(Server, String, QueryServiceClient<Channel>)> {
    let log = dir.join("log");
    let seen = std::fs::read(&log).map_or(0, |log| log.len());
    let data = dir.join("data").display().to_string();
    let args = ["run", "--listen", "127.0.0.1:0", "--data-dir", &data].map(str::to_owned);
    let mut server = Server::start(program, &args, &log)?;
    let deadline = Deadline::after(READY_LIMIT);
    while !deadline.is_over() {
        server.must_run()?;
        let said = server.said()?;
        let told = said.get(seen..).and_then(|said| said.split_once("listen="));
        if let Some((_, rest)) = told
            && let Some(address) = rest.split_whitespace().next()
        {
            let url = format!("http://{address}");
            let query = asking(&url).await?;
            return Ok((server, url, query));
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    bail!("the aggregator does not listen after {READY_LIMIT:?}")
}

async fn asking(url: &str) -> anyhow::Result<QueryServiceClient<Channel>> {
    let channel = endpoint(url)?.connect().await?;
    Ok(QueryServiceClient::new(channel).max_decoding_message_size(64 << 20))
}

impl Stream {
    async fn open(channel: Channel, node: u32, progress: Arc<Progress>) -> anyhow::Result<Self> {
        let session = Uuid::new_v4();
        let (frames, requests) = mpsc::channel(AHEAD);
        let request = |frame| v1::IngestRequest { frame: Some(frame) };
        let hello = v1::Hello {
            protocol_version: PROTOCOL_VERSION,
            session_id: session.as_bytes().to_vec(),
            first_sequence: 1,
            next_sequence: 1,
            agent_version: "peers".to_owned(),
            claimed_node_id: node_id(node).as_bytes().to_vec(),
            ..v1::Hello::default()
        };
        frames.send(request(Frame::Hello(hello))).await?;
        let mut client = IngestServiceClient::new(channel);
        let mut replies = client
            .ingest(ReceiverStream::new(requests))
            .await?
            .into_inner();
        let welcome = replies.message().await?.and_then(|reply| reply.frame);
        if !matches!(welcome, Some(Reply::Welcome(_))) {
            bail!("the greeting was answered by {welcome:?}");
        }
        for declared in declarations(node, session) {
            frames.send(request(Frame::Declarations(declared))).await?;
        }
        let (told, durable) = watch::channel(0);
        tokio::spawn(listen(replies, told, progress));
        Ok(Self {
            session,
            frames,
            sequence: 0,
            durable,
        })
    }
}

/// Reads acknowledgements; anything else ends it, and then the feed finds nobody.
async fn listen(
    mut replies: Streaming<v1::IngestResponse>,
    told: watch::Sender<i64>,
    progress: Arc<Progress>,
) {
    while let Ok(Some(reply)) = replies.message().await {
        let Some(Reply::Ack(ack)) = reply.frame else {
            return;
        };
        let batches = ack.durable_sequence - *told.borrow();
        progress.add(u64::try_from(batches).unwrap_or(0) * NODE_SERIES);
        told.send_replace(ack.durable_sequence);
    }
}

fn declarations(node: u32, session: Uuid) -> Vec<v1::SeriesDeclarations> {
    let guests = node * GUESTS..(node + 1) * GUESTS;
    let all = guests.flat_map(|guest| SERIES.iter().map(move |series| (guest, series)));
    let declare = |(index, (guest, (metric, part))): (i32, (u32, &(_, &str)))| {
        let metric: &plimsoll_model::Metric = metric;
        v1::SeriesDeclaration {
            index,
            metric_code: metric.code().into(),
            part: (*part).to_owned(),
            domain_id: guest_id(guest).as_bytes().to_vec(),
            incarnation: Some(v1::Incarnation {
                boot_id: node_id(node).as_bytes().to_vec(),
                started_ms: 1_000,
            }),
            ..v1::SeriesDeclaration::default()
        }
    };
    let series: Vec<_> = (0..).zip(all).map(declare).collect();
    let message = |series: &[v1::SeriesDeclaration]| v1::SeriesDeclarations {
        session_id: session.as_bytes().to_vec(),
        series: series.to_vec(),
    };
    series.chunks(DECLARED_AT_ONCE).map(message).collect()
}

fn batch(stream: &mut Stream, guests: &mut [Guest], row_ms: i64) -> v1::Batch {
    let firsts = (0..).step_by(COLUMNS);
    let sweep = |(first_index, guest): (i32, &mut Guest)| {
        let late_ms = guest.step();
        let mut index_deltas = vec![1; COLUMNS];
        if let Some(first) = index_deltas.first_mut() {
            *first = first_index;
        }
        v1::Sweep {
            end_time_ms: row_ms + late_ms,
            width_ms: 2,
            index_deltas,
            values: guest.values.to_vec(),
        }
    };
    let body = v1::BatchBody {
        made_time: Some(prost_types::Timestamp {
            seconds: row_ms.div_euclid(1_000),
            nanos: 0,
        }),
        sweeps: firsts.zip(guests).map(sweep).collect(),
        ..v1::BatchBody::default()
    }
    .encode_to_vec();
    stream.sequence += 1;
    v1::Batch {
        session_id: stream.session.as_bytes().to_vec(),
        sequence: stream.sequence,
        body_crc32c: i64::from(crc32c::crc32c(&body)),
        body: body.into(),
    }
}

/// Feeds the streams of one share.
fn produce(
    mut share: Share,
    mut streams: Vec<Stream>,
    (size, rows): (Size, Range<u32>),
) -> anyhow::Result<(Share, Vec<Stream>)> {
    for row in rows {
        let nodes = share.guests.chunks_mut(GUESTS as usize);
        for (stream, guests) in streams.iter_mut().zip(nodes) {
            let batch = batch(stream, guests, size.row_ms(row));
            let frame = Some(Frame::Batch(batch));
            stream
                .frames
                .blocking_send(v1::IngestRequest { frame })
                .context("the aggregator closed a stream")?;
        }
    }
    Ok((share, streams))
}

fn at(ms: i64) -> Option<prost_types::Timestamp> {
    Some(prost_types::Timestamp {
        seconds: ms.div_euclid(1_000),
        nanos: i32::try_from(ms.rem_euclid(1_000) * 1_000_000).unwrap_or(0),
    })
}

fn selector(question: &Question) -> anyhow::Result<v1::SeriesSelector> {
    let mut selector = v1::SeriesSelector::default();
    if let Some(node) = question.node() {
        selector.node_id = node.as_bytes().to_vec();
    }
    if let Question::Series { guest, column, .. } = question {
        let (metric, part) = SERIES.get(*column).context("no such column")?;
        selector.domain_id = guest_id(*guest).as_bytes().to_vec();
        selector.metric = metric.name().to_owned();
        selector.part = Some((*part).to_owned());
    }
    Ok(selector)
}

fn column_of(metric: &str) -> anyhow::Result<usize> {
    let named = |(of, _): &(plimsoll_model::Metric, &str)| of.name() == metric;
    SERIES
        .iter()
        .position(named)
        .with_context(|| format!("{metric} was not fed"))
}

impl Engine for Ours {
    type Raw = Raw;

    fn name(&self) -> &str {
        concat!("Plimsoll ", env!("CARGO_PKG_VERSION"))
    }

    fn settings(&self) -> String {
        format!(
            "gRPC, a stream a node, {NODE_SERIES} samples a batch, one of each series, \
             acknowledged after fdatasync; default configuration"
        )
    }

    fn server(&mut self) -> &mut Server {
        &mut self.server
    }

    async fn feed(
        &mut self,
        load: &mut Load,
        rows: Range<u32>,
        progress: &Arc<Progress>,
    ) -> anyhow::Result<()> {
        if self.streams.is_empty() {
            self.open_streams(&load.size, progress).await?;
        }
        let mut feeds = Vec::new();
        for share in std::mem::take(&mut load.shares) {
            let nodes = share.guests.len() / GUESTS as usize;
            let streams = self.streams.drain(..nodes).collect();
            let what = (load.size, rows.clone());
            let making = move || produce(share, streams, what);
            feeds.push(tokio::task::spawn_blocking(making));
        }
        for feed in feeds {
            let (share, streams) = feed.await??;
            load.shares.push(share);
            self.streams.extend(streams);
        }
        for stream in &mut self.streams {
            let sequence = stream.sequence;
            let durable = stream.durable.wait_for(|durable| *durable >= sequence);
            durable.await.context("a stream was not acknowledged")?;
        }
        Ok(())
    }

    async fn show(&mut self) -> anyhow::Result<()> {
        Ok(())
    }

    async fn connect_again(&mut self) -> anyhow::Result<()> {
        self.query = asking(&self.url).await?;
        Ok(())
    }

    async fn ask(&mut self, question: &Question) -> anyhow::Result<Raw> {
        let selector = Some(selector(question)?);
        let (span_s, to_ms) = match *question {
            Question::Series { span_s, to_ms, .. } | Question::Node { span_s, to_ms, .. } => {
                (span_s, to_ms)
            }
            Question::Last { .. } => {
                let request = v1::GetLatestRequest {
                    selector,
                    page_size: 1_000,
                    ..v1::GetLatestRequest::default()
                };
                let answer = self.query.get_latest(request).await?;
                return Ok(Raw::Latest(answer.into_inner()));
            }
        };
        let mut request = v1::QueryColumnsRequest {
            selector,
            // Ours begins with the instant, theirs after it.
            start_time: at(to_ms - span_s * 1_000 + 1),
            end_time: at(to_ms),
            ..v1::QueryColumnsRequest::default()
        };
        let mut pages = Vec::new();
        loop {
            let page = self
                .query
                .query_columns(request.clone())
                .await?
                .into_inner();
            request.page_token.clone_from(&page.next_page_token);
            pages.push(page);
            if request.page_token.is_empty() {
                return Ok(Raw::Columns(pages));
            }
        }
    }

    fn read(&self, raw: Raw) -> anyhow::Result<Answer> {
        let mut answer = Answer::new();
        match raw {
            Raw::Columns(pages) => {
                for subject in pages.into_iter().flat_map(|page| page.subjects) {
                    let domain = Uuid::from_slice(&subject.domain_id)?;
                    let first = subject.first_end_time_ms;
                    let ends = unpack_ends(first, &subject.end_time_step_deltas_ms)?;
                    for column in &subject.columns {
                        let values = unpack(&column.value_deltas)?;
                        let samples = ends.iter().copied().zip(values);
                        let key = (domain, column_of(&column.metric)?);
                        answer.entry(key).or_default().extend(samples);
                    }
                }
            }
            Raw::Latest(latest) => {
                for reading in latest.readings {
                    let series = reading.series.unwrap_or_default();
                    let sample = reading.sample.unwrap_or_default();
                    let end = sample.end_time.unwrap_or_default();
                    let at_ms = end.seconds * 1_000 + i64::from(end.nanos) / 1_000_000;
                    let key = (
                        Uuid::from_slice(&series.domain_id)?,
                        column_of(&series.metric)?,
                    );
                    answer.entry(key).or_default().push((at_ms, sample.value));
                }
            }
        }
        Ok(answer)
    }

    async fn start_again(&mut self) -> anyhow::Result<()> {
        self.streams.clear();
        (self.server, self.url, self.query) = serving(&self.program, &self.dir).await?;
        Ok(())
    }

    fn replayed(&mut self) -> anyhow::Result<Option<u64>> {
        let said = self.server.said()?;
        let report = said.lines().rfind(|line| line.contains("RecoveryReport"));
        let samples = report.and_then(|line| line.split_once(" samples: "));
        let digits = samples.and_then(|(_, rest)| rest.split(',').next());
        Ok(digits.and_then(|digits| digits.trim().parse().ok()))
    }

    async fn settle(&mut self) -> anyhow::Result<(u64, f64)> {
        let cpu_s = self.server.cpu_s()?;
        self.server.stop()?;
        let before_s = children_cpu_s()?;
        let data = self.dir.join("data");
        let sealed = std::process::Command::new(&self.program)
            .args(["store", "seal"])
            .arg(&data)
            .output()?;
        if !sealed.status.success() {
            bail!("{}", String::from_utf8_lossy(&sealed.stderr));
        }
        Ok((bytes_below(&data)?, cpu_s + children_cpu_s()? - before_s))
    }
}
