//! The aggregator's command line.

use std::io::{IsTerminal as _, Write as _};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::{Parser, Subcommand};
use plimsoll_aggregator::config::{Config, ConfigError, DEFAULT_TEXT};
use plimsoll_aggregator::guard::pki;
use plimsoll_aggregator::guard::turnstile::service_threads;
use plimsoll_aggregator::serve::serve;
use plimsoll_model::text::one_line;
use plimsoll_model::{Clock as _, NodeId, SystemClock};
use plimsoll_store::{Store, StoreOptions};
use tracing_subscriber::EnvFilter;

// After a seal the memory of what was sealed goes back to the system within seconds, also where nothing
// more is allocated. How fast is said in .cargo/config.toml.
#[global_allocator]
static MEMORY: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Exit code of flags that are not taken.
const EXIT_USAGE: u8 = 2;
/// Exit code of a configuration that is not taken (sysexits.h, EX_CONFIG).
const EXIT_CONFIG: u8 = 78;

#[derive(Debug, Parser)]
#[command(
    name = "plimsoll-aggregator",
    version,
    about = "Keeps what agents see and answers planners"
)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve until SIGINT or SIGTERM.
    Run(Settings),
    /// Read the configuration, print what is in force, and exit: 0 good, 78 bad.
    CheckConfig(Settings),
    /// Work with configurations.
    #[command(subcommand)]
    Config(ConfigCommand),
    /// The same as `config default`, as it was called once.
    #[command(hide = true)]
    DefaultConfig,
    /// Look after a store that no aggregator has open.
    #[command(subcommand)]
    Store(StoreCommand),
    /// Make certificates for a small site.
    Pki {
        /// What to make.
        #[command(subcommand)]
        make: Pki,
    },
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Print the commented default configuration.
    Default,
}

#[derive(Debug, Subcommand)]
enum StoreCommand {
    /// Verify every checksum: 0 whole, 1 damaged.
    Check {
        /// Directory of the store.
        dir: PathBuf,
    },
    /// Print everything that is whole, one thing a line.
    Dump {
        /// Directory of the store.
        dir: PathBuf,
    },
    /// Move what the log holds into sealed files and merge those, as before a copy is made.
    Seal {
        /// Directory of the store.
        dir: PathBuf,
    },
    /// Remove the index and make it anew from the rest.
    RebuildIndex {
        /// Directory of the store.
        dir: PathBuf,
    },
}

#[derive(Debug, Subcommand)]
enum Pki {
    /// Make an authority: DIR/ca.pem and DIR/ca.key.
    Init {
        /// Where the files go; made if it is not there.
        dir: PathBuf,
        /// Name of the site, the first part of every name the authority signs.
        #[arg(long, default_value = "plimsoll")]
        trust_domain: String,
    },
    /// Make one certificate and its key, signed by the authority in DIR.
    Issue {
        /// Where the authority is and the files go.
        dir: PathBuf,
        /// For whom.
        #[command(flatten)]
        holder: Holder,
        /// How long it is good, in days.
        #[arg(long, default_value_t = 397)]
        days: u32,
    },
}

#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
struct Holder {
    /// The agent of a node, by the node's UUID.
    #[arg(long)]
    node: Option<NodeId>,
    /// A planner, by name.
    #[arg(long)]
    planner: Option<String>,
    /// An operator, by name.
    #[arg(long)]
    operator: Option<String>,
    /// Those of a project, by the id that Nova writes into the metadata of its domains.
    #[arg(long, value_name = "PROJECT")]
    tenant: Option<String>,
    /// The aggregator, by the host names and addresses it is reached at.
    #[arg(long, num_args = 1..)]
    server: Vec<String>,
}

impl From<Holder> for pki::Holder {
    fn from(holder: Holder) -> Self {
        let Holder {
            node,
            planner,
            operator,
            tenant,
            server,
        } = holder;
        node.map(Self::Node)
            .or(planner.map(Self::Planner))
            .or(operator.map(Self::Operator))
            .or(tenant.map(Self::Tenant))
            .unwrap_or(Self::Server(server))
    }
}

