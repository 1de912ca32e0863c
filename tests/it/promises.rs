//! Promises of numbers, told in a short form; `plimsoll-headline` tells them longer, by the variables named here.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use plimsoll_agent::body::{self, Body};
use plimsoll_agent::look::Look;
use plimsoll_agent::sampler::Latest;
use plimsoll_agent::spool::Spool;
use plimsoll_agent::uplink::{Dial, Line, Network, SharedSpool, StreamError, Uplink};
use plimsoll_model::{
    Clock, Metric, Monotonic, NodeId, Part, Subject, Sweep, SystemClock, UnixMillis, Window,
};
use plimsoll_tests::synthetic::{Identity, Stream};
use tokio::sync::watch;

use crate::house::{Aggregator, aggregator_on, listening, program};

const SPOOL_BYTES: u64 = 512 << 20;
/// The partition that a spool of that size is promised to hold.
const PARTITION_HOURS: u64 = 72;
/// Series of the node, and how often it looks.
const SERIES: u64 = 1_800;
const INTERVAL: Duration = Duration::from_secs(10);

/// A number that a longer run sets.
fn told(variable: &str, usual: usize) -> usize {
    let told = std::env::var(variable).ok();
    told.map_or(usual, |told| told.parse().unwrap())
}

/// Says a line past the harness.
fn say(line: &str) {
    drop(writeln!(std::io::stdout(), "{line}"));
}

/// One way of an agent, on which it is counted how often it was tried.
#[derive(Debug)]
struct CountedWay {
    network: Network,
    tries: AtomicUsize,
    /// When each try was.
    at: Arc<Mutex<Vec<Monotonic>>>,
    clock: Arc<SystemClock>,
}

#[tonic::async_trait]
impl Dial for CountedWay {
    async fn dial(&self) -> Result<Line, StreamError> {
        self.tries.fetch_add(1, Ordering::SeqCst);
        let at = self.clock.monotonic();
        self.at.lock().unwrap().push(at);
        self.network.dial().await
    }

    fn url(&self) -> &str {
        self.network.url()
    }
}

struct Agent {
    way: Arc<CountedWay>,
    spool: SharedSpool,
    added: watch::Sender<u64>,
    _dir: tempfile::TempDir,
}

impl Agent {
    fn begin(url: &str, at: &Arc<Mutex<Vec<Monotonic>>>, clock: &Arc<SystemClock>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let spool = SharedSpool::new(Spool::open(dir.path(), 16 << 20, clock.now()));
        let network = Network {
            url: url.to_owned(),
            credentials: None,
        };
        let way = Arc::new(CountedWay {
            network,
            tries: AtomicUsize::new(0),
            at: Arc::clone(at),
            clock: Arc::clone(clock),
        });
        let (added, on_added) = watch::channel(0);
        let uplink = Uplink {
            way: Arc::clone(&way) as Arc<dyn Dial>,
            node: NodeId::random(),
            spool: spool.clone(),
            clock: Arc::clone(clock) as Arc<dyn Clock>,
            added: on_added,
            latest: Latest::default(),
        };
        tokio::spawn(uplink.run());
        Self {
            way,
            spool,
            added,
            _dir: dir,
        }
    }

    fn make(&self, at: UnixMillis) {
        let mut spool = self.spool.lock();
        let look = Look {
            sweeps: vec![sweep(Subject::Node(NodeId::random()), at, &[1])],
            ..Look::default()
        };
        for body in body::bodies(look, at, spool.book()) {
            spool.push(&body);
        }
        drop(spool);
        self.added.send_modify(|count| *count += 1);
    }

    fn is_done(&self) -> bool {
        !self.spool.lock().has_unacknowledged()
    }
}

fn sweep(subject: Subject, at: UnixMillis, values: &[u64]) -> Sweep {
    let parts = (0..).map(|number| Part::named(&format!("d{number}")).unwrap());
    let values = parts.zip(values);
    Sweep {
        subject,
        window: Window::between(at, at),
        values: values
            .map(|(part, value)| (Metric::HostDiskRdBytes, part, *value))
            .collect(),
    }
}

