//! Who calls, as its certificate says.

use plimsoll_model::NodeId;
use rustls::pki_types::CertificateDer;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer as _;

/// Longest name of a planner or an operator.
const NAME_MAX: usize = 64;

/// What a certificate entitles to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Role {
    /// An agent: it sends what it saw on this node, and reads nothing.
    Node(NodeId),
    /// A planner: it lists nodes and domains, and asks for estimates.
    Planner,
    /// An operator: it reads all.
    Operator,
    /// Those of a project: they read of their own domains, and of nothing else.
    Tenant(String),
}

impl Role {
    /// The word for it in certificates and messages.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Node(_) => "node",
            Self::Planner => "planner",
            Self::Operator => "operator",
            Self::Tenant(_) => "tenant",
        }
    }
}

/// Who is at the other end of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Caller {
    /// Somebody without a certificate, where none is asked for. Nodes are believed who they are.
    Local,
    /// The owner of a certificate that the client authority signed.
    Certified {
        /// What it is entitled to.
        role: Role,
        /// The name in the certificate, such as `spiffe://plimsoll/planner/watcher`.
        name: String,
    },
}

impl Caller {
    /// Returns the node a certificate was made for; absent for all who are no node.
    pub fn node(&self) -> Option<NodeId> {
        match self {
            Self::Certified {
                role: Role::Node(node),
                ..
            } => Some(*node),
            Self::Local | Self::Certified { .. } => None,
        }
    }
}

impl std::fmt::Display for Caller {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Local => out.write_str("a caller without certificate"),
            Self::Certified { name, .. } => out.write_str(name),
        }
    }
}

/// Why a certificate names nobody.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum NamelessError {
    /// It is no X.509 certificate.
    #[error("the certificate cannot be read")]
    Unreadable,
    /// It has no name of the kind wanted, or more than one.
    #[error("the certificate must carry exactly one URI as subject alternative name, it has {0}")]
    Count(usize),
    /// The name is of no known form.
    #[error(
        "{0:?} is no name of a caller; spiffe://TRUST/node/UUID, spiffe://TRUST/planner/NAME, spiffe://TRUST/operator/NAME or spiffe://TRUST/tenant/PROJECT is"
    )]
    Form(String),
}

/// Reads the caller from a client certificate whose signature was verified.
///
/// # Errors
/// If the certificate does not carry exactly one URI, or one of another form.
pub fn read(certificate: &CertificateDer<'_>) -> Result<Caller, NamelessError> {
    let (_, parsed) =
        X509Certificate::from_der(certificate).map_err(|_| NamelessError::Unreadable)?;
    let names = parsed
        .subject_alternative_name()
        .map_err(|_| NamelessError::Unreadable)?;
    let uris: Vec<&str> = names
        .iter()
        .flat_map(|names| &names.value.general_names)
        .filter_map(|name| match name {
            GeneralName::URI(uri) => Some(*uri),
            _ => None,
        })
        .collect();
    match uris.as_slice() {
        [uri] => named(uri),
        other => Err(NamelessError::Count(other.len())),
    }
}

/// Reads the caller from the URI of a certificate.
pub(crate) fn named(uri: &str) -> Result<Caller, NamelessError> {
    let form = || NamelessError::Form(uri.to_owned());
    let path = uri.strip_prefix("spiffe://").ok_or_else(form)?;
    let mut parts = path.split('/');
    let (Some(trust), Some(role), Some(name), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(form());
    };
    if !plain(trust) || !plain(name) {
        return Err(form());
    }
    let role = match role {
        "node" => Role::Node(name.parse().map_err(|_| form())?),
        "planner" => Role::Planner,
        "operator" => Role::Operator,
        "tenant" => Role::Tenant(name.to_owned()),
        _ => return Err(form()),
    };
    Ok(Caller::Certified {
        role,
        name: uri.to_owned(),
    })
}

/// Whether a part of a name is made of letters, digits, dots, dashes and underscores only.
pub(super) fn plain(part: &str) -> bool {
    let usual = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    !part.is_empty() && part.len() <= NAME_MAX && part.bytes().all(usual)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: &str = "0f0e7c4a-3f10-4a55-9d0e-3a1f7c1b2d11";

    #[test]
    fn a_node_is_its_uuid() {
        let caller = named(&format!("spiffe://site-a/node/{NODE}")).unwrap();
        assert_eq!(caller.node(), Some(NODE.parse().unwrap()));
    }

    #[test]
    fn other_forms_name_nobody() {
        for uri in [
            "https://site-a/node/x",
            "spiffe://site-a/node/not-a-uuid",
            "spiffe://site-a/node/*",
            "spiffe://site-a/root/me",
            "spiffe://site-a/tenant/",
            "spiffe://site-a/tenant/a/b",
            "spiffe://site-a/planner",
            "spiffe://site-a/planner/",
            "spiffe:///planner/me",
            "spiffe://site-a/planner/me/too",
            "spiffe://site-a/planner/a b",
        ] {
            assert_eq!(named(uri), Err(NamelessError::Form(uri.to_owned())));
        }
    }
}
