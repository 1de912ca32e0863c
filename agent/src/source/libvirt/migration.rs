//! From libvirt's events and job statistics to one start and one end of each migration.
//!
//! Pure: it makes no calls. The end is told once, whatever comes twice or not at all.

use std::time::Duration;

use plimsoll_libvirt::{TypedParams, job, job::JobStats};
use plimsoll_model::{
    Bandwidth, ByteSize, DirtyRate, Iteration, Metric, MigrationEnd, MigrationEnded, MigrationRole,
    Subject, Sweep, UnixMillis, Window,
};

use crate::look::Values;

/// Looks at a job that is no more before the migration counts as called off.
const IDLE_LOOKS: u8 = 2;
/// Time that a vanished domain leaves for the event of completion.
const LAST_WORD: Duration = Duration::from_secs(3);
/// Longest time a coming domain counts as on its way.
const ARRIVAL_MAX: Duration = Duration::from_secs(3_600);

/// A pass that was shorter tells more of the time of the look than of the guest.
const PASS_MS_MIN: u64 = 50;
/// QEMU counts its own rate anew after this time, and not before.
const QEMU_RATE_MS_MIN: u64 = 1_000;

/// A migration under way.
#[derive(Debug)]
pub(super) struct Migration {
    pub(super) role: MigrationRole,
    pub(super) started: UnixMillis,
    /// Whether its start was told.
    pub(super) announced: bool,
    /// What the last look at the job told.
    last: TypedParams,
    last_iteration: u32,
    /// Number and time of the last pass of which the time was read.
    last_pass: Option<(u32, u64)>,
    idle_looks: u8,
    vanished: Option<(UnixMillis, MigrationEnd)>,
}

impl Migration {
    pub(super) fn begin(role: MigrationRole, started: UnixMillis) -> Self {
        Self {
            role,
            started,
            announced: false,
            last: TypedParams::default(),
            last_iteration: 0,
            last_pass: None,
            idle_looks: 0,
            vanished: None,
        }
    }

    /// Notes a pass; gives what was made dirty during the one before it, and at the end of the first the
    /// share of memory that it found to be zero.
    pub(super) fn pass(
        &mut self,
        iteration: &Iteration,
        params: Option<&TypedParams>,
        values: &mut Values,
    ) -> Option<Dirtied> {
        let number = iteration.number;
        let is_first = self.last_iteration <= 1 && number == 2;
        self.last_iteration = self.last_iteration.max(number);
        if is_first && let Some(share) = params.and_then(zero_counted) {
            values.whole(Metric::VmMemZeroCounted, share);
        }
        let before = iteration.elapsed_ms.and_then(|elapsed_ms| {
            let last = self.last_pass.replace((number, elapsed_ms))?;
            (last.0.checked_add(1) == Some(number)).then_some((last.1, elapsed_ms))
        });
        // A guest that auto-converge slows down writes as it never would alone.
        let is_throttled = params
            .and_then(|params| params.u64(job::AUTO_CONVERGE_THROTTLE))
            .is_some_and(|percent| percent > 0);
        let (begin_ms, end_ms) = before.filter(|_| !is_throttled)?;
        Dirtied::over(end_ms.checked_sub(begin_ms)?, iteration)
    }

    /// Notes a look at the job; gives the end once the job is gone while the domain is still here.
    pub(super) fn looked(&mut self, kind: i32, params: TypedParams) -> Option<MigrationEnded> {
        if self.vanished.is_some() {
            return None;
        }
        if kind == job::kind::NONE {
            self.idle_looks = self.idle_looks.saturating_add(1);
            return (self.idle_looks >= IDLE_LOOKS).then(|| self.end(MigrationEnd::Aborted));
        }
        self.idle_looks = 0;
        self.last = params;
        None
    }

    /// Notes that the domain stopped here.
    pub(super) fn stopped(&mut self, now: UnixMillis, migrated: bool) {
        let end = if migrated {
            MigrationEnd::Completed
        } else {
            MigrationEnd::Failed
        };
        self.vanished.get_or_insert((now, end));
    }

    /// Gives the end of a migration whose domain is gone and of which no event told.
    pub(super) fn overdue(&self, now: UnixMillis) -> Option<MigrationEnded> {
        let (at, end) = self.vanished?;
        (now.since(at) >= LAST_WORD).then(|| self.end(end))
    }

    /// Whether a coming domain has been on its way for too long to believe it.
    pub(super) fn is_stale(&self, now: UnixMillis) -> bool {
        self.role == MigrationRole::Target && now.since(self.started) >= ARRIVAL_MAX
    }

    /// Makes the end that an event of completion tells.
    pub(super) fn completed(&self, params: &TypedParams) -> MigrationEnded {
        let failed = params.bool("success") == Some(false);
        let end = if failed {
            MigrationEnd::Failed
        } else {
            MigrationEnd::Completed
        };
        let mut ended = outcome(params, end, self.started);
        let iterations = Some(self.last_iteration).filter(|number| *number > 0);
        ended.iterations = ended.iterations.or(iterations);
        ended
    }

