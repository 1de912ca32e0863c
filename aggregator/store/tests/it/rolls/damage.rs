//! Rollups that are damaged, lost, or from a later release.

use std::time::Duration;

use plimsoll_model::Metric;
use plimsoll_store::{Function, Store, StoreOptions, Tier, check};

use super::{DAY, HOUR, Meter, agrees, ask, five_days, options, rolled, settle, tiers};
use crate::fold::naive;
use crate::scene::files;

/// Keeps samples for an hour only, so that rollups alone tell of the days before.
fn without_samples() -> StoreOptions {
    StoreOptions {
        retention: Some(Duration::from_secs(HOUR)),
        ..options()
    }
}

#[test]
fn a_rollup_that_is_damaged_or_lost_is_told_and_made_anew_from_samples() {
    let dir = tempfile::tempdir().unwrap();
    let (store, meter, begin) = five_days(dir.path(), options());
    let span = (begin, begin + 5 * DAY);
    let whole = agrees(&store, &meter, span, HOUR);
    drop(store);
    let damages: [crate::Damage<'_>; 3] = [
        ("a block", &|bytes| bytes[100] ^= 1),
        ("the footer", &|bytes| *bytes.last_mut().unwrap() ^= 1),
        ("its end is gone", &|bytes| bytes.truncate(bytes.len() - 9)),
    ];
    for (what, damage) in damages {
        let path = rolled(dir.path(), Tier::Hour).remove(0);
        let mut bytes = std::fs::read(&path).unwrap();
        damage(&mut bytes);
        std::fs::write(&path, &bytes).unwrap();
        assert!(!check(dir.path()).unwrap().holes.is_empty(), "{what}");
        let (store, _) = Store::open(dir.path(), options()).unwrap();
        // Samples answer in its place.
        assert_eq!(
            agrees(&store, &meter, span, HOUR).steps,
            whole.steps,
            "{what}"
        );
        assert!(store.holes().iter().any(|hole| hole.path == path), "{what}");
        settle(&store, begin + 5 * DAY);
        assert_eq!(
            tiers(&agrees(&store, &meter, span, HOUR)),
            [Some(Tier::Hour), None],
            "{what}"
        );
        drop(store);
        assert_eq!(check(dir.path()).unwrap().holes, [], "{what}");
    }
    std::fs::remove_dir_all(dir.path().join("rollup")).unwrap();
    let (store, report) = Store::open(dir.path(), options()).unwrap();
    assert!(
        report
            .holes
            .iter()
            .all(|hole| hole.what == "the file is missing")
    );
    agrees(&store, &meter, span, HOUR);
    settle(&store, begin + 5 * DAY);
    assert_eq!(
        tiers(&agrees(&store, &meter, span, HOUR)),
        [Some(Tier::Hour), None]
    );
    drop(store);
    assert_eq!(check(dir.path()).unwrap().holes, []);
}

#[test]
fn a_damaged_rollup_without_samples_costs_its_block_and_the_answer_names_it() {
    let dir = tempfile::tempdir().unwrap();
    let (store, meter, begin) = five_days(dir.path(), options());
    let end = begin + 5 * DAY;
    drop(store);
    let kept = without_samples();
    let (store, _) = Store::open(dir.path(), kept.clone()).unwrap();
    settle(&store, end);
    agrees(&store, &meter, (begin, end - DAY), HOUR);
    drop(store);
    let path = rolled(dir.path(), Tier::Hour).remove(0);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[100] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    let (store, _) = Store::open(dir.path(), kept).unwrap();
    settle(&store, end);
    let asked = ask(Function::Max, (begin, end - DAY), HOUR);
    let answer = store
        .steps(&Meter::key(Metric::HostMemFree), &asked)
        .unwrap();
    assert!(
        answer.holes.iter().any(|hole| hole.path == path),
        "{answer:?}"
    );
    let truth = naive(&meter.samples(1), &asked);
    assert!(answer.steps.iter().all(|step| truth.contains(step)));
    assert!(!answer.steps.is_empty() && answer.steps.len() < truth.len());
    // A damaged file that cannot be made anew is left as it is, also by who finds it at the start.
    drop(store);
    bytes.push(0);
    std::fs::write(&path, &bytes).unwrap();
    let (store, report) = Store::open(dir.path(), without_samples()).unwrap();
    assert!(report.holes.iter().any(|hole| hole.path == path));
    let key = Meter::key(Metric::HostMemFree);
    assert_eq!(store.steps(&key, &asked).unwrap(), answer, "at the start");
    settle(&store, end);
    assert_eq!(store.steps(&key, &asked).unwrap(), answer, "after upkeep");
    // Another tier of the same time is whole.
    let asked = ask(Function::Max, (begin, end - DAY), 300);
    assert_eq!(
        store
            .steps(&Meter::key(Metric::HostMemFree), &asked)
            .unwrap()
            .holes,
        []
    );
}

