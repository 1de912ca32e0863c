//! Each constraint is seen to pass, to fail, and to be unknown where its fact is missing.

use plimsoll_model::Ratio;

use super::*;
use crate::headroom::{HostState, MoveCost, ResourceState, headroom};

const GIB: u64 = 1 << 30;

fn room(used_gib: Option<u64>) -> Headroom {
    let state = |total, used| ResourceState {
        total,
        reserved: 0,
        ratio: Ratio::ONE,
        allocated: 0,
        in_flight: 0,
        used,
        margin: Ratio::from_millionths(0),
    };
    let host = HostState {
        cpu: state(16_000_000, used_gib.map(|_| 2_000_000)),
        memory: state(64 * GIB, used_gib.map(|gib| gib * GIB)),
        network: None,
    };
    headroom(&host, &MoveCost::default()).unwrap()
}

fn host(name: &str) -> Host {
    Host {
        name: name.to_owned(),
        silent_ms: 2_000,
        hypervisor: Some("QEMU".to_owned()),
        qemu_version: Some("10.0.2".to_owned()),
        cpu_model: Some("Some Processor".to_owned()),
        cpu_flags: vec!["avx".to_owned(), "sse2".to_owned()],
        migration_address: Some("10.0.0.5/24".to_owned()),
        mtu_bytes: Some(9_000),
        huge_pages_free: Some(ByteSize::from_bytes(8 * GIB)),
        room: Some(room(Some(20))),
        iops_free: Some(10_000),
        move_count: 0,
        sees_guest: false,
        ..Host::default()
    }
}

fn guest() -> Guest {
    Guest {
        vcpu_count: Some(2),
        memory: Some(ByteSize::from_bytes(4 * GIB)),
        machine: Some("pc-q35-7.2".to_owned()),
        cpu_model: Some("host-model".to_owned()),
        huge_pages: Some(true),
        pinned: Some(false),
        host_device_count: 0,
        disks: vec![Disk {
            target: "vda".to_owned(),
            shared: Some(true),
            storage: None,
        }],
        iops: Some(1_000),
        runs_on: vec!["a".to_owned()],
        moving: false,
        ..Guest::default()
    }
}

fn path() -> Path {
    Path {
        rtt_ns: Some(200_000),
        verdict: Some(Verdict::Converges),
        bandwidth_needed: None,
    }
}

/// Judges the usual move after `change` has had its way with it.
fn judge(change: impl FnOnce(&mut Guest, &mut Host, &mut Host, &mut Path)) -> Vec<Finding> {
    let (mut guest, mut source, mut target, mut path) = (guest(), host("a"), host("b"), path());
    change(&mut guest, &mut source, &mut target, &mut path);
    let one = Move {
        guest: &guest,
        source: &source,
        target: &target,
        path,
    };
    check(&one, &Limits::default())
}

fn outcome(findings: &[Finding], constraint: Constraint) -> Outcome {
    let found = findings.iter().find(|one| one.constraint == constraint);
    found.unwrap().outcome
}

#[test]
fn a_move_of_which_all_is_known_and_good_passes_everywhere() {
    let findings = judge(|_, _, _, _| {});
    for finding in &findings {
        assert_eq!(finding.outcome, Outcome::Pass, "{finding:?}");
    }
    assert_eq!(findings.len(), 18);
    assert_eq!(overall(&findings), Outcome::Pass);
}

#[test]
fn a_move_of_which_nothing_is_known_passes_nowhere_but_where_nothing_is_needed() {
    let (guest, source, target) = (Guest::default(), Host::default(), Host::default());
    let one = Move {
        guest: &guest,
        source: &source,
        target: &target,
        path: Path::default(),
    };
    let findings = check(&one, &Limits::default());
    let passed: Vec<Constraint> = findings
        .iter()
        .filter(|finding| finding.outcome == Outcome::Pass)
        .map(|finding| finding.constraint)
        .collect();
    // A default host was heard just now and is not busy; a default guest has no disks and no devices.
    let expected = [
        Constraint::Freshness,
        Constraint::SharedStorage,
        Constraint::HostDevices,
        Constraint::Jobs,
    ];
    assert_eq!(passed, expected);
    assert_eq!(overall(&findings), Outcome::Unknown);
}

