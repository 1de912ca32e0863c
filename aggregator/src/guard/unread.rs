//! An answer on its way to who asked: it is handed over in small pieces, and given up where nobody reads it.
//!
//! A caller may open its window for a byte and leave the rest here; the connection is alive all the same, so
//! that nothing else would ever end it.

use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http_body::Frame;
use tokio::task::AbortHandle;
use tonic::body::Body;
use tonic::codegen::Bytes;
use tonic::{Code, Status};

/// Bytes that the connection gets at once: what it has, it keeps. Smaller pieces make large answers slower.
const PIECE_BYTES: usize = 64 << 10;

/// What is not handed over yet.
struct Rest {
    body: Body,
    bytes: Bytes,
    // Given back once all is handed over, or is given up.
    _held: Box<dyn Send>,
}

/// The answer.
pub(super) struct Unread {
    rest: Arc<Mutex<Option<Rest>>>,
    giving_up: AbortHandle,
}

impl fmt::Debug for Unread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Unread").finish_non_exhaustive()
    }
}

impl Drop for Unread {
    fn drop(&mut self) {
        self.giving_up.abort();
        // Who would give it up holds it until the abort reaches it.
        drop(take(&self.rest));
    }
}

impl Unread {
    /// Keeps what is `held` until the answer is read, or given up because that took too long.
    pub(super) fn new(body: Body, held: impl Send + 'static, within: Duration) -> Self {
        let rest = Rest {
            body,
            bytes: Bytes::new(),
            _held: Box::new(held),
        };
        let rest = Arc::new(Mutex::new(Some(rest)));
        let unread = Arc::clone(&rest);
        // The connection does not ask for more while its window is shut, so somebody else looks at the clock.
        let giving_up = tokio::spawn(async move {
            tokio::time::sleep(within).await;
            drop(take(&unread));
        });
        Self {
            rest,
            giving_up: giving_up.abort_handle(),
        }
    }
}

fn take(rest: &Mutex<Option<Rest>>) -> Option<Rest> {
    rest.lock().unwrap_or_else(PoisonError::into_inner).take()
}

impl http_body::Body for Unread {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let mut rest = self.rest.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(rest) = rest.as_mut() else {
            let text = "the answer was not read in time";
            return Poll::Ready(Some(Err(Status::new(Code::DeadlineExceeded, text))));
        };
        while rest.bytes.is_empty() {
            match ready!(Pin::new(&mut rest.body).poll_frame(context)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(bytes) => rest.bytes = bytes,
                    Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
                },
                ended => return Poll::Ready(ended),
            }
        }
        let piece = if rest.bytes.len() <= PIECE_BYTES {
            std::mem::take(&mut rest.bytes)
        } else {
            // A copy: a part would keep the whole alive.
            Bytes::copy_from_slice(&rest.bytes.split_to(PIECE_BYTES))
        };
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        let rest = self.rest.lock().unwrap_or_else(PoisonError::into_inner);
        let ended = |rest: &Rest| rest.bytes.is_empty() && rest.body.is_end_stream();
        rest.as_ref().is_some_and(ended)
    }
}

#[cfg(test)]
mod tests {
    use http_body::Body as _;
    use http_body_util::BodyExt as _;

    use super::*;

    const WITHIN: Duration = Duration::from_secs(10);

    fn answer(length: usize) -> (Unread, std::sync::Weak<()>) {
        let held = Arc::new(());
        let gone = Arc::downgrade(&held);
        let body = Body::new(http_body_util::Full::new(Bytes::from(vec![7; length])));
        (Unread::new(body, held, WITHIN), gone)
    }

    #[tokio::test]
    async fn an_answer_comes_whole_in_small_pieces_and_then_gives_its_place_back() {
        let (mut answer, held) = answer(5 * PIECE_BYTES / 2);
        let mut lengths = Vec::new();
        while let Some(frame) = answer.frame().await {
            lengths.push(frame.unwrap().into_data().unwrap().len());
        }
        assert_eq!(lengths, [PIECE_BYTES, PIECE_BYTES, PIECE_BYTES / 2]);
        assert!(answer.is_end_stream());
        drop(answer);
        assert_eq!(held.strong_count(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn what_nobody_reads_is_given_up_though_nobody_asks_for_more() {
        let (mut answer, held) = answer(3 * PIECE_BYTES);
        assert!(answer.frame().await.unwrap().is_ok());
        tokio::time::sleep(WITHIN - Duration::from_millis(1)).await;
        assert_eq!(held.strong_count(), 1);
        tokio::time::sleep(Duration::from_millis(2)).await;
        assert_eq!(held.strong_count(), 0);
        let refused = answer.frame().await.unwrap().unwrap_err();
        assert_eq!(refused.code(), Code::DeadlineExceeded);
    }
}
