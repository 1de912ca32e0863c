//! Pre-copy as QEMU runs it: its own loop, in expected values, over cells of the address space and
//! classes of writers. Draws nothing at random; uncertainty is the business of the ensemble.
//!
//! Sources: QEMU migration/migration.c (the loop, the threshold, the 100 ms window of the rate limit),
//! migration/ram.c (address order, page headers, clearing in chunks, auto-converge).

use crate::memory::{CLASS_SLOTS, Memory, Spent};
use crate::number::round_u64;
use crate::scene::{PAGE_BYTES, PAGE_WIRE_BYTES, Scene};

/// The rate limit and the measured bandwidth both work on windows of this length.
const WINDOW_S: f64 = 0.1;
/// QEMU looks up from sending at least this often.
const SLICE_S: f64 = 0.05;
/// Auto-converge looks at most once in this time.
const THROTTLE_CHECK_S: f64 = 1.0;
/// Share of processor time that auto-converge takes at first.
const THROTTLE_FIRST: f64 = 0.20;
/// What it takes in addition each time.
const THROTTLE_STEP: f64 = 0.10;
/// What it takes at most.
const THROTTLE_MOST: f64 = 0.99;
/// So many syncs without headway are a steady state.
const STEADY_SYNCS: u32 = 30;
/// Headway is a gain of at least this share.
const HEADWAY: f64 = 0.995;
/// Less than this is nothing, in pages: expected values never reach zero.
const NOTHING_PAGES: f64 = 0.5;
/// The loop turns at most so often; beyond, the migration counts as not converging.
const TURNS_MAX: u32 = 200_000;

/// What a simulated pre-copy came to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PrecopyRun {
    /// Whether it ended before the timeout.
    pub converged: bool,
    /// From the start to the end, or to where it was given up.
    pub total_s: f64,
    /// Time in which the guest does not run; 0 if it did not end.
    pub downtime_s: f64,
    /// Bytes on the wire.
    pub bytes: f64,
    /// Times that the dirty bitmap was fetched.
    pub syncs: u64,
    /// Share of processor time taken away by auto-converge at last.
    pub throttle: f64,
    /// Least number of bytes that were ever left after a sync, over the threshold: above 1 it never ended.
    pub closest: f64,
}

/// What is left at a moment, for post-copy.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Left {
    /// Time since the start.
    pub(crate) at_s: f64,
    /// Bytes sent.
    pub(crate) bytes: f64,
    /// Fetches of the bitmap.
    pub(crate) syncs: u64,
    /// Pages that are left, by class of writers, pages that nobody writes to last.
    pub(crate) pages: [f64; CLASS_SLOTS],
    /// Zero pages that are left.
    pub(crate) zero_pages: f64,
}

/// Runs a whole pre-copy.
pub fn simulate(scene: &Scene) -> PrecopyRun {
    let mut loop_ = Simulator::new(scene);
    for _ in 0..TURNS_MAX {
        if loop_.now_s > scene.timeout_s {
            break;
        }
        if loop_.below_threshold() {
            loop_.sync();
            if loop_.below_threshold() {
                return loop_.switch_over();
            }
            if loop_.steady() && !loop_.skip_to_next_limit() {
                break;
            }
        }
        loop_.send();
    }
    loop_.given_up()
}

/// Runs until `after_s`, or to the end of the first pass if absent, or to the switch-over if that comes first.
pub(crate) fn simulate_until(scene: &Scene, after_s: Option<f64>) -> Left {
    let mut loop_ = Simulator::new(scene);
    for _ in 0..TURNS_MAX {
        let reached = match after_s {
            Some(after_s) => loop_.now_s >= after_s,
            None => loop_.memory.passes > 0,
        };
        if reached {
            break;
        }
        if loop_.below_threshold() {
            loop_.sync();
            if loop_.below_threshold() || loop_.steady() {
                // Nothing more changes before the switch but the time.
                loop_.now_s = loop_.now_s.max(after_s.unwrap_or(0.0));
                break;
            }
        }
        loop_.send_until(after_s);
    }
    loop_.sync();
    Left {
        at_s: loop_.now_s,
        bytes: loop_.bytes,
        syncs: loop_.syncs,
        pages: loop_.memory.pending_by_class(),
        zero_pages: loop_.memory.pending_zero(),
    }
}

