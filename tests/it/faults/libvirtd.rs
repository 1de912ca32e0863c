//! A libvirtd that hangs with every guest, dies again and again, or whose guests come and go.
//!
//! It is one of this process, which speaks the protocol as far as the agent asks; real ones are in `eyes`.

use std::io::{Read as _, Write as _};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use plimsoll_libvirt::xdr::Encoder;
use plimsoll_tests::stage::{Deadline, wait_until};

use super::chaos::setting;
use super::{LIMIT, Way, books, hears_anew, last};

const REMOTE: u32 = 0x2000_8086;
const XML: u32 = 14;
const DOMAINS: u32 = 273;
const JOB: u32 = 298;
const SUBSCRIPTION: u32 = 316;
const STATS: u32 = 344;

#[derive(Debug, Default)]
struct State {
    /// Numbers of the guests that run.
    guests: Vec<u32>,
    /// Whether what a guest's monitor would have to answer is never answered.
    hangs: bool,
    /// Calls that were never answered, on the connections that are open.
    unanswered: usize,
    unanswered_most: usize,
    connections: usize,
    stats: usize,
    open: Vec<UnixStream>,
    is_over: bool,
}

/// The daemon; it is gone when dropped.
struct Daemon {
    state: Arc<Mutex<State>>,
    socket: PathBuf,
}

impl Daemon {
    fn start(socket: &Path, guests: &[u32]) -> Self {
        std::fs::remove_file(socket).ok();
        let listener = UnixListener::bind(socket).unwrap();
        let state = Arc::new(Mutex::new(State {
            guests: guests.to_vec(),
            ..State::default()
        }));
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let mut state = shared.lock().unwrap();
                if state.is_over {
                    return;
                }
                state.connections += 1;
                state.open.push(stream.try_clone().unwrap());
                let shared = Arc::clone(&shared);
                std::thread::spawn(move || serve(&shared, stream));
            }
        });
        Self {
            state,
            socket: socket.to_owned(),
        }
    }

    fn with<T>(&self, look: impl FnOnce(&mut State) -> T) -> T {
        look(&mut self.state.lock().unwrap())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.with(|state| {
            state.is_over = true;
            for end in state.open.drain(..) {
                end.shutdown(Shutdown::Both).ok();
            }
        });
        drop(UnixStream::connect(&self.socket));
        std::fs::remove_file(&self.socket).ok();
    }
}

fn serve(state: &Mutex<State>, mut stream: UnixStream) {
    let mut length = [0; 4];
    while stream.read_exact(&mut length).is_ok() {
        let bytes = usize::try_from(u32::from_be_bytes(length)).unwrap();
        let mut call = vec![0; bytes - 4];
        if stream.read_exact(&mut call).is_err() {
            return;
        }
        let word = |at: usize| u32::from_be_bytes(call[at..at + 4].try_into().unwrap());
        let (program, number, serial) = (word(0), word(8), word(16));
        let answer = answer(&mut state.lock().unwrap(), program, number, &call[24..]);
        let Some((status, body)) = answer else {
            continue;
        };
        let mut head = Encoder::new();
        head.u32(u32::try_from(28 + body.len()).unwrap());
        for word in [program, 1, number, 1, serial, status] {
            head.u32(word);
        }
        if stream
            .write_all(&[head.into_bytes(), body].concat())
            .is_err()
        {
            return;
        }
    }
}

fn numbers(numbers: &[i32]) -> Vec<u8> {
    let mut encoder = Encoder::new();
    numbers.iter().for_each(|number| encoder.i32(*number));
    encoder.into_bytes()
}

fn name(number: u32) -> String {
    format!("guest-{number:05}")
}

fn uuid(number: u32) -> [u8; 16] {
    let mut uuid = [0x40; 16];
    uuid[8] = 0x80;
    uuid[12..].copy_from_slice(&number.to_be_bytes());
    uuid
}

fn reference(number: u32) -> Vec<u8> {
    let mut encoder = Encoder::new();
    encoder.string(&name(number)).unwrap();
    encoder.opaque(&uuid(number));
    encoder.u32(number);
    encoder.into_bytes()
}

