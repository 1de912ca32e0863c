//! Questions pass one by one: so many at once, so many of one caller, so long each; none where memory is
//! scarce. What may compute for long does so on threads of its own. Samples do not pass here: whatever is
//! asked, they come in.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use plimsoll_model::Clock;
use tokio::runtime::Runtime;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::body::Body;
use tonic::codegen::http::{Request, Response};
use tonic::{Code, Status};
use tower::{Layer, Service};

use super::caller::Caller;
use super::limits::{Limit, Met};
use super::memory::{Ceiling, Scarcity};
use super::places::{Places, Seat};
use super::unread::Unread;
use crate::page::{busy, status};

/// Questions under way at once, for each processor.
const QUESTIONS_OF_PROCESSOR: usize = 2;
/// How long a question waits for its place.
const PLACE_WITHIN: Duration = Duration::from_secs(1);
/// How long a question may take, its message included.
pub const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// Questions of one caller that wait or are under way.
pub const OF_CALLER_MAX: usize = 32;
/// Answers that are given and not read yet; a question beyond is refused.
pub const UNREAD_MAX: usize = 64;
/// The services whose calls are questions, and how each is worked on.
const QUESTIONS: [(&str, Work); 3] = [
    ("/plimsoll.v1.QueryService/", Work::Short),
    ("/plimsoll.v1.PlannerService/", Work::Long),
    ("/plimsoll.v1.EstimateService/", Work::Long),
];

/// How much work an answer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Work {
    /// As much as an answer may hold: done at once by the thread that read the question, since to wake
    /// another one takes longer than most of these answers.
    Short,
    /// Nobody knows how much: done by threads of their own, so that the caller is told in time.
    Long,
}

/// Questions under way at once.
fn places() -> usize {
    processors() * QUESTIONS_OF_PROCESSOR
}

fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Returns how many threads the services need: with a short question in every place, there is still one
/// for each processor that takes samples in.
pub fn service_threads() -> usize {
    processors() + places()
}

/// What the turnstile is made of.
#[derive(Debug)]
struct Gate {
    places: Arc<Semaphore>,
    unread: Arc<Semaphore>,
    callers: Places<String>,
    ceiling: Arc<Ceiling>,
    met: Arc<Met>,
    clock: Arc<dyn Clock>,
    // Ended without a wait; taken only when the gate goes.
    threads: Option<Runtime>,
}

impl Drop for Gate {
    fn drop(&mut self) {
        if let Some(threads) = self.threads.take() {
            threads.shutdown_background();
        }
    }
}

/// Puts the turnstile before all services.
#[derive(Debug, Clone)]
pub struct Turnstile(Arc<Gate>);

impl Turnstile {
    /// Makes it, with threads for questions.
    ///
    /// # Errors
    /// If the threads cannot be started.
    pub fn new(
        ceiling: Arc<Ceiling>,
        met: Arc<Met>,
        clock: Arc<dyn Clock>,
    ) -> std::io::Result<Self> {
        let places = places();
        // One for each, so that a question may keep its thread as long as it needs.
        let threads = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(places)
            .thread_name("questions")
            .enable_all()
            .build()?;
        Ok(Self(Arc::new(Gate {
            places: Arc::new(Semaphore::new(places)),
            unread: Arc::new(Semaphore::new(UNREAD_MAX)),
            callers: Places::new(OF_CALLER_MAX),
            ceiling,
            met,
            clock,
            threads: Some(threads),
        })))
    }
}

/// What a question holds until its answer is read.
#[derive(Debug)]
struct Held {
    _seat: Option<Seat<String>>,
    _unread: OwnedSemaphorePermit,
}

impl Gate {
    /// Waits for a place; says why there is none.
    async fn admit(&self, caller: Option<String>) -> Result<(OwnedSemaphorePermit, Held), Status> {
        if self.ceiling.scarcity() >= Scarcity::Questions {
            return Err(self.busy(Limit::QuestionMemory, "memory is scarce"));
        }
        let seat = match caller {
            None => None,
            Some(name) => {
                let seat = self.callers.take(name);
                let full = || self.busy(Limit::OfCaller, "this caller has enough questions open");
                Some(seat.ok_or_else(full)?)
            }
        };
        let (places, unread) = (Arc::clone(&self.places), Arc::clone(&self.unread));
        let both = async { tokio::try_join!(unread.acquire_owned(), places.acquire_owned()) };
        match tokio::time::timeout(PLACE_WITHIN, both).await {
            Ok(Ok((unread, place))) => {
                let held = Held {
                    _seat: seat,
                    _unread: unread,
                };
                Ok((place, held))
            }
            Ok(Err(_)) | Err(_) => {
                Err(self.busy(Limit::Questions, "too many questions are under way"))
            }
        }
    }