#[test]
fn what_a_guest_was_promised_and_what_a_host_mounts_may_also_fit() {
    let findings = judge(|g, _, t, _| {
        g.tsc_hz = Some(2_400_000_000);
        (t.tsc_hz, t.tsc_scaling) = (Some(2_800_000_000), Some(true));
        g.disks[0].storage = Some("filer:/vol".to_owned());
        t.storages = Some(vec!["filer:/vol".to_owned()]);
    });
    assert_eq!(overall(&findings), Outcome::Pass);
    let near = judge(|g, _, t, _| {
        g.tsc_hz = Some(2_400_000_000);
        (t.tsc_hz, t.tsc_scaling) = (Some(2_400_500_000), Some(false));
    });
    assert_eq!(outcome(&near, Constraint::CpuFeatures), Outcome::Pass);
}

#[test]
fn what_binds_a_guest_is_named() {
    let findings = judge(|g, _, _, _| {
        g.host_device_count = 1;
        g.devices.push(Device {
            kind: "pci".to_owned(),
            address: "0000:3b:00.1".to_owned(),
        });
        g.pinned = Some(true);
        g.bound_to = "processors 4-5,7".to_owned();
    });
    let evidence = |constraint| {
        let found = findings.iter().find(|one| one.constraint == constraint);
        found.unwrap().evidence.as_str()
    };
    assert!(evidence(Constraint::HostDevices).ends_with("pci 0000:3b:00.1"));
    assert!(evidence(Constraint::Pinning).contains("processors 4-5,7"));
}

/// What a story changes, and what must come of it.
type Story = (
    Constraint,
    Outcome,
    fn(&mut Guest, &mut Host, &mut Host, &mut Path),
);

