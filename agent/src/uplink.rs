//! The uplink: sends what is in the spool and deletes what is acknowledged. One stream at a time.
//!
//! It makes no samples and judges none; what the aggregator refuses becomes a gap.

mod dial;
mod pace;
mod stream;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::Duration;

use plimsoll_model::{Clock, NodeId, SessionId};
use plimsoll_proto::dial::DialError;
use plimsoll_proto::v1::ingest_service_client::IngestServiceClient;
use tokio::sync::watch;
use tonic_types::StatusExt as _;

use crate::chain::chain;
use crate::spool::Spool;
pub use dial::{Dial, Line, Network};

const BACKOFF_MIN: Duration = Duration::from_millis(500);
const BACKOFF_MAX: Duration = Duration::from_secs(30);
const HEALTHY: Duration = Duration::from_secs(60);
/// An aggregator that says when to come again is not believed beyond this.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(600);

/// The spool, shared by the sampler, which writes, and the uplink, which reads.
#[derive(Debug, Clone)]
pub struct SharedSpool {
    spool: Arc<Mutex<Spool>>,
    /// Whether work is done where it is asked for.
    at_once: bool,
}

impl SharedSpool {
    /// Shares a spool.
    pub fn new(spool: Spool) -> Self {
        Self {
            spool: Arc::new(Mutex::new(spool)),
            at_once: false,
        }
    }

    /// Shares a spool whose work is done where it is asked for, so that a simulation takes the same course
    /// each time.
    pub fn at_once(spool: Spool) -> Self {
        Self {
            at_once: true,
            ..Self::new(spool)
        }
    }

    /// Locks it; a thread that panicked leaves it usable, since its files are the truth.
    pub fn lock(&self) -> MutexGuard<'_, Spool> {
        self.spool.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does work that waits for no disk where it is asked for, unless somebody else works on the spool: to hand
    /// it to another thread costs more than most of it.
    pub async fn quickly<T, F>(&self, work: F) -> Option<T>
    where
        T: Send + 'static,
        F: FnOnce(&mut Spool) -> T + Send + 'static,
    {
        match self.at_hand(work) {
            Ok(done) => Some(done),
            Err(work) => self.with(work).await,
        }
    }

    /// Works on it unless somebody else does; gives the work back then.
    fn at_hand<T, F: FnOnce(&mut Spool) -> T>(&self, work: F) -> Result<T, F> {
        match self.spool.try_lock() {
            Ok(mut spool) => Ok(work(&mut spool)),
            Err(TryLockError::Poisoned(poisoned)) => Ok(work(&mut poisoned.into_inner())),
            Err(TryLockError::WouldBlock) => Err(work),
        }
    }

    /// Works on it where waiting for a disk holds up nobody; absent if the work was cut off.
    pub async fn with<T, F>(&self, work: F) -> Option<T>
    where
        T: Send + 'static,
        F: FnOnce(&mut Spool) -> T + Send + 'static,
    {
        if self.at_once {
            return Some(work(&mut self.lock()));
        }
        let shared = self.clone();
        let done = tokio::task::spawn_blocking(move || work(&mut shared.lock())).await;
        done.map_err(|error| tracing::error!(%error, "work on the spool was cut off"))
            .ok()
    }
}

/// What the uplink needs.
#[derive(Debug, Clone)]
pub struct Uplink {
    /// The way to the aggregator.
    pub way: Arc<dyn Dial>,
    /// The node, told where there is no certificate to tell it.
    pub node: NodeId,
    /// What is sent.
    pub spool: SharedSpool,
    /// Tells the time.
    pub clock: Arc<dyn Clock>,
    /// Grows whenever a batch was added.
    pub added: watch::Receiver<u64>,
    /// The latest values, for the live lane.
    pub latest: crate::sampler::Latest,
}