async fn until(what: &str, limit: Duration, is_so: impl Fn() -> bool) {
    let reached = async {
        let mut looks = tokio::time::interval(Duration::from_millis(20));
        while !is_so() {
            looks.tick().await;
        }
    };
    let reached = tokio::time::timeout(limit, reached).await;
    assert!(reached.is_ok(), "never: {what}");
}

/// Most of some instants that lie within a tenth of a second.
fn peak(mut at: Vec<Monotonic>) -> usize {
    at.sort_unstable();
    let within = |first: &Monotonic| {
        let end = at.partition_point(|one| *one < first.plus(Duration::from_millis(100)));
        end - at.partition_point(|one| one < first)
    };
    at.iter().map(within).max().unwrap_or(0)
}

/// `PLIMSOLL_HERD` agents, which fail `PLIMSOLL_HERD_FAILURES` times each before the aggregator is there again.
#[test]
fn a_fleet_comes_back_soon_and_not_all_at_once() {
    let (count, failures) = (told("PLIMSOLL_HERD", 20), told("PLIMSOLL_HERD_FAILURES", 3));
    let dir = tempfile::tempdir().unwrap();
    let address = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let clock = Arc::new(SystemClock::new());
        let at = Arc::<Mutex<Vec<Monotonic>>>::default();
        let (house, url) = aggregator_on(&address.to_string(), dir.path());
        let agents: Vec<Agent> = (0..count).map(|_| Agent::begin(&url, &at, &clock)).collect();
        agents.iter().for_each(|agent| agent.make(clock.now()));
        let all_done = || agents.iter().all(Agent::is_done);
        until("all are acknowledged", Duration::from_secs(120), all_done).await;
        drop(house);
        let before: Vec<usize> = agents.iter().map(|one| one.way.tries.load(Ordering::SeqCst)).collect();
        agents.iter().for_each(|agent| agent.make(clock.now()));
        let failed = |(agent, before): (&Agent, &usize)| {
            agent.way.tries.load(Ordering::SeqCst) >= before + failures
        };
        let all_failed = || agents.iter().zip(&before).all(failed);
        until("all have failed", Duration::from_secs(240), all_failed).await;
        at.lock().unwrap().clear();
        let began = clock.monotonic();
        let (_house, _) = aggregator_on(&address.to_string(), dir.path());
        until("all are back", Duration::from_secs(60), all_done).await;
        let took = clock.monotonic().since(began);
        let peak = peak(at.lock().unwrap().clone());
        say(&format!(
            "{count} agents, each refused {failures} times: all back and acknowledged after {:.1} s, at most \
             {peak} tries within 100 ms",
            took.as_secs_f64()
        ));
        assert!(took <= Duration::from_secs(35), "{took:?}");
        assert!(peak <= count.div_ceil(20).max(10), "{peak}");
    });
}

/// `PLIMSOLL_PARTITION_HOURS` of samples in the same share of the spool as they are of 72 hours.
#[test]
fn a_partition_of_days_fits_the_spool() {
    let hours = u64::try_from(told("PLIMSOLL_PARTITION_HOURS", 1)).unwrap();
    let bytes_max = SPOOL_BYTES * hours / PARTITION_HOURS;
    let dir = tempfile::tempdir().unwrap();
    let begin = UnixMillis::from_millis(1_795_000_000_000);
    let mut spool = Spool::open(dir.path(), bytes_max, begin);
    let (node, mut random) = (NodeId::random(), fastrand::Rng::with_seed(7));
    let mut values = vec![1_u64 << 33; usize::try_from(SERIES).unwrap()];
    let looks = hours * 3_600 / INTERVAL.as_secs();
    for look in 0..looks {
        // Counters of busy devices: each grows by up to some megabytes.
        values
            .iter_mut()
            .for_each(|value| *value += random.u64(..1 << 23));
        let at = begin.plus(INTERVAL * u32::try_from(look).unwrap());
        let all = Look {
            sweeps: vec![sweep(Subject::Node(node), at, &values)],
            ..Look::default()
        };
        let bodies: Vec<Body> = body::bodies(all, at, spool.book());
        for body in &bodies {
            spool.push(body);
        }
    }
    let met = spool.met();
    let dropped = met.count(plimsoll_agent::limits::Limit::SpoolDisk);
    let held = spool.disk_bytes();
    say(&format!(
        "{hours} h of {SERIES} series each {} s take {held} of {bytes_max} bytes; {dropped} segments dropped; \
         512 MiB hold {} h",
        INTERVAL.as_secs(),
        SPOOL_BYTES * hours / held.max(1)
    ));
    assert_eq!(dropped, 0);
    assert!(held <= bytes_max, "{held} of {bytes_max}");
}

