//! What befalls the two programs, one fault after the other, on real processes. `tests/FAULTS.md` says which
//! story tells of which fault.
//!
//! Each story ends with the books: what was produced is stored once, in a gap, or still in the spool, and what
//! was trimmed from the spool is stored.

#![expect(clippy::print_stdout, reason = "a story tells what it measured")]

mod books;
mod chaos;
mod crowd;
mod disk;
mod foes;
mod keys;
mod libvirtd;
mod line;
mod network;
mod standstill;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use plimsoll_tests::stage::{Deadline, wait_until};
use rustix::process::Signal;
use uuid::Uuid;

use crate::house::{Aggregator, Running, listening, program};

/// How long anything may take that must come.
const LIMIT: Duration = Duration::from_secs(40);

/// What stands before a program's name, such as `nsenter` or `strace`, and what is set around it. What stands
/// before must put the program in its own place, so that a signal reaches the program.
#[derive(Debug, Clone, Default)]
struct Way {
    before: Vec<String>,
    environment: Vec<(&'static str, String)>,
}

impl Way {
    fn through(before: &[&str]) -> Self {
        Self {
            before: before.iter().map(|word| (*word).to_owned()).collect(),
            ..Self::default()
        }
    }

    fn command(&self, name: &str) -> Command {
        let program = program(name);
        let mut command = match self.before.split_first() {
            None => Command::new(program),
            Some((first, rest)) => {
                let mut command = Command::new(first);
                command.args(rest).arg(program);
                command
            }
        };
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.env("NO_COLOR", "1").stdin(Stdio::null());
        command
    }

    /// Starts an aggregator that listens there and keeps its data in `data`; returns its address.
    fn aggregator(&self, listen: &str, data: &Path, more: &str) -> (Aggregator, String) {
        let config = data.with_extension("toml");
        let text = format!(
            "interval = \"1s\"\nallow_plaintext_listen = true\nlisten = {listen:?}\ndata_dir = {data:?}\n{more}"
        );
        std::fs::write(&config, text).unwrap();
        let mut command = self.command("plimsoll-aggregator");
        listening(command.args(["run", "--config"]).arg(config))
    }

    /// Starts an agent of a node that looks once a second, at its host only unless told of libvirt.
    fn agent(&self, url: &str, dir: &Path, more: &str) -> Agent {
        let node = Uuid::new_v5(&Uuid::NAMESPACE_OID, dir.as_os_str().as_encoded_bytes());
        self.agent_of(&node.to_string(), url, dir, more)
    }

    /// The same, of a node that has a name already.
    fn agent_of(&self, node: &str, url: &str, dir: &Path, more: &str) -> Agent {
        std::fs::create_dir_all(dir).unwrap();
        let config = dir.join("agent.toml");
        let blind = match more.contains("[libvirt]") {
            true => "",
            false => "[libvirt]\nenabled = false\n",
        };
        let text = format!(
            "interval = \"1s\"\naggregator = {url:?}\nstate_dir = {:?}\n{more}\n{blind}\
             [node]\nid = \"{node}\"\n",
            dir.join("state")
        );
        std::fs::write(&config, text).unwrap();
        let log = dir.join("log");
        let mut options = std::fs::File::options();
        let into = options.create(true).append(true).open(&log).unwrap();
        let mut command = self.command("plimsoll-agent");
        command.args(["run", "--config"]).arg(config);
        let program = Running(command.stderr(into).spawn().unwrap());
        Agent {
            program,
            dir: dir.to_owned(),
        }
    }
}

/// An agent that runs.
struct Agent {
    program: Running,
    dir: PathBuf,
}

impl Agent {
    /// All that agents of this directory have logged.
    fn log(&self) -> String {
        std::fs::read_to_string(self.dir.join("log")).unwrap()
    }

    /// Waits until the log holds so many lines with these words.
    fn says(&self, words: &str, times: usize) {
        let said = wait_until(words, LIMIT, || {
            Ok((self.log().matches(words).count() >= times).then_some(()))
        });
        said.unwrap_or_else(|error| panic!("{error}: {}", self.log()));
    }

    /// Ends it as systemd would, and waits until it has ended.
    fn end(mut self) -> PathBuf {
        self.program.signal(Signal::TERM);
        let program = &mut self.program.0;
        wait_until("the end of the agent", LIMIT, || {
            Ok(program.try_wait().unwrap())
        })
        .unwrap();
        self.dir.clone()
    }
}

/// Lets time pass in which a fault lasts or the programs work.
fn last(length: Duration) {
    let over = Deadline::after(length);
    wait_until("the time to pass", length * 2, || {
        Ok(over.is_over().then_some(()))
    })
    .unwrap();
}

/// A port that nobody listens on now, so that an aggregator can come back where it was.
fn free_address() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().to_string()
}

/// Waits until the aggregator has a reading of each node that ended after now.
fn hears_anew(url: &str, nodes: usize) {
    use plimsoll_model::{Clock as _, SystemClock};
    let since_ms = SystemClock::new().now().millis();
    let what = format!("a new reading of each of {nodes} nodes");
    wait_until(&what, LIMIT, || {
        Ok((books::ends_ms(url, since_ms) >= nodes).then_some(()))
    })
    .unwrap();
}

/// Bytes of memory that are no mapped file, now.
fn memory_bytes(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("RssAnon:"));
    let kib = line.unwrap().split_whitespace().nth(1).unwrap();
    kib.parse::<u64>().unwrap() << 10
}
