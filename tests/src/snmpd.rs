//! Debian's snmpd on a free port of the loopback, with a directory of its own.
//!
//! Not here: what is asked of it. It is ended by its own handle, never by its name.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::Context as _;

use crate::stage::wait_until;

/// Set to 1 where nothing may be left out.
const COMPLETE: &str = "PLIMSOLL_TESTS_COMPLETE";
/// How long it may take to answer after its start.
const START_MAX: Duration = Duration::from_secs(20);

/// The user it knows; both passwords begin with `canary`, so that a log can be searched for them.
pub const USER: &str = "plimsoll";
/// Password for authentication, by SHA-256.
pub const AUTHENTICATION: &str = "canary-authentication";
/// Password for encryption, by AES with 128 bits.
pub const PRIVACY: &str = "canary-privacy";
/// The community it knows.
pub const COMMUNITY: &str = "canary-community";

/// Whether a story with net-snmp's programs is told: only where nothing may be left out, and then it must.
///
/// # Panics
///
/// If a program is missing where `PLIMSOLL_TESTS_COMPLETE` is 1.
pub fn told(story: &str) -> bool {
    let complete = std::env::var_os(COMPLETE).is_some_and(|value| value == "1");
    if !complete {
        let why = format!("it needs snmpd, snmp and snmptrapd, and {COMPLETE}=1");
        // Not through the test harness, which would swallow it.
        drop(writeln!(std::io::stderr(), "left out: {story}: {why}"));
        return false;
    }
    for program in ["/usr/sbin/snmpd", "/usr/bin/snmpget", "/usr/sbin/snmptrapd"] {
        let there = Path::new(program).exists();
        assert!(there, "story {story} cannot be told: no {program}");
    }
    true
}

/// A port of the loopback that nobody listens on now.
///
/// # Errors
///
/// If the system gives none.
pub fn free_port() -> anyhow::Result<u16> {
    let socket = std::net::UdpSocket::bind("127.0.0.1:0")?;
    Ok(socket.local_addr()?.port())
}

/// A running snmpd.
#[derive(Debug)]
pub struct Snmpd {
    place: tempfile::TempDir,
    port: u16,
    child: Child,
}

impl Drop for Snmpd {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

impl Snmpd {
    /// Starts one and waits until it answers.
    ///
    /// # Errors
    ///
    /// If it cannot be started, or does not answer.
    pub fn start() -> anyhow::Result<Self> {
        let place = tempfile::tempdir()?;
        let port = free_port()?;
        let text = format!(
            "agentAddress udp:127.0.0.1:{port}\nrocommunity {COMMUNITY} 127.0.0.1\n\
             createUser {USER} SHA-256 {AUTHENTICATION} AES {PRIVACY}\nrouser {USER} authpriv\n"
        );
        std::fs::write(place.path().join("snmpd.conf"), text)?;
        std::fs::create_dir(place.path().join("kept"))?;
        let child = spawn(place.path())?;
        let this = Self { place, port, child };
        this.wait()?;
        Ok(this)
    }

    /// Ends it and starts it anew on the same port, with what it kept.
    ///
    /// # Errors
    ///
    /// As [`Snmpd::start`].
    pub fn restart(&mut self) -> anyhow::Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        self.child = spawn(self.place.path())?;
        self.wait()
    }

    /// Where it listens.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    fn wait(&self) -> anyhow::Result<()> {
        let answers = || {
            let mut get = Command::new("snmpget");
            get.args(["-v2c", "-c", COMMUNITY, "-t", "0.5", "-r", "0", "-m", ""])
                .args([&self.address(), "1.3.6.1.2.1.1.3.0"])
                .stdout(Stdio::null())
                .stderr(Stdio::null());
            let answered = get.status().is_ok_and(|status| status.success());
            Ok(answered.then_some(()))
        };
        wait_until("an answer of snmpd", START_MAX, answers).context("snmpd is silent")
    }
}

fn spawn(place: &Path) -> anyhow::Result<Child> {
    let child = Command::new("/usr/sbin/snmpd")
        .args(["-f", "-LF", "5"])
        .arg(place.join("log"))
        .args(["-C", "-c"])
        .arg(place.join("snmpd.conf"))
        .env("SNMP_PERSISTENT_DIR", place.join("kept"))
        .env("MIBS", "")
        .stdin(Stdio::null())
        .spawn()?;
    Ok(child)
}

/// Writes a secret that only its owner can read; returns where.
///
/// # Errors
///
/// If it cannot be written.
pub fn secret(dir: &Path, name: &str, word: &str) -> anyhow::Result<PathBuf> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let path = dir.join(name);
    let mut options = std::fs::OpenOptions::new();
    let mut file = options
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&path)?;
    file.write_all(word.as_bytes())?;
    Ok(path)
}
