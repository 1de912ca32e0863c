//! Calls about one domain, and the monitor of QEMU.

use super::host::DOMAINS_MAX;
use crate::connection::{Connection, decode, encode};
use crate::domain::{DOMAIN_BYTES_MIN, DomainRef, DomainState};
use crate::error::CallError;
use crate::flags::{MonitorFlags, StatsFlags, StatsGroups, XmlFlags};
use crate::procedure::{
    DOMAIN_GET_BLOCK_INFO, DOMAIN_GET_STATE, DOMAIN_GET_XML_DESC, DOMAIN_LOOKUP_BY_UUID,
    GET_ALL_DOMAIN_STATS, Procedure, QEMU_MONITOR_COMMAND,
};
use crate::typed::TypedParams;
use crate::xdr::Decoder;
use std::time::Duration;

/// Most statistics libvirt lets pass for one domain.
const STATS_PARAMS_MAX: usize = 262_144;
/// Least bytes a domain and its statistics take on the wire.
const RECORD_BYTES_MIN: usize = DOMAIN_BYTES_MIN + 4;

/// Sizes of a block device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockInfo {
    /// Size the guest sees.
    pub capacity_bytes: u64,
    /// Highest byte written, where the format tells.
    pub allocation_bytes: u64,
    /// Size on the host.
    pub physical_bytes: u64,
}

impl Connection {
    /// Finds a domain by its UUID.
    pub async fn domain_lookup_by_uuid(
        &self,
        uuid: [u8; 16],
        deadline: Duration,
    ) -> Result<DomainRef, CallError> {
        let args = encode(DOMAIN_LOOKUP_BY_UUID, |encoder| {
            encoder.opaque(&uuid);
            Ok(())
        })?;
        let reply = self.call(DOMAIN_LOOKUP_BY_UUID, &args, deadline).await?;
        decode(DOMAIN_LOOKUP_BY_UUID, &reply, DomainRef::decode)
    }

    /// State of a domain; never touches its monitor.
    pub async fn domain_state(
        &self,
        domain: &DomainRef,
        deadline: Duration,
    ) -> Result<DomainState, CallError> {
        let reply = self
            .domain_call(DOMAIN_GET_STATE, domain, 0, deadline)
            .await?;
        decode(DOMAIN_GET_STATE, &reply, |decoder| {
            let state = decoder.i32()?;
            Ok(DomainState {
                state,
                reason: decoder.i32()?,
            })
        })
    }

    /// Description of a domain, as XML.
    pub async fn domain_xml(
        &self,
        domain: &DomainRef,
        flags: XmlFlags,
        deadline: Duration,
    ) -> Result<String, CallError> {
        let reply = self
            .domain_call(DOMAIN_GET_XML_DESC, domain, flags.bits(), deadline)
            .await?;
        decode(DOMAIN_GET_XML_DESC, &reply, Decoder::string)
    }

    /// Statistics of one domain, so that one that hangs cannot hold up the others; empty when
    /// the daemon gives none.
    pub async fn domain_stats(
        &self,
        domain: &DomainRef,
        groups: StatsGroups,
        flags: StatsFlags,
        deadline: Duration,
    ) -> Result<TypedParams, CallError> {
        let args = encode(GET_ALL_DOMAIN_STATS, |encoder| {
            encoder.u32(1);
            domain.encode(encoder)?;
            encoder.u32(groups.bits());
            encoder.u32(flags.bits());
            Ok(())
        })?;
        let reply = self.call(GET_ALL_DOMAIN_STATS, &args, deadline).await?;
        decode(GET_ALL_DOMAIN_STATS, &reply, |decoder| {
            let count = decoder.length("list of statistics", DOMAINS_MAX, RECORD_BYTES_MIN)?;
            let mut found = TypedParams::default();
            for _ in 0..count {
                let owner = DomainRef::decode(decoder)?;
                let params = TypedParams::decode(decoder, STATS_PARAMS_MAX)?;
                if owner.uuid == domain.uuid {
                    found = params;
                }
            }
            Ok(found)
        })
    }

    /// Sizes of a block device, by its target (`vda`) or source path; may ask the monitor.
    pub async fn domain_block_info(
        &self,
        domain: &DomainRef,
        disk: &str,
        deadline: Duration,
    ) -> Result<BlockInfo, CallError> {
        let args = encode(DOMAIN_GET_BLOCK_INFO, |encoder| {
            domain.encode(encoder)?;
            encoder.string(disk)?;
            encoder.u32(0);
            Ok(())
        })?;
        let reply = self.call(DOMAIN_GET_BLOCK_INFO, &args, deadline).await?;
        decode(DOMAIN_GET_BLOCK_INFO, &reply, |decoder| {
            let allocation_bytes = decoder.u64()?;
            let capacity_bytes = decoder.u64()?;
            Ok(BlockInfo {
                capacity_bytes,
                allocation_bytes,
                physical_bytes: decoder.u64()?,
            })
        })
    }

    /// Sends a command to the monitor of a QEMU domain and gives its answer, as JSON for QMP.
    ///
    /// Needs a read-write connection, and marks the domain as tainted in the daemon's eyes.
    pub async fn qemu_monitor_command(
        &self,
        domain: &DomainRef,
        command: &str,
        flags: MonitorFlags,
        deadline: Duration,
    ) -> Result<String, CallError> {
        let args = encode(QEMU_MONITOR_COMMAND, |encoder| {
            domain.encode(encoder)?;
            encoder.string(command)?;
            encoder.u32(flags.bits());
            Ok(())
        })?;
        let reply = self.call(QEMU_MONITOR_COMMAND, &args, deadline).await?;
        decode(QEMU_MONITOR_COMMAND, &reply, Decoder::string)
    }

    /// Makes a call whose arguments are a domain and flags.
    pub(super) async fn domain_call(
        &self,
        procedure: Procedure,
        domain: &DomainRef,
        flags: u32,
        deadline: Duration,
    ) -> Result<Vec<u8>, CallError> {
        let args = encode(procedure, |encoder| {
            domain.encode(encoder)?;
            encoder.u32(flags);
            Ok(())
        })?;
        self.call(procedure, &args, deadline).await
    }
}
