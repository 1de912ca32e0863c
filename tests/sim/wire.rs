//! The way between agents and the aggregator, in memory: it delays, stalls, refuses and breaks, and what
//! was under way when it breaks is gone. What it brings, it brings in order, as TCP does.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http_body_util::{BodyExt as _, StreamBody};
use plimsoll_agent::uplink::{Dial, Line, StreamError};
use plimsoll_aggregator::guard::Caller;
use plimsoll_aggregator::ingest::Ingest;
use plimsoll_proto::v1::ingest_service_server::IngestServiceServer;
use tokio::sync::{Notify, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use tonic::body::Body;
use tower::Service as _;
use tower::util::BoxCloneSyncService;

/// Frames that lie on the way.
const ON_THE_WAY_MAX: usize = 8;

/// How bad the way is. Parts are of a thousand.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Badness {
    pub(crate) refused: u32,
    pub(crate) delay_max_ms: u64,
    /// A connection breaks after at most so many frames in one direction.
    pub(crate) frames_max: u32,
    /// Parts of frames that stall for seconds.
    pub(crate) stalled: u32,
}

#[derive(Debug)]
struct State {
    badness: Badness,
    rng: fastrand::Rng,
    server: Option<IngestServiceServer<Ingest>>,
    /// Ends all connections that are open.
    cut: Arc<Cut>,
}

/// The end of connections. All who wait for it hear of it in the order in which they came; a watch
/// channel would wake them in any order.
#[derive(Debug, Default)]
struct Cut {
    is_cut: AtomicBool,
    waiting: Notify,
}

impl Cut {
    fn cut(&self) {
        self.is_cut.store(true, Ordering::Relaxed);
        self.waiting.notify_waiters();
    }

    async fn wait(&self) {
        let heard = self.waiting.notified();
        if !self.is_cut.load(Ordering::Relaxed) {
            heard.await;
        }
    }
}

/// The way.
#[derive(Debug, Clone)]
pub(crate) struct Wire {
    state: Arc<Mutex<State>>,
    /// Whether it does harm.
    is_bad: Arc<AtomicBool>,
}

/// One direction of one connection.
struct Lane {
    wire: Wire,
    frames_left: Option<u32>,
    broken: Arc<Cut>,
    cut: Arc<Cut>,
}

impl Wire {
    pub(crate) fn new(badness: Badness, seed: u64) -> Self {
        let state = State {
            badness,
            rng: fastrand::Rng::with_seed(seed),
            server: None,
            cut: Arc::default(),
        };
        Self {
            state: Arc::new(Mutex::new(state)),
            is_bad: Arc::new(AtomicBool::new(true)),
        }
    }

    pub(crate) fn mend(&self) {
        self.is_bad.store(false, Ordering::Relaxed);
        self.cut_all();
    }

    pub(crate) fn connect(&self, server: Option<Ingest>) {
        self.state.lock().unwrap().server = server.map(IngestServiceServer::new);
    }

    pub(crate) fn cut_all(&self) {
        let mut state = self.state.lock().unwrap();
        std::mem::take(&mut state.cut).cut();
    }

    fn chance(&self, of: impl Fn(&Badness) -> u32) -> bool {
        let mut state = self.state.lock().unwrap();
        let part = of(&state.badness);
        let drawn = state.rng.u32(0..1_000) < part;
        drawn && self.is_bad.load(Ordering::Relaxed)
    }

    fn delay(&self) -> Duration {
        if !self.is_bad.load(Ordering::Relaxed) {
            return Duration::ZERO;
        }
        let mut state = self.state.lock().unwrap();
        let (max, stalled) = (state.badness.delay_max_ms, state.badness.stalled);
        let stalls = state.rng.u32(0..1_000) < stalled;
        Duration::from_millis(match stalls {
            true => state.rng.u64(1_000..20_000),
            false => state.rng.u64(0..=max),
        })
    }

    /// One call: a connection of its own.
    async fn call(self, request: http::Request<Body>) -> Result<http::Response<Body>, Status> {
        let broken = Arc::<Cut>::default();
        let (server, lanes) = {
            let mut state = self.state.lock().unwrap();
            let server = state
                .server
                .clone()
                .ok_or_else(|| Status::unavailable("nobody listens"))?;
            let is_bad = self.is_bad.load(Ordering::Relaxed);
            let max = state.badness.frames_max;
            let lanes = [(), ()].map(|()| Lane {
                wire: self.clone(),
                frames_left: is_bad.then(|| state.rng.u32(0..max)),
                broken: Arc::clone(&broken),
                cut: Arc::clone(&state.cut),
            });
            (server, lanes)
        };
        let [up, down] = lanes;
        let (parts, body) = request.into_parts();
        let mut request = http::Request::from_parts(parts, up.carry(body));
        request.extensions_mut().insert(Caller::Local);
        let mut server = server;
        let answered = server.call(request).await;
        let (parts, body) = match answered {
            Ok(response) => response.into_parts(),
            Err(never) => match never {},
        };
        Ok(http::Response::from_parts(parts, down.carry(body)))
    }
}

impl Lane {
    fn carry(mut self, mut body: Body) -> Body {
        let (sender, receiver) = mpsc::channel(ON_THE_WAY_MAX);
        tokio::spawn(async move {
            let broke = loop {
                let frame = tokio::select! {
                    biased;
                    () = self.cut.wait() => break true,
                    () = self.broken.wait() => break true,
                    frame = body.frame() => frame,
                };
                let Some(frame) = frame else { break false };
                let delay = self.wire.delay();
                tokio::select! {
                    biased;
                    () = self.cut.wait() => break true,
                    () = self.broken.wait() => break true,
                    () = tokio::time::sleep(delay) => {}
                }
                match &mut self.frames_left {
                    Some(0) => break true,
                    Some(left) => *left -= 1,
                    None => {}
                }
                if sender.send(frame).await.is_err() {
                    break true;
                }
            };
            if broke {
                self.broken.cut();
                drop(
                    sender
                        .send(Err(Status::unavailable("the line broke")))
                        .await,
                );
            }
        });
        Body::new(StreamBody::new(ReceiverStream::new(receiver)))
    }
}

#[tonic::async_trait]
impl Dial for Wire {
    async fn dial(&self) -> Result<Line, StreamError> {
        tokio::time::sleep(self.delay()).await;
        if self.chance(|badness| badness.refused) {
            return Err(Status::unavailable("the dial was refused").into());
        }
        let wire = self.clone();
        Ok(BoxCloneSyncService::new(tower::service_fn(
            move |request| wire.clone().call(request),
        )))
    }

    fn url(&self) -> &str {
        "memory"
    }
}
