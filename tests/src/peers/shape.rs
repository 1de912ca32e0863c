//! Samples shaped like the telemetry of guests: counters of ticks and bytes, slow gauges, constants.
//! Everything follows from a number, so what was fed can be made again to hold an answer against it.

use plimsoll_model::Metric;
use uuid::Uuid;

/// Guests of one node.
pub const GUESTS: u32 = 50;
/// Series of one guest.
pub const COLUMNS: usize = 20;
/// Series of one node.
pub const NODE_SERIES: u64 = 1_000;

/// The series of a guest: 7 counters of clock ticks, 4 of bytes, 4 gauges, 5 constants.
pub const SERIES: [(Metric, &str); COLUMNS] = [
    (Metric::VmCpuTime, ""),
    (Metric::VmCpuUser, ""),
    (Metric::VmCpuSystem, ""),
    (Metric::VmVcpuTime, "0"),
    (Metric::VmBlockRdTime, "vda"),
    (Metric::VmBlockWrTime, "vda"),
    (Metric::VmBlockFlTime, "vda"),
    (Metric::VmBlockRdBytes, "vda"),
    (Metric::VmBlockWrBytes, "vda"),
    (Metric::VmNetRxBytes, "net0"),
    (Metric::VmNetTxBytes, "net0"),
    (Metric::VmMemRss, ""),
    (Metric::VmMemTouched, ""),
    (Metric::VmMemGuestUsable, ""),
    (Metric::VmMemGuestUnused, ""),
    (Metric::VmVcpuCount, ""),
    (Metric::VmVcpuMax, ""),
    (Metric::VmMemCurrent, ""),
    (Metric::VmMemMax, ""),
    (Metric::VmBlockCapacity, "vda"),
];

/// How much is fed.
#[derive(Debug, Clone, Copy)]
pub struct Size {
    /// Nodes, each of [`NODE_SERIES`] series.
    pub nodes: u32,
    /// Samples of each series.
    pub rows: u32,
    /// Time between them.
    pub interval_ms: i64,
    /// When the first is read.
    pub begin_ms: i64,
}

impl Size {
    /// Counts the samples of some rows.
    pub fn samples(&self, rows: u32) -> u64 {
        u64::from(self.nodes) * NODE_SERIES * u64::from(rows)
    }

    /// When the reads of a row begin.
    pub fn row_ms(&self, row: u32) -> i64 {
        self.begin_ms + i64::from(row) * self.interval_ms
    }

    /// An instant when the first `rows` rows have been read.
    pub fn after_ms(&self, rows: u32) -> i64 {
        self.row_ms(rows.saturating_sub(1)) + JITTER_MS
    }

    /// Makes the samples of one series again: instants and values.
    pub fn truth(&self, guest: u32, column: usize, rows: std::ops::Range<u32>) -> Vec<(i64, i64)> {
        let mut made = Guest::new(guest);
        let mut all = Vec::new();
        for row in 0..rows.end {
            let late_ms = made.step();
            if rows.contains(&row) {
                let value = made.values.get(column).copied().unwrap_or_default();
                all.push((self.row_ms(row) + late_ms, value));
            }
        }
        all
    }
}

/// A read ends up to so long after its row began.
const JITTER_MS: i64 = 20;

fn id(kind: u64, number: u32) -> Uuid {
    // A spread of the bits as of random ids, so that no engine profits from order.
    let spread = u64::from(number + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    Uuid::from_u64_pair(kind ^ spread, spread.rotate_left(29) | 1)
}

/// The id of a node.
pub fn node_id(node: u32) -> Uuid {
    id(0x6e6f_6465_0000_4000, node)
}

/// The id of a guest; guests are numbered through all nodes.
pub fn guest_id(guest: u32) -> Uuid {
    id(0x7669_7274_0000_4000, guest)
}

/// A guest and where its series stand.
#[derive(Debug, Clone)]
pub struct Guest {
    /// Its number.
    pub number: u32,
    /// The values of its series now.
    pub values: [i64; COLUMNS],
    random: u64,
}

impl Guest {
    /// A guest before its first sample.
    pub fn new(number: u32) -> Self {
        Self {
            number,
            values: [1 << 30; COLUMNS],
            random: u64::from(number + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
        }
    }

    fn below(&mut self, limit: i64) -> i64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random >> 1).cast_signed() % limit
    }

    /// Moves on by one interval; returns how late the read ends.
    pub fn step(&mut self) -> i64 {
        for column in 0..COLUMNS - 5 {
            let step = match column {
                0..=6 => self.below(400) * 10_000_000,
                7..=10 => self.below(200_000),
                _ if self.below(8) == 0 => (self.below(127) - 63) * 4_096,
                _ => 0,
            };
            if let Some(value) = self.values.get_mut(column) {
                *value += step;
            }
        }
        self.below(JITTER_MS)
    }
}

/// The name under which the peers know a metric.
pub fn peer_name(metric: Metric) -> String {
    format!("plimsoll_{}", metric.name().replace('.', "_"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_series_made_again_is_the_same_and_a_part_of_it_too() {
        let size = Size {
            nodes: 1,
            rows: 50,
            interval_ms: 10_000,
            begin_ms: 1_000,
        };
        let whole = size.truth(7, 0, 0..50);
        assert_eq!(size.truth(7, 0, 40..50), whole[40..]);
        assert!(
            whole
                .windows(2)
                .all(|pair| pair[0].0 < pair[1].0 && pair[0].1 <= pair[1].1)
        );
        assert_ne!(size.truth(8, 0, 0..50), whole);
    }
}
