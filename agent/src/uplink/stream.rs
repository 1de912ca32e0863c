//! One stream: greeting, batches within the credits, acknowledgements. It does not reconnect.

use std::collections::{HashSet, VecDeque};
use std::time::Duration;

use plimsoll_model::{Clock, NodeId, SessionId};
use plimsoll_proto::v1::ingest_request::Frame as Out;
use plimsoll_proto::v1::ingest_response::Frame as In;
use plimsoll_proto::v1::ingest_service_client::IngestServiceClient;
use plimsoll_proto::{DECLARED_AT_ONCE, PROTOCOL_VERSION, render, v1};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::Channel;

use super::{SharedSpool, StreamError};
use crate::sampler::Latest;
use crate::spool::{Cursor, Frame};

const OUTBOX_MAX: usize = 64;
const GREETING_MAX: Duration = Duration::from_secs(10);
/// How many batches behind means that fresh values need a lane of their own.
const BACKLOG_MIN: u64 = 4;
const SNAPSHOT_READINGS_MAX: usize = 4_000;

/// What one stream works with.
pub(super) struct Turn<'a> {
    pub(super) url: &'a str,
    pub(super) node: NodeId,
    pub(super) spool: &'a SharedSpool,
    pub(super) clock: &'a dyn Clock,
    pub(super) added: &'a mut watch::Receiver<u64>,
    pub(super) latest: &'a Latest,
}

/// What is under way.
struct Flight {
    session: SessionId,
    cursor: Cursor,
    declared: HashSet<i32>,
    /// Numbers and bytes of what was sent and is not acknowledged.
    sent: VecDeque<(u64, u64)>,
    bytes: u64,
    batches_max: usize,
    bytes_max: u64,
    /// Read from the spool and not yet sent.
    waiting: VecDeque<Frame>,
}

