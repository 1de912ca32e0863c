//! The page of limits, held to the code: what it names is there.

use std::path::Path;
use std::process::Command;

fn root() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The texts of a line that stand in backquotes.
fn quoted(line: &str) -> Vec<&str> {
    line.split('`').skip(1).step_by(2).collect()
}

/// Every Rust file that is kept, as one text.
fn code() -> String {
    let listed = Command::new("git")
        .args([
            "ls-files",
            "--cached",
            "--others",
            "--exclude-standard",
            "*.rs",
        ])
        .current_dir(root())
        .output()
        .unwrap();
    let names = String::from_utf8(listed.stdout).unwrap();
    let texts = names
        .lines()
        .filter_map(|name| std::fs::read_to_string(root().join(name)).ok());
    texts.collect::<Vec<_>>().join("\n")
}

#[test]
fn every_constant_counter_and_test_of_the_page_is_there() {
    let page = std::fs::read_to_string(root().join("LIMITS.md")).unwrap();
    let read = |file: &str| std::fs::read_to_string(root().join(file)).unwrap();
    let of_agent = read("agent/src/limits.rs");
    let of_aggregator = read("aggregator/src/guard/limits.rs");
    let code = code();
    let rows = page
        .lines()
        .filter(|line| line.starts_with("| ") && line.contains('`'));
    let mut all = 0;
    for row in rows {
        let named = quoted(row);
        let [constant, file, counter, test] = named.as_slice() else {
            panic!("a row names a constant, its file, a counter and a test: {row}");
        };
        assert!(
            read(file).contains(&format!("const {constant}:")),
            "{file} has no {constant}"
        );
        let words = match file.starts_with("agent/") {
            true => &of_agent,
            false => &of_aggregator,
        };
        assert!(
            words.contains(&format!("=> \"{counter}\",")),
            "no counter {counter}"
        );
        assert!(code.contains(&format!("fn {test}(")), "no test {test}");
        all += 1;
    }
    assert!(all >= 36, "{all} rows");
}
