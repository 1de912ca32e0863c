//! The helper's side of the socket: one errand at a time, within the budget of its domain.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use plimsoll_libvirt::{CallError, Connection, OpenOptions};
use plimsoll_model::Clock;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Mutex, Semaphore};

use super::{Budget, Errand};
use crate::chain::chain;
use crate::measure::{self, Measured, Sampling, WINDOW_MIN};

/// Callers that are heard at once; others wait to be accepted.
const CALLERS_MAX: usize = 8;
/// Longest wait for a caller's line.
const LINE_MAX: Duration = Duration::from_secs(2);
/// Hung calls of libvirt with which no more are made.
const HUNG_MAX: usize = 2;

/// What the helper works with.
#[derive(Debug)]
pub struct Door {
    /// Libvirt's socket for writing.
    pub libvirt: PathBuf,
    /// How pages are sampled.
    pub sampling: Sampling,
    /// Longest wait for one answer of libvirt.
    pub deadline: Duration,
    /// Tells the time.
    pub clock: Arc<dyn Clock>,
}

/// What one errand needs to itself.
struct Desk {
    connection: Option<Connection>,
    budget: Budget,
}

/// Serves callers until it is dropped.
///
/// # Errors
/// If nobody can be accepted any more.
pub async fn serve(listener: UnixListener, door: Door, budget: Budget) -> io::Result<()> {
    let places = Arc::new(Semaphore::new(CALLERS_MAX));
    let desk = Arc::new(Mutex::new(Desk {
        connection: None,
        budget,
    }));
    let door = Arc::new(door);
    loop {
        let place = Arc::clone(&places).acquire_owned().await;
        let (mut stream, _) = listener.accept().await?;
        let (door, desk) = (Arc::clone(&door), Arc::clone(&desk));
        tokio::spawn(async move {
            let answer = door.hear(&mut stream, &desk).await;
            // A caller that has gone needs no answer.
            drop(stream.write_all(super::render(&answer).as_bytes()).await);
            drop(place);
        });
    }
}

impl Door {
    async fn hear(&self, stream: &mut UnixStream, desk: &Mutex<Desk>) -> Result<Measured, String> {
        let line = tokio::time::timeout(LINE_MAX, super::line(stream)).await;
        let line = line.ok().and_then(Result::ok).unwrap_or_default();
        let Some(errand) = Errand::parse(&line).filter(|errand| errand.window >= WINDOW_MIN) else {
            return Err(
                "write a UUID, a blank and a window in milliseconds, 50 or more".to_owned(),
            );
        };
        let Ok(mut desk) = desk.try_lock() else {
            return Err("another measurement is under way".to_owned());
        };
        let now = self.clock.monotonic();
        if let Err(wait) = desk.budget.book(errand.uuid, errand.window, now) {
            let seconds = wait.as_secs().max(1);
            return Err(format!(
                "this domain was measured enough; ask again in {seconds} s"
            ));
        }
        self.run(&mut desk, &errand).await
    }

    async fn run(&self, desk: &mut Desk, errand: &Errand) -> Result<Measured, String> {
        let connection = match self.connect(desk).await {
            Ok(connection) => connection,
            Err(error) => return Err(chain(&error)),
        };
        if connection.abandoned_calls() >= HUNG_MAX {
            return Err("libvirt does not answer".to_owned());
        }
        let known = connection.domain_lookup_by_uuid(errand.uuid, self.deadline);
        let domain = known.await.map_err(|error| chain(&error))?;
        let order = measure::Order {
            domain: &domain,
            window: errand.window,
            sampling: self.sampling,
            deadline: self.deadline,
        };
        let measured = measure::measure(&connection, &order).await;
        match &measured {
            Ok(measured) => {
                tracing::info!(%domain, window_ms = errand.window.as_millis(), rate = %measured.rate, "measured")
            }
            Err(error) => tracing::info!(%domain, error = chain(error), "not measured"),
        }
        measured.map_err(|error| chain(&error))
    }

    /// Takes the connection that is open, or opens one; never a second beside one that lives.
    async fn connect(&self, desk: &mut Desk) -> Result<Connection, CallError> {
        if let Some(connection) = desk.connection.as_ref().filter(|one| one.ended().is_none()) {
            return Ok(connection.clone());
        }
        let options = OpenOptions {
            read_only: false,
            ..OpenOptions::default()
        };
        let connection = Connection::open(&self.libvirt, options).await?;
        desk.connection = Some(connection.clone());
        Ok(connection)
    }
}
