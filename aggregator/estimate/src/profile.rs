//! How long a guest may stand still, as each cloud tells QEMU. Counts no time itself.

use crate::error::InputError;
use crate::number::seconds;

/// The most steps that a ramp may have.
const RAMP_STEPS_MAX: u32 = 1_000;

/// The downtime limit over the course of a migration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DowntimeProfile {
    /// QEMU's default: 300 ms, unchanged (QEMU migration/options.c).
    Qemu,
    /// One limit, unchanged.
    Constant {
        /// The limit.
        limit_ms: u64,
    },
    /// Nova's ramp (nova/virt/libvirt/migration.py): step i of `steps`, at i * delay * GiB, allows
    /// base + i * (downtime - base) / steps, where base is downtime / steps.
    NovaRamp {
        /// The limit that is reached at the end; Nova's default is 500.
        downtime_ms: u64,
        /// Number of steps; Nova's default is 10.
        steps: u32,
        /// Time between steps for each GiB to copy; Nova's default is 75 000.
        delay_ms_per_gib: u64,
        /// Memory and copied disks; Nova takes at least 2.
        gib: u64,
    },
    /// oVirt's schedule (vdsm): 100 ms at first, more with each pass that makes no headway, up to 500 ms.
    Ovirt,
    /// KubeVirt's limit: 900 ms.
    Kubevirt,
    /// Proxmox VE's rule: 100 ms, doubled after every 5 seconds without headway.
    Proxmox,
}

/// How many doublings Proxmox may see before the limit exceeds any migration.
const DOUBLINGS_MAX: u32 = 14;

/// oVirt's schedule: passes without headway, limit in milliseconds.
const OVIRT: [(u32, u64); 6] = [(0, 100), (1, 150), (2, 200), (3, 300), (4, 400), (6, 500)];

impl DowntimeProfile {
    /// Nova's ramp with its default settings for a guest of so many bytes.
    pub fn nova_default(memory_bytes: u64) -> Self {
        Self::NovaRamp {
            downtime_ms: 500,
            steps: 10,
            delay_ms_per_gib: 75_000,
            gib: memory_bytes.div_ceil(1 << 30).max(2),
        }
    }

    /// Refuses a profile that never allows any downtime.
    pub fn check(&self) -> Result<(), InputError> {
        match *self {
            Self::Constant { limit_ms: 0 } | Self::NovaRamp { downtime_ms: 0, .. } => {
                Err(InputError::DowntimeLimitZero)
            }
            Self::NovaRamp { steps, .. } if steps == 0 || steps > RAMP_STEPS_MAX => {
                Err(InputError::RampSteps {
                    steps,
                    limit: RAMP_STEPS_MAX,
                })
            }
            _ => Ok(()),
        }
    }

    /// Returns the largest limit that the profile comes to.
    pub fn largest_limit_ms(&self) -> u64 {
        match *self {
            Self::Qemu => 300,
            Self::Constant { limit_ms } => limit_ms,
            Self::NovaRamp { downtime_ms, .. } => downtime_ms,
            Self::Ovirt => 500,
            Self::Kubevirt => 900,
            Self::Proxmox => 100 << DOUBLINGS_MAX,
        }
    }

    /// Returns the limit in seconds, `elapsed_s` after the start and after `stalls` without headway.
    pub(crate) fn limit_s(&self, elapsed_s: f64, stalls: u32) -> f64 {
        match *self {
            Self::NovaRamp {
                downtime_ms, steps, ..
            } => {
                let base = (downtime_ms as f64 / f64::from(steps.max(1))).max(1.0);
                let step = self.ramp_step(elapsed_s);
                let rise = (downtime_ms as f64 - base).max(0.0) / f64::from(steps.max(1));
                (base + rise * step) / 1e3
            }
            Self::Ovirt => {
                let reached = OVIRT.iter().rfind(|(at, _)| stalls >= *at);
                seconds(reached.map_or(100, |(_, limit)| *limit))
            }
            Self::Proxmox => seconds(100 << (stalls / 5).min(DOUBLINGS_MAX)),
            Self::Qemu | Self::Constant { .. } | Self::Kubevirt => seconds(self.largest_limit_ms()),
        }
    }

    /// Returns when the limit next changes by the mere passing of time, if it does.
    pub(crate) fn next_change_s(&self, elapsed_s: f64) -> Option<f64> {
        let Self::NovaRamp { steps, .. } = *self else {
            return None;
        };
        let next = self.ramp_step(elapsed_s) + 1.0;
        let delay = self.ramp_delay_s();
        (next <= f64::from(steps) && delay > 0.0).then_some(next * delay)
    }

    /// Whether more passes without headway would raise the limit.
    pub(crate) fn rises_with_stalls(&self, stalls: u32) -> bool {
        match self {
            Self::Ovirt => stalls < 6,
            Self::Proxmox => stalls / 5 < DOUBLINGS_MAX,
            _ => false,
        }
    }

    fn ramp_delay_s(&self) -> f64 {
        match *self {
            Self::NovaRamp {
                delay_ms_per_gib,
                gib,
                ..
            } => seconds(delay_ms_per_gib) * gib.max(2) as f64,
            _ => 0.0,
        }
    }

    fn ramp_step(&self, elapsed_s: f64) -> f64 {
        let Self::NovaRamp { steps, .. } = *self else {
            return 0.0;
        };
        let delay = self.ramp_delay_s();
        if delay <= 0.0 {
            return f64::from(steps);
        }
        // The nudge keeps a time that was computed as "n delays" from falling just short of n.
        (elapsed_s / delay + 1e-9)
            .floor()
            .clamp(0.0, f64::from(steps))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nova_climbs_from_50_to_500_ms_in_steps_of_75_seconds_per_gib() {
        let nova = DowntimeProfile::nova_default(4 << 30);
        let at = |s: f64| (nova.limit_s(s, 0) * 1e3).round();
        assert_eq!(
            (at(0.0), at(299.0), at(300.0), at(3000.0)),
            (50.0, 50.0, 95.0, 500.0)
        );
        assert_eq!(nova.next_change_s(0.0), Some(300.0));
        assert_eq!(nova.next_change_s(300.0), Some(600.0));
        assert_eq!(nova.next_change_s(3000.0), None);
        assert_eq!(
            DowntimeProfile::nova_default(1 << 20).largest_limit_ms(),
            500
        );
    }

    #[test]
    fn proxmox_doubles_and_ovirt_stops_at_half_a_second() {
        assert_eq!(DowntimeProfile::Proxmox.limit_s(0.0, 10).to_string(), "0.4");
        assert_eq!(DowntimeProfile::Ovirt.limit_s(0.0, 99).to_string(), "0.5");
        assert!(!DowntimeProfile::Ovirt.rises_with_stalls(6));
    }

    #[test]
    fn a_profile_that_allows_nothing_is_refused() {
        let zero = DowntimeProfile::Constant { limit_ms: 0 };
        assert_eq!(zero.check(), Err(InputError::DowntimeLimitZero));
    }
}
