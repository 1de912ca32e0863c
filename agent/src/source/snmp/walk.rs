//! Reads a device within bounds: values by name, and columns of tables by index. It believes no answer:
//! names must be those that were asked for, and a walk must go forward.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::Semaphore;

use super::oid::Oid;
use super::session::{AskError, Binding, Said, Session};
use crate::limits::{Limit, Met};

/// Names in one question, so that question and answer fit one packet.
const NAMES_MAX: usize = 20;
/// Columns that are walked side by side.
const COLUMNS_MAX: usize = 8;
/// Values of a column in one answer.
const REPETITIONS_MAX: u32 = 20;
/// Values in one answer; with their names they fit 1472 bytes.
const VALUES_MAX: u32 = 40;
/// Bindings that are looked at in one answer, whatever was asked.
const BINDINGS_MAX: usize = 64;
/// Values of one poll.
pub const POLL_VALUES_MAX: usize = 10_000;

/// A column's values by their row.
pub type Column = BTreeMap<u32, Said>;

/// A device that is asked one question at a time.
#[derive(Debug)]
pub struct Asker<'a> {
    session: &'a dyn Session,
    // Questions of all devices that are under way.
    slots: &'a Arc<Semaphore>,
    met: &'a Met,
    values: usize,
}

impl<'a> Asker<'a> {
    /// Begins a poll.
    pub fn new(session: &'a dyn Session, slots: &'a Arc<Semaphore>, met: &'a Met) -> Self {
        Self {
            session,
            slots,
            met,
            values: 0,
        }
    }

    /// Reads values by their names; one that the device does not have is left out.
    ///
    /// # Errors
    /// If there is no answer, or one to another question.
    pub async fn values(&mut self, names: &[Oid]) -> Result<BTreeMap<Oid, Said>, AskError> {
        let mut found = BTreeMap::new();
        for some in names.chunks(NAMES_MAX) {
            let answer = {
                let _slot = self.slots.acquire().await;
                self.session.get(some).await?
            };
            self.count(&answer)?;
            if answer.len() != some.len() || answer.iter().zip(some).any(|(a, b)| a.0 != *b) {
                let what = "values of other names";
                return Err(AskError::Nonsense { what });
            }
            found.extend(
                answer
                    .into_iter()
                    .filter(|(_, said)| *said != Said::Nothing),
            );
        }
        Ok(found)
    }

    /// Reads columns of tables whose rows are numbered; a column that is not there is empty.
    ///
    /// # Errors
    /// If there is no answer, if the walk does not go forward, or if it does not end.
    pub async fn columns(&mut self, columns: &[Oid]) -> Result<Vec<Column>, AskError> {
        let mut found = Vec::with_capacity(columns.len());
        for some in columns.chunks(COLUMNS_MAX) {
            let mut walks: Vec<Walk> = some.iter().map(Walk::new).collect();
            while let Some(repetitions) = repetitions(&walks) {
                let open: Vec<usize> = (0..)
                    .zip(&walks)
                    .filter(|(_, w)| !w.done)
                    .map(|(i, _)| i)
                    .collect();
                let behind: Vec<Oid> = walks
                    .iter()
                    .filter(|w| !w.done)
                    .map(|w| w.at.clone())
                    .collect();
                let answer = {
                    let _slot = self.slots.acquire().await;
                    self.session.get_bulk(&behind, repetitions).await?
                };
                self.count(&answer)?;
                advance(&mut walks, &open, answer)?;
            }
            found.extend(walks.into_iter().map(|walk| walk.rows));
        }
        Ok(found)
    }

    fn count(&mut self, answer: &[Binding]) -> Result<(), AskError> {
        let what = if answer.is_empty() {
            "nothing at all"
        } else if answer.len() > BINDINGS_MAX {
            "more than was asked"
        } else if self.values.saturating_add(answer.len()) > POLL_VALUES_MAX {
            self.met.note(Limit::PollValues);
            "a table without an end"
        } else {
            self.values += answer.len();
            return Ok(());
        };
        Err(AskError::Nonsense { what })
    }
}

/// One column on its way.
#[derive(Debug)]
struct Walk {
    column: Oid,
    at: Oid,
    rows: Column,
    done: bool,
}

impl Walk {
    fn new(column: &Oid) -> Self {
        Self {
            column: column.clone(),
            at: column.clone(),
            rows: Column::new(),
            done: false,
        }
    }

    fn take(&mut self, (name, said): Binding) -> Result<(), AskError> {
        if self.done {
            return Ok(());
        }
        if said == Said::Nothing {
            self.done = true;
            return Ok(());
        }
        if name <= self.at {
            let what = "a walk that does not go forward";
            return Err(AskError::Nonsense { what });
        }
        match name.below(&self.column) {
            Some([row]) => {
                self.rows.insert(*row, said);
                self.at = name;
            }
            // A row of another kind of number is nobody's here, and is walked past.
            Some(_) => self.at = name,
            None => self.done = true,
        }
        Ok(())
    }
}

/// How many rows to ask for; absent once all columns are read.
fn repetitions(walks: &[Walk]) -> Option<u32> {
    let open = u32::try_from(walks.iter().filter(|walk| !walk.done).count()).ok()?;
    (VALUES_MAX.checked_div(open)).map(|rows| rows.clamp(1, REPETITIONS_MAX))
}

