//! Laws that any estimate must obey, tried on many inputs.

#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot read its own data must stop"
)]

use plimsoll_estimate::{
    BandwidthSource, DirtyPoint, DowntimeProfile, Estimate, Inputs, Interval, LinkBandwidth,
    Policy, Verdict, estimate,
};
use plimsoll_model::{Accelerator, Bandwidth, ByteSize, DirtyRate, MigrationMode, Ratio};
use proptest::prelude::{Just, ProptestConfig, Strategy, any, prop, prop_oneof};
use proptest::{prop_assert, prop_assert_eq, proptest};

fn profiles() -> impl Strategy<Value = DowntimeProfile> {
    prop_oneof![
        Just(DowntimeProfile::Qemu),
        Just(DowntimeProfile::Ovirt),
        Just(DowntimeProfile::Kubevirt),
        Just(DowntimeProfile::Proxmox),
        Just(DowntimeProfile::nova_default(4 << 30)),
        (1u64..2_000).prop_map(|limit_ms| DowntimeProfile::Constant { limit_ms }),
    ]
}

fn modes() -> impl Strategy<Value = MigrationMode> {
    prop_oneof![
        3 => Just(MigrationMode::Precopy),
        1 => Just(MigrationMode::PrecopyAutoConverge),
        1 => Just(MigrationMode::Postcopy),
        1 => Just(MigrationMode::StopCopy),
    ]
}

fn points() -> impl Strategy<Value = Vec<DirtyPoint>> {
    prop::collection::vec(
        (50u32..60_000, 0u64..400).prop_map(|(window_ms, mib)| {
            DirtyPoint::libvirt(window_ms, DirtyRate::from_mib_per_second(mib))
        }),
        0..6,
    )
}

fn any_inputs() -> impl Strategy<Value = Inputs> {
    let machine = (
        1u64..70_000,
        prop::option::of(0u64..=1_000_000),
        prop_oneof![
            Just(None),
            Just(Some(Accelerator::Kvm)),
            Just(Some(Accelerator::Tcg))
        ],
        1u64..3_000_000_000,
    );
    let policy = (
        modes(),
        profiles(),
        prop::option::of(1_000_000u64..2_000_000_000),
        prop::option::of(1u64..3_600_000),
        prop::option::of(0u64..600_000),
    );
    (
        machine,
        policy,
        points(),
        prop::option::of(0u64..100_000_000),
        prop::option::of(0u64..4_000_000),
        any::<bool>(),
    )
        .prop_map(|(machine, policy, points, age, idle, balloon)| {
            let (mib, zero, accelerator, link) = machine;
            let (mode, downtime, cap, timeout_ms, postcopy_after_ms) = policy;
            let mut inputs = Inputs::new(
                ByteSize::from_mib(mib),
                LinkBandwidth {
                    rate: Bandwidth::from_bytes_per_second(link),
                    uncertainty: None,
                    source: BandwidthSource::Capacity,
                },
                Policy {
                    mode,
                    downtime,
                    max_bandwidth: cap.map(Bandwidth::from_bytes_per_second),
                    timeout_ms,
                    postcopy_after_ms,
                },
            );
            inputs.zero_fraction = zero.map(Ratio::from_millionths);
            inputs.accelerator = accelerator;
            inputs.dirty_points = points;
            inputs.telemetry_age_ms = age;
            inputs.idle_cpus = idle.map(Ratio::from_millionths);
            inputs.has_balloon = balloon;
            inputs
        })
}

/// A guest that is likely to converge, so that its totals can be compared.
#[derive(Debug, Clone)]
struct Calm {
    memory_mib: u64,
    rate_mib: u64,
    link_mb: u64,
    touched_millionths: u64,
}

fn calm() -> impl Strategy<Value = Calm> {
    (256u64..8_192, 1u64..60, 50u64..1_250, 200_000u64..1_000_000).prop_map(
        |(memory_mib, rate_mib, link_mb, touched_millionths)| Calm {
            memory_mib,
            rate_mib,
            link_mb,
            touched_millionths,
        },
    )
}

