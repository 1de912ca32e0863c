//! The command that holds the store against its peers: small here, so that only the answers are judged.

use std::io::Write as _;

use plimsoll_model::{Clock as _, SystemClock};
use plimsoll_tests::peers::run::{self, Name, Order};
use plimsoll_tests::peers::shape::Size;
use plimsoll_tests::peers::table;

use crate::house::programs;

#[test]
fn all_three_answer_what_they_were_fed_and_ours_loses_nothing_it_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let (rows, interval_ms) = (100, 10_000);
    let order = Order {
        size: Size {
            nodes: 2,
            rows,
            interval_ms,
            begin_ms: SystemClock::new().now().millis() - i64::from(rows + 70) * interval_ms,
        },
        names: vec![Name::Plimsoll, Name::VictoriaMetrics, Name::Prometheus],
        batch: 5_000,
        peer_rows: 1,
        asks: 5,
        programs: programs(),
        dir: dir.path().to_owned(),
    };
    if let Some(missing) = run::missing(&order) {
        let complete = std::env::var_os("PLIMSOLL_TESTS_COMPLETE").is_some_and(|set| set == "1");
        assert!(!complete, "{missing}");
        // Not through the test harness, which would swallow it.
        writeln!(
            std::io::stderr(),
            "left out: the store beside its peers: {missing}"
        )
        .unwrap();
        return;
    }
    // Fails where an answer is not what was fed.
    let all = run::run(&order).unwrap();
    assert_eq!(all.len(), 3);
    assert_eq!((all[0].lost, all[0].samples), (0, 200_000));
    let text = table::render(&order, &all).unwrap();
    for figures in &all {
        assert!(text.contains(&figures.name), "{text}");
        assert!(
            figures.disk_bytes > 0 && figures.resident_bytes > 0,
            "{text}"
        );
    }
}
