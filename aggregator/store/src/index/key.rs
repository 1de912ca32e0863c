//! Keys of subjects: a prefix, the node, and what tells its domains, devices and ports apart.

use plimsoll_model::{DeviceId, DomainId, NodeId, UnixMillis};

use super::Broken;
use crate::block::{DevicePlace, Place};
use crate::codec::Pack;

/// What follows the node in the key of a domain: its id, boot and start.
const DOMAIN_BYTES: usize = 16 + 16 + 8;

/// Makes the key of a subject.
pub(super) fn subject_key(prefix: u8, place: Place) -> Vec<u8> {
    let mut key = vec![prefix];
    key.extend(place.node.as_bytes());
    if let Some((domain, incarnation)) = place.domain {
        key.extend(domain.as_bytes());
        key.extend(incarnation.boot.as_bytes());
        key.extend(incarnation.started_ms.to_be_bytes());
    }
    // Told from a domain by its length; a port is told from its device likewise.
    if let Some((device, port, counting_since)) = place.device {
        key.extend(device.as_bytes());
        key.extend(port.iter().flat_map(|port| port.to_be_bytes()));
        key.extend(counting_since.millis().to_be_bytes());
    }
    key
}

/// Reads what follows the node in the key of a device or port.
fn device_place(key: &[u8]) -> Result<DevicePlace, Broken> {
    let input = &mut &*key;
    let device = DeviceId::unpack(input)?;
    let (port, since) = input.split_last_chunk().ok_or(Broken)?;
    let port = match port {
        [] => None,
        bytes => Some(u32::from_be_bytes(bytes.try_into().map_err(|_| Broken)?)),
    };
    let since = UnixMillis::from_millis(i64::from_be_bytes(*since));
    Ok((device, port, since))
}

/// Reads the subject of a key.
pub(super) fn place_of(mut key: &[u8]) -> Result<Place, Broken> {
    let input = &mut key;
    u8::unpack(input)?;
    let node = NodeId::unpack(input)?;
    let mut place = Place::of_node(node);
    if input.is_empty() {
        return Ok(place);
    }
    if input.len() < DOMAIN_BYTES {
        place.device = Some(device_place(input)?);
        return Ok(place);
    }
    let domain = DomainId::unpack(input)?;
    let boot = Pack::unpack(input)?;
    let started_ms = u64::from_be_bytes((*input).try_into().map_err(|_| Broken)?);
    let incarnation = plimsoll_model::Incarnation { boot, started_ms };
    place.domain = Some((domain, incarnation));
    Ok(place)
}
