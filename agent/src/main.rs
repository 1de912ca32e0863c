//! The agent's command line.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use plimsoll_agent::config::{self, Access, Config, ConfigError, LogFormat, Overrides};
use plimsoll_agent::doctor::{self, Verdict};
use plimsoll_agent::once::Format;
use plimsoll_model::SystemClock;
use plimsoll_model::text::one_line;

/// How long a thread without work is kept: longer than the usual interval, for to begin one costs more than to
/// wake it.
const THREAD_KEPT: Duration = Duration::from_secs(15);
/// Exit code of flags that are not taken.
const EXIT_USAGE: u8 = 2;

/// Samples this node and streams what it saw to an aggregator.
#[derive(Debug, Parser)]
#[command(name = "plimsoll-agent", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Samples and sends until it is told to stop.
    Run(Settings),
    /// Looks once at the host and its guests, and prints what it saw.
    Once {
        /// Form of what is printed.
        #[arg(long, value_enum, default_value_t)]
        format: Format,
        #[command(flatten)]
        settings: Settings,
    },
    /// Says what can and cannot be seen on this node, and how to mend it; exit code 1 if something fails.
    Doctor {
        /// Form of what is printed.
        #[arg(long, value_enum, default_value_t)]
        format: Format,
        #[command(flatten)]
        settings: Settings,
    },
    /// Checks the configuration and prints what is in effect.
    CheckConfig(Settings),
    /// Works with configurations.
    Config {
        #[command(subcommand)]
        what: ConfigCommand,
    },
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Prints the commented default configuration.
    Default,
}

#[derive(Debug, Args)]
struct Settings {
    /// Configuration file.
    #[arg(long, value_name = "FILE", env = "PLIMSOLL_AGENT_CONFIG")]
    config: Option<PathBuf>,
    /// Where the aggregator listens, such as http://127.0.0.1:7077.
    #[arg(long, value_name = "URL")]
    aggregator: Option<String>,
    /// Where unsent samples are kept.
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// Libvirt's socket.
    #[arg(long, value_name = "PATH")]
    libvirt_socket: Option<PathBuf>,
    /// What may be asked of libvirt.
    #[arg(long, value_name = "ACCESS")]
    libvirt_access: Option<Access>,
    /// Time between two looks, such as 10s.
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    interval: Option<Duration>,
}

impl Settings {
    fn load(self) -> Result<(Config, config::Raw), ConfigError> {
        let overrides = Overrides {
            aggregator: self.aggregator,
            state_dir: self.state_dir,
            libvirt_socket: self.libvirt_socket,
            libvirt_access: self.libvirt_access,
            interval: self.interval,
        };
        config::load(self.config.as_deref(), &overrides)
    }
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
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
    match act(cli.command) {
        Ok(code) => code,
        Err(error) => {
            complain(&format!("{error:#}"));
            match error.downcast_ref::<ConfigError>() {
                Some(_) => ExitCode::from(config::EXIT_CONFIG),
                None => ExitCode::FAILURE,
            }
        }
    }
}

fn complain(text: &str) {
    // Nowhere is left to say that standard error is closed.
    drop(writeln!(std::io::stderr().lock(), "plimsoll-agent: {text}"));
}

fn act(command: Command) -> anyhow::Result<ExitCode> {
    let mut out = std::io::stdout().lock();
    match command {
        Command::Config {
            what: ConfigCommand::Default,
        } => {
            write!(out, "{}", config::DEFAULT_TOML)?;
        }
        Command::CheckConfig(settings) => {
            let (_, raw) = settings.load()?;
            write!(out, "{}", toml::to_string(&raw)?)?;
        }
        Command::Once { format, settings } => {
            let (config, _) = settings.load()?;
            log(config.log_format, "warn");
            let sample = drive(plimsoll_agent::once::take(config))??;
            sample.print(format, &mut out)?;
        }
        Command::Doctor { format, settings } => {
            let (config, _) = settings.load()?;
            log(config.log_format, "error");
            let clock = SystemClock::new();
            let report = drive(doctor::examine(&config, &clock))?;
            report.print(format, &mut out)?;
            if report.worst() == Verdict::Fail {
                return Ok(ExitCode::FAILURE);
            }
        }
        Command::Run(settings) => {
            let (config, _) = settings.load()?;
            drop(out);
            log(config.log_format, "info");
            drive(plimsoll_agent::run::run(config))??;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Works to the end; a thread that a dead file system holds does not hold up the exit.
fn drive<T>(work: impl Future<Output = T>) -> std::io::Result<T> {
    // One thread: the agent mostly waits, and waking another costs more than what it would do.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .max_blocking_threads(8)
        .thread_keep_alive(THREAD_KEPT)
        .enable_all()
        .build()?;
    let done = runtime.block_on(work);
    runtime.shutdown_background();
    Ok(done)
}

fn log(format: LogFormat, least: &str) {
    // Its every time-out is a line; the poller says once what is wrong with a device.
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(format!("{least},async_snmp=off")));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .with_writer(std::io::stderr);
    match format {
        LogFormat::Text => builder.with_target(false).init(),
        LogFormat::Json => builder.json().init(),
    }
}
