//! From libvirt's events and job statistics to one start and one end of each migration.
//!
//! Pure: it makes no calls. The end is told once, whatever comes twice or not at all.

use std::time::Duration;

use plimsoll_libvirt::{TypedParams, job};
use plimsoll_model::{
    Bandwidth, ByteSize, DirtyRate, Iteration, MigrationEnd, MigrationEnded, MigrationRole,
    UnixMillis,
};

/// Looks at a job that is no more before the migration counts as called off.
const IDLE_LOOKS: u8 = 2;
/// Time that a vanished domain leaves for the event of completion.
const LAST_WORD: Duration = Duration::from_secs(3);
/// Longest time a coming domain counts as on its way.
const ARRIVAL_MAX: Duration = Duration::from_secs(3_600);

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
            idle_looks: 0,
            vanished: None,
        }
    }

    /// Notes a pass.
    pub(super) fn pass(&mut self, number: u32) {
        self.last_iteration = self.last_iteration.max(number);
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
