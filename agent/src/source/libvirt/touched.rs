//! How much of a guest's memory the host ever gave pages to, told from the mappings of its process.
//!
//! Resident memory of the whole process would be too much by QEMU's own: code, heap and, without KVM,
//! a cache of translated code that grows to 1 GiB. It guesses at nothing: a process whose guest
//! memory cannot be told from the rest has no value.

use std::path::Path;
use std::time::Duration;

use plimsoll_libvirt::DomainRef;
use plimsoll_model::{ByteSize, Metric};

use super::process;
use crate::look::Values;

/// Walking the page tables of one GiB takes about 3 ms, so this is a ten-thousandth of one processor.
const EVERY_PER_GIB: Duration = Duration::from_secs(30);
const EVERY_MIN: Duration = Duration::from_secs(5);
/// Beyond this QEMU's own memory is a thousandth of the guest's, and the walk lasts long.
const MEMORY_MAX: ByteSize = ByteSize::from_mib(64 << 10);

/// How long a value stays; none for guests that are too large to be looked through.
pub(super) fn every(memory: ByteSize) -> Option<Duration> {
    let mib = u32::try_from(memory.bytes() >> 20).ok()?;
    (memory <= MEMORY_MAX).then(|| EVERY_MIN.max(EVERY_PER_GIB * mib / 1_024))
}

/// Reads it, and what the same text tells of the whole process, as smaps_rollup would at the price of a
/// second walk; needs the right to trace the process, as root has it.
pub(super) fn read(root: &Path, domain: &DomainRef, memory: ByteSize, values: &mut Values) {
    let Some(pid) = process::pid(root, domain) else {
        return;
    };
    let Ok(text) = std::fs::read_to_string(root.join(format!("proc/{pid}/smaps"))) else {
        return;
    };
    tell(&text, memory, values);
}

fn tell(text: &str, memory: ByteSize, values: &mut Values) {
    if let Some(touched) = parse(text, memory) {
        values.whole(Metric::VmMemTouched, touched.bytes());
    }
    for (name, metric) in [
        ("Pss:", Metric::VmMemPss),
        ("AnonHugePages:", Metric::VmMemAnonHuge),
    ] {
        let lines = text.lines().filter_map(|line| line.strip_prefix(name));
        let kib = lines.filter_map(|kib| kib.trim().strip_suffix("kB")?.trim_end().parse().ok());
        let sizes: Vec<u64> = kib.collect();
        if !sizes.is_empty() {
            let kib = sizes.into_iter().fold(0, u64::saturating_add);
            values.whole(metric, ByteSize::from_kib(kib).bytes());
        }
    }
}

/// A mapping of a process.
#[derive(Debug, Default, Clone, Copy)]
struct Mapping {
    bytes: u64,
    touched_bytes: u64,
}

/// Adds up the largest mappings that together are exactly the guest's memory: one, or one for each
/// of its NUMA nodes or modules. Absent if no such set stands out.
fn parse(text: &str, memory: ByteSize) -> Option<ByteSize> {
    let mut mappings = mappings(text);
    mappings.sort_by_key(|mapping| std::cmp::Reverse(mapping.bytes));
    let mut sum = Mapping::default();
    for mapping in mappings {
        if sum.bytes.saturating_add(mapping.bytes) <= memory.bytes() {
            sum.bytes += mapping.bytes;
            sum.touched_bytes = sum.touched_bytes.saturating_add(mapping.touched_bytes);
        }
        if sum.bytes == memory.bytes() {
            return Some(ByteSize::from_bytes(sum.touched_bytes));
        }
    }
    None
}

