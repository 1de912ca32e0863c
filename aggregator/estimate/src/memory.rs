//! Which pages are still to be sent, in expected values: cells in address order, classes of writers in
//! each. Knows neither thresholds nor limits.

use crate::dirty::CLASSES;
use crate::scene::{PAGE_BYTES, PAGE_WIRE_BYTES, Scene, ZERO_SCAN_S, ZERO_WIRE_BYTES};

/// The classes of writers and, last, the pages that nobody writes to.
pub(crate) const CLASS_SLOTS: usize = CLASSES + 1;
/// Cells per GiB, and the fewest and most of a guest.
const CELLS_PER_GIB: f64 = 4.0;
const CELLS_MIN: u32 = 16;
const CELLS_MAX: u32 = 64;
/// The piece of the dirty log that is cleared at once (QEMU's x-clear-bitmap-shift of 18 pages: 1 GiB).
const CHUNK_BYTES: f64 = 1_073_741_824.0;
/// Fewer pages than this in a cell are none.
const NOTHING_PAGES: f64 = 1e-6;

/// Time and bytes.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Spent {
    pub(crate) seconds: f64,
    pub(crate) bytes: f64,
}

#[derive(Debug, Clone)]
struct Cell {
    chunk: u32,
    /// When the log of its chunk was cleared since the last sync; infinite if it was not.
    cleared_s: f64,
    total: [f64; CLASS_SLOTS],
    at_sync: [f64; CLASS_SLOTS],
    pending: [f64; CLASS_SLOTS],
    zero: f64,
}

/// The memory of a guest and its devices.
#[derive(Debug, Clone)]
pub(crate) struct Memory {
    cells: Vec<Cell>,
    cursor: usize,
    /// Times that the cursor went round.
    pub(crate) passes: u32,
    /// Pages to be sent, zero pages among them.
    pub(crate) pending: f64,
    speeds: [f64; CLASSES],
}

impl Memory {
    /// Everything is to be sent. What is touched and written is spread evenly over the guest, for nobody
    /// knows where it lies; the memory of the devices comes last, for QEMU orders its blocks by size.
    pub(crate) fn new(scene: &Scene) -> Self {
        let gib = scene.guest_bytes / CHUNK_BYTES;
        let wanted = (gib * CELLS_PER_GIB).ceil();
        let count = (CELLS_MIN..CELLS_MAX)
            .find(|count| f64::from(*count) >= wanted)
            .unwrap_or(CELLS_MAX);
        let share = 1.0 / f64::from(count);
        let mut total = [0.0; CLASS_SLOTS];
        for (slot, class) in total.iter_mut().zip(scene.dirty.classes()) {
            *slot = class.bytes / PAGE_BYTES * share;
        }
        let written: f64 = total.iter().sum();
        let touched = (scene.touched_bytes / PAGE_BYTES * share).max(written);
        if let Some(unwritten) = total.last_mut() {
            *unwritten = touched - written;
        }
        let zero = (scene.guest_bytes / PAGE_BYTES * share - touched).max(0.0);
        let mut chunk = 0;
        let mut cells: Vec<Cell> = Vec::new();
        for index in 0..count {
            let begin = f64::from(index) * share * scene.guest_bytes;
            while f64::from(chunk + 1) * CHUNK_BYTES <= begin {
                chunk += 1;
            }
            cells.push(Cell::full(chunk, total, zero));
        }
        let device = scene.device_bytes / PAGE_BYTES;
        cells.push(Cell::full(chunk + 1, [0.0; CLASS_SLOTS], device));
        let speeds = scene.dirty.classes().map(|class| class.writes_per_s);
        let mut memory = Self {
            cells,
            cursor: 0,
            passes: 0,
            pending: 0.0,
            speeds,
        };
        memory.count();
        memory
    }

    /// Sends the cell under the cursor whole, unless that would leave no more than `far_pages`.
    pub(crate) fn send_cell(&mut self, scene: &Scene, now_s: f64, far_pages: f64) -> Option<Spent> {
        let cell = self.cells.get(self.cursor)?;
        if self.pending - cell.pages() <= far_pages {
            return None;
        }
        let all = Spent {
            seconds: f64::INFINITY,
            bytes: f64::INFINITY,
        };
        Some(self.send_share(scene, now_s, scene.cap_rate, all))
    }

    /// Sends in address order at the line's own rate until time or bytes are spent, or nothing is left.
    pub(crate) fn send_slice(&mut self, scene: &Scene, now_s: f64, budget: Spent) -> Spent {
        let mut all = Spent::default();
        for _ in 0..=self.cells.len() {
            let left = Spent {
                seconds: budget.seconds - all.seconds,
                bytes: budget.bytes - all.bytes,
            };
            if left.seconds <= budget.seconds * 1e-6 || left.bytes <= 1.0 {
                break;
            }
            let spent = self.send_share(scene, now_s + all.seconds, None, left);
            all.seconds += spent.seconds;
            all.bytes += spent.bytes;
        }
        all
    }