#[test]
#[expect(clippy::too_many_lines, reason = "it is a table, one story a line")]
fn each_constraint_fails_alone() {
    use Constraint as C;
    use Outcome::{Fail, Unknown, Warn};
    let stories: &[Story] = &[
        (C::Freshness, Fail, |_, _, t, _| t.silent_ms = 31_000),
        (C::Freshness, Warn, |_, s, _, _| s.silent_ms = 31_000),
        (C::HypervisorKind, Fail, |_, _, t, _| {
            t.hypervisor = Some("Xen".to_owned())
        }),
        (C::HypervisorKind, Unknown, |_, _, t, _| t.hypervisor = None),
        (C::HypervisorVersion, Warn, |_, _, t, _| {
            t.qemu_version = Some("9.2.0".to_owned())
        }),
        (C::CpuFeatures, Fail, |_, s, _, _| {
            s.cpu_flags.push("avx512f".to_owned())
        }),
        (C::CpuFeatures, Warn, |g, s, _, _| {
            g.cpu_model = Some("Haswell".to_owned());
            s.cpu_flags.push("avx512f".to_owned());
        }),
        (C::CpuFeatures, Warn, |g, _, t, _| {
            g.cpu_model = Some("host-passthrough".to_owned());
            t.cpu_model = Some("Another Processor".to_owned());
        }),
        (C::CpuFeatures, Unknown, |_, _, t, _| t.cpu_flags.clear()),
        (C::CpuFeatures, Fail, |g, s, _, _| {
            g.cpu_model = Some("Haswell".to_owned());
            g.cpu_features = vec!["avx".to_owned(), "sse4.2".to_owned()];
            s.cpu_flags.push("sse4_2".to_owned());
        }),
        (C::CpuFeatures, Warn, |g, s, _, _| {
            g.cpu_model = Some("Haswell".to_owned());
            g.cpu_features = vec!["avx".to_owned()];
            s.cpu_flags.push("sse4_2".to_owned());
        }),
        (C::CpuFeatures, Fail, |g, _, t, _| {
            g.tsc_hz = Some(2_400_000_000);
            (t.tsc_hz, t.tsc_scaling) = (Some(2_800_000_000), Some(false));
        }),
        (C::CpuFeatures, Unknown, |g, _, t, _| {
            g.tsc_hz = Some(2_400_000_000);
            t.tsc_hz = Some(2_800_000_000);
        }),
        (C::CpuFeatures, Unknown, |g, _, _, _| {
            g.tsc_hz = Some(2_400_000_000)
        }),
        (C::SharedStorage, Fail, |g, _, t, _| {
            g.disks[0].storage = Some("filer:/vol".to_owned());
            t.storages = Some(vec!["filer:/other".to_owned()]);
        }),
        (C::SharedStorage, Unknown, |g, _, _, _| {
            g.disks[0].storage = Some("filer:/vol".to_owned())
        }),
        (C::HostDevices, Fail, |g, _, _, _| {
            g.launch_security = Some("sev".to_owned())
        }),
        (C::HostDevices, Warn, |g, _, _, _| {
            g.devices.push(Device {
                kind: "vhostuser".to_owned(),
                address: "/run/vhu1".to_owned(),
            })
        }),
        (C::MachineType, Fail, |g, _, _, _| {
            g.machine = Some("pc-q35-10.1".to_owned())
        }),
        (C::MachineType, Unknown, |g, _, _, _| {
            g.machine = Some("pc-q35-rhel9.4.0".to_owned())
        }),
        (C::Subnet, Fail, |_, _, t, _| {
            t.migration_address = Some("10.0.1.5/24".to_owned())
        }),
        (C::Subnet, Fail, |_, _, t, _| {
            t.migration_address = Some("fd00::5/24".to_owned())
        }),
        (C::Subnet, Unknown, |_, _, t, _| {
            t.migration_address = Some("eth1".to_owned())
        }),
        (C::Mtu, Warn, |_, _, t, _| t.mtu_bytes = Some(1_500)),
        (C::Latency, Fail, |_, _, _, p| p.rtt_ns = Some(5_000_001)),
        (C::Latency, Unknown, |_, _, _, p| p.rtt_ns = None),
        (C::SharedStorage, Fail, |g, _, _, _| {
            g.disks[0].shared = Some(false)
        }),
        (C::SharedStorage, Unknown, |g, _, _, _| {
            g.disks[0].shared = None
        }),
        (C::SourceRoom, Fail, |_, s, _, _| {
            s.room = Some(room(Some(65)))
        }),
        (C::SourceRoom, Unknown, |_, s, _, _| {
            s.room = Some(room(None))
        }),
        (C::TargetRoom, Fail, |_, _, t, _| {
            t.room = Some(room(Some(61)))
        }),
        (C::TargetRoom, Fail, |g, _, _, _| g.vcpu_count = Some(17)),
        (C::TargetRoom, Warn, |g, _, _, _| g.vcpu_count = Some(15)),
        (C::TargetRoom, Unknown, |_, _, t, _| {
            t.room = Some(room(None))
        }),
        (C::IopsLoss, Fail, |_, _, t, _| t.iops_free = Some(899)),
        (C::IopsLoss, Unknown, |_, _, t, _| t.iops_free = None),
        (C::OneActive, Fail, |g, _, _, _| {
            g.runs_on.push("c".to_owned())
        }),
        (C::OneActive, Fail, |_, _, t, _| t.sees_guest = true),
        (C::OneActive, Unknown, |g, _, _, _| g.runs_on.clear()),
        (C::HostDevices, Fail, |g, _, _, _| g.host_device_count = 1),
        (C::HugePages, Fail, |_, _, t, _| {
            t.huge_pages_free = Some(ByteSize::from_bytes(GIB))
        }),
        (C::HugePages, Unknown, |g, _, _, _| g.huge_pages = None),
        (C::Pinning, Warn, |g, _, _, _| g.pinned = Some(true)),
        (C::Pinning, Unknown, |g, _, _, _| g.pinned = None),
        (C::Jobs, Fail, |g, _, _, _| g.moving = true),
        (C::Jobs, Warn, |_, _, t, _| t.move_count = 2),
        (C::Convergence, Fail, |_, _, _, p| {
            p.verdict = Some(Verdict::DoesNotConverge)
        }),
        (C::Convergence, Warn, |_, _, _, p| {
            p.verdict = Some(Verdict::AtRisk)
        }),
        (C::Convergence, Unknown, |_, _, _, p| p.verdict = None),
    ];
    for (constraint, expected, change) in stories {
        let findings = judge(change);
        assert_eq!(
            outcome(&findings, *constraint),
            *expected,
            "{constraint:?}: {findings:#?}"
        );
        assert_eq!(
            overall(&findings),
            *expected,
            "{constraint:?} is judged alone"
        );
    }
}

#[test]
fn a_loss_of_exactly_the_limit_is_allowed() {
    let at_limit = judge(|_, _, t, _| t.iops_free = Some(900));
    assert_eq!(outcome(&at_limit, Constraint::IopsLoss), Outcome::Pass);
    let slow = judge(|_, _, _, p| p.rtt_ns = Some(5_000_000));
    assert_eq!(outcome(&slow, Constraint::Latency), Outcome::Pass);
}
