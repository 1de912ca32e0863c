//! The rules of the house that no compiler knows, as tests: sizes, words, arrows, and the README's promises.
//!
//! Not here: what clippy and rustfmt already say.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::house::program;

/// Lines of a file, its tests apart.
const LINES_MAX: usize = 500;
/// Bytes of a file that is not written by a program.
const BYTES_MAX: u64 = 256 << 10;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap()
        .to_owned()
}

/// Runs a program in the root of the repository; returns what it prints.
fn printed(program: &str, args: &[&str]) -> String {
    let output = Command::new(program)
        .args(args)
        .current_dir(root())
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{program} {args:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

/// The files that are kept, or will be with the next commit.
fn kept() -> Vec<String> {
    let listed = printed(
        "git",
        &["ls-files", "--cached", "--others", "--exclude-standard"],
    );
    let there = |name: &&str| root().join(name).is_file();
    listed.lines().filter(there).map(str::to_owned).collect()
}

fn text(name: &str) -> Option<String> {
    String::from_utf8(std::fs::read(root().join(name)).unwrap()).ok()
}

#[test]
fn no_file_is_longer_than_a_reader_can_hold() {
    let mut long = Vec::new();
    for name in kept().iter().filter(|name| name.ends_with(".rs")) {
        let text = text(name).unwrap();
        let code = text.split("\n#[cfg(test)]\nmod tests").next().unwrap();
        if code.lines().count() > LINES_MAX {
            long.push(format!("{name}: {} lines", code.lines().count()));
        }
    }
    assert!(long.is_empty(), "at most {LINES_MAX}: {long:#?}");
}

#[test]
fn nothing_large_is_kept() {
    for name in kept().iter().filter(|name| *name != "Cargo.lock") {
        let bytes = std::fs::metadata(root().join(name)).unwrap().len();
        assert!(bytes <= BYTES_MAX, "{name} has {bytes} bytes");
    }
}

#[test]
fn files_and_modules_are_named_by_what_they_hold_not_by_a_pattern() {
    for name in kept() {
        let stem = Path::new(&name)
            .file_stem()
            .unwrap()
            .to_str()
            .unwrap()
            .to_lowercase();
        for pattern in [
            "util", "utils", "common", "manager", "helper", "helpers", "misc", "core",
        ] {
            assert_ne!(stem, pattern, "{name}");
        }
    }
}

#[test]
fn no_unfinished_word_and_no_place_of_one_machine_is_left_in_the_text() {
    // Put together here, so that this file does not hold them.
    let marks = ["TO DO", "FIX ME", "X XX"].map(|mark| mark.replace(' ', ""));
    let places =
        ["/wo rk/", "/tmp/w /", "/tmp/hea vy", "/ho me/"].map(|place| place.replace(' ', ""));
    for name in kept() {
        let Some(text) = text(&name) else { continue };
        for (number, line) in (1..).zip(text.lines()) {
            for place in &places {
                assert!(!line.contains(place), "{name}:{number} names {place}");
            }
            let is_mark = |mark: &String| {
                line.split(|c: char| !c.is_ascii_alphanumeric())
                    .any(|word| word == mark)
            };
            assert!(
                !marks.iter().any(is_mark) || name == "Cargo.lock",
                "{name}:{number} is unfinished"
            );
        }
    }
}

/// Test files that may sleep: between two looks at a daemon that is really there.
const SLEEPERS: [&str; 1] = ["agent/libvirt/tests/real.rs"];

/// The tests of a file, and the line they begin at; nothing where it holds none.
fn tests_of<'a>(name: &str, text: &'a str) -> (usize, &'a str) {
    let whole =
        name.contains("/tests/") || name.contains("tests/it/") || name.ends_with("tests.rs");
    if whole {
        return (1, text);
    }
    let begin = text
        .find("\n#[cfg(test)]\nmod tests {")
        .unwrap_or(text.len());
    let lines = text[..begin].lines().count();
    (lines + 1, &text[begin..])
}

#[test]
fn tests_do_not_sleep_unless_they_turn_the_hands() {
    let mut sleepers = Vec::new();
    let mut seen = 0;
    for name in kept().iter().filter(|name| name.ends_with(".rs")) {
        let text = text(name).unwrap();
        let (begin, tests) = tests_of(name, &text);
        seen += usize::from(!tests.is_empty());
        // Paused time runs on by itself: there a sleep is an order of events, not a wait.
        if tests.contains("start_paused") || SLEEPERS.contains(&name.as_str()) {
            continue;
        }
        for (number, line) in (begin..).zip(tests.lines()) {
            if line.contains(concat!("sleep", "(")) {
                sleepers.push(format!("{name}:{number}"));
            }
        }
    }
    assert!(seen > 50, "only {seen} files hold tests");
    assert!(
        sleepers.is_empty(),
        "wait for what is to come: {sleepers:?}"
    );
}

/// Whether a statement begins by matching: then its answer goes nowhere.
fn matches_alone(text: &str) -> Option<usize> {
    let vacuous = concat!("matches", "!(");
    let mut from = 0;
    while let Some(at) = text[from..].find(vacuous).map(|at| at + from) {
        let before = text[..at].trim_end();
        let begins = before.ends_with([';', '{', '}']);
        let mut depth = 0_i32;
        let end = text[at..].find(|c| {
            depth += i32::from(c == '(') - i32::from(c == ')');
            c == ')' && depth == 0
        });
        let after = end.map_or("", |end| &text[at + end + 1..]);
        if begins && after.trim_start().starts_with(';') {
            return Some(at);
        }
        from = at + vacuous.len();
    }
    None
}

#[test]
fn nothing_is_matched_without_being_asserted() {
    let vacuous = format!("{}{}", "matches", "!(");
    let bad = format!("{{\n    {vacuous}\n        f(x),\n        Ok(_)\n    );\n}}");
    assert!(matches_alone(&bad).is_some(), "several lines are seen");
    let good =
        format!("let a = {vacuous}b, C(_));\nassert!({vacuous}b, C(_)));\n{{ {vacuous}b, C) }}");
    assert_eq!(matches_alone(&good), None);
    for name in kept().iter().filter(|name| name.ends_with(".rs")) {
        let text = text(name).unwrap();
        if let Some(at) = matches_alone(&text) {
            let number = text[..at].lines().count();
            panic!("{name}:{number} matches and asserts nothing");
        }
    }
}

/// Advisories that deny.toml lets pass, and the crate each is of.
const EXCUSED: [(&str, &str); 2] = [
    ("RUSTSEC-2025-0057", "fxhash"),
    ("RUSTSEC-2024-0384", "instant"),
];

#[test]
fn an_advisory_is_let_pass_only_while_its_crate_is_there() {
    let (deny, lock) = (text("deny.toml").unwrap(), text("Cargo.lock").unwrap());
    let passed = deny.matches("{ id = \"RUSTSEC-").count();
    assert_eq!(passed, EXCUSED.len(), "each is told here with its crate");
    for (id, name) in EXCUSED {
        assert!(deny.contains(id), "{id}");
        let entry = format!("\nname = \"{name}\"\n");
        assert!(lock.contains(&entry), "{name} is gone: so may {id} be");
    }
}

/// What each crate may know of ours, as the head of Cargo.toml draws it.
fn arrows() -> BTreeMap<&'static str, Vec<&'static str>> {
    BTreeMap::from([
        ("plimsoll-model", vec![]),
        ("plimsoll-libvirt", vec![]),
        ("plimsoll-proto", vec!["plimsoll-model"]),
        ("plimsoll-store", vec!["plimsoll-model"]),
        ("plimsoll-estimate", vec!["plimsoll-model"]),
        (
            "plimsoll-agent",
            vec!["plimsoll-libvirt", "plimsoll-model", "plimsoll-proto"],
        ),
        (
            "plimsoll-aggregator",
            vec![
                "plimsoll-estimate",
                "plimsoll-model",
                "plimsoll-proto",
                "plimsoll-store",
            ],
        ),
        ("plimsoll", vec!["plimsoll-model", "plimsoll-proto"]),
    ])
}

fn metadata() -> Value {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let args = ["metadata", "--format-version=1", "--no-deps", "--offline"];
    serde_json::from_str(&printed(&cargo, &args)).unwrap()
}

#[test]
fn crates_know_only_whom_they_may_know() {
    let metadata = metadata();
    let arrows = arrows();
    for package in metadata["packages"].as_array().unwrap() {
        let name = package["name"].as_str().unwrap();
        if name == "plimsoll-tests" {
            continue;
        }
        let may = arrows
            .get(name)
            .unwrap_or_else(|| panic!("{name} is not in the picture"));
        for dependency in package["dependencies"].as_array().unwrap() {
            let known = dependency["name"].as_str().unwrap();
            let is_ours = known.starts_with("plimsoll") && dependency["kind"] != "dev";
            assert!(!is_ours || may.contains(&known), "{name} knows {known}");
        }
    }
}

#[test]
fn the_pure_crates_know_neither_a_runtime_nor_a_network() {
    for package in metadata()["packages"].as_array().unwrap() {
        let name = package["name"].as_str().unwrap();
        if !["plimsoll-model", "plimsoll-store", "plimsoll-estimate"].contains(&name) {
            continue;
        }
        for dependency in package["dependencies"].as_array().unwrap() {
            let known = dependency["name"].as_str().unwrap();
            let impure = ["tokio", "tonic", "hyper", "reqwest"].contains(&known);
            assert!(!impure, "{name} knows {known}");
        }
    }
}

/// The lines of the README that are to be typed, wherever they stand.
fn commands() -> Vec<String> {
    let text = text("README.md").unwrap();
    let indented = text.lines().filter_map(|line| line.strip_prefix("    "));
    let quoted = text
        .split('`')
        .skip(1)
        .step_by(2)
        .filter(|text| !text.contains('\n'));
    indented
        .chain(quoted)
        .map(|line| line.trim().to_owned())
        .collect()
}

#[test]
fn what_the_readme_tells_to_type_is_there() {
    let help = Command::new(program("plimsoll"))
        .arg("--help")
        .output()
        .unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    let orders: Vec<&str> = help
        .lines()
        .filter_map(|line| line.strip_prefix("  ")?.split_whitespace().next())
        .collect();
    let metadata = metadata();
    let packages = metadata["packages"].as_array().unwrap();
    let mut scripts = 0;
    for command in commands() {
        let words: Vec<&str> = command.split_whitespace().collect();
        match words.as_slice() {
            [script] if script.starts_with("packaging/") || script.starts_with("tests/") => {
                let path = root().join(script);
                let is_page = path.extension().is_some_and(|kind| kind == "md");
                if path.is_dir() || (is_page && path.is_file()) {
                    continue;
                }
                let mode = std::fs::metadata(&path)
                    .unwrap_or_else(|_| panic!("no {script}"))
                    .permissions()
                    .mode();
                assert!(mode & 0o111 != 0, "{script} cannot be run");
                scripts += 1;
            }
            ["plimsoll", rest @ ..] => {
                let alternatives = rest
                    .split(|word| *word == "|")
                    .filter_map(|one| one.first());
                for order in alternatives
                    .filter(|word| word.chars().all(|c| c.is_ascii_lowercase() || c == '-'))
                {
                    assert!(
                        orders.contains(order),
                        "README: plimsoll {order}; there is {orders:?}"
                    );
                    if !command.contains('|') {
                        break;
                    }
                }
            }
            ["cargo", rest @ ..] => check_cargo(rest, packages),
            _ => {}
        }
    }
    assert!(scripts >= 3, "the README names its first commands");
}

/// A package and a target that a cargo command of the README names must be there.
fn check_cargo(words: &[&str], packages: &[Value]) {
    let after = |flag: &str| {
        words
            .windows(2)
            .find(|pair| pair[0] == flag)
            .map(|pair| pair[1])
    };
    let Some(name) = after("-p") else { return };
    let package = packages.iter().find(|package| package["name"] == name);
    let package = package.unwrap_or_else(|| panic!("README: no package {name}"));
    for flag in ["--test", "--bin", "--example"] {
        if let Some(target) = after(flag) {
            let mut targets = package["targets"].as_array().unwrap().iter();
            assert!(
                targets.any(|one| one["name"] == target),
                "README: {name} has no {flag} {target}"
            );
        }
    }
}
