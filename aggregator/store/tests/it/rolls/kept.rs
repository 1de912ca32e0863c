//! How long samples and rollups are kept, and what answers once samples are forgotten.

use std::time::Duration;

use plimsoll_model::Metric;
use plimsoll_store::{
    Function, Keep, SeriesFilter, StepsError, Store, StoreOptions, Tier, rebuild_index,
};

use super::{DAY, HOUR, Meter, agrees, ask, five_days, options, rolled, seconds, settle, tiers};

#[test]
fn where_samples_are_forgotten_the_finest_rollups_left_answer_and_say_so() {
    let dir = tempfile::tempdir().unwrap();
    let (store, meter, begin) = five_days(dir.path(), options());
    let end = begin + 5 * DAY;
    drop(store);
    let day = Duration::from_secs(DAY);
    let kept = StoreOptions {
        retention: Some(day),
        ..options()
    };
    let (store, _) = Store::open(dir.path(), kept.clone()).unwrap();
    settle(&store, end);
    let key = Meter::key(Metric::HostMemFree);
    assert_eq!(
        store.range(&key, seconds(begin), seconds(begin + 3 * DAY)),
        []
    );
    agrees(&store, &meter, (begin, end), HOUR);
    agrees(&store, &meter, (begin, end), 300);
    // A minute is finer than what is left.
    let minutes = ask(Function::Max, (begin, begin + DAY), 60);
    let answer = store.steps(&key, &minutes).unwrap();
    assert_eq!(
        (answer.step, tiers(&answer)),
        (Duration::from_secs(300), vec![Some(Tier::FiveMinutes)])
    );
    for function in [Function::Quantile(0.5), Function::Trend] {
        let asked = ask(function, (begin, end), HOUR);
        let error = store.steps(&key, &asked).unwrap_err();
        assert!(matches!(error, StepsError::SamplesOnly { .. }), "{error}");
        // Of the last day they are there.
        let asked = ask(function, (end - 12 * HOUR, end), HOUR);
        assert_eq!(store.steps(&key, &asked).unwrap().steps.len(), 12);
    }
    // Where five minutes are forgotten too, hours are left.
    drop(store);
    let five_minutes = Keep {
        age: Some(2 * day),
        bytes: None,
    };
    let (store, _) = Store::open(
        dir.path(),
        StoreOptions {
            five_minutes,
            ..kept
        },
    )
    .unwrap();
    settle(&store, end);
    let answer = store.steps(&key, &minutes).unwrap();
    assert_eq!(
        (answer.step, tiers(&answer)),
        (Duration::from_secs(HOUR), vec![Some(Tier::Hour)])
    );
    agrees(&store, &meter, (begin, end), HOUR);
    // A series of which only rollups are left is listed by who asks for it, also by a new index.
    let past = SeriesFilter {
        past: true,
        ..SeriesFilter::default()
    };
    settle(&store, end + 10 * DAY);
    assert_eq!(store.series(&SeriesFilter::default()), []);
    assert_eq!(store.series(&past).len(), 3);
    drop(store);
    assert!(rebuild_index(dir.path()).unwrap().index_rebuilt);
    let (store, _) = Store::open(dir.path(), options()).unwrap();
    assert_eq!(store.series(&past).len(), 3);
    assert_eq!(
        store.series(&SeriesFilter::default()),
        [],
        "of these nothing but rollups is left"
    );
}

#[test]
fn samples_stay_with_their_neighbours_until_rollups_know_them() {
    let dir = tempfile::tempdir().unwrap();
    let retention = Some(Duration::from_secs(HOUR));
    let kept = StoreOptions {
        retention,
        ..options()
    };
    let (store, _) = Store::open(dir.path(), kept).unwrap();
    let mut meter = Meter::new();
    let (begin, end) = (10_000 * DAY, 10_005 * DAY);
    meter.run(&store, (begin, end, 60));
    store.seal().unwrap();
    // One upkeep makes rollups of two days, and would forget all five.
    let upkeep = store.maintain(seconds(end)).unwrap();
    assert_eq!(
        upkeep.expired_files, 23,
        "all but the last file before them"
    );
    settle(&store, end);
    for tier in Tier::ALL {
        let answer = agrees(&store, &meter, (begin, end), tier.length().as_secs());
        assert_eq!(tiers(&answer), [Some(tier)]);
    }
}

#[test]
fn rollups_know_all_samples_of_a_store_that_keeps_these_for_some_hours() {
    for retention in [12 * HOUR, 6 * HOUR] {
        let dir = tempfile::tempdir().unwrap();
        let kept = StoreOptions {
            retention: Some(Duration::from_secs(retention)),
            ..options()
        };
        let (store, _) = Store::open(dir.path(), kept).unwrap();
        let mut meter = Meter::new();
        let (begin, end) = (10_000 * DAY, 10_002 * DAY);
        for at in (begin..end).step_by(600) {
            meter.run(&store, (at, at + 600, 60));
            store.maintain(seconds(at + 600)).unwrap();
        }
        store.seal().unwrap();
        settle(&store, end);
        for tier in Tier::ALL {
            agrees(&store, &meter, (begin, end), tier.length().as_secs());
        }
    }
}

#[test]
fn tiers_are_kept_by_bytes_too() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _, begin) = five_days(dir.path(), options());
    drop(store);
    let bytes = |tier| {
        rolled(dir.path(), tier)
            .iter()
            .map(|path| path.metadata().unwrap().len())
            .sum::<u64>()
    };
    let most = bytes(Tier::FiveMinutes) / 2;
    let five_minutes = Keep {
        age: None,
        bytes: Some(most),
    };
    let (store, _) = Store::open(
        dir.path(),
        StoreOptions {
            five_minutes,
            ..options()
        },
    )
    .unwrap();
    let hours = rolled(dir.path(), Tier::Hour);
    settle(&store, begin + 5 * DAY);
    assert!(bytes(Tier::FiveMinutes) <= most && bytes(Tier::FiveMinutes) > 0);
    assert_eq!(rolled(dir.path(), Tier::Hour), hours);
}
