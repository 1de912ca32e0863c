//! Live migrations between two nodes, and what libvirt says of them afterwards.
//!
//! Not here: predicting anything, or migrations with storage.

use std::time::Duration;

use super::clock::{Deadline, wait_until};
use super::error::StageError;
use super::node::{Node, field};

/// Added to the limit of a migration: what libvirt takes to set up, finish and confirm.
const MARGIN: Duration = Duration::from_secs(20);

/// How a migration is run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MigrateOptions {
    /// The downtime QEMU may plan with; its own default is 300 ms.
    pub max_downtime_ms: Option<u64>,
    /// A cap below the link's speed.
    pub bandwidth_mib_per_second: Option<u64>,
    /// After this the migration is aborted and the guest stays where it was.
    pub timeout: Duration,
    /// Whether QEMU may slow the guest down until it converges.
    pub auto_converge: bool,
    /// Whether the migration is switched to post-copy at once after its first round.
    pub postcopy: bool,
    /// More options for `virsh migrate`, as they are.
    pub virsh: Vec<String>,
}

impl Default for MigrateOptions {
    fn default() -> Self {
        Self {
            max_downtime_ms: None,
            bandwidth_mib_per_second: None,
            timeout: Duration::from_secs(60),
            auto_converge: false,
            postcopy: false,
            virsh: Vec::new(),
        }
    }
}

/// How a migration ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Migration {
    /// The guest is on the target.
    Completed(JobInfo),
    /// The limit passed; the guest is where it was.
    Aborted {
        /// What the job said just before it was aborted, if it still said anything.
        last: Option<JobInfo>,
    },
}

/// The figures of a job, in libvirt's meaning; a figure libvirt leaves out is absent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct JobInfo {
    /// Without libvirt's own finish phase.
    pub time_elapsed_ms: Option<u64>,
    /// Expected while the job runs, real once it has completed.
    pub downtime_ms: Option<u64>,
    /// All RAM of the guest, zero pages included.
    pub memory_total_bytes: Option<u64>,
    /// What went over the wire.
    pub memory_processed_bytes: Option<u64>,
    /// What is still to be sent.
    pub memory_remaining_bytes: Option<u64>,
    /// Pages that went as a mark, because they hold nothing.
    pub memory_constant_pages: Option<u64>,
    /// Pages that went whole.
    pub memory_normal_pages: Option<u64>,
    /// Rounds over memory.
    pub memory_iterations: Option<u64>,
    /// Pages dirtied a second, as the last round saw it.
    pub memory_dirty_rate_pages_per_second: Option<u64>,
    /// The transfer's speed.
    pub memory_bytes_per_second: Option<u64>,
}

impl JobInfo {
    fn parse(text: &str) -> Self {
        let number = |key: &str| field(text, key).and_then(|value| value.parse().ok());
        Self {
            time_elapsed_ms: number("time_elapsed:"),
            downtime_ms: number("downtime:"),
            memory_total_bytes: number("memory_total:"),
            memory_processed_bytes: number("memory_processed:"),
            memory_remaining_bytes: number("memory_remaining:"),
            memory_constant_pages: number("memory_constant:"),
            memory_normal_pages: number("memory_normal:"),
            memory_iterations: number("memory_iteration:"),
            memory_dirty_rate_pages_per_second: number("memory_dirty_rate:"),
            memory_bytes_per_second: number("memory_bps:"),
        }
    }
}

impl Node {
    /// What the guest's running job says; none if no job runs.
    ///
    /// # Errors
    ///
    /// Passes on what libvirt complains about.
    pub fn job_info(&self, guest: &str) -> Result<Option<JobInfo>, StageError> {
        let text = self.virsh(&["domjobinfo", guest, "--rawstats"])?;
        let info = JobInfo::parse(&text);
        Ok(info.time_elapsed_ms.is_some().then_some(info))
    }

    /// What the guest's last completed job says; the target of a migration keeps it.
    ///
    /// # Errors
    ///
    /// Passes on what libvirt complains about, or says that there is no such job.
    pub fn completed_job_info(&self, guest: &str) -> Result<JobInfo, StageError> {
        let text = self.virsh(&["domjobinfo", guest, "--completed", "--rawstats"])?;
        let info = JobInfo::parse(&text);
        if info.time_elapsed_ms.is_none() {
            return Err(StageError::NoSuch {
                what: format!("completed job of {guest} on {}", self.name()),
            });
        }
        Ok(info)
    }
}

/// Moves a guest, and aborts the move when its limit has passed.
pub(super) fn migrate_live(
    guest: &str,
    from: &Node,
    to: &Node,
    options: &MigrateOptions,
) -> Result<Migration, StageError> {
    if let Some(downtime_ms) = options.max_downtime_ms {
        from.virsh(&["migrate-setmaxdowntime", guest, &downtime_ms.to_string()])?;
    }
    let mut command = from.virsh_command(&["migrate", "--live", "--persistent"]);
    command.args(["--undefinesource"]);
    if let Some(mib) = options.bandwidth_mib_per_second {
        command.args(["--bandwidth", &mib.to_string()]);
    }
    if options.auto_converge {
        command.arg("--auto-converge");
    }
    if options.postcopy {
        command.args(["--postcopy", "--postcopy-after-precopy"]);
    }
    command
        .args(&options.virsh)
        .arg(guest)
        .arg(format!("qemu+tcp://{}/system", to.name()))
        .arg(format!("tcp://{}", to.name()));
    let limit = options.timeout + MARGIN;
    let (outcome, last) = std::thread::scope(|scope| {
        let migration = scope.spawn(|| super::process::outcome(&mut command, limit));
        let last = abort_at_limit(guest, from, options.timeout, || migration.is_finished());
        let outcome = migration.join().unwrap_or_else(|_| {
            Err(StageError::NoSuch {
                what: "end of the migration: the thread that ran it is gone".to_owned(),
            })
        });
        (outcome, last)
    });
    let outcome = outcome?;
    match last? {
        _ if outcome.status.success() => to.completed_job_info(guest).map(Migration::Completed),
        Some(last) => Ok(Migration::Aborted { last }),
        None => Err(StageError::Command {
            what: format!("virsh migrate {guest}"),
            status: outcome.status,
            stderr: outcome.stderr,
        }),
    }
}

/// Waits for the migration to finish, and at the limit aborts it: then something is returned.
fn abort_at_limit(
    guest: &str,
    from: &Node,
    limit: Duration,
    is_finished: impl Fn() -> bool,
) -> Result<Option<Option<JobInfo>>, StageError> {
    let deadline = Deadline::after(limit);
    let question = || Ok((is_finished() || deadline.is_over()).then_some(()));
    wait_until("the migration", limit + MARGIN, question)?;
    if is_finished() {
        return Ok(None);
    }
    // The job may end between the question and the abort; then there is nothing to abort.
    let last = from.job_info(guest).ok().flatten();
    drop(from.virsh(&["domjobabort", guest]));
    Ok(Some(last))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn raw_statistics_are_read_and_absent_ones_stay_absent() {
        let text = "time_elapsed: 5123\n  downtime:   12\nmemory_iteration: 3\n";
        let info = JobInfo::parse(text);
        assert_eq!(info.time_elapsed_ms, Some(5123));
        assert_eq!(info.downtime_ms, Some(12));
        assert_eq!(info.memory_iterations, Some(3));
        assert_eq!(info.memory_total_bytes, None);
    }
}
