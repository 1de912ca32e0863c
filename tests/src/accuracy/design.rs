//! Which migrations are run: a fixed row of settings, the same in every run of the command.
//!
//! Of eight settings three are made not to converge and two lie around the border, where the outcome is
//! decided by chance. Settings are told apart by their number, so a row can be run in pieces.

use fastrand::Rng;
use serde::{Deserialize, Serialize};

use crate::guest::{Guest, PageSet, Pattern};

const MIB: u32 = 1 << 20;
/// Pages in one MiB.
const PAGES: u32 = 256;
/// Settings that share a stage, hence a link.
pub const GROUP: u32 = 8;
/// Speeds of the link, one for each group in turn.
const LINKS_MBIT: [u32; 4] = [400, 250, 600, 160];
/// Downtime limits: what clouds set, and one far below.
const LIMITS_MS: [u64; 6] = [100, 200, 300, 300, 500, 1_000];
/// Pages that a guest under TCG can write in a second beside everything else on two cores.
const RATE_MIB_MAX: u32 = 220;

/// How a guest writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Shape {
    /// Not at all.
    Idle,
    /// To one set at random.
    Uniform,
    /// To a small set often and to a large one seldom.
    HotCold,
    /// To one set in turn.
    Cyclic,
}

/// What is expected of a setting by its making; the verdict is the estimator's to find.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Aim {
    /// It ends.
    Ends,
    /// It lies within a fifth of the border.
    Border,
    /// It does not end.
    Never,
}

/// A set of pages as the guest is told to write it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Set {
    /// Size of the set.
    pub set_mib: u32,
    /// Writes to it.
    pub rate_mib_per_s: u32,
}

/// One setting.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Setting {
    /// Which.
    pub id: u32,
    /// What it is made for.
    pub aim: Aim,
    /// Speed of the nodes' links.
    pub link_mbit: u32,
    /// Memory of the guest.
    pub memory_mib: u32,
    /// Memory it fills at its start.
    pub fill_mib: u32,
    /// How it writes.
    pub shape: Shape,
    /// What it writes to: nothing, one set, or the often written one first.
    pub sets: Vec<Set>,
    /// The downtime limit.
    pub downtime_limit_ms: u64,
    /// Cap below the speed of the link.
    pub cap_mib_per_s: Option<u32>,
    /// When the migration is given up.
    pub timeout_s: u64,
}

impl Setting {
    /// The setting of a number.
    pub fn of(id: u32) -> Self {
        let mut rng = Rng::with_seed(u64::from(id) ^ 0x5eed_0f91);
        let group = usize::try_from(id / GROUP).unwrap_or(0);
        let link_mbit = LINKS_MBIT
            .get(group % LINKS_MBIT.len())
            .copied()
            .unwrap_or(400);
        let link_mib = f64::from(link_mbit) / 8.0 * 0.956 / 1.048_576;
        let downtime_limit_ms = rng.choice(LIMITS_MS).unwrap_or(300);
        // Under a cap what is left at the switch-over goes at the link's own speed.
        let capped = rng.u32(0..4) == 0;
        let cap_mib_per_s = capped.then(|| whole(link_mib * (0.4 + 0.4 * rng.f64())).max(5));
        let rate_mib = cap_mib_per_s.map_or(link_mib, f64::from);
        let threshold_mib = rate_mib * downtime_limit_ms as f64 / 1e3;
        let (aim, shape) = match id % 8 {
            0 => (Aim::Ends, Shape::Idle),
            1 => (Aim::Ends, Shape::Uniform),
            2 => (Aim::Ends, Shape::HotCold),
            3 => (Aim::Never, Shape::Uniform),
            4 => (Aim::Border, Shape::Uniform),
            5 => (Aim::Ends, Shape::Cyclic),
            6 => (Aim::Never, Shape::HotCold),
            _ => (Aim::Border, Shape::Uniform),
        };
        let sets = sets((aim, shape), rate_mib, threshold_mib, &mut rng);
        let written: u32 = sets.iter().map(|set| set.set_mib).sum();
        let fill_mib = rng.u32(48..160).max(written);
        let memory_mib = 256 + 128 * rng.u32(0..2);
        let first_pass_s = f64::from(fill_mib) / rate_mib;
        Self {
            id,
            aim,
            link_mbit,
            memory_mib,
            fill_mib,
            shape,
            sets,
            downtime_limit_ms,
            cap_mib_per_s,
            timeout_s: u64::from(whole(15.0 + 4.0 * first_pass_s).min(45)),
        }
    }

