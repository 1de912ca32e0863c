//! A way to the aggregator through this process, which can be slow, narrow, silent, or gone. As over TCP, what
//! comes comes in order.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use plimsoll_tests::stage::{Deadline, pause};

/// Bytes read at once; short, so that a narrow line is narrow evenly.
const CHUNK_BYTES: usize = 4 << 10;
/// Chunks that are under way in one direction; beyond that the sender is not read.
const CHUNKS_MAX: usize = 256;
const LOOK_EVERY: Duration = Duration::from_millis(5);

#[derive(Debug)]
struct State {
    upstream: String,
    /// Nothing comes through, and nobody is told.
    is_silent: AtomicBool,
    /// What the aggregator says from now on is lost, on the connections that are open.
    swallows: AtomicBool,
    delay_ms: AtomicU64,
    /// Of each connection and direction; zero for as many as there are.
    bytes_per_second: AtomicU64,
    /// Bytes that came through towards the aggregator.
    up_bytes: AtomicU64,
    is_over: AtomicBool,
    open: Mutex<Vec<TcpStream>>,
}

/// The line; it is gone when dropped.
#[derive(Debug)]
pub(super) struct Line {
    state: Arc<State>,
    /// Where agents are told that the aggregator is.
    pub(super) address: String,
}

impl Line {
    pub(super) fn to(upstream: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let state = Arc::new(State {
            upstream: upstream.to_owned(),
            is_silent: AtomicBool::new(false),
            swallows: AtomicBool::new(false),
            delay_ms: AtomicU64::new(0),
            bytes_per_second: AtomicU64::new(0),
            up_bytes: AtomicU64::new(0),
            is_over: AtomicBool::new(false),
            open: Mutex::default(),
        });
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for agent in listener.incoming().map_while(Result::ok) {
                if shared.is_over.load(Ordering::Relaxed) {
                    return;
                }
                // Where nobody listens behind it, the connection closes.
                if let Ok(aggregator) = TcpStream::connect(&shared.upstream) {
                    shared.join(&agent, &aggregator);
                }
            }
        });
        Self { state, address }
    }

    pub(super) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(super) fn silence(&self, is_silent: bool) {
        self.state.is_silent.store(is_silent, Ordering::Relaxed);
    }

    pub(super) fn swallow(&self, swallows: bool) {
        self.state.swallows.store(swallows, Ordering::Relaxed);
    }

    /// Delays both directions, and lets so many bytes a second through each.
    pub(super) fn shape(&self, delay: Duration, bytes_per_second: u64) {
        let delay_ms = u64::try_from(delay.as_millis()).unwrap();
        self.state.delay_ms.store(delay_ms, Ordering::Relaxed);
        let rate = &self.state.bytes_per_second;
        rate.store(bytes_per_second, Ordering::Relaxed);
    }

    pub(super) fn up_bytes(&self) -> u64 {
        self.state.up_bytes.load(Ordering::Relaxed)
    }

    /// Breaks all connections.
    pub(super) fn cut(&self) {
        for end in self.state.open.lock().unwrap().drain(..) {
            end.shutdown(Shutdown::Both).ok();
        }
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.state.is_over.store(true, Ordering::Relaxed);
        self.cut();
        drop(TcpStream::connect(&self.address));
    }
}

impl State {
    fn join(self: &Arc<Self>, agent: &TcpStream, aggregator: &TcpStream) {
        for (from, to, is_up) in [(agent, aggregator, true), (aggregator, agent, false)] {
            // Chunks go when they are due, and not only when the one before has gone.
            from.set_nodelay(true).unwrap();
            let (due, queue) = sync_channel(CHUNKS_MAX);
            let (state, mut reader) = (Arc::clone(self), from.try_clone().unwrap());
            self.open.lock().unwrap().push(from.try_clone().unwrap());
            std::thread::spawn(move || {
                let mut chunk = [0; CHUNK_BYTES];
                while let Ok(length @ 1..) = reader.read(&mut chunk) {
                    let delay = Duration::from_millis(state.delay_ms.load(Ordering::Relaxed));
                    let one = (Deadline::after(delay), chunk[..length].to_vec());
                    if due.send(one).is_err() {
                        break;
                    }
                }
            });
            let (state, from, to) = (Arc::clone(self), from.try_clone(), to.try_clone());
            let (from, to) = (from.unwrap(), to.unwrap());
            std::thread::spawn(move || {
                state.pass_on(&queue, &to, is_up);
                for end in [from, to] {
                    // The other thread may have closed it already.
                    end.shutdown(Shutdown::Both).ok();
                }
            });
        }
    }

    fn pass_on(&self, queue: &Receiver<(Deadline, Vec<u8>)>, mut to: &TcpStream, is_up: bool) {
        let mut has_lost = false;
        for (due, chunk) in queue {
            while !due.is_over() || self.is_silent.load(Ordering::Relaxed) {
                if self.is_over.load(Ordering::Relaxed) {
                    return;
                }
                pause(LOOK_EVERY.min(Duration::from_millis(1)));
            }
            // A stream of which a part was lost cannot go on.
            has_lost |= !is_up && self.swallows.load(Ordering::Relaxed);
            if has_lost {
                continue;
            }
            let length = u64::try_from(chunk.len()).unwrap();
            let rate = self.bytes_per_second.load(Ordering::Relaxed);
            if let Some(nanos) = (length * 1_000_000_000).checked_div(rate) {
                pause(Duration::from_nanos(nanos));
            }
            if to.write_all(&chunk).is_err() {
                return;
            }
            if is_up {
                self.up_bytes.fetch_add(length, Ordering::Relaxed);
            }
        }
    }
}
