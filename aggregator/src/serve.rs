//! Puts the house together: store, writer, services, reflection and health, until it is told to end.

use std::future::Future;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use plimsoll_model::Clock;
use plimsoll_proto::v1::estimate_service_server::EstimateServiceServer;
use plimsoll_proto::v1::ingest_service_server::IngestServiceServer;
use plimsoll_proto::v1::planner_service_server::PlannerServiceServer;
use plimsoll_proto::v1::query_service_server::QueryServiceServer;
use plimsoll_store::{OpenError, Store, Upkeep};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Server;
use tonic::transport::server::Router;
use tower::layer::util::{Identity, Stack};

use crate::advise::Advise;
use crate::config::{Config, ConfigError};
use crate::credit::Credits;
use crate::forecast::Forecast;
use crate::guard::calls::{BEYOND, Calls, HEADERS_MAX, MESSAGE_BYTES_MAX, STREAMS_MAX};
use crate::guard::door::Door;
use crate::guard::memory::{Ceiling, Scarcity};
use crate::guard::rules::Rules;
use crate::guard::tls::{Current, TlsError};
use crate::guard::turnstile::Turnstile;
use crate::ingest::{Greetings, Ingest, Nursery};
use crate::known::Known;
use crate::lessons::Learned;
use crate::metrics;
use crate::query::Query;
use crate::traps::{self, Sender};
use crate::witness::Witness;
use crate::writer::Writer;

/// How often the store seals and forgets what is due.
pub(crate) const UPKEEP: Duration = Duration::from_secs(5);
/// How long open calls may go on after the aggregator was told to end.
const DRAIN: Duration = Duration::from_secs(2);
/// Time that calls under way have when their connection is too old.
const AGE_GRACE: Duration = Duration::from_secs(30);
/// Bytes that one connection, or one call, may send before they are taken; a caller who is not heard out
/// costs no more.
const WINDOW_BYTES: u32 = 256 << 10;

