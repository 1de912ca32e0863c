//! Stories of planners: a guest that may go to one node and not to another, and a node that is emptied.

use plimsoll_model::{
    ByteSize, DiskFacts, DomainFacts, FileSystemFacts, Metric, PinningFacts, Subject,
};

use super::*;
use crate::forecast::Forecast;
use crate::guard::Caller;
use crate::query::Query;
use crate::scene::{Scene, subject};

const GIB: u64 = 1 << 30;
/// When scenes begin.
const BEGINNING_S: i64 = 1_795_000_000;

fn advise(scene: &Scene) -> Advise {
    let assumed = Bandwidth::from_mbit_per_second(1_000);
    Advise {
        known: scene.known.clone(),
        witness: Arc::new(Witness::new(scene.known.clone(), assumed)),
        assumed,
        limits: Limits::default(),
    }
}

/// Each node tells its memory in use, and each guest its dirty rates, as agents do.
fn measure(scene: &Scene, nodes: &[NodeId], guests: &[DomainFacts]) {
    for node in nodes {
        let values = [
            (Metric::HostMemTotal, 64 * GIB),
            (Metric::HostMemAvailable, 40 * GIB),
        ];
        let sweep = scene.sweep(Subject::Node(*node), &values);
        scene.tell(*node, vec![sweep], Vec::new(), &[]);
    }
    for guest in guests {
        let values = [
            (Metric::VmState, 1),
            (Metric::VmMemMax, 4 * GIB),
            (Metric::VmMemRss, GIB),
        ];
        let sweep = scene.sweep(subject(guest), &values);
        scene.tell(guest.node, vec![sweep], Vec::new(), &[]);
        let mut dirty = Vec::new();
        for (window_ms, rate) in [(1_000_u32, 20_u64 << 20), (5_000, 12 << 20)] {
            let mut sweep = scene.sweep(subject(guest), &[]);
            sweep.window.width_ms = window_ms;
            let part = plimsoll_model::Part::named(&window_ms.to_string()).unwrap();
            sweep.values.push((Metric::VmDirtyRate, part, rate));
            dirty.push(sweep);
        }
        scene.tell(guest.node, dirty, Vec::new(), &[]);
    }
}

fn of<'a>(findings: &'a [v1::ConstraintFinding], name: &str) -> &'a v1::ConstraintFinding {
    findings.iter().find(|one| one.constraint == name).unwrap()
}

fn names(targets: &[v1::RankedTarget]) -> Vec<&str> {
    targets.iter().map(|one| one.hostname.as_str()).collect()
}

#[test]
fn a_disk_on_local_storage_and_another_subnet_are_told_with_their_evidence() {
    let scene = Scene::new();
    let a = scene.node("a", |_| {});
    let b = scene.node("b", |facts| {
        facts.migration_address = Some("10.9.0.1/24".to_owned())
    });
    let mut guest = scene.guest("web", a);
    guest.disks.push(DiskFacts {
        target: "vda".to_owned(),
        source: Some("/var/lib/images/web.qcow2".to_owned()),
        shared: Some(false),
        ..DiskFacts::default()
    });
    scene.sees(&guest, 1);
    measure(&scene, &[a, b], std::slice::from_ref(&guest));
    let request = v1::CheckFeasibilityRequest {
        domain_id: guest.domain.as_bytes().to_vec(),
        ..Default::default()
    };
    let answer = advise(&scene).check(&request).unwrap();
    assert_eq!(answer.targets.len(), 1, "its own node is no target");
    let target = &answer.targets[0];
    assert_eq!(target.outcome(), v1::Outcome::Fail);
    let storage = of(&target.findings, "shared_storage");
    assert!(storage.outcome() == v1::Outcome::Fail && storage.evidence.contains("vda"));
    let subnet = of(&target.findings, "subnet");
    assert!(
        subnet.evidence.contains("10.9.0.1/24"),
        "{}",
        subnet.evidence
    );
    assert_eq!(
        of(&target.findings, "latency").outcome(),
        v1::Outcome::Unknown
    );
    assert_eq!(
        of(&target.findings, "pinning").outcome(),
        v1::Outcome::Unknown
    );
    assert_eq!(
        of(&target.findings, "one_active").outcome(),
        v1::Outcome::Pass
    );
}

