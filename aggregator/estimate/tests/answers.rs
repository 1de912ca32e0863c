//! What a planner is told in the cases that matter, each as a story.

#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot read its own data must stop"
)]

use plimsoll_estimate::{
    BandwidthSource, Calibration, DirtyPoint, DirtySource, DowntimeProfile, Estimate, InputError,
    Inputs, LEARNED_SAMPLES_MIN, Lessons, LinkBandwidth, Observed, Policy, Quality, Verdict,
    estimate,
};
use plimsoll_model::{Accelerator, Bandwidth, ByteSize, DirtyRate, MigrationMode, Ratio};

/// The measured guest: 512 MiB, half of it zero, one writer of 20 MiB/s over 64 MiB.
fn guest(link_mib: f64, mode: MigrationMode) -> Inputs {
    let rate = format!("{:.0}", link_mib * 1_048_576.0).parse().unwrap();
    let mut inputs = Inputs::new(
        ByteSize::from_mib(512),
        LinkBandwidth {
            rate: Bandwidth::from_bytes_per_second(rate),
            uncertainty: None,
            source: BandwidthSource::Measured,
        },
        Policy::qemu(mode),
    );
    inputs.zero_fraction = Some(Ratio::from_millionths(500_000));
    inputs.accelerator = Some(Accelerator::Tcg);
    inputs.telemetry_age_ms = Some(10_000);
    inputs.has_balloon = true;
    inputs.dirty_points = [(1_000, 19), (5_000, 12)]
        .map(|(window_ms, mib)| DirtyPoint {
            window_ms,
            rate: DirtyRate::from_mib_per_second(mib),
            sample_sd: None,
            source: DirtySource::PageSampling {
                pages_per_gib: 16_384,
            },
        })
        .to_vec();
    inputs
}

fn told(inputs: &Inputs) -> Estimate {
    estimate(inputs).unwrap()
}

#[test]
fn a_wide_link_carries_the_measured_guest_and_the_bounds_hold_what_was_seen() {
    // Seen with libvirt and a cap of 44.9 MiB/s on a local link: 8652 ms, downtime 36 ms.
    let mut inputs = guest(44.9, MigrationMode::Precopy);
    inputs.policy.max_bandwidth = Some(inputs.bandwidth.rate);
    inputs.bandwidth.rate = Bandwidth::from_bytes_per_second(1_000_000_000);
    let answer = told(&inputs);
    assert_eq!(answer.verdict, Verdict::Converges, "{answer:?}");
    let (total, downtime) = (answer.total_ms.unwrap(), answer.downtime_ms.unwrap());
    assert!((total.p10..=total.p90).contains(&8_652), "{total:?}");
    assert!((downtime.p10..=downtime.p90).contains(&36), "{downtime:?}");
    assert_eq!(answer.quality, vec![Quality::Uncalibrated]);
    assert_eq!(answer.bandwidth_needed, None);
}

#[test]
fn without_a_cap_the_downtime_is_what_the_limit_leaves_to_the_link() {
    // Seen with QEMU 7.2 and a writer over 64 MiB behind a shaper of 400 Mbit/s: limits of 300 and 100 ms
    // gave downtimes of 362 and 171 ms with the return path, for the pages left go over the same link.
    for (limit_ms, seen_ms) in [(300, 362), (100, 171)] {
        let mut inputs = guest(45.6, MigrationMode::Precopy);
        inputs.policy.downtime = DowntimeProfile::Constant { limit_ms };
        let downtime = told(&inputs).downtime_ms.unwrap();
        assert!(
            (downtime.p10..=downtime.p90).contains(&seen_ms),
            "{downtime:?}"
        );
        assert!(downtime.p50 + 100 > seen_ms, "{downtime:?}");
    }
}

