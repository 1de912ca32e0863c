//! The ingest service: reads frames, lets `parse` judge them, hands them to the writer, and
//! acknowledges what is on the disk. It interprets no values.

mod greetings;
mod growth;
mod refusal;
mod session;
mod window;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures_util::Stream;
use plimsoll_model::{Batch, Clock, GapReason, NodeId, SampleGap};
use plimsoll_proto::parse::{self, ParseError};
use plimsoll_proto::render;
use plimsoll_proto::v1::ingest_service_server::IngestService;
use plimsoll_proto::v1::{self, ingest_request::Frame, ingest_response::Frame as Reply};
use plimsoll_store::{Appended, Record, Store};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::credit::Credits;
use crate::guard::Caller;
use crate::guard::limits::{Limit, Met};
use crate::guard::memory::{Ceiling, Scarcity};
use crate::roster::{Place, Roster};
use crate::witness::Witness;
use crate::writer::{WriteError, Writer};
pub use greetings::Greetings;
use greetings::HELLO_WITHIN;
pub use growth::Nursery;
use refusal::{later, refused, unwritten};
use session::{Session, Waiting, open};

/// Answers that wait for a slow agent; beyond that, its next frame is not read.
const REPLIES_MAX: usize = 32;
/// Batches an agent may have under way.
const INFLIGHT_BATCHES_MAX: i32 = 32;
/// How many times faster than it was sampled a backlog may be sent.
const BACKLOG_RATE_MAX: i32 = 20;
/// How long a newer stream waits for the older one to end.
const OLDER_MAX: Duration = Duration::from_secs(2);
/// Finished sessions that one Hello may name.
const FINISHED_MAX: usize = 8;
/// Said to an agent whose stream is as old as it may become.
const AGED: &str = "AGED: the connection is as old as it may become; connect again";

/// What streams share.
#[derive(Debug, Clone)]
pub struct Ingest {
    /// The store, asked what is durable.
    pub store: Arc<Store>,
    /// The door to the writer.
    pub writer: Writer,
    /// Who is here.
    pub roster: Arc<Roster>,
    /// Who watches migrations.
    pub witness: Arc<Witness>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// What limits were met.
    pub met: Arc<Met>,
    /// How much memory there is.
    pub ceiling: Arc<Ceiling>,
    /// How old a stream may become.
    pub age_max: Duration,
    /// What may be under way.
    pub credits: Credits,
    /// What nodes may grow to.
    pub nursery: Nursery,
    /// Who has not said yet who it is.
    pub greetings: Greetings,
}

type Replies = mpsc::Sender<Result<v1::IngestResponse, Status>>;

/// What a stream hears next.
enum Heard {
    /// From the agent; nothing where it has ended the stream.
    Frame(Option<v1::IngestRequest>),
    /// From the writer, about the oldest record that waits.
    Outcome(Result<Appended, WriteError>),
}

/// Waits for the oldest record.
async fn first(waiting: &mut VecDeque<Waiting>) -> Result<Appended, WriteError> {
    match waiting.front_mut() {
        Some(one) => one.written.wait().await,
        None => std::future::pending().await,
    }
}

#[tonic::async_trait]
impl IngestService for Ingest {
    type IngestStream =
        std::pin::Pin<Box<dyn Stream<Item = Result<v1::IngestResponse, Status>> + Send>>;

    async fn ingest(
        &self,
        request: Request<Streaming<v1::IngestRequest>>,
    ) -> Result<Response<Self::IngestStream>, Status> {
        let caller = request.extensions().get::<Caller>().cloned();
        let caller = caller.ok_or_else(|| Status::unauthenticated("nobody is known here"))?;
        let place = self.greetings.enter(&self.met, &*self.clock)?;
        let mut frames = request.into_inner();
        let (replies, answers) = mpsc::channel(REPLIES_MAX);
        let ingest = self.clone();
        tokio::spawn(async move {
            let hello = tokio::time::timeout(HELLO_WITHIN, frames.message()).await;
            drop(place);
            let served = match hello {
                Ok(first) => ingest.serve(&caller, first, (&mut frames, &replies)).await,
                Err(_) => Err(Status::deadline_exceeded("no Hello came in time")),
            };
            if let Err(status) = served {
                tracing::info!(code = ?status.code(), message = status.message(), "stream ended");
                drop(replies.send(Err(status)).await);
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(answers))))
    }
}