/// Why a stream ended.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// The URL or the certificates cannot be used.
    #[error("`aggregator` or `[tls]` cannot be used")]
    Dial(#[from] DialError),
    /// Nobody answers.
    #[error(
        "cannot reach the aggregator at {url}; start it, or correct `aggregator` in the configuration"
    )]
    Unreachable {
        /// The URL.
        url: String,
        /// Why.
        #[source]
        source: tonic::transport::Error,
    },
    /// The aggregator ended the stream.
    #[error("the aggregator ended the stream: {}: {}", .0.code(), .0.message())]
    Ended(Box<tonic::Status>),
    /// The aggregator does not answer in time.
    #[error("the aggregator does not answer the greeting")]
    Silent,
    /// The session has parted from its twin and goes on under a new name.
    #[error("another agent sends the same session; this one goes on under a new one")]
    Forked,
    /// The aggregator said what the protocol does not allow.
    #[error("the aggregator broke the protocol: {0}")]
    Protocol(&'static str),
}

impl From<tonic::Status> for StreamError {
    fn from(status: tonic::Status) -> Self {
        Self::Ended(Box::new(status))
    }
}

impl Uplink {
    /// Sends until it is dropped.
    pub async fn run(mut self) {
        let mut backoff = BACKOFF_MIN;
        let mut told: Option<String> = None;
        loop {
            let began = self.clock.monotonic();
            let mut welcomed = false;
            let error = match self.turns(&mut welcomed, &mut told).await {
                Ok(()) => continue,
                Err(StreamError::Ended(status)) if is_of_age(&status) => {
                    tracing::debug!("the connection was as old as it may become");
                    tokio::time::sleep(BACKOFF_MIN.mul_f64(fastrand::f64())).await;
                    continue;
                }
                Err(error) => error,
            };
            let text = chain(&error);
            let class = error.to_string();
            if told.as_ref() == Some(&class) {
                tracing::debug!(error = text, "the aggregator is still away");
            } else {
                tracing::warn!(
                    error = text,
                    "samples are kept in the spool until the aggregator takes them"
                );
                told = Some(class);
            }
            if welcomed && self.clock.monotonic().since(began) >= HEALTHY {
                backoff = BACKOFF_MIN;
            }
            let wait = patience(&error, backoff);
            backoff = (backoff * 2).min(BACKOFF_MAX);
            tokio::time::sleep(wait).await;
        }
    }

    /// Sends the oldest session; the others follow with turns of their own.
    async fn turns(
        &mut self,
        welcomed: &mut bool,
        told: &mut Option<String>,
    ) -> Result<(), StreamError> {
        let url = self.way.url().to_owned();
        let client = IngestServiceClient::new(self.way.dial().await?);
        loop {
            let sessions: Vec<SessionId> = self
                .spool
                .with(|spool| spool.sessions())
                .await
                .unwrap_or_default();
            let Some((first, _)) = sessions.split_first() else {
                return Err(StreamError::Protocol("there is no session to send"));
            };
            let mut on_welcome = || {
                if !*welcomed || told.is_some() {
                    tracing::info!(url, "connected to the aggregator");
                }
                *welcomed = true;
                *told = None;
            };
            stream::Turn {
                url: &url,
                node: self.node,
                spool: &self.spool,
                clock: self.clock.as_ref(),
                added: &mut self.added,
                latest: &self.latest,
            }
            .run(&client, *first, &mut on_welcome)
            .await?;
        }
    }
}

/// Whether the aggregator ended the stream only because it is old; that is no trouble.
fn is_of_age(status: &tonic::Status) -> bool {
    status.code() == tonic::Code::Unavailable && status.message().starts_with("AGED")
}

/// Returns how long to wait: anything up to the backoff, so that a fleet does not come at once; as long as
/// the aggregator asks for, and at least a minute where trying again soon cannot help.
fn patience(error: &StreamError, backoff: Duration) -> Duration {
    let jittered = backoff.mul_f64(fastrand::f64());
    match error {
        StreamError::Ended(status)
            if matches!(
                status.code(),
                tonic::Code::Unauthenticated | tonic::Code::PermissionDenied
            ) =>
        {
            Duration::from_secs(60) + jittered
        }
        StreamError::Ended(status) => {
            let asked = status
                .get_details_retry_info()
                .and_then(|info| info.retry_delay);
            let asked = asked.unwrap_or_default().min(RETRY_AFTER_MAX);
            (asked + jittered).max(Duration::from_millis(50))
        }
        _ => jittered.max(Duration::from_millis(50)),
    }
}