    fn busy(&self, limit: Limit, why: &str) -> Status {
        if self.met.note(limit, &*self.clock) {
            tracing::warn!(limit = limit.word(), "question refused");
        }
        let text = format!("{}: {why}; ask again later", limit.word());
        busy(PLACE_WITHIN, text)
    }

    async fn ask<F>(
        self: Arc<Self>,
        (caller, work): (Option<String>, Work),
        question: F,
    ) -> Result<(F::Output, Held), Status>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        let (place, held) = self.admit(caller).await?;
        let answer = async move {
            let answer = question.await;
            drop(place);
            answer
        };
        let answered = match work {
            Work::Short => tokio::time::timeout(ANSWER_WITHIN, answer).await.map(Some),
            Work::Long => tokio::time::timeout(ANSWER_WITHIN, self.apart(answer)).await,
        };
        match answered {
            Ok(Some(answer)) => Ok((answer, held)),
            Ok(None) => Err(Status::internal("the question was cut off")),
            Err(_) => {
                if self.met.note(Limit::QuestionTime, &*self.clock) {
                    tracing::warn!("a question took too long");
                }
                let text = format!("no answer within {} s", ANSWER_WITHIN.as_secs());
                Err(status(Code::DeadlineExceeded, "TOO_SLOW", text))
            }
        }
    }

    /// Lets the threads work on it; `None` where they are gone or it came to no end.
    async fn apart<F>(&self, question: F) -> Option<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        // It ends with the caller's patience: dropping the set aborts what is in it.
        let mut running = tokio::task::JoinSet::new();
        running.spawn_on(question, self.threads.as_ref()?.handle());
        running.join_next().await?.ok()
    }
}

impl<S> Layer<S> for Turnstile {
    type Service = Turned<S>;

    fn layer(&self, inner: S) -> Turned<S> {
        Turned {
            inner,
            gate: Arc::clone(&self.0),
        }
    }
}

/// A service behind the turnstile.
#[derive(Debug, Clone)]
pub struct Turned<S> {
    inner: S,
    gate: Arc<Gate>,
}

