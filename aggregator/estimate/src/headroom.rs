//! How much room a host really has: what may still be promised and what is physically left.
//! Guesses no use: the caller brings the percentile it trusts.

use plimsoll_model::{ByteSize, Ratio};

use crate::error::InputError;

/// One resource of a host, in one unit throughout: millionths of a processor, bytes, or bytes per second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResourceState {
    /// All there is.
    pub total: u64,
    /// Kept for the host, taken off before the ratio.
    pub reserved: u64,
    /// How far it may be promised beyond what there is; above 0.
    pub ratio: Ratio,
    /// Promised to guests.
    pub allocated: u64,
    /// Promised to guests that are on their way here, or held for those on their way out.
    pub in_flight: u64,
    /// What is really in use, at the percentile the caller trusts; absent if not measured.
    pub used: Option<u64>,
    /// Share of the total that is never filled.
    pub margin: Ratio,
}

/// Room of one resource, in its unit; negative is overdrawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResourceHeadroom {
    /// What may still be promised: int((total - reserved) * ratio) - allocated - in flight.
    pub allocation: i128,
    /// What is left: total - reserved - use - margin, never times the ratio; absent if the use is unknown.
    pub physical: Option<i128>,
}

/// A kind of resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Resource {
    /// Processors.
    Cpu,
    /// Memory.
    Memory,
    /// Network.
    Network,
}

/// What a host has. Processors are counted in millionths of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostState {
    /// Processors, in millionths of one.
    pub cpu: ResourceState,
    /// Memory, in bytes.
    pub memory: ResourceState,
    /// Network, in bytes per second.
    pub network: Option<ResourceState>,
}

/// What a guest asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flavour {
    /// Virtual processors.
    pub vcpu_count: u32,
    /// Memory.
    pub memory: ByteSize,
}

/// What a move costs a host while it runs, taken off the physical room of both ends.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MoveCost {
    /// Processor time, in millionths of a processor.
    pub cpu_millionths: u64,
    /// Memory.
    pub memory: ByteSize,
    /// Network, in bytes per second.
    pub network_bytes_per_second: u64,
}

/// Room of a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Headroom {
    /// Processors, in millionths of one.
    pub cpu: ResourceHeadroom,
    /// Memory, in bytes.
    pub memory: ResourceHeadroom,
    /// Network, in bytes per second.
    pub network: Option<ResourceHeadroom>,
    /// The resource that runs out first, by the smallest share left of what there is.
    pub binding: Resource,
}

/// Computes the room of a host while it bears `cost`; pass the default for a host without moves.
pub fn headroom(host: &HostState, cost: &MoveCost) -> Result<Headroom, InputError> {
    let cpu = room("cpu", &host.cpu, cost.cpu_millionths)?;
    let memory = room("memory", &host.memory, cost.memory.bytes())?;
    let network = host
        .network
        .map(|state| room("network", &state, cost.network_bytes_per_second))
        .transpose()?;
    let mut binding = (Resource::Cpu, share_left(&host.cpu, &cpu));
    let others = [
        Some((Resource::Memory, share_left(&host.memory, &memory))),
        host.network
            .zip(network)
            .map(|(state, room)| (Resource::Network, share_left(&state, &room))),
    ];
    for other in others.into_iter().flatten() {
        if other.1 < binding.1 {
            binding = other;
        }
    }
    Ok(Headroom {
        cpu,
        memory,
        network,
        binding: binding.0,
    })
}

impl Headroom {
    /// Counts how many such guests fit; 0 if a resource is overdrawn.
    ///
    /// Processors are held to the allocation alone, for an idle guest needs none; memory to the allocation
    /// and to what is physically left, for a guest may touch all of its memory.
    pub fn fits(&self, flavour: &Flavour) -> u64 {
        let memory = match self.memory.physical {
            Some(physical) => self.memory.allocation.min(physical),
            None => self.memory.allocation,
        };
        let cpu_each = i128::from(flavour.vcpu_count) * 1_000_000;
        let cpu_fit = fit(self.cpu.allocation, cpu_each);
        let memory_fit = fit(memory, i128::from(flavour.memory.bytes()));
        let overdrawn = self.cpu.physical.is_some_and(|left| left < 0);
        if overdrawn {
            0
        } else {
            cpu_fit.min(memory_fit)
        }
    }
}

