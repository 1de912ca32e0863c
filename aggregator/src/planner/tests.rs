//! What an estimate is made from, told by a small cloud whose clock the test turns.

use plimsoll_model::{DomainFacts, MigrationMode, Sweep, Window};

use super::*;
use crate::scene::{Scene, subject};

const GIB: u64 = 1 << 30;
const MIB: u64 = 1 << 20;

fn ask(scene: &Scene, guest: &DomainFacts) -> Answer {
    let row = scene.known.owner(guest.domain).unwrap();
    let question = Question {
        target: None,
        policy: Policy::qemu(MigrationMode::Precopy),
        path_bandwidth: None,
    };
    let assumed = Bandwidth::from_mbit_per_second(1_000);
    plan(&scene.known, &row, &question, scene.now(), assumed).unwrap()
}

fn input<'a>(answer: &'a Answer, name: &str) -> Option<&'a Input> {
    answer.inputs.iter().find(|input| input.name == name)
}

fn dirty(scene: &Scene, guest: &DomainFacts, window_ms: u32, rate: u64) -> Sweep {
    let part = Part::named(&window_ms.to_string()).unwrap();
    Sweep {
        subject: subject(guest),
        window: Window {
            end: scene.now(),
            width_ms: window_ms,
        },
        values: vec![(Metric::VmDirtyRate, part, rate)],
    }
}

#[test]
fn of_many_measurements_each_window_keeps_its_newest() {
    let scene = Scene::new();
    let node = scene.node("a", |_| {});
    let guest = scene.guest("web", node);
    let memory = scene.sweep(subject(&guest), &[(Metric::VmMemMax, 4 * GIB)]);
    scene.tell(node, vec![memory], Vec::new(), &[]);
    scene.pass(20);
    // The writer was wild and is calm now: what is old must not crowd out what is new.
    for count in 0..400 {
        scene.pass(2);
        let rate = if count < 200 { 900 * MIB } else { 2 * MIB };
        let sweeps = [1_000, 3_000].map(|window_ms| dirty(&scene, &guest, window_ms, rate));
        scene.tell(node, sweeps.to_vec(), Vec::new(), &[]);
    }
    scene.sees(&guest, 1);
    let row = scene.known.owner(guest.domain).unwrap();
    let mut gathered = Vec::new();
    let points = dirty_points(&scene.known, &row, scene.now(), &mut gathered).unwrap();
    assert!(points.len() <= DIRTY_POINTS_MAX);
    for window_ms in [1_000, 3_000] {
        let of_window: Vec<_> = points
            .iter()
            .filter(|point| point.window_ms == window_ms)
            .collect();
        assert_eq!(of_window.len(), DIRTY_POINTS_MAX / 2);
        assert_eq!(
            of_window.last().unwrap().rate,
            DirtyRate::from_mib_per_second(2)
        );
    }
    assert_eq!(gathered.len(), 2, "{gathered:?}");
}

/// Ten readings of a counter, as many seconds apart, that grows by `each` between two.
fn counts(scene: &Scene, node: NodeId, metric: Metric, part: &str, each: u64) {
    for count in 1..=10 {
        scene.pass(10);
        let mut sweep = scene.sweep(Subject::Node(node), &[]);
        let part = Part::named(part).unwrap();
        sweep.values.push((metric, part, count * each));
        scene.tell(node, vec![sweep], Vec::new(), &[]);
    }
}

#[test]
fn what_else_crosses_the_link_is_taken_off_and_told() {
    let scene = Scene::new();
    let node = scene.node("a", |_| {});
    let guest = scene.guest("web", node);
    let memory = scene.sweep(subject(&guest), &[(Metric::VmMemMax, 4 * GIB)]);
    scene.tell(node, vec![memory], Vec::new(), &[]);
    let alone = ask(&scene, &guest).estimate.link;
    counts(&scene, node, Metric::HostNetTxBytes, "eth1", 5_000_000_000);
    scene.sees(&guest, 1);
    let answer = ask(&scene, &guest);
    let taken = alone.bytes_per_second() - answer.estimate.link.bytes_per_second();
    // Half a gigabyte a second, and at most one hundredth of the link more.
    assert!((500_000_000..513_000_000).contains(&taken), "{taken}");
    assert!(input(&answer, "node.other_traffic{host.net.tx.bytes}").is_some());
}

/// Plans a move between two nodes whose cards tell this speed, after migrations that reached these rates.
fn planned_on_a_way(speed: Option<Bandwidth>, reached: &[i64]) -> Answer {
    let scene = Scene::new();
    let [node, target] =
        ["a", "b"].map(|name| scene.node(name, |facts| facts.migration_bandwidth = speed));
    let guest = scene.guest("web", node);
    let memory = scene.sweep(subject(&guest), &[(Metric::VmMemMax, 4 * GIB)]);
    scene.tell(node, vec![memory], Vec::new(), &[]);
    for rate in reached {
        let migration = crate::reached::tests::moved(node, target, *rate);
        scene.known.learned.learn(&migration, None);
    }
    let row = scene.known.owner(guest.domain).unwrap();
    let question = Question {
        target: Some(target),
        policy: Policy::qemu(MigrationMode::Precopy),
        path_bandwidth: None,
    };
    let assumed = Bandwidth::from_mbit_per_second(1_000);
    plan(&scene.known, &row, &question, scene.now(), assumed).unwrap()
}

