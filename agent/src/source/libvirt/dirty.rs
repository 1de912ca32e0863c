//! Dirty rates: when a domain is measured and by whom, and what a measurement is worth. How it is done
//! is told in [`crate::measure`].

use std::path::PathBuf;
use std::time::Duration;

use plimsoll_libvirt::{Connection, DomainRef};
use plimsoll_model::{ByteSize, DirtyRate, Metric, Monotonic, Subject, Sweep, UnixMillis, Window};

use crate::config::{Access, Dirty, Libvirt};
use crate::errand;
use crate::look::Values;
use crate::measure::{self, MeasureError, Measured, Sampling};

/// Least dirty memory from which a fit is made.
const FIT_BYTES_MIN: u64 = 4 << 20;

/// Where a domain is in its turn of windows.
#[derive(Debug, Default)]
pub(super) struct Plan {
    next_window: usize,
    due: Option<Monotonic>,
    measuring: bool,
    /// Window and rate of this turn.
    turn: Vec<(Duration, u64)>,
}

/// A measurement that was asked for.
#[derive(Debug, Clone)]
pub(super) struct Order {
    pub(super) domain: DomainRef,
    pub(super) window: Duration,
    pub(super) started: UnixMillis,
}

/// What a measurement gave, and when it ended.
pub(super) type Outcome = Result<(Measured, UnixMillis), MeasureError>;

impl Plan {
    /// When the domain should be measured next; at once if it never was.
    pub(super) fn due(&self) -> Option<Monotonic> {
        if self.measuring {
            None
        } else {
            Some(self.due.unwrap_or(Monotonic::from_duration(Duration::ZERO)))
        }
    }

    /// Takes the next window.
    pub(super) fn begin(&mut self, windows: &[Duration]) -> Option<Duration> {
        let window = windows
            .get(self.next_window % windows.len().max(1))
            .copied()?;
        self.measuring = true;
        Some(window)
    }

    /// Notes an end; gives the windows of the turn that were measured once it is over.
    pub(super) fn end(
        &mut self,
        measured: Option<(Duration, DirtyRate)>,
        now: Monotonic,
        (windows, every): (usize, Duration),
    ) -> Option<Vec<(Duration, u64)>> {
        self.measuring = false;
        // After a failure the next window, but not at once: one that this QEMU cannot measure must not keep
        // the others back.
        let mut rest = every.min(Duration::from_secs(10));
        if let Some((window, rate)) = measured {
            self.turn.push((window, rate.bytes_per_second()));
            rest = Duration::ZERO;
        }
        self.next_window += 1;
        if self.next_window < windows {
            self.due = Some(now.plus(rest));
            return None;
        }
        self.next_window = 0;
        if !self.turn.is_empty() {
            rest = every;
        }
        self.due = Some(now.plus(rest));
        Some(std::mem::take(&mut self.turn))
    }
}

/// Who measures.
#[derive(Debug, Clone)]
pub(super) enum Way {
    /// The agent itself.
    Own(Sampling),
    /// The helper behind a socket.
    Helper(PathBuf),
}

/// Returns who may measure; absent if nobody may.
pub(super) fn way(libvirt: &Libvirt, dirty: &Dirty) -> Option<Way> {
    if let Some(socket) = &dirty.helper {
        return Some(Way::Helper(socket.clone()));
    }
    let sampling = dirty.sample_pages.map_or(Sampling::Libvirt, Sampling::Qmp);
    (libvirt.access == Access::ReadWrite).then_some(Way::Own(sampling))
}

/// Measures one domain once.
pub(super) async fn measure(
    connection: &Connection,
    order: &Order,
    way: &Way,
    deadline: Duration,
) -> Result<Measured, MeasureError> {
    match way {
        Way::Helper(socket) => errand::ask(socket, order.domain.uuid, order.window).await,
        Way::Own(sampling) => {
            let asked = measure::Order {
                domain: &order.domain,
                window: order.window,
                sampling: *sampling,
                deadline,
            };
            measure::measure(connection, &asked).await
        }
    }
}

/// Renders a measurement as readings.
pub(super) fn sweep(
    subject: Subject,
    (order, measured): (&Order, &Measured),
    ended: UnixMillis,
    memory: Option<ByteSize>,
) -> Option<Sweep> {
    let width_ms = u32::try_from(order.window.as_millis()).unwrap_or(u32::MAX);
    let mut values = Values::default();
    let rate = measured.rate;
    values.indexed(Metric::VmDirtyRate, width_ms, rate.bytes_per_second());
    values.indexed(Metric::VmDirtyMode, width_ms, measured.mode);
    values.indexed(Metric::VmDirtyStatus, width_ms, measured.status);
    let pages_per_gib = u64::from(measured.pages_per_gib);
    values.indexed(Metric::VmDirtySamplePages, width_ms, pages_per_gib);
    let started = u64::try_from(order.started.millis()).unwrap_or(0);
    values.indexed(Metric::VmDirtyStartedAt, width_ms, started);
    let spread = |memory| sample_sd(measured, order.window, memory);
    if let Some(sd) = memory.and_then(spread) {
        values.indexed(Metric::VmDirtySampleSd, width_ms, sd);
    }
    values.sweep(
        subject,
        Window {
            end: ended,
            width_ms,
        },
    )
}

