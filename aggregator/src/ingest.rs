//! The ingest service: reads frames, lets `parse` judge them, hands them to the writer, and
//! acknowledges what is on the disk. It interprets no values.

use std::sync::Arc;

use futures_util::Stream;
use plimsoll_model::{Batch, Clock, NodeId, SessionId};
use plimsoll_proto::parse::{self, ParseError, SeriesTable};
use plimsoll_proto::v1::ingest_service_server::IngestService;
use plimsoll_proto::v1::{self, ingest_request::Frame, ingest_response::Frame as Reply};
use plimsoll_proto::{PROTOCOL_VERSION, render};
use plimsoll_store::{Appended, Record, Store};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Response, Status, Streaming};
use tonic_types::{ErrorDetails, StatusExt as _};

use crate::guard::Caller;
use crate::roster::{Place, Roster};
use crate::witness::Witness;
use crate::writer::{WriteError, Writer};

/// Answers that wait for a slow agent; beyond that, its next frame is not read.
const REPLIES_MAX: usize = 32;
/// Batches an agent may have under way.
const INFLIGHT_BATCHES_MAX: i32 = 32;
/// Bytes of batches an agent may have under way.
const INFLIGHT_BYTES_MAX: i64 = 4 << 20;

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
}

type Replies = mpsc::Sender<Result<v1::IngestResponse, Status>>;

