//! What every fuzzer does with its bytes, and a test with their corpora.

use plimsoll_store::{FileKind, examine, examine_payload};

/// The targets, by the name of their corpus, and what their bytes are taken for.
pub(crate) const KINDS: [(&str, FileKind); 6] = [
    ("log", FileKind::Log),
    ("blocks", FileKind::Blocks),
    ("footer", FileKind::Blocks),
    ("events", FileKind::Events),
    ("manifest", FileKind::Manifest),
    ("rollup", FileKind::Rollup),
];

/// Takes bytes for a file and for what lies in a frame, and holds what was found against them.
pub(crate) fn look(kind: FileKind, bytes: &[u8]) {
    // A file is checked against the number in its name; here, that is what its header says.
    let id = bytes.get(16..).and_then(|rest| rest.first_chunk());
    let found = examine(kind, id.map_or(1, |id| u64::from_le_bytes(*id)), bytes);
    let mut end = 40;
    for (offset, payload) in &found.frames {
        let offset = usize::try_from(*offset).unwrap();
        assert!(offset >= end, "two frames share bytes");
        end = offset + 16 + payload.len();
        assert_eq!(bytes.get(offset + 16..end), Some(*payload));
    }
    // Past the checksums, which no mutation gets right.
    if let Err(what) = examine_payload(kind, bytes) {
        assert!(!what.is_empty());
    }
}
