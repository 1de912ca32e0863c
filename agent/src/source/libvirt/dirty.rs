//! Dirty rates: when a domain is measured, and what a measurement is worth.
//!
//! A result is taken only if it is proven to be that of the measurement just started; libvirt shows
//! the result of last week just as readily.

use std::time::Duration;

use plimsoll_libvirt::{
    CallError, Connection, DirtyRateMode, DomainRef, StatsFlags, StatsGroups, TypedParams,
};
use plimsoll_model::{
    ByteSize, Clock, DirtyRate, Metric, Monotonic, Subject, Sweep, UnixMillis, Window,
};

use crate::look::Values;

const STATUS_MEASURED: i64 = 2;
/// Samples that QEMU takes of each GiB when libvirt asks.
const SAMPLES_PER_GIB: u128 = 512;
const START_DEADLINE: Duration = Duration::from_secs(5);
const RESULT_LOOKS: u32 = 8;
const RESULT_PAUSE: Duration = Duration::from_millis(250);
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

/// What a measurement gave.
#[derive(Debug)]
pub(super) enum Outcome {
    /// A rate, and when the measurement ended.
    Measured(DirtyRate, UnixMillis),
    /// A result that is not proven to be of this measurement.
    NotOurs,
    /// No result.
    Failed(CallError),
}

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

    /// Notes an end; gives the windows of the turn once it is whole.
    pub(super) fn end(
        &mut self,
        measured: Option<(Duration, DirtyRate)>,
        now: Monotonic,
        (windows, every): (usize, Duration),
    ) -> Option<Vec<(Duration, u64)>> {
        self.measuring = false;
        let Some((window, rate)) = measured else {
            // The same window again, but not at once.
            self.due = Some(now.plus(every.min(Duration::from_secs(10))));
            return None;
        };
        self.turn.push((window, rate.bytes_per_second()));
        self.next_window += 1;
        if self.next_window < windows {
            self.due = Some(now);
            return None;
        }
        self.next_window = 0;
        self.due = Some(now.plus(every));
        Some(std::mem::take(&mut self.turn))
    }
}

/// Measures one domain once.
pub(super) async fn measure(
    connection: Connection,
    order: Order,
    deadline: Duration,
    clock: std::sync::Arc<dyn Clock>,
) -> Outcome {
    match attempt(&connection, &order, deadline).await {
        Ok(Some(rate)) => Outcome::Measured(rate, clock.now()),
        Ok(None) => Outcome::NotOurs,
        Err(error) => Outcome::Failed(error),
    }
}

async fn attempt(
    connection: &Connection,
    order: &Order,
    deadline: Duration,
) -> Result<Option<DirtyRate>, CallError> {
    let look = || {
        connection.domain_stats(
            &order.domain,
            StatsGroups::DIRTYRATE,
            StatsFlags::NOWAIT,
            deadline,
        )
    };
    let before = look().await?.i64("dirtyrate.calc_start_time");
    let seconds = order.window.as_secs();
    let asked = u8::try_from(seconds).unwrap_or(60);
    connection
        .start_dirty_rate_calc(
            &order.domain,
            asked,
            DirtyRateMode::PageSampling,
            START_DEADLINE,
        )
        .await?;
    tokio::time::sleep(order.window).await;
    for _ in 0..RESULT_LOOKS {
        tokio::time::sleep(RESULT_PAUSE).await;
        if let Some(rate) = proven(&look().await?, before, seconds) {
            return Ok(Some(rate));
        }
    }
    Ok(None)
}

/// Takes a result that was measured, over the window asked for, and began after the one before.
fn proven(params: &TypedParams, before: Option<i64>, seconds: u64) -> Option<DirtyRate> {
    let measured = params.i64("dirtyrate.calc_status") == Some(STATUS_MEASURED);
    let asked = params.u64("dirtyrate.calc_period") == Some(seconds);
    let started = params.i64("dirtyrate.calc_start_time");
    if !measured || !asked || started.is_none() || started == before {
        return None;
    }
    params
        .u64("dirtyrate.megabytes_per_second")
        .map(DirtyRate::from_mib_per_second)
}

/// Renders a measurement as readings.
pub(super) fn sweep(
    subject: Subject,
    (order, rate): (&Order, DirtyRate),
    ended: UnixMillis,
    memory: Option<ByteSize>,
) -> Option<Sweep> {
    let width_ms = u32::try_from(order.window.as_millis()).unwrap_or(u32::MAX);
    let mut values = Values::default();
    values.indexed(Metric::VmDirtyRate, width_ms, rate.bytes_per_second());
    values.indexed(Metric::VmDirtyMode, width_ms, 0);
    let started = u64::try_from(order.started.millis()).unwrap_or(0);
    values.indexed(Metric::VmDirtyStartedAt, width_ms, started);
    if let Some(sd) = memory.and_then(|memory| sample_sd(rate, order.window, memory)) {
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
fn sample_sd(rate: DirtyRate, window: Duration, memory: ByteSize) -> Option<u64> {
    let memory = u128::from(memory.bytes());
    let window_ms = window.as_millis();
    if memory == 0 || window_ms == 0 {
        return None;
    }
    let dirty = (u128::from(rate.bytes_per_second()) * window_ms / 1_000).min(memory);
    let samples = ((SAMPLES_PER_GIB * memory) >> 30).max(1);
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
    use plimsoll_libvirt::TypedValue;

    use super::*;

    const MIB: u64 = 1 << 20;

    fn result(status: i32, period: i32, start: i64) -> TypedParams {
        TypedParams::new(vec![
            ("dirtyrate.calc_status".to_owned(), TypedValue::Int(status)),
            ("dirtyrate.calc_period".to_owned(), TypedValue::Int(period)),
            (
                "dirtyrate.calc_start_time".to_owned(),
                TypedValue::Long(start),
            ),
            (
                "dirtyrate.megabytes_per_second".to_owned(),
                TypedValue::Long(7),
            ),
        ])
    }

    #[test]
    fn only_a_result_that_is_proven_to_be_ours_is_taken() {
        let ours = Some(DirtyRate::from_mib_per_second(7));
        assert_eq!(proven(&result(2, 1, 100), Some(90), 1), ours);
        assert_eq!(proven(&result(2, 1, 100), None, 1), ours);
        assert_eq!(
            proven(&result(2, 1, 100), Some(100), 1),
            None,
            "last week's"
        );
        assert_eq!(
            proven(&result(2, 5, 100), Some(90), 1),
            None,
            "somebody else's window"
        );
        assert_eq!(
            proven(&result(1, 1, 100), Some(90), 1),
            None,
            "still measuring"
        );
    }

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
        let sd = sample_sd(
            DirtyRate::from_mib_per_second(20),
            Duration::from_secs(1),
            memory,
        )
        .unwrap();
        // sqrt(20 * 492 / 256) = 6.2 MiB/s.
        assert!((6 * MIB..7 * MIB).contains(&sd), "{sd}");
    }
}
