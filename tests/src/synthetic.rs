//! An agent without a host: it speaks the real ingest protocol and makes its samples up.
//!
//! Not here: a spool, or coming back by itself; a story decides when it comes back.

use anyhow::{Context, bail};
use plimsoll_model::Metric;
use plimsoll_proto::v1::ingest_request::Frame;
use plimsoll_proto::v1::ingest_response::Frame as Reply;
use plimsoll_proto::v1::ingest_service_client::IngestServiceClient;
use plimsoll_proto::{PROTOCOL_VERSION, v1};
use prost::Message;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::Endpoint;
use uuid::Uuid;

/// Frames that wait for the connection; a batch is awaited before the next one is made.
const FRAMES_MAX: usize = 4;
/// What is told of each domain: what an estimate needs, and what users expect.
const DOMAIN_METRICS: [Metric; 24] = [
    Metric::VmState,
    Metric::VmCpuTime,
    Metric::VmCpuUser,
    Metric::VmCpuSystem,
    Metric::VmVcpuCount,
    Metric::VmMemCurrent,
    Metric::VmMemMax,
    Metric::VmMemRss,
    Metric::VmMemTouched,
    Metric::VmMemZeroFraction,
    Metric::VmMemGuestUsable,
    Metric::VmMemGuestUnused,
    Metric::VmBlockRdReqs,
    Metric::VmBlockRdBytes,
    Metric::VmBlockRdTime,
    Metric::VmBlockWrReqs,
    Metric::VmBlockWrBytes,
    Metric::VmBlockWrTime,
    Metric::VmNetRxBytes,
    Metric::VmNetRxPackets,
    Metric::VmNetRxDrop,
    Metric::VmNetTxBytes,
    Metric::VmNetTxPackets,
    Metric::VmNetTxDrop,
];

/// Who a synthetic agent is and what it has told; it outlives its connections.
#[derive(Debug, Clone)]
pub struct Identity {
    /// Its node.
    pub node: Uuid,
    /// Its session.
    pub session: Uuid,
    /// The sequence number of its next batch, from 1.
    pub next_sequence: i64,
    domains: Vec<Uuid>,
    boot: Uuid,
    value: i64,
}

impl Identity {
    /// A node with `domains` guests that never reported.
    pub fn new(domains: usize) -> Self {
        Self {
            node: Uuid::new_v4(),
            session: Uuid::new_v4(),
            next_sequence: 1,
            domains: (0..domains).map(|_| Uuid::new_v4()).collect(),
            boot: Uuid::new_v4(),
            value: 0,
        }
    }

    /// The first of its guests.
    pub fn domain(&self) -> Option<Uuid> {
        self.domains.first().copied()
    }

    /// Readings in each of its batches.
    pub fn readings(&self) -> usize {
        self.domains.len() * DOMAIN_METRICS.len()
    }

    fn declarations(&self) -> v1::SeriesDeclarations {
        let incarnation = v1::Incarnation {
            boot_id: self.boot.as_bytes().to_vec(),
            started_ms: 1_000,
        };
        let metrics = self
            .domains
            .iter()
            .flat_map(|domain| DOMAIN_METRICS.iter().map(move |metric| (domain, metric)));
        let series = (0..)
            .zip(metrics)
            .map(|(index, (domain, metric))| v1::SeriesDeclaration {
                index,
                metric_code: metric.code().into(),
                part: String::new(),
                domain_id: domain.as_bytes().to_vec(),
                incarnation: Some(incarnation.clone()),
                ..v1::SeriesDeclaration::default()
            });
        v1::SeriesDeclarations {
            session_id: self.session.as_bytes().to_vec(),
            series: series.collect(),
        }
    }

