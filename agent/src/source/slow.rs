//! Questions to file systems that may never be answered: a network file system whose server is gone
//! holds whoever asks for as long as it likes.
//!
//! Each question is asked on a thread of its own and waited for only so long. A path that hangs is not
//! asked again until it answers, and few may hang at once. It asks nothing itself.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Longest wait for one answer.
const ANSWER_MAX: Duration = Duration::from_secs(1);
/// Threads that may hang; more would starve the agent's own.
const HANGING_MAX: usize = 3;

#[derive(Debug)]
struct Asked {
    number: u64,
    path: PathBuf,
    is_late: bool,
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    asked: Vec<Asked>,
}

/// Whoever asks slow file systems; clones know of each other's questions.
#[derive(Debug, Clone)]
pub struct SlowPaths {
    state: Arc<Mutex<State>>,
    answer_max: Duration,
}

impl Default for SlowPaths {
    fn default() -> Self {
        Self {
            state: Arc::default(),
            answer_max: ANSWER_MAX,
        }
    }
}

impl SlowPaths {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks about a path; absent if there is no answer in time, or an earlier question still hangs.
    pub async fn ask<T, F>(&self, path: &Path, question: F) -> Option<T>
    where
        T: Send + 'static,
        F: FnOnce(&Path) -> Option<T> + Send + 'static,
    {
        let number = self.note(path)?;
        let (others, path) = (self.clone(), path.to_owned());
        let asking = tokio::task::spawn_blocking(move || {
            let answer = question(&path);
            others.lock().asked.retain(|asked| asked.number != number);
            answer
        });
        if let Ok(answer) = tokio::time::timeout(self.answer_max, asking).await {
            return answer.ok().flatten();
        }
        self.is_late(number);
        None
    }

    /// Counts the questions that hang.
    pub fn hanging(&self) -> usize {
        self.lock().asked.iter().filter(|one| one.is_late).count()
    }

    fn note(&self, path: &Path) -> Option<u64> {
        let mut state = self.lock();
        let late = state.asked.iter().filter(|one| one.is_late);
        if late.clone().any(|one| one.path == path) || late.count() >= HANGING_MAX {
            return None;
        }
        let number = state.next;
        state.next += 1;
        state.asked.push(Asked {
            number,
            path: path.to_owned(),
            is_late: false,
        });
        Some(number)
    }

    fn is_late(&self, number: u64) {
        let mut state = self.lock();
        // The answer may have come in this instant.
        if let Some(asked) = state.asked.iter_mut().find(|one| one.number == number) {
            asked.is_late = true;
            tracing::warn!(path = %asked.path.display(), "a file system does not answer; it is left out until it does");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    fn hasty() -> SlowPaths {
        SlowPaths {
            answer_max: Duration::from_millis(50),
            ..SlowPaths::default()
        }
    }

    #[tokio::test]
    async fn a_file_system_that_hangs_is_asked_once_and_holds_up_nobody() {
        let slow = hasty();
        let (release, held) = mpsc::channel::<()>();
        let dead = Path::new("/dead");
        let answer: Option<()> = slow.ask(dead, move |_| held.recv().ok()).await;
        assert_eq!((answer, slow.hanging()), (None, 1));
        let again = slow.ask(dead, |_| Some(1)).await;
        assert_eq!(again, None, "it is not asked again");
        let other = slow.ask(Path::new("/alive"), |_| Some(2)).await;
        assert_eq!(other, Some(2));

        drop(release);
        let back = async {
            while slow.hanging() > 0 {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), back)
            .await
            .unwrap();
        assert_eq!(slow.ask(dead, |_| Some(3)).await, Some(3));
    }

    #[tokio::test]
    async fn many_that_hang_do_not_take_all_threads() {
        let slow = hasty();
        let mut releases = Vec::new();
        for number in 0..=HANGING_MAX {
            let (release, held) = mpsc::channel::<()>();
            releases.push(release);
            let path = PathBuf::from(format!("/dead/{number}"));
            let asked = slow.ask(&path, move |_| held.recv().ok());
            assert_eq!(asked.await, None);
        }
        assert_eq!(slow.hanging(), HANGING_MAX);
    }
}
