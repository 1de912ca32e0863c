//! The whole house on this machine: a real agent and a real aggregator, asked by the real command.

use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use plimsoll_tests::stage::wait_until;

/// Where cargo puts the programs of the workspace.
pub(crate) fn programs() -> PathBuf {
    let mut path = std::env::current_exe().unwrap();
    path.pop();
    path.pop();
    path
}

/// One of them.
pub(crate) fn program(name: &str) -> PathBuf {
    let path = programs().join(name);
    assert!(
        path.exists(),
        "{} is not there; run `cargo build --workspace` first",
        path.display()
    );
    path
}

/// A program that is ended with the story.
pub(crate) struct Running(pub(crate) Child);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

impl Running {
    /// Signals it; it is not waited for yet, so its number is nobody else's.
    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.0);
        rustix::process::kill_process(pid, signal).unwrap();
    }
}

/// An aggregator whose log is read.
pub(crate) struct Aggregator {
    pub(crate) program: Running,
    log: Arc<Mutex<String>>,
    reading: JoinHandle<()>,
}

impl Aggregator {
    /// The number of its process.
    pub(crate) fn id(&self) -> u32 {
        self.program.0.id()
    }

    /// Ends it and returns its log.
    pub(crate) fn end(self) -> String {
        drop(self.program);
        self.reading.join().unwrap();
        self.log.lock().unwrap().clone()
    }

    /// Returns what it has logged so far.
    pub(crate) fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }
}

/// Starts an aggregator and waits until it listens; returns it and its address.
pub(crate) fn listening(command: &mut Command) -> (Aggregator, String) {
    let mut child = command
        .env("NO_COLOR", "1")
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let mut log = String::new();
    let address = lines.by_ref().map_while(Result::ok).find_map(|line| {
        log.push_str(&line);
        log.push('\n');
        let told = line.split_once("listen=")?.1;
        Some(told.split_whitespace().next()?.to_owned())
    });
    let address = address.unwrap_or_else(|| panic!("it does not listen: {log}"));
    let log = Arc::new(Mutex::new(log));
    let into = Arc::clone(&log);
    // Read on, so that the aggregator never waits for a full pipe.
    let reading = std::thread::spawn(move || {
        for line in lines.map_while(Result::ok) {
            let mut log = into.lock().unwrap();
            log.push_str(&line);
            log.push('\n');
        }
    });
    let house = Aggregator {
        program: Running(child),
        log,
        reading,
    };
    (house, address)
}

/// Starts an aggregator on a port of the system's choice; returns its URL.
pub(crate) fn aggregator(dir: &std::path::Path) -> (Aggregator, String) {
    aggregator_on("127.0.0.1:0", dir)
}

/// Starts an aggregator on an address; returns its URL.
pub(crate) fn aggregator_on(listen: &str, dir: &std::path::Path) -> (Aggregator, String) {
    let mut command = Command::new(program("plimsoll-aggregator"));
    command
        .args(["run", "--listen", listen, "--interval", "1s", "--data-dir"])
        .arg(dir);
    let (house, address) = listening(&mut command);
    (house, format!("http://{address}"))
}

pub(crate) fn ask(url: &str, args: &[&str]) -> (Option<i32>, String, String) {
    let output = Command::new(program("plimsoll"))
        .args(["--server", url])
        .args(args)
        .output()
        .unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (
        output.status.code(),
        text(output.stdout),
        text(output.stderr),
    )
}

pub(crate) fn asked_json(url: &str, args: &[&str]) -> serde_json::Value {
    let (code, out, err) = ask(url, args);
    assert_eq!(code, Some(0), "{err}");
    serde_json::from_str(&out).unwrap()
}

#[test]
fn an_agent_without_libvirt_shows_its_host_and_its_room_within_seconds_and_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let (house, url) = aggregator(&dir.path().join("data"));
    let agent = Command::new(program("plimsoll-agent"))
        .args([
            "run",
            "--interval",
            "1s",
            "--libvirt-socket",
            "/nonexistent/libvirt-sock",
        ])
        .args(["--aggregator", &url, "--state-dir"])
        .arg(dir.path().join("agent"))
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let agent = Running(agent);
    let limit = Duration::from_secs(30);
    let node = wait_until("the node and a reading of its memory", limit, || {
        let nodes = asked_json(&url, &["--json", "nodes"]);
        let told = nodes
            .get(0)
            .filter(|node| node["memory_bytes"].is_number())
            .cloned();
        let series = asked_json(
            &url,
            &["--json", "series", "--metric", "host.mem.available"],
        );
        Ok(told.filter(|_| !series.as_array().unwrap().is_empty()))
    })
    .unwrap();
    let hostname = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    assert_eq!(node["hostname"], hostname.trim());
    assert_eq!(node["freshness"], "FRESHNESS_FRESH");

    let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap();
    let total_kib = meminfo
        .split_whitespace()
        .nth(1)
        .unwrap()
        .parse::<u64>()
        .unwrap();
    assert_eq!(node["memory_bytes"], total_kib * 1024);
    let room = asked_json(
        &url,
        &[
            "--json",
            "headroom",
            "--ram-ratio",
            "1.5",
            "--flavor",
            "small:1:1MiB",
        ],
    );
    let memory = &room[0]["resources"][1];
    assert_eq!(memory["allocation_headroom"], total_kib * 1024 * 3 / 2);
    assert!(
        room[0]["fits"][0]["count"].as_i64().unwrap() > 0,
        "{room:#}"
    );

    drop(agent);
    drop(house);
    let (_house, url) = aggregator(&dir.path().join("data"));
    let nodes = asked_json(&url, &["--json", "nodes"]);
    assert_eq!(
        nodes[0]["node_id"], node["node_id"],
        "what was acknowledged is there again"
    );
}
