//! Programs and procedures of the wire, by number.
//!
//! It names only what this crate calls; a stranger may build others with [`Procedure::remote`].

use std::fmt;

/// The program of libvirt's general calls.
pub(crate) const REMOTE_PROGRAM: u32 = 0x2000_8086;
/// The program of calls that only the QEMU driver knows.
pub(crate) const QEMU_PROGRAM: u32 = 0x2000_8087;
/// The program of signs of life.
pub(crate) const KEEPALIVE_PROGRAM: u32 = 0x6b65_6570;
/// The version all three programs have had since their beginning.
pub(crate) const PROGRAM_VERSION: u32 = 1;

/// One procedure of one program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Procedure {
    pub(crate) program: u32,
    pub(crate) number: i32,
    name: &'static str,
}

impl Procedure {
    /// Names a general procedure.
    #[must_use]
    pub const fn remote(number: i32, name: &'static str) -> Procedure {
        Procedure {
            program: REMOTE_PROGRAM,
            number,
            name,
        }
    }

    /// Names a procedure of the QEMU driver.
    #[must_use]
    pub const fn qemu(number: i32, name: &'static str) -> Procedure {
        Procedure {
            program: QEMU_PROGRAM,
            number,
            name,
        }
    }
}

impl fmt::Display for Procedure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

pub(crate) const OPEN: Procedure = Procedure::remote(1, "open");
pub(crate) const CLOSE: Procedure = Procedure::remote(2, "close");
pub(crate) const GET_TYPE: Procedure = Procedure::remote(3, "get type");
pub(crate) const GET_VERSION: Procedure = Procedure::remote(4, "get version");
pub(crate) const NODE_GET_INFO: Procedure = Procedure::remote(6, "node get info");
pub(crate) const GET_CAPABILITIES: Procedure = Procedure::remote(7, "get capabilities");
pub(crate) const DOMAIN_GET_XML_DESC: Procedure = Procedure::remote(14, "domain get XML");
pub(crate) const DOMAIN_LOOKUP_BY_UUID: Procedure = Procedure::remote(24, "domain lookup by UUID");
pub(crate) const GET_HOSTNAME: Procedure = Procedure::remote(59, "get hostname");
pub(crate) const SUPPORTS_FEATURE: Procedure = Procedure::remote(60, "supports feature");
pub(crate) const AUTH_LIST: Procedure = Procedure::remote(66, "list authentications");
pub(crate) const GET_URI: Procedure = Procedure::remote(110, "get URI");
pub(crate) const GET_LIB_VERSION: Procedure = Procedure::remote(157, "get library version");
pub(crate) const DOMAIN_GET_JOB_INFO: Procedure = Procedure::remote(163, "domain get job info");
pub(crate) const DOMAIN_GET_BLOCK_INFO: Procedure = Procedure::remote(194, "domain get block info");
pub(crate) const DOMAIN_GET_STATE: Procedure = Procedure::remote(212, "domain get state");
pub(crate) const DOMAIN_MIGRATE_GET_MAX_SPEED: Procedure =
    Procedure::remote(242, "domain get migration speed limit");
pub(crate) const LIST_ALL_DOMAINS: Procedure = Procedure::remote(273, "list all domains");
pub(crate) const DOMAIN_GET_JOB_STATS: Procedure = Procedure::remote(298, "domain get job stats");
pub(crate) const DOMAIN_EVENT_REGISTER: Procedure =
    Procedure::remote(316, "register for domain events");
pub(crate) const GET_ALL_DOMAIN_STATS: Procedure = Procedure::remote(344, "get domain stats");
pub(crate) const DOMAIN_MIGRATE_GET_MAX_DOWNTIME: Procedure =
    Procedure::remote(387, "domain get migration downtime limit");
pub(crate) const DOMAIN_START_DIRTY_RATE_CALC: Procedure =
    Procedure::remote(427, "domain start dirty-rate measurement");
pub(crate) const QEMU_MONITOR_COMMAND: Procedure = Procedure::qemu(1, "QEMU monitor command");

/// Messages the daemon sends of its own accord.
pub(crate) const EVENT_LIFECYCLE: i32 = 318;
pub(crate) const EVENT_REBOOT: i32 = 319;
pub(crate) const EVENT_MIGRATION_ITERATION: i32 = 359;
pub(crate) const EVENT_JOB_COMPLETED: i32 = 363;

/// Procedures of the keepalive program.
pub(crate) const KEEPALIVE_PING: i32 = 1;
pub(crate) const KEEPALIVE_PONG: i32 = 2;

/// The feature that asks for the keepalive program.
pub(crate) const FEATURE_KEEPALIVE: i32 = 10;
