//! A libvirt whose answers a test chooses, at the other end of a stream. It shakes hands by itself.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use plimsoll_libvirt::xdr::Encoder;
use plimsoll_libvirt::{Connection, DomainRef, OpenOptions, TypedValue};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

const REMOTE: u32 = 0x2000_8086;
const QEMU: u32 = 0x2000_8087;
const REPLY: u32 = 1;
const MESSAGE: u32 = 2;

/// What was asked, by the numbers of the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asked {
    Xml,
    Jobs,
    Subscription,
    Domains,
    Stats,
    StartDirtyRate,
    Domain,
    Monitor,
    Version,
    Capabilities,
    Node,
    Other(i32),
}

fn asked(program: u32, number: i32) -> Asked {
    match (program, number) {
        (QEMU, _) => Asked::Monitor,
        (_, 4) => Asked::Version,
        (_, 6) => Asked::Node,
        (_, 7) => Asked::Capabilities,
        (_, 14) => Asked::Xml,
        (_, 24) => Asked::Domain,
        (_, 273) => Asked::Domains,
        (_, 298) => Asked::Jobs,
        (_, 316) => Asked::Subscription,
        (_, 344) => Asked::Stats,
        (_, 427) => Asked::StartDirtyRate,
        (_, number) => Asked::Other(number),
    }
}

/// What is answered.
pub(crate) enum Say {
    This(Vec<u8>),
    /// The same, after so long; other calls are answered meanwhile.
    Late(Duration, Vec<u8>),
    No(&'static str),
    Nothing,
}

/// What a test holds of the daemon.
#[derive(Clone)]
pub(crate) struct Daemon {
    heard: Arc<Mutex<Vec<(Asked, String)>>>,
    events: mpsc::Sender<(i32, Vec<u8>)>,
}

impl Daemon {
    /// Counts the calls of a kind so far.
    pub(crate) fn count(&self, kind: Asked) -> usize {
        let heard = self.heard.lock().unwrap();
        heard.iter().filter(|(asked, _)| *asked == kind).count()
    }

    /// The texts that came with the calls of a kind.
    pub(crate) fn texts(&self, kind: Asked) -> Vec<String> {
        let heard = self.heard.lock().unwrap();
        let of_kind = heard.iter().filter(|(asked, _)| *asked == kind);
        of_kind.map(|(_, text)| text.clone()).collect()
    }

