//! What comes from outside as bytes: one door for the fuzzers, which lie in `tests/fuzz`. The agent itself
//! does not use it.

use crate::config;
use crate::look::Values;
use crate::source::host::parse;
use crate::source::libvirt;

/// What bytes are taken for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A domain's XML, or the capabilities of a host.
    Xml,
    /// Statistics of a domain and of a job, one `name type value` a line.
    TypedParams,
    /// A file of /proc, for each of its readers.
    Proc,
    /// The agent's configuration.
    Config,
}

/// Reads bytes as what they are taken for; tells how much was made of them.
pub fn take(kind: Kind, bytes: &[u8]) -> usize {
    let text = String::from_utf8_lossy(bytes);
    match kind {
        Kind::Xml => libvirt::outside::xml(&text),
        Kind::TypedParams => libvirt::outside::typed_params(&text),
        Kind::Proc => proc(&text),
        Kind::Config => match config::parse(&text, "fuzz") {
            Ok(_) => 1,
            Err(error) => {
                // One line, however the text is broken.
                assert_eq!(error.to_string().lines().count(), 1);
                0
            }
        },
    }
}

fn proc(text: &str) -> usize {
    let mut values = Values::default();
    for read in [
        parse::stat,
        parse::meminfo,
        parse::loadavg,
        parse::vmstat,
        parse::diskstats,
        parse::psi_cpu,
        parse::psi_memory,
        parse::psi_io,
    ] {
        read(text, &mut values, 100);
    }
    usize::from(!values.is_empty())
}