/// What is answered; nothing where it hangs.
fn answer(state: &mut State, program: u32, number: u32, payload: &[u8]) -> Option<(u32, Vec<u8>)> {
    let is_about = |guest: &u32| payload.windows(16).any(|part| part == uuid(*guest));
    let guest = state.guests.iter().copied().find(is_about);
    let of_a_guest = program != REMOTE || [JOB, STATS].contains(&number);
    if of_a_guest && state.hangs {
        state.unanswered += 1;
        state.unanswered_most = state.unanswered_most.max(state.unanswered);
        return None;
    }
    let said = match (program, number) {
        (REMOTE, 66) => numbers(&[1, 0]),
        (REMOTE, 60) => numbers(&[0]),
        (REMOTE, 1 | 2) => Vec::new(),
        (REMOTE, SUBSCRIPTION) => numbers(&[7]),
        (REMOTE, DOMAINS) => {
            let count = i32::try_from(state.guests.len()).unwrap();
            let all: Vec<u8> = state
                .guests
                .iter()
                .flat_map(|guest| reference(*guest))
                .collect();
            [numbers(&[count]), all, numbers(&[count])].concat()
        }
        (REMOTE, STATS) => {
            state.stats += 1;
            // One that has gone meanwhile is simply not told of.
            let Some(guest) = guest else {
                return Some((0, numbers(&[0])));
            };
            let mut values = Encoder::new();
            values.u32(2);
            for (name, value) in [("state.state", 1), ("balloon.current", 65_536)] {
                values.string(name).unwrap();
                values.u32(if name == "state.state" { 1 } else { 4 });
                match name {
                    "state.state" => values.i32(1),
                    _ => values.u64(value),
                }
            }
            [numbers(&[1]), reference(guest), values.into_bytes()].concat()
        }
        (REMOTE, XML) if guest.is_some() => {
            let mut text = Encoder::new();
            let guest = name(guest.unwrap());
            text.string(&format!("<domain type='kvm'><name>{guest}</name></domain>"))
                .unwrap();
            text.into_bytes()
        }
        _ => return Some((1, refusal())),
    };
    Some((0, said))
}

/// That there is no such domain.
fn refusal() -> Vec<u8> {
    let mut encoder = Encoder::new();
    encoder.i32(42);
    encoder.i32(10);
    encoder
        .optional_string(Some("no domain with matching uuid"))
        .unwrap();
    encoder.i32(2);
    encoder.u32(0);
    for _ in 0..3 {
        encoder.optional_string(None).unwrap();
    }
    encoder.i32(0);
    encoder.i32(0);
    encoder.u32(0);
    encoder.into_bytes()
}

/// What a process holds: threads and open files.
fn holds(pid: u32) -> (usize, usize) {
    let count = |what: &str| {
        std::fs::read_dir(format!("/proc/{pid}/{what}"))
            .unwrap()
            .count()
    };
    (count("task"), count("fd"))
}

struct Story {
    dir: tempfile::TempDir,
    socket: PathBuf,
    house: crate::house::Aggregator,
    agent: super::Agent,
    url: String,
}

impl Story {
    fn begin() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("libvirt-sock");
        let (house, address) =
            Way::default().aggregator("127.0.0.1:0", &dir.path().join("data"), "");
        let url = format!("http://{address}");
        let more = format!("[libvirt]\nsocket = {socket:?}\ncall_deadline = \"1s\"");
        let agent = Way::default().agent(&url, &dir.path().join("agent"), &more);
        Self {
            dir,
            socket,
            house,
            agent,
            url,
        }
    }

    /// Ends it and holds the books.
    fn end(self) -> (books::Count, String) {
        let log = self.agent.log();
        let agent = self.agent.end();
        drop(self.house);
        let count = books::settle(&self.dir.path().join("data"), &[&agent]);
        assert_eq!((count.gap, count.in_flight), (0, 0), "{count:?}");
        assert!(
            count.silence_ms < 2_500,
            "the host is looked at all the time: {count:?}"
        );
        assert!(!log.contains("panicked"), "{log}");
        (count, log)
    }
}

fn wait(what: &str, mut is_so: impl FnMut() -> bool) {
    wait_until(what, LIMIT, || Ok(is_so().then_some(()))).unwrap();
}

