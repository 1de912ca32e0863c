//! How many calls one connection may have open, how long their headers and their messages may be. HTTP/2
//! itself refuses at twice these numbers, without a word that a caller understands and without a count.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http_body::Frame;
use plimsoll_model::Clock;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::Bytes;
use tonic::codegen::http::{HeaderMap, Request, Response};
use tower::{Layer, Service};

use super::caller::{Caller, Role};
use super::limits::{Limit, Met};
use super::places::{Places, Seat};
use crate::page::busy;

/// Calls that one connection may have open.
pub const STREAMS_MAX: usize = 64;
/// Calls that the connection of an agent may have open: its stream, and the next one while that one ends.
pub const OF_AGENT_MAX: usize = 4;
/// Bytes of headers that one call may have, counted as HTTP/2 does (RFC 9113, section 6.5.2).
pub const HEADERS_MAX: usize = 16 << 10;
/// Bytes of one message, heard or said, unpacked; gRPC clients take no more unless told.
pub const MESSAGE_BYTES_MAX: usize = 4 << 20;
/// How far HTTP/2's own bounds lie beyond ours.
pub(crate) const BEYOND: u32 = 2;
/// What HTTP/2 counts for each field beside its bytes.
const FIELD_BYTES: usize = 32;
/// When a call that found no place may come again.
const LATER: Duration = Duration::from_secs(1);

/// Who came in by a connection, and the calls it has open.
#[derive(Debug, Clone)]
pub struct Guest {
    caller: Caller,
    open: Places<()>,
}

impl Guest {
    /// Lets a caller in that has no call open yet.
    pub fn new(caller: Caller) -> Self {
        let max = match &caller {
            Caller::Certified {
                role: Role::Node(_),
                ..
            } => OF_AGENT_MAX,
            Caller::Certified { .. } | Caller::Local => STREAMS_MAX,
        };
        Self {
            caller,
            open: Places::new(max),
        }
    }
}

/// Counts calls before all services, and tells them who calls.
#[derive(Debug, Clone)]
pub struct Calls {
    /// Counts what was refused.
    pub met: Arc<Met>,
    /// Tells the time.
    pub clock: Arc<dyn Clock>,
}

impl Calls {
    fn met(&self, limit: Limit) {
        if self.met.note(limit, &*self.clock) {
            tracing::info!(limit = limit.word(), "a call met a limit");
        }
    }

    /// Lets a call in, or says why not.
    fn admit(&self, request: &mut Request<Body>) -> Result<Option<Seat<()>>, Status> {
        let bytes = header_bytes(request);
        if bytes > HEADERS_MAX {
            self.met(Limit::Headers);
            let text =
                format!("the call has {bytes} bytes of headers, at most {HEADERS_MAX} are taken");
            return Err(Status::resource_exhausted(text));
        }
        let Some(Guest { caller, open }) = request.extensions().get::<Guest>().cloned() else {
            return Ok(None);
        };
        request.extensions_mut().insert(caller);
        let seat = open.take(()).ok_or_else(|| {
            self.met(Limit::Calls);
            let text = "calls: this connection has enough of them open; ask again later";
            busy(LATER, text)
        })?;
        Ok(Some(seat))
    }

    /// Notes a message that was too long. The services of ours say why they refuse, with details; tonic, which
    /// measures messages, does not.
    fn look_at(&self, said: &HeaderMap) {
        let is_out = said.get("grpc-status").map(|code| code.as_bytes()) == Some(b"11");
        if is_out && !said.contains_key("grpc-status-details-bin") {
            self.met(Limit::MessageBytes);
        }
    }
}

fn header_bytes(request: &Request<Body>) -> usize {
    let fields = request.headers().iter();
    let fields = fields.map(|(name, value)| name.as_str().len() + value.len() + FIELD_BYTES);
    request.uri().path().len() + fields.sum::<usize>()
}

impl<S> Layer<S> for Calls {
    type Service = Counted<S>;

    fn layer(&self, inner: S) -> Counted<S> {
        let calls = self.clone();
        Counted { inner, calls }
    }
}

/// A service whose calls are counted.
#[derive(Debug, Clone)]
pub struct Counted<S> {
    inner: S,
    calls: Calls,
}

impl<S> Service<Request<Body>> for Counted<S>
where
    S: Service<Request<Body>, Response = Response<Body>>,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let seat = match self.calls.admit(&mut request) {
            Ok(seat) => seat,
            Err(status) => return Box::pin(std::future::ready(Ok(status.into_http()))),
        };
        let answer = self.inner.call(request);
        let calls = self.calls.clone();
        Box::pin(async move {
            let (head, body) = answer.await?.into_parts();
            calls.look_at(&head.headers);
            let held = Held {
                body,
                calls,
                _seat: seat,
            };
            Ok(Response::from_parts(head, Body::new(held)))
        })
    }
}

/// An answer that holds the place of its call until it was said, and is looked at when it ends.
struct Held {
    body: Body,
    calls: Calls,
    _seat: Option<Seat<()>>,
}

impl tonic::codegen::Body for Held {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        if let Some(Ok(frame)) = &frame
            && let Some(trailers) = frame.trailers_ref()
        {
            self.calls.look_at(trailers);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests;
