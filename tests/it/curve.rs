//! The agent's own windows on the curve of dirty memory, held against what guests say they wrote.
//!
//! How fast a guest writes is not taken for granted: it counts what it writes, and what unique memory that
//! makes is known. So a point is wrong only if the agent, or QEMU for it, took something else for its window.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::time::Duration;

use plimsoll_tests::cloud::{Cloud, Measuring};
use plimsoll_tests::guest::{Guest, PAGE_BYTES, PageSet, Pattern};
use plimsoll_tests::stage::{Deadline, StageConfig, pause, turn};
use serde_json::Value;
use uuid::Uuid;

use crate::diary::Diary;
use crate::house::programs;

const MIB: u32 = 1 << 20;
const MEMORY_MIB: u32 = 256;
/// Pages of each GiB that QEMU looks at: with libvirt's 512 a guest this small has a noise of a tenth of it.
pub(crate) const SAMPLE_PAGES: u32 = 16_384;
/// Deviations by which sampling may be off; of a million points seven are off further.
const DEVIATIONS: f64 = 4.5;
/// Time at the beginning of a window in which QEMU still looks at pages.
const LATE_MS: i64 = 150;
/// Unique memory by which a random writer is off from its mean.
const UNEVEN_MIB: f64 = 0.7;
const LIMIT: Duration = Duration::from_secs(150);
const ASK_PERIOD: Duration = Duration::from_millis(500);

/// One measurement as the agent told it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Point {
    pub(crate) window_ms: i64,
    pub(crate) began_ms: i64,
    ended_ms: i64,
    rate_mib: f64,
}

/// A measurement, and what it may be.
#[derive(Debug)]
pub(crate) struct Judged {
    pub(crate) window_ms: i64,
    pub(crate) rate_mib: f64,
    may_be_mib: RangeInclusive<f64>,
}

/// A guest that writes at random places of a set.
pub(crate) fn writer(name: &str, set_mib: u32, mib_per_second: u32) -> Guest {
    Guest {
        name: name.to_owned(),
        uuid: Uuid::new_v4(),
        memory_mib: MEMORY_MIB,
        vcpus: 1,
        fill_bytes: 96 * MIB,
        pattern: Pattern::Uniform(PageSet {
            working_set_bytes: set_mib * MIB,
            pages_per_second: mib_per_second * (MIB / PAGE_BYTES),
        }),
        seed: 11,
    }
}

/// The values of one metric of a guest, by window and end.
fn values(told: &Value, metric: &str) -> BTreeMap<(i64, i64), f64> {
    let mut found = BTreeMap::new();
    for series in told.as_array().unwrap() {
        let window = series["part"].as_str().and_then(|part| part.parse().ok());
        for sample in series["samples"].as_array().unwrap() {
            let end = sample["end_time_ms"].as_i64().unwrap();
            if series["metric"] == metric {
                let value = sample["value"].as_f64().unwrap();
                found.insert((window.unwrap_or(0), end), value);
            }
        }
    }
    found
}

fn dirty(cloud: &Cloud, guest: &str) -> Option<Value> {
    let question = ["series", guest, "--metric", "vm.dirty.*", "--since", "10m"];
    cloud.ask(&question).ok()
}

/// What the agent has measured of a guest so far.
pub(crate) fn points(cloud: &Cloud, guest: &str) -> Vec<Point> {
    let Some(told) = dirty(cloud, guest) else {
        return Vec::new();
    };
    let (began, pages) = (
        values(&told, "vm.dirty.started_at"),
        values(&told, "vm.dirty.sample_pages"),
    );
    let rates = values(&told, "vm.dirty.rate").into_iter();
    rates
        .map(|(key, rate)| {
            assert_eq!(pages.get(&key), Some(&f64::from(SAMPLE_PAGES)), "{told:#}");
            Point {
                window_ms: key.0,
                #[expect(clippy::cast_possible_truncation, reason = "milliseconds since 1970")]
                began_ms: began[&key] as i64,
                ended_ms: key.1,
                rate_mib: rate / f64::from(MIB),
            }
        })
        .collect()
}

/// Unique memory that so many pages at random places of a set make.
fn unique_mib(set_mib: u32, pages: u32) -> f64 {
    let set_pages = f64::from(set_mib) * f64::from(MIB / PAGE_BYTES);
    f64::from(set_mib) * (1.0 - (-f64::from(pages) / set_pages).exp())
}

/// The rates that a point may have, by what its guest wrote; absent while that is not known.
fn may_be(diary: &Diary, guest: &Guest, point: &Point) -> Option<RangeInclusive<f64>> {
    let Pattern::Uniform(set) = &guest.pattern else {
        panic!("only of a set at random is it known: {guest:?}")
    };
    let set_mib = set.working_set_bytes / MIB;
    let span = (point.began_ms, point.ended_ms);
    let written = diary.written(&guest.name, span, (point.window_ms, LATE_MS))?;
    let memory_mib = f64::from(MEMORY_MIB);
    let samples = f64::from(SAMPLE_PAGES) * memory_mib / 1024.0;
    let noise = |unique: f64| {
        let share = unique / memory_mib;
        let deviation = (share * (1.0 - share) / samples).sqrt() * memory_mib;
        DEVIATIONS * deviation + UNEVEN_MIB
    };
    let least = unique_mib(set_mib, *written.start());
    let most = unique_mib(set_mib, *written.end());
    let seconds = f64::from(u32::try_from(point.window_ms).unwrap()) / 1e3;
    // QEMU leaves off what is no whole MiB/s.
    let least = (least - noise(least)) / seconds - 1.0;
    Some(least.max(0.0)..=(most + noise(most)) / seconds)
}