/// The state of one stream after its Hello.
struct Session {
    node: NodeId,
    session: SessionId,
    series: SeriesTable,
    replies: Replies,
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
        let mut frames = request.into_inner();
        let (replies, answers) = mpsc::channel(REPLIES_MAX);
        let ingest = self.clone();
        tokio::spawn(async move {
            if let Err(status) = ingest.serve(&caller, &mut frames, &replies).await {
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
        frames: &mut Streaming<v1::IngestRequest>,
        replies: &Replies,
    ) -> Result<(), Status> {
        let hello = match frames.message().await?.and_then(|request| request.frame) {
            Some(Frame::Hello(hello)) => hello,
            Some(_) => {
                return Err(refused(&ParseError::new(
                    "frame",
                    "the first must be a Hello",
                )));
            }
            None => return Ok(()),
        };
        let node = who_sends(caller, &hello)?;
        let (mut session, welcome) = self
            .greet(node, &hello, replies)
            .map_err(|error| refused(&error))?;
        let place = self.roster.sit(session.node);
        tracing::info!(node = %session.node, session = %session.session, "stream opened");
        let result = self.converse(&mut session, welcome, &place, frames).await;
        self.roster.leave(session.node, place.epoch);
        result
    }

    fn greet(
        &self,
        node: NodeId,
        hello: &v1::Hello,
        replies: &Replies,
    ) -> Result<(Session, v1::Welcome), ParseError> {
        if hello.protocol_version != PROTOCOL_VERSION {
            let problem = format!(
                "{} is not spoken here, only {PROTOCOL_VERSION}",
                hello.protocol_version
            );
            return Err(ParseError::new("hello.protocol_version", problem));
        }
        let session = parse::session_id("hello.session_id", &hello.session_id)?;
        let durable = self.store.durable_sequence(node, session).unwrap_or(0);
        let welcome = v1::Welcome {
            session_id: hello.session_id.clone(),
            durable_sequence: render::int(durable),
            inflight_batches_max: INFLIGHT_BATCHES_MAX,
            inflight_bytes_max: INFLIGHT_BYTES_MAX,
            server_time: Some(render::timestamp(self.clock.now())),
            stream_epoch: 0,
        };
        Ok((
            Session {
                node,
                session,
                series: SeriesTable::new(node, session),
                replies: replies.clone(),
            },
            welcome,
        ))
    }

    async fn converse(
        &self,
        session: &mut Session,
        welcome: v1::Welcome,
        place: &Place,
        frames: &mut Streaming<v1::IngestRequest>,
    ) -> Result<(), Status> {
        let mut superseded = place.superseded.clone();
        let welcome = v1::Welcome {
            stream_epoch: place.epoch,
            ..welcome
        };
        answer(&session.replies, Reply::Welcome(welcome)).await?;
        loop {
            let frame = tokio::select! {
                frame = frames.message() => frame?,
                _ = superseded.wait_for(|gone| *gone) => {
                    return Err(Status::aborted("SUPERSEDED: a newer stream of this node is open"));
                }
            };
            let Some(request) = frame else { return Ok(()) };
            let Some(frame) = request.frame else {
                return Err(refused(&ParseError::new(
                    "frame",
                    "is missing or not known",
                )));
            };
            if let Some(reply) = self.take(session, frame).await? {
                answer(&session.replies, reply).await?;
            }
        }
    }

    async fn take(&self, session: &mut Session, frame: Frame) -> Result<Option<Reply>, Status> {
        match frame {
            Frame::Hello(_) => Err(refused(&ParseError::new(
                "hello",
                "comes once, at the beginning",
            ))),
            Frame::Declarations(declarations) => {
                session
                    .series
                    .declare(declarations)
                    .map_err(|error| refused(&error))?;
                Ok(None)
            }
            Frame::Snapshot(snapshot) => {
                let sweeps = parse::sweeps(&session.series, &snapshot.sweeps)
                    .map_err(|error| refused(&error.within("snapshot")))?;
                self.roster.see(session.node, sweeps);
                Ok(None)
            }
            Frame::Gap(gap) => {
                let gap = parse::gap(session.node, self.clock.now(), &gap)
                    .map_err(|error| refused(&error))?;
                let sequence = gap.last_sequence;
                self.write(session, Record::Gap(gap), sequence)
                    .await
                    .map(Some)
            }
            Frame::Batch(message) => match parse::batch(&session.series, &message) {
                Ok(batch) => self.take_batch(session, batch).await.map(Some),
                Err(error) => {
                    tracing::warn!(node = %session.node, error = %error, "batch rejected");
                    Ok(Some(Reply::Rejection(v1::Rejection {
                        session_id: message.session_id,
                        sequence: message.sequence,
                        reason: error.to_string(),
                    })))
                }
            },
        }
    }

    async fn take_batch(&self, session: &Session, batch: Batch) -> Result<Reply, Status> {
        let sequence = batch.sequence;
        let events = batch.events.clone();
        let reply = self.write(session, Record::Batch(batch), sequence).await?;
        // The witness knows a batch that came twice.
        if matches!(reply, Reply::Ack(_)) && !events.is_empty() {
            self.witness.see(events);
        }
        Ok(reply)
    }

    async fn write(
        &self,
        session: &Session,
        record: Record,
        sequence: u64,
    ) -> Result<Reply, Status> {
        let session_id = session.session.as_bytes().to_vec();
        match self.writer.write(record).await {
            Ok(Appended::Stored | Appended::Duplicate) => {
                let durable = self.store.durable_sequence(session.node, session.session);
                let durable_sequence = render::int(durable.unwrap_or(sequence));
                Ok(Reply::Ack(v1::Ack {
                    session_id,
                    durable_sequence,
                }))
            }
            Ok(Appended::OutOfOrder { expected }) => Ok(Reply::Nack(v1::Nack {
                session_id,
                expected_sequence: render::int(expected),
            })),
            Ok(Appended::Forked) => Err(Status::failed_precondition(
                "FORKED_SESSION: another batch was stored under this sequence number; begin a new session",
            )),
            Err(error) => Err(unwritten(&error)),
        }
    }
}

async fn answer(replies: &Replies, frame: Reply) -> Result<(), Status> {
    replies
        .send(Ok(v1::IngestResponse { frame: Some(frame) }))
        .await
        .map_err(|_| Status::cancelled("the agent has left"))
}

/// Returns the node whose agent sends: the one of its certificate, and only where none is asked for
/// the one it claims to be. A claim that contradicts the certificate is a node set up wrongly.
fn who_sends(caller: &Caller, hello: &v1::Hello) -> Result<NodeId, Status> {
    let claimed = || {
        parse::node_id_opt("hello.claimed_node_id", &hello.claimed_node_id)
            .map_err(|error| refused(&error))
    };
    let Some(node) = caller.node() else {
        return claimed()?.ok_or_else(|| {
            refused(&ParseError::new(
                "hello.claimed_node_id",
                "is missing, and there is no certificate to tell the node",
            ))
        });
    };
    match claimed()? {
        Some(other) if other != node => Err(Status::permission_denied(format!(
            "the certificate is of node {node}, but the agent says it runs on {other}; issue a \
             certificate for {other}, or correct [node] id in the agent's configuration"
        ))),
        _ => Ok(node),
    }
}

fn refused(error: &ParseError) -> Status {
    Status::invalid_argument(error.to_string())
}

fn unwritten(error: &WriteError) -> Status {
    match error {
        WriteError::Closed => Status::unavailable(error.to_string()),
        WriteError::Store(source) => {
            // Upkeep looks for room this often.
            let details = ErrorDetails::with_retry_info(Some(crate::serve::UPKEEP));
            let text = format!("{error}: {source}");
            Status::with_error_details(Code::ResourceExhausted, text, details)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use plimsoll_store::AppendError;

    use super::*;

    #[test]
    fn want_of_room_tells_the_agent_to_keep_its_samples_and_when_to_come_again() {
        let error = WriteError::Store(Arc::new(AppendError::LowSpace {
            path: PathBuf::from("/data"),
            free_bytes: 1,
            floor_bytes: 2,
        }));
        let status = unwritten(&error);
        assert_eq!(status.code(), Code::ResourceExhausted);
        let retry = status.get_details_retry_info().unwrap();
        assert_eq!(retry.retry_delay, Some(crate::serve::UPKEEP));
        assert!(
            status.message().contains("less than the floor of 2"),
            "{status}"
        );
    }
}