    fn batch(&mut self, now_ms: i64) -> v1::Batch {
        self.value += 1;
        let width = i32::try_from(DOMAIN_METRICS.len()).unwrap_or(i32::MAX);
        let sweeps = (0..).zip(&self.domains).map(|(number, _)| {
            let first: i32 = number * width;
            let mut index_deltas = vec![1; DOMAIN_METRICS.len()];
            // The first counts from 0, so the very first series is reached by 0.
            if let Some(delta) = index_deltas.first_mut() {
                *delta = first;
            }
            let base = self.value * 4_096 + i64::from(first);
            v1::Sweep {
                end_time_ms: now_ms,
                width_ms: 3,
                index_deltas,
                values: (0..)
                    .take(DOMAIN_METRICS.len())
                    .map(|one: i64| base + one * 997)
                    .collect(),
            }
        });
        let body = v1::BatchBody {
            made_time: Some(prost_types::Timestamp {
                seconds: now_ms.div_euclid(1_000),
                nanos: 0,
            }),
            sweeps: sweeps.collect(),
            ..v1::BatchBody::default()
        }
        .encode_to_vec();
        let sequence = self.next_sequence;
        self.next_sequence += 1;
        v1::Batch {
            session_id: self.session.as_bytes().to_vec(),
            sequence,
            body_crc32c: i64::from(crc32c::crc32c(&body)),
            body: body.into(),
        }
    }
}

/// One open stream of a synthetic agent.
#[derive(Debug)]
pub struct Stream {
    frames: mpsc::Sender<v1::IngestRequest>,
    replies: Streaming<v1::IngestResponse>,
    /// The last batch the aggregator said is on its disk.
    pub durable_sequence: i64,
}

impl Stream {
    /// Greets the aggregator and declares all series.
    ///
    /// # Errors
    ///
    /// Passes on the refusal.
    pub async fn open(url: &str, identity: &Identity) -> anyhow::Result<Self> {
        let channel = Endpoint::from_shared(url.to_owned())?
            .tcp_nodelay(true)
            .connect()
            .await
            .with_context(|| format!("cannot reach {url}"))?;
        let (frames, requests) = mpsc::channel(FRAMES_MAX);
        let hello = v1::Hello {
            protocol_version: PROTOCOL_VERSION,
            session_id: identity.session.as_bytes().to_vec(),
            first_sequence: 1,
            next_sequence: identity.next_sequence,
            agent_version: "synthetic".to_owned(),
            claimed_node_id: identity.node.as_bytes().to_vec(),
            ..v1::Hello::default()
        };
        send(&frames, Frame::Hello(hello)).await?;
        let mut client = IngestServiceClient::new(channel);
        let mut replies = client
            .ingest(ReceiverStream::new(requests))
            .await?
            .into_inner();
        let welcome = replies.message().await?.and_then(|reply| reply.frame);
        let Some(Reply::Welcome(welcome)) = welcome else {
            bail!("the greeting was answered by {welcome:?}");
        };
        send(&frames, Frame::Declarations(identity.declarations())).await?;
        Ok(Self {
            frames,
            replies,
            durable_sequence: welcome.durable_sequence,
        })
    }

    /// Sends one batch with all domains in it and waits until it is said to be durable.
    ///
    /// # Errors
    ///
    /// Passes on the refusal.
    pub async fn deliver(&mut self, identity: &mut Identity, now_ms: i64) -> anyhow::Result<()> {
        let batch = identity.batch(now_ms);
        let sequence = batch.sequence;
        send(&self.frames, Frame::Batch(batch)).await?;
        while self.durable_sequence < sequence {
            match self.replies.message().await?.and_then(|reply| reply.frame) {
                Some(Reply::Ack(ack)) => self.durable_sequence = ack.durable_sequence,
                Some(other) => bail!("batch {sequence} was answered by {other:?}"),
                None => bail!("the stream ended before batch {sequence} was durable"),
            }
        }
        Ok(())
    }
}

async fn send(frames: &mpsc::Sender<v1::IngestRequest>, frame: Frame) -> anyhow::Result<()> {
    let request = v1::IngestRequest { frame: Some(frame) };
    frames.send(request).await.context("the stream has ended")
}