impl Ingest {
    async fn serve(
        &self,
        caller: &Caller,
        first: Result<Option<v1::IngestRequest>, Status>,
        (frames, replies): (&mut Streaming<v1::IngestRequest>, &Replies),
    ) -> Result<(), Status> {
        let hello = match first?.and_then(|request| request.frame) {
            Some(Frame::Hello(hello)) => hello,
            Some(_) => {
                return Err(refused(&ParseError::new(
                    "frame",
                    "the first must be a Hello",
                )));
            }
            None => return Ok(()),
        };
        let node = self.who_sends(caller, &hello)?;
        let mut session = open(node, &hello, replies).map_err(|error| refused(&error))?;
        let run = session
            .live
            .as_ref()
            .map_or(session.session, |(run, _)| *run);
        let mut place = self.roster.sit(node, run);
        if place.is_double {
            tracing::error!(%node, "two agents say they are this node: was its machine or its disk copied?");
        }
        tracing::info!(%node, session = %session.session, "stream opened");
        let result = self.attend(&mut session, &hello, &mut place, frames).await;
        self.roster.leave(node, place.epoch);
        if result.is_ok() {
            // The agent ended it, or its connection is gone: both are told alike.
            tracing::info!(%node, "stream ended");
        }
        result
    }

    /// Returns the node whose agent sends: the one of its certificate, and only where none is asked for the
    /// one it claims to be. A claim that contradicts the certificate is a node set up wrongly, or worse.
    fn who_sends(&self, caller: &Caller, hello: &v1::Hello) -> Result<NodeId, Status> {
        let claimed = parse::node_id_opt("hello.claimed_node_id", &hello.claimed_node_id)
            .map_err(|error| refused(&error))?;
        let Some(node) = caller.node() else {
            let problem = "is missing, and there is no certificate to tell the node";
            let missing = || refused(&ParseError::new("hello.claimed_node_id", problem));
            return claimed.ok_or_else(missing);
        };
        let Some(other) = claimed.filter(|other| *other != node) else {
            return Ok(node);
        };
        if self.met.note(Limit::ForeignNode, &*self.clock) {
            tracing::error!(%node, claimed = %other, "an agent says it is another node than its certificate");
        }
        Err(Status::permission_denied(format!(
            "the certificate is of node {node}, but the agent says it runs on {other}; issue a \
             certificate for {other}, or correct [node] id in the agent's configuration"
        )))
    }

    async fn attend(
        &self,
        session: &mut Session,
        hello: &v1::Hello,
        place: &mut Place,
        frames: &mut Streaming<v1::IngestRequest>,
    ) -> Result<(), Status> {
        // What the older stream has handed over is on the disk before this one hears how far that is.
        if let Some(older) = place.older.take() {
            drop(tokio::time::timeout(OLDER_MAX, older.closed()).await);
        }
        let flushed = async { self.writer.flush().await?.wait().await };
        flushed.await.map_err(|error| unwritten(&error))?;
        self.book_lost(session.node, hello).await?;
        let credit = self.credits.grant();
        let welcome = self.welcome(session, place.epoch, credit.bytes);
        self.converse(session, welcome, place, frames).await
    }

    /// Declares lost what this store misses of sessions that the agent saw acknowledged to their end.
    async fn book_lost(&self, node: NodeId, hello: &v1::Hello) -> Result<(), Status> {
        for finished in hello.finished_sessions.iter().take(FINISHED_MAX) {
            let parsed = parse::finished(finished).map_err(|error| refused(&error))?;
            let (session, last_sequence) = parsed;
            let durable = self.store.durable_sequence(node, session).unwrap_or(0);
            if durable >= last_sequence {
                continue;
            }
            tracing::warn!(%node, %session, durable, last_sequence, "this store has lost what it had acknowledged");
            let gap = SampleGap {
                node,
                session,
                first_sequence: durable.saturating_add(1),
                last_sequence,
                reading_count: None,
                declared: self.clock.now(),
                reason: GapReason::ServerRollback,
            };
            let written = self.writer.hand_over(Record::Gap(gap)).await;
            let mut written = written.map_err(|error| unwritten(&error))?;
            written.wait().await.map_err(|error| unwritten(&error))?;
        }
        Ok(())
    }