    /// Sends what the budget allows of the cell under the cursor and moves on once it is empty.
    fn send_share(
        &mut self,
        scene: &Scene,
        now_s: f64,
        cap_rate: Option<f64>,
        budget: Spent,
    ) -> Spent {
        let Some(cell) = self.cells.get(self.cursor) else {
            return Spent::default();
        };
        let pages = cell.pages();
        let mut spent = Spent::default();
        let mut emptied = true;
        if pages > NOTHING_PAGES {
            if cell.cleared_s.is_infinite() {
                self.clear_chunk(now_s);
            }
            if let Some(cell) = self.cells.get_mut(self.cursor) {
                let cost = cell.cost(scene.line_rate, cap_rate);
                let share = (budget.seconds / cost.seconds)
                    .min(budget.bytes / cost.bytes)
                    .min(1.0);
                emptied = share >= 1.0;
                cell.keep(1.0 - share);
                self.pending = (self.pending - pages * share).max(0.0);
                spent = Spent {
                    seconds: cost.seconds * share,
                    bytes: cost.bytes * share,
                };
            }
        }
        if emptied {
            self.cursor += 1;
            if self.cursor >= self.cells.len() {
                self.cursor = 0;
                self.passes += 1;
            }
        }
        spent
    }

    fn clear_chunk(&mut self, now_s: f64) {
        let Some(chunk) = self.cells.get(self.cursor).map(|cell| cell.chunk) else {
            return;
        };
        for cell in &mut self.cells {
            if cell.chunk == chunk {
                cell.cleared_s = now_s;
            }
        }
    }

    /// Fetches the bitmap: adds what became dirty since and returns how many pages that were.
    ///
    /// Pages sent since the last sync count from when their log was cleared (KVM) or from the last sync (TCG),
    /// pages that were clean from the last sync.
    pub(crate) fn sync(&mut self, scene: &Scene, now_s: f64, last_s: f64, speed: f64) -> f64 {
        let before = self.pending;
        let since_sync = self.dirty_shares(speed * (now_s - last_s));
        let mut since_clear = since_sync;
        let mut cleared_s = last_s;
        let chunked = scene.clears_in_chunks;
        let speeds = self.speeds;
        for cell in &mut self.cells {
            if chunked && cell.cleared_s.is_finite() && !same(cell.cleared_s, cleared_s) {
                cleared_s = cell.cleared_s;
                since_clear = shares(&speeds, speed * (now_s - cleared_s));
            }
            cell.redirty(&since_clear, &since_sync);
            cell.cleared_s = f64::INFINITY;
        }
        self.count();
        self.pending - before
    }

    /// Moves all remembered instants.
    pub(crate) fn shift(&mut self, seconds: f64) {
        for cell in &mut self.cells {
            cell.cleared_s += seconds;
        }
    }

    /// Returns what sending all that is left costs at the line's own rate.
    pub(crate) fn left(&self, line_rate: f64) -> Spent {
        let mut all = Spent::default();
        for cell in &self.cells {
            let cost = cell.cost(line_rate, None);
            all.seconds += cost.seconds;
            all.bytes += cost.bytes;
        }
        all
    }

    pub(crate) fn pending_by_class(&self) -> [f64; CLASS_SLOTS] {
        let mut sums = [0.0; CLASS_SLOTS];
        for cell in &self.cells {
            for (sum, pages) in sums.iter_mut().zip(cell.pending) {
                *sum += pages;
            }
        }
        sums
    }

    pub(crate) fn pending_zero(&self) -> f64 {
        self.cells.iter().map(|cell| cell.zero).sum()
    }

    fn dirty_shares(&self, seconds: f64) -> [f64; CLASSES] {
        shares(&self.speeds, seconds)
    }

    fn count(&mut self) {
        self.pending = self.cells.iter().map(Cell::pages).sum();
    }
}

/// Share of each class that is written to within a time.
fn shares(speeds: &[f64; CLASSES], seconds: f64) -> [f64; CLASSES] {
    speeds.map(|speed| -(-speed * seconds.max(0.0)).exp_m1())
}

/// Whether two instants are the same clearing.
fn same(one: f64, other: f64) -> bool {
    (one - other).abs() < 1e-12
}

impl Cell {
    fn full(chunk: u32, total: [f64; CLASS_SLOTS], zero: f64) -> Self {
        Self {
            chunk,
            cleared_s: f64::INFINITY,
            total,
            at_sync: total,
            pending: total,
            zero,
        }
    }

    fn normal(&self) -> f64 {
        self.pending.iter().sum()
    }

    fn pages(&self) -> f64 {
        self.normal() + self.zero
    }

    fn cost(&self, line_rate: f64, cap_rate: Option<f64>) -> Spent {
        let normal_bytes = self.normal() * PAGE_WIRE_BYTES;
        let zero_s = (ZERO_WIRE_BYTES / line_rate).max(ZERO_SCAN_S);
        let bytes = normal_bytes + self.zero * ZERO_WIRE_BYTES;
        let line_s = normal_bytes / line_rate + self.zero * zero_s;
        let capped_s = cap_rate.map_or(0.0, |cap| bytes / cap);
        Spent {
            seconds: line_s.max(capped_s),
            bytes,
        }
    }

    fn keep(&mut self, share: f64) {
        for pages in &mut self.pending {
            *pages *= share;
        }
        self.zero *= share;
    }

    fn redirty(&mut self, since_clear: &[f64; CLASSES], since_sync: &[f64; CLASSES]) {
        let slots = self.pending.iter_mut().zip(&mut self.at_sync);
        let shares = since_clear.iter().zip(since_sync);
        for (((pending, at_sync), total), (sent_share, clean_share)) in
            slots.zip(&self.total).zip(shares)
        {
            let sent = (*at_sync - *pending).max(0.0);
            let clean = (*total - *at_sync).max(0.0);
            *pending = (*pending + sent * sent_share + clean * clean_share).min(*total);
            *at_sync = *pending;
        }
        // The pages that nobody writes to are beyond the shares: once sent they stay clean.
        if let (Some(pending), Some(at_sync)) = (self.pending.last(), self.at_sync.last_mut()) {
            *at_sync = *pending;
        }
    }
}
