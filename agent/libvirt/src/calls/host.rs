//! Calls about the host and the daemon.

use crate::connection::{Connection, decode, encode};
use crate::domain::{DOMAIN_BYTES_MIN, DomainRef};
use crate::error::CallError;
use crate::flags::ListFlags;
use crate::procedure::{
    GET_CAPABILITIES, GET_HOSTNAME, GET_LIB_VERSION, GET_TYPE, GET_URI, GET_VERSION,
    LIST_ALL_DOMAINS, NODE_GET_INFO, Procedure,
};
use crate::xdr::Decoder;
use std::time::Duration;

/// Most domains libvirt lets pass in one list.
pub(crate) const DOMAINS_MAX: usize = 16_384;
/// Characters of a CPU model's name, each in a word of its own.
const MODEL_CHARS: usize = 32;

/// Processors and memory of a host, as libvirt counts them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeInfo {
    /// The architecture, as `x86_64`.
    pub model: String,
    /// Memory of the host.
    pub memory_kib: u64,
    /// Processors that are online.
    pub cpus: u32,
    /// Frequency of a processor; zero when the host does not tell.
    pub mhz: u32,
    /// NUMA nodes; one on hosts whose topology does not fit these four numbers.
    pub nodes: u32,
    /// Sockets in a NUMA node.
    pub sockets: u32,
    /// Cores in a socket.
    pub cores: u32,
    /// Threads in a core.
    pub threads: u32,
}

impl Connection {
    /// Host name, as the daemon gives it.
    pub async fn hostname(&self, deadline: Duration) -> Result<String, CallError> {
        self.text(GET_HOSTNAME, deadline).await
    }

    /// Kind of the driver, as `QEMU`.
    pub async fn hypervisor_type(&self, deadline: Duration) -> Result<String, CallError> {
        self.text(GET_TYPE, deadline).await
    }

    /// URI of the driver that is open.
    pub async fn uri(&self, deadline: Duration) -> Result<String, CallError> {
        self.text(GET_URI, deadline).await
    }

    /// Capabilities of the host, as XML.
    pub async fn capabilities_xml(&self, deadline: Duration) -> Result<String, CallError> {
        self.text(GET_CAPABILITIES, deadline).await
    }

    /// Version of libvirt: a million times major plus a thousand times minor plus release.
    pub async fn lib_version(&self, deadline: Duration) -> Result<u64, CallError> {
        let reply = self.call(GET_LIB_VERSION, &[], deadline).await?;
        decode(GET_LIB_VERSION, &reply, Decoder::u64)
    }

    /// Version of the hypervisor, in the form of [`Connection::lib_version`].
    pub async fn hypervisor_version(&self, deadline: Duration) -> Result<u64, CallError> {
        let reply = self.call(GET_VERSION, &[], deadline).await?;
        decode(GET_VERSION, &reply, Decoder::u64)
    }

    /// Processors and memory of the host.
    pub async fn node_info(&self, deadline: Duration) -> Result<NodeInfo, CallError> {
        let reply = self.call(NODE_GET_INFO, &[], deadline).await?;
        decode(NODE_GET_INFO, &reply, |decoder| {
            let mut model = Vec::with_capacity(MODEL_CHARS);
            for _ in 0..MODEL_CHARS {
                let [.., character] = decoder.u32()?.to_be_bytes();
                model.push(character);
            }
            let model = model
                .split(|character| *character == 0)
                .next()
                .unwrap_or_default();
            Ok(NodeInfo {
                model: String::from_utf8_lossy(model).into_owned(),
                memory_kib: decoder.u64()?,
                cpus: decoder.u32()?,
                mhz: decoder.u32()?,
                nodes: decoder.u32()?,
                sockets: decoder.u32()?,
                cores: decoder.u32()?,
                threads: decoder.u32()?,
            })
        })
    }

    /// Domains of the host; never touches a domain's monitor.
    pub async fn list_all_domains(
        &self,
        flags: ListFlags,
        deadline: Duration,
    ) -> Result<Vec<DomainRef>, CallError> {
        let args = encode(LIST_ALL_DOMAINS, |encoder| {
            encoder.i32(1);
            encoder.u32(flags.bits());
            Ok(())
        })?;
        let reply = self.call(LIST_ALL_DOMAINS, &args, deadline).await?;
        decode(LIST_ALL_DOMAINS, &reply, |decoder| {
            let count = decoder.length("list of domains", DOMAINS_MAX, DOMAIN_BYTES_MIN)?;
            let domains = (0..count)
                .map(|_| DomainRef::decode(decoder))
                .collect::<Result<Vec<_>, _>>()?;
            let _count_again = decoder.u32()?;
            Ok(domains)
        })
    }

    async fn text(&self, procedure: Procedure, deadline: Duration) -> Result<String, CallError> {
        let reply = self.call(procedure, &[], deadline).await?;
        decode(procedure, &reply, Decoder::string)
    }
}
