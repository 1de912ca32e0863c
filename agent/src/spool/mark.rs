//! Small files beside the segments: each is whole, with its checksum, or it is the one before. It knows
//! nothing of what they mean, but for two that say who a session is.

use std::fs::File;
use std::io;
use std::path::Path;

use plimsoll_model::SessionId;

/// Writes a file in the place of the one before; from here on it survives a power cut.
pub(super) fn write(directory: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    std::fs::create_dir_all(directory)?;
    let temporary = directory.join(format!("{name}.new"));
    let sealed = [&crc32c::crc32c(bytes).to_le_bytes(), bytes].concat();
    std::fs::write(&temporary, sealed)?;
    File::open(&temporary)?.sync_all()?;
    std::fs::rename(&temporary, directory.join(name))?;
    File::open(directory)?.sync_all()
}

/// Reads a file; absent if it is not there or not whole.
pub(super) fn read(directory: &Path, name: &str) -> Option<Vec<u8>> {
    let bytes = std::fs::read(directory.join(name)).ok()?;
    let (checksum, rest) = bytes.split_first_chunk::<4>()?;
    (crc32c::crc32c(rest) == u32::from_le_bytes(*checksum)).then(|| rest.to_vec())
}

/// What a session is called on the wire, and the number before its first one there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Name {
    pub(super) id: SessionId,
    pub(super) base: u64,
}

const NAME_FILE: &str = "name";

impl Name {
    /// Returns the name that a session was given later, else its first one.
    pub(super) fn load(directory: &Path, id: SessionId) -> Self {
        let later = read(directory, NAME_FILE).and_then(|bytes| {
            let (id, base) = bytes.split_first_chunk::<16>()?;
            Some(Self {
                id: SessionId::from_bytes(*id).ok()?,
                base: u64::from_le_bytes(base.try_into().ok()?),
            })
        });
        later.unwrap_or(Self { id, base: 0 })
    }

    pub(super) fn save(self, directory: &Path) -> io::Result<()> {
        let bytes = [self.id.as_bytes().as_slice(), &self.base.to_le_bytes()].concat();
        write(directory, NAME_FILE, &bytes)
    }
}
