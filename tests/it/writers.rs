//! Two guests that write to sets of the same size, one ten times as fast, are told apart by the windows of
//! the agent's own measurements, and would not be by the longer one alone.

use plimsoll_tests::cloud::Cloud;
use plimsoll_tests::guest::{Guest, PAGE_BYTES, PageSet, Pattern};
use plimsoll_tests::stage::{StageConfig, turn};
use uuid::Uuid;

use crate::house::programs;

const MIB: u32 = 1 << 20;
const SET_BYTES: u32 = 64 * MIB;
/// The windows that agents of a cloud measure.
const WINDOWS_MS: [u64; 2] = [1_000, 3_000];

fn writer(name: &str, mib_per_second: u32) -> Guest {
    Guest {
        name: name.to_owned(),
        uuid: Uuid::new_v4(),
        memory_mib: 256,
        vcpus: 1,
        fill_bytes: 96 * MIB,
        pattern: Pattern::Uniform(PageSet {
            working_set_bytes: SET_BYTES,
            pages_per_second: mib_per_second * (MIB / PAGE_BYTES),
        }),
        seed: 11,
    }
}

/// The middle one of the rates that were measured over a window, in MiB/s.
fn middle(cloud: &Cloud, guest: &str, window_ms: u64) -> f64 {
    let question = [
        "series",
        guest,
        "--metric",
        "vm.dirty.rate",
        "--since",
        "10m",
    ];
    let told = cloud.ask(&question).unwrap();
    let window = window_ms.to_string();
    let of_it = told.as_array().unwrap().iter();
    let samples = of_it
        .filter(|series| series["part"] == window)
        .flat_map(|series| series["samples"].as_array().unwrap());
    let mut rates: Vec<f64> = samples
        .map(|sample| sample["value"].as_f64().unwrap() / f64::from(MIB))
        .collect();
    assert!(rates.len() >= 3, "{window_ms} ms: {told:#}");
    rates.sort_by(f64::total_cmp);
    rates[rates.len() / 2]
}

#[test]
fn a_writer_ten_times_as_fast_on_a_set_of_the_same_size_is_told_apart_by_the_windows() {
    let story = "a_writer_ten_times_as_fast_on_a_set_of_the_same_size_is_told_apart_by_the_windows";
    let Some(_turn) = turn(story) else {
        return;
    };
    let cloud = Cloud::raise(&StageConfig::default(), &programs(), None).unwrap();
    let node = cloud.stage().node(0).unwrap();
    let target = cloud.stage().node(1).unwrap().name();
    for guest in [writer("slow", 20), writer("fast", 200)] {
        node.define_and_start(&guest).unwrap();
    }
    let measured = |name: &str| {
        // Comes when each window has been measured three times.
        cloud.estimate(name, &["--to", target]).unwrap();
        WINDOWS_MS.map(|window| middle(&cloud, name, window))
    };
    let ([slow, slow_long], [fast, fast_long]) = (measured("slow"), measured("fast"));
    let told = format!("slow {slow} and {slow_long}, fast {fast} and {fast_long} MiB/s");
    // 64 MiB x (1 - e^-0.31) = 17 and 61 MiB in a second, 39 and 64 MiB in three.
    assert!(fast >= 2.0 * slow, "the short window tells them: {told}");
    let share = fast_long / slow_long;
    assert!(share < fast / slow, "the long one less so: {told}");
    let in_sight = f64::from(SET_BYTES / MIB) * 1.5;
    assert!(
        fast <= in_sight && 3.0 * fast_long <= in_sight,
        "no more than the set: {told}"
    );
}
