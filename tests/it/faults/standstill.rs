//! Programs that stand still for longer than any deadline, as a machine that is suspended, and clocks that step.

use std::path::Path;
use std::time::Duration;

use plimsoll_tests::stage::Deadline;
use rustix::process::Signal;

use super::{Way, books, hears_anew, last};
use crate::units::told;

/// Longer than a sign of life is waited for: 10 s and 5 s.
const ASLEEP: Duration = Duration::from_secs(17);
/// Two intervals, a backoff, and what a busy machine may add.
const BACK_MAX: Duration = Duration::from_secs(6);

#[test]
fn after_both_sides_stood_still_in_turn_all_goes_on_within_two_intervals() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let (house, address) = Way::default().aggregator("127.0.0.1:0", &data, "");
    let url = format!("http://{address}");
    let agents: Vec<_> = { ["a", "b"].iter() }
        .map(|name| Way::default().agent(&url, &dir.path().join(name), ""))
        .collect();
    hears_anew(&url, 2);
    // The aggregator is away for both; then one agent is away for the aggregator, while it stands still too.
    house.program.signal(Signal::STOP);
    agents[0].program.signal(Signal::STOP);
    last(ASLEEP);
    house.program.signal(Signal::CONT);
    agents[0].program.signal(Signal::CONT);
    let woken = Deadline::after(BACK_MAX);
    hears_anew(&url, 2);
    let back = woken.elapsed();
    let dirs: Vec<_> = agents.into_iter().map(super::Agent::end).collect();
    drop(house);
    let count = books::settle(&data, &[&dirs[0], &dirs[1]]);
    println!("both heard {back:?} after they woke: {count:?}");
    assert!(back <= BACK_MAX, "{back:?}");
    assert_eq!((count.gap, count.in_flight), (0, 0), "{count:?}");
    // Only the one that stood still saw nothing meanwhile.
    assert!(count.readings >= ASLEEP.as_secs(), "{count:?}");
}

/// Debian's libfaketime, by architecture.
const FAKETIME: [&str; 2] = [
    "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1",
    "/usr/lib/aarch64-linux-gnu/faketime/libfaketimeMT.so.1",
];

/// A way on which the clock of a program shows what a file says; the monotonic clock is let alone.
fn bent(file: &Path, library: &str) -> Way {
    std::fs::write(file, "+0").unwrap();
    Way {
        environment: vec![
            ("LD_PRELOAD", library.to_owned()),
            ("FAKETIME_TIMESTAMP_FILE", file.display().to_string()),
            ("FAKETIME_NO_CACHE", "1".to_owned()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
            ("DONT_FAKE_MONOTONIC", "1".to_owned()),
        ],
        ..Way::default()
    }
}

#[test]
fn clocks_that_step_lose_nothing_unseen_and_all_goes_on_when_they_are_right() {
    let Some(library) = FAKETIME.iter().find(|path| Path::new(path).exists()) else {
        told("clocks that step", &["libfaketime"]);
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let (of_house, of_agent) = (dir.path().join("clock-a"), dir.path().join("clock-b"));
    let (house, address) = bent(&of_house, library).aggregator("127.0.0.1:0", &data, "");
    let url = format!("http://{address}");
    let agent = bent(&of_agent, library).agent(&url, &dir.path().join("agent"), "");
    let steady = Way::default().agent(&url, &dir.path().join("steady"), "");
    hears_anew(&url, 2);
    // The last steps of the agent's clock lead back to where it has looked already.
    for (clock, steps) in [
        (&of_agent, "+30 -3600 +3600 -86400 +0"),
        (&of_house, "+30 -5 +3600 -3600 +86400 +0"),
        (&of_agent, "-4 -7 +0"),
    ] {
        for step in steps.split(' ') {
            let next = clock.with_extension("next");
            std::fs::write(&next, step).unwrap();
            std::fs::rename(&next, clock).unwrap();
            last(Duration::from_millis(1_500));
        }
        hears_anew(&url, 2);
    }
    let logs = [agent.log(), steady.log()].concat();
    let dirs = [agent.end(), steady.end()];
    let log = house.end();
    let count = books::settle(&data, &[&dirs[0], &dirs[1]]);
    let steepest = books::steepest(&data);
    println!("in a second, a processor spent {steepest:.2} s at most; {count:?}");
    assert_eq!(count.in_flight, 0, "{count:?}");
    // While a clock is slewed it shows half of what passes.
    assert!(steepest < 3.0, "{steepest}");
    // What was said to be of the future was refused, and that is told.
    assert!(
        count.gap > 0 && logs.contains("refused a batch"),
        "{count:?}: {log}"
    );
    assert!(count.readings >= 20, "{count:?}");
}
