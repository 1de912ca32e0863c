//! Words that nobody else may see. A secret lives in a file that only its owner reads, is shown nowhere,
//! and is wiped from memory when it goes.

use std::fmt;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

/// Bytes of a secret at most.
const LENGTH_MAX: u64 = 1_024;
/// Bits of a file's mode that let others than its owner in.
const OTHERS: u32 = 0o077;

/// A word that only its owner and who is asked with it know.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<String>);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// Why a secret is not taken. No text holds the secret.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Others than its owner can read the file.
    #[error("{} can be read by others than its owner (mode {mode:o}); run `chmod 600 {}`", path.display(), path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// The file holds no secret.
    #[error("{} must hold {least} to {LENGTH_MAX} bytes of text in one line", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
        /// The shortest that is taken.
        least: usize,
    },
}

impl Secret {
    /// Reads a secret of some length from its file; one line end behind it is not part of it.
    ///
    /// # Errors
    /// If the file cannot be read, can be read by others, or holds no secret.
    pub fn read(path: &Path, least: usize) -> Result<Self, SecretError> {
        let unreadable = |source| SecretError::Unreadable {
            path: path.to_owned(),
            source,
        };
        let file = std::fs::File::open(path).map_err(unreadable)?;
        let metadata = file.metadata().map_err(unreadable)?;
        let mode = metadata.mode() & 0o7777;
        if mode & OTHERS != 0 {
            return Err(SecretError::Open {
                path: path.to_owned(),
                mode,
            });
        }
        let empty = || SecretError::Empty {
            path: path.to_owned(),
            least,
        };
        if !metadata.is_file() || metadata.len() > LENGTH_MAX {
            return Err(empty());
        }
        let text = std::io::read_to_string(file).map_err(unreadable)?;
        let text = Zeroizing::new(text);
        let word = text.strip_suffix('\n').unwrap_or(&text);
        let word = word.strip_suffix('\r').unwrap_or(word);
        if word.len() < least.max(1) || word.contains(['\n', '\r', '\0']) {
            return Err(empty());
        }
        Ok(Self(Zeroizing::new(word.to_owned())))
    }

    /// Shows the secret to who is asked with it.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// Makes a secret of a word, for tests that keep it in no file.
    pub fn of(word: &str) -> Self {
        Self(Zeroizing::new(word.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn file(text: &str, mode: u32) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        (dir, path)
    }

    #[test]
    fn a_file_that_others_can_read_is_refused_with_the_remedy() {
        for mode in [0o640, 0o604, 0o660, 0o601] {
            let (_dir, path) = file("canary-word\n", mode);
            let text = Secret::read(&path, 1).unwrap_err().to_string();
            assert!(
                text.contains(&format!("chmod 600 {}", path.display())),
                "{text}"
            );
            assert!(!text.contains("canary"), "{text}");
        }
        let (_dir, path) = file("canary-word\n", 0o600);
        assert_eq!(Secret::read(&path, 8).unwrap().reveal(), "canary-word");
    }

    #[test]
    fn what_is_no_secret_is_refused_without_being_shown() {
        for text in [
            "",
            "\n",
            "short\n",
            "two-words\nin-lines\n",
            &"x".repeat(1_025),
        ] {
            let (_dir, path) = file(text, 0o600);
            let error = Secret::read(&path, 8).unwrap_err();
            assert!(matches!(error, SecretError::Empty { .. }), "{error}");
        }
        let missing = Secret::read(Path::new("/nowhere/secret"), 1).unwrap_err();
        assert!(missing.to_string().contains("/nowhere/secret"));
    }

    #[test]
    fn nobody_is_shown_a_secret_by_accident() {
        let shown = format!("{:?}", Some(Secret::of("canary")));
        assert_eq!(shown, "Some(***)");
    }
}
