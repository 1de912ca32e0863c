use plimsoll_libvirt::TypedValue;

use super::*;
use crate::fake_libvirt::{Asked, Daemon, Say, connect, domain, job as job_is, stats};

fn result(status: i32, period: i32, start: i64) -> Vec<(&'static str, TypedValue)> {
    vec![
        ("dirtyrate.calc_status", TypedValue::Int(status)),
        ("dirtyrate.calc_period", TypedValue::Int(period)),
        ("dirtyrate.calc_start_time", TypedValue::Long(start)),
        ("dirtyrate.megabytes_per_second", TypedValue::Long(7)),
    ]
}

fn as_params(entries: Vec<(&'static str, TypedValue)>) -> TypedParams {
    let owned = entries.into_iter();
    TypedParams::new(
        owned
            .map(|(name, value)| (name.to_owned(), value))
            .collect(),
    )
}

#[test]
fn only_a_result_that_is_proven_to_be_ours_is_taken() {
    let told = |status, period, start| as_params(result(status, period, start));
    let rate = DirtyRate::from_mib_per_second(7);
    let ours = Some(Measured::sampled(rate, LIBVIRT_PAGES_PER_GIB));
    assert_eq!(proven(&told(2, 1, 100), Some(90), 1), ours);
    assert_eq!(proven(&told(2, 1, 100), None, 1), ours);
    assert_eq!(proven(&told(2, 1, 100), Some(100), 1), None, "last week's");
    assert_eq!(
        proven(&told(2, 5, 100), Some(90), 1),
        None,
        "another window"
    );
    assert_eq!(proven(&told(1, 1, 100), Some(90), 1), None, "under way");
    // Wall clock in one release, time since the start of the node in another: only equality counts.
    assert_eq!(proven(&told(2, 1, 90), Some(1_795_470_069), 1), ours);
    let mut other = result(2, 1, 100);
    other.push((
        "dirtyrate.calc_mode",
        TypedValue::String("dirty-ring".to_owned()),
    ));
    assert_eq!(proven(&as_params(other), Some(90), 1), None, "another mode");
}

async fn measured(
    sampling: Sampling,
    window: Duration,
    answer: impl FnMut(Asked, &[u8]) -> Say + Send + 'static,
) -> (Result<Measured, MeasureError>, Daemon) {
    let (connection, daemon) = connect(answer).await;
    let order = Order {
        domain: &domain(),
        window,
        sampling,
        deadline: Duration::from_secs(1),
    };
    let outcome = measure(&connection, &order).await;
    (outcome, daemon)
}

#[tokio::test(start_paused = true)]
async fn no_measurement_is_begun_on_a_domain_that_migrates() {
    for sampling in [Sampling::Libvirt, Sampling::Qmp(512)] {
        let answer = |asked, _: &[u8]| match asked {
            Asked::Jobs => job_is(job::kind::UNBOUNDED, &[]),
            _ => Say::No("the job is held"),
        };
        let (outcome, daemon) = measured(sampling, Duration::from_secs(1), answer).await;
        assert!(matches!(outcome, Err(MeasureError::HasJob)), "{outcome:?}");
        assert_eq!(daemon.count(Asked::StartDirtyRate), 0);
        assert_eq!(daemon.count(Asked::Monitor), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn the_result_of_last_week_is_not_taken_for_ours() {
    let answer = |asked, _: &[u8]| match asked {
        Asked::Jobs => job_is(job::kind::NONE, &[]),
        Asked::StartDirtyRate => Say::This(Vec::new()),
        _ => stats(&result(2, 1, 100)),
    };
    let (outcome, daemon) = measured(Sampling::Libvirt, Duration::from_secs(1), answer).await;
    assert!(matches!(outcome, Err(MeasureError::NotOurs)), "{outcome:?}");
    assert_eq!(daemon.count(Asked::StartDirtyRate), 1);
}

#[tokio::test(start_paused = true)]
async fn a_window_below_a_second_is_measured_by_the_monitor_with_more_pages() {
    let answer = |asked, payload: &[u8]| {
        let said = String::from_utf8_lossy(payload).into_owned();
        let reply = if said.contains("query-version") {
            r#"{"return":{"qemu":{"major":10,"minor":0,"micro":2}},"id":"x"}"#
        } else if said.contains("calc-dirty-rate") {
            r#"{"return":{}}"#
        } else {
            r#"{"return":{"status":"measured","mode":"page-sampling","calc-time":500,
                "sample-pages":16384,"dirty-rate":21,"start-time":5}}"#
        };
        match asked {
            Asked::Jobs => job_is(job::kind::NONE, &[]),
            _ => Say::This(crate::fake_libvirt::text(reply)),
        }
    };
    let window = Duration::from_millis(500);
    let (outcome, daemon) = measured(Sampling::Qmp(16_384), window, answer).await;
    let rate = DirtyRate::from_mib_per_second(21);
    assert_eq!(outcome.unwrap(), Measured::sampled(rate, 16_384));
    let commands = daemon.texts(Asked::Monitor).concat();
    assert!(commands.contains(r#""mode":"page-sampling""#), "{commands}");
    assert!(!commands.contains("dirty-ring") && !commands.contains("dirty-bitmap"));
    assert_eq!(daemon.count(Asked::StartDirtyRate), 0);

    let refused = |_: Asked, _: &[u8]| job_is(job::kind::NONE, &[]);
    let (outcome, _) = measured(Sampling::Libvirt, window, refused).await;
    assert!(
        matches!(outcome, Err(MeasureError::Window(_))),
        "{outcome:?}"
    );
}
