//! A site with certificates: made by the program itself, used by a real agent, aggregator and command.

use std::io::Read as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use plimsoll_tests::stage::wait_until;

use crate::house::{Aggregator, Running, listening, program};

const NODE: &str = "6f9d1c52-70a8-4f0c-9a55-3c1f3a1d7e01";

fn pki(args: &[&str], dir: &Path) {
    let mut command = Command::new(program("plimsoll-aggregator"));
    let output = command
        .arg("pki")
        .arg(args[0])
        .arg(dir)
        .args(&args[1..])
        .output()
        .unwrap();
    let err = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "pki {args:?}: {err}");
}

fn ask(url: &str, dir: &Path, who: &str, args: &[&str]) -> (Option<i32>, String) {
    let path = |name: &str| dir.join(name).display().to_string();
    let output = Command::new(program("plimsoll"))
        .args(["--server", url, "--ca", &path("ca.pem")])
        .args(["--cert", &path(&format!("{who}.pem"))])
        .args(["--key", &path(&format!("{who}.key"))])
        .args(args)
        .output()
        .unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(said).unwrap())
}

/// Starts an aggregator with the certificates of `dir`, its data in `scratch`; also returns how it is called.
fn sealed_house(scratch: &Path, dir: &Path) -> (Aggregator, String) {
    let path = |name: &str| dir.join(name).display().to_string();
    let config = scratch.join("aggregator.toml");
    let text = format!(
        "listen = \"0.0.0.0:0\"\ninterval = \"1s\"\ndata_dir = {:?}\n[tls]\ncertificate = {:?}\nkey = {:?}\nclient_ca = {:?}\n",
        scratch.join("data"),
        path("server-127.0.0.1.pem"),
        path("server-127.0.0.1.key"),
        path("ca.pem"),
    );
    std::fs::write(&config, text).unwrap();
    let mut command = Command::new(program("plimsoll-aggregator"));
    command
        .args(["run", "--config"])
        .arg(&config)
        .env("RUST_LOG", "debug");
    let (house, address) = listening(&mut command);
    let port = address.rsplit_once(':').unwrap().1.to_owned();
    (house, format!("https://localhost:{port}"))
}

/// Starts an agent with the certificate of `NODE`.
fn sealed_agent(scratch: &Path, dir: &Path, url: &str) -> Child {
    let path = |name: &str| dir.join(name).display().to_string();
    let agent_config = scratch.join("agent.toml");
    let text = format!(
        "aggregator = {url:?}\ninterval = \"1s\"\nstate_dir = {:?}\n[tls]\nca = {:?}\ncertificate = {:?}\nkey = {:?}\n[node]\nid = {NODE:?}\n[libvirt]\nenabled = false\n",
        scratch.join("agent"),
        path("ca.pem"),
        path(&format!("node-{NODE}.pem")),
        path(&format!("node-{NODE}.key")),
    );
    std::fs::write(&agent_config, text).unwrap();
    Command::new(program("plimsoll-agent"))
        .args(["run", "--config"])
        .arg(&agent_config)
        .env("RUST_LOG", "debug")
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

#[test]
fn with_certificates_an_agent_reports_a_planner_asks_and_no_key_is_told() {
    let scratch = tempfile::tempdir().unwrap();
    let dir = scratch.path().join("pki");
    pki(&["init"], &dir);
    pki(&["issue", "--server", "127.0.0.1", "localhost"], &dir);
    pki(&["issue", "--node", NODE], &dir);
    pki(&["issue", "--planner", "watcher"], &dir);
    pki(&["issue", "--operator", "me"], &dir);
    let (house, url) = sealed_house(scratch.path(), &dir);
    let mut agent = sealed_agent(scratch.path(), &dir, &url);
    let mut agent_log = agent.stderr.take().unwrap();
    let agent = Running(agent);
    wait_until("the planner sees the node", Duration::from_secs(30), || {
        let (code, said) = ask(&url, &dir, "planner-watcher", &["nodes"]);
        Ok((code == Some(0) && said.contains(NODE)).then_some(()))
    })
    .unwrap();
    let (code, said) = ask(&url, &dir, "planner-watcher", &["series"]);
    assert_eq!(code, Some(1), "{said}");
    assert!(
        said.contains("planner") && said.contains("certificate"),
        "{said}"
    );
    let (code, said) = ask(
        &url,
        &dir,
        "operator-me",
        &["series", "--metric", "host.mem.*"],
    );
    assert!(code == Some(0) && said.contains("host.mem"), "{said}");
    let (code, said) = ask(&url, &dir, &format!("node-{NODE}"), &["nodes"]);
    assert_eq!(code, Some(1), "a node reads nothing: {said}");

    drop(agent);
    let mut logs = house.end();
    agent_log.read_to_string(&mut logs).unwrap();
    assert!(logs.contains("connected to the aggregator"), "{logs}");
    for name in [
        "server-127.0.0.1.key",
        &format!("node-{NODE}.key"),
        "ca.key",
    ] {
        let secret = std::fs::read_to_string(dir.join(name)).unwrap();
        let canary = secret.lines().nth(1).unwrap();
        assert!(!logs.contains(canary), "{name} came into a log");
    }
}

#[test]
fn an_open_key_is_refused_by_name_before_anything_is_served() {
    use std::os::unix::fs::PermissionsExt as _;
    let scratch = tempfile::tempdir().unwrap();
    let dir = scratch.path().join("pki");
    pki(&["init"], &dir);
    pki(&["issue", "--server", "localhost"], &dir);
    let key = dir.join("server-localhost.key");
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o640)).unwrap();
    let config = scratch.path().join("aggregator.toml");
    let text = format!(
        "listen = \"127.0.0.1:0\"\ndata_dir = {:?}\n[tls]\ncertificate = {:?}\nkey = {key:?}\nclient_ca = {:?}\n",
        scratch.path().join("data"),
        dir.join("server-localhost.pem"),
        dir.join("ca.pem"),
    );
    std::fs::write(&config, text).unwrap();
    let output = Command::new(program("plimsoll-aggregator"))
        .args(["run", "--config"])
        .arg(&config)
        .output()
        .unwrap();
    let err = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success());
    assert!(
        err.contains("server-localhost.key") && err.contains("chmod 600"),
        "{err}"
    );
    assert!(!scratch.path().join("data").exists(), "nothing was begun");
}
