//! A socket before libvirt's own that passes all on, counts the calls, keeps the answers, and notes when
//! something was last told of each guest.
//!
//! Not here: holding anything back. What hangs behind it hangs before it.

use std::collections::{BTreeMap, HashMap};
use std::io::Write;
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context;

use super::frame::{Frame, REMOTE, holds};
use crate::stage::Deadline;

/// Looking a domain up by number, name or UUID, and listing them, tells nothing of what it does.
const TELL_NOTHING: [u32; 5] = [22, 23, 24, 273, 14];

/// What was asked: program, procedure, and all that came with it.
pub(super) type Question = (u32, u32, Vec<u8>);
/// Status and what came with the answer.
pub(super) type Answer = (u32, Vec<u8>);

/// The socket; it is gone when dropped.
#[derive(Debug)]
pub(super) struct Proxy {
    shared: Arc<Shared>,
    path: PathBuf,
}

#[derive(Debug)]
struct Shared {
    upstream: PathBuf,
    calls: AtomicU64,
    is_over: AtomicBool,
    heard: Mutex<Heard>,
    watch: Deadline,
}

#[derive(Debug, Default)]
struct Heard {
    answers: BTreeMap<Question, Answer>,
    last: HashMap<[u8; 16], Duration>,
    longest: Duration,
}

impl Shared {
    fn heard(&self) -> MutexGuard<'_, Heard> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Proxy {
    /// Listens on a socket for what is meant for another.
    pub(super) fn open(path: &Path, upstream: &Path) -> anyhow::Result<Self> {
        let listener = UnixListener::bind(path)
            .with_context(|| format!("cannot listen on {}", path.display()))?;
        let shared = Arc::new(Shared {
            upstream: upstream.to_owned(),
            calls: AtomicU64::new(0),
            is_over: AtomicBool::new(false),
            heard: Mutex::default(),
            watch: Deadline::after(Duration::MAX),
        });
        let serving = Arc::clone(&shared);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if serving.is_over.load(Ordering::Relaxed) {
                    return;
                }
                // A client that cannot be served sees its end close.
                drop(stream.and_then(|client| join(&serving, client)));
            }
        });
        let path = path.to_owned();
        Ok(Self { shared, path })
    }

    /// Calls so far; signs of life are none.
    pub(super) fn calls(&self) -> u64 {
        self.shared.calls.load(Ordering::Relaxed)
    }

    /// Takes the answers so far.
    pub(super) fn take_answers(&self) -> BTreeMap<Question, Answer> {
        std::mem::take(&mut self.shared.heard().answers)
    }

    /// Begins to note when something is told of these guests.
    pub(super) fn watch(&self, guests: &[[u8; 16]]) {
        let now = self.shared.watch.elapsed();
        let mut heard = self.shared.heard();
        heard.last = guests.iter().map(|guest| (*guest, now)).collect();
        heard.longest = Duration::ZERO;
    }

    /// The longest time for which nothing was told of one of the guests since `watch`.
    pub(super) fn longest_silence(&self) -> Duration {
        let now = self.shared.watch.elapsed();
        let heard = self.shared.heard();
        let open = heard.last.values().map(|last| now.saturating_sub(*last));
        open.fold(heard.longest, Duration::max)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.is_over.store(true, Ordering::Relaxed);
        // Wakes the thread that accepts; where that fails there is none.
        drop(UnixStream::connect(&self.path));
    }
}

type Pending = Arc<Mutex<HashMap<u32, Question>>>;

/// Joins a client to the daemon.
fn join(shared: &Arc<Shared>, client: UnixStream) -> std::io::Result<()> {
    let daemon = UnixStream::connect(&shared.upstream)?;
    let pending = Pending::default();
    let ends = (client.try_clone()?, daemon.try_clone()?);
    let (here, waiting) = (Arc::clone(shared), Arc::clone(&pending));
    std::thread::spawn(move || {
        let (from, to) = ends;
        pass_on(&from, &to, |frame| {
            if frame.is_call() {
                here.calls.fetch_add(1, Ordering::Relaxed);
                let question = (frame.program(), frame.procedure(), frame.payload().to_vec());
                let mut waiting = waiting.lock().unwrap_or_else(PoisonError::into_inner);
                waiting.insert(frame.serial(), question);
            }
        });
    });
    let here = Arc::clone(shared);
    std::thread::spawn(move || {
        pass_on(&daemon, &client, |frame| {
            let mut pending = pending.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(question) = frame.is_reply().then(|| pending.remove(&frame.serial())) {
                drop(pending);
                question
                    .into_iter()
                    .for_each(|question| note(&here, question, frame));
            }
        });
    });
    Ok(())
}

/// Passes messages on until either end closes.
fn pass_on(mut from: &UnixStream, mut to: &UnixStream, mut look: impl FnMut(&Frame)) {
    while let Ok(frame) = Frame::read(&mut from) {
        look(&frame);
        if to.write_all(frame.bytes()).is_err() {
            break;
        }
    }
    for end in [from, to] {
        // The other thread may have closed it already.
        end.shutdown(Shutdown::Both).ok();
    }
}

fn note(shared: &Shared, question: Question, frame: &Frame) {
    let now = shared.watch.elapsed();
    let mut guard = shared.heard();
    let heard = &mut *guard;
    let tells = question.0 == REMOTE && !TELL_NOTHING.contains(&question.1);
    if tells && frame.status() == 0 {
        for (guest, last) in &mut heard.last {
            if holds(&question.2, guest) || holds(frame.payload(), guest) {
                heard.longest = heard.longest.max(now.saturating_sub(*last));
                *last = now;
            }
        }
    }
    let answer = (frame.status(), frame.payload().to_vec());
    heard.answers.insert(question, answer);
}
