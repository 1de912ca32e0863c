//! A real process is killed while it writes, seals and merges; what it was told is stored is there.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use plimsoll_store::{Record, StoreOptions, check};

use crate::scene::{Agent, at, open, small};

const DIRECTORY: &str = "PLIMSOLL_STORE_CHILD";
const KILLS: usize = 30;

/// The child: writes until it is killed, and says what was acknowledged.
#[test]
fn child_that_writes_until_it_is_killed() {
    let Some(dir) = std::env::var_os(DIRECTORY).map(PathBuf::from) else {
        return;
    };
    let options = StoreOptions {
        head_bytes: 3_000,
        ..small()
    };
    let store = plimsoll_store::Store::open(&dir, options).unwrap().0;
    let mut agent = Agent::number(1);
    agent.sequence = store
        .durable_sequence(agent.node, agent.session)
        .unwrap_or(0);
    let mut out = std::io::stdout().lock();
    loop {
        let next = agent.sequence + 1;
        let slice: Vec<Record> = (next..next + 3)
            .map(|number| Record::Batch(agent.batch(number, number)))
            .collect();
        store.append(&slice).unwrap();
        writeln!(out, "acknowledged {}", agent.sequence).unwrap();
        out.flush().unwrap();
        store.maintain(at(agent.sequence)).unwrap();
    }
}

#[test]
fn kill_9_loses_nothing_that_was_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let mut acknowledged = 0;
    for round in 0..KILLS {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([
                "crash::child_that_writes_until_it_is_killed",
                "--exact",
                "--nocapture",
            ])
            .env(DIRECTORY, dir.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut before = 0;
        while before < 3 + round * 7 % 40 {
            let line = lines.next().expect("the child ended by itself").unwrap();
            if let Some((_, number)) = line.split_once("acknowledged ") {
                acknowledged = number.parse().unwrap();
                before += 1;
            }
        }
        child.kill().unwrap();
        // What it said before it died counts too.
        for line in lines.map_while(Result::ok) {
            if let Some((_, number)) = line.split_once("acknowledged ") {
                acknowledged = number.parse().unwrap_or(acknowledged);
            }
        }
        child.wait().unwrap();
        let store = open(dir.path());
        let mut agent = Agent::number(1);
        let durable = store.durable_sequence(agent.node, agent.session).unwrap();
        assert!(
            durable >= acknowledged,
            "round {round}: {durable} of {acknowledged}"
        );
        for number in 1..=durable {
            drop(agent.batch(number, number));
        }
        agent.agrees(&store);
    }
    assert!(acknowledged > 100);
    let holes = check(dir.path()).unwrap().holes;
    assert!(
        holes
            .iter()
            .all(|hole| hole.path.starts_with(dir.path().join("log"))),
        "{holes:?}"
    );
    let store = open(dir.path());
    assert_eq!(store.gaps(Agent::number(1).node), []);
}