/// Lists what can be written but not executed; the latter holds translated code.
fn mappings(text: &str) -> Vec<Mapping> {
    let mut mappings: Vec<Mapping> = Vec::new();
    let mut counts = false;
    for line in text.lines() {
        let mut words = line.split_ascii_whitespace();
        let (Some(first), Some(second)) = (words.next(), words.next()) else {
            continue;
        };
        let Some(name) = first.strip_suffix(':') else {
            counts = second.starts_with("rw-");
            if let (true, Some((begin, end))) = (counts, range(first)) {
                mappings.push(Mapping {
                    bytes: end.saturating_sub(begin),
                    touched_bytes: 0,
                });
            }
            continue;
        };
        let is_there = ["Rss", "Swap", "Shared_Hugetlb", "Private_Hugetlb"].contains(&name);
        if let (true, true, Some(mapping), Ok(kib)) =
            (counts, is_there, mappings.last_mut(), second.parse::<u64>())
        {
            let bytes = kib.saturating_mul(1 << 10);
            mapping.touched_bytes = mapping.touched_bytes.saturating_add(bytes);
        }
    }
    mappings
}

fn range(word: &str) -> Option<(u64, u64)> {
    let (begin, end) = word.split_once('-')?;
    let hex = |digits| u64::from_str_radix(digits, 16).ok();
    Some((hex(begin)?, hex(end)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a guest of 256 MiB looks like under TCG: its memory, the heap, the translated code.
    const TCG: &str = "\
7fb33fe00000-7fb34fe00000 rw-p 00000000 00:00 0
Size:             262144 kB
Rss:              137216 kB
Private_Dirty:    137216 kB
Swap:                 16 kB
SwapPss:              16 kB
Private_Hugetlb:       0 kB
556d6c37d000-556d6d337000 rw-p 00000000 00:00 0                          [heap]
Size:              16104 kB
Rss:                4224 kB
7fb350000000-7fb38ffff000 rwxp 00000000 00:00 0
Size:            1048572 kB
Rss:               90048 kB
";

    #[test]
    fn only_the_memory_of_the_guest_counts() {
        let touched = parse(TCG, ByteSize::from_mib(256));
        assert_eq!(touched, Some(ByteSize::from_kib(137_232)));
    }

    #[test]
    fn memory_that_does_not_stand_out_is_not_told() {
        assert_eq!(parse(TCG, ByteSize::from_mib(300)), None);
        assert_eq!(parse("", ByteSize::from_mib(256)), None);
        assert_eq!(parse("x-y rw-p\nRss: z kB\n", ByteSize::from_mib(1)), None);
    }

    #[test]
    fn memory_in_two_modules_and_on_huge_pages_is_added_up() {
        let text = "\
10000000-20000000 rw-s 00000000 00:0f 7  /dev/hugepages/a
Rss:                   0 kB
Shared_Hugetlb:   204800 kB
20000000-28000000 ---p 00000000 00:00 0
Rss:                   0 kB
30000000-40000000 rw-s 00000000 00:0f 8  /dev/hugepages/b
Private_Hugetlb:    2048 kB
";
        let touched = parse(text, ByteSize::from_mib(512));
        assert_eq!(touched, Some(ByteSize::from_kib(206_848)));
    }

    #[test]
    fn the_whole_process_is_added_up_from_the_same_text() {
        let text = "\
10000000-20000000 rw-p 00000000 00:00 0
Pss:                 100 kB
Pss_Dirty:            90 kB
AnonHugePages:      2048 kB
20000000-28000000 r-xp 00000000 00:0f 7  /usr/bin/qemu
Pss:                   4 kB
AnonHugePages:         0 kB
";
        let mut values = Values::default();
        tell(text, ByteSize::from_mib(1), &mut values);
        let at = plimsoll_model::UnixMillis::from_millis(1);
        let node = plimsoll_model::Subject::Node(plimsoll_model::NodeId::random());
        let window = plimsoll_model::Window::between(at, at);
        let told: Vec<_> = values.sweep(node, window).unwrap().values;
        let told: Vec<_> = told
            .iter()
            .map(|(metric, _, value)| (*metric, *value))
            .collect();
        let expected = [
            (Metric::VmMemPss, 104 << 10),
            (Metric::VmMemAnonHuge, 2 << 20),
        ];
        assert_eq!(told, expected);
    }

    #[test]
    fn large_guests_are_looked_through_seldom_and_the_largest_never() {
        let every = |mib| every(ByteSize::from_mib(mib));
        assert_eq!(every(64), Some(Duration::from_secs(5)));
        assert_eq!(every(8 << 10), Some(Duration::from_secs(240)));
        assert_eq!(every((64 << 10) + 1), None);
    }
}
