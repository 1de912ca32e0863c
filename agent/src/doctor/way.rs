//! The way of a sample: the disk it waits on, and the aggregator it goes to.

use std::path::Path;
use std::time::Duration;

use plimsoll_model::ByteSize;
use plimsoll_proto::dial;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use super::Finding;
use crate::chain::chain;
use crate::config::Config;

const REACH_MAX: Duration = Duration::from_secs(5);

/// Checks that the spool can be written and has the room that it may take.
pub(super) fn state(config: &Config) -> Finding {
    const CHECK: &str = "state";
    let dir = &config.state_dir;
    if let Err(error) = try_write(dir) {
        return Finding::fail(
            CHECK,
            format!("{} cannot be written: {error}", dir.display()),
            "give it to the agent's user, or set `state_dir`; until then samples are kept in memory only",
        );
    }
    let (wanted, used) = (config.spool_size, held(&dir.join("spool")));
    match free(dir) {
        Ok(free) if free.bytes().saturating_add(used.bytes()) < wanted.bytes() => Finding::warn(
            CHECK,
            format!(
                "{free} free in {}, the spool may take {wanted}",
                dir.display()
            ),
            "make room, or lower `size` in [spool]; a full disk makes gaps while the aggregator is away",
        ),
        Ok(free) => Finding::ok(
            CHECK,
            format!("{} can be written, {free} free", dir.display()),
        ),
        Err(error) => Finding::warn(
            CHECK,
            format!("the room of {} cannot be told: {error}", dir.display()),
            "look at it with df",
        ),
    }
}

fn try_write(dir: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(dir)?;
    let path = dir.join("doctor.tmp");
    std::fs::write(&path, "x")?;
    std::fs::remove_file(&path)
}

fn free(dir: &Path) -> std::io::Result<ByteSize> {
    let told = rustix::fs::statvfs(dir)?;
    Ok(ByteSize::from_bytes(
        told.f_bavail.saturating_mul(told.f_frsize),
    ))
}

/// Bytes the spool takes already; a running agent's files count as its own.
fn held(spool: &Path) -> ByteSize {
    let entries = std::fs::read_dir(spool).into_iter().flatten().flatten();
    let files = entries.filter_map(|entry| entry.metadata().ok());
    ByteSize::from_bytes(files.map(|file| file.len()).sum())
}

/// Checks that the aggregator is reached, with the certificates, and serves.
pub(super) async fn aggregator(config: &Config) -> Finding {
    const CHECK: &str = "aggregator";
    let url = &config.aggregator;
    let endpoint = match dial::endpoint(url, config.credentials.as_ref()) {
        Ok(endpoint) => endpoint.connect_timeout(REACH_MAX).timeout(REACH_MAX),
        Err(error) => {
            return Finding::fail(
                CHECK,
                chain(&error),
                "correct `aggregator` and `[tls]`; `plimsoll-aggregator pki` makes certificates",
            );
        }
    };
    let channel = match endpoint.connect().await {
        Ok(channel) => channel,
        Err(error) => {
            return Finding::fail(
                CHECK,
                format!("cannot reach {url}: {}", chain(&error)),
                "start it, open its port in the firewall, or correct `aggregator`; samples wait in the spool",
            );
        }
    };
    let asked = HealthClient::new(channel)
        .check(HealthCheckRequest::default())
        .await;
    match asked {
        Ok(told) if told.get_ref().status() == ServingStatus::Serving => {
            Finding::ok(CHECK, format!("{url} serves"))
        }
        Ok(told) => Finding::warn(
            CHECK,
            format!("{url} says {}", told.get_ref().status().as_str_name()),
            "read the aggregator's log",
        ),
        Err(status) => Finding::fail(
            CHECK,
            format!("{url} refuses: {}: {}", status.code(), chain(&status)),
            "look at the certificates in [tls], and at the aggregator's log",
        ),
    }
}