#[test]
fn a_way_that_never_gave_what_its_cards_promise_is_taken_for_what_it_gave() {
    let ten_gbit = Some(Bandwidth::from_mbit_per_second(10_000));
    let carries = |speed, reached: &[i64]| {
        let answer = planned_on_a_way(speed, reached);
        let told = input(&answer, "path.reached").map(|input| input.value.clone());
        (answer.estimate.link.bytes_per_second(), told)
    };
    let (cards, told) = carries(ten_gbit, &[]);
    assert!(cards > 1_200_000_000 && told.is_none(), "{cards} {told:?}");
    let few = [400_000_000; 2];
    assert_eq!(
        carries(ten_gbit, &few),
        (cards, None),
        "they may have had a cap"
    );
    let (rate, told) = carries(ten_gbit, &[400_000_000, 500_000_000, 300_000_000]);
    assert_eq!(rate, 500_000_000);
    assert!(told.unwrap().ends_with("(best of 3)"));
    let (rate, told) = carries(ten_gbit, &[1_150_000_000; 3]);
    assert_eq!(rate, cards, "within a tenth it is the same link");
    assert!(told.is_some());
    let (rate, _) = carries(None, &[2_000_000_000; 3]);
    assert_eq!(rate, 2_000_000_000, "better than what is assumed");
}

#[test]
fn a_source_without_an_idle_processor_is_told() {
    let scene = Scene::new();
    let node = scene.node("a", |_| {});
    let guest = scene.guest("web", node);
    let memory = scene.sweep(subject(&guest), &[(Metric::VmMemMax, 4 * GIB)]);
    scene.tell(node, vec![memory], Vec::new(), &[]);
    assert!(input(&ask(&scene, &guest), "node.idle_cpus").is_none());
    // A quarter of one processor, in nanoseconds each ten seconds.
    counts(&scene, node, Metric::HostCpuTimeIdle, "0", 2_500_000_000);
    scene.sees(&guest, 1);
    let answer = ask(&scene, &guest);
    let idle = &input(&answer, "node.idle_cpus").unwrap().value;
    assert_eq!(idle, "0.25 processors");
    let busy = plimsoll_estimate::Quality::BusySource;
    assert!(answer.estimate.quality.contains(&busy));
}

/// Plans the move of a guest that tells these readings, each with its window in milliseconds.
fn planned(readings: &[(Metric, &str, u32, u64)]) -> Answer {
    let scene = Scene::new();
    let node = scene.node("a", |_| {});
    let guest = scene.guest("web", node);
    scene.pass(60);
    scene.sees(&guest, 1);
    let memory = scene.sweep(
        subject(&guest),
        &[
            (Metric::VmMemMax, 4_096 * MIB),
            (Metric::VmMemRss, 2_048 * MIB),
        ],
    );
    let mut sweeps = vec![memory];
    for (metric, part, width_ms, value) in readings {
        let mut sweep: Sweep = scene.sweep(subject(&guest), &[]);
        sweep.window.width_ms = *width_ms;
        let part = match *part {
            "" => Part::whole(),
            part => Part::named(part).unwrap(),
        };
        sweep.values.push((*metric, part, *value));
        sweeps.push(sweep);
    }
    scene.tell(node, sweeps, Vec::new(), &[]);
    ask(&scene, &guest)
}

#[test]
fn the_passes_of_an_earlier_migration_are_points_on_the_curve() {
    let answer = planned(&[
        (Metric::VmDirtyPassRate, "", 4_000, 30 * MIB),
        (Metric::VmDirtyPassRate, "", 600, 90 * MIB),
    ]);
    let counted = answer.inputs.iter().find(|input| input.source == "counted");
    let counted = counted.expect("an input");
    assert!(counted.value.ends_with("(last of 2)"), "{}", counted.value);
    assert_ne!(answer.estimate.verdict, plimsoll_estimate::Verdict::Unknown);
}

#[test]
fn a_rate_is_as_sure_as_the_pages_it_was_drawn_from() {
    let scene = Scene::new();
    let node = scene.node("a", |_| {});
    let guest = scene.guest("web", node);
    let mut sweep = scene.sweep(subject(&guest), &[]);
    let part = |name| Part::named(name).unwrap();
    let pages = (Metric::VmDirtySamplePages, part("500"), 16_384);
    sweep.values.push(pages);
    scene.tell(node, vec![sweep], Vec::new(), &[]);
    let row = scene.known.owner(guest.domain).unwrap();
    let pages = |name| noise(&scene.known, &row, &part(name));
    let of = |pages_per_gib| DirtySource::PageSampling { pages_per_gib };
    assert_eq!(pages("500"), of(16_384));
    assert_eq!(pages("5000"), of(LIBVIRT_SAMPLES_PER_GIB), "an older agent");
}