struct Simulator<'a> {
    scene: &'a Scene,
    memory: Memory,
    now_s: f64,
    last_sync_s: f64,
    bytes: f64,
    syncs: u64,
    /// Bandwidth of the last full window; 0 before there is one, as in QEMU.
    measured_rate: f64,
    window: Spent,
    throttle: Throttle,
    headway: Headway,
}

#[derive(Default)]
struct Throttle {
    share: f64,
    last_check_s: f64,
    sent_bytes: f64,
    dirtied_bytes: f64,
    hits: u32,
}

struct Headway {
    best: f64,
    syncs_without: u32,
    stalls: u32,
    last_stall_s: f64,
    closest: f64,
}

impl<'a> Simulator<'a> {
    fn new(scene: &'a Scene) -> Self {
        Self {
            scene,
            memory: Memory::new(scene),
            now_s: 0.0,
            last_sync_s: 0.0,
            bytes: 0.0,
            // The bitmap is fetched once before the first byte.
            syncs: 1,
            measured_rate: 0.0,
            window: Spent::default(),
            throttle: Throttle::default(),
            headway: Headway {
                best: f64::INFINITY,
                syncs_without: 0,
                stalls: 0,
                last_stall_s: 0.0,
                closest: f64::INFINITY,
            },
        }
    }

    fn limit_s(&self) -> f64 {
        self.scene.profile.limit_s(self.now_s, self.headway.stalls)
    }

    fn threshold_bytes(&self) -> f64 {
        self.measured_rate * self.limit_s()
    }

    fn below_threshold(&self) -> bool {
        let pages = self.memory.pending;
        pages < NOTHING_PAGES || pages * PAGE_BYTES < self.threshold_bytes()
    }

    fn send(&mut self) {
        self.send_until(None);
    }

    /// Sends whole cells while the threshold is far, then one slice of the loop.
    fn send_until(&mut self, end_s: Option<f64>) {
        let rate = self.scene.wire_rate();
        let end_s = end_s.map_or(self.scene.timeout_s, |end| end.min(self.scene.timeout_s));
        let limit_s = self
            .limit_s()
            .max(self.scene.profile.limit_s(end_s, self.headway.stalls));
        let far_pages = rate * (limit_s + WINDOW_S) / PAGE_BYTES;
        loop {
            let passes = self.memory.passes;
            let Some(spent) = self.memory.send_cell(self.scene, self.now_s, far_pages) else {
                break;
            };
            self.account(spent);
            if self.now_s + 10.0 * spent.seconds > end_s || self.memory.passes > passes {
                break;
            }
        }
        let quota = self.scene.cap_rate.map(|cap| cap * WINDOW_S);
        let budget = Spent {
            seconds: SLICE_S,
            bytes: quota.map_or(f64::INFINITY, |quota| (quota - self.window.bytes).max(0.0)),
        };
        let spent = self.memory.send_slice(self.scene, self.now_s, budget);
        self.account(spent);
        let used_up = quota.is_some_and(|quota| self.window.bytes >= quota * 0.999_999);
        if used_up {
            self.sleep();
        }
    }

    /// The quota of the window is used up: nothing moves until the next one.
    fn sleep(&mut self) {
        let rest_s = (WINDOW_S - self.window.seconds).max(0.0);
        self.account(Spent {
            seconds: rest_s,
            bytes: 0.0,
        });
    }

    fn account(&mut self, spent: Spent) {
        self.now_s += spent.seconds;
        self.bytes += spent.bytes;
        self.throttle.sent_bytes += spent.bytes;
        self.window.seconds += spent.seconds;
        self.window.bytes += spent.bytes;
        if self.window.seconds >= WINDOW_S * 0.999_999 {
            self.measured_rate = self.window.bytes / self.window.seconds;
            self.window = Spent::default();
        }
    }