#[test]
fn a_narrow_link_does_not_and_the_answer_says_what_would_help() {
    // Seen: never ended at 15 MiB/s.
    let inputs = guest(15.0, MigrationMode::Precopy);
    let answer = told(&inputs);
    assert_eq!(answer.verdict, Verdict::DoesNotConverge, "{answer:?}");
    assert_eq!((answer.total_ms, answer.downtime_ms), (None, None));
    let needed = answer.bandwidth_needed.unwrap();
    assert!(needed > inputs.bandwidth.rate && needed < Bandwidth::from_mbit_per_second(400));
    let mut helped = inputs.clone();
    helped.bandwidth.rate = Bandwidth::from_bytes_per_second(needed.bytes_per_second() * 11 / 10);
    assert_ne!(told(&helped).verdict, Verdict::DoesNotConverge);
    let limit_ms = answer.downtime_limit_needed_ms.unwrap();
    assert!((301..10_000).contains(&limit_ms), "{limit_ms}");
    let mut patient = inputs;
    patient.policy.downtime = DowntimeProfile::Constant {
        limit_ms: limit_ms * 3 / 2,
    };
    assert_ne!(told(&patient).verdict, Verdict::DoesNotConverge);
}

#[test]
fn the_same_guest_on_the_same_link_gets_another_verdict_from_another_profile() {
    let mut inputs = guest(17.0, MigrationMode::Precopy);
    let qemu = told(&inputs);
    inputs.policy.downtime = DowntimeProfile::Constant { limit_ms: 20 };
    let strict = told(&inputs);
    inputs.policy.downtime = DowntimeProfile::Proxmox;
    let doubling = told(&inputs);
    assert!(strict.probability <= qemu.probability);
    assert_eq!(doubling.verdict, Verdict::Converges, "{doubling:?}");
    assert!(strict.verdict != Verdict::Converges);
}

#[test]
fn auto_converge_slows_the_guest_until_it_ends() {
    let answer = told(&guest(12.0, MigrationMode::PrecopyAutoConverge));
    assert_eq!(answer.verdict, Verdict::Converges, "{answer:?}");
    assert!(answer.throttle.unwrap() >= Ratio::from_millionths(200_000));
}

#[test]
fn post_copy_ends_with_a_downtime_that_knows_no_memory_and_names_its_risk() {
    let mut inputs = guest(15.0, MigrationMode::Postcopy);
    inputs.round_trip_us = Some(500);
    let answer = told(&inputs);
    assert_eq!(answer.verdict, Verdict::Converges);
    let downtime = answer.downtime_ms.unwrap();
    assert!(downtime.p50 < 60, "{downtime:?}");
    let risk = answer.postcopy.unwrap();
    assert!(
        risk.risk_window_ms.p50 > 1_000 && risk.remote_faults.p50 > 0,
        "{risk:?}"
    );
    assert!(risk.fault_latency_us.unwrap() > 700);
    assert!(
        answer
            .reasons
            .iter()
            .any(|reason| reason.contains("guest is lost"))
    );
    inputs.policy.postcopy_after_ms = Some(0);
    let at_once = told(&inputs).postcopy.unwrap();
    assert!(at_once.switch_ms.p50 < risk.switch_ms.p50);
    assert!(at_once.risk_window_ms.p50 > risk.risk_window_ms.p50);
}

#[test]
fn a_stopped_guest_is_down_for_the_whole_copy() {
    let answer = told(&guest(44.9, MigrationMode::StopCopy));
    assert_eq!(
        answer.total_ms.unwrap().p50,
        answer.downtime_ms.unwrap().p50
    );
    assert!((5_000..7_000).contains(&answer.total_ms.unwrap().p50));
}

#[test]
fn a_guest_that_stands_still_all_the_while_has_one_interval_for_both() {
    let answer = told(&guest(44.9, MigrationMode::StopCopy));
    assert!(answer.total_ms.is_some());
    assert_eq!(answer.total_ms, answer.downtime_ms);
}

#[test]
fn a_busy_source_slows_a_fast_link_and_leaves_a_slow_one_as_it_is() {
    let total = |link_mib: f64, idle: u64| {
        let mut inputs = guest(link_mib, MigrationMode::Precopy);
        inputs.idle_cpus = Some(Ratio::from_millionths(idle));
        told(&inputs).total_ms.unwrap().p50
    };
    assert!(total(4_000.0, 100_000) > total(4_000.0, 4_000_000));
    assert_eq!(total(44.9, 100_000), total(44.9, 4_000_000));
}

