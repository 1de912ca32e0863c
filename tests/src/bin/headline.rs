//! The headline list as a table: each row is a run of its own, made now, and says what it saw. A row that
//! cannot be run says why; none repeats a figure that was seen elsewhere.

use std::io::Write as _;
use std::process::{Command, ExitCode, Stdio};

/// What shows that a claim holds.
enum Shown {
    /// A cargo command that ends well, and the words of the line that holds its figure.
    Run(&'static [&'static str], &'static str),
    /// Nothing yet.
    Not(&'static str),
}

/// One promise, and what shows it.
struct Row {
    claim: &'static str,
    shown: Shown,
}

/// Arguments of cargo that run a campaign of the store's ordeal.
macro_rules! ordeal {
    ($($word:literal),+) => {
        Shown::Run(
            &[
                "run", "--release", "-q", "-p", "plimsoll-store", "--example", "ordeal", "--", $($word),+
            ],
            "",
        )
    };
}

/// Arguments of cargo that run tests of a package, and the words of the line that is shown.
macro_rules! test {
    ($($word:literal),+; $figure:literal) => {
        Shown::Run(&["test", "-q", "-p", $($word),+], $figure)
    };
}

const ROWS: [Row; 15] = [
    Row {
        claim: "acknowledged samples lost by kill -9: 0",
        shown: ordeal!("kill", "--cycles", "20"),
    },
    Row {
        claim: "acknowledged samples lost by power cuts (ext4, xfs): 0",
        shown: ordeal!("power", "--cycles", "10"),
    },
    Row {
        claim: "nothing is acknowledged before it is on disk",
        shown: ordeal!("order", "--slices", "100"),
    },
    Row {
        claim: "acknowledged samples lost on a full disk: 0",
        shown: ordeal!("full", "--cycles", "5"),
    },
    Row {
        claim: "in 200 simulated worlds, what was produced is stored once or in a gap",
        shown: test!("plimsoll-tests", "--test", "sim", "in_every_world", "--", "--nocapture"; "worlds:"),
    },
    Row {
        claim: "flipped bytes that are found: all",
        shown: ordeal!("flips", "--stride", "16"),
    },
    Row {
        claim: "one stuck guest of 100: others miss one interval at most",
        shown: Shown::Not("no stage of 100 guests is told yet"),
    },
    Row {
        claim: "every call meets every role; of all certificates only the right one comes in",
        shown: test!("plimsoll-aggregator", "--test", "guard"; "test result"),
    },
    Row {
        claim: "limits one below, at, and one beyond (wire)",
        shown: test!("plimsoll-proto", "--test", "limits"; "test result"),
    },
    Row {
        claim: "5000 silent, 300 k resetting and bomb-throwing peers: acks p99 at most twice as slow",
        shown: Shown::Not("there is no attacker yet"),
    },
    Row {
        claim: "mutated SNMP replies that panic or are taken for others: 0",
        shown: test!("plimsoll-agent", "--test", "snmp", "mutated", "--", "--nocapture"; "mutated answers"),
    },
    Row {
        claim: "bytes from outside that panic a reader: 0",
        shown: test!("plimsoll-tests", "--test", "it", "fuzz::"; "test result"),
    },
    Row {
        claim: "72 h partition in 512 MiB; 1000 agents back within 35 s",
        shown: Shown::Not("nothing measures it yet"),
    },
    Row {
        claim: "exposure of the units at most 1.5; the programs need no more than they allow",
        shown: test!("plimsoll-tests", "--test", "it", "units::"; "test result"),
    },
    Row {
        claim: "after three silent intervals every answer is called stale",
        shown: test!("plimsoll-aggregator", "--lib", "after_three_silent"; "test result: ok. 1 passed"),
    },
];

/// Runs a row; says whether it holds, and what was seen.
fn see(words: &[&str], figure: &str) -> (bool, String) {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(words)
        .env("PLIMSOLL_TESTS_COMPLETE", "1")
        .stdin(Stdio::null())
        .output();
    let output = match output {
        Ok(output) => output,
        Err(error) => return (false, error.to_string()),
    };
    let out = String::from_utf8_lossy(&output.stdout);
    let lines = || out.lines().filter(|line| !line.trim().is_empty());
    let seen = lines().rfind(|line| line.contains(figure));
    let holds = output.status.success() && seen.is_some();
    let err = String::from_utf8_lossy(&output.stderr);
    let told = seen
        .or(err.lines().next_back())
        .unwrap_or("it said nothing");
    (holds, told.trim().replace('|', "/"))
}

fn main() -> ExitCode {
    let mut out = std::io::stdout().lock();
    let mut failed = false;
    drop(writeln!(
        out,
        "| claim | holds | what this run saw |\n|---|---|---|"
    ));
    for Row { claim, shown } in &ROWS {
        let (holds, seen) = match shown {
            Shown::Not(why) => ("not run", (*why).to_owned()),
            Shown::Run(words, figure) => {
                let (holds, seen) = see(words, figure);
                failed |= !holds;
                (if holds { "yes" } else { "**no**" }, seen)
            }
        };
        // A reader that has gone wants no more.
        if writeln!(out, "| {claim} | {holds} | {seen} |").is_err() {
            return ExitCode::FAILURE;
        }
        drop(out.flush());
    }
    if failed {
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}