    fn sync(&mut self) {
        self.now_s += self.scene.sync_s;
        self.window.seconds += self.scene.sync_s;
        let speed = 1.0 - self.throttle.share;
        let dirtied = self
            .memory
            .sync(self.scene, self.now_s, self.last_sync_s, speed);
        self.last_sync_s = self.now_s;
        self.syncs += 1;
        self.throttle.dirtied_bytes += dirtied * PAGE_BYTES;
        if self.scene.auto_converge {
            self.throttle.check(self.now_s);
        }
        self.headway.note(
            self.memory.pending * PAGE_BYTES / self.threshold_bytes().max(1.0),
            self.now_s,
        );
    }

    /// Whether nothing will change any more unless the limit does.
    fn steady(&self) -> bool {
        let throttles = self.scene.auto_converge && self.throttle.share < THROTTLE_MOST;
        self.headway.syncs_without >= STEADY_SYNCS
            && !throttles
            && !self.scene.profile.rises_with_stalls(self.headway.stalls)
    }

    /// Lets the steady state last until the profile next allows more; false if it never does.
    fn skip_to_next_limit(&mut self) -> bool {
        let Some(next_s) = self.scene.profile.next_change_s(self.now_s) else {
            return false;
        };
        if next_s > self.scene.timeout_s {
            return false;
        }
        let skipped_s = (next_s - self.now_s).max(0.0);
        let mean_sync_s = (self.now_s / self.syncs as f64).max(SLICE_S);
        self.now_s += skipped_s;
        self.last_sync_s += skipped_s;
        self.memory.shift(skipped_s);
        self.bytes += skipped_s * self.measured_rate;
        self.syncs += round_u64(skipped_s / mean_sync_s);
        self.headway.best = f64::INFINITY;
        self.headway.syncs_without = 0;
        true
    }

    /// Stops the guest, fetches the bitmap once more and sends what is left without the cap.
    fn switch_over(mut self) -> PrecopyRun {
        self.syncs += 1;
        let left = self.memory.left(self.scene.line_rate);
        let downtime_s = self.scene.fixed_downtime_s() + left.seconds;
        PrecopyRun {
            converged: true,
            total_s: self.scene.setup_s + self.now_s + downtime_s,
            downtime_s,
            bytes: self.bytes + left.bytes + self.scene.state_bytes,
            syncs: self.syncs,
            throttle: self.throttle.share,
            closest: self.headway.closest,
        }
    }

    fn given_up(self) -> PrecopyRun {
        PrecopyRun {
            converged: false,
            total_s: self.scene.timeout_s,
            downtime_s: 0.0,
            bytes: self.bytes + (self.scene.timeout_s - self.now_s).max(0.0) * self.measured_rate,
            syncs: self.syncs,
            throttle: self.throttle.share,
            closest: self.headway.closest,
        }
    }
}

impl Throttle {
    /// Slows the guest on every second look at which more than half of what was sent became dirty again.
    fn check(&mut self, now_s: f64) {
        if now_s - self.last_check_s < THROTTLE_CHECK_S {
            return;
        }
        if self.dirtied_bytes > 0.5 * self.sent_bytes {
            self.hits += 1;
            if self.hits >= 2 {
                self.hits = 0;
                self.share = if self.share > 0.0 {
                    (self.share + THROTTLE_STEP).min(THROTTLE_MOST)
                } else {
                    THROTTLE_FIRST
                };
            }
        }
        self.last_check_s = now_s;
        self.sent_bytes = 0.0;
        self.dirtied_bytes = 0.0;
    }
}

impl Headway {
    fn note(&mut self, over_threshold: f64, now_s: f64) {
        self.closest = self.closest.min(over_threshold);
        if over_threshold < self.best * HEADWAY {
            self.best = over_threshold;
            self.syncs_without = 0;
            return;
        }
        self.syncs_without += 1;
        // Those who raise the limit look about once a second, not at every sync.
        if now_s - self.last_stall_s >= 1.0 {
            self.last_stall_s = now_s;
            self.stalls += 1;
        }
    }
}

/// Bytes of so many pages on the wire.
pub(crate) fn wire_bytes(pages: f64) -> f64 {
    pages * PAGE_WIRE_BYTES
}
