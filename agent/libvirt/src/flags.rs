//! Bit sets and choices that calls take, each a type of its own so that they cannot be mixed up.
//!
//! It does not check which combinations a daemon accepts: that differs by version, and the daemon
//! says so.

use std::ops::BitOr;

/// Makes a bit set over `u32`: the table of names is what it saves.
macro_rules! bit_set {
    ($(#[$meta:meta])* $name:ident { $($(#[$bit_meta:meta])* $bit:ident = $value:expr;)* }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
        pub struct $name(u32);

        impl $name {
            /// No bit set.
            pub const NONE: $name = $name(0);
            $($(#[$bit_meta])* pub const $bit: $name = $name($value);)*

            /// The bits as they stand on the wire.
            #[must_use]
            pub const fn bits(self) -> u32 {
                self.0
            }

            /// Whether all bits of `other` are set.
            #[must_use]
            pub const fn contains(self, other: $name) -> bool {
                self.0 & other.0 == other.0
            }
        }

        impl BitOr for $name {
            type Output = $name;

            fn bitor(self, other: $name) -> $name {
                $name(self.0 | other.0)
            }
        }
    };
}

bit_set! {
    /// Groups of domain statistics; each group costs its own work in the daemon.
    StatsGroups {
        /// State and reason; free.
        STATE = 1;
        /// CPU time; asks the monitor for some fields.
        CPU_TOTAL = 1 << 1;
        /// Balloon and memory statistics of the guest.
        BALLOON = 1 << 2;
        /// Virtual CPUs; asks the monitor.
        VCPU = 1 << 3;
        /// Network interfaces; free.
        INTERFACE = 1 << 4;
        /// Block devices; asks the monitor.
        BLOCK = 1 << 5;
        /// Performance events that were enabled.
        PERF = 1 << 6;
        /// I/O threads; asks the monitor.
        IOTHREAD = 1 << 7;
        /// Memory bandwidth monitors.
        MEMORY = 1 << 8;
        /// Result of the last dirty-rate measurement; asks the monitor.
        DIRTYRATE = 1 << 9;
        /// Statistics of the hypervisor itself; names may change with its version.
        VM = 1 << 10;
    }
}

bit_set! {
    /// How domain statistics are gathered.
    StatsFlags {
        /// Leaves out what would have to wait for another job on the domain; does not help when
        /// the monitor itself does not answer.
        NOWAIT = 1 << 29;
        /// Adds the backing chain of block devices.
        BACKING = 1 << 30;
        /// Fails when the daemon does not know one of the groups.
        ENFORCE_STATS = 1 << 31;
    }
}

bit_set! {
    /// Which domains are listed; none means all.
    ListFlags {
        /// Running or paused domains.
        ACTIVE = 1;
        /// Defined domains that do not run.
        INACTIVE = 1 << 1;
        /// Domains with a stored definition.
        PERSISTENT = 1 << 2;
        /// Domains that vanish when they stop.
        TRANSIENT = 1 << 3;
    }
}

bit_set! {
    /// How a domain is described in XML.
    XmlFlags {
        /// With passwords; refused on a read-only connection.
        SECURE = 1;
        /// The stored definition in place of the running one.
        INACTIVE = 1 << 1;
        /// With the CPU as the host provides it.
        UPDATE_CPU = 1 << 2;
        /// As it is sent to the target of a migration; refused on a read-only connection.
        MIGRATABLE = 1 << 3;
    }
}

bit_set! {
    /// Which job statistics are returned.
    JobStatsFlags {
        /// Those of the job that ended last, which reading clears.
        COMPLETED = 1;
        /// Leaves the statistics of the ended job for the next reader.
        KEEP_COMPLETED = 1 << 1;
    }
}

bit_set! {
    /// How a monitor command is read.
    MonitorFlags {
        /// As a human monitor command in place of QMP.
        HMP = 1;
    }
}

/// How the dirty rate is measured.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum DirtyRateMode {
    /// Hashes sampled pages; the only mode without an effect on the guest.
    #[default]
    PageSampling,
    /// Write-protects memory through the dirty bitmap; needs KVM.
    DirtyBitmap,
    /// Reads the dirty ring; needs KVM and a ring size given at start.
    DirtyRing,
}

impl DirtyRateMode {
    /// The flag as it stands on the wire.
    #[must_use]
    pub const fn bits(self) -> u32 {
        match self {
            DirtyRateMode::PageSampling => 0,
            DirtyRateMode::DirtyBitmap => 1,
            DirtyRateMode::DirtyRing => 2,
        }
    }
}
