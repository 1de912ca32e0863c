//! Guests that dirty their memory by a known pattern at a known rate.
//!
//! A guest boots from a flat image of a few kilobytes that this module renders; the pattern is
//! part of the image, so two guests never share one.
//!
//! Not here: starting a guest (see [`crate::stage::Node::define_and_start`]), guests with a
//! system inside, and balloon, network or disk traffic: their devices exist and stay silent.

mod emit;
mod program;

use program::{Group, Order, Parameters};
use uuid::Uuid;

/// What the guest writes to its serial line once its memory is filled.
pub const FILLED: &str = program::FILLED;

/// The size of one page.
pub const PAGE_BYTES: u32 = 4096;

/// Memory the guest may not dirty: firmware, the program itself, and the top the firmware keeps.
const RESERVED_BYTES: u32 = program::AREA + 2 * MIB;
const MIB: u32 = 1 << 20;
/// The program is a 32-bit one, and the `pc` machine has a hole below 4 GiB.
const MEMORY_MIB_MAX: u32 = 2048;
const MEMORY_MIB_MIN: u32 = 16;

/// How the guest dirties its memory.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Pattern {
    /// Writes nothing, and sleeps for ever.
    Idle,
    /// Writes pages of one set at random.
    Uniform(PageSet),
    /// Writes a small set often and another, which follows it in memory, seldom.
    HotCold {
        /// The set written often.
        hot: PageSet,
        /// The set written seldom.
        cold: PageSet,
    },
    /// Writes the pages of one set in turn, round and round.
    Cyclic(PageSet),
    /// Writes up to eight sets, one after the other in memory, each at random at its own rate.
    Strata(Vec<PageSet>),
}

/// A set of pages and the rate at which pages of it are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageSet {
    /// The size of the set; a part of a page is left out.
    pub working_set_bytes: u32,
    /// Page writes a second, counting a page again each time it is written.
    pub pages_per_second: u32,
}

/// One guest: its identity, its size and what it does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Guest {
    /// The name libvirt knows it by: lower-case letters, digits and hyphens.
    pub name: String,
    /// The identity that stays with it over migrations.
    pub uuid: Uuid,
    /// The memory it is given.
    pub memory_mib: u32,
    /// Its processors, of which only the first does anything.
    pub vcpus: u32,
    /// How much memory it fills with random content at its start; the rest stays zero.
    pub fill_bytes: u32,
    /// How it dirties memory after that.
    pub pattern: Pattern,
    /// The beginning of its pseudo-random sequence.
    pub seed: u32,
}

/// Why a guest cannot be made.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum GuestError {
    /// The name would need escaping in XML or on a file system.
    #[error("guest name {name:?} may hold only lower-case letters, digits and hyphens")]
    Name {
        /// The name that was asked for.
        name: String,
    },
    /// The memory is outside of what the program can address.
    #[error("memory of {memory_mib} MiB is outside {MEMORY_MIB_MIN} to {MEMORY_MIB_MAX} MiB")]
    Memory {
        /// The memory that was asked for.
        memory_mib: u32,
    },
    /// The filled memory or the working sets reach beyond the guest's memory.
    #[error("{what} of {wanted_bytes} bytes exceeds the {usable_bytes} bytes the guest can write")]
    TooLarge {
        /// Which of the sizes it was.
        what: &'static str,
        /// The size that was asked for.
        wanted_bytes: u64,
        /// The size there is.
        usable_bytes: u32,
    },
    /// A set holds no whole page, so there is nothing to write to.
    #[error("a working set of {working_set_bytes} bytes holds no whole page")]
    EmptySet {
        /// The size that was asked for.
        working_set_bytes: u32,
    },
    /// The program has room for eight sets.
    #[error(
        "{sets} page sets were given, the guest has room for {}",
        program::GROUPS
    )]
    TooManySets {
        /// The sets that were asked for.
        sets: usize,
    },
}

impl Guest {
    /// A guest with a fresh identity and one processor that fills half of its memory.
    pub fn new(name: &str, memory_mib: u32, pattern: Pattern) -> Self {
        Self {
            name: name.to_owned(),
            uuid: Uuid::new_v4(),
            memory_mib,
            vcpus: 1,
            fill_bytes: memory_mib.saturating_mul(MIB / 2),
            pattern,
            seed: 1,
        }
    }

    /// Renders the image the guest boots from.
    ///
    /// # Errors
    ///
    /// Refuses a guest whose memory cannot hold what it is asked to do.
    pub fn image(&self) -> Result<Vec<u8>, GuestError> {
        let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if self.name.is_empty() || !self.name.chars().all(allowed) {
            return Err(GuestError::Name {
                name: self.name.clone(),
            });
        }
        if !(MEMORY_MIB_MIN..=MEMORY_MIB_MAX).contains(&self.memory_mib) {
            return Err(GuestError::Memory {
                memory_mib: self.memory_mib,
            });
        }
        let groups = self.groups()?;
        let written_bytes: u64 = groups
            .iter()
            .map(|group| u64::from(group.pages) * u64::from(PAGE_BYTES))
            .sum();
        self.fits("filled memory", u64::from(self.fill_bytes))?;
        self.fits("a working set", written_bytes)?;
        Ok(program::image(&Parameters {
            fill_bytes: self.fill_bytes,
            seed: self.seed,
            groups,
        }))
    }