#[test]
fn targets_are_ordered_by_terms_that_are_shown_and_the_others_are_left_out_with_reasons() {
    let scene = Scene::new();
    let (a, near) = (scene.node("a", |_| {}), scene.node("near", |_| {}));
    let slow = scene.node("slow", |facts| {
        facts.migration_bandwidth = Some(Bandwidth::from_mbit_per_second(1_000));
    });
    let xen = scene.node("xen", |facts| {
        facts.hypervisor_type = Some("Xen".to_owned())
    });
    let guest = scene.guest("web", a);
    scene.pass(20);
    measure(&scene, &[a, near, slow, xen], std::slice::from_ref(&guest));
    let mut request = v1::RankTargetsRequest {
        domain_id: guest.domain.as_bytes().to_vec(),
        ..Default::default()
    };
    let answer = advise(&scene).rank(&request).unwrap();
    assert_eq!(names(&answer.targets), ["near", "slow"]);
    let best = &answer.targets[0];
    let sum: f64 = best.terms.iter().map(|term| term.value * term.weight).sum();
    assert!((best.score - sum).abs() < 1e-9);
    assert!(best.estimate.is_some() && !best.concerns.is_empty());
    assert_eq!(answer.excluded.len(), 1);
    assert_eq!(answer.excluded[0].hostname, "xen");
    assert_eq!(answer.excluded[0].reasons[0].constraint, "hypervisor_kind");
    // Who asks to be sure gets nobody: the round trip was never measured.
    request.strict = true;
    let strict = advise(&scene).rank(&request).unwrap();
    assert!(strict.targets.is_empty());
    assert_eq!(strict.excluded.len(), 3);
    request.weights = Some(v1::RankWeights {
        time: -1.0,
        ..Default::default()
    });
    let refused = advise(&scene).rank(&request).unwrap_err();
    assert!(
        refused.message().contains("weights"),
        "{}",
        refused.message()
    );
}

#[test]
fn a_node_is_emptied_in_waves_and_who_finds_no_room_is_named() {
    let scene = Scene::new();
    let a = scene.node("a", |_| {});
    let b = scene.node("b", |facts| {
        facts.memory = Some(ByteSize::from_mib(9 << 10))
    });
    let guests: Vec<DomainFacts> = ["one", "two", "three"]
        .iter()
        .map(|name| scene.guest(name, a))
        .collect();
    scene.pass(20);
    measure(&scene, &[a], &guests);
    let values = [
        (Metric::HostMemTotal, 9 * GIB),
        (Metric::HostMemAvailable, 9 * GIB),
    ];
    let sweep = scene.sweep(Subject::Node(b), &values);
    scene.tell(b, vec![sweep], Vec::new(), &[]);
    let request = v1::EstimateEvacuationRequest {
        node_id: a.as_bytes().to_vec(),
        deadline: Some(prost_types::Duration {
            seconds: 3_600,
            nanos: 0,
        }),
        ..Default::default()
    };
    let answer = advise(&scene).evacuate(&request).unwrap();
    let moves: Vec<&v1::PlannedMove> = answer.waves.iter().flat_map(|wave| &wave.moves).collect();
    assert_eq!(moves.len(), 2, "{answer:#?}");
    assert_eq!(answer.stuck.len(), 1);
    assert!(
        answer.stuck[0].reasons[0].contains("placed before"),
        "{:?}",
        answer.stuck
    );
    assert_eq!(answer.meets_deadline, Some(false), "one stays");
    let sum: i64 = answer.waves.iter().map(|wave| wave.total_p90_ms).sum();
    assert_eq!(answer.makespan_p90_ms, sum);
    assert!(answer.makespan_p50_ms > 0 && answer.makespan_p50_ms <= sum);
    let strict = v1::EstimateEvacuationRequest {
        strict: true,
        ..request
    };
    let stuck = advise(&scene).evacuate(&strict).unwrap().stuck;
    assert!(
        stuck.iter().all(|one| one.reasons[0].contains("latency")),
        "{stuck:?}"
    );
}

#[test]
fn limits_that_cannot_be_are_refused() {
    let asked = |limits| read_limits(Limits::default(), limits).unwrap_err().field;
    let rtt = v1::FeasibilityLimits {
        rtt_max_ns: Some(0),
        ..Default::default()
    };
    assert_eq!(asked(rtt), "limits.rtt_max_ns");
    let loss = v1::FeasibilityLimits {
        iops_loss_max_millionths: Some(1_000_001),
        ..Default::default()
    };
    assert_eq!(asked(loss), "limits.iops_loss_max_millionths");
}