    /// Sends an event about a domain: 318 of its life, 359 of a pass, 363 of a completed job.
    pub(crate) async fn event(&self, number: i32, domain: &DomainRef, rest: &[u8]) {
        let mut encoder = Encoder::new();
        encoder.i32(7);
        let body = [encoder.into_bytes(), encoded(domain), rest.to_vec()].concat();
        self.events.send((number, body)).await.unwrap();
    }
}

pub(crate) fn domain() -> DomainRef {
    DomainRef {
        name: "web".to_owned(),
        uuid: [9; 16],
        id: Some(1),
    }
}

pub(crate) fn encoded(domain: &DomainRef) -> Vec<u8> {
    let mut encoder = Encoder::new();
    encoder.string(&domain.name).unwrap();
    encoder.opaque(&domain.uuid);
    encoder.i32(domain.id.unwrap_or(-1));
    encoder.into_bytes()
}

pub(crate) fn numbers(numbers: &[i32]) -> Vec<u8> {
    let mut encoder = Encoder::new();
    numbers.iter().for_each(|number| encoder.i32(*number));
    encoder.into_bytes()
}

pub(crate) fn text(text: &str) -> Vec<u8> {
    let mut encoder = Encoder::new();
    encoder.string(text).unwrap();
    encoder.into_bytes()
}

pub(crate) fn params(entries: &[(&str, TypedValue)]) -> Vec<u8> {
    let mut encoder = Encoder::new();
    encoder.u32(u32::try_from(entries.len()).unwrap());
    for (name, value) in entries {
        encoder.string(name).unwrap();
        match value {
            TypedValue::Int(value) => {
                encoder.u32(1);
                encoder.i32(*value);
            }
            TypedValue::Long(value) => {
                encoder.u32(3);
                encoder.i64(*value);
            }
            TypedValue::ULong(value) => {
                encoder.u32(4);
                encoder.u64(*value);
            }
            TypedValue::String(value) => {
                encoder.u32(7);
                encoder.string(value).unwrap();
            }
            other => panic!("no test needs {other:?}"),
        }
    }
    encoder.into_bytes()
}

/// Statistics of the domain.
pub(crate) fn stats(entries: &[(&str, TypedValue)]) -> Say {
    stats_of(&domain(), entries)
}

/// The same of another domain.
pub(crate) fn stats_of(domain: &DomainRef, entries: &[(&str, TypedValue)]) -> Say {
    Say::This([numbers(&[1]), encoded(domain), params(entries)].concat())
}

/// A list of domains.
pub(crate) fn domains(all: &[DomainRef]) -> Say {
    let count = i32::try_from(all.len()).unwrap();
    let bodies: Vec<u8> = all.iter().flat_map(encoded).collect();
    Say::This([numbers(&[count]), bodies, numbers(&[count])].concat())
}

/// Statistics of a job.
pub(crate) fn job(kind: i32, entries: &[(&str, TypedValue)]) -> Say {
    Say::This([numbers(&[kind]), params(entries)].concat())
}

fn error(message: &str) -> Vec<u8> {
    let mut encoder = Encoder::new();
    encoder.i32(55);
    encoder.i32(10);
    encoder.optional_string(Some(message)).unwrap();
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

fn frame(program: u32, number: i32, words: [u32; 3], payload: &[u8]) -> Vec<u8> {
    let mut encoder = Encoder::new();
    encoder.u32(u32::try_from(28 + payload.len()).unwrap());
    encoder.u32(program);
    encoder.u32(1);
    encoder.i32(number);
    words.into_iter().for_each(|word| encoder.u32(word));
    [encoder.into_bytes(), payload.to_vec()].concat()
}

/// Serves one client over a stream; ends with it.
pub(crate) async fn serve<S>(stream: S, daemon: Daemon, talk: Talk)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let Talk {
        mut answer,
        mut events,
    } = talk;
    let (mut reader, mut writer) = tokio::io::split(stream);
    let (frames, mut inbox) = mpsc::channel::<Vec<u8>>(16);
    let reading = async move {
        let mut length = [0; 4];
        while reader.read_exact(&mut length).await.is_ok() {
            let mut rest = vec![0; usize::try_from(u32::from_be_bytes(length)).unwrap() - 4];
            if reader.read_exact(&mut rest).await.is_err() || frames.send(rest).await.is_err() {
                return;
            }
        }
    };
    let answering = async {
        let mut late = JoinSet::new();
        loop {
            let out = tokio::select! {
                Some((number, body)) = events.recv() => frame(REMOTE, number, [MESSAGE, 0, 0], &body),
                Some(out) = late.join_next() => out.unwrap(),
                call = inbox.recv() => {
                    let Some(call) = call else { return };
                    match reply(&call, &daemon, &mut answer) {
                        Some((Duration::ZERO, out)) => out,
                        Some((wait, out)) => {
                            late.spawn(async move {
                                tokio::time::sleep(wait).await;
                                out
                            });
                            continue;
                        }
                        None => continue,
                    }
                }
            };
            if writer.write_all(&out).await.is_err() {
                return;
            }
        }
    };
    tokio::join!(reading, answering);
}

fn reply(
    call: &[u8],
    daemon: &Daemon,
    answer: &mut (dyn FnMut(Asked, &[u8]) -> Say + Send),
) -> Option<(Duration, Vec<u8>)> {
    let word = |at: usize| u32::from_be_bytes(call[at..at + 4].try_into().unwrap());
    let (program, serial, payload) = (word(0), word(16), &call[24..]);
    let number = i32::try_from(word(8)).unwrap();
    let said = match number {
        // No authentication, no signs of life, open and close.
        66 if program == REMOTE => Say::This(numbers(&[1, 0])),
        60 if program == REMOTE => Say::This(numbers(&[0])),
        1 | 2 if program == REMOTE => Say::This(Vec::new()),
        _ => {
            let asked = asked(program, number);
            let text = String::from_utf8_lossy(payload).into_owned();
            daemon.heard.lock().unwrap().push((asked, text));
            answer(asked, payload)
        }
    };
    let (wait, status, body) = match said {
        Say::This(body) => (Duration::ZERO, 0, body),
        Say::Late(wait, body) => (wait, 0, body),
        Say::No(message) => (Duration::ZERO, 1, error(message)),
        Say::Nothing => return None,
    };
    let reply = frame(program, number, [REPLY, serial, status], &body);
    Some((wait, reply))
}

type Answer = Box<dyn FnMut(Asked, &[u8]) -> Say + Send>;

/// What the daemon says, and the events that a test has it send.
pub(crate) struct Talk {
    answer: Answer,
    events: mpsc::Receiver<(i32, Vec<u8>)>,
}

/// Makes a daemon that answers like this.
pub(crate) fn daemon(answer: impl FnMut(Asked, &[u8]) -> Say + Send + 'static) -> (Daemon, Talk) {
    let (events, on_events) = mpsc::channel(16);
    let daemon = Daemon {
        heard: Arc::default(),
        events,
    };
    let talk = Talk {
        answer: Box::new(answer),
        events: on_events,
    };
    (daemon, talk)
}

/// Connects to a daemon that answers like this.
pub(crate) async fn connect(
    answer: impl FnMut(Asked, &[u8]) -> Say + Send + 'static,
) -> (Connection, Daemon) {
    let (near, far) = tokio::io::duplex(1 << 20);
    let (daemon, talk) = daemon(answer);
    tokio::spawn(serve(far, daemon.clone(), talk));
    let options = OpenOptions {
        read_only: false,
        ..OpenOptions::default()
    };
    let connection = Connection::open_stream(near, options).await.unwrap();
    (connection, daemon)
}
