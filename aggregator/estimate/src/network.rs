//! What a link's speed leaves for the payload of a migration. Measures nothing.

use plimsoll_model::Bandwidth;

/// IPv4 and TCP headers with the timestamp option (RFC 791, RFC 9293, RFC 7323).
const HEADERS_BYTES: u64 = 20 + 20 + 12;
/// Ethernet header, which a traffic shaper such as `tc tbf` counts.
const SHAPED_FRAME_BYTES: u64 = 14;
/// Ethernet header, check sequence, preamble and gap, which the wire carries (IEEE 802.3).
const WIRE_FRAME_BYTES: u64 = 14 + 4 + 8 + 12;

/// Returns what TCP can carry through a shaper that counts whole frames: link * (mtu - 52) / (mtu + 14).
///
/// With an MTU of 1500 that is 1448/1514 of the link. An MTU under 576 is taken as 576, IPv4's least.
pub fn ethernet_goodput(link: Bandwidth, mtu_bytes: u32) -> Bandwidth {
    goodput(link, mtu_bytes, SHAPED_FRAME_BYTES)
}

/// Returns what TCP can carry over a real cable: link * (mtu - 52) / (mtu + 38).
pub fn cable_goodput(link: Bandwidth, mtu_bytes: u32) -> Bandwidth {
    goodput(link, mtu_bytes, WIRE_FRAME_BYTES)
}

fn goodput(link: Bandwidth, mtu_bytes: u32, frame_bytes: u64) -> Bandwidth {
    let mtu = u64::from(mtu_bytes.max(576));
    let rate = u128::from(link.bytes_per_second()) * u128::from(mtu - HEADERS_BYTES)
        / u128::from(mtu + frame_bytes);
    Bandwidth::from_bytes_per_second(u64::try_from(rate).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shaped_link_of_400_mbit_carries_47_8_megabytes_a_second() {
        let link = Bandwidth::from_mbit_per_second(400);
        assert_eq!(ethernet_goodput(link, 1500).bytes_per_second(), 47_820_343);
        assert!(cable_goodput(link, 1500) < ethernet_goodput(link, 1500));
        assert!(ethernet_goodput(link, 9000) > ethernet_goodput(link, 1500));
        assert!(ethernet_goodput(link, 0).bytes_per_second() > 0);
    }
}
