//! Which mode a guest should be moved by, of those that were estimated: the one that ends and harms it least.

use plimsoll_model::{MigrationMode, Ratio};

use crate::answer::{Estimate, Verdict};

/// The mode to take, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// The mode; absent where none is sure to end within what can be borne, or nothing is known.
    pub mode: Option<MigrationMode>,
    /// Why, a sentence for each mode, the least harmful first.
    pub reasons: Vec<String>,
}

/// Chooses among estimates of one guest in several modes.
///
/// What copies while the guest runs comes before what slows it, that before what loses it with the link,
/// and that before what stops it. A mode is taken if it ends with a chance of at least 90 % and nine in ten
/// of its downtimes are no longer than `downtime_max_ms`.
pub fn choose(estimates: &[Estimate], downtime_max_ms: Option<u64>) -> Choice {
    let mut choice = Choice {
        mode: None,
        reasons: Vec::new(),
    };
    let mut ordered: Vec<&Estimate> = estimates.iter().collect();
    ordered.sort_by_key(|one| harm(one.mode));
    for one in ordered {
        let name = name(one.mode);
        let refusal = refusal(one, downtime_max_ms);
        choice.reasons.push(match (&refusal, choice.mode) {
            (Some(why), _) => format!("{name} is not taken: {why}."),
            (None, None) => format!("{name} is taken: {}.", price(one)),
            (None, Some(_)) => format!("{name} would do: {}.", price(one)),
        });
        // Where nobody knows how the guest writes, what would harm it more is no remedy.
        if choice.mode.is_none() && one.verdict == Verdict::Unknown {
            return choice;
        }
        if refusal.is_none() {
            choice.mode.get_or_insert(one.mode);
        }
    }
    choice
}

fn harm(mode: MigrationMode) -> u8 {
    match mode {
        MigrationMode::Precopy => 0,
        MigrationMode::PrecopyAutoConverge => 1,
        MigrationMode::Postcopy => 2,
        MigrationMode::StopCopy => 3,
    }
}

fn name(mode: MigrationMode) -> &'static str {
    match mode {
        MigrationMode::Precopy => "Pre-copy",
        MigrationMode::PrecopyAutoConverge => "Auto-converge",
        MigrationMode::Postcopy => "Post-copy",
        MigrationMode::StopCopy => "Stop-copy",
    }
}

/// Says why a mode is not taken; absent if it may be.
fn refusal(one: &Estimate, downtime_max_ms: Option<u64>) -> Option<String> {
    let percent = one.probability.map_or(0.0, |p| p.as_f64() * 100.0);
    match one.verdict {
        Verdict::Unknown => {
            return Some("whether it ends is unknown until a dirty rate is measured".to_owned());
        }
        Verdict::DoesNotConverge => return Some("it does not end".to_owned()),
        Verdict::AtRisk => return Some(format!("it ends with a chance of {percent:.0} % only")),
        Verdict::Converges => {}
    }
    let (limit, downtime) = (downtime_max_ms?, one.downtime_ms?);
    let may_be = downtime.p90;
    (may_be > limit).then(|| format!("the guest may be down for {may_be} ms, {limit} ms are borne"))
}

/// Says what a mode costs the guest.
fn price(one: &Estimate) -> String {
    let seconds = |ms: u64| ms as f64 / 1e3;
    let (total, downtime) = (
        one.total_ms.unwrap_or_default(),
        one.downtime_ms.unwrap_or_default(),
    );
    let times = format!(
        "it takes {:.1} s, with the guest down for {} ms",
        seconds(total.p50),
        downtime.p50
    );
    match one.mode {
        MigrationMode::Precopy | MigrationMode::StopCopy => times,
        MigrationMode::PrecopyAutoConverge => match one.throttle.map_or(0.0, Ratio::as_f64) {
            most if most <= 0.0 => format!("{times}, and need not be slowed"),
            most => format!("{times} and slowed by up to {:.0} % before", most * 100.0),
        },
        MigrationMode::Postcopy => {
            let window = one.postcopy.map_or(0, |risk| risk.risk_window_ms.p50);
            format!(
                "{times}; in {:.1} s after it a lost link loses the guest",
                seconds(window)
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use plimsoll_model::{Bandwidth, ByteSize, DirtyRate};

    use super::*;
    use crate::{BandwidthSource, DirtyPoint, Inputs, LinkBandwidth, Policy, estimate};

    const MODES: [MigrationMode; 4] = [
        MigrationMode::StopCopy,
        MigrationMode::Postcopy,
        MigrationMode::PrecopyAutoConverge,
        MigrationMode::Precopy,
    ];

    /// A guest of 4 GiB over 1 Gbit/s, all touched, of which so much is written in one and in three seconds.
    fn estimates(written_mib: Option<[u64; 2]>) -> Vec<Estimate> {
        let link = LinkBandwidth {
            rate: Bandwidth::from_mbit_per_second(1_000),
            uncertainty: None,
            source: BandwidthSource::Capacity,
        };
        let made = MODES.map(|mode| {
            let memory = ByteSize::from_mib(4_096);
            let mut inputs = Inputs::new(memory, link, Policy::qemu(mode));
            inputs.telemetry_age_ms = Some(0);
            if let Some([one, three]) = written_mib {
                let point = |window_ms, mib: u64| {
                    let rate = DirtyRate::from_bytes_per_second(
                        (mib << 20) * 1_000 / u64::from(window_ms),
                    );
                    DirtyPoint::libvirt(window_ms, rate)
                };
                inputs.dirty_points = vec![point(1_000, one), point(3_000, three)];
            }
            estimate(&inputs).unwrap()
        });
        made.to_vec()
    }

    #[test]
    fn what_ends_by_itself_is_not_harmed() {
        let choice = choose(&estimates(Some([4, 6])), None);
        assert_eq!(choice.mode, Some(MigrationMode::Precopy), "{choice:?}");
        assert_eq!(choice.reasons.len(), 4);
        assert!(choice.reasons[0].starts_with("Pre-copy is taken: it takes "));
    }

    #[test]
    fn what_does_not_end_by_itself_is_moved_by_what_harms_it_least() {
        let wild = estimates(Some([900, 2_600]));
        let choice = choose(&wild, None);
        assert_eq!(choice.reasons[0], "Pre-copy is not taken: it does not end.");
        let taken = choice.mode.unwrap();
        assert_ne!(taken, MigrationMode::Precopy);
        let less = wild.iter().filter(|one| harm(one.mode) < harm(taken));
        let may = less.filter(|one| refusal(one, None).is_none()).count();
        assert_eq!(may, 0, "{choice:?}");
    }

    #[test]
    fn a_downtime_that_cannot_be_borne_rules_a_mode_out() {
        let wild = estimates(Some([900, 2_600]));
        let borne = choose(&wild, Some(5_000));
        assert!(borne.reasons[3].contains("5000 ms are borne"), "{borne:?}");
        let none = choose(&wild, Some(1));
        assert_eq!(none.mode, None, "{none:?}");
    }

    #[test]
    fn nothing_is_chosen_for_a_guest_of_whose_writing_nothing_is_known() {
        let choice = choose(&estimates(None), None);
        assert_eq!(choice.mode, None);
        assert_eq!(choice.reasons.len(), 1, "{choice:?}");
        assert!(choice.reasons[0].contains("until a dirty rate is measured"));
    }
}
