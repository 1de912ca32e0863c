//! The table: every estimator on the same migrations.

use plimsoll_estimate::{
    BandwidthSource, DirtyClass, DirtyModel, DowntimeProfile, Inputs, LinkBandwidth, Policy, Scene,
    network, simulate,
};
use plimsoll_model::{Accelerator, Bandwidth, ByteSize, MigrationMode};

use super::design::Setting;
use super::record::{Bounds, Record, Said};

/// Off by this share or more, or wrongly said to end, is a bad prediction, as Gudkov counts them.
const BAD: f64 = 0.25;
/// Memory that firmware and the guest's program touch beside what they fill.
const PROGRAM_MIB: u32 = 6;
const MTU_BYTES: u32 = 1_500;

/// What the estimator of this project is called in the table.
pub const OURS: &str = "plimsoll";
const LAST: &str = "last-migration-of-the-guest";
const ORACLE: &str = "oracle (true workload)";

/// How an estimator did.
#[derive(Debug, Clone, Default)]
pub struct Row {
    /// Who.
    pub name: String,
    /// Migrations of which it said something.
    pub count: usize,
    total: Vec<f64>,
    bytes: Vec<f64>,
    downtime_ms: Vec<f64>,
    right: usize,
    judged: usize,
    promised: usize,
    broken: usize,
    bad: usize,
}

/// How often bounds held.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Coverage {
    /// Migrations with bounds that ended.
    pub count: usize,
    /// Within p10 and p90.
    pub inside: usize,
    /// At most p90.
    pub below_p90: usize,
}

impl Row {
    fn add(&mut self, said: &Said, record: &Record) {
        let was = &record.outcome;
        self.count += 1;
        if let Some(converges) = said.converges {
            self.judged += 1;
            self.right += usize::from(converges == was.converged);
            self.promised += usize::from(converges);
            self.broken += usize::from(converges && !was.converged);
        }
        let relative = |said: Option<f64>, was: Option<f64>| {
            let (said, was) = (said?, was.filter(|was| *was > 0.0)?);
            Some((said - was).abs() / was)
        };
        let ended = |value: Option<f64>| value.filter(|_| was.converged);
        let total = relative(said.total_ms, ended(was.total_ms));
        let broken = said.converges == Some(true) && !was.converged;
        self.bad += usize::from(broken || total.is_some_and(|error| error >= BAD));
        self.total.extend(total);
        self.bytes
            .extend(relative(said.wire_bytes, ended(was.wire_bytes)));
        if let (Some(said), Some(was)) = (said.downtime_ms, ended(was.downtime_ms)) {
            self.downtime_ms.push((said - was).abs());
        }
    }

    /// Middle and nine-tenths point of the relative error of the total.
    pub fn total_error(&self) -> Option<(f64, f64)> {
        spread(&self.total)
    }

    /// Share of verdicts that were right, a toss-up counting as what it leans to.
    pub fn share_right(&self) -> Option<f64> {
        (self.judged > 0).then(|| self.right as f64 / self.judged as f64)
    }
}

/// Judges all estimators on the records.
pub fn rows(records: &[Record]) -> Vec<Row> {
    let mut rows: Vec<Row> = Vec::new();
    let mut add = |said: &Said, record: &Record| {
        if !rows.iter().any(|row| row.name == said.name) {
            rows.push(Row {
                name: said.name.clone(),
                ..Row::default()
            });
        }
        if let Some(row) = rows.iter_mut().find(|row| row.name == said.name) {
            row.add(said, record);
        }
    };
    for record in records {
        add(&ours(record), record);
        for baseline in &record.baselines {
            add(baseline, record);
        }
        if let Some(last) = last(records, record) {
            add(&last, record);
        }
        add(&oracle(&record.setting), record);
    }
    rows
}

