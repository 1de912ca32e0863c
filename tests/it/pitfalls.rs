//! The table of pitfalls keeps its word: each has tests, and they are there.

use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap().to_owned()
}

/// The text of all Rust files below a directory.
fn rust(directory: &Path, text: &mut String) {
    for entry in std::fs::read_dir(directory).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() && entry.file_name() != "target" {
            rust(&path, text);
        } else if path.extension().is_some_and(|kind| kind == "rs") {
            text.push_str(&std::fs::read_to_string(&path).unwrap());
        }
    }
}

#[test]
fn each_pitfall_names_tests_that_are_there() {
    let table = std::fs::read_to_string(root().join("agent/PITFALLS.md")).unwrap();
    let mut text = String::new();
    for room in ["proto", "agent", "aggregator", "tests"] {
        rust(&root().join(room), &mut text);
    }
    let mut numbers = Vec::new();
    for line in table.lines() {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let [_, number, _, tests, _] = cells.as_slice() else {
            continue;
        };
        let Ok(number) = number.parse::<u32>() else {
            continue;
        };
        numbers.push(number);
        let names: Vec<&str> = tests.split('`').skip(1).step_by(2).collect();
        for name in &names {
            assert!(
                text.contains(&format!("fn {name}(")),
                "{number}: no test {name}"
            );
        }
        assert!(!names.is_empty(), "{number} has no test");
    }
    assert_eq!(numbers, (1..=17).collect::<Vec<_>>());
}