#[derive(Debug, clap::Args)]
struct Settings {
    /// Configuration file; without it the defaults are in force.
    #[arg(long)]
    config: Option<PathBuf>,
    /// Address and port to serve on.
    #[arg(long)]
    listen: Option<SocketAddr>,
    /// Directory of the store.
    #[arg(long)]
    data_dir: Option<PathBuf>,
    /// Serve beyond loopback without TLS, on a network where every machine is trusted.
    #[arg(long)]
    allow_plaintext_listen: bool,
    /// Interval the agents sample at, such as 10s.
    #[arg(long, value_parser = humantime::parse_duration)]
    interval: Option<Duration>,
}

impl Settings {
    fn config(self) -> Result<Config, ConfigError> {
        Config::load(self.config.as_deref(), |config| {
            config.listen = self.listen.unwrap_or(config.listen);
            config.data_dir = self.data_dir.unwrap_or_else(|| config.data_dir.clone());
            config.allow_plaintext_listen |= self.allow_plaintext_listen;
            config.interval = self.interval.unwrap_or(config.interval);
        })
    }
}

fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) if error.use_stderr() => {
            let text = one_line(&error.to_string());
            complain(&format!("{text}; see --help"));
            return ExitCode::from(EXIT_USAGE);
        }
        Err(help) => {
            return help
                .print()
                .map_or(ExitCode::FAILURE, |()| ExitCode::SUCCESS);
        }
    };
    match run(args.command) {
        Ok(code) => code,
        Err(error) => {
            let bad_config = error.downcast_ref::<ConfigError>().is_some();
            complain(&format!("{error:#}"));
            ExitCode::from(if bad_config { EXIT_CONFIG } else { 1 })
        }
    }
}

fn complain(text: &str) {
    // Nowhere is left to say that standard error is closed.
    drop(writeln!(
        std::io::stderr().lock(),
        "plimsoll-aggregator: {text}"
    ));
}

fn run(command: Command) -> anyhow::Result<ExitCode> {
    let mut out = std::io::stdout().lock();
    match command {
        Command::Config(ConfigCommand::Default) | Command::DefaultConfig => {
            write!(out, "{DEFAULT_TEXT}")?
        }
        Command::CheckConfig(settings) => write!(out, "{}", toml::to_string(&settings.config()?)?)?,
        Command::Store(command) => return look_after(&command, &mut out),
        Command::Pki { make } => {
            let now = SystemClock::new().now();
            let written = match make {
                Pki::Init { dir, trust_domain } => pki::init(&dir, &trust_domain, now)?,
                Pki::Issue { dir, holder, days } => pki::issue(&dir, &holder.into(), days, now)?,
            };
            writeln!(out, "certificate {}", written.certificate.display())?;
            writeln!(out, "key         {}", written.key.display())?;
        }
        Command::Run(settings) => {
            let config = settings.config()?;
            let filter = EnvFilter::try_from_default_env()
                .unwrap_or_else(|_| EnvFilter::new("info,async_snmp=off"));
            tracing_subscriber::fmt()
                .with_env_filter(filter)
                .with_ansi(std::io::stderr().is_terminal())
                .with_writer(std::io::stderr)
                .init();
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(service_threads())
                .enable_all()
                .build()?;
            runtime.block_on(serve(&config, Arc::new(SystemClock::new()), told_to_end()))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn look_after(command: &StoreCommand, out: &mut impl std::io::Write) -> anyhow::Result<ExitCode> {
    match command {
        StoreCommand::Check { dir } => {
            let report = plimsoll_store::check(dir)?;
            writeln!(out, "{report:#?}")?;
            if !report.holes.is_empty() {
                return Ok(ExitCode::FAILURE);
            }
        }
        StoreCommand::Dump { dir } => plimsoll_store::dump(dir, out)?,
        StoreCommand::Seal { dir } => {
            let (store, _) = Store::open(dir, StoreOptions::default())?;
            let sealed = store.seal()?;
            let merged = store.merge_all()?;
            writeln!(out, "sealed {sealed} samples, merged {merged} files")?;
        }
        StoreCommand::RebuildIndex { dir } => {
            writeln!(out, "{:#?}", plimsoll_store::rebuild_index(dir)?)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn told_to_end() {
    use tokio::signal::unix::{SignalKind, signal};
    let Ok(mut terminate) = signal(SignalKind::terminate()) else {
        return;
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = tokio::signal::ctrl_c() => {}
    }
}