/// Judges points of each guest until each window was measured so often; says each.
pub(crate) fn judge(
    cloud: &Cloud,
    diary: &Diary,
    guest: &Guest,
    rounds: usize,
    windows: &[Duration],
) -> Vec<Judged> {
    let deadline = Deadline::after(LIMIT);
    loop {
        let mut judged = Vec::new();
        for point in points(cloud, &guest.name) {
            // Before the diary was begun, or so young that it has not got that far.
            let Some(may_be_mib) = may_be(diary, guest, &point) else {
                continue;
            };
            let one = Judged {
                window_ms: point.window_ms,
                rate_mib: point.rate_mib,
                may_be_mib,
            };
            let is_true = one.may_be_mib.contains(&one.rate_mib);
            assert!(is_true, "{}: {one:?} of {point:?}", guest.name);
            judged.push(one);
        }
        let is_enough = |window: &Duration| {
            let of_it = judged
                .iter()
                .filter(|one| i128::from(one.window_ms) == window.as_millis().cast_signed());
            of_it.count() >= rounds
        };
        if windows.iter().all(is_enough) {
            tell(&guest.name, &judged);
            return judged;
        }
        assert!(
            !deadline.is_over(),
            "{} was measured {judged:#?} in {LIMIT:?}: {:#?}",
            guest.name,
            dirty(cloud, &guest.name),
        );
        pause(ASK_PERIOD);
    }
}

/// Not through the test harness, which would swallow what a story that ends well has to tell.
fn tell(guest: &str, judged: &[Judged]) {
    use std::io::Write as _;
    for Judged {
        window_ms,
        rate_mib,
        may_be_mib,
    } in judged
    {
        let (least, most) = (may_be_mib.start(), may_be_mib.end());
        let line = format!(
            "{guest}: {rate_mib:.0} MiB/s in {window_ms} ms, by its own count {least:.1} to {most:.1}"
        );
        drop(writeln!(std::io::stderr(), "{line}"));
    }
}

/// The pair of points of a window that guests' own counts hold furthest apart.
fn pair<'a>(slow: &'a [Judged], fast: &'a [Judged], window: Duration) -> (&'a Judged, &'a Judged) {
    let of = |all: &'a [Judged]| {
        let is_of = |one: &&Judged| i128::from(one.window_ms) == window.as_millis().cast_signed();
        all.iter().filter(is_of).collect::<Vec<_>>()
    };
    let by =
        |side: fn(&Judged) -> f64| move |a: &&&Judged, b: &&&Judged| side(a).total_cmp(&side(b));
    let (slow, fast) = (of(slow), of(fast));
    let slow = slow.iter().min_by(by(|one| *one.may_be_mib.end()));
    let fast = fast.iter().max_by(by(|one| *one.may_be_mib.start()));
    (slow.unwrap(), fast.unwrap())
}

#[test]
fn writers_of_20_and_200_mib_a_second_on_one_set_are_told_apart_by_the_agent_s_windows() {
    let story =
        "writers_of_20_and_200_mib_a_second_on_one_set_are_told_apart_by_the_agent_s_windows";
    let Some(_turn) = turn(story) else {
        return;
    };
    let (short, long) = (Duration::from_secs(2), Duration::from_secs(8));
    let measuring = Measuring {
        windows: vec![short, long],
        sample_pages: Some(SAMPLE_PAGES),
        at_once: 2,
        by_helper: false,
    };
    let cloud =
        Cloud::raise_measuring(&StageConfig::default(), &programs(), None, &measuring).unwrap();
    let node = cloud.stage().node(0).unwrap();
    let guests = [writer("slow", 64, 20), writer("fast", 64, 200)];
    for guest in &guests {
        node.define_and_start(guest).unwrap();
    }
    let diary = Diary::begin(node, &["slow", "fast"]);
    let [slow, fast] = guests
        .each_ref()
        .map(|guest| judge(&cloud, &diary, guest, 3, &measuring.windows));
    drop(diary);

    // Each point is within what its guest wrote; that these do not meet is what the machine owes.
    let (of_slow, of_fast) = pair(&slow, &fast, short);
    assert!(
        of_slow.may_be_mib.end() < of_fast.may_be_mib.start(),
        "this machine gave the guests no time to write as they should: {slow:#?} {fast:#?}"
    );
    assert!(
        of_slow.rate_mib < of_fast.rate_mib,
        "{of_slow:?} {of_fast:?}"
    );
    // In the long window both have written all of the set, so that it tells its size, and not who is who.
    let sizes = [&slow, &fast].map(|all| {
        let of_long = all.iter().filter(|one| one.window_ms == 8_000);
        of_long.map(|one| one.rate_mib * 8.0).fold(0.0, f64::max)
    });
    assert!(
        sizes.iter().all(|size| (40.0..=76.0).contains(size)),
        "{sizes:?}"
    );

    // So the one moves and the other does not, which neither window alone could tell.
    let target = cloud.stage().node(1).unwrap().name();
    let verdict = |guest: &str| {
        let said = cloud.estimate(guest, &["--to", target]).unwrap();
        said["verdict"].as_str().unwrap().to_owned()
    };
    assert_eq!(verdict("slow"), "VERDICT_CONVERGES");
    assert_eq!(verdict("fast"), "VERDICT_DOES_NOT_CONVERGE");
}