/// Gives each value of an answer to its column: they come row by row.
fn advance(walks: &mut [Walk], open: &[usize], answer: Vec<Binding>) -> Result<(), AskError> {
    if answer.len() < open.len() {
        let what = "less than one row";
        return Err(AskError::Nonsense { what });
    }
    for (binding, place) in answer.into_iter().zip(open.iter().cycle()) {
        if let Some(walk) = walks.get_mut(*place) {
            walk.take(binding)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use futures_util::FutureExt as _;
    use futures_util::future::BoxFuture;

    use super::*;

    fn oid(text: &str) -> Oid {
        text.parse().unwrap()
    }

    /// Gives the answers it was told to give, whatever is asked.
    #[derive(Debug)]
    struct Script(Mutex<Vec<Vec<Binding>>>);

    impl Script {
        fn next(&self) -> BoxFuture<'_, Result<Vec<Binding>, AskError>> {
            let answer = self.0.lock().unwrap().pop();
            async move { answer.ok_or(AskError::Silent) }.boxed()
        }
    }

    impl Session for Script {
        fn get<'a>(&'a self, _: &'a [Oid]) -> BoxFuture<'a, Result<Vec<Binding>, AskError>> {
            self.next()
        }

        fn get_bulk<'a>(
            &'a self,
            _: &'a [Oid],
            _: u32,
        ) -> BoxFuture<'a, Result<Vec<Binding>, AskError>> {
            self.next()
        }
    }

    fn said(all: &[(&str, u32)]) -> Vec<Binding> {
        all.iter()
            .map(|(name, value)| (oid(name), Said::Gauge(*value)))
            .collect()
    }

    /// Walks two columns past a script, the first answer first.
    async fn walked(mut answers: Vec<Vec<Binding>>) -> Result<Vec<Column>, AskError> {
        answers.reverse();
        let script = Script(Mutex::new(answers));
        let slots = Arc::new(Semaphore::new(1));
        let met = Met::default();
        let mut asker = Asker::new(&script, &slots, &met);
        asker.columns(&[oid("1.3.1"), oid("1.3.2")]).await
    }

    #[tokio::test]
    async fn columns_are_read_to_their_ends_and_each_value_stands_in_its_row() {
        let mut last = said(&[("1.3.2.1", 0), ("1.3.3.1", 0)]);
        last[1].1 = Said::Nothing;
        let answers = vec![
            said(&[
                ("1.3.1.1", 10),
                ("1.3.2.1", 20),
                ("1.3.1.7", 17),
                ("1.3.2.7", 27),
            ]),
            last,
        ];
        let columns = walked(answers).await.unwrap();
        let rows = |values: [u32; 2]| {
            Column::from([(1, Said::Gauge(values[0])), (7, Said::Gauge(values[1]))])
        };
        assert_eq!(columns, [rows([10, 17]), rows([20, 27])]);
    }

    #[tokio::test]
    async fn a_walk_that_stands_still_or_goes_back_is_given_up() {
        for second in ["1.3.1.4", "1.3.1.3", "1.2"] {
            let answers = vec![
                said(&[("1.3.1.4", 1), ("1.3.2.4", 1)]),
                said(&[(second, 1), ("1.3.2.5", 1)]),
            ];
            let error = walked(answers).await.unwrap_err();
            assert!(
                error.to_string().contains("go forward"),
                "{second}: {error}"
            );
        }
    }

    #[tokio::test]
    async fn a_table_without_an_end_ends_at_the_limit_of_a_poll() {
        let row = |row: u32| said(&[(&format!("1.3.1.{row}"), 1), (&format!("1.3.2.{row}"), 1)]);
        let error = walked((1..20_000).map(row).collect()).await.unwrap_err();
        assert!(error.to_string().contains("without an end"), "{error}");
    }

    #[tokio::test]
    async fn a_poll_has_so_many_values() {
        for (beyond, is_told) in [(-1, true), (0, true), (1, false)] {
            let count = POLL_VALUES_MAX.checked_add_signed(beyond).unwrap();
            let names: Vec<Oid> = (0..count).map(|at| oid(&format!("1.3.{at}"))).collect();
            let answer = |names: &[Oid]| {
                let said = names.iter().map(|name| (name.clone(), Said::Gauge(1)));
                said.collect::<Vec<Binding>>()
            };
            let mut answers: Vec<_> = names.chunks(NAMES_MAX).map(answer).collect();
            answers.reverse();
            let script = Script(Mutex::new(answers));
            let (slots, met) = (Arc::new(Semaphore::new(1)), Met::default());
            let told = Asker::new(&script, &slots, &met).values(&names).await;
            assert_eq!(told.is_ok(), is_told, "{count}");
            assert_eq!(met.count(Limit::PollValues), u64::from(!is_told));
        }
    }

    #[tokio::test]
    async fn an_answer_of_other_names_too_many_or_none_is_no_answer() {
        let asked = [oid("1.3.1.0"), oid("1.3.2.0")];
        let many: Vec<Binding> = (0..65).flat_map(|_| said(&[("1.3.1.0", 1)])).collect();
        let answers = [
            said(&[("1.3.2.0", 1), ("1.3.1.0", 1)]),
            said(&[("1.3.1.0", 1)]),
            said(&[("1.3.1.0", 1), ("1.3.3.0", 1)]),
            Vec::new(),
            many,
        ];
        for answer in answers {
            let script = Script(Mutex::new(vec![answer]));
            let slots = Arc::new(Semaphore::new(1));
            let error = Asker::new(&script, &slots, &Met::default())
                .values(&asked)
                .await
                .unwrap_err();
            assert!(matches!(error, AskError::Nonsense { .. }), "{error}");
        }
        let mut whole = said(&[("1.3.1.0", 7), ("1.3.2.0", 8)]);
        whole[1].1 = Said::Nothing;
        let script = Script(Mutex::new(vec![whole]));
        let slots = Arc::new(Semaphore::new(1));
        let values = Asker::new(&script, &slots, &Met::default())
            .values(&asked)
            .await
            .unwrap();
        assert_eq!(values, BTreeMap::from([(oid("1.3.1.0"), Said::Gauge(7))]));
    }
}