    /// The guest of the setting.
    pub fn guest(&self) -> Guest {
        let mut sets = self.sets.iter().map(|set| PageSet {
            working_set_bytes: set.set_mib * MIB,
            pages_per_second: set.rate_mib_per_s * PAGES,
        });
        let pattern = match (self.shape, sets.next(), sets.next()) {
            (Shape::Uniform, Some(set), _) => Pattern::Uniform(set),
            (Shape::Cyclic, Some(set), _) => Pattern::Cyclic(set),
            (Shape::HotCold, Some(hot), Some(cold)) => Pattern::HotCold { hot, cold },
            _ => Pattern::Idle,
        };
        let mut guest = Guest::new(&format!("guest-{}", self.id), self.memory_mib, pattern);
        guest.fill_bytes = self.fill_mib * MIB;
        guest.seed = self.id + 1;
        guest
    }
}

fn sets((aim, shape): (Aim, Shape), link: f64, threshold: f64, rng: &mut Rng) -> Vec<Set> {
    let set = |set_mib: f64, rate: f64| Set {
        set_mib: whole(set_mib).clamp(1, 140),
        rate_mib_per_s: whole(rate).clamp(1, RATE_MIB_MAX),
    };
    match (aim, shape) {
        (_, Shape::Idle) => Vec::new(),
        (Aim::Border, _) => {
            // What a full pass leaves dirty is y of the set where 1 - e^(-ky) = y; at the border that is
            // what may be left at the switch-over.
            let y = 0.25 + 0.4 * rng.f64();
            let size = (threshold / y).clamp(4.0, 140.0);
            let y = (threshold / size).clamp(0.02, 0.9);
            let k = -(1.0 - y).ln() / y;
            vec![set(size, link * k * (0.8 + 0.4 * rng.f64()))]
        }
        (Aim::Never, Shape::HotCold) => {
            let hot = (2.5 * threshold).clamp(24.0, 100.0);
            let rate = link * (2.0 + 2.0 * rng.f64());
            vec![set(hot, rate), set(40.0, link * 0.1)]
        }
        (Aim::Never, _) => {
            let size = (3.0 * threshold).clamp(32.0, 140.0);
            vec![set(size, link * (2.0 + 2.0 * rng.f64()))]
        }
        (Aim::Ends, Shape::HotCold) => {
            let hot = (0.5 * threshold).clamp(1.0, 24.0);
            vec![
                set(hot, link * (0.3 + rng.f64())),
                set(24.0 + 72.0 * rng.f64(), link * (0.05 + 0.15 * rng.f64())),
            ]
        }
        (Aim::Ends, _) => {
            let size = 8.0 + 80.0 * rng.f64();
            vec![set(size, link * (0.1 + 0.5 * rng.f64()))]
        }
    }
}

fn whole(value: f64) -> u32 {
    // Sizes and rates of the design are small and positive.
    format!("{:.0}", value.max(0.0)).parse().unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_setting_makes_a_guest_that_fits() {
        for id in 0..400 {
            let setting = Setting::of(id);
            setting.guest().image().unwrap();
            assert_eq!(
                setting,
                Setting::of(id),
                "the same number, the same setting"
            );
        }
    }

    #[test]
    fn a_quarter_does_not_converge_and_a_sixth_lies_at_the_border() {
        let aims: Vec<Aim> = (0..80).map(|id| Setting::of(id).aim).collect();
        let count = |aim| aims.iter().filter(|one| **one == aim).count();
        assert!(count(Aim::Never) * 4 >= aims.len());
        assert!(count(Aim::Border) * 20 >= aims.len() * 3);
    }
}