fn answer(calm: &Calm) -> Estimate {
    let mut inputs = Inputs::new(
        ByteSize::from_mib(calm.memory_mib),
        LinkBandwidth {
            rate: Bandwidth::from_bytes_per_second(calm.link_mb * 1_000_000),
            uncertainty: None,
            source: BandwidthSource::Measured,
        },
        Policy::qemu(MigrationMode::Precopy),
    );
    inputs.zero_fraction = Some(Ratio::from_millionths(1_000_000 - calm.touched_millionths));
    inputs.accelerator = Some(Accelerator::Tcg);
    inputs.telemetry_age_ms = Some(0);
    inputs.dirty_points = [(1_000, 1), (2_000, 1), (5_000, 2)]
        .map(|(window_ms, part)| {
            let rate = DirtyRate::from_bytes_per_second((calm.rate_mib << 20) / part);
            DirtyPoint::counted(window_ms, rate)
        })
        .to_vec();
    estimate(&inputs).unwrap()
}

/// The middle of the total where both surely converge: at risk the middle speaks of the cases that end, another set each time.
fn totals(one: &Calm, other: &Calm) -> Option<(f64, f64)> {
    let total = |calm: &Calm| {
        let answer = answer(calm);
        let sure = answer.probability == Some(Ratio::ONE);
        answer
            .total_ms
            .filter(|_| sure)
            .map(|total| total.p50 as f64)
    };
    total(one).zip(total(other))
}

/// A pass may stop just above or just below the threshold, so a larger guest may save up to one slice of the
/// loop and what a threshold holds (300 ms at the link's rate); rounding is to the millisecond.
const SAWTOOTH_MS: f64 = 300.0 + 50.0 + 1.0;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_answer_is_ordered_finite_and_explicit(inputs in any_inputs()) {
        let answer = estimate(&inputs).unwrap();
        let ordered = |interval: Option<Interval>| {
            interval.is_none_or(|i| i.p10 <= i.p50 && i.p50 <= i.p90 && i.p90 < u64::MAX)
        };
        for interval in [answer.total_ms, answer.downtime_ms, answer.bytes, answer.iterations] {
            prop_assert!(ordered(interval), "{interval:?}");
        }
        match answer.verdict {
            Verdict::Converges | Verdict::AtRisk => {
                prop_assert!(answer.total_ms.is_some() && answer.downtime_ms.is_some());
                prop_assert!(answer.total_ms.unwrap().p10 > 0);
            }
            Verdict::DoesNotConverge => {
                prop_assert_eq!((answer.total_ms, answer.downtime_ms), (None, None));
            }
            Verdict::Unknown => prop_assert!(inputs.dirty_points.is_empty()),
        }
        prop_assert!(answer.probability.is_none_or(|p| p <= Ratio::ONE));
        prop_assert!(!answer.reasons.is_empty());
        prop_assert!(answer.quality.is_sorted_by(|a, b| a < b), "{:?}", answer.quality);
        prop_assert_eq!(estimate(&inputs).unwrap(), answer);
    }

    #[test]
    fn more_memory_takes_longer(calm in calm(), more in 11u64..30) {
        let larger = Calm { memory_mib: calm.memory_mib * more / 10, ..calm };
        if let Some((small, large)) = totals(&calm, &larger) {
            prop_assert!(large + SAWTOOTH_MS >= small, "{small} ms became {large} ms");
        }
    }

    #[test]
    fn a_faster_writer_takes_longer(calm in calm(), more in 11u64..30) {
        let faster = Calm { rate_mib: (calm.rate_mib * more).div_ceil(10), ..calm };
        if let Some((slow, fast)) = totals(&calm, &faster) {
            prop_assert!(fast + SAWTOOTH_MS >= slow, "{slow} ms became {fast} ms");
        }
    }

    #[test]
    fn more_bandwidth_takes_less(calm in calm(), more in 11u64..30) {
        let wider = Calm { link_mb: calm.link_mb * more / 10, ..calm };
        if let Some((narrow, wide)) = totals(&calm, &wider) {
            prop_assert!(wide <= narrow + SAWTOOTH_MS, "{narrow} ms became {wide} ms");
        }
    }

    #[test]
    fn more_bandwidth_or_slower_writing_never_lowers_the_chance(calm in calm(), more in 12u64..30) {
        let base = Calm { rate_mib: calm.rate_mib * 4, link_mb: calm.link_mb / 4, ..calm };
        let wider = Calm { link_mb: base.link_mb * more / 10, ..base };
        let slower = Calm { rate_mib: base.rate_mib * 10 / more, ..base };
        let chance = |calm: &Calm| answer(calm).probability.unwrap().millionths();
        let before = chance(&base);
        // One world of 64 may sit on the edge of the threshold.
        let edge = 1_000_000 / 64 + 1;
        prop_assert!(chance(&wider) + edge >= before);
        prop_assert!(chance(&slower) + edge >= before);
    }
}
