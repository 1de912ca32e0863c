//! What the fuzzers of `fuzz/` do for hours, for a moment: every file of their corpora and some thousand
//! mutations of each go through the same door.

use std::collections::BTreeMap;
use std::path::Path;

use plimsoll_store::{FileKind, examine};

#[path = "../../fuzz/look.rs"]
mod look;

const MUTATIONS: u64 = 400;

struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % sides.max(1) as u64).unwrap()
    }
}

fn mutated(dice: &mut Dice, bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for _ in 0..=dice.roll(4) {
        let place = dice.roll(bytes.len());
        let value = u8::try_from(dice.roll(256)).unwrap();
        match dice.roll(5) {
            0 => bytes.truncate(place),
            1 => bytes.insert(place.min(bytes.len()), value),
            2 => bytes.extend_from_within(place..),
            3 if place < bytes.len() => drop(bytes.remove(place)),
            _ => bytes
                .iter_mut()
                .skip(place)
                .take(1)
                .for_each(|byte| *byte ^= value),
        }
    }
    bytes
}

#[test]
fn any_bytes_are_a_file_or_damage_and_nothing_panics() {
    let corpora = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    let mut tried = 0;
    for (name, kind) in look::KINDS {
        let files = crate::scene::files(&corpora.join(name));
        assert!(!files.is_empty(), "no corpus for {name}");
        for (number, path) in (1_u64..).zip(files) {
            let bytes = std::fs::read(&path).unwrap();
            look::look(kind, &bytes);
            let mut dice = Dice(number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
            for _ in 0..MUTATIONS {
                look::look(kind, &mutated(&mut dice, &bytes));
                tried += 1;
            }
        }
    }
    assert!(tried > 4_000, "only {tried} were tried");
}

#[test]
fn whole_files_have_no_damage() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let mut seen = BTreeMap::new();
    for path in crate::scene::files(&golden) {
        let stem = path.file_stem().unwrap().to_str().unwrap();
        let (name, kind) = match path.extension().and_then(|ending| ending.to_str()) {
            Some("log") => ("log", FileKind::Log),
            Some("blocks") => ("blocks", FileKind::Blocks),
            Some("events") => ("events", FileKind::Events),
            Some("rollup") => ("rollup", FileKind::Rollup),
            _ => ("manifest", FileKind::Manifest),
        };
        let bytes = std::fs::read(&path).unwrap();
        let found = examine(kind, stem.parse().unwrap_or(0), &bytes);
        assert_eq!(found.holes, [], "{}", path.display());
        *seen.entry(name).or_insert(0) += found.frames.len();
    }
    assert_eq!(seen.len(), 5, "{seen:?}");
    assert!(seen.values().all(|frames| *frames > 1), "{seen:?}");
}
