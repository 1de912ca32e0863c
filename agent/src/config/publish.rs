//! [publish]: where what the agent sees is served over SNMPv3, and to whom.

use std::net::SocketAddr;
use std::path::PathBuf;

use plimsoll_proto::secret::Secret;
use serde::{Deserialize, Serialize};

use super::check::{Wrong, wrong};
use super::devices::PASSWORD_BYTES_MIN;
use crate::publish::Publish;

/// [publish] as it is written.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RawPublish {
    /// Address and port; nothing is served without it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listen: Option<String>,
    /// The one user.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// File with its password for authentication.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub authentication_password_file: Option<PathBuf>,
    /// File with its password for encryption.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub privacy_password_file: Option<PathBuf>,
}

/// Checks everything but the secrets.
pub(super) fn check(raw: &RawPublish) -> Result<Option<(SocketAddr, String)>, Wrong> {
    let Some(listen) = &raw.listen else {
        return Ok(None);
    };
    let Ok(listen) = listen.parse() else {
        let message = format!("{listen:?} is no address; write for example 127.0.0.1:1161");
        return wrong("publish.listen", message);
    };
    match &raw.user {
        Some(user) if (1..=32).contains(&user.len()) => Ok(Some((listen, user.clone()))),
        _ => wrong(
            "publish.user",
            "must have 1 to 32 bytes, since `listen` is set",
        ),
    }
}

/// Reads the secrets.
pub(super) fn unlock(raw: &RawPublish) -> Result<Option<Publish>, Wrong> {
    let Some((listen, user)) = check(raw)? else {
        return Ok(None);
    };
    let read = |name: &str, path: &Option<PathBuf>| {
        let key = format!("publish.{name}");
        match path {
            None => wrong(key, "is missing, since `listen` is set"),
            Some(path) => Secret::read(path, PASSWORD_BYTES_MIN).or_else(|error| wrong(key, error)),
        }
    };
    let authentication = &raw.authentication_password_file;
    Ok(Some(Publish {
        listen,
        user,
        authentication_password: read("authentication_password_file", authentication)?,
        privacy_password: read("privacy_password_file", &raw.privacy_password_file)?,
    }))
}
