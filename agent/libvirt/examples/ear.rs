//! Listens to a libvirt daemon: `ear SOCKET [SECONDS]` prints domains, their statistics and then
//! the events of that many seconds. It changes nothing.

use anyhow::Context;
use plimsoll_libvirt::{Connection, EventId, ListFlags, OpenOptions, StatsFlags, StatsGroups};
use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

const DEADLINE: Duration = Duration::from_secs(3);

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut args = std::env::args_os().skip(1);
    let socket = PathBuf::from(args.next().context("usage: ear SOCKET [SECONDS]")?);
    let seconds = match args.next() {
        Some(text) => text
            .to_string_lossy()
            .parse()
            .context("SECONDS is not a number")?,
        None => 10,
    };
    let connection = Connection::open(&socket, OpenOptions::default()).await?;
    let kinds = [
        EventId::Lifecycle,
        EventId::Reboot,
        EventId::MigrationIteration,
        EventId::JobCompleted,
    ];
    let mut events = connection.subscribe(&kinds, DEADLINE).await?;
    let mut out = std::io::stdout().lock();
    writeln!(
        out,
        "{} on {}",
        connection.uri(DEADLINE).await?,
        connection.hostname(DEADLINE).await?
    )?;
    let groups = StatsGroups::STATE
        | StatsGroups::CPU_TOTAL
        | StatsGroups::BALLOON
        | StatsGroups::VCPU
        | StatsGroups::INTERFACE
        | StatsGroups::BLOCK
        | StatsGroups::DIRTYRATE;
    for domain in connection
        .list_all_domains(ListFlags::ACTIVE, DEADLINE)
        .await?
    {
        writeln!(out, "{domain}")?;
        match connection
            .domain_stats(&domain, groups, StatsFlags::NOWAIT, DEADLINE)
            .await
        {
            Ok(stats) => {
                for (name, value) in stats.iter() {
                    writeln!(out, "  {name} = {value:?}")?;
                }
            }
            Err(error) => writeln!(out, "  {:#}", anyhow::Error::from(error))?,
        }
    }
    let listening = async {
        while let Some(event) = events.recv().await {
            writeln!(out, "{}: {:?}", event.domain, event.kind)?;
        }
        anyhow::Ok(())
    };
    // The end of the time is the expected end.
    tokio::time::timeout(Duration::from_secs(seconds), listening)
        .await
        .unwrap_or(Ok(()))?;
    Ok(connection.close(DEADLINE).await?)
}
