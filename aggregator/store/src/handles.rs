//! What was opened lately, a bounded number of it: sealed files are opened when somebody reads them, and
//! closed again when others were read since.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// Things by the number of their file, each with when it was used last.
#[derive(Debug)]
pub(crate) struct Lately<T> {
    most: usize,
    held: Mutex<Held<T>>,
}

#[derive(Debug)]
struct Held<T> {
    // The count of uses so far is the clock.
    uses: u64,
    all: HashMap<u64, (u64, Arc<T>)>,
}

impl<T> Lately<T> {
    pub(crate) fn new(most: usize) -> Self {
        let held = Held {
            uses: 0,
            all: HashMap::new(),
        };
        Self {
            most,
            held: Mutex::new(held),
        }
    }

    /// Returns the thing of a file; opens it where it is not held. Nobody waits for another's opening.
    pub(crate) fn get(&self, id: u64, open: impl FnOnce() -> io::Result<T>) -> io::Result<Arc<T>> {
        if let Some(found) = self.find(id) {
            return Ok(found);
        }
        let opened = Arc::new(open()?);
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let Held { uses, all } = &mut *held;
        if all.len() >= self.most
            && let Some(oldest) = all.iter().min_by_key(|(_, (used, _))| *used)
        {
            let oldest = *oldest.0;
            all.remove(&oldest);
        }
        *uses += 1;
        all.insert(id, (*uses, Arc::clone(&opened)));
        Ok(opened)
    }

    fn find(&self, id: u64) -> Option<Arc<T>> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let Held { uses, all } = &mut *held;
        let (used, found) = all.get_mut(&id)?;
        *uses += 1;
        *used = *uses;
        Some(Arc::clone(found))
    }

    /// Lets go of what belongs to a file.
    pub(crate) fn forget(&self, id: u64) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.all.remove(&id);
    }
}

/// The way to the thing of one file, which can be used as long as somebody holds this, even when the file
/// was removed meanwhile.
#[derive(Debug)]
pub(crate) struct Handle<T> {
    id: u64,
    lately: Arc<Lately<T>>,
    // Opened before the file was removed.
    pinned: OnceLock<Arc<T>>,
}

impl<T> Handle<T> {
    pub(crate) fn new(id: u64, lately: &Arc<Lately<T>>) -> Self {
        Self {
            id,
            lately: Arc::clone(lately),
            pinned: OnceLock::new(),
        }
    }

    /// Returns the thing; opens it where it is not held.
    pub(crate) fn get(&self, open: impl FnOnce() -> io::Result<T>) -> io::Result<Arc<T>> {
        if let Some(pinned) = self.pinned.get() {
            return Ok(Arc::clone(pinned));
        }
        let opened = self.lately.get(self.id, open);
        // The file was removed just now, and the thing pinned before that.
        opened.or_else(|error| self.pinned.get().map(Arc::clone).ok_or(error))
    }

    /// Keeps the thing for those who hold this, although the file is about to be removed.
    pub(crate) fn pin(&self, open: impl FnOnce() -> io::Result<T>) {
        if let Ok(opened) = self.get(open) {
            self.pinned.get_or_init(|| opened);
        }
        self.lately.forget(self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_used_for_longest_is_let_go_and_no_more_is_held_than_allowed() {
        let lately: Lately<u64> = Lately::new(2);
        let opens = std::cell::Cell::new(0);
        let get = |id| {
            lately.get(id, || {
                opens.set(opens.get() + 1);
                Ok(id * 10)
            })
        };
        for id in [1, 2, 1, 3, 1] {
            assert_eq!(*get(id).unwrap(), id * 10);
        }
        assert_eq!(opens.get(), 3, "1 was used again and stayed");
        get(2).unwrap();
        assert_eq!(opens.get(), 4, "2 had to go for 3");
        lately.forget(2);
        get(2).unwrap();
        assert_eq!(opens.get(), 5);
        assert_eq!(lately.held.lock().unwrap().all.len(), 2);
    }
}
