//! Mistakes get one clear line each, that names what is wrong and what to do, and their exit code.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use plimsoll_tests::stage::wait_until;

use crate::house::{Running, aggregator, ask, listening, program};

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
fn a_flag_that_is_none_or_has_no_sense_is_one_line_and_points_to_the_help() {
    for (name, args, words) in [
        ("plimsoll", vec!["estimates"], "'estimate'"),
        ("plimsoll", vec!["nodes", "--colour"], "--colour"),
        (
            "plimsoll",
            vec!["events", "--since", "soon"],
            "for example 90s",
        ),
        ("plimsoll", vec!["estimate"], "<DOMAIN>"),
        (
            "plimsoll-aggregator",
            vec!["run", "--interval", "abc"],
            "abc",
        ),
        (
            "plimsoll-aggregator",
            vec!["run", "--listen", "here"],
            "here",
        ),
        (
            "plimsoll-aggregator",
            vec!["pki", "issue", "/nowhere", "--node", "bad"],
            "bad",
        ),
        (
            "plimsoll-aggregator",
            vec!["pki", "issue", "/nowhere"],
            "--node",
        ),
        ("plimsoll-agent", vec!["run", "--interval", "abc"], "abc"),
        (
            "plimsoll-agent",
            vec!["run", "--libvirt-access", "root"],
            "read-write",
        ),
        ("plimsoll-agent", vec!["runs"], "runs"),
    ] {
        let mut command = Command::new(program(name));
        refused(command.args(&args), 2, &[words, "; see --help"]);
    }
    for name in ["plimsoll", "plimsoll-aggregator", "plimsoll-agent"] {
        let help = Command::new(program(name)).arg("--help").output().unwrap();
        assert_eq!(help.status.code(), Some(0), "{name}");
        assert!(help.stderr.is_empty() && !help.stdout.is_empty(), "{name}");
    }
}

#[test]
fn a_value_that_cannot_be_is_named_with_file_and_line() {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("bad.toml");
    std::fs::write(&config, "# a comment\ninterval = \"1ms\"\n").unwrap();
    for name in ["plimsoll-aggregator", "plimsoll-agent"] {
        let mut command = Command::new(program(name));
        command.arg("check-config").arg("--config").arg(&config);
        refused(&mut command, 78, &["bad.toml:2: interval: "]);
    }
}

#[test]
fn one_who_shows_no_certificate_is_told_so_and_not_that_nobody_listens() {
    let dir = tempfile::tempdir().unwrap();
    let pki = |args: &[&str]| {
        let mut command = Command::new(program("plimsoll-aggregator"));
        let made = command.arg("pki").args(args).output().unwrap();
        assert!(made.status.success(), "{made:?}");
    };
    let path = dir.path().to_str().unwrap();
    pki(&["init", path]);
    pki(&["issue", path, "--server", "127.0.0.1"]);
    let config = dir.path().join("aggregator.toml");
    let text = format!(
        "[tls]\ncertificate = \"{path}/server-127.0.0.1.pem\"\nkey = \"{path}/server-127.0.0.1.key\"\n\
         client_ca = \"{path}/ca.pem\"\n"
    );
    std::fs::write(&config, text).unwrap();
    let mut command = Command::new(program("plimsoll-aggregator"));
    command.args(["run", "--listen", "127.0.0.1:0", "--config"]);
    command.arg(&config).arg("--data-dir");
    let (_house, address) = listening(command.arg(dir.path().join("data")));

    let elsewhere = dir.path().join("elsewhere");
    let foreign = elsewhere.to_str().unwrap();
    pki(&["init", foreign]);
    pki(&["issue", foreign, "--operator", "me"]);
    let ask = |scheme: &str, authority: Option<&str>| {
        let mut command = Command::new(program("plimsoll"));
        command.args(["--server", &format!("{scheme}://{address}"), "nodes"]);
        if let Some(authority) = authority {
            command.args(["--ca", &format!("{authority}/ca.pem")]);
            command.args(["--cert", &format!("{foreign}/operator-me.pem")]);
            command.args(["--key", &format!("{foreign}/operator-me.key")]);
        }
        command
    };
    let closed = "does not let this caller in";
    refused(
        &mut ask("http", None),
        69,
        &["connection broke", "write https://"],
    );
    refused(
        &mut ask("https", Some(foreign)),
        69,
        &[closed, "invalid peer certificate", "--ca"],
    );
    // In TLS 1.3 a caller hears of a certificate that is not taken at the first answer.
    refused(
        &mut ask("https", Some(path)),
        69,
        &["connection broke", "--cert"],
    );
    refused(
        &mut ask("https", None),
        1,
        &["needs certificates", "--cert"],
    );
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
fn agent_log(mut agent: Command, socket: &Path, dir: &Path) -> String {
    let log = dir.join("agent.log");
    let agent = agent
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
        let agent = Command::new(program("plimsoll-agent"));
        let log = agent_log(agent, &socket, dir.path());
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

/// The agent's program as one who may not open what root keeps for itself would start it.
fn agent_of_nobody(dir: &Path) -> Command {
    // Where cargo puts it nobody else may be let in.
    let copy = dir.join("plimsoll-agent");
    std::fs::copy(program("plimsoll-agent"), &copy).unwrap();
    if !rustix::process::geteuid().is_root() {
        return Command::new(copy);
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--"]);
    command.arg(copy);
    command
}

#[test]
fn an_agent_that_may_not_open_libvirts_socket_says_so_once_and_how_to_mend_it() {
    let dir = tempfile::tempdir().unwrap();
    let open = |path: &Path, mode| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    open(dir.path(), 0o755);
    std::fs::create_dir(dir.path().join("state")).unwrap();
    open(&dir.path().join("state"), 0o777);
    let closed = dir.path().join("closed");
    std::fs::create_dir(&closed).unwrap();
    let socket = closed.join("libvirt-sock");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    open(&closed, 0o000);
    let log = agent_log(agent_of_nobody(dir.path()), &socket, dir.path());
    open(&closed, 0o700);
    let name = socket.display().to_string();
    let lines: Vec<&str> = log.lines().filter(|line| line.contains(&name)).collect();
    assert_eq!(lines.len(), 1, "{log}");
    for words in ["WARN", "no permission", "read-only socket"] {
        assert!(lines[0].contains(words), "{words}: {log}");
    }
}
