//! How much of a guest's memory is zero, from what the host sees of it. Reads nothing itself.

use plimsoll_model::{Accelerator, ByteSize, Ratio};

/// Memory of a QEMU process that is not the guest's: middle and deviation. Under TCG it holds translated
/// code, which grows with what the guest runs: 37 MiB with a boot sector, 123 MiB with a Linux system
/// (both measured on QEMU 7.2).
const OVERHEAD_TCG: (ByteSize, ByteSize) = (ByteSize::from_mib(80), ByteSize::from_mib(40));
/// The same with KVM, which translates nothing; a prior that no KVM host has confirmed yet.
const OVERHEAD_KVM: (ByteSize, ByteSize) = (ByteSize::from_mib(50), ByteSize::from_mib(20));

/// The share of a guest's memory that is zero, 0 to 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ZeroShare {
    /// The share.
    pub share: Ratio,
    /// Its standard deviation; absent where it was counted.
    pub deviation: Option<Ratio>,
}

/// Derives the share from the pages that the host ever gave to the guest; absent for a guest without memory.
///
/// Pages that the guest zeroed again count as not zero, so the share is a lower bound.
pub fn zero_share_from_touched(touched: ByteSize, memory_total: ByteSize) -> Option<ZeroShare> {
    let untouched = memory_total.saturating_sub(touched);
    Some(ZeroShare {
        share: share(untouched, memory_total)?,
        deviation: None,
    })
}

/// Derives the share from the resident memory of the QEMU process, of which an unknown part is not the
/// guest's; absent for guests on huge pages, whose memory the kernel does not count as resident.
pub fn zero_share_from_rss(
    rss: ByteSize,
    memory_total: ByteSize,
    accelerator: Option<Accelerator>,
    huge_pages: bool,
) -> Option<ZeroShare> {
    if huge_pages || rss.bytes() == 0 {
        return None;
    }
    let (overhead, deviation) = match accelerator {
        Some(Accelerator::Tcg) => OVERHEAD_TCG,
        Some(Accelerator::Kvm) | None => OVERHEAD_KVM,
    };
    let touched = rss.saturating_sub(overhead);
    Some(ZeroShare {
        share: share(memory_total.saturating_sub(touched), memory_total)?,
        deviation: share(deviation, memory_total),
    })
}

/// Returns part / whole, at most 1.
fn share(part: ByteSize, whole: ByteSize) -> Option<Ratio> {
    let part = u128::from(part.min(whole).bytes());
    let millionths = (part * 1_000_000).checked_div(u128::from(whole.bytes()))?;
    u64::try_from(millionths).ok().map(Ratio::from_millionths)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_counted_is_surer_than_what_was_guessed() {
        let memory = ByteSize::from_mib(256);
        let counted = zero_share_from_touched(ByteSize::from_mib(128), memory).unwrap();
        assert_eq!(counted.share.millionths(), 500_000);
        assert_eq!(counted.deviation, None);
        let tcg = Some(Accelerator::Tcg);
        let guessed = zero_share_from_rss(ByteSize::from_mib(171), memory, tcg, false).unwrap();
        assert!(guessed.deviation.unwrap().as_f64() > 0.1);
    }

    #[test]
    fn nothing_is_derived_from_what_cannot_be_seen() {
        let (rss, memory) = (ByteSize::from_mib(100), ByteSize::from_mib(256));
        assert_eq!(zero_share_from_rss(rss, memory, None, true), None);
        assert_eq!(
            zero_share_from_rss(ByteSize::default(), memory, None, false),
            None
        );
        assert_eq!(zero_share_from_touched(rss, ByteSize::default()), None);
    }

    #[test]
    fn more_than_there_is_means_that_nothing_is_zero() {
        let memory = ByteSize::from_mib(256);
        let all = zero_share_from_touched(ByteSize::from_mib(300), memory).unwrap();
        assert_eq!(all.share.millionths(), 0);
    }
}
