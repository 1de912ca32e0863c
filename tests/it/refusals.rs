//! Mistakes get one clear line each, that names what is wrong and what to do, and their exit code.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use plimsoll_tests::stage::wait_until;

use crate::house::{Running, aggregator, ask, program};

/// Runs a program that must refuse; asserts the code, that it says one line, and that this holds the words.
fn refused(command: &mut Command, code: i32, words: &[&str]) {
    let output = command.stdin(Stdio::null()).output().unwrap();
    let err = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{command:?}: {err}");
    assert_eq!(err.trim_end().lines().count(), 1, "{command:?}: {err}");
    for word in words {
        assert!(
            err.contains(word),
            "{command:?} does not say {word:?}: {err}"
        );
    }
    assert!(output.stdout.is_empty(), "{command:?}");
}

#[test]
fn an_unknown_key_is_named_with_its_line_and_the_keys_there_are() {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("bad.toml");
    std::fs::write(&config, "# a comment\nintervall = \"10s\"\n").unwrap();
    for name in ["plimsoll-aggregator", "plimsoll-agent"] {
        for order in ["check-config", "run"] {
            let mut command = Command::new(program(name));
            command.arg(order).arg("--config").arg(&config);
            refused(
                &mut command,
                78,
                &["bad.toml:2", "`intervall`", "`interval`"],
            );
        }
    }
}

#[test]
fn a_wrong_uuid_is_repeated_with_the_command_that_lists_the_right_ones() {
    let dir = tempfile::tempdir().unwrap();
    let (_house, url) = aggregator(dir.path());
    for (args, words) in [
        (
            ["estimate", "6b1f5a5e-0000-4000-8000-000000000001"],
            ["6b1f5a5e-0000", "plimsoll domains"],
        ),
        (
            ["headroom", "6b1f5a5e-0000-4000-8000-000000000002"],
            ["6b1f5a5e-0000", "plimsoll nodes"],
        ),
        (
            ["estimate", "not-a-uuid"],
            ["not-a-uuid", "plimsoll domains"],
        ),
    ] {
        let mut command = Command::new(program("plimsoll"));
        command.args(["--server", &url]).args(args);
        refused(&mut command, 1, &words);
    }
    let (code, out, _) = ask(&url, &["nodes"]);
    assert_eq!(code, Some(0), "it answers all the same: {out}");
}

#[test]
fn an_aggregator_that_is_not_there_is_named_with_the_flag_to_name_another() {
    let mut command = Command::new(program("plimsoll"));
    command.args(["--server", "http://127.0.0.1:1", "nodes"]);
    refused(&mut command, 69, &["http://127.0.0.1:1", "--server"]);
}

#[test]
fn an_aggregator_does_not_bind_beyond_loopback_unasked_and_names_the_key() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = Command::new(program("plimsoll-aggregator"));
    command
        .args(["run", "--listen", "0.0.0.0:0", "--data-dir"])
        .arg(dir.path());
    refused(&mut command, 78, &["listen", "allow_plaintext_listen"]);
}

/// Runs an agent until its log holds a warning about libvirt and one about the aggregator.
fn agent_log(socket: &Path, dir: &Path) -> String {
    let log = dir.join("agent.log");
    let agent = Command::new(program("plimsoll-agent"))
        .args([
            "run",
            "--interval",
            "1s",
            "--aggregator",
            "http://127.0.0.1:1",
        ])
        .arg("--libvirt-socket")
        .arg(socket)
        .arg("--state-dir")
        .arg(dir.join("state"))
        .env("NO_COLOR", "1")
        .stderr(std::fs::File::create(&log).unwrap())
        .spawn()
        .unwrap();
    let _agent = Running(agent);
    let mut looks = 0;
    wait_until("two warnings of the agent", Duration::from_secs(20), || {
        let text = std::fs::read_to_string(&log).unwrap();
        let warned =
            text.contains("libvirt socket") && text.contains("cannot reach the aggregator");
        // Some looks more, in which it tries again and must not say the same again.
        looks += u32::from(warned);
        Ok((looks > 200).then_some(text))
    })
    .unwrap()
}

#[test]
fn an_agent_says_once_which_libvirt_socket_and_which_aggregator_it_misses_and_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let refused = dir.path().join("refused-sock");
    drop(std::os::unix::net::UnixListener::bind(&refused).unwrap());
    for (socket, remedy) in [
        (dir.path().join("absent-sock"), "is libvirt installed"),
        (refused, "start the daemon"),
    ] {
        let log = agent_log(&socket, dir.path());
        let name = socket.display().to_string();
        let lines: Vec<&str> = log.lines().filter(|line| line.contains(&name)).collect();
        assert_eq!(lines.len(), 1, "{log}");
        assert!(
            lines[0].contains("WARN") && lines[0].contains(remedy),
            "{log}"
        );
        let away = |line: &&str| line.contains("http://127.0.0.1:1") && line.contains("WARN");
        let lines: Vec<&str> = log.lines().filter(away).collect();
        assert_eq!(lines.len(), 1, "{log}");
        assert!(
            lines[0].contains("start it, or correct `aggregator`"),
            "{log}"
        );
    }
}
