//! Stories of planners who ask for room while a node or its libvirt is silent.

use plimsoll_model::{Metric, Subject};

use super::*;
use crate::scene::Scene;

fn ask(scene: &Scene) -> v1::NodeHeadroom {
    let answer = answer(&scene.known, &v1::GetHeadroomRequest::default()).unwrap();
    answer.nodes.into_iter().next().unwrap()
}

fn cpu(node: &v1::NodeHeadroom) -> &v1::ResourceHeadroom {
    let of_cpu = |one: &&v1::ResourceHeadroom| one.resource == "cpu";
    node.resources.iter().find(of_cpu).unwrap()
}

fn is_stale(node: &v1::NodeHeadroom) -> bool {
    let stale = v1::Quality::Stale.into();
    node.envelope.as_ref().unwrap().qualities.contains(&stale)
}

/// The node's own readings, with the sum its libvirt tells where it answers.
fn reads(scene: &Scene, node: NodeId, promised_vcpus: Option<u64>) {
    let mut values = vec![
        (Metric::HostMemTotal, 64 << 30),
        (Metric::HostMemAvailable, 40 << 30),
        (Metric::HostLibvirtUp, u64::from(promised_vcpus.is_some())),
    ];
    values.extend(promised_vcpus.map(|vcpus| (Metric::HostAllocVcpuUsed, vcpus)));
    let sweep = scene.sweep(Subject::Node(node), &values);
    scene.tell(node, vec![sweep], Vec::new(), &[]);
}

#[test]
fn a_node_whose_libvirt_falls_silent_keeps_its_promises_and_says_so() {
    let scene = Scene::new();
    let node = scene.node("a", |_| {});
    let guest = scene.guest("web", node);
    reads(&scene, node, Some(2));
    let before = ask(&scene);
    assert_eq!((cpu(&before).allocated, is_stale(&before)), (2_000, false));
    // The guests are not heard of any more; the host itself is.
    scene.pass(60);
    reads(&scene, node, None);
    let after = ask(&scene);
    assert_eq!(cpu(&after).allocated, 2_000, "{after:#?}");
    assert_eq!(
        cpu(&after).allocation_headroom,
        cpu(&before).allocation_headroom
    );
    assert!(is_stale(&after), "{after:#?}");
    let told = |reason: &String| reason.contains("60 s ago");
    assert!(after.reasons.iter().any(told), "{:?}", after.reasons);
    // Libvirt answers again, and the guest has gone meanwhile.
    scene.sees(&guest, 5);
    scene.pass(60);
    reads(&scene, node, Some(0));
    let back = ask(&scene);
    assert_eq!((cpu(&back).allocated, is_stale(&back)), (0, false));
}

#[test]
fn a_node_that_never_told_what_it_has_hides_no_other_and_is_refused_alone() {
    let scene = Scene::new();
    let mute = scene.node("mute", |facts| facts.cpu_count = None);
    scene.node("a", |_| {});
    let answered = answer(&scene.known, &v1::GetHeadroomRequest::default()).unwrap();
    let told: Vec<_> = answered
        .nodes
        .iter()
        .map(|node| (node.hostname.as_str(), node.resources.len()))
        .collect();
    assert!(
        told.contains(&("a", 2)) && told.contains(&("mute", 0)),
        "{told:?}"
    );
    let request = v1::GetHeadroomRequest {
        node_ids: vec![mute.as_bytes().to_vec()],
        ..Default::default()
    };
    let refusal = answer(&scene.known, &request).unwrap_err();
    assert_eq!(refusal.code(), Code::FailedPrecondition);
}

#[test]
fn every_rule_of_the_sum_is_among_the_inputs_with_who_set_it() {
    let scene = Scene::new();
    scene.node("a", |_| {});
    let request = v1::GetHeadroomRequest {
        cpu_ratio_millionths: Some(16_000_000),
        ..Default::default()
    };
    let answered = answer(&scene.known, &request).unwrap();
    let inputs = &answered.nodes[0].envelope.as_ref().unwrap().inputs;
    let of = |name: &str| {
        let input = inputs.iter().find(|input| input.name == name).unwrap();
        (input.value.as_str(), input.source.as_str())
    };
    assert_eq!(of("cpu.ratio"), ("16.00", "request"));
    assert_eq!(of("memory.ratio"), ("1.00", "prior"));
    assert_eq!(of("cpu.promised").1, "measured");
    assert_eq!(cpu(&answered.nodes[0]).allocation_headroom, 256_000);
}
