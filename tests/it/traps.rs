//! A node without room: the real aggregator says so to a real snmptrapd.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use plimsoll_tests::snmpd;
use plimsoll_tests::stage::wait_until;

use crate::house::{Running, listening, program};

const LIMIT: Duration = Duration::from_secs(60);

/// The id of the aggregator's engine, once it is kept, in hexadecimal digits.
fn engine_id(dir: &Path) -> String {
    let engine = wait_until("the engine's state", LIMIT, || {
        Ok(std::fs::read(dir.join("data/snmp-engine")).ok())
    })
    .unwrap();
    let engine: serde_json::Value = serde_json::from_slice(&engine).unwrap();
    let bytes = engine["engine_id"].as_array().unwrap().iter();
    bytes
        .map(|byte| format!("{:02x}", byte.as_u64().unwrap()))
        .collect()
}

/// Starts snmptrapd, told of the engine and the user, and waits until it listens.
fn receiver(dir: &Path, log: &Path, (port, id): (u16, &str)) -> Running {
    let receiver = dir.join("snmptrapd.conf");
    let text = format!(
        "createUser -e 0x{id} teller SHA-256 canary-authentication AES canary-privacy\n\
         authUser log teller authPriv\n"
    );
    std::fs::write(&receiver, text).unwrap();
    let running = Running(
        Command::new("/usr/sbin/snmptrapd")
            .args(["-f", "-On", "-m", "", "-C", "-c"])
            .arg(&receiver)
            .arg("-Lf")
            .arg(log)
            .arg(format!("udp:127.0.0.1:{port}"))
            .env("SNMP_PERSISTENT_DIR", dir.join("receiver"))
            .spawn()
            .unwrap(),
    );
    wait_until("snmptrapd", LIMIT, || {
        Ok(std::fs::read_to_string(log)
            .ok()
            .filter(|text| text.contains("NET-SNMP")))
    })
    .unwrap();
    running
}

#[test]
fn a_node_that_lost_its_room_is_told_to_snmptrapd_and_no_secret_is_logged() {
    if !snmpd::told("traps") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let one = snmpd::secret(dir.path(), "one", "canary-authentication").unwrap();
    let two = snmpd::secret(dir.path(), "two", "canary-privacy").unwrap();
    let port = snmpd::free_port().unwrap();
    let config = dir.path().join("aggregator.toml");
    let text = format!(
        "listen = \"127.0.0.1:0\"\ndata_dir = {:?}\ninterval = \"1s\"\n[traps]\n\
         to = [\"127.0.0.1:{port}\"]\nuser = \"teller\"\nauthentication_password_file = {one:?}\n\
         privacy_password_file = {two:?}\nevery = \"1s\"\n",
        dir.path().join("data")
    );
    std::fs::write(&config, text).unwrap();
    let mut command = Command::new(program("plimsoll-aggregator"));
    command.args(["run", "--config"]).arg(&config);
    let (house, address) = listening(&mut command);
    let id = engine_id(dir.path());
    let log = dir.path().join("traps.log");
    let _receiver = receiver(dir.path(), &log, (port, &id));

    // All memory is kept for the host, so none is left for guests.
    let told = dir.path().join("agent.toml");
    let text = format!(
        "aggregator = \"http://{address}\"\nstate_dir = {:?}\ninterval = \"1s\"\n\
         [libvirt]\nenabled = false\n[node]\nhostname = \"full-1\"\n[overcommit]\nreserved_memory = \"64TiB\"\n",
        dir.path().join("state")
    );
    std::fs::write(&told, text).unwrap();
    let agent = Command::new(program("plimsoll-agent"))
        .args(["run", "--config"])
        .arg(&told)
        .stderr(Stdio::null())
        .spawn();
    let _agent = Running(agent.unwrap());
    let text = wait_until("the trap", LIMIT, || {
        Ok(std::fs::read_to_string(&log)
            .ok()
            .filter(|text| text.contains("full-1")))
    })
    .unwrap();
    let root = ".1.3.6.1.4.1.8072.9999.9999.7077";
    assert!(text.contains(&format!("OID: {root}.0.2")), "{text}");
    assert!(
        text.contains(&format!("{root}.1.4.1.0 = STRING: \"full-1\"")),
        "{text}"
    );
    assert!(text.contains("MiB of memory"), "{text}");
    let log = house.end();
    assert!(
        log.contains("trap sent") && !log.contains("canary"),
        "{log}"
    );
}
