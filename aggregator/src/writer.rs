//! The one writer of the store: gathers what streams bring, commits it together, and tells each of
//! them when its part is on the disk. It decides nothing about what is written.

use std::sync::Arc;

use plimsoll_store::{AppendError, Appended, Record, Store};
use tokio::sync::{mpsc, oneshot};

/// Records that wait for the writer; a stream that finds no place waits, and so does its agent.
pub const QUEUE_LENGTH: usize = 64;
/// Records written with one fdatasync at most.
const COMMIT_RECORDS_MAX: usize = 256;

/// Why a record was not written.
#[derive(Debug, Clone, thiserror::Error)]
pub enum WriteError {
    /// The store refused or failed.
    #[error("the store did not take the record")]
    Store(#[source] Arc<AppendError>),
    /// The writer has ended.
    #[error("the store is closing")]
    Closed,
}

struct Job {
    /// Absent where it is only asked when all before is on the disk.
    record: Option<Record>,
    reply: oneshot::Sender<Result<Appended, WriteError>>,
}

/// What will have become of a record. Dropping it changes nothing for the record.
#[derive(Debug)]
pub struct Written(oneshot::Receiver<Result<Appended, WriteError>>);

impl Written {
    /// Waits until the record is on the disk, or will never be. Nothing is lost if the wait is given up.
    pub async fn wait(&mut self) -> Result<Appended, WriteError> {
        (&mut self.0).await.map_err(|_| WriteError::Closed)?
    }

    /// Returns what became of the record, if that is known already.
    pub fn now(&mut self) -> Option<Result<Appended, WriteError>> {
        match self.0.try_recv() {
            Ok(outcome) => Some(outcome),
            Err(oneshot::error::TryRecvError::Empty) => None,
            Err(oneshot::error::TryRecvError::Closed) => Some(Err(WriteError::Closed)),
        }
    }
}

/// The door to the writer.
#[derive(Debug, Clone)]
pub struct Writer {
    jobs: mpsc::Sender<Job>,
}

impl Writer {
    /// Starts the writer on a thread of its own; it ends when the last door is dropped.
    pub fn start(store: Arc<Store>) -> std::io::Result<(Self, std::thread::JoinHandle<()>)> {
        let (jobs, queue) = mpsc::channel(QUEUE_LENGTH);
        let thread = std::thread::Builder::new()
            .name("store-writer".to_owned())
            .spawn(move || write_all(&store, queue))?;
        Ok((Self { jobs }, thread))
    }

    /// Makes a writer that works where its future is driven, on no thread of its own, so that a simulation
    /// takes the same course each time.
    pub fn at_once(store: Arc<Store>) -> (Self, impl Future<Output = ()>) {
        let (jobs, mut queue) = mpsc::channel(QUEUE_LENGTH);
        let work = async move {
            while let Some(first) = queue.recv().await {
                commit(&store, first, &mut queue);
            }
        };
        (Self { jobs }, work)
    }

    /// Hands a record over, in the order of the calls; waits while there is no place for it.
    pub async fn hand_over(&self, record: Record) -> Result<Written, WriteError> {
        self.queue(Some(record)).await
    }

    /// Asks to be told when all that was handed over before is on the disk, or will never be.
    pub async fn flush(&self) -> Result<Written, WriteError> {
        self.queue(None).await
    }

    /// Whether as many records wait as may, so that the next one waits for a place.
    pub fn is_full(&self) -> bool {
        self.jobs.capacity() == 0
    }

    /// Waits until the writer has gone, which it does by itself only if its thread panicked.
    pub async fn gone(self) {
        self.jobs.closed().await;
    }

    async fn queue(&self, record: Option<Record>) -> Result<Written, WriteError> {
        let (reply, answer) = oneshot::channel();
        self.jobs
            .send(Job { record, reply })
            .await
            .map_err(|_| WriteError::Closed)?;
        Ok(Written(answer))
    }
}

fn write_all(store: &Store, mut queue: mpsc::Receiver<Job>) {
    while let Some(first) = queue.blocking_recv() {
        commit(store, first, &mut queue);
    }
}

/// Writes a record and what waits behind it with one fdatasync. What comes while the disk works goes with the
/// next one: the slower the disk, the more records share it, and none waits for others that may not come.
fn commit(store: &Store, first: Job, queue: &mut mpsc::Receiver<Job>) {
    let (mut records, mut replies, mut asked) = (Vec::new(), Vec::new(), Vec::new());
    let mut next = Some(first);
    while let Some(Job { record, reply }) = next {
        match record {
            Some(record) => {
                records.push(record);
                replies.push(reply);
            }
            None => asked.push(reply),
        }
        let is_full = records.len() + asked.len() >= COMMIT_RECORDS_MAX;
        next = if is_full { None } else { queue.try_recv().ok() };
    }
    let appended = match records.is_empty() {
        true => Ok(Vec::new()),
        false => store.append(&records),
    };
    match appended {
        Ok(outcomes) => replies
            .into_iter()
            .zip(outcomes)
            .for_each(|(reply, outcome)| {
                // A stream that is gone will ask again what is durable.
                drop(reply.send(Ok(outcome)));
            }),
        Err(error) => {
            tracing::error!(error = %error, "nothing was appended");
            let error = Arc::new(error);
            for reply in replies {
                drop(reply.send(Err(WriteError::Store(Arc::clone(&error)))));
            }
        }
    }
    for reply in asked {
        drop(reply.send(Ok(Appended::Stored)));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::scene::Scene;

    #[tokio::test]
    async fn a_writer_that_has_gone_is_heard_of_and_one_that_works_is_not() {
        let (writer, work) = Writer::at_once(Scene::new().known.store);
        let mut gone = std::pin::pin!(writer.clone().gone());
        let moment = Duration::from_millis(20);
        assert!(tokio::time::timeout(moment, &mut gone).await.is_err());
        drop(work);
        let heard = tokio::time::timeout(Duration::from_secs(10), gone).await;
        assert!(heard.is_ok());
        assert!(matches!(writer.flush().await, Err(WriteError::Closed)));
    }
}
