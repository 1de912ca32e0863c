//! What guests wrote and when, by their own count: the truth that measured dirty rates are held against.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::ops::RangeInclusive;
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use plimsoll_model::{Clock as _, SystemClock};
use plimsoll_tests::guest::{count_question, count_told};
use plimsoll_tests::stage::{Node, pause};

/// Time between two looks at all guests.
const PERIOD: Duration = Duration::from_millis(20);

/// The pages a guest had written at some instant between two.
#[derive(Debug, Clone, Copy)]
struct Note {
    before_ms: i64,
    after_ms: i64,
    pages: u32,
}

type Notes = BTreeMap<String, Vec<Note>>;

/// Asks guests all the time what they have written, through one shell of virsh, until it is dropped.
pub(crate) struct Diary {
    notes: Arc<Mutex<Notes>>,
    shell: Child,
    thread: Option<JoinHandle<()>>,
}

impl Diary {
    pub(crate) fn begin(node: &Node, guests: &[&str]) -> Self {
        let mut command = node.command("virsh");
        let mut shell = command
            .args(["-q", "-c", "qemu:///system"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut asking = shell.stdin.take().unwrap();
        let mut told = BufReader::new(shell.stdout.take().unwrap());
        let notes = Arc::new(Mutex::new(Notes::new()));
        let guests: Vec<String> = guests.iter().map(|&name| name.to_owned()).collect();
        let kept = Arc::clone(&notes);
        let thread = std::thread::spawn(move || {
            // A shell that has ended ends the diary; who needs more notes then waits in vain and says so.
            while guests.iter().all(|guest| {
                let note = look(&mut asking, &mut told, guest);
                let is_told = note.is_some();
                let mut notes = kept.lock().unwrap();
                notes.entry(guest.clone()).or_default().extend(note);
                is_told
            }) {
                pause(PERIOD);
            }
        });
        Self {
            notes,
            shell,
            thread: Some(thread),
        }
    }

    /// The fewest and the most pages that a guest may have written in a window of this length that lies
    /// somewhere between two instants; absent while its notes do not reach that far.
    ///
    /// `late_ms` of the window's beginning may be lost: pages are looked at one after the other.
    pub(crate) fn written(
        &self,
        guest: &str,
        (begin_ms, end_ms): (i64, i64),
        (window_ms, late_ms): (i64, i64),
    ) -> Option<RangeInclusive<u32>> {
        let notes = self.notes.lock().unwrap();
        let notes = notes.get(guest)?;
        let most = latest(notes, end_ms)?.wrapping_sub(earliest(notes, begin_ms)?);
        let last_ms = (end_ms - window_ms).max(begin_ms);
        let begins = (begin_ms..=last_ms).step_by(5).chain([last_ms]);
        let least = begins.filter_map(|begin_ms| {
            let first = latest(notes, begin_ms + late_ms)?;
            Some(earliest(notes, begin_ms + window_ms)?.saturating_sub(first))
        });
        Some(least.min()?..=most)
    }
}

impl Drop for Diary {
    fn drop(&mut self) {
        self.shell.kill().ok();
        self.shell.wait().ok();
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

/// What was surely written at an instant.
fn earliest(notes: &[Note], at_ms: i64) -> Option<u32> {
    let place = notes.partition_point(|note| note.after_ms <= at_ms);
    Some(notes.get(place.checked_sub(1)?)?.pages)
}

/// What was written at an instant at most.
fn latest(notes: &[Note], at_ms: i64) -> Option<u32> {
    let place = notes.partition_point(|note| note.before_ms < at_ms);
    Some(notes.get(place)?.pages)
}

fn look(asking: &mut ChildStdin, told: &mut BufReader<ChildStdout>, guest: &str) -> Option<Note> {
    let now_ms = || SystemClock::new().now().millis();
    let before_ms = now_ms();
    let question = format!(
        "qemu-monitor-command {guest} --hmp \"{}\"\n",
        count_question()
    );
    asking.write_all(question.as_bytes()).ok()?;
    let mut line = String::new();
    loop {
        line.clear();
        // The shell repeats the question before the answer.
        if told.read_line(&mut line).ok()? == 0 || line.starts_with("error:") {
            return None;
        }
        if let Some(pages) = count_told(&line) {
            let after_ms = now_ms();
            return Some(Note {
                before_ms,
                after_ms,
                pages,
            });
        }
    }
}

#[test]
fn what_was_written_within_a_window_lies_between_the_notes_around_it() {
    let note = |at_ms: i64| Note {
        before_ms: at_ms - 1,
        after_ms: at_ms + 1,
        pages: u32::try_from(at_ms).unwrap() * 10,
    };
    let notes: Vec<Note> = (0..20).map(|at| note(at * 100)).collect();
    let diary = Diary {
        notes: Arc::new(Mutex::new(BTreeMap::from([("one".to_owned(), notes)]))),
        shell: std::process::Command::new("true").spawn().unwrap(),
        thread: None,
    };
    let written = |span, window| diary.written("one", span, window);
    let thousand = written((450, 1_450), (1_000, 0)).unwrap();
    assert_eq!(
        thousand,
        9_000..=11_000,
        "from 500 to 1400, from 400 to 1500"
    );
    assert_eq!(*written((450, 1_450), (1_000, 200)).unwrap().start(), 7_000);
    let loose = written((450, 1_650), (1_000, 0)).unwrap();
    assert_eq!(loose, 8_000..=13_000, "from 600 to 1400, from 400 to 1700");
    assert_eq!(written((450, 3_000), (1_000, 0)), None, "not known yet");
}