#[test]
fn what_is_missing_widens_the_bounds_and_is_named() {
    let full = told(&guest(44.9, MigrationMode::Precopy));
    let mut inputs = guest(44.9, MigrationMode::Precopy);
    inputs.dirty_points.clear();
    inputs.zero_fraction = None;
    inputs.accelerator = None;
    inputs.has_balloon = false;
    inputs.bandwidth.source = BandwidthSource::Assumed;
    inputs.idle_cpus = Some(Ratio::from_millionths(300_000));
    let blind = told(&inputs);
    assert_eq!((blind.verdict, blind.probability), (Verdict::Unknown, None));
    let expected = [
        Quality::NoDirtyRate,
        Quality::NoBalloon,
        Quality::Uncalibrated,
        Quality::NoZeroFraction,
        Quality::AssumedBandwidth,
        Quality::NoAccelerator,
        Quality::BusySource,
    ];
    assert_eq!(blind.quality, expected);
    let width = |answer: &Estimate| {
        let total = answer.total_ms.unwrap();
        total.p90 as f64 / total.p10 as f64
    };
    assert!(width(&blind) > 2.0 * width(&full));
    assert_eq!(blind.reasons.len(), 1 + expected.len());
}

#[test]
fn old_telemetry_is_stale_and_one_window_is_not_two() {
    let mut inputs = guest(44.9, MigrationMode::Precopy);
    inputs.telemetry_age_ms = Some(3_600_000);
    inputs.dirty_points.truncate(1);
    let answer = told(&inputs);
    assert!(answer.quality.contains(&Quality::Stale));
    assert!(answer.quality.contains(&Quality::OneDirtyWindow));
}

#[test]
fn what_was_learned_corrects_the_bounds_and_takes_the_flag_away() {
    let mut inputs = guest(44.9, MigrationMode::Precopy);
    let prior = told(&inputs);
    let (said, prior_total) = (prior.raw, prior.total_ms.unwrap());
    // Each took a tenth longer than the middle said, and sent and stood still as was said.
    let was = Observed {
        converged: true,
        total_ms: said.total_ms.map(|said| said.p50 * 11 / 10),
        downtime_ms: said.downtime_ms.map(|said| said.p50),
        bytes: said.bytes.map(|said| said.p50),
    };
    let mut lessons = Lessons::default();
    (0..LEARNED_SAMPLES_MIN).for_each(|_| lessons.learn(said, &was));
    inputs.calibration = Calibration::Learned(lessons.correction().unwrap());
    let learned = told(&inputs);
    let total = learned.total_ms.unwrap();
    assert!((total.p10..=total.p90).contains(&was.total_ms.unwrap()));
    assert!(total.p50 > prior_total.p50, "{total:?} {prior_total:?}");
    assert!(total.p90 - total.p10 < prior_total.p90 - prior_total.p10);
    assert_eq!(
        learned.raw, said,
        "what is learned is learned from the same"
    );
    assert_eq!(learned.quality, vec![]);
}

#[test]
fn impossible_inputs_are_refused_by_field_and_remedy() {
    let good = guest(44.9, MigrationMode::Precopy);
    let refusal = |change: &dyn Fn(&mut Inputs)| {
        let mut inputs = good.clone();
        change(&mut inputs);
        estimate(&inputs).unwrap_err()
    };
    let no_memory = refusal(&|inputs| inputs.memory_total = ByteSize::from_bytes(0));
    assert_eq!(no_memory, InputError::MemoryZero);
    assert!(no_memory.to_string().contains("memory_total"));
    let too_much = refusal(&|inputs| inputs.memory_total = ByteSize::from_bytes(u64::MAX));
    assert!(too_much.to_string().contains("check its unit"));
    let no_link = refusal(&|inputs| inputs.bandwidth.rate = Bandwidth::from_bytes_per_second(0));
    assert_eq!(no_link, InputError::BandwidthZero);
    let share = refusal(&|inputs| inputs.zero_fraction = Some(Ratio::from_millionths(1_000_001)));
    assert!(share.to_string().contains("zero_fraction"));
    let window = refusal(&|inputs| inputs.dirty_points[0].window_ms = 0);
    assert_eq!(window, InputError::DirtyWindow { window_ms: 0 });
    let cap = refusal(&|inputs| {
        inputs.policy.max_bandwidth = Some(Bandwidth::from_bytes_per_second(0));
    });
    assert_eq!(cap, InputError::BandwidthCapZero);
    assert_eq!(
        refusal(&|inputs| inputs.policy.timeout_ms = Some(0)),
        InputError::TimeoutZero
    );
}