impl Turn<'_> {
    /// Sends a session; returns once an earlier one is wholly acknowledged.
    pub(super) async fn run(
        mut self,
        client: &mut IngestServiceClient<Channel>,
        session: SessionId,
        on_welcome: &mut (dyn FnMut() + Send),
    ) -> Result<(), StreamError> {
        let (outbox, requests) = mpsc::channel(OUTBOX_MAX);
        send(&outbox, Out::Hello(self.hello(session).await?)).await?;
        let greeting = async {
            let mut answers = client
                .ingest(ReceiverStream::new(requests))
                .await?
                .into_inner();
            let first = answers.message().await?.and_then(|answer| answer.frame);
            Ok::<_, StreamError>((answers, first))
        };
        let greeted = tokio::time::timeout(GREETING_MAX, greeting).await;
        let (mut answers, first) = greeted.map_err(|_| StreamError::Silent)??;
        let Some(In::Welcome(welcome)) = first else {
            return Err(StreamError::Protocol("the first answer is no Welcome"));
        };
        on_welcome();
        let mut flight = self.welcome(session, &welcome).await?;
        tracing::debug!(url = self.url, %session, durable = welcome.durable_sequence, "stream opened");
        self.converse(&mut flight, &outbox, &mut answers).await
    }

    async fn hello(&self, session: SessionId) -> Result<v1::Hello, StreamError> {
        let told = self
            .spool
            .with(move |spool| (spool.range(session), spool.sessions()))
            .await;
        let Some((Some((first, next)), sessions)) = told else {
            return Err(StreamError::Protocol("the session has gone from the spool"));
        };
        let current = sessions.last().copied();
        Ok(v1::Hello {
            protocol_version: PROTOCOL_VERSION,
            session_id: session.as_bytes().to_vec(),
            first_sequence: render::int(first),
            next_sequence: render::int(next),
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            agent_time: Some(render::timestamp(self.clock.now())),
            claimed_node_id: self.node.as_bytes().to_vec(),
            prior_session_ids: sessions
                .iter()
                .filter(|id| **id != session && Some(**id) != current)
                .map(|id| id.as_bytes().to_vec())
                .collect(),
        })
    }

    async fn welcome(
        &self,
        session: SessionId,
        welcome: &v1::Welcome,
    ) -> Result<Flight, StreamError> {
        if welcome.session_id != session.as_bytes() {
            return Err(StreamError::Protocol(
                "the Welcome is about another session",
            ));
        }
        let durable = u64::try_from(welcome.durable_sequence)
            .map_err(|_| StreamError::Protocol("durable_sequence is negative"))?;
        let resumed = self
            .spool
            .with(move |spool| spool.resume(session, durable))
            .await;
        let Some(Some(cursor)) = resumed else {
            return Err(StreamError::Protocol("the session has gone from the spool"));
        };
        Ok(Flight {
            session,
            cursor,
            declared: HashSet::new(),
            sent: VecDeque::new(),
            bytes: 0,
            batches_max: usize::try_from(welcome.inflight_batches_max)
                .unwrap_or(0)
                .clamp(1, OUTBOX_MAX),
            bytes_max: u64::try_from(welcome.inflight_bytes_max)
                .unwrap_or(0)
                .max(1),
            waiting: VecDeque::new(),
        })
    }

    async fn converse(
        &mut self,
        flight: &mut Flight,
        outbox: &mpsc::Sender<v1::IngestRequest>,
        answers: &mut Streaming<v1::IngestResponse>,
    ) -> Result<(), StreamError> {
        // Whether batches may still come; without a sampler what is under way is awaited all the same.
        let mut more = true;
        loop {
            let idle = self.fill(flight, outbox).await?;
            if idle && flight.sent.is_empty() && self.is_over(flight).await {
                return Ok(());
            }
            tokio::select! {
                answer = answers.message() => {
                    let Some(answer) = answer?.and_then(|answer| answer.frame) else {
                        return Err(StreamError::Ended(Box::new(tonic::Status::unavailable("the stream was closed"))));
                    };
                    self.take(flight, answer).await?;
                }
                changed = self.added.changed(), if more => {
                    more = changed.is_ok();
                    self.live(flight, outbox).await?;
                }
            }
        }
    }

    /// Sends what the credits allow; says whether all that there is was sent.
    async fn fill(
        &self,
        flight: &mut Flight,
        outbox: &mpsc::Sender<v1::IngestRequest>,
    ) -> Result<bool, StreamError> {
        while flight.has_credit() {
            if flight.waiting.is_empty() {
                let (session, mut cursor) = (flight.session, flight.cursor);
                let read = self
                    .spool
                    .with(move |spool| (spool.read(session, &mut cursor), cursor))
                    .await;
                let Some((frames, cursor)) = read else {
                    return Err(StreamError::Protocol("the spool cannot be read"));
                };
                flight.cursor = cursor;
                flight.waiting.extend(frames);
            }
            let Some(frame) = flight.waiting.pop_front() else {
                return Ok(true);
            };
            if let Some(frame) = flight.depart(frame) {
                send(outbox, frame).await?;
            }
        }
        Ok(false)
    }

    async fn is_over(&self, flight: &Flight) -> bool {
        let session = flight.session;
        let over = self.spool.with(move |spool| {
            let earlier = spool.current() != Some(session);
            if earlier {
                spool.finish(session);
            }
            earlier
        });
        over.await.unwrap_or(false)
    }

    async fn take(&self, flight: &mut Flight, answer: In) -> Result<(), StreamError> {
        let session = flight.session;
        match answer {
            In::Welcome(_) => Err(StreamError::Protocol("a second Welcome")),
            In::Ack(ack) => {
                let durable = sequence(ack.durable_sequence)?;
                if durable >= flight.cursor.next {
                    return Err(StreamError::Protocol("an Ack of what was not sent"));
                }
                flight.land(durable);
                self.spool
                    .with(move |spool| spool.acknowledge(session, durable))
                    .await;
                Ok(())
            }
            In::Nack(nack) => {
                let expected = sequence(nack.expected_sequence)?;
                self.rewind(flight, expected).await
            }
            In::Rejection(rejection) => {
                let refused = sequence(rejection.sequence)?;
                tracing::warn!(%session, sequence = refused, reason = rejection.reason, "the aggregator refused a batch");
                self.spool
                    .with(move |spool| spool.reject(session, refused))
                    .await;
                self.rewind(flight, refused).await
            }
        }
    }

    async fn rewind(&self, flight: &mut Flight, expected: u64) -> Result<(), StreamError> {
        let session = flight.session;
        let durable = expected.saturating_sub(1);
        let resumed = self
            .spool
            .with(move |spool| spool.resume(session, durable))
            .await;
        let Some(Some(cursor)) = resumed else {
            return Err(StreamError::Protocol("the session has gone from the spool"));
        };
        flight.cursor = cursor;
        flight.sent.clear();
        flight.waiting.clear();
        flight.bytes = 0;
        Ok(())
    }

    /// Sends the latest values past a backlog.
    async fn live(
        &self,
        flight: &mut Flight,
        outbox: &mpsc::Sender<v1::IngestRequest>,
    ) -> Result<(), StreamError> {
        let session = flight.session;
        let told = self
            .spool
            .with(move |spool| (spool.current(), spool.range(session)))
            .await;
        let Some((Some(current), Some((_, next)))) = told else {
            return Ok(());
        };
        // Numbers of another session mean nothing on this stream.
        if current != session || next.saturating_sub(flight.acknowledged()) <= BACKLOG_MIN {
            return Ok(());
        }
        let sweeps = self.latest.take(SNAPSHOT_READINGS_MAX);
        let numbers: Vec<u32> = sweeps.iter().flat_map(numbers_of).collect();
        let fresh: Vec<u32> = numbers
            .into_iter()
            .filter(|number| {
                flight
                    .declared
                    .insert(i32::try_from(*number).unwrap_or(i32::MAX))
            })
            .collect();
        let series = self
            .spool
            .with(move |spool| spool.declarations(fresh.into_iter()))
            .await;
        let session_id = session.as_bytes().to_vec();
        for series in series.unwrap_or_default().chunks(DECLARED_AT_ONCE) {
            let declared = v1::SeriesDeclarations {
                session_id: session_id.clone(),
                series: series.to_vec(),
            };
            send(outbox, Out::Declarations(declared)).await?;
        }
        send(outbox, Out::Snapshot(v1::Snapshot { session_id, sweeps })).await
    }
}

