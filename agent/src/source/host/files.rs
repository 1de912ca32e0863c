//! Files that stay open: opened once, read from the start each time.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt as _};
use std::path::{Path, PathBuf};

use rustix::io::Errno;

/// Longest file that is read; /proc/stat of a thousand processors has 100 KiB.
const FILE_BYTES_MAX: usize = 4 << 20;
const BUFFER_BYTES: usize = 4 << 10;
/// A number of 64 bits or a short word, and the end of the line.
const LINE_BYTES: usize = 24;

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
            buffer: Vec::new(),
            failed: false,
        }
    }

    /// A file that many hosts do not have; its absence is no news.
    pub(super) fn optional(path: PathBuf) -> Self {
        Self {
            failed: true,
            ..Self::new(path)
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
                if !self.failed {
                    tracing::info!(%error, path = %self.path.display(), "a source is left out until it can be read");
                }
                self.failed = true;
                None
            }
        }
    }

    /// Reads what is open; what is gone may have come back under the same name.
    fn fill(&mut self) -> io::Result<usize> {
        if let Some(file) = self.file.take()
            && let Ok(length) = self.fill_from(&file)
        {
            self.file = Some(file);
            return Ok(length);
        }
        let file = File::open(&self.path)?;
        let length = self.fill_from(&file)?;
        self.file = Some(file);
        Ok(length)
    }

    fn fill_from(&mut self, file: &File) -> io::Result<usize> {
        let mut length = 0;
        loop {
            if length == self.buffer.len() {
                if length >= FILE_BYTES_MAX {
                    return Err(io::ErrorKind::FileTooLarge.into());
                }
                self.buffer.resize((length * 2).max(BUFFER_BYTES), 0);
            }
            let offset = u64::try_from(length).unwrap_or(u64::MAX);
            let rest = self.buffer.get_mut(length..).unwrap_or_default();
            let got = file.read_at(rest, offset)?;
            if got == 0 {
                return Ok(length);
            }
            length += got;
        }
    }
}

#[derive(Debug)]
enum Held {
    /// Not asked for yet.
    Unopened,
    Open(File),
    /// Not there; it is not asked for again before the next list.
    Absent,
}

/// A file of one short line, such as those of /sys, that is opened once and read often.
#[derive(Debug)]
pub(super) struct KeptLine {
    path: PathBuf,
    held: Held,
    /// Whether it stays open; a process may have only so many files.
    stays: bool,
}

impl KeptLine {
    pub(super) fn new(path: PathBuf, stays: bool) -> Self {
        Self {
            path,
            held: Held::Unopened,
            stays,
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Lets a file that was not there be asked for again, and one that was put in the place of another be seen.
    pub(super) fn look_again(&mut self) {
        let is_there = match &self.held {
            Held::Open(file) => file.metadata().is_ok_and(|told| told.nlink() > 0),
            Held::Unopened | Held::Absent => false,
        };
        if !is_there {
            self.held = Held::Unopened;
        }
    }

    /// Reads a number that is not negative; drivers say -1 for what they do not know.
    pub(super) fn number(&mut self) -> Option<u64> {
        let mut bytes = [0; LINE_BYTES];
        self.line(&mut bytes)?.parse().ok()
    }

    /// Reads a short line.
    pub(super) fn word(&mut self) -> Option<String> {
        let mut bytes = [0; LINE_BYTES];
        self.line(&mut bytes).map(str::to_owned)
    }

    fn line<'a>(&mut self, bytes: &'a mut [u8; LINE_BYTES]) -> Option<&'a str> {
        let length = self.fill(bytes)?;
        std::str::from_utf8(bytes.get(..length)?)
            .ok()
            .map(str::trim)
    }

    fn fill(&mut self, bytes: &mut [u8]) -> Option<usize> {
        match &self.held {
            Held::Open(file) => match file.read_at(bytes, 0) {
                Ok(length) if length > 0 => return Some(length),
                // What a driver cannot tell now it may tell later.
                Err(error) if Errno::from_io_error(&error) == Some(Errno::INVAL) => return None,
                // The device is gone; another may have come under its name.
                Ok(_) | Err(_) => {}
            },
            Held::Absent => return None,
            Held::Unopened => {}
        }
        let Ok(file) = File::open(&self.path) else {
            self.held = Held::Absent;
            return None;
        };
        let length = file.read_at(bytes, 0).ok();
        self.held = if self.stays {
            Held::Open(file)
        } else {
            Held::Unopened
        };
        length
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::process::{Child, Command};

    use super::*;

    fn child() -> Child {
        Command::new("sleep").arg("1000").spawn().unwrap()
    }

    fn end(mut child: Child) {
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// A file of the kernel that goes away with a process as those of /sys do with a device.
    fn file(child: &Child) -> PathBuf {
        PathBuf::from(format!("/proc/{}/oom_score_adj", child.id()))
    }

    #[test]
    fn a_device_that_goes_away_is_not_read_and_the_one_that_comes_under_its_name_is() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("card");
        let first = child();
        symlink(file(&first), &path).unwrap();
        let mut line = KeptLine::new(path.clone(), true);
        let mut whole = KeptFile::optional(path.clone());
        assert!(line.number().is_some() && whole.read().is_some());
        end(first);
        assert_eq!((line.number(), whole.read()), (None, None));

        let second = child();
        std::fs::remove_file(&path).unwrap();
        symlink(file(&second), &path).unwrap();
        assert_eq!(line.number(), None, "not before the next list");
        line.look_again();
        assert!(line.number().is_some() && whole.read().is_some());

        // Another comes before it was seen that the second went.
        let third = child();
        std::fs::remove_file(&path).unwrap();
        symlink(file(&third), &path).unwrap();
        end(second);
        assert!(line.number().is_some() && whole.read().is_some());
        end(third);
    }

    #[test]
    fn a_counter_that_is_made_anew_is_found_with_the_next_list() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("rx_bytes");
        std::fs::write(&path, "7\n").unwrap();
        let mut line = KeptLine::new(path.clone(), true);
        assert_eq!(line.number(), Some(7));
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "9\n").unwrap();
        line.look_again();
        assert_eq!(line.number(), Some(9));
    }

    #[test]
    fn a_number_is_read_anew_each_time_and_what_is_none_is_absent() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("speed");
        std::fs::write(&path, "10000\n").unwrap();
        for stays in [true, false] {
            let mut line = KeptLine::new(path.clone(), stays);
            std::fs::write(&path, "10000\n").unwrap();
            assert_eq!(line.number(), Some(10_000));
            std::fs::write(&path, "-1\n").unwrap();
            assert_eq!(line.number(), None);
            std::fs::write(&path, "up\n").unwrap();
            assert_eq!(line.word().as_deref(), Some("up"));
        }
    }
}
