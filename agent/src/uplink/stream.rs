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

use super::dial::Line;
use super::pace::Pace;
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
    /// The same of this run's session, where an earlier one is sent.
    declared_live: HashSet<i32>,
    /// The last number that was sent on this stream.
    highest: u64,
    pace: Pace,
    /// What the aggregator has beyond this was not made here, perhaps: nothing new is sent before all up
    /// to here is acknowledged.
    doubted: Option<u64>,
    /// Numbers and bytes of what was sent and is not acknowledged.
    sent: VecDeque<(u64, u64)>,
    bytes: u64,
    batches_max: usize,
    bytes_max: u64,
    /// Read from the spool and not yet sent.
    waiting: VecDeque<Frame>,
}

/// How far sending went.
enum Filled {
    /// All that there is was sent.
    All,
    /// The credits are used up.
    Credits,
    /// The next batch has to wait.
    Until(Duration),
}

impl Turn<'_> {
    /// Sends a session; returns once an earlier one is wholly acknowledged.
    pub(super) async fn run(
        mut self,
        client: &IngestServiceClient<Line>,
        session: SessionId,
        on_welcome: &mut (dyn FnMut() + Send),
    ) -> Result<(), StreamError> {
        let (outbox, requests) = mpsc::channel(OUTBOX_MAX);
        send(&outbox, Out::Hello(self.hello(session).await?)).await?;
        let greeting = open(client.clone(), requests);
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
        let now = self.clock.now();
        let told = self.spool.with(move |spool| {
            let finished = spool.finished(now);
            (spool.range(session), spool.sessions(), finished)
        });
        let Some((Some((first, next)), sessions, finished_sessions)) = told.await else {
            return Err(StreamError::Protocol("the session has gone from the spool"));
        };
        let current = sessions.last().copied();
        Ok(v1::Hello {
            protocol_version: PROTOCOL_VERSION,
            session_id: session.as_bytes().to_vec(),
            first_sequence: render::int(first),
            next_sequence: render::int(next),
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            agent_time: Some(render::timestamp(now)),
            claimed_node_id: self.node.as_bytes().to_vec(),
            prior_session_ids: sessions
                .iter()
                .filter(|id| **id != session && Some(**id) != current)
                .map(|id| id.as_bytes().to_vec())
                .collect(),
            current_session_id: current.map_or_else(Vec::new, |id| id.as_bytes().to_vec()),
            finished_sessions,
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
        let checksum = welcome
            .durable_body_crc32c
            .and_then(|crc| u32::try_from(crc).ok());
        let resumed = self
            .spool
            .with(move |spool| spool.greet(session, durable, checksum))
            .await;
        let Some((cursor, is_doubted)) = resumed.flatten() else {
            return Err(StreamError::Protocol("the session has gone from the spool"));
        };
        Ok(Flight {
            session,
            cursor,
            doubted: is_doubted.then_some(durable),
            declared: HashSet::new(),
            declared_live: HashSet::new(),
            highest: durable,
            pace: Pace::new(welcome.backlog_rate_max),
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
            let filled = self.fill(flight, outbox).await?;
            if matches!(filled, Filled::All) && flight.sent.is_empty() && self.is_over(flight).await
            {
                return Ok(());
            }
            let wait = match filled {
                Filled::Until(wait) => Some(wait),
                Filled::All | Filled::Credits => None,
            };
            tokio::select! {
                biased;
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
                () = tokio::time::sleep(wait.unwrap_or_default()), if wait.is_some() => {}
            }
        }
    }

    /// Sends what the credits and the pace allow.
    async fn fill(
        &self,
        flight: &mut Flight,
        outbox: &mpsc::Sender<v1::IngestRequest>,
    ) -> Result<Filled, StreamError> {
        while flight.has_credit() {
            if flight.waiting.is_empty() {
                let (frames, cursor) = self.read(flight).await?;
                flight.cursor = cursor;
                flight.waiting.extend(frames);
            }
            let now = self.clock.monotonic();
            if let Some(wait) = flight.pace.wait(now) {
                return Ok(Filled::Until(wait));
            }
            if flight.must_not_pass() {
                return Ok(Filled::Credits);
            }
            let Some(frame) = flight.waiting.pop_front() else {
                return Ok(Filled::All);
            };
            if let Frame::Batch(batch) = &frame {
                flight.pace.depart(batch, now);
            }
            #[cfg(plimsoll_mutant = "trim_on_send")]
            if let Frame::Batch(batch) = &frame {
                let (session, sent) = (flight.session, sequence(batch.sequence)?);
                self.spool.lock().acknowledge(session, sent);
            }
            if let Some(frame) = flight.depart(frame) {
                send(outbox, frame).await?;
            }
        }
        Ok(Filled::Credits)
    }

    /// Reads what comes next: little that was just written at once, more where it holds up nobody.
    async fn read(&self, flight: &Flight) -> Result<(Vec<Frame>, Cursor), StreamError> {
        let (session, mut cursor) = (flight.session, flight.cursor);
        let fresh = self.spool.quickly(move |spool| {
            let frames = spool.read_fresh(session, &mut cursor)?;
            Some((frames, cursor))
        });
        if let Some(fresh) = fresh.await.flatten() {
            return Ok(fresh);
        }
        let read = self
            .spool
            .with(move |spool| (spool.read(session, &mut cursor), cursor));
        read.await
            .ok_or(StreamError::Protocol("the spool cannot be read"))
    }

    async fn is_over(&self, flight: &Flight) -> bool {
        let (session, now) = (flight.session, self.clock.now());
        let current = self.spool.quickly(|spool| spool.current()).await;
        let is_earlier = current.is_some_and(|current| current != Some(session));
        if is_earlier {
            self.spool
                .with(move |spool| spool.finish(session, now))
                .await;
        }
        is_earlier
    }

    async fn take(&self, flight: &mut Flight, answer: In) -> Result<(), StreamError> {
        let session = flight.session;
        match answer {
            In::Welcome(_) => Err(StreamError::Protocol("a second Welcome")),
            In::Ack(ack) => {
                let durable = sequence(ack.durable_sequence)?;
                if durable > flight.highest {
                    return Err(StreamError::Protocol("an Ack of what was not sent"));
                }
                flight.land(durable);
                let noted = self
                    .spool
                    .quickly(move |spool| spool.acknowledge_undeleted(session, durable));
                if noted.await != Some(true) {
                    self.spool
                        .with(move |spool| spool.acknowledge(session, durable))
                        .await;
                }
                Ok(())
            }
            In::Nack(nack) => {
                let expected = sequence(nack.expected_sequence)?;
                self.rewind(flight, expected).await
            }
            In::Rejection(rejection) => {
                let refused = sequence(rejection.sequence)?;
                tracing::warn!(%session, sequence = refused, reason = rejection.reason, "the aggregator refused a batch");
                // Others before it may have been refused too, and their gaps are still to be sent.
                let known = self.spool.with(move |spool| {
                    spool.reject(session, refused);
                    spool.known(session)
                });
                flight.rewind(known.await.flatten())
            }
            In::Fork(fork) => {
                let first = sequence(fork.sequence)?;
                self.spool
                    .with(move |spool| spool.fork(session, first))
                    .await;
                Err(StreamError::Forked)
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
        flight.rewind(resumed.flatten())
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
            .quickly(move |spool| (spool.current(), spool.range(session)))
            .await;
        let Some((Some(current), Some((_, next)))) = told else {
            return Ok(());
        };
        // While an earlier session is sent, all that is fresh waits behind it.
        if current == session && next.saturating_sub(flight.acknowledged()) <= BACKLOG_MIN {
            return Ok(());
        }
        let sweeps = self.latest.take(SNAPSHOT_READINGS_MAX);
        let numbers: Vec<u32> = sweeps.iter().flat_map(numbers_of).collect();
        let declared = match current == session {
            true => &mut flight.declared,
            false => &mut flight.declared_live,
        };
        let is_new = |number: &u32| declared.insert(i32::try_from(*number).unwrap_or(i32::MAX));
        let fresh: Vec<u32> = numbers.into_iter().filter(is_new).collect();
        let session = current;
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

/// What a stream says, and the first of it.
type Opened = (Streaming<v1::IngestResponse>, Option<In>);

/// Begins the call.
async fn open(
    mut client: IngestServiceClient<Line>,
    requests: mpsc::Receiver<v1::IngestRequest>,
) -> Result<Opened, StreamError> {
    let answers = client.ingest(ReceiverStream::new(requests)).await?;
    let mut answers = answers.into_inner();
    let first = answers.message().await?.and_then(|answer| answer.frame);
    Ok((answers, first))
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
    /// Sends again from a cursor on.
    fn rewind(&mut self, cursor: Option<Cursor>) -> Result<(), StreamError> {
        self.cursor = cursor.ok_or(StreamError::Protocol("the session has gone from the spool"))?;
        self.sent.clear();
        self.waiting.clear();
        self.bytes = 0;
        Ok(())
    }

    fn has_credit(&self) -> bool {
        self.sent.len() < self.batches_max && (self.bytes < self.bytes_max || self.sent.is_empty())
    }

    /// Whether the next frame would go beyond what is in doubt while that is not acknowledged.
    fn must_not_pass(&self) -> bool {
        let last = match self.waiting.front() {
            Some(Frame::Batch(batch)) => batch.sequence,
            Some(Frame::Gap(gap)) => gap.last_sequence,
            Some(Frame::Declarations(_)) | None => return false,
        };
        let last = u64::try_from(last).unwrap_or(0);
        !self.sent.is_empty() && self.doubted.is_some_and(|doubted| last > doubted)
    }

    fn acknowledged(&self) -> u64 {
        let oldest = self.sent.front().map(|(sequence, _)| *sequence);
        oldest.map_or(self.highest, |oldest| oldest.saturating_sub(1))
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
                let sequence = u64::try_from(batch.sequence).unwrap_or(0);
                self.sent.push_back((sequence, bytes));
                self.highest = self.highest.max(sequence);
                Some(Out::Batch(batch))
            }
            Frame::Gap(gap) => {
                let sequence = u64::try_from(gap.last_sequence).unwrap_or(0);
                self.sent.push_back((sequence, 0));
                self.highest = self.highest.max(sequence);
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
