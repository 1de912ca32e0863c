//! What the fuzzers of `tests/fuzz` do for hours, for a moment: every file of their corpora and some hundred
//! mutations of each go through the same doors.

use std::path::{Path, PathBuf};

#[path = "../fuzz/look.rs"]
mod look;

const MUTATIONS: usize = 300;

fn corpus(name: &str) -> Vec<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    let entries = std::fs::read_dir(dir.join(name)).unwrap();
    let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

fn mutated(random: &mut fastrand::Rng, bytes: &[u8], other: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for _ in 0..=random.usize(..4) {
        let place = random.usize(..=bytes.len());
        match random.u8(..6) {
            0 => bytes.truncate(place),
            1 => bytes.insert(place, random.u8(..)),
            2 => bytes.extend_from_within(place..),
            3 => drop(bytes.splice(place..place, other.iter().take(64).copied())),
            4 if place < bytes.len() => drop(bytes.remove(place)),
            _ => bytes
                .iter_mut()
                .skip(place)
                .take(1)
                .for_each(|byte| *byte ^= random.u8(1..)),
        }
    }
    bytes
}

#[test]
fn whatever_comes_from_outside_is_read_or_refused_and_nothing_panics() {
    for (name, look) in look::TARGETS {
        let files = corpus(name);
        let seeds: Vec<Vec<u8>> = files
            .iter()
            .map(|path| std::fs::read(path).unwrap())
            .collect();
        assert!(!seeds.is_empty(), "no corpus for {name}");
        let made: usize = seeds.iter().map(|seed| look(seed)).sum();
        assert!(
            made > 0,
            "nothing is made of the corpus of {name}: it tests nothing"
        );
        let mut random = fastrand::Rng::with_seed(0x9e37_79b9_7f4a_7c15);
        for seed in &seeds {
            for _ in 0..MUTATIONS {
                let other = random.choice(&seeds).unwrap().clone();
                look(&mutated(&mut random, seed, &other));
            }
        }
    }
}

#[test]
fn every_target_has_a_fuzzer_of_its_own() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    let manifest = std::fs::read_to_string(dir.join("Cargo.toml")).unwrap();
    for (name, _) in look::TARGETS {
        assert!(
            dir.join(format!("fuzz_targets/{name}.rs")).is_file(),
            "{name}"
        );
        assert!(manifest.contains(&format!("name = \"{name}\"")), "{name}");
    }
}
