//! A libvirt that has hundreds of guests: it answers for each what was recorded of one, with its name, its
//! UUID and its number put in their place.
//!
//! Not here: libvirt's own cost. It answers at once, and nothing of it hangs.

use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use anyhow::Context;
use uuid::Uuid;

use super::frame::{Frame, KEEPALIVE, REMOTE, replace};
use super::proxy::{Answer, Question};

const LIST: u32 = 273;
/// Statistics of domains.
const STATS: u32 = 344;
/// Length of a guest's name; all have the same, so that one fits where another stood.
const NAME_BYTES: usize = 9;

/// A guest as libvirt refers to it.
#[derive(Debug, Clone)]
pub(super) struct Reference {
    pub(super) name: String,
    pub(super) uuid: Uuid,
    pub(super) number: u32,
}

/// The name of the guest with this number.
pub(super) fn name(number: u32) -> String {
    format!("guest-{number:03}")
}

impl Reference {
    fn encoded(&self) -> Vec<u8> {
        let length = u32::try_from(self.name.len()).unwrap_or(u32::MAX);
        let mut bytes = length.to_be_bytes().to_vec();
        bytes.extend(self.name.as_bytes());
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes.extend(self.uuid.as_bytes());
        bytes.extend(self.number.to_be_bytes());
        bytes
    }

    /// Puts this guest where another stands.
    fn put_for(&self, other: &Self, bytes: &mut [u8]) {
        replace(bytes, &other.encoded(), &self.encoded());
        replace(bytes, other.uuid.as_bytes(), self.uuid.as_bytes());
        replace(bytes, other.name.as_bytes(), self.name.as_bytes());
        let texts = (other.uuid.to_string(), self.uuid.to_string());
        replace(bytes, texts.0.as_bytes(), texts.1.as_bytes());
    }
}

/// The daemon; it is gone when dropped.
#[derive(Debug)]
pub(super) struct Replay {
    state: Arc<State>,
    path: std::path::PathBuf,
}

#[derive(Debug)]
struct State {
    answers: BTreeMap<Question, Answer>,
    model: Reference,
    guests: Vec<Reference>,
    stats: AtomicU64,
    is_over: AtomicBool,
}

impl Replay {
    /// Listens, with so many guests like the one that was recorded.
    pub(super) fn open(
        path: &Path,
        answers: BTreeMap<Question, Answer>,
        model: Reference,
        guests: u32,
    ) -> anyhow::Result<Self> {
        let listener = UnixListener::bind(path)
            .with_context(|| format!("cannot listen on {}", path.display()))?;
        let guest = |number| Reference {
            name: name(number),
            uuid: Uuid::new_v4(),
            number: number + 1,
        };
        let state = Arc::new(State {
            answers,
            model,
            guests: (0..guests).map(guest).collect(),
            stats: AtomicU64::new(0),
            is_over: AtomicBool::new(false),
        });
        let serving = Arc::clone(&state);
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if serving.is_over.load(Ordering::Relaxed) {
                    return;
                }
                let state = Arc::clone(&serving);
                std::thread::spawn(move || state.serve(&stream));
            }
        });
        let path = path.to_owned();
        Ok(Self { state, path })
    }

    /// Statistics of a domain that were asked for so far.
    pub(super) fn stats(&self) -> u64 {
        self.state.stats.load(Ordering::Relaxed)
    }
}

impl Drop for Replay {
    fn drop(&mut self) {
        self.state.is_over.store(true, Ordering::Relaxed);
        // Wakes the thread that accepts; where that fails there is none.
        drop(UnixStream::connect(&self.path));
    }
}

impl State {
    fn serve(&self, mut stream: &UnixStream) {
        while let Ok(frame) = Frame::read(&mut stream) {
            let out = if frame.program() == KEEPALIVE {
                Frame::pong(&frame)
            } else {
                let (status, payload) = self.answer(&frame);
                Frame::reply(&frame, status, &payload)
            };
            if stream.write_all(out.bytes()).is_err() {
                return;
            }
        }
    }

    fn answer(&self, frame: &Frame) -> Answer {
        let (program, procedure) = (frame.program(), frame.procedure());
        if (program, procedure) == (REMOTE, LIST) {
            return (0, self.list());
        }
        if (program, procedure) == (REMOTE, STATS) {
            self.stats.fetch_add(1, Ordering::Relaxed);
        }
        let mut payload = frame.payload().to_vec();
        let guest = self.meant(&payload);
        if let Some(guest) = guest {
            self.model.put_for(guest, &mut payload);
        }
        let (status, mut said) = self.recorded(program, procedure, payload);
        if let Some(guest) = guest {
            guest.put_for(&self.model, &mut said);
        }
        (status, said)
    }

    fn list(&self) -> Vec<u8> {
        let count = u32::try_from(self.guests.len()).unwrap_or(0).to_be_bytes();
        let all = self.guests.iter().flat_map(Reference::encoded);
        count.into_iter().chain(all).chain(count).collect()
    }

    /// The guest that a question names.
    fn meant(&self, payload: &[u8]) -> Option<&Reference> {
        let named = payload
            .windows(NAME_BYTES)
            .find(|name| name.starts_with(b"guest-"))?;
        let number = std::str::from_utf8(named.get(6..)?).ok()?;
        self.guests.get(number.parse::<usize>().ok()?)
    }

    /// What was answered to this question, else to the last of its kind, else nothing but success.
    fn recorded(&self, program: u32, procedure: u32, payload: Vec<u8>) -> Answer {
        let question = (program, procedure, payload);
        let (program, procedure, payload) = match self.answers.get(&question) {
            Some(answer) => return answer.clone(),
            None => question,
        };
        let from = (program, procedure, Vec::new());
        let kind = self
            .answers
            .range(from..(program, procedure + 1, Vec::new()));
        // Of those with the same length first: others speak of other things.
        let like = |one: &&(&Question, &Answer)| one.0.2.len() == payload.len();
        let all: Vec<_> = kind.collect();
        let found = all.iter().find(like).or_else(|| all.last());
        found.map_or((0, Vec::new()), |(_, answer)| (*answer).clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reference(number: u32) -> Reference {
        Reference {
            name: name(number),
            uuid: Uuid::from_u128(u128::from(number) + 1),
            number: number + 1,
        }
    }

    #[test]
    fn each_guest_is_answered_for_with_its_own_name_uuid_and_number() {
        let (model, other) = (reference(0), reference(2));
        let said = [model.encoded(), model.uuid.to_string().into_bytes()].concat();
        let question = (REMOTE, STATS, model.encoded());
        let state = State {
            answers: BTreeMap::from([(question, (0, said))]),
            model,
            guests: (0..3).map(reference).collect(),
            stats: AtomicU64::new(0),
            is_over: AtomicBool::new(false),
        };
        let length = u32::try_from(28 + other.encoded().len()).unwrap();
        let words = [length, REMOTE, 1, STATS, 0, 5, 0];
        let mut call: Vec<u8> = words.iter().flat_map(|word| word.to_be_bytes()).collect();
        call.extend(other.encoded());
        let (status, said) = state.answer(&Frame::read(&mut call.as_slice()).unwrap());
        assert_eq!(status, 0);
        let expected = [other.encoded(), other.uuid.to_string().into_bytes()].concat();
        assert_eq!(said, expected);
        assert_eq!(state.stats.load(Ordering::Relaxed), 1);
    }
}