#[test]
fn a_damaged_footer_or_a_lost_end_of_rollups_without_samples_costs_no_block_that_is_whole() {
    let dir = tempfile::tempdir().unwrap();
    let (store, meter, begin) = five_days(dir.path(), options());
    let end = begin + 5 * DAY;
    drop(store);
    let kept = without_samples();
    let (store, _) = Store::open(dir.path(), kept.clone()).unwrap();
    settle(&store, end);
    drop(store);
    let path = rolled(dir.path(), Tier::Hour).remove(0);
    let whole = std::fs::read(&path).unwrap();
    let asked = ask(Function::Max, (begin, end - DAY), HOUR);
    let damages: [crate::Damage<'_>; 2] = [
        ("the footer", &|bytes| *bytes.last_mut().unwrap() ^= 1),
        ("its end is gone", &|bytes| bytes.truncate(bytes.len() - 9)),
    ];
    for (what, damage) in damages {
        let mut bytes = whole.clone();
        damage(&mut bytes);
        std::fs::write(&path, &bytes).unwrap();
        let (store, _) = Store::open(dir.path(), kept.clone()).unwrap();
        for when in ["at the start", "after upkeep"] {
            let told = store.steps(&Meter::key(Metric::HostMemFree), &asked);
            let told = told.unwrap();
            assert_eq!(
                told.steps,
                naive(&meter.samples(1), &asked),
                "{what} {when}"
            );
            assert!(told.holes.iter().any(|hole| hole.path == path), "{what}");
            settle(&store, end);
        }
    }
}

#[test]
fn rollups_of_damaged_samples_remember_it_when_the_samples_are_gone() {
    let dir = tempfile::tempdir().unwrap();
    let late = StoreOptions {
        settle_after: Duration::from_secs(30 * DAY),
        ..options()
    };
    let (store, meter, begin) = five_days(dir.path(), late);
    let end = begin + 5 * DAY;
    drop(store);
    assert_eq!(files(&dir.path().join("blocks")).len(), 60);
    let path = files(&dir.path().join("blocks")).remove(20);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[100] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    let key = Meter::key(Metric::HostMemFree);
    let asked = ask(Function::Count, (begin, end - DAY), HOUR);
    for retention in [None, Some(Duration::from_secs(HOUR))] {
        let kept = StoreOptions {
            retention,
            ..options()
        };
        let (store, _) = Store::open(dir.path(), kept).unwrap();
        settle(&store, end);
        let answer = store.steps(&key, &asked).unwrap();
        assert_eq!(tiers(&answer), [Some(Tier::Hour)]);
        assert!(
            answer.holes.iter().any(|hole| hole.path == path),
            "{:?}",
            answer.holes
        );
        let lost: f64 = naive(&meter.samples(1), &asked)
            .iter()
            .map(|step| step.value)
            .sum::<f64>()
            - answer.steps.iter().map(|step| step.value).sum::<f64>();
        assert!((lost - 120.0).abs() < 0.5, "one block is lost, not {lost}");
        // Times that have nothing to do with it are not called partial.
        let other = ask(Function::Count, (end - 2 * DAY, end - DAY), HOUR);
        assert_eq!(store.steps(&key, &other).unwrap().holes, []);
    }
}

#[test]
fn every_flipped_byte_of_a_rollup_is_seen() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _, _) = five_days(dir.path(), options());
    drop(store);
    for tier in Tier::ALL {
        let path = rolled(dir.path(), tier).pop().unwrap();
        let bytes = std::fs::read(&path).unwrap();
        for place in (0..bytes.len()).step_by(23) {
            let mut flipped = bytes.clone();
            flipped[place] ^= 1 << (place % 8);
            std::fs::write(&path, &flipped).unwrap();
            let holes = check(dir.path()).unwrap().holes;
            assert!(
                holes.iter().all(|hole| hole.path == path) && !holes.is_empty(),
                "{place}"
            );
        }
        std::fs::write(&path, &bytes).unwrap();
    }
    assert_eq!(check(dir.path()).unwrap().holes, []);
}

#[test]
fn a_rollup_of_a_later_release_is_named_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _, _) = five_days(dir.path(), options());
    drop(store);
    let path = rolled(dir.path(), Tier::Hour).pop().unwrap();
    let mut later = std::fs::read(&path).unwrap();
    later[8] += 1;
    let check = crc32c::crc32c(&later[..36]);
    later[36..40].copy_from_slice(&check.to_le_bytes());
    std::fs::write(&path, &later).unwrap();
    let error = Store::open(dir.path(), options()).unwrap_err().to_string();
    assert!(error.contains(path.to_str().unwrap()), "{error}");
    assert!(error.contains("start the newer release again"), "{error}");
    assert_eq!(std::fs::read(&path).unwrap(), later);
}