impl<S> Service<Request<Body>> for Turned<S>
where
    S: Service<Request<Body>, Response = Response<Body>>,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let path = request.uri().path();
        let mut services = QUESTIONS.iter();
        let Some((_, work)) = services.find(|(service, _)| path.starts_with(service)) else {
            return Box::pin(self.inner.call(request));
        };
        let caller = match request.extensions().get::<Caller>() {
            Some(Caller::Certified { name, .. }) => Some(name.clone()),
            Some(Caller::Local) | None => None,
        };
        let gate = Arc::clone(&self.gate);
        let question = self.inner.call(request);
        Box::pin(async move {
            match gate.ask((caller, *work), question).await {
                Ok((answer, held)) => {
                    Ok(answer?.map(|body| Body::new(Unread::new(body, held, ANSWER_WITHIN))))
                }
                Err(status) => Ok(status.into_http()),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use plimsoll_model::ByteSize;

    use tonic_types::StatusExt as _;

    use super::*;
    use crate::scene::Scene;

    fn turnstile(memory: u64) -> (Turnstile, Arc<Met>) {
        let ceiling = Arc::new(Ceiling::new(Some(ByteSize::from_bytes(memory))));
        ceiling.look();
        let met = Arc::new(Met::default());
        let clock = Scene::new().known.clock;
        (
            Turnstile::new(ceiling, Arc::clone(&met), clock).unwrap(),
            met,
        )
    }

    /// Much shorter than any limit.
    const MOMENT: Duration = Duration::from_millis(1);

    #[tokio::test(start_paused = true)]
    async fn the_last_place_is_given_and_the_next_question_waits_a_second_and_is_refused() {
        let (turnstile, met) = turnstile(u64::MAX);
        let gate = turnstile.0;
        let mut held = Vec::new();
        for _ in 1..places() {
            held.push(gate.admit(None).await.unwrap());
        }
        assert_eq!(gate.places.available_permits(), 1, "one less is not all");
        held.push(gate.admit(None).await.unwrap());
        let waits = tokio::time::timeout(PLACE_WITHIN - MOMENT, gate.admit(None)).await;
        assert!(waits.is_err(), "it waits for a place");
        let refused = tokio::time::timeout(PLACE_WITHIN + MOMENT, gate.admit(None)).await;
        let refused = refused.expect("it waits no longer").unwrap_err();
        assert_eq!(refused.code(), Code::ResourceExhausted);
        assert!(refused.get_details_retry_info().is_some());
        assert_eq!(met.count(Limit::Questions), 1);
        held.pop();
        assert!(gate.admit(None).await.is_ok(), "its place is free again");
    }

    #[tokio::test(start_paused = true)]
    async fn beyond_so_many_answers_that_nobody_reads_questions_are_refused() {
        let (turnstile, met) = turnstile(u64::MAX);
        let gate = turnstile.0;
        let mut unread = Vec::new();
        for _ in 0..UNREAD_MAX {
            // It is answered, and has no place any more.
            let (_place, held) = gate.admit(None).await.unwrap();
            unread.push(held);
        }
        assert_eq!(met.count(Limit::Questions), 0);
        let refused = gate.admit(None).await.unwrap_err();
        assert_eq!(refused.code(), Code::ResourceExhausted);
        assert_eq!(met.count(Limit::Questions), 1);
        unread.pop();
        assert!(gate.admit(None).await.is_ok(), "one was read");
    }

    #[tokio::test(start_paused = true)]
    async fn one_caller_cannot_have_all_places() {
        let (turnstile, met) = turnstile(u64::MAX);
        let gate = turnstile.0;
        let seats = || gate.callers.take("greedy".to_owned());
        let mut held: Vec<_> = (0..OF_CALLER_MAX - 1).map(|_| seats()).collect();
        let last = gate.admit(Some("greedy".to_owned())).await;
        assert!(last.is_ok(), "the last one is let through");
        let refused = gate.admit(Some("greedy".to_owned())).await.unwrap_err();
        assert_eq!(refused.code(), Code::ResourceExhausted);
        assert_eq!(met.count(Limit::OfCaller), 1);
        assert!(gate.admit(Some("modest".to_owned())).await.is_ok());
        held.clear();
        assert!(gate.admit(Some("greedy".to_owned())).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_question_ends_after_its_time_and_gives_its_place_back() {
        let (turnstile, met) = turnstile(u64::MAX);
        let gate = turnstile.0;
        for (work, count) in [(Work::Short, 1), (Work::Long, 2)] {
            let never = || Arc::clone(&gate).ask((None, work), std::future::pending::<()>());
            let goes_on = tokio::time::timeout(ANSWER_WITHIN - MOMENT, never()).await;
            assert!(goes_on.is_err(), "it may take its time");
            let refused = tokio::time::timeout(ANSWER_WITHIN + MOMENT, never()).await;
            let refused = refused.expect("and no more").unwrap_err();
            assert_eq!(refused.code(), Code::DeadlineExceeded);
            assert_eq!(met.count(Limit::QuestionTime), count);
        }
        let all = u32::try_from(places()).unwrap();
        drop(gate.places.acquire_many(all).await.unwrap());
    }

    #[tokio::test]
    async fn what_may_take_long_has_a_thread_of_its_own_and_what_is_short_stays() {
        let (turnstile, met) = turnstile(u64::MAX);
        let here = std::thread::current().id();
        for work in [Work::Short, Work::Long] {
            let question = async { std::thread::current().id() };
            let gate = Arc::clone(&turnstile.0);
            let there = gate.ask((Some("a".to_owned()), work), question).await;
            assert_eq!(there.unwrap().0 == here, work == Work::Short);
        }
        assert!(Limit::ALL.iter().all(|limit| met.count(*limit) == 0));
    }

    #[tokio::test]
    async fn where_memory_is_scarce_nothing_is_answered_and_that_is_counted() {
        let (turnstile, met) = turnstile(1);
        let refused = turnstile.0.admit(None).await.unwrap_err();
        assert_eq!(refused.code(), Code::ResourceExhausted);
        assert_eq!(met.count(Limit::QuestionMemory), 1);
    }
}