fn numbers_of(sweep: &v1::Sweep) -> Vec<u32> {
    let mut number = 0_i32;
    sweep
        .index_deltas
        .iter()
        .filter_map(|delta| {
            number = number.saturating_add(*delta);
            u32::try_from(number).ok()
        })
        .collect()
}

impl Flight {
    fn has_credit(&self) -> bool {
        self.sent.len() < self.batches_max && (self.bytes < self.bytes_max || self.sent.is_empty())
    }

    fn acknowledged(&self) -> u64 {
        let oldest = self.sent.front().map(|(sequence, _)| *sequence);
        oldest.unwrap_or(self.cursor.next).saturating_sub(1)
    }

    /// Books a frame as sent; absent if the stream knows all it would say.
    fn depart(&mut self, frame: Frame) -> Option<Out> {
        match frame {
            Frame::Declarations(mut declarations) => {
                declarations
                    .series
                    .retain(|series| self.declared.insert(series.index));
                (!declarations.series.is_empty()).then_some(Out::Declarations(declarations))
            }
            Frame::Batch(batch) => {
                let bytes = u64::try_from(batch.body.len()).unwrap_or(u64::MAX);
                self.bytes = self.bytes.saturating_add(bytes);
                self.sent
                    .push_back((u64::try_from(batch.sequence).unwrap_or(0), bytes));
                Some(Out::Batch(batch))
            }
            Frame::Gap(gap) => {
                self.sent
                    .push_back((u64::try_from(gap.last_sequence).unwrap_or(0), 0));
                Some(Out::Gap(gap))
            }
        }
    }

    fn land(&mut self, durable: u64) {
        while let Some((sequence, bytes)) = self.sent.front().copied()
            && sequence <= durable
        {
            self.bytes = self.bytes.saturating_sub(bytes);
            self.sent.pop_front();
        }
    }
}

fn sequence(value: i64) -> Result<u64, StreamError> {
    u64::try_from(value).map_err(|_| StreamError::Protocol("a negative sequence number"))
}

async fn send(outbox: &mpsc::Sender<v1::IngestRequest>, frame: Out) -> Result<(), StreamError> {
    outbox
        .send(v1::IngestRequest { frame: Some(frame) })
        .await
        .map_err(|_| {
            StreamError::Ended(Box::new(tonic::Status::unavailable(
                "the stream was closed",
            )))
        })
}