/// Why the aggregator cannot serve, or served no longer.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// A value of the configuration cannot be.
    #[error("the configuration cannot be used")]
    Config(#[from] ConfigError),
    /// The certificates cannot be used.
    #[error("TLS cannot begin")]
    Tls(#[from] TlsError),
    /// The store does not open.
    #[error("cannot open the store in {}", dir.display())]
    Store {
        /// Its directory.
        dir: PathBuf,
        /// Why.
        #[source]
        source: OpenError,
    },
    /// The address cannot be bound.
    #[error("cannot listen on {address}; is another aggregator running?")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The thread that writes cannot be started.
    #[error("cannot start the writer")]
    Writer(#[source] std::io::Error),
    /// Nothing can be written any more.
    #[error(
        "the writer has ended; what was acknowledged is kept, and a restart goes on from there"
    )]
    WriterGone,
    /// The threads that answer questions cannot be started.
    #[error("cannot start the threads for questions")]
    Threads(#[source] std::io::Error),
    /// The engine that sends traps has no state.
    #[error("no traps can be sent")]
    Traps(#[from] plimsoll_proto::snmp_engine::EngineError),
    /// The services cannot be described to those who ask.
    #[error("cannot offer reflection")]
    Reflection(#[from] tonic_reflection::server::Error),
    /// The server broke off.
    #[error("the server failed")]
    Server(#[from] tonic::transport::Error),
}

/// Serves until `stop` is ready; then closes streams and seals nothing more.
///
/// # Errors
/// If a part cannot be opened or bound, or the server breaks off.
pub async fn serve(
    config: &Config,
    clock: Arc<dyn Clock>,
    stop: impl Future<Output = ()> + Send + 'static,
) -> Result<(), ServeError> {
    let tls = match &config.tls {
        Some(files) => Some(Arc::new(Current::load(files.clone())?)),
        None => None,
    };
    let store = open(config)?;
    let assumed = config.bandwidth()?;
    let known = Known {
        store: Arc::clone(&store),
        roster: Arc::default(),
        clock: Arc::clone(&clock),
        interval: config.interval,
        learned: Learned::default(),
        ledger: Arc::default(),
        met: Arc::default(),
    };
    let guarded = guarded(config, tls.clone(), &known)?;
    let (writer, thread) = Writer::start(Arc::clone(&store)).map_err(ServeError::Writer)?;
    let gone = writer.clone().gone();
    let witness = Arc::new(Witness::new(known.clone(), assumed));
    let ingest = ingest(config, (&known, &witness), writer, &guarded.ceiling);
    let mut beside = beside(config, &known, (&witness, &guarded.ceiling))?;
    beside.spawn(Arc::clone(&guarded.ceiling).follow());
    if let Some(current) = tls.clone() {
        beside.spawn(current.follow());
    }
    let lines = guarded.door.open(bind(config).await?);
    let (told, mut stopping) = tokio::sync::watch::channel(false);
    let drained = told.subscribe();
    tokio::spawn(async move {
        stop.await;
        told.send_replace(true);
    });
    let advise = Advise::new(config, &known, &witness, assumed);
    let forecast = Forecast {
        known: known.clone(),
        witness,
        assumed,
    };
    let builder = builder(config.connection_age_max)
        .layer(guarded.calls)
        .layer(guarded.rules)
        .layer(guarded.turnstile);
    let server = services(builder, ingest, (Query { known }, forecast, advise))
        .await?
        .serve_with_incoming_shutdown(ReceiverStream::new(lines), async move {
            stopping.wait_for(|told| *told).await.ok();
        });
    let whole = tokio::select! {
        whole = until_drained(server, drained) => whole?,
        // Half alive it would refuse every sample for ever.
        () = gone => return Err(ServeError::WriterGone),
    };
    drop(beside);
    if whole {
        // A writer that ended badly has poisoned the store and said so; what was acknowledged is kept.
        drop(tokio::task::spawn_blocking(move || thread.join()).await);
    }
    Ok(())
}

fn ingest(
    config: &Config,
    (known, witness): (&Known, &Arc<Witness>),
    writer: Writer,
    ceiling: &Arc<Ceiling>,
) -> Ingest {
    let (store, met, clock) = (&known.store, &known.met, &known.clock);
    Ingest {
        store: Arc::clone(store),
        writer,
        roster: Arc::clone(&known.roster),
        witness: Arc::clone(witness),
        clock: Arc::clone(clock),
        met: Arc::clone(met),
        ceiling: Arc::clone(ceiling),
        age_max: config.connection_age_max,
        credits: Credits::default(),
        nursery: Nursery::new(Arc::clone(store), Arc::clone(met), Arc::clone(clock)),
        greetings: Greetings::default(),
    }
}

/// Starts what goes on beside the server; it ends when it is dropped.
fn beside(
    config: &Config,
    known: &Known,
    (witness, ceiling): (&Arc<Witness>, &Arc<Ceiling>),
) -> Result<JoinSet<()>, ServeError> {
    let mut beside = JoinSet::new();
    let (store, clock) = (Arc::clone(&known.store), Arc::clone(&known.clock));
    let upkeep = keep(store, (Arc::clone(witness), Arc::clone(ceiling)), clock);
    beside.spawn(upkeep);
    scrapes(config, known.clone(), &mut beside)?;
    warn(config, known, &mut beside)?;
    Ok(beside)
}

/// The parts of the guard.
struct Guarded {
    door: Door,
    calls: Calls,
    rules: Rules,
    turnstile: Turnstile,
    ceiling: Arc<Ceiling>,
}

fn guarded(
    config: &Config,
    tls: Option<Arc<Current>>,
    known: &Known,
) -> Result<Guarded, ServeError> {
    let ceiling = Arc::new(Ceiling::new(config.memory_max()?));
    ceiling.look();
    let (met, clock) = (Arc::clone(&known.met), Arc::clone(&known.clock));
    let turnstile = Turnstile::new(Arc::clone(&ceiling), Arc::clone(&met), Arc::clone(&clock));
    Ok(Guarded {
        door: Door::new(tls, Arc::clone(&met), Arc::clone(&clock)),
        calls: Calls {
            met: Arc::clone(&met),
            clock: Arc::clone(&clock),
        },
        rules: Rules { met, clock },
        turnstile: turnstile.map_err(ServeError::Threads)?,
        ceiling,
    })
}

/// HTTP/2's own bound, behind ours.
fn twice(max: usize) -> u32 {
    u32::try_from(max)
        .unwrap_or(u32::MAX)
        .saturating_mul(BEYOND)
}

/// Sets what one connection may do, and how long it may live.
fn builder(age_max: Duration) -> Server {
    Server::builder()
        .http2_keepalive_interval(Some(Duration::from_secs(10)))
        .http2_keepalive_timeout(Some(Duration::from_secs(5)))
        .max_concurrent_streams(Some(twice(STREAMS_MAX)))
        .initial_connection_window_size(Some(WINDOW_BYTES))
        .initial_stream_window_size(Some(WINDOW_BYTES))
        .http2_max_header_list_size(Some(twice(HEADERS_MAX)))
        // Streams of samples end by themselves a little before, each at its own time.
        .max_connection_age(age_max.mul_f64(1.1))
        .max_connection_age_grace(AGE_GRACE)
}

type Guards = Stack<Turnstile, Stack<Rules, Stack<Calls, Identity>>>;

/// Puts the services behind the table of who may call what, and questions behind the turnstile.
async fn services(
    mut builder: Server<Guards>,
    ingest: Ingest,
    (query, forecast, advise): (Query, Forecast, Advise),
) -> Result<Router<Guards>, ServeError> {
    let (health, health_service) = tonic_health::server::health_reporter();
    tell_healthy(&health).await;
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(plimsoll_proto::DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let query = QueryServiceServer::new(query).max_encoding_message_size(MESSAGE_BYTES_MAX);
    let advise = PlannerServiceServer::new(advise).max_encoding_message_size(MESSAGE_BYTES_MAX);
    let forecast =
        EstimateServiceServer::new(forecast).max_encoding_message_size(MESSAGE_BYTES_MAX);
    Ok(builder
        .add_service(health_service)
        .add_service(reflection().build_v1()?)
        .add_service(reflection().build_v1alpha()?)
        .add_service(IngestServiceServer::new(ingest).max_decoding_message_size(MESSAGE_BYTES_MAX))
        .add_service(query)
        .add_service(advise)
        .add_service(forecast))
}

/// Binds the address, and says which one it became where the port was the system's choice.
async fn bind(config: &Config) -> Result<TcpListener, ServeError> {
    let address = config.listen;
    let failed = |source| ServeError::Listen { address, source };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    tracing::info!(
        listen = %listener.local_addr().map_err(failed)?,
        data_dir = %config.data_dir.display(),
        tls = config.tls.is_some(),
        "serving"
    );
    Ok(listener)
}

/// Serves `/metrics` where the configuration asks for it.
fn scrapes(config: &Config, known: Known, beside: &mut JoinSet<()>) -> Result<(), ConfigError> {
    if let Some(listen) = config.metrics_address()? {
        beside.spawn(async move {
            if let Err(error) = metrics::serve(listen, known).await {
                tracing::error!(error = %error, %listen, "cannot serve /metrics; everything else goes on");
            }
        });
    }
    Ok(())
}

/// Sends traps where the configuration asks for them.
fn warn(config: &Config, known: &Known, beside: &mut JoinSet<()>) -> Result<(), ServeError> {
    if let Some(told) = &config.traps {
        let clock = Arc::clone(&known.clock);
        let sender = Sender::new(told.auth()?, told.to.clone(), &config.data_dir, clock)?;
        let assumed = config.bandwidth()?;
        beside.spawn(traps::run(sender, told.every, known.clone(), assumed));
    }
    Ok(())
}

async fn tell_healthy(health: &tonic_health::server::HealthReporter) {
    health.set_serving::<IngestServiceServer<Ingest>>().await;
    health.set_serving::<QueryServiceServer<Query>>().await;
    health.set_serving::<PlannerServiceServer<Advise>>().await;
    health
        .set_serving::<EstimateServiceServer<Forecast>>()
        .await;
}

/// Runs the server to its end, or for [`DRAIN`] after it was told to end; says whether it ended.
async fn until_drained(
    server: impl Future<Output = Result<(), tonic::transport::Error>>,
    mut told: tokio::sync::watch::Receiver<bool>,
) -> Result<bool, ServeError> {
    let patience = async move {
        told.wait_for(|told| *told).await.ok();
        tokio::time::sleep(DRAIN).await;
    };
    // An agent's stream never ends by itself; what it was not acknowledged it sends again.
    tokio::select! {
        ended = server => Ok(ended.map(|()| true)?),
        () = patience => Ok(false),
    }
}

fn open(config: &Config) -> Result<Arc<Store>, ServeError> {
    let options = config.store_options()?;
    let (store, report) =
        Store::open(&config.data_dir, options).map_err(|source| ServeError::Store {
            dir: config.data_dir.clone(),
            source,
        })?;
    tracing::info!(?report, "store opened");
    Ok(Arc::new(store))
}

async fn keep(
    store: Arc<Store>,
    (witness, ceiling): (Arc<Witness>, Arc<Ceiling>),
    clock: Arc<dyn Clock>,
) {
    let mut ticks = tokio::time::interval(UPKEEP);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut was_read_only = false;
    loop {
        ticks.tick().await;
        if store.is_read_only() != was_read_only {
            was_read_only = store.is_read_only();
            let told = if was_read_only {
                "too little room is left on disk; samples are refused until there is more"
            } else {
                "there is room on disk again; samples are taken"
            };
            tracing::warn!("{told}");
        }
        let (store, witness, now) = (Arc::clone(&store), Arc::clone(&witness), clock.now());
        let is_scarce = ceiling.scarcity() >= Scarcity::Questions;
        let work = move || {
            let done = store.maintain(now);
            witness.close_lost();
            // Nothing else frees memory before its time, and until then samples would be refused.
            if is_scarce {
                store.seal()?;
            }
            done
        };
        match tokio::task::spawn_blocking(work).await {
            Ok(Ok(done)) if done == Upkeep::default() => {}
            Ok(Ok(done)) => tracing::info!(?done, "store kept in order"),
            Ok(Err(error)) => {
                let error: &dyn std::error::Error = &error;
                tracing::error!(error, "the store could not be kept in order");
            }
            Err(error) => tracing::error!(error = %error, "upkeep of the store was cut off"),
        }
    }
}
