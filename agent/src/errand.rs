//! What the agent and its helper say to each other: a domain and a window in, a rate or a refusal out,
//! one line each, and the door at which the helper hears it.
//!
//! Whoever may connect can have a domain measured, and nothing else: no other call of libvirt can be
//! reached from here, whatever is written into the socket.

mod budget;
mod door;

use std::io;
use std::path::Path;
use std::time::Duration;

use plimsoll_model::DirtyRate;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;

use crate::measure::{MeasureError, Measured};
pub use budget::Budget;
pub use door::{Door, serve};

/// Longest line of either side.
const LINE_BYTES_MAX: u64 = 512;
/// Time beyond the window that an answer may take.
const ANSWER_MAX: Duration = Duration::from_secs(20);

/// What the agent asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Errand {
    /// UUID of the domain.
    pub uuid: [u8; 16],
    /// For how long.
    pub window: Duration,
}

impl Errand {
    fn render(&self) -> String {
        let uuid = uuid::Uuid::from_bytes(self.uuid);
        format!("{uuid} {}\n", self.window.as_millis())
    }

    /// Reads a line; absent if it is anything but a UUID and a number of milliseconds.
    fn parse(line: &str) -> Option<Self> {
        let (uuid, window_ms) = line.strip_suffix('\n')?.split_once(' ')?;
        if !window_ms.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        Some(Self {
            uuid: uuid::Uuid::try_parse(uuid).ok()?.into_bytes(),
            window: Duration::from_millis(window_ms.parse().ok()?),
        })
    }
}

fn render(answer: &Result<Measured, String>) -> String {
    match answer {
        Ok(measured) => format!(
            "measured {} {}\n",
            measured.rate.bytes_per_second(),
            measured.pages_per_gib
        ),
        Err(why) => {
            let why: String = why.chars().filter(|c| !c.is_control()).take(400).collect();
            format!("refused {why}\n")
        }
    }
}

fn parse(line: &str) -> Option<Result<Measured, String>> {
    let (word, rest) = line.strip_suffix('\n')?.split_once(' ')?;
    if word == "refused" {
        return Some(Err(rest.to_owned()));
    }
    let (rate, pages) = rest.split_once(' ').filter(|_| word == "measured")?;
    let rate = DirtyRate::from_bytes_per_second(rate.parse().ok()?);
    Some(Ok(Measured::sampled(rate, pages.parse().ok()?)))
}

/// Asks the helper behind a socket to measure a domain.
///
/// # Errors
/// If the helper is not there, does not answer in time, or refuses.
pub async fn ask(
    socket: &Path,
    uuid: [u8; 16],
    window: Duration,
) -> Result<Measured, MeasureError> {
    let asking = async {
        let mut stream = UnixStream::connect(socket).await?;
        let errand = Errand { uuid, window };
        stream.write_all(errand.render().as_bytes()).await?;
        line(&mut stream).await
    };
    let answered = tokio::time::timeout(window + ANSWER_MAX, asking).await;
    let line = answered
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
        .map_err(|source| MeasureError::Unreachable {
            socket: socket.to_owned(),
            source,
        })?;
    match parse(&line) {
        Some(answer) => answer.map_err(MeasureError::Refused),
        None => Err(MeasureError::Refused(
            "it does not speak our language".to_owned(),
        )),
    }
}

/// Reads one line, and not more than the longest that either side writes.
async fn line(stream: &mut UnixStream) -> io::Result<String> {
    let mut line = String::new();
    let mut reader = BufReader::new(stream.take(LINE_BYTES_MAX));
    reader.read_line(&mut line).await?;
    Ok(line)
}

#[cfg(test)]
mod tests;
