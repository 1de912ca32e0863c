//! The way to the aggregator: over the network, or whatever a test puts in its place.

use std::fmt::Debug;
use std::time::Duration;

use plimsoll_proto::dial::{self, Credentials};
use tonic::Status;
use tonic::body::Body;
use tower::ServiceExt as _;
use tower::util::BoxCloneSyncService;

use super::StreamError;

const CONNECT_MAX: Duration = Duration::from_secs(5);
const KEEPALIVE_EVERY: Duration = Duration::from_secs(10);
const KEEPALIVE_WAIT: Duration = Duration::from_secs(5);

/// An open way, over which calls go.
pub type Line = BoxCloneSyncService<http::Request<Body>, http::Response<Body>, Status>;

/// Opens ways to the aggregator.
#[tonic::async_trait]
pub trait Dial: Debug + Send + Sync {
    /// Opens a way.
    async fn dial(&self) -> Result<Line, StreamError>;

    /// Returns what the way leads to, for the log.
    fn url(&self) -> &str;
}

/// Dials over the network.
#[derive(Debug, Clone)]
pub struct Network {
    /// Where the aggregator listens.
    pub url: String,
    /// What the agent identifies itself with; absent where there is no TLS.
    pub credentials: Option<Credentials>,
}

#[tonic::async_trait]
impl Dial for Network {
    async fn dial(&self) -> Result<Line, StreamError> {
        let endpoint = dial::endpoint(&self.url, self.credentials.as_ref())?
            .connect_timeout(CONNECT_MAX)
            .http2_keep_alive_interval(KEEPALIVE_EVERY)
            .keep_alive_timeout(KEEPALIVE_WAIT)
            .keep_alive_while_idle(true)
            .tcp_nodelay(true);
        let url = self.url.clone();
        let channel = endpoint
            .connect()
            .await
            .map_err(|source| StreamError::Unreachable { url, source })?;
        Ok(BoxCloneSyncService::new(
            channel.map_err(|error| Status::from_error(Box::new(error))),
        ))
    }

    fn url(&self) -> &str {
        &self.url
    }
}
