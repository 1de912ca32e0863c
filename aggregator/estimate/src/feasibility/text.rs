//! Reads versions, machine types and addresses. What it cannot read is not known.

use std::net::IpAddr;

/// Reads `10.0.2` or `7.2` as (10, 0) or (7, 2).
pub(super) fn version(text: &str) -> Option<(u32, u32)> {
    let mut fields = text.split('.');
    let major = fields.next()?.parse().ok()?;
    let minor = fields.next().unwrap_or("0").parse().ok()?;
    Some((major, minor))
}

/// Reads the QEMU version that a machine type such as `pc-q35-7.2` asks for. Names of distributions,
/// and aliases such as `pc` or `q35`, tell none.
pub(super) fn machine_version(machine: &str) -> Option<(u32, u32)> {
    let (family, number) = machine.rsplit_once('-')?;
    let known = ["pc-i440fx", "pc-q35", "virt", "s390-ccw-virtio", "pseries"];
    if !known.contains(&family) {
        return None;
    }
    version(number)
}

/// Reads an address with its prefix length as the network it is in.
pub(super) fn network(address: &str) -> Option<(u128, u32)> {
    let (ip, prefix) = address.split_once('/')?;
    let prefix: u32 = prefix.parse().ok()?;
    let (bits, width) = match ip.parse::<IpAddr>().ok()? {
        IpAddr::V4(ip) => (u128::from(u32::from(ip)), 32),
        IpAddr::V6(ip) => (u128::from(ip), 128),
    };
    let host_bits = u32::checked_sub(width, prefix)?;
    let network = bits.checked_shr(host_bits).unwrap_or(0);
    // An address of one family is never in a network of the other.
    Some((network, prefix + width * 1_000))
}
