//! [path]: whose agents are probed over the migration network, and where probes are answered.

use std::net::SocketAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::check::{Wrong, wrong};
use crate::source::path::{Peer, Probing};

const PEERS_MAX: usize = 256;

/// [path] as it is written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RawPath {
    /// Where probes are answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listen: Option<String>,
    /// Time between two rounds.
    #[serde(with = "humantime_serde")]
    pub every: Duration,
    /// Probes of a round.
    pub probes: u32,
    /// Who is asked and answered.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub peer: Vec<RawPeer>,
}

/// [[path.peer]] as it is written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawPeer {
    /// UUID of the node.
    pub node: String,
    /// Address and port.
    pub address: String,
}

impl Default for RawPath {
    fn default() -> Self {
        Self {
            listen: None,
            every: Duration::from_secs(10),
            probes: 10,
            peer: Vec::new(),
        }
    }
}

/// Checks it.
pub(super) fn check(raw: &RawPath) -> Result<Probing, Wrong> {
    if !(Duration::from_secs(1)..=Duration::from_secs(600)).contains(&raw.every) {
        return wrong("path.every", "must lie between 1s and 10min");
    }
    if !(1..=100).contains(&raw.probes) {
        return wrong("path.probes", "must lie between 1 and 100");
    }
    if raw.peer.len() > PEERS_MAX {
        return wrong("path.peer", format!("at most {PEERS_MAX}"));
    }
    let listen = raw.listen.as_ref().map(|text| address("path.listen", text));
    let mut peers = Vec::with_capacity(raw.peer.len());
    for (place, peer) in raw.peer.iter().enumerate() {
        let key = |name: &str| format!("path.peer[{place}].{name}");
        let node = peer
            .node
            .parse()
            .or_else(|error| wrong(key("node"), error))?;
        let address = address(&key("address"), &peer.address)?;
        peers.push(Peer { node, address });
    }
    Ok(Probing {
        listen: listen.transpose()?,
        peers,
        every: raw.every,
        probes: raw.probes,
    })
}

fn address(key: &str, text: &str) -> Result<SocketAddr, Wrong> {
    text.parse().or_else(|_| {
        let message = format!("{text:?} is no address; write for example 192.0.2.2:7078");
        wrong(key, message)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_is_named_with_its_place() {
        let peer = |node: &str, address: &str| RawPeer {
            node: node.to_owned(),
            address: address.to_owned(),
        };
        let uuid = "3b1f6a52-6f0e-4d0c-9d1b-0a5c8e1c7d11";
        let raw = |peers: Vec<RawPeer>| RawPath {
            peer: peers,
            ..RawPath::default()
        };
        let good = peer(uuid, "192.0.2.2:7078");
        assert_eq!(check(&raw(vec![good.clone()])).unwrap().peers.len(), 1);
        let key = |raw: RawPath| check(&raw).unwrap_err().key;
        let nowhere = peer(uuid, "192.0.2.2");
        assert_eq!(
            key(raw(vec![good.clone(), nowhere])),
            "path.peer[1].address"
        );
        assert_eq!(
            key(raw(vec![peer("x", "192.0.2.2:1")])),
            "path.peer[0].node"
        );
        let hasty = RawPath {
            every: Duration::from_millis(10),
            ..RawPath::default()
        };
        assert_eq!(key(hasty), "path.every");
        let greedy = RawPath {
            probes: 101,
            ..RawPath::default()
        };
        assert_eq!(key(greedy), "path.probes");
    }
}