    fn end(&self, end: MigrationEnd) -> MigrationEnded {
        let mut ended = outcome(&self.last, end, self.started);
        // While a job runs its downtime is a guess and its time is not the whole.
        ended.downtime_ms = None;
        if end != MigrationEnd::Aborted {
            ended.total_ms = None;
        }
        ended
    }
}

fn outcome(params: &TypedParams, end: MigrationEnd, started: UnixMillis) -> MigrationEnded {
    let bytes = |name| params.u64(name).map(ByteSize::from_bytes);
    MigrationEnded {
        end,
        started,
        total_ms: params
            .u64(job::TIME_ELAPSED_NET)
            .or_else(|| params.u64(job::TIME_ELAPSED)),
        downtime_ms: params
            .u64(job::DOWNTIME_NET)
            .or_else(|| params.u64(job::DOWNTIME)),
        setup_ms: params.u64(job::SETUP_TIME),
        iterations: params
            .u64(job::MEMORY_ITERATION)
            .and_then(|number| u32::try_from(number).ok()),
        memory_total: bytes(job::MEMORY_TOTAL),
        memory_processed: bytes(job::MEMORY_PROCESSED),
        memory_normal: bytes(job::MEMORY_NORMAL_BYTES),
        zero_page_count: params.u64(job::MEMORY_CONSTANT),
        throughput: params
            .u64(job::MEMORY_BPS)
            .map(Bandwidth::from_bytes_per_second),
    }
}

/// Unique memory made dirty within a time: a point on the curve that costs nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Dirtied {
    width_ms: u32,
    rate: DirtyRate,
}

impl Dirtied {
    fn over(width_ms: u64, next: &Iteration) -> Option<Self> {
        if width_ms < PASS_MS_MIN {
            return None;
        }
        // QEMU's own rate is counted over a second at least; what a shorter pass left behind is what it
        // has to send next.
        let counted = next.dirty_rate.filter(|_| width_ms >= QEMU_RATE_MS_MIN);
        let left = next.remaining.and_then(|left| {
            let per_second = u128::from(left.bytes()) * 1_000 / u128::from(width_ms);
            u64::try_from(per_second).ok()
        });
        Some(Self {
            width_ms: u32::try_from(width_ms).ok()?,
            rate: counted.or(left.map(DirtyRate::from_bytes_per_second))?,
        })
    }

    /// Renders it as a reading whose window is the pass.
    pub(super) fn sweep(self, subject: Subject, end: UnixMillis) -> Option<Sweep> {
        let mut values = Values::default();
        values.whole(Metric::VmDirtyPassRate, self.rate.bytes_per_second());
        let width_ms = self.width_ms;
        values.sweep(subject, Window { end, width_ms })
    }
}

/// Returns the share of memory that is zero, in millionths, as the pages sent so far tell it.
fn zero_counted(params: &TypedParams) -> Option<u64> {
    let zero = params.u64(job::MEMORY_CONSTANT)?;
    let total = params.u64(job::MEMORY_TOTAL)?;
    let zero = u128::from(zero) * u128::from(params.u64(job::MEMORY_PAGE_SIZE)?);
    let share = (zero * 1_000_000).checked_div(u128::from(total))?;
    u64::try_from(share.min(1_000_000)).ok()
}

/// Returns for how long a domain has been leaving; absent if it is not.
pub(super) fn leaving_since(stats: &JobStats) -> Option<Duration> {
    let is_running = matches!(stats.kind, job::kind::BOUNDED | job::kind::UNBOUNDED);
    let operation = stats.params.i64(job::OPERATION);
    let is_leaving = operation == Some(i64::from(job::operation::MIGRATION_OUT));
    let elapsed = stats.params.u64(job::TIME_ELAPSED).unwrap_or(0);
    (is_running && is_leaving).then(|| Duration::from_millis(elapsed))
}

/// Makes a pass from its number and what the job told of it.
pub(super) fn iteration(number: u32, params: Option<&TypedParams>) -> Iteration {
    let value = |name| params.and_then(|params| params.u64(name));
    // In the first pass nothing was counted yet: 0 there means not known.
    let pages = value(job::MEMORY_DIRTY_RATE).filter(|pages| number > 1 || *pages > 0);
    let rate = pages.zip(value(job::MEMORY_PAGE_SIZE));
    Iteration {
        number,
        elapsed_ms: value(job::TIME_ELAPSED),
        remaining: value(job::MEMORY_REMAINING).map(ByteSize::from_bytes),
        dirty_rate: rate
            .map(|(pages, size)| DirtyRate::from_bytes_per_second(pages.saturating_mul(size))),
    }
}

#[cfg(test)]
mod tests {
    use plimsoll_libvirt::TypedValue;

    use super::*;

    fn params(entries: &[(&str, u64)]) -> TypedParams {
        let entry = |(name, value): &(&str, u64)| ((*name).to_owned(), TypedValue::ULong(*value));
        TypedParams::new(entries.iter().map(entry).collect())
    }

    fn at(millis: i64) -> UnixMillis {
        UnixMillis::from_millis(millis)
    }

