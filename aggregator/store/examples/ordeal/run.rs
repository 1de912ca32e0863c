//! Runs the child and hears what it says.

use std::io::{BufRead as _, BufReader, Lines};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};

use anyhow::{Context as _, bail, ensure};

/// A child that lives.
pub(crate) struct Living {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    said: Said,
}

/// What a child said.
#[derive(Debug, Clone, Default)]
pub(crate) struct Said {
    /// The last slice it was acknowledged.
    pub(crate) acked: u64,
    /// How many lines told of an acknowledgement.
    pub(crate) acks: u64,
    /// How many slices were refused.
    pub(crate) refused: u64,
    /// Failures of upkeep.
    pub(crate) upkeep: u64,
    /// Whether writes stopped.
    pub(crate) poisoned: bool,
    /// Whether it gave up.
    pub(crate) gave_up: bool,
    /// Why it could not open the store.
    pub(crate) unopened: Option<String>,
    /// Whether it held its open store against the world at its end.
    pub(crate) held: bool,
}

impl Said {
    fn hear(&mut self, line: &str) -> anyhow::Result<()> {
        let word = line.split_whitespace().next().unwrap_or_default();
        match word {
            "acked" => {
                let number = line.strip_prefix("acked ").unwrap_or_default();
                self.acked = number.parse().with_context(|| line.to_owned())?;
                self.acks += 1;
            }
            "refused" => self.refused += 1,
            "upkeep" | "seal" => self.upkeep += 1,
            "poisoned" => self.poisoned = true,
            "unopened" => self.unopened = Some(line.to_owned()),
            "gave" => self.gave_up = true,
            "holds" => self.held = true,
            _ => bail!("the child says {line}"),
        }
        Ok(())
    }
}

/// The command of a child.
pub(crate) fn child(dir: &Path, seed: u64, slices: Option<u64>) -> anyhow::Result<Vec<String>> {
    let own = std::env::current_exe()?;
    let mut words = vec![
        text(&own)?,
        "child".to_owned(),
        text(dir)?,
        "--seed".to_owned(),
        seed.to_string(),
    ];
    words.extend(slices.map(|slices| format!("--slices={slices}")));
    Ok(words)
}

/// Returns a path as text.
pub(crate) fn text(path: &Path) -> anyhow::Result<String> {
    let text = path.to_str().context("a path is not UTF-8")?;
    Ok(text.to_owned())
}

impl Living {
    pub(crate) fn start(words: &[String], errors: Option<&Path>) -> anyhow::Result<Self> {
        let (program, args) = words.split_first().context("no program")?;
        let stderr = match errors {
            Some(path) => Stdio::from(std::fs::File::create(path)?),
            None => Stdio::null(),
        };
        let mut child = Command::new(program)
            .args(args)
            .env("RUST_BACKTRACE", "0")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(stderr)
            .spawn()
            .with_context(|| format!("cannot start {program}"))?;
        let stdout = child.stdout.take().context("no standard output")?;
        Ok(Self {
            child,
            lines: BufReader::new(stdout).lines(),
            said: Said::default(),
        })
    }

    /// Waits until it was acknowledged this often.
    pub(crate) fn hear_acks(&mut self, count: u64) -> anyhow::Result<Said> {
        while self.said.acks < count {
            let line = self.lines.next().context("the child ended by itself")??;
            self.said.hear(&line)?;
        }
        Ok(self.said.clone())
    }

    /// Kills it, and hears what it said before that.
    pub(crate) fn kill(mut self) -> anyhow::Result<Said> {
        self.child.kill()?;
        self.end()?;
        Ok(self.said.clone())
    }

    /// Kills it, and does not listen any more.
    pub(crate) fn kill_unheard(mut self) -> anyhow::Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    fn end(&mut self) -> anyhow::Result<bool> {
        for line in self.lines.by_ref().map_while(Result::ok) {
            self.said.hear(&line)?;
        }
        Ok(self.child.wait()?.success())
    }

    /// Waits for its end; says whether it was a good one.
    pub(crate) fn wait(mut self) -> anyhow::Result<(bool, Said)> {
        let good = self.end()?;
        Ok((good, self.said.clone()))
    }
}

/// Makes a directory for files that need no real disk below them: in memory, where that can be had.
pub(crate) fn scratch() -> std::io::Result<tempfile::TempDir> {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() {
        tempfile::tempdir_in(memory)
    } else {
        tempfile::tempdir()
    }
}

/// Runs a program that must succeed; returns what it printed.
pub(crate) fn run(words: &[impl AsRef<str>]) -> anyhow::Result<String> {
    let words: Vec<&str> = words.iter().map(AsRef::as_ref).collect();
    let (program, args) = words.split_first().context("no program")?;
    let output = Command::new(program)
        .args(args)
        .output()
        .with_context(|| format!("cannot start {program}"))?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{}: {stderr}", words.join(" "));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Copies a directory.
pub(crate) fn copy(from: &Path, to: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let path = entry?.path();
        let target = to.join(path.file_name().unwrap_or_default());
        if path.is_dir() {
            copy(&path, &target)?;
        } else {
            std::fs::copy(&path, &target)?;
        }
    }
    Ok(())
}

/// Lists all files below a directory.
pub(crate) fn files(dir: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(files(&path)?);
        } else {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}