/// One frame of HTTP/2.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = length[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// Headers of a call, none of them indexed; its messages are said to be packed.
fn headers(authority: SocketAddr) -> Vec<u8> {
    let mut block = vec![0x83, 0x86];
    let mut text = |start: &[u8], texts: &[&str]| {
        block.extend(start);
        for text in texts {
            block.push(u8::try_from(text.len()).unwrap());
            block.extend(text.as_bytes());
        }
    };
    text(&[0x04], &["/plimsoll.v1.QueryService/ListNodes"]);
    text(&[0x01], &[&authority.to_string()]);
    text(&[0x0f, 0x10], &["application/grpc"]);
    text(&[0x00], &["te", "trailers"]);
    text(&[0x00], &["grpc-encoding", "gzip"]);
    block
}

fn greeted(address: SocketAddr) -> std::io::Result<TcpStream> {
    let mut stream = TcpStream::connect(address)?;
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")?;
    stream.write_all(&frame(4, 0, 0, &[]))?;
    Ok(stream)
}

/// What attackers did.
#[derive(Debug, Default)]
struct Done {
    silent: AtomicUsize,
    resets: AtomicUsize,
    bombs: AtomicUsize,
    is_over: AtomicBool,
}

impl Done {
    /// Holds connections open that say nothing, as long as it is let.
    fn be_silent(&self, address: SocketAddr, at_once: usize) {
        let mut open = std::collections::VecDeque::new();
        while !self.is_over.load(Ordering::Relaxed) {
            open.extend(TcpStream::connect(address));
            self.silent.fetch_add(1, Ordering::Relaxed);
            if open.len() > at_once {
                open.pop_front();
            }
        }
    }

    /// Begins calls and takes them back at once.
    fn reset(&self, address: SocketAddr) {
        let block = headers(address);
        while !self.is_over.load(Ordering::Relaxed) {
            let Ok(mut stream) = greeted(address) else {
                continue;
            };
            for number in 0..5_000 {
                let id = number * 2 + 1;
                let mut both = frame(1, 4, id, &block);
                both.extend(frame(3, 0, id, &8_u32.to_be_bytes()));
                if stream.write_all(&both).is_err() {
                    break;
                }
                self.resets.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Sends messages that would be large if somebody unpacked them.
    fn bomb(&self, address: SocketAddr, packed: &[u8]) {
        let block = headers(address);
        let mut message = vec![1];
        message.extend(u32::try_from(packed.len()).unwrap().to_be_bytes());
        message.extend(packed);
        while !self.is_over.load(Ordering::Relaxed) {
            let Ok(mut stream) = greeted(address) else {
                continue;
            };
            let mut call = frame(1, 4, 1, &block);
            call.extend(frame(0, 1, 1, &message));
            if stream.write_all(&call).is_ok() {
                self.bombs.fetch_add(1, Ordering::Relaxed);
                stream
                    .set_read_timeout(Some(Duration::from_millis(200)))
                    .unwrap();
                drop(stream.read(&mut [0; 512]));
            }
        }
    }
}

/// Lets this thread have what no other wants: who attacks has machines of his own, and this one is not to be
/// measured by what they cost.
fn elsewhere() {
    rustix::process::nice(19).unwrap();
}

/// Memory of a process that is no file's, in KiB.
fn memory_kib(pid: u32) -> u64 {
    let path = format!("/proc/{pid}/status");
    let status = std::fs::read_to_string(Path::new(&path)).unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:"));
    line.unwrap()
        .split_whitespace()
        .next()
        .unwrap()
        .parse()
        .unwrap()
}

/// Delivers batches and returns how long the slowest of a hundred took, and the most memory seen.
fn delivered(house: &Aggregator, url: &str, count: usize) -> (Duration, u64) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let clock = SystemClock::new();
        let mut identity = Identity::new(20);
        let mut stream = Stream::open(url, &identity).await.unwrap();
        let (mut took, mut most) = (Vec::new(), 0);
        for _ in 0..count {
            let began = clock.monotonic();
            let now = clock.now().millis();
            stream.deliver(&mut identity, now).await.unwrap();
            took.push(clock.monotonic().since(began));
            most = most.max(memory_kib(house.id()));
        }
        took.sort_unstable();
        (took[(took.len() * 99 / 100).min(took.len() - 1)], most)
    })
}