    #[test]
    fn a_job_that_is_gone_while_the_domain_is_here_was_called_off() {
        let mut migration = Migration::begin(MigrationRole::Source, at(0));
        let running = params(&[("time_elapsed", 900), ("downtime", 50), ("memory_total", 7)]);
        assert_eq!(migration.looked(job::kind::UNBOUNDED, running), None);
        assert_eq!(
            migration.looked(job::kind::NONE, TypedParams::default()),
            None
        );
        let ended = migration
            .looked(job::kind::NONE, TypedParams::default())
            .unwrap();
        assert_eq!(ended.end, MigrationEnd::Aborted);
        assert_eq!(ended.total_ms, Some(900));
        assert_eq!(
            ended.downtime_ms, None,
            "an expected downtime is not a real one"
        );
    }

    #[test]
    fn a_domain_that_vanished_leaves_time_for_the_last_word() {
        let mut migration = Migration::begin(MigrationRole::Source, at(0));
        migration.stopped(at(1_000), false);
        assert_eq!(
            migration.looked(job::kind::NONE, TypedParams::default()),
            None
        );
        assert_eq!(migration.overdue(at(3_999)), None);
        assert_eq!(
            migration.overdue(at(4_000)).unwrap().end,
            MigrationEnd::Failed
        );
    }

    #[test]
    fn pages_per_second_become_bytes_and_the_first_pass_knows_no_rate() {
        let told = params(&[("memory_dirty_rate", 10), ("memory_page_size", 4_096)]);
        let rate = iteration(2, Some(&told)).dirty_rate;
        assert_eq!(rate, Some(DirtyRate::from_bytes_per_second(40_960)));
        let first = params(&[("memory_dirty_rate", 0), ("memory_page_size", 4_096)]);
        assert_eq!(iteration(1, Some(&first)).dirty_rate, None);
    }

    #[test]
    fn each_pass_is_a_point_on_the_curve_over_the_time_it_took() {
        let mut migration = Migration::begin(MigrationRole::Source, at(0));
        let mut values = Values::default();
        let mut pass = |number, entries: &[(&str, u64)]| {
            let told = params(entries);
            let pass = iteration(number, Some(&told));
            let dirtied = migration.pass(&pass, Some(&told), &mut values);
            dirtied.map(|one| (one.width_ms, one.rate.bytes_per_second()))
        };
        assert_eq!(pass(1, &[("time_elapsed", 10)]), None, "nothing before it");
        let page = ("memory_page_size", 4_096);
        let long = [
            ("time_elapsed", 4_010),
            ("memory_remaining", 1 << 20),
            ("memory_dirty_rate", 10),
            page,
        ];
        assert_eq!(pass(2, &long), Some((4_000, 40_960)), "as QEMU counts it");
        let short = [
            ("time_elapsed", 4_510),
            ("memory_remaining", 1_000),
            ("memory_dirty_rate", 10),
            page,
        ];
        assert_eq!(pass(3, &short), Some((500, 2_000)), "by what is left");
        let slowed = [
            ("time_elapsed", 9_000),
            ("memory_dirty_rate", 10),
            ("auto_converge_throttle", 20),
            page,
        ];
        assert_eq!(pass(4, &slowed), None, "that is not how it writes alone");
        assert_eq!(
            pass(6, &[("time_elapsed", 9_900), page]),
            None,
            "one missed"
        );
    }

    #[test]
    fn the_first_pass_counts_the_memory_that_is_zero() {
        let told = params(&[
            ("memory_constant", 100),
            ("memory_page_size", 4_096),
            ("memory_total", 1_638_400),
        ]);
        assert_eq!(zero_counted(&told), Some(250_000));
        assert_eq!(zero_counted(&params(&[("memory_constant", 100)])), None);
    }

    #[test]
    fn a_migration_that_nobody_heard_begin_is_found_by_its_job() {
        let stats = |kind, operation: i32| JobStats {
            kind,
            params: params(&[
                ("operation", u64::try_from(operation).unwrap()),
                ("time_elapsed", 700),
            ]),
        };
        let out = job::operation::MIGRATION_OUT;
        let since = |stats| leaving_since(&stats);
        let found = since(stats(job::kind::UNBOUNDED, out));
        assert_eq!(found, Some(Duration::from_millis(700)));
        assert_eq!(since(stats(job::kind::NONE, out)), None);
        assert_eq!(since(stats(job::kind::COMPLETED, out)), None);
        assert_eq!(
            since(stats(job::kind::UNBOUNDED, job::operation::SAVE)),
            None
        );
    }

    #[test]
    fn the_clock_difference_of_the_hosts_is_left_out_where_libvirt_knows_it() {
        let migration = Migration::begin(MigrationRole::Source, at(5));
        let told = params(&[
            ("downtime", 900),
            ("downtime_net", 120),
            ("time_elapsed", 5_000),
        ]);
        let ended = migration.completed(&told);
        assert_eq!(
            (ended.downtime_ms, ended.total_ms),
            (Some(120), Some(5_000))
        );
        assert_eq!((ended.end, ended.started), (MigrationEnd::Completed, at(5)));
    }
}
