//! What a real agent shows over SNMPv3, walked by net-snmp.

use std::process::{Command, Stdio};
use std::time::Duration;

use plimsoll_tests::snmpd;
use plimsoll_tests::stage::wait_until;

use crate::house::{Running, program};

const LIMIT: Duration = Duration::from_secs(60);
const OWN: &str = ".1.3.6.1.4.1.8072.9999.9999.7077";

#[test]
fn net_snmp_walks_the_node_and_vm_mib_of_a_real_agent_across_its_restart() {
    if !snmpd::told("published") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let one = snmpd::secret(dir.path(), "one", "canary-authentication").unwrap();
    let two = snmpd::secret(dir.path(), "two", "canary-privacy").unwrap();
    let listen = format!("127.0.0.1:{}", snmpd::free_port().unwrap());
    let text = format!(
        "state_dir = {:?}\ninterval = \"1s\"\n[libvirt]\nenabled = false\n[publish]\n\
         listen = {listen:?}\nuser = \"reader\"\nauthentication_password_file = {one:?}\n\
         privacy_password_file = {two:?}\n",
        dir.path().join("state")
    );
    let config = dir.path().join("agent.toml");
    std::fs::write(&config, text).unwrap();
    let start = || {
        let agent = Command::new(program("plimsoll-agent"))
            .args(["run", "--config"])
            .arg(&config)
            .stderr(Stdio::null())
            .spawn();
        Running(agent.unwrap())
    };
    let walk = |level: &str, root: &str| {
        let output = Command::new("snmpbulkwalk")
            .args(["-v3", "-l", level, "-u", "reader", "-a", "SHA-256", "-A"])
            .args(["canary-authentication", "-x", "AES", "-X", "canary-privacy"])
            .args(["-t", "1", "-r", "1", "-On", "-m", "", &listen, root])
            .env("SNMP_PERSISTENT_DIR", dir.path().join("client"))
            .output()
            .unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let text = std::fs::read_to_string("/proc/meminfo").unwrap();
    let kib: u64 = text.split_whitespace().nth(1).unwrap().parse().unwrap();
    let memory = format!("{OWN}.1.1.1.0 = Counter64: {}", kib * 1_024);
    // The second start must be taken for a later one of the same engine, not for a forger.
    for _ in 0..2 {
        let agent = start();
        wait_until("the memory of the node", LIMIT, || {
            Ok(walk("authPriv", OWN).contains(&memory).then_some(()))
        })
        .unwrap();
        let guests = walk("authPriv", ".1.3.6.1.2.1.236");
        assert!(
            guests.contains(".1.3.6.1.2.1.236.1.2.0 = INTEGER: 0"),
            "{guests}"
        );
        assert!(!walk("authNoPriv", OWN).contains(&memory));
        drop(agent);
    }
}