    fn welcome(&self, session: &Session, stream_epoch: i64, bytes_max: i64) -> v1::Welcome {
        let (node, session) = (session.node, session.session);
        let durable = self.store.durable_sequence(node, session).unwrap_or(0);
        v1::Welcome {
            session_id: session.as_bytes().to_vec(),
            durable_sequence: render::int(durable),
            inflight_batches_max: INFLIGHT_BATCHES_MAX,
            inflight_bytes_max: bytes_max,
            server_time: Some(render::timestamp(self.clock.now())),
            stream_epoch,
            durable_body_crc32c: self.store.durable_checksum(node, session).map(i64::from),
            backlog_rate_max: BACKLOG_RATE_MAX,
        }
    }

    async fn converse(
        &self,
        session: &mut Session,
        welcome: v1::Welcome,
        place: &mut Place,
        frames: &mut Streaming<v1::IngestRequest>,
    ) -> Result<(), Status> {
        // No two of a fleet that came at once come again at once.
        let age = self.age_max.mul_f64(0.9 + 0.2 * fastrand::f64());
        let mut aged = std::pin::pin!(tokio::time::sleep(age));
        let superseded = &mut place.superseded;
        answer(&session.replies, Reply::Welcome(welcome)).await?;
        loop {
            let heard = tokio::select! {
                biased;
                _ = superseded.wait_for(|gone| *gone) => {
                    return Err(Status::aborted("SUPERSEDED: a newer stream of this node is open"));
                }
                outcome = first(&mut session.waiting), if !session.waiting.is_empty() => {
                    Heard::Outcome(outcome)
                }
                frame = frames.message(), if !session.is_full() => {
                    Heard::Frame(frame?)
                }
                () = &mut aged => {
                    self.met.note(Limit::Age, &*self.clock);
                    return Err(Status::unavailable(AGED));
                }
            };
            let frame = match heard {
                Heard::Frame(frame) => frame,
                Heard::Outcome(outcome) => {
                    self.told(session, outcome).await?;
                    continue;
                }
            };
            let Some(request) = frame else {
                return self.settle(session).await;
            };
            let Some(frame) = request.frame else {
                return Err(refused(&ParseError::new(
                    "frame",
                    "is missing or not known",
                )));
            };
            self.take(session, frame).await?;
        }
    }

    async fn take(&self, session: &mut Session, frame: Frame) -> Result<(), Status> {
        match frame {
            Frame::Hello(_) => Err(refused(&ParseError::new(
                "hello",
                "comes once, at the beginning",
            ))),
            Frame::Declarations(declarations) => self.declare(session, declarations),
            Frame::Snapshot(snapshot) => {
                let table = session.table(&snapshot.session_id);
                let rows = parse::snapshot(table, &snapshot)
                    .map_err(|error| self.refuse(&error.within("snapshot")))?;
                self.roster.see(session.node, &rows);
                Ok(())
            }
            Frame::Gap(gap) => {
                let gap = parse::gap(session.node, self.clock.now(), &gap)
                    .map_err(|error| refused(&error))?;
                let sequence = gap.last_sequence;
                self.write(session, sequence, Record::Gap(gap)).await
            }
            Frame::Batch(message) => match self.read(session, &message)? {
                Ok(batch) => {
                    let sequence = batch.sequence;
                    self.write(session, sequence, Record::Batch(batch)).await
                }
                Err(error) => {
                    self.note_rejected(session.node, &error);
                    // What came before it is answered before it.
                    self.settle(session).await?;
                    let rejection = v1::Rejection {
                        session_id: message.session_id,
                        sequence: message.sequence,
                        reason: error.to_string(),
                    };
                    answer(&session.replies, Reply::Rejection(rejection)).await
                }
            },
        }
    }

    fn declare(
        &self,
        session: &mut Session,
        declarations: v1::SeriesDeclarations,
    ) -> Result<(), Status> {
        let mut judge = self.nursery.judge(session.node);
        session
            .table(&declarations.session_id)
            .declare_judged(declarations, &mut |subject, metric, part| {
                judge.allows(subject, metric, part)
            })
            .map_err(|error| self.refuse(&error))
    }

    /// Reads a batch, or says why it is rejected; ends the stream where no memory is left for it.
    fn read(
        &self,
        session: &mut Session,
        message: &v1::Batch,
    ) -> Result<Result<Batch, ParseError>, Status> {
        if self.ceiling.scarcity() >= Scarcity::Samples {
            self.met.note(Limit::IngestMemory, &*self.clock);
            return Err(later("memory is nearly out; keep the samples"));
        }
        let read = parse::batch(&mut session.series, message);
        Ok(read.and_then(|batch| window::check(&batch, self.clock.now()).map(|()| batch)))
    }

