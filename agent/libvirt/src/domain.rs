//! A domain as libvirt names it on the wire, and its state.
//!
//! It does not tell one start of a domain from the next: the numeric id belongs to one daemon and
//! is given again after its restart.

use crate::xdr::{Decoder, Encoder, XdrError};
use std::fmt;

/// Least bytes a domain takes on the wire: empty name, UUID, id.
pub(crate) const DOMAIN_BYTES_MIN: usize = 4 + 16 + 4;

/// The name, UUID and id by which every call refers to a domain.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct DomainRef {
    /// The name of the domain; the guest's owner may have chosen it.
    pub name: String,
    /// The UUID of the domain, the part libvirt looks it up by.
    pub uuid: [u8; 16],
    /// The daemon's number for a running domain; absent when it is not running.
    pub id: Option<i32>,
}

impl DomainRef {
    pub(crate) fn decode(decoder: &mut Decoder<'_>) -> Result<DomainRef, XdrError> {
        let name = decoder.string()?;
        let uuid = decoder.opaque()?;
        let id = decoder.i32()?;
        Ok(DomainRef {
            name,
            uuid,
            id: (id >= 0).then_some(id),
        })
    }

    pub(crate) fn encode(&self, encoder: &mut Encoder) -> Result<(), XdrError> {
        encoder.string(&self.name)?;
        encoder.opaque(&self.uuid);
        encoder.i32(self.id.unwrap_or(-1));
        Ok(())
    }
}

impl fmt::Display for DomainRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} ({})",
            self.name.escape_debug(),
            uuid::Uuid::from_bytes(self.uuid)
        )
    }
}

/// The state of a domain and the reason for it; [`crate::state`] names the numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct DomainState {
    /// One of the numbers in [`crate::state`].
    pub state: i32,
    /// One of the numbers in the module of [`crate::state`] named after the state.
    pub reason: i32,
}
