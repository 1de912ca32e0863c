//! Files that stay open: opened once, read from the start each time.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

/// Longest file that is read; /proc/stat of a thousand processors has 100 KiB.
const FILE_BYTES_MAX: usize = 4 << 20;
const BUFFER_BYTES: usize = 16 << 10;

/// A file that is opened once and read often.
#[derive(Debug)]
pub(super) struct KeptFile {
    path: PathBuf,
    file: Option<File>,
    buffer: Vec<u8>,
    failed: bool,
}

impl KeptFile {
    pub(super) fn new(path: PathBuf) -> Self {
        Self {
            path,
            file: None,
            buffer: vec![0; BUFFER_BYTES],
            failed: false,
        }
    }

    /// Reads the whole file; absent if that fails, which is logged once.
    pub(super) fn read(&mut self) -> Option<&str> {
        match self.fill() {
            Ok(length) => {
                self.failed = false;
                std::str::from_utf8(self.buffer.get(..length)?).ok()
            }
            Err(error) => {
                self.file = None;
                if !self.failed {
                    tracing::info!(%error, path = %self.path.display(), "a source is left out until it can be read");
                }
                self.failed = true;
                None
            }
        }
    }

    fn fill(&mut self) -> io::Result<usize> {
        let file = match self.file.take() {
            Some(file) => file,
            None => File::open(&self.path)?,
        };
        let mut length = 0;
        loop {
            if length == self.buffer.len() {
                if length >= FILE_BYTES_MAX {
                    return Err(io::ErrorKind::FileTooLarge.into());
                }
                self.buffer.resize(length * 2, 0);
            }
            let offset = u64::try_from(length).unwrap_or(u64::MAX);
            let rest = self.buffer.get_mut(length..).unwrap_or_default();
            let got = file.read_at(rest, offset)?;
            if got == 0 {
                break;
            }
            length += got;
        }
        self.file = Some(file);
        Ok(length)
    }
}
