//! Makes an estimate: gathers its inputs from what is known, remembers where each came from, and asks
//! `plimsoll-estimate`. It holds no formula of its own.

mod link;
#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::time::Duration;

use plimsoll_estimate::{
    BandwidthSource, Calibration, DIRTY_POINTS_MAX, DirtyPoint, DirtySource, Estimate, InputError,
    Inputs, LIBVIRT_SAMPLES_PER_GIB, LinkBandwidth, Policy, WINDOW_MS_MAX, ZeroShare, round_u64,
    zero_share_from_rss, zero_share_from_touched,
};
use plimsoll_model::{
    Bandwidth, ByteSize, DirtyRate, Metric, MigrationMode, NodeId, Part, Ratio, SeriesKey, Subject,
    UnixMillis, Window,
};

use crate::known::{DomainRow, Known};
use crate::lessons::Likeness;

/// Measurements of the dirty rate older than this tell of another time of day.
const DIRTY_HORIZON: Duration = Duration::from_secs(900);
/// Passes of earlier migrations that are taken, of all the points there may be.
const PASSES_MAX: usize = 64;
/// A domain that just began to run fills its memory as it never will again, so this much is left out.
const BEGINNING: Duration = Duration::from_secs(5);
/// Processors that were idle over this span are likely to be when the migration begins.
const IDLE_SPAN: Duration = Duration::from_secs(60);

/// What a caller asks, beyond the domain.
#[derive(Debug, Clone, Copy)]
pub struct Question {
    /// Target; absent for any node over the source's migration link.
    pub target: Option<NodeId>,
    /// How the migration is told to run.
    pub policy: Policy,
    /// Bandwidth of the path, if the caller knows better.
    pub path_bandwidth: Option<Bandwidth>,
}

/// Something an answer was made from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Input {
    /// Name.
    pub name: String,
    /// Value with its unit.
    pub value: String,
    /// Where it comes from.
    pub source: &'static str,
    /// When it was read; absent for what does not age.
    pub read: Option<UnixMillis>,
}

/// An estimate and what it was made from.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Instant for which it holds.
    pub as_of: UnixMillis,
    /// Node the domain runs on.
    pub source: NodeId,
    /// The estimate.
    pub estimate: Estimate,
    /// What it was made from.
    pub inputs: Vec<Input>,
    /// Whether an input is older than three intervals.
    pub stale: bool,
}

/// Why there is no estimate.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// An input is missing without which nothing can be said.
    #[error("{what} of domain {domain} is not known yet; {remedy}")]
    Missing {
        /// What is missing.
        what: &'static str,
        /// The domain.
        domain: String,
        /// What to do.
        remedy: &'static str,
    },
    /// The domain is on the target already.
    #[error("domain {domain} runs on {target} already; name another target")]
    AlreadyThere {
        /// The domain.
        domain: String,
        /// The target.
        target: String,
    },
    /// An input cannot be.
    #[error("the inputs do not fit together")]
    Input(#[from] InputError),
}

/// Makes the estimate for a domain on its node, from what was known at `as_of`.
pub fn plan(
    known: &Known,
    row: &DomainRow,
    question: &Question,
    as_of: UnixMillis,
    assumed: Bandwidth,
) -> Result<Answer, PlanError> {
    Prepared::new(known, row, question.policy, as_of)?.answer(question, assumed)
}

/// Makes the same estimate for every mode, the one that harms the guest least first.
pub fn compare(
    known: &Known,
    row: &DomainRow,
    question: &Question,
    as_of: UnixMillis,
    assumed: Bandwidth,
) -> Result<Vec<Answer>, PlanError> {
    let modes = [
        MigrationMode::Precopy,
        MigrationMode::PrecopyAutoConverge,
        MigrationMode::Postcopy,
        MigrationMode::StopCopy,
    ];
    let in_mode = |mode| {
        let policy = Policy {
            mode,
            ..question.policy
        };
        let question = Question {
            policy,
            ..*question
        };
        plan(known, row, &question, as_of, assumed)
    };
    modes.into_iter().map(in_mode).collect()
}

/// All about a domain and its node that is the same for every target.
#[derive(Debug)]
pub struct Prepared<'a> {
    known: &'a Known,
    row: &'a DomainRow,
    as_of: UnixMillis,
    inputs: Inputs,
    gathered: Vec<Input>,
    /// Estimates made already: targets behind like links need no second one.
    made: RefCell<Vec<(LinkBandwidth, Calibration, Estimate)>>,
}