/// `PLIMSOLL_ATTACK_ACKS` batches delivered at rest, and as many under attack.
#[test]
fn who_attacks_the_door_neither_stops_agents_nor_fills_memory() {
    let acks = told("PLIMSOLL_ATTACK_ACKS", 100);
    let dir = tempfile::tempdir().unwrap();
    let mut command = Command::new(program("plimsoll-aggregator"));
    command
        .args(["run", "--listen", "127.0.0.1:0", "--data-dir"])
        .arg(dir.path());
    let (house, address) = listening(&mut command);
    let (url, address) = (format!("http://{address}"), address.parse().unwrap());
    let packed = Command::new("sh")
        .args(["-c", "head -c 8388608 /dev/zero | gzip -9"])
        .stdin(Stdio::null())
        .output()
        .unwrap()
        .stdout;
    assert!((1_000..16_000).contains(&packed.len()), "{}", packed.len());
    delivered(&house, &url, 50);
    let (at_rest, memory_at_rest) = delivered(&house, &url, acks);
    let done = Done::default();
    let (attacked, memory) = std::thread::scope(|scope| {
        scope.spawn(|| {
            elsewhere();
            done.be_silent(address, 5_000);
        });
        scope.spawn(|| {
            elsewhere();
            done.reset(address);
        });
        scope.spawn(|| {
            elsewhere();
            done.bomb(address, &packed);
        });
        let seen = delivered(&house, &url, acks);
        done.is_over.store(true, Ordering::Relaxed);
        seen
    });
    let grown_kib = memory.saturating_sub(memory_at_rest);
    let count = |of: &AtomicUsize| of.load(Ordering::Relaxed);
    say(&format!(
        "{} silent connections, {} resets, {} bombs: {acks} acks p99 {:.1} ms at rest and {:.1} ms attacked \
         ({:.1} times), memory +{:.1} MiB",
        count(&done.silent),
        count(&done.resets),
        count(&done.bombs),
        at_rest.as_secs_f64() * 1e3,
        attacked.as_secs_f64() * 1e3,
        attacked.as_secs_f64() / at_rest.as_secs_f64(),
        grown_kib as f64 / 1_024.0
    ));
    assert!(
        count(&done.resets) > 0 && count(&done.bombs) > 0,
        "{done:?}"
    );
    assert!(grown_kib <= 32 << 10, "{grown_kib} KiB");
    assert!(attacked <= Duration::from_secs(2), "{attacked:?}");
    // Other tests that run at once would be taken for attackers.
    if std::env::var_os("PLIMSOLL_HEADLINE").is_some() {
        assert!(attacked <= at_rest * 2, "{attacked:?} after {at_rest:?}");
    }
}
