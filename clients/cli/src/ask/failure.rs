//! Why an answer cannot be printed, in words that say what to do about it.
//!
//! Not here: printing it, or choosing exit codes.

use std::error::Error as _;

use tonic::Code;

/// Why nothing can be printed.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Nobody answers.
    Unreachable(String),
    /// The answer is no.
    Refused(String),
}

impl From<tonic::Status> for Failure {
    fn from(status: tonic::Status) -> Self {
        // What the other side says carries no source; what befell the connection does.
        let cause = std::iter::successors(status.source(), |error| (*error).source()).last();
        if let Some(cause) = cause.filter(|_| status.code() != Code::DeadlineExceeded) {
            return Self::Unreachable(format!(
                "the connection broke before the aggregator answered: {cause}; if it asks for certificates, \
                 write https:// and name --ca, --cert and --key of its site"
            ));
        }
        match status.code() {
            Code::Unavailable | Code::DeadlineExceeded => Self::Unreachable(format!(
                "the aggregator does not answer: {}",
                status.message()
            )),
            _ => Self::Refused(status.message().to_owned()),
        }
    }
}

/// Says why nothing answers: nobody listens there, the network does not lead there, or somebody listens and
/// the two sides do not agree on TLS.
pub(super) fn unreachable(url: &str, error: &tonic::transport::Error) -> String {
    let chain = || std::iter::successors(error.source(), |error| (*error).source());
    let cause = chain().last().map(ToString::to_string);
    let cause = cause.unwrap_or_else(|| error.to_string());
    let kind = chain()
        .filter_map(|error| error.downcast_ref::<std::io::Error>())
        .last()
        .map(std::io::Error::kind);
    let told = kind.is_some_and(|kind| kind != std::io::ErrorKind::InvalidData);
    if told {
        return format!(
            "no aggregator answers at {url}: {cause}; start plimsoll-aggregator there, or name another with --server"
        );
    }
    let remedy = if url.starts_with("https:") {
        "see --ca, --cert and --key"
    } else {
        "if it asks for certificates, write https:// and name --ca, --cert and --key"
    };
    format!("the aggregator at {url} does not let this caller in: {cause}; {remedy}")
}