#[test]
fn where_every_guest_hangs_few_calls_are_lost_and_the_host_is_looked_at_all_the_same() {
    let story = Story::begin();
    let daemon = Daemon::start(&story.socket, &[1, 2, 3, 4, 5, 6, 7, 8]);
    wait("statistics of all guests", || {
        daemon.with(|state| state.stats >= 16)
    });
    let pid = story.agent.program.0.id();
    daemon.with(|state| state.hangs = true);
    last(Duration::from_secs(5));
    let (early, calls) = (holds(pid), daemon.with(|state| state.unanswered));
    last(Duration::from_secs(5));
    let (late, more) = (holds(pid), daemon.with(|state| state.unanswered));
    hears_anew(&story.url, 1);
    let connections = daemon.with(|state| state.connections);
    println!(
        "{calls} calls hang after 5 s, {more} after 10 s, on {connections} connection; threads and files {early:?} {late:?}"
    );
    assert_eq!(
        connections, 1,
        "no call is tried again on another connection"
    );
    assert!(calls >= 2 && more <= 8, "{calls} {more}");
    assert!(
        late.0 <= early.0 + 1 && late.1 <= early.1 + 1,
        "{early:?} {late:?}"
    );
    // The hung calls are answered by nobody, as when QEMU is killed with its daemon.
    drop(daemon);
    let daemon = Daemon::start(&story.socket, &[1, 2, 3, 4, 5, 6, 7, 8]);
    let back = Deadline::after(LIMIT);
    wait("statistics after that", || {
        daemon.with(|state| state.stats >= 16)
    });
    println!(
        "statistics of all guests {:?} after libvirtd was back",
        back.elapsed()
    );
    story.end();
}

#[test]
fn a_libvirtd_that_dies_again_and_again_is_found_again_and_nothing_leaks() {
    let story = Story::begin();
    let restarts = setting("PLIMSOLL_RESTARTS", 5);
    let pid = story.agent.program.0.id();
    let (mut all, mut slowest) = (Vec::new(), Duration::ZERO);
    for _ in 0..=restarts {
        let daemon = Daemon::start(&story.socket, &[1, 2, 3]);
        let back = Deadline::after(LIMIT);
        wait("statistics", || daemon.with(|state| state.stats >= 3));
        slowest = slowest.max(back.elapsed());
        hears_anew(&story.url, 1);
        let holds = (holds(pid), super::memory_bytes(pid));
        all.push(holds);
        drop(daemon);
    }
    // At its first connection it opens what it keeps open.
    let (before, after) = (all[1], all[all.len() - 1]);
    println!("{restarts} restarts, found again within {slowest:?}; {before:?} {after:?}");
    assert!(slowest < Duration::from_secs(12), "{slowest:?}");
    assert!(
        after.0.0 <= before.0.0 + 4 && after.0.1 <= before.0.1 + 2,
        "{before:?} {after:?}"
    );
    assert!(after.1 <= before.1 + (4 << 20), "{before:?} {after:?}");
    story.end();
}

#[test]
fn guests_that_come_and_go_ten_times_a_second_leave_no_noise_and_no_ghost() {
    let story = Story::begin();
    let daemon = Daemon::start(&story.socket, &[1]);
    wait("statistics", || daemon.with(|state| state.stats >= 1));
    for number in 2..80 {
        daemon.with(|state| state.guests = vec![1, number]);
        last(Duration::from_millis(100));
    }
    daemon.with(|state| state.guests = vec![1]);
    let stats = daemon.with(|state| state.stats);
    last(Duration::from_secs(5));
    // Only the one that stayed is still asked about.
    let asked = daemon.with(|state| state.stats) - stats;
    let listed = crate::house::asked_json(&story.url, &["--json", "domains"]);
    let fresh = |one: &&serde_json::Value| one["freshness"] == "FRESHNESS_FRESH";
    println!(
        "{asked} questions in 3 s; {} domains known",
        listed.as_array().unwrap().len()
    );
    assert!((2..=6).contains(&asked), "{asked}");
    let fresh: Vec<_> = listed.as_array().unwrap().iter().filter(fresh).collect();
    println!("{} of them fresh", fresh.len());
    let (_, log) = story.end();
    let noise = log
        .lines()
        .filter(|line| line.contains("WARN") || line.contains("ERROR"));
    let noise: Vec<&str> = noise
        .filter(|line| !line.contains("libvirt socket"))
        .collect();
    assert!(noise.is_empty(), "{noise:#?}");
}