fn ours(record: &Record) -> Said {
    let answer = &record.answer;
    let middle = |bounds: Option<Bounds>| bounds.map(|bounds| bounds.p50);
    Said {
        name: OURS.to_owned(),
        converges: answer.probability.map(|probability| probability >= 0.5),
        total_ms: middle(answer.total_ms),
        downtime_ms: middle(answer.downtime_ms),
        wire_bytes: middle(answer.wire_bytes),
    }
}

/// The migration before this one of the same guest, taken for a prediction.
fn last(records: &[Record], record: &Record) -> Option<Said> {
    let before = record.leg.checked_sub(1)?;
    let is_last = |other: &&Record| other.setting.id == record.setting.id && other.leg == before;
    let was = &records.iter().find(is_last)?.outcome;
    Some(Said {
        name: LAST.to_owned(),
        converges: Some(was.converged),
        total_ms: was.total_ms,
        downtime_ms: was.downtime_ms,
        wire_bytes: was.wire_bytes,
    })
}

/// The round simulator told what the guest truly does.
fn oracle(setting: &Setting) -> Said {
    let link = Bandwidth::from_mbit_per_second(u64::from(setting.link_mbit));
    let memory = ByteSize::from_mib(u64::from(setting.memory_mib));
    let mut inputs = Inputs::new(
        memory,
        LinkBandwidth {
            rate: network::ethernet_goodput(link, MTU_BYTES),
            uncertainty: None,
            source: BandwidthSource::Capacity,
        },
        Policy {
            mode: MigrationMode::Precopy,
            downtime: DowntimeProfile::Constant {
                limit_ms: setting.downtime_limit_ms,
            },
            max_bandwidth: setting
                .cap_mib_per_s
                .map(|cap| Bandwidth::from_bytes_per_second(u64::from(cap) << 20)),
            timeout_ms: Some(setting.timeout_s * 1_000),
            postcopy_after_ms: None,
        },
    );
    inputs.accelerator = Some(Accelerator::Tcg);
    inputs.device_memory = plimsoll_estimate::DEVICE_MEMORY_PC;
    let touched = f64::from(setting.fill_mib + PROGRAM_MIB) / f64::from(setting.memory_mib);
    let mut classes = [DirtyClass::default(); 8];
    let mut sets: Vec<_> = setting
        .sets
        .iter()
        .map(|set| DirtyClass {
            bytes: f64::from(set.set_mib) * 1_048_576.0,
            writes_per_s: f64::from(set.rate_mib_per_s) / f64::from(set.set_mib),
        })
        .collect();
    sets.sort_by(|a, b| a.writes_per_s.total_cmp(&b.writes_per_s));
    for (slot, set) in classes.iter_mut().zip(sets) {
        *slot = set;
    }
    let nonzero = touched * memory.bytes() as f64;
    let dirty = DirtyModel::from_classes(classes, nonzero);
    let run = simulate(&Scene::new(&inputs, 1.0 - touched, dirty));
    let ended = |value: f64| run.converged.then_some(value);
    Said {
        name: ORACLE.to_owned(),
        converges: Some(run.converged),
        total_ms: ended(run.total_s * 1e3),
        downtime_ms: ended(run.downtime_s * 1e3),
        wire_bytes: ended(run.bytes),
    }
}

/// How often the bounds of the total held, over the migrations that `picks` picks.
pub fn coverage(records: &[Record], picks: impl Fn(&Record) -> bool) -> Coverage {
    let mut coverage = Coverage::default();
    for record in records.iter().filter(|record| picks(record)) {
        let was = record.outcome.total_ms.filter(|_| record.outcome.converged);
        let (Some(said), Some(was)) = (record.answer.total_ms, was) else {
            continue;
        };
        coverage.count += 1;
        coverage.inside += usize::from((said.p10..=said.p90).contains(&was));
        coverage.below_p90 += usize::from(was <= said.p90);
    }
    coverage
}

