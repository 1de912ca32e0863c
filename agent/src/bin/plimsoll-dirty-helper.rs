//! Measures dirty rates for an agent that may not write to libvirt: a domain's UUID and a window in, a
//! rate out, and nothing else, however it is asked.

use std::io::Write;
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use clap::Parser;
use plimsoll_agent::errand::{self, Budget, Door};
use plimsoll_agent::measure::{PAGES_PER_GIB, Sampling};
use plimsoll_model::SystemClock;
use tokio::net::{UnixListener, UnixStream};

/// Measures dirty rates for an agent that may not write to libvirt.
///
/// It listens on a socket of mode 660: who may write to it is told by its group.
#[derive(Debug, Parser)]
#[command(name = "plimsoll-dirty-helper", version)]
struct Flags {
    /// Where it listens; `helper` in [dirty] of the agent names the same.
    #[arg(
        long,
        value_name = "PATH",
        default_value = "/run/plimsoll/dirty-helper.sock"
    )]
    socket: PathBuf,
    /// Libvirt's socket for writing. Without it: the first of those libvirt has that exists.
    #[arg(long, value_name = "PATH")]
    libvirt_socket: Option<PathBuf>,
    /// Pages of each GiB to look at, 128 to 16384, by the monitor of QEMU, which lets libvirt mark the guest
    /// as tainted. Without it: as libvirt measures, 512.
    #[arg(long, value_name = "COUNT")]
    sample_pages: Option<u32>,
    /// Most time in each minute for which one domain is measured, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    budget_s: u64,
}

fn main() -> ExitCode {
    let flags = Flags::parse();
    match run(flags) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let text = format!("plimsoll-dirty-helper: {error:#}");
            // Nowhere is left to say that standard error is closed.
            drop(writeln!(std::io::stderr().lock(), "{text}"));
            ExitCode::FAILURE
        }
    }
}

fn run(flags: Flags) -> anyhow::Result<()> {
    let sampling = match flags.sample_pages {
        None => Sampling::Libvirt,
        Some(pages) if PAGES_PER_GIB.contains(&pages) => Sampling::Qmp(pages),
        Some(pages) => anyhow::bail!("--sample-pages {pages} does not lie between 128 and 16384"),
    };
    tracing_subscriber::fmt()
        .with_ansi(false)
        .with_target(false)
        .with_writer(std::io::stderr)
        .init();
    let door = Door {
        libvirt: flags
            .libvirt_socket
            .unwrap_or_else(plimsoll_agent::source::libvirt::writing_socket),
        sampling,
        deadline: Duration::from_secs(3),
        clock: Arc::new(SystemClock::new()),
    };
    let budget = Budget::new(Duration::from_secs(flags.budget_s.clamp(1, 60)));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let listener = listen(&flags.socket).await?;
        tracing::info!(socket = %flags.socket.display(), libvirt = %door.libvirt.display(), "listening");
        tokio::select! {
            ended = errand::serve(listener, door, budget) => ended.context("nobody can be heard any more"),
            told = wait_for_end() => told.context("cannot receive signals"),
        }
    })
}

/// Listens where nobody else does; what an earlier run left is taken away.
async fn listen(path: &Path) -> anyhow::Result<UnixListener> {
    let is_socket = std::fs::symlink_metadata(path).is_ok_and(|told| told.file_type().is_socket());
    if is_socket {
        if UnixStream::connect(path).await.is_ok() {
            anyhow::bail!("somebody listens at {} already", path.display());
        }
        std::fs::remove_file(path)
            .with_context(|| format!("cannot take away {}", path.display()))?;
    }
    // From its first instant on nobody but its user and its group may write to it.
    let before = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o117));
    let listener = UnixListener::bind(path);
    rustix::process::umask(before);
    listener.with_context(|| format!("cannot listen at {}", path.display()))
}

async fn wait_for_end() -> std::io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}