/// Returns the standard deviation that drawing pages and cutting to whole MiB/s explain.
fn sample_sd(measured: &Measured, window: Duration, memory: ByteSize) -> Option<u64> {
    let memory = u128::from(memory.bytes());
    let window_ms = window.as_millis();
    if memory == 0 || window_ms == 0 {
        return None;
    }
    let dirty = (u128::from(measured.rate.bytes_per_second()) * window_ms / 1_000).min(memory);
    let samples = ((u128::from(measured.pages_per_gib) * memory) >> 30).max(1);
    // No page found dirty is not proof of none: at least half a sample's worth is unknown.
    let dirty = dirty.max(memory / samples / 2).min(memory);
    let drawing = (dirty * (memory - dirty) / samples).isqrt() * 1_000 / window_ms;
    let cutting = (1_u128 << 20) * 1_000 / 3_464;
    u64::try_from((drawing * drawing + cutting * cutting).isqrt()).ok()
}

/// Fits D(T) = min(r T, W) to the shortest and the longest window; absent where they tell nothing.
pub(super) fn fit(turn: &[(Duration, u64)]) -> Values {
    let mut values = Values::default();
    let dirty = |(window, rate): &(Duration, u64)| {
        u64::try_from(u128::from(*rate) * window.as_millis() / 1_000).unwrap_or(u64::MAX)
    };
    let (Some(short), Some(long)) = (
        turn.iter().min_by_key(|(w, _)| *w),
        turn.iter().max_by_key(|(w, _)| *w),
    ) else {
        return values;
    };
    let (short_dirty, long_dirty) = (dirty(short), dirty(long));
    // A straight line means that the working set is larger than was seen.
    let straight = u128::from(short_dirty) * long.0.as_millis() / short.0.as_millis().max(1);
    if short_dirty < FIT_BYTES_MIN || u128::from(long_dirty) * 10 >= straight * 8 {
        return values;
    }
    let set = short_dirty.max(long_dirty);
    values.whole(Metric::VmDirtyWss, set);
    if u128::from(short_dirty) * 10 < u128::from(set) * 9 {
        values.whole(Metric::VmDirtyHotRate, short.1);
    }
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn a_turn_goes_through_all_windows_and_then_rests() {
        let windows = [Duration::from_secs(1), Duration::from_secs(5)];
        let at = |seconds| Monotonic::from_duration(Duration::from_secs(seconds));
        let settings = (2, Duration::from_secs(60));
        let mut plan = Plan::default();
        assert_eq!(plan.begin(&windows), Some(windows[0]));
        assert_eq!(plan.due(), None, "one measurement at a time");
        let rate = DirtyRate::from_mib_per_second(9);
        assert_eq!(plan.end(Some((windows[0], rate)), at(2), settings), None);
        assert_eq!(plan.due(), Some(at(2)));
        assert_eq!(plan.begin(&windows), Some(windows[1]));
        assert_eq!(
            plan.end(Some((windows[1], rate)), at(8), settings)
                .unwrap()
                .len(),
            2
        );
        assert_eq!(plan.due(), Some(at(68)));
    }

    #[test]
    fn a_window_that_cannot_be_measured_does_not_keep_the_others_back() {
        let windows = [Duration::from_millis(500), Duration::from_secs(2)];
        let at = |seconds| Monotonic::from_duration(Duration::from_secs(seconds));
        let settings = (2, Duration::from_secs(60));
        let mut plan = Plan::default();
        assert_eq!(plan.begin(&windows), Some(windows[0]));
        assert_eq!(plan.end(None, at(1), settings), None);
        assert_eq!(plan.due(), Some(at(11)), "not at once");
        assert_eq!(plan.begin(&windows), Some(windows[1]));
        let rate = DirtyRate::from_mib_per_second(9);
        let turn = plan.end(Some((windows[1], rate)), at(13), settings);
        assert_eq!(turn, Some(vec![(windows[1], rate.bytes_per_second())]));
        assert_eq!(plan.due(), Some(at(73)));
        for window in windows {
            assert_eq!(plan.begin(&windows), Some(window));
            plan.end(None, at(80), settings);
        }
        assert_eq!(plan.due(), Some(at(90)), "nothing was measured at all");
    }

    #[test]
    fn a_fast_writer_of_a_small_set_is_told_from_a_slow_one() {
        let turn = |short: u64, long: u64| {
            [
                (Duration::from_secs(1), short * MIB),
                (Duration::from_secs(5), long * MIB),
            ]
        };
        let told = |turn: [(Duration, u64); 2]| {
            let window = Window {
                end: UnixMillis::from_millis(1),
                width_ms: 0,
            };
            let node = Subject::Node(plimsoll_model::NodeId::random());
            let sweep = fit(&turn).sweep(node, window);
            sweep.map(|sweep| {
                sweep
                    .values
                    .iter()
                    .map(|(m, _, v)| (*m, *v))
                    .collect::<Vec<_>>()
            })
        };
        assert_eq!(
            told(turn(64, 12)),
            Some(vec![(Metric::VmDirtyWss, 64 * MIB)])
        );
        assert_eq!(told(turn(20, 19)), None, "a straight line");
        let both = vec![
            (Metric::VmDirtyWss, 60 * MIB),
            (Metric::VmDirtyHotRate, 30 * MIB),
        ];
        assert_eq!(told(turn(30, 12)), Some(both));
    }

    #[test]
    fn the_noise_of_sampling_is_about_what_was_measured() {
        let memory = ByteSize::from_mib(512);
        let sd = |pages_per_gib| {
            let measured = Measured {
                rate: DirtyRate::from_mib_per_second(20),
                pages_per_gib,
                mode: 0,
                status: 2,
            };
            sample_sd(&measured, Duration::from_secs(1), memory).unwrap()
        };
        // sqrt(20 * 492 / 256) = 6.2 MiB/s.
        assert!((6 * MIB..7 * MIB).contains(&sd(512)), "{}", sd(512));
        // A fifth or so of it with 32 times the samples; the whole MiB/s keeps the rest.
        assert!((MIB..2 * MIB).contains(&sd(16_384)), "{}", sd(16_384));
    }
}
