//! What comes from outside as bytes: one door for the fuzzers, which lie in `tests/fuzz`. The aggregator
//! itself does not use it.

use plimsoll_model::UnixMillis;
use plimsoll_proto::v1;
use prost::Message as _;
use rustls::pki_types::CertificateDer;

use crate::columns::Question;
use crate::config::Config;
use crate::guard::caller;
use crate::past::Wanted;
use crate::{query, steps};

/// What bytes are taken for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A question of a caller, as each message that asks for series or migrations.
    Question,
    /// A client's certificate (DER).
    Certificate,
    /// The name in a client's certificate.
    Name,
    /// The aggregator's configuration.
    Config,
}

/// Reads bytes as what they are taken for; tells how much was made of them.
pub fn take(kind: Kind, bytes: &[u8]) -> usize {
    match kind {
        Kind::Question => question(bytes),
        Kind::Certificate => {
            let certificate = CertificateDer::from_slice(bytes);
            usize::from(caller::read(&certificate).is_ok())
        }
        Kind::Name => match caller::named(&String::from_utf8_lossy(bytes)) {
            Ok(named) => {
                // What is let in can be told in one line of a log.
                assert_eq!(named.to_string().lines().count(), 1);
                1
            }
            Err(_) => 0,
        },
        Kind::Config => usize::from(toml::from_slice::<Config>(bytes).is_ok()),
    }
}

fn question(bytes: &[u8]) -> usize {
    let now = UnixMillis::from_millis(1_795_000_000_000);
    let mut made = 0;
    if let Ok(selector) = v1::SeriesSelector::decode(bytes) {
        made += usize::from(query::filter(&selector).is_ok());
    }
    if let Ok(range) = v1::QueryRangeRequest::decode(bytes) {
        made += usize::from(steps::asked(&range, (UnixMillis::from_millis(0), now)).is_ok());
        if let Some(selector) = &range.selector {
            made += usize::from(query::filter(selector).is_ok());
        }
    }
    if let Ok(columns) = v1::QueryColumnsRequest::decode(bytes) {
        made += usize::from(Question::read(columns, now).is_ok());
    }
    if let Ok(migrations) = v1::ListMigrationsRequest::decode(bytes) {
        made += usize::from(Wanted::read(&migrations).is_ok());
    }
    made
}