impl<'a> Prepared<'a> {
    /// Gathers what was known at `as_of`.
    pub fn new(
        known: &'a Known,
        row: &'a DomainRow,
        policy: Policy,
        as_of: UnixMillis,
    ) -> Result<Self, PlanError> {
        let mut gathered = Vec::new();
        let memory = memory_total(known, row, &mut gathered)?;
        // No bandwidth yet: each target brings its own.
        let nothing = LinkBandwidth {
            rate: Bandwidth::from_bytes_per_second(0),
            uncertainty: None,
            source: BandwidthSource::Assumed,
        };
        let mut inputs = Inputs::new(memory, nothing, policy);
        inputs.accelerator = row.facts.accelerator;
        inputs.idle_cpus = idle_cpus(known, row.facts.node, as_of, &mut gathered);
        let zero = zero_share(known, row, memory, &mut gathered);
        inputs.zero_fraction = zero.map(|zero| zero.share);
        inputs.zero_deviation = zero.and_then(|zero| zero.deviation);
        inputs.dirty_points = dirty_points(known, row, as_of, &mut gathered)?;
        inputs.telemetry_age_ms = gathered
            .iter()
            .filter(|input| input.name.starts_with("vm.dirty.rate"))
            .filter_map(|input| input.read)
            .max()
            .map(|read| u64::try_from(as_of.since(read).as_millis()).unwrap_or(u64::MAX));
        inputs.has_balloon = known
            .whole(row.subject(), Metric::VmMemGuestLastUpdate)
            .is_some_and(|at| at.value > 0);
        Ok(Self {
            known,
            row,
            as_of,
            inputs,
            gathered,
            made: RefCell::default(),
        })
    }

    /// Makes the estimate for a target; the policy of the question was prepared for already.
    pub fn answer(&self, question: &Question, assumed: Bandwidth) -> Result<Answer, PlanError> {
        let source = self.row.facts.node;
        if question.target == Some(source) {
            return Err(PlanError::AlreadyThere {
                domain: self.row.facts.name.clone(),
                target: self.known.hostname(source),
            });
        }
        let mut gathered = self.gathered.clone();
        let link = link::bandwidth(self.known, self.row, question, assumed, &mut gathered);
        let calibration = self.known.learned.calibration(&Likeness {
            source,
            target: question.target,
            accelerator: self.row.facts.accelerator,
            link: link.rate,
            mode: self.inputs.policy.mode,
        });
        Ok(Answer {
            as_of: self.as_of,
            source,
            estimate: self.estimate(link, calibration)?,
            inputs: gathered,
            stale: !self.known.is_fresh(self.row.last_seen, self.as_of),
        })
    }

    fn estimate(
        &self,
        link: LinkBandwidth,
        calibration: Calibration,
    ) -> Result<Estimate, InputError> {
        let mut made = self.made.borrow_mut();
        let same = made
            .iter()
            .find(|(one, other, _)| *one == link && *other == calibration);
        if let Some((_, _, estimate)) = same {
            return Ok(estimate.clone());
        }
        let inputs = Inputs {
            bandwidth: link,
            calibration,
            ..self.inputs.clone()
        };
        let estimate = plimsoll_estimate::estimate(&inputs)?;
        made.push((link, calibration, estimate.clone()));
        Ok(estimate)
    }
}

fn memory_total(
    known: &Known,
    row: &DomainRow,
    gathered: &mut Vec<Input>,
) -> Result<ByteSize, PlanError> {
    if let Some(read) = known
        .whole(row.subject(), Metric::VmMemMax)
        .filter(|read| read.value > 0)
    {
        let size = ByteSize::from_bytes(read.value);
        gathered.push(Input {
            name: Metric::VmMemMax.name().to_owned(),
            value: size.to_string(),
            source: "measured",
            read: Some(read.window.end),
        });
        return Ok(size);
    }
    let size = row.facts.memory_max.ok_or_else(|| PlanError::Missing {
        what: "the memory",
        domain: row.facts.name.clone(),
        remedy: "see `plimsoll-agent doctor` on its node",
    })?;
    gathered.push(Input {
        name: "domain.memory_max".to_owned(),
        value: size.to_string(),
        source: "fact",
        read: None,
    });
    Ok(size)
}

/// Processors of a node that were idle of late; absent where they were not read twice.
fn idle_cpus(
    known: &Known,
    node: NodeId,
    as_of: UnixMillis,
    gathered: &mut Vec<Input>,
) -> Option<Ratio> {
    let from = as_of.minus(IDLE_SPAN);
    let mut idle = None;
    for key in known.parts(Subject::Node(node), Metric::HostCpuTimeIdle) {
        let share = known.mean_rate(&key, from, as_of)? / 1e9;
        idle = Some(idle.unwrap_or(0.0) + share);
    }
    let idle = Ratio::from_millionths(round_u64(idle? * 1e6));
    gathered.push(Input {
        name: "node.idle_cpus".to_owned(),
        value: format!("{:.2} processors", idle.as_f64()),
        source: "measured",
        read: Some(as_of),
    });
    Some(idle)
}