    /// The most a guest of this size can fill or dirty.
    pub fn usable_bytes(&self) -> u32 {
        self.memory_mib
            .saturating_mul(MIB)
            .saturating_sub(RESERVED_BYTES)
    }

    fn fits(&self, what: &'static str, wanted_bytes: u64) -> Result<(), GuestError> {
        let usable_bytes = self.usable_bytes();
        if wanted_bytes > u64::from(usable_bytes) {
            return Err(GuestError::TooLarge {
                what,
                wanted_bytes,
                usable_bytes,
            });
        }
        Ok(())
    }

    fn groups(&self) -> Result<Vec<Group>, GuestError> {
        let (sets, order) = match &self.pattern {
            Pattern::Idle => (Vec::new(), Order::Uniform),
            Pattern::Uniform(set) => (vec![*set], Order::Uniform),
            Pattern::HotCold { hot, cold } => (vec![*hot, *cold], Order::Uniform),
            Pattern::Cyclic(set) => (vec![*set], Order::Cyclic),
            Pattern::Strata(sets) => (sets.clone(), Order::Uniform),
        };
        if sets.len() > program::GROUPS {
            return Err(GuestError::TooManySets { sets: sets.len() });
        }
        let mut first_page = 0_u32;
        let mut groups = Vec::with_capacity(sets.len());
        for set in sets {
            let pages = set.working_set_bytes / PAGE_BYTES;
            if pages == 0 {
                return Err(GuestError::EmptySet {
                    working_set_bytes: set.working_set_bytes,
                });
            }
            groups.push(Group {
                first_page,
                pages,
                pages_per_second: set.pages_per_second,
                order,
            });
            first_page = first_page.saturating_add(pages);
        }
        Ok(groups)
    }

    /// Renders the domain that boots `image_path` and writes its serial line to `serial_path`.
    pub(crate) fn domain_xml(&self, image_path: &str, serial_path: &str) -> String {
        let Self {
            name,
            uuid,
            memory_mib,
            vcpus,
            ..
        } = self;
        format!(
            "<domain type='qemu'>
  <name>{name}</name>
  <uuid>{uuid}</uuid>
  <memory unit='MiB'>{memory_mib}</memory>
  <vcpu>{vcpus}</vcpu>
  <os><type arch='x86_64' machine='pc'>hvm</type><kernel>{image_path}</kernel></os>
  <features><acpi/></features>
  <cpu mode='custom' match='exact'><model fallback='forbid'>qemu64</model></cpu>
  <on_poweroff>destroy</on_poweroff>
  <on_reboot>destroy</on_reboot>
  <on_crash>destroy</on_crash>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <controller type='usb' model='none'/>
    <memballoon model='virtio'/>
    <serial type='file'><source path='{serial_path}' append='on'/></serial>
  </devices>
</domain>
"
        )
    }
}

/// What to ask QEMU's monitor (its human one) for the pages a guest has written since it filled its memory,
/// as it counts them itself.
pub fn count_question() -> String {
    format!("xp /1wx {:#x}", program::WRITTEN)
}

/// Reads the answer to [`count_question`]; absent if the line holds none. The count goes round at 2^32.
pub fn count_told(line: &str) -> Option<u32> {
    let (address, word) = line.trim().split_once(": 0x")?;
    let address = u32::from_str_radix(address, 16).ok()?;
    let word = u32::from_str_radix(word, 16).ok()?;
    (address == program::WRITTEN).then_some(word)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(working_set_bytes: u32, pages_per_second: u32) -> PageSet {
        PageSet {
            working_set_bytes,
            pages_per_second,
        }
    }

    #[test]
    fn a_working_set_larger_than_the_memory_is_refused() {
        let guest = Guest::new("a", 64, Pattern::Uniform(set(64 * MIB, 1)));
        assert_eq!(
            guest.image(),
            Err(GuestError::TooLarge {
                what: "a working set",
                wanted_bytes: 64 << 20,
                usable_bytes: 60 * MIB,
            })
        );
    }

    #[test]
    fn the_count_of_written_pages_is_read_from_the_monitor_s_answer_and_from_nothing_else() {
        assert_eq!(
            count_told("0000000000100030: 0x0001f0a4\r\n"),
            Some(0x1_f0a4)
        );
        for line in [
            "virsh # qemu-monitor-command a --hmp \"xp /1wx 0x100030\"",
            "0000000000100034: 0x00000001",
            "",
        ] {
            assert_eq!(count_told(line), None, "{line}");
        }
    }

    #[test]
    fn a_name_that_xml_would_misread_is_refused() {
        let guest = Guest::new("a<b", 64, Pattern::Idle);
        assert!(matches!(guest.image(), Err(GuestError::Name { .. })));
    }

    #[test]
    fn the_cold_set_follows_the_hot_one_in_memory() {
        let pattern = Pattern::HotCold {
            hot: set(4 * PAGE_BYTES, 100),
            cold: set(8 * PAGE_BYTES, 10),
        };
        let groups = Guest::new("a", 64, pattern).groups().unwrap();
        assert_eq!((groups[0].first_page, groups[0].pages), (0, 4));
        assert_eq!((groups[1].first_page, groups[1].pages), (4, 8));
    }

    #[test]
    fn a_set_smaller_than_a_page_is_refused() {
        let guest = Guest::new("a", 64, Pattern::Cyclic(set(PAGE_BYTES - 1, 1)));
        assert!(matches!(guest.image(), Err(GuestError::EmptySet { .. })));
    }
}