fn fit(room: i128, each: i128) -> u64 {
    if room < 0 {
        return 0;
    }
    match room.checked_div(each) {
        Some(count) => u64::try_from(count).unwrap_or(u64::MAX),
        // Asking for nothing of a resource: it sets no limit.
        None => u64::MAX,
    }
}

fn room(
    resource: &'static str,
    state: &ResourceState,
    cost: u64,
) -> Result<ResourceHeadroom, InputError> {
    if state.ratio.millionths() == 0 {
        return Err(InputError::RatioZero { resource });
    }
    let usable = i128::from(state.total) - i128::from(state.reserved);
    // More reserved than there is: the ratio must not make the lack smaller or larger.
    let promised = if usable < 0 {
        usable
    } else {
        usable * i128::from(state.ratio.millionths()) / 1_000_000
    };
    let allocation = promised - i128::from(state.allocated) - i128::from(state.in_flight);
    let margin = i128::from(state.margin.of(state.total));
    let physical = state
        .used
        .map(|used| usable - i128::from(used) - margin - i128::from(cost));
    Ok(ResourceHeadroom {
        allocation,
        physical,
    })
}

fn share_left(state: &ResourceState, room: &ResourceHeadroom) -> f64 {
    let whole = (state.total.max(1)) as f64;
    let promised = room.allocation as f64 / (whole * state.ratio.as_f64().max(1e-6));
    let physical = room
        .physical
        .map_or(f64::INFINITY, |left| left as f64 / whole);
    promised.min(physical)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    fn host() -> HostState {
        HostState {
            cpu: ResourceState {
                total: 16_000_000,
                reserved: 2_000_000,
                ratio: Ratio::from_millionths(16_000_000),
                allocated: 40_000_000,
                in_flight: 4_000_000,
                used: Some(5_000_000),
                margin: Ratio::from_millionths(100_000),
            },
            memory: ResourceState {
                total: 64 * GIB,
                reserved: 4 * GIB,
                ratio: Ratio::from_millionths(1_500_000),
                allocated: 50 * GIB,
                in_flight: 8 * GIB,
                used: Some(45 * GIB),
                margin: Ratio::from_millionths(0),
            },
            network: None,
        }
    }

    #[test]
    fn the_reserve_comes_off_before_the_ratio_and_memory_is_never_multiplied() {
        let room = headroom(&host(), &MoveCost::default()).unwrap();
        assert_eq!(room.cpu.allocation, 14 * 16_000_000 - 44_000_000);
        assert_eq!(room.memory.allocation, i128::from((90 - 58) * GIB));
        assert_eq!(room.memory.physical, Some(i128::from(15 * GIB)));
        assert_eq!(room.binding, Resource::Memory);
        let flavour = Flavour {
            vcpu_count: 2,
            memory: ByteSize::from_mib(4 << 10),
        };
        assert_eq!(room.fits(&flavour), 3);
    }

    #[test]
    fn an_overdrawn_host_shows_how_far_and_takes_nobody() {
        let mut state = host();
        state.memory.allocated = 100 * GIB;
        let room = headroom(&state, &MoveCost::default()).unwrap();
        assert_eq!(room.memory.allocation, -i128::from(18 * GIB));
        let flavour = Flavour {
            vcpu_count: 1,
            memory: ByteSize::from_mib(1),
        };
        assert_eq!(room.fits(&flavour), 0);
    }

    #[test]
    fn a_move_costs_room_and_a_ratio_of_zero_is_refused() {
        let cost = MoveCost {
            cpu_millionths: 1_000_000,
            memory: ByteSize::from_mib(1 << 10),
            network_bytes_per_second: 0,
        };
        let before = headroom(&host(), &MoveCost::default()).unwrap();
        let during = headroom(&host(), &cost).unwrap();
        assert_eq!(
            before.memory.physical.unwrap() - during.memory.physical.unwrap(),
            i128::from(GIB)
        );
        let mut state = host();
        state.cpu.ratio = Ratio::from_millionths(0);
        assert_eq!(
            headroom(&state, &cost),
            Err(InputError::RatioZero { resource: "cpu" })
        );
    }
}
