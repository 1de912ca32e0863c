//! The two tasks of a connection: one reads packets, one writes frames.
//!
//! They do not know what a packet means, and neither starts nor repeats anything.

use crate::connection::Shared;
use crate::error::DisconnectReason;
use crate::packet::{ReadError, read_packet};
use std::io::ErrorKind;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, BufReader, ReadBuf};
use tokio::sync::mpsc;

/// Bytes read from the socket at a time.
const READ_BUFFER_BYTES: usize = 64 * 1024;

pub(crate) async fn read(shared: Arc<Shared>, stream: impl AsyncRead + Unpin) {
    let mut stream = BufReader::with_capacity(READ_BUFFER_BYTES, stream);
    let mut ended = shared.watch_ended();
    let reason = loop {
        let packet = tokio::select! {
            packet = read_packet(&mut stream) => packet,
            _ = ended.wait_for(|ended| *ended) => return,
        };
        match packet {
            Ok(packet) => {
                if let Err(what) = shared.receive(packet) {
                    break DisconnectReason::Protocol { what };
                }
            }
            Err(ReadError::Ended) => break DisconnectReason::ClosedByDaemon,
            Err(ReadError::Stream(error)) => {
                break DisconnectReason::Socket { kind: error.kind() };
            }
            Err(error) => {
                break DisconnectReason::Protocol {
                    what: error.to_string(),
                };
            }
        }
    };
    shared.end(reason);
}

pub(crate) async fn write(
    shared: Arc<Shared>,
    mut stream: impl AsyncWrite + Unpin,
    mut inbox: mpsc::Receiver<Vec<u8>>,
) {
    let mut ended = shared.watch_ended();
    let writing = async {
        while let Some(frame) = inbox.recv().await {
            if let Err(error) = stream.write_all(&frame).await {
                return error.kind();
            }
        }
        ErrorKind::BrokenPipe
    };
    let kind = tokio::select! {
        kind = writing => kind,
        _ = ended.wait_for(|ended| *ended) => return,
    };
    // What the daemon said before it left is still to be read; only the reader may end cleanly.
    if !matches!(kind, ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) {
        shared.end(DisconnectReason::Socket { kind });
    }
}

/// Counts every arrival of bytes, so that a long message in parts is a sign of life too.
pub(crate) struct Heard<S> {
    pub(crate) stream: S,
    pub(crate) heard: Arc<AtomicU64>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Heard<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let before = buffer.filled().len();
        let outcome = Pin::new(&mut self.stream).poll_read(context, buffer);
        if buffer.filled().len() > before {
            self.heard.fetch_add(1, Ordering::Relaxed);
        }
        outcome
    }
}
