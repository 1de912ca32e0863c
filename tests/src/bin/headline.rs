//! The ten promises as a table: each row is runs of its own, made now, and says what they saw. The short form
//! takes some minutes, `--long` hours; none of the rows repeats a figure that was seen elsewhere.

use std::io::Write as _;
use std::process::{Command, ExitCode, Stdio};

use clap::Parser;

/// Tries each promise and prints one table of what was seen.
#[derive(Debug, Parser)]
#[command(name = "plimsoll-headline")]
struct Cli {
    /// Tries them as often as the promises say, which takes hours.
    #[arg(long)]
    long: bool,
    /// Uses what is built for tests, so that nothing else need be built; slower, and so are its figures.
    #[arg(long)]
    debug: bool,
    /// Tries only the promises with these numbers.
    #[arg(long, value_name = "NUMBER", value_delimiter = ',')]
    rows: Vec<usize>,
}

/// The packages whose tests are run: always all, so that they are built once for all rows.
const PACKAGES: [&str; 3] = ["plimsoll-tests", "plimsoll-agent", "plimsoll-aggregator"];

/// A run that shows a promise, or a part of it.
struct Run {
    /// What is run: words of cargo behind its first one.
    words: &'static str,
    /// Numbers for the short and the long form: a variable, or an argument where it begins with `--`.
    count: Option<(&'static str, &'static str, &'static str)>,
    /// The words of the line that holds the figure; the last line if empty.
    figure: &'static str,
}

/// One promise.
struct Row {
    claim: &'static str,
    runs: &'static [Run],
}

const fn ordeal(
    words: &'static str,
    count: Option<(&'static str, &'static str, &'static str)>,
) -> Run {
    Run {
        words,
        count,
        figure: "",
    }
}

const fn test(
    words: &'static str,
    count: Option<(&'static str, &'static str, &'static str)>,
    figure: &'static str,
) -> Run {
    Run {
        words,
        count,
        figure,
    }
}

const ROWS: [Row; 10] = [
    Row {
        claim: "acknowledged samples lost by kill -9, power cuts, full disks: 0; nothing is acknowledged before it is on disk",
        runs: &[
            ordeal("kill", Some(("--cycles", "50", "500"))),
            ordeal("power", Some(("--cycles", "20", "300"))),
            ordeal("full", Some(("--cycles", "5", "50"))),
            ordeal("order", Some(("--slices", "100", "1000"))),
        ],
    },
    Row {
        claim: "what was produced is stored once or in a gap, whatever befalls both sides",
        runs: &[test(
            "--test sim in_every_world",
            Some(("PLIMSOLL_SEEDS", "200", "10000")),
            "worlds:",
        )],
    },
    Row {
        claim: "flipped bytes that are found: all; each costs a block at most",
        runs: &[ordeal("flips", Some(("--stride", "16", "1")))],
    },
    Row {
        claim: "one stuck guest of 100: the others miss one look at most, libvirt holds 2 calls at most",
        runs: &[
            test("--lib of_a_hundred_guests", None, "looks at 100 guests"),
            test(
                "--lib two_calls_hang_at_most",
                None,
                "test result: ok. 1 passed",
            ),
        ],
    },
    Row {
        claim: "a node's certificate writes nothing of another node; every call meets every role",
        runs: &[
            test(
                "--test guard taken_over",
                Some(("PLIMSOLL_FORGERIES", "2000", "10000")),
                "forgeries",
            ),
            test(
                "--test guard every_call_meets",
                None,
                "test result: ok. 1 passed",
            ),
        ],
    },
    Row {
        claim: "attack at the door: acks p99 at most twice as slow, memory at most +32 MiB",
        runs: &[test(
            "--test it who_attacks_the_door",
            Some(("PLIMSOLL_ATTACK_ACKS", "500", "20000")),
            "silent connections",
        )],
    },
    Row {
        claim: "mutated SNMP replies that panic or are taken for others: 0; bytes from outside that panic a reader: 0",
        runs: &[
            test("--test snmp mutated", None, "mutated answers"),
            test("--test it fuzz::", None, "test result: ok"),
        ],
    },
    Row {
        claim: "72 h partition in 512 MiB; 1000 agents back within 35 s",
        runs: &[
            test(
                "--test it a_partition_of_days",
                Some(("PLIMSOLL_PARTITION_HOURS", "2", "72")),
                "series each",
            ),
            test(
                "--test it a_fleet_comes_back",
                Some(("PLIMSOLL_HERD", "1000", "1000")),
                "agents, each refused",
            ),
        ],
    },
    Row {
        claim: "exposure of the units at most 1.5; the programs need no more than they allow",
        runs: &[test("--test it units::", None, "test result: ok")],
    },
    Row {
        claim: "after three silent intervals every answer is called stale",
        runs: &[test(
            "--lib after_three_silent",
            None,
            "test result: ok. 1 passed",
        )],
    },
];

impl Run {
    fn command(&self, cli: &Cli) -> Command {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut command = Command::new(cargo);
        let is_ordeal = self.figure.is_empty();
        if is_ordeal {
            command.args(["run", "-q", "-p", "plimsoll-store", "--example", "ordeal"]);
        } else {
            command.args(["test", "-q"]);
            command.args(PACKAGES.iter().flat_map(|name| ["-p", name]));
            command.args(self.words.split(' '));
        }
        if !cli.debug && is_ordeal {
            command.arg("--release");
        }
        command.arg("--");
        if is_ordeal {
            command.arg(self.words);
        } else {
            command.arg("--nocapture");
        }
        if let Some((name, short, long)) = self.count {
            let count = if cli.long { long } else { short };
            match name.starts_with("--") {
                true => command.args([name, count]),
                false => command.env(name, count),
            };
        }
        command
    }

    /// Runs; says whether it holds, and what was seen.
    fn see(&self, cli: &Cli) -> (bool, String) {
        let output = self
            .command(cli)
            .env("PLIMSOLL_TESTS_COMPLETE", "1")
            .env("PLIMSOLL_HEADLINE", "1")
            .stdin(Stdio::null())
            .output();
        let output = match output {
            Ok(output) => output,
            Err(error) => return (false, error.to_string()),
        };
        let out = String::from_utf8_lossy(&output.stdout);
        let mut lines = out.lines().filter(|line| !line.trim().is_empty());
        let seen = lines.rfind(|line| line.contains(self.figure));
        let holds = output.status.success() && seen.is_some();
        let err = String::from_utf8_lossy(&output.stderr);
        let told = seen.or(err.lines().next_back());
        let told = told.unwrap_or("it said nothing").trim();
        (holds, told.trim_start_matches('.').replace('|', "/"))
    }
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let mut out = std::io::stdout().lock();
    let mut broken = false;
    drop(writeln!(
        out,
        "| | claim | holds | what this run saw |\n|--:|---|---|---|"
    ));
    for (number, Row { claim, runs }) in (1..).zip(&ROWS) {
        if !cli.rows.is_empty() && !cli.rows.contains(&number) {
            continue;
        }
        let seen: Vec<(bool, String)> = runs.iter().map(|run| run.see(&cli)).collect();
        let holds = seen.iter().all(|(holds, _)| *holds);
        broken |= !holds;
        let told: Vec<&str> = seen.iter().map(|(_, told)| told.as_str()).collect();
        let word = if holds { "yes" } else { "**no**" };
        let line = format!("| {number} | {claim} | {word} | {} |", told.join("; "));
        // A reader that has gone wants no more.
        if writeln!(out, "{line}").is_err() {
            return ExitCode::FAILURE;
        }
        drop(out.flush());
    }
    if broken {
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}