/// Renders the whole table as Markdown.
pub fn render(records: &[Record]) -> String {
    let mut text = String::new();
    let ended = records.iter().filter(|one| one.outcome.converged).count();
    let mut line = |words: String| {
        text.push_str(&words);
        text.push('\n');
    };
    line(format!(
        "{} migrations, of which {ended} ended; {}.",
        records.len(),
        host(records)
    ));
    line(String::new());
    line("| estimator | n | total p50/p90 | bad | bytes p50/p90 | downtime error p50/p90 | verdict right | said to end and did not |".to_owned());
    line("|---|---|---|---|---|---|---|---|".to_owned());
    for row in rows(records) {
        line(format!(
            "| {} | {} | {} | {} | {} | {} | {} | {} |",
            row.name,
            row.count,
            percent(&row.total),
            share(row.bad, row.count),
            percent(&row.bytes),
            spread(&row.downtime_ms)
                .map_or("-".to_owned(), |(p50, p90)| format!("{p50:.0}/{p90:.0} ms")),
            row.share_right()
                .map_or("-".to_owned(), |right| format!("{right:.2}")),
            share(row.broken, row.promised),
        ));
    }
    line(String::new());
    let learned = |record: &Record| record.answer.calibration != "prior";
    for (name, coverage) in [
        ("bounds from priors", coverage(records, |one| !learned(one))),
        ("learned bounds", coverage(records, learned)),
    ] {
        line(format!(
            "{name}: {} migrations that ended; p10 to p90 held {}, p90 held {}.",
            coverage.count,
            share(coverage.inside, coverage.count),
            share(coverage.below_p90, coverage.count)
        ));
    }
    line(String::new());
    for (verdict, ended, count) in verdicts(records) {
        line(format!(
            "{verdict}: {count} migrations, of which {ended} ended."
        ));
    }
    text
}

fn verdicts(records: &[Record]) -> Vec<(String, usize, usize)> {
    let mut verdicts: Vec<(String, usize, usize)> = Vec::new();
    for record in records {
        let name = &record.answer.verdict;
        let ended = usize::from(record.outcome.converged);
        match verdicts.iter_mut().find(|(known, ..)| known == name) {
            Some((_, sum, count)) => {
                *sum += ended;
                *count += 1;
            }
            None => verdicts.push((name.clone(), ended, 1)),
        }
    }
    verdicts.sort();
    verdicts
}

fn host(records: &[Record]) -> String {
    let cpus = records.iter().map(|one| one.host.cpus).max().unwrap_or(0);
    let idle: Vec<f64> = records.iter().map(|one| one.host.idle_share).collect();
    let idle = spread(&idle).map_or(0.0, |(middle, _)| middle * 100.0);
    format!("QEMU under TCG on {cpus} cores, {idle:.0} % of them idle meanwhile in the middle")
}

/// Middle and nine-tenths point.
fn spread(values: &[f64]) -> Option<(f64, f64)> {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    let last = values.len().checked_sub(1)?;
    // The nearest rank: a point that was truly seen.
    let at = |tenths: usize| values.get((last * tenths + 5) / 10).copied();
    Some((at(5)?, at(9)?))
}

fn percent(values: &[f64]) -> String {
    spread(values).map_or("-".to_owned(), |(p50, p90)| {
        format!("{:.1}/{:.1} %", p50 * 100.0, p90 * 100.0)
    })
}

fn share(part: usize, whole: usize) -> String {
    if whole == 0 {
        return "-".to_owned();
    }
    format!(
        "{part} of {whole} ({:.0} %)",
        part as f64 / whole as f64 * 100.0
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_and_the_nine_tenths_point_are_values_that_were_seen() {
        let values: Vec<f64> = (0..=10).map(f64::from).collect();
        assert_eq!(spread(&values), Some((5.0, 9.0)));
        assert_eq!(spread(&[]), None);
    }

    #[test]
    fn the_oracle_knows_an_idle_guest_from_one_that_outruns_the_link() {
        let converges = |id| oracle(&Setting::of(id)).converges;
        assert_eq!(converges(0), Some(true));
        assert_eq!(converges(3), Some(false));
    }
}