#[test]
fn a_fact_that_an_agent_tells_is_used_by_the_check_that_needs_it() {
    let scene = Scene::new();
    let a = scene.node("a", |_| {});
    let b = scene.node("b", |facts| {
        facts.file_systems = vec![FileSystemFacts {
            mount: "/srv".to_owned(),
            kind: "nfs4".to_owned(),
            shared_id: Some("filer:/other".to_owned()),
        }];
    });
    let mut guest = scene.guest("web", a);
    guest.disks.push(DiskFacts {
        target: "vda".to_owned(),
        source: Some("/srv/web.img".to_owned()),
        shared: Some(true),
        storage: Some("filer:/vol".to_owned()),
    });
    guest.hardware.pinning = Some(PinningFacts::default());
    guest.hardware.launch_security = Some("sev".to_owned());
    scene.sees(&guest, 1);
    measure(&scene, &[a, b], std::slice::from_ref(&guest));
    let request = v1::CheckFeasibilityRequest {
        domain_id: guest.domain.as_bytes().to_vec(),
        ..Default::default()
    };
    let findings = &advise(&scene).check(&request).unwrap().targets[0].findings;
    assert_eq!(of(findings, "pinning").outcome(), v1::Outcome::Pass);
    let devices = of(findings, "host_devices");
    assert!(devices.outcome() == v1::Outcome::Fail && devices.evidence.contains("sev"));
    let storage = of(findings, "shared_storage");
    assert!(
        storage.evidence.contains("does not mount filer:/vol"),
        "{}",
        storage.evidence
    );

    guest.hardware.pinning = Some(PinningFacts {
        cpus: Some("0-3".to_owned()),
        memory_nodes: None,
    });
    scene.sees(&guest, 1);
    let findings = &advise(&scene).check(&request).unwrap().targets[0].findings;
    let pinning = of(findings, "pinning");
    assert!(pinning.outcome() == v1::Outcome::Warn && pinning.evidence.contains("processors 0-3"));
}

fn by_local<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.extensions_mut().insert(Caller::Local);
    request
}

/// What each answer about the present says of its age: its name, and whether it calls itself stale.
async fn ages(scene: &Scene, guest: &DomainFacts) -> Vec<(&'static str, bool)> {
    use v1::estimate_service_server::EstimateService as _;
    use v1::query_service_server::QueryService as _;
    let stale = |envelope: Option<v1::Envelope>| {
        let qualities = envelope.unwrap().qualities;
        qualities.contains(&v1::Quality::Stale.into())
    };
    let old = |freshness: i32| freshness == i32::from(v1::Freshness::Stale);
    let advise = advise(scene);
    let (domain_id, node_id) = (
        guest.domain.as_bytes().to_vec(),
        guest.node.as_bytes().to_vec(),
    );
    let query = Query {
        known: scene.known.clone(),
    };
    let forecast = Forecast {
        known: scene.known.clone(),
        witness: Arc::clone(&advise.witness),
        assumed: advise.assumed,
    };
    let nodes = query.list_nodes(by_local(Default::default())).await;
    let domains = query.list_domains(by_local(Default::default())).await;
    let latest = query.get_latest(by_local(Default::default())).await;
    let estimate = by_local(v1::EstimateMigrationRequest {
        domain_id: domain_id.clone(),
        ..Default::default()
    });
    let estimate = forecast.estimate_migration(estimate).await.unwrap();
    let room = forecast.get_headroom(by_local(Default::default())).await;
    let feasible = by_local(v1::CheckFeasibilityRequest {
        domain_id: domain_id.clone(),
        ..Default::default()
    });
    let feasible = advise.check_feasibility(feasible).await.unwrap();
    let ranked = by_local(v1::RankTargetsRequest {
        domain_id,
        ..Default::default()
    });
    let ranked = advise.rank_targets(ranked).await.unwrap();
    let evacuation = by_local(v1::EstimateEvacuationRequest {
        node_id,
        ..Default::default()
    });
    let evacuation = advise.estimate_evacuation(evacuation).await.unwrap();
    let nodes = nodes.unwrap().into_inner().nodes;
    let domains = domains.unwrap().into_inner().domains;
    let latest = latest.unwrap().into_inner().readings;
    let room = room.unwrap().into_inner().nodes;
    assert!(!nodes.is_empty() && !domains.is_empty() && !latest.is_empty() && !room.is_empty());
    vec![
        ("ListNodes", nodes.iter().all(|one| old(one.freshness))),
        ("ListDomains", domains.iter().all(|one| old(one.freshness))),
        ("GetLatest", latest.iter().all(|one| old(one.freshness))),
        ("EstimateMigration", stale(estimate.into_inner().envelope)),
        (
            "GetHeadroom",
            room.into_iter().all(|one| stale(one.envelope)),
        ),
        ("CheckFeasibility", stale(feasible.into_inner().envelope)),
        ("RankTargets", stale(ranked.into_inner().envelope)),
        (
            "EstimateEvacuation",
            stale(evacuation.into_inner().envelope),
        ),
    ]
}

#[tokio::test]
async fn after_three_silent_intervals_every_answer_calls_itself_stale_and_none_does_before() {
    let scene = Scene::new();
    let (a, b) = (scene.node("a", |_| {}), scene.node("b", |_| {}));
    let guest = scene.guest("web", a);
    measure(&scene, &[a, b], std::slice::from_ref(&guest));
    for second in [0, 29, 30] {
        let passed = scene.now().millis() / 1_000 - BEGINNING_S;
        scene.pass(second - passed);
        for (call, stale) in ages(&scene, &guest).await {
            assert!(!stale, "{call} at {second} s");
        }
    }
    for step in [1, 3_600] {
        scene.pass(step);
        for (call, stale) in ages(&scene, &guest).await {
            assert!(stale, "{call} {step} s later is served as fresh");
        }
    }
}