/// How much of the memory is zero: counted where the agent may look at the guest's mappings, else guessed
/// from the resident memory of its process.
fn zero_share(
    known: &Known,
    row: &DomainRow,
    memory: ByteSize,
    gathered: &mut Vec<Input>,
) -> Option<ZeroShare> {
    let mut read = |metric: Metric| {
        let read = known.whole(row.subject(), metric)?;
        let size = ByteSize::from_bytes(read.value);
        gathered.push(Input {
            name: metric.name().to_owned(),
            value: size.to_string(),
            source: "measured",
            read: Some(read.window.end),
        });
        Some(size)
    };
    if let Some(touched) = read(Metric::VmMemTouched) {
        return zero_share_from_touched(touched, memory);
    }
    let rss = read(Metric::VmMemRss)?;
    let huge = row.facts.huge_pages.unwrap_or(false);
    zero_share_from_rss(rss, memory, row.facts.accelerator, huge)
}

/// Returns when the domain was first seen on its node within the horizon.
fn first_seen(
    known: &Known,
    row: &DomainRow,
    horizon: UnixMillis,
    as_of: UnixMillis,
) -> UnixMillis {
    let state = SeriesKey {
        subject: row.subject(),
        metric: Metric::VmState,
        part: Part::whole(),
    };
    let seen = known.store.range(&state, horizon, as_of);
    seen.first().map_or(horizon, |(window, _)| window.end)
}

fn dirty_points(
    known: &Known,
    row: &DomainRow,
    as_of: UnixMillis,
    gathered: &mut Vec<Input>,
) -> Result<Vec<DirtyPoint>, PlanError> {
    let mut points = Vec::new();
    let horizon = as_of.minus(DIRTY_HORIZON);
    let begun = first_seen(known, row, horizon, as_of).plus(BEGINNING);
    passes(known, row, (begun, as_of), &mut points, gathered);
    let windows = known.parts(row.subject(), Metric::VmDirtyRate);
    // Each window its part of what the model takes, and of each the newest.
    let most = (DIRTY_POINTS_MAX - points.len()) / windows.len().max(1);
    for key in windows {
        let mut samples = known.store.range(&key, horizon, as_of);
        samples.retain(|(window, _)| window.begin() >= begun);
        samples.drain(..samples.len().saturating_sub(most));
        let noise = noise(known, row, &key.part);
        for (window, value) in &samples {
            let rate = DirtyRate::from_bytes_per_second(*value);
            let width_ms = window.width_ms.max(1);
            points.push(DirtyPoint {
                source: noise,
                ..DirtyPoint::libvirt(width_ms, rate)
            });
        }
        let name = |_: &Window| format!("{}{{{} ms}}", key.metric, key.part);
        gathered.extend(last_of(&samples, name, "measured"));
    }
    Ok(points)
}

/// Tells how a window was measured; agents that do not say how many pages they had looked at had libvirt
/// measure.
fn noise(known: &Known, row: &DomainRow, part: &Part) -> DirtySource {
    let pages = known.latest(&SeriesKey {
        subject: row.subject(),
        metric: Metric::VmDirtySamplePages,
        part: part.clone(),
    });
    let pages = pages.and_then(|pages| u32::try_from(pages.value).ok());
    DirtySource::PageSampling {
        pages_per_gib: pages.unwrap_or(LIBVIRT_SAMPLES_PER_GIB).max(1),
    }
}

/// Adds what the passes of real migrations counted: those to and from the node of this very process.
fn passes(
    known: &Known,
    row: &DomainRow,
    (begun, as_of): (UnixMillis, UnixMillis),
    points: &mut Vec<DirtyPoint>,
    gathered: &mut Vec<Input>,
) {
    let key = SeriesKey {
        subject: row.subject(),
        metric: Metric::VmDirtyPassRate,
        part: Part::whole(),
    };
    let mut samples = known.store.range(&key, begun, as_of);
    samples.retain(|(window, _)| (1..=WINDOW_MS_MAX).contains(&window.width_ms));
    samples.drain(..samples.len().saturating_sub(PASSES_MAX));
    for (window, value) in &samples {
        let rate = DirtyRate::from_bytes_per_second(*value);
        points.push(DirtyPoint::counted(window.width_ms, rate));
    }
    let name = |window: &Window| format!("{}{{{} ms}}", key.metric, window.width_ms);
    gathered.extend(last_of(&samples, name, "counted"));
}

/// Tells of the newest of some dirty rates; nothing where there is none.
fn last_of(
    samples: &[(Window, u64)],
    name: impl Fn(&Window) -> String,
    source: &'static str,
) -> Option<Input> {
    let (window, value) = samples.last()?;
    let rate = DirtyRate::from_bytes_per_second(*value);
    Some(Input {
        name: name(window),
        value: format!("{rate} (last of {})", samples.len()),
        source,
        read: Some(window.end),
    })
}