    fn note_rejected(&self, node: NodeId, error: &ParseError) {
        let limit = Limit::of(error);
        if !self.met.note(limit, &*self.clock) {
            return;
        }
        match limit {
            Limit::ForeignNode => {
                tracing::error!(%node, error = %error, "a batch speaks for another node; it is rejected");
            }
            _ => tracing::warn!(%node, error = %error, "batch rejected"),
        }
    }

    fn refuse(&self, error: &ParseError) -> Status {
        self.met.note(Limit::of(error), &*self.clock);
        refused(error)
    }

    async fn write(
        &self,
        session: &mut Session,
        sequence: u64,
        record: Record,
    ) -> Result<(), Status> {
        let events = match &record {
            Record::Batch(batch) => batch.events.clone(),
            Record::Gap(_) | Record::Document(_) => Vec::new(),
        };
        if self.writer.is_full() {
            self.met.note(Limit::WaitingOfAll, &*self.clock);
        }
        let written = self.writer.hand_over(record).await;
        #[cfg(plimsoll_mutant = "ack_before_fsync")]
        self.acknowledge(session, Some(sequence)).await?;
        session.waiting.push_back(Waiting {
            sequence,
            written: written.map_err(|error| unwritten(&error))?,
            events,
        });
        if session.is_full() {
            self.met.note(Limit::WaitingOfStream, &*self.clock);
        }
        Ok(())
    }

    /// Waits for all records of the stream and answers them.
    async fn settle(&self, session: &mut Session) -> Result<(), Status> {
        while !session.waiting.is_empty() {
            let outcome = first(&mut session.waiting).await;
            self.told(session, outcome).await?;
        }
        Ok(())
    }

    /// Answers the oldest record, and with it all whose fate is known too: a commit brings many of them,
    /// and one acknowledgement says it of all.
    async fn told(
        &self,
        session: &mut Session,
        outcome: Result<Appended, WriteError>,
    ) -> Result<(), Status> {
        let mut stored = None;
        let mut next = Some(outcome);
        while let Some(outcome) = next
            && let Some(one) = session.waiting.pop_front()
        {
            match outcome {
                Ok(Appended::Stored | Appended::Duplicate) => {
                    stored = Some(one.sequence);
                    session.asked_for = None;
                    // The witness knows a batch that came twice.
                    if !one.events.is_empty() {
                        self.witness.see(one.events);
                    }
                }
                Ok(Appended::OutOfOrder { expected }) => {
                    self.acknowledge(session, stored.take()).await?;
                    if session.asked_for.replace(expected) != Some(expected) {
                        let nack = v1::Nack {
                            session_id: session.session.as_bytes().to_vec(),
                            expected_sequence: render::int(expected),
                        };
                        answer(&session.replies, Reply::Nack(nack)).await?;
                    }
                }
                Ok(Appended::Forked) => {
                    self.acknowledge(session, stored.take()).await?;
                    let fork = v1::Fork {
                        session_id: session.session.as_bytes().to_vec(),
                        sequence: render::int(one.sequence),
                    };
                    answer(&session.replies, Reply::Fork(fork)).await?;
                    tracing::error!(node = %session.node, session = %session.session, sequence = one.sequence, "two agents send one session");
                    return Err(Status::failed_precondition(
                        "FORKED_SESSION: another batch was stored under this sequence number; begin a new session",
                    ));
                }
                Err(error) => return Err(unwritten(&error)),
            }
            next = session
                .waiting
                .front_mut()
                .and_then(|one| one.written.now());
        }
        self.acknowledge(session, stored).await
    }

    async fn acknowledge(&self, session: &Session, stored: Option<u64>) -> Result<(), Status> {
        let Some(sequence) = stored else {
            return Ok(());
        };
        // Not all that is durable: another agent may have sent more of a session that was forked.
        let ack = v1::Ack {
            session_id: session.session.as_bytes().to_vec(),
            durable_sequence: render::int(sequence),
        };
        answer(&session.replies, Reply::Ack(ack)).await
    }
}

async fn answer(replies: &Replies, frame: Reply) -> Result<(), Status> {
    replies
        .send(Ok(v1::IngestResponse { frame: Some(frame) }))
        .await
        .map_err(|_| Status::cancelled("the agent has left"))
}

#[cfg(test)]
mod tests;
