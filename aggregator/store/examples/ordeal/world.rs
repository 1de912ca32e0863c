//! A small world: three agents whose every word follows from a seed and a number, so that whoever knows
//! how far they came knows all that must be found.
//!
//! Not here: any fault. Whoever includes this module breaks things and then asks [`World::holds`].

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use plimsoll_model::{
    Batch, BootId, DomainId, DomainState, Event, EventKind, Fact, GapReason, Incarnation, Metric,
    NodeFacts, NodeId, Part, Row, SampleGap, SeriesKey, SessionId, Subject, Sweep, UnixMillis,
    Window,
};
use plimsoll_store::{
    Appended, Document, EventFilter, Keep, Record, RecoveryReport, SeriesFilter, Store,
    StoreOptions, Upkeep,
};

/// How many agents there are.
pub(crate) const AGENTS: u8 = 3;
const DOCUMENT_KIND: u8 = 1;
const DOCUMENT_KEYS: u64 = 7;
const ALWAYS: (UnixMillis, UnixMillis) = (
    UnixMillis::from_millis(i64::MIN),
    UnixMillis::from_millis(i64::MAX),
);

/// The world of one seed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct World {
    pub(crate) seed: u64,
}

const HOUR: Duration = Duration::from_secs(3_600);
/// How long samples are kept: a hundred and twenty slices.
pub(crate) const RETENTION: Duration = HOUR.saturating_mul(10);
/// How long rollups of five minutes are kept.
pub(crate) const FINE_RETENTION: Duration = HOUR.saturating_mul(20);
/// How late a sample may come.
const LATE_MAX: Duration = HOUR.saturating_mul(30);

/// How many upkeeps at most find something to do at one instant.
const UPKEEPS_MAX: u32 = 50;

/// What the disk does while a store is held against the world.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Disk {
    Good,
    Failing,
}

/// What must be found of the samples.
pub(crate) type Samples = BTreeMap<SeriesKey, BTreeMap<Window, u64>>;

fn mixed(mut value: u64) -> u64 {
    value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

fn millis(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// Returns the instant of a slice.
pub(crate) fn now(number: u64) -> UnixMillis {
    UnixMillis::from_millis(1_000_000_000 + millis(number) * 300_000)
}

/// Returns how the stores of this world are kept: everything that takes days elsewhere takes hours here,
/// of twelve slices each.
pub(crate) fn options() -> StoreOptions {
    StoreOptions {
        retention: Some(RETENTION),
        five_minutes: Keep {
            age: Some(FINE_RETENTION),
            bytes: None,
        },
        partition: HOUR.saturating_mul(2),
        settle_after: HOUR.saturating_mul(2),
        segment_bytes: 6_000,
        head_bytes: 12_000,
        seal_after: HOUR,
        ..StoreOptions::default()
    }
}

pub(crate) fn node(agent: u8) -> NodeId {
    NodeId::from_bytes([1 + agent; 16]).unwrap()
}

pub(crate) fn session(agent: u8) -> SessionId {
    SessionId::from_bytes([100 + agent; 16]).unwrap()
}

impl World {
    /// Draws a number below `sides`.
    pub(crate) fn dice(&self, number: u64, salt: u64, sides: u64) -> u64 {
        mixed(self.seed ^ mixed(number ^ mixed(salt))) % sides
    }

    fn guest(&self, agent: u8, number: u64) -> Subject {
        // A guest restarts now and then, and its old series come to their end.
        let started_ms = number / 30;
        Subject::Domain {
            domain: DomainId::from_bytes([200 + agent; 16]).unwrap(),
            node: node(agent),
            incarnation: Incarnation {
                boot: BootId::from_bytes([50; 16]).unwrap(),
                started_ms,
            },
        }
    }

    fn sweep(&self, subject: Subject, window: Window, (agent, number): (u8, u64)) -> Sweep {
        let salt = u64::from(agent) * 64;
        let value = |column: u64| match column {
            0 => number * 4_096 + self.dice(number, salt, 4_000),
            1 => u64::MAX - self.dice(number, salt + 1, 3),
            // It counts, and begins anew now and then.
            2 => number % 40 * 977 + self.dice(number, salt + 2, 900),
            _ => self.dice(number, salt + column, 1 << 40) * 512,
        };
        let metrics = [
            Metric::HostMemFree,
            Metric::HostMemTotal,
            Metric::HostPsiCpuSome,
            Metric::HostMemAvailable,
            Metric::VmState,
        ];
        let mut values: Vec<_> = (0..)
            .zip(metrics)
            .map(|(column, metric)| (metric, Part::index(column), value(u64::from(column))))
            .collect();
        let mut window = window;
        if self.dice(number, salt + 9, 3) == 0 {
            // Now and then a value cannot be read. The other width keeps the two sets of columns out of
            // one window.
            values.pop();
            window.width_ms += 1;
        }
        Sweep {
            subject,
            window,
            values,
        }
    }

    /// Returns when the late sample of a slice ended, if it has one: before, within or behind what is
    /// sealed, rolled up and forgotten.
    pub(crate) fn late(&self, agent: u8, number: u64) -> Option<UnixMillis> {
        if self.dice(number, u64::from(agent) + 900, 5) != 0 {
            return None;
        }
        let most = u64::try_from(LATE_MAX.as_millis()).unwrap_or(u64::MAX);
        let late = Duration::from_millis(self.dice(number, 901, most) + 1);
        Some(now(number).minus(late))
    }

    fn batch(&self, agent: u8, number: u64) -> Batch {
        let place = (agent, number);
        let window = Window {
            end: now(number),
            width_ms: 3,
        };
        let mut sweeps = vec![
            self.sweep(Subject::Node(node(agent)), window, place),
            self.sweep(self.guest(agent, number), window, place),
        ];
        if let Some(end) = self.late(agent, number) {
            let window = Window { end, width_ms: 3 };
            sweeps.push(self.sweep(Subject::Node(node(agent)), window, place));
        }
        let mut batch = Batch {
            node: node(agent),
            session: session(agent),
            sequence: number,
            made: now(number),
            body_crc: 7,
            rows: sweeps.into_iter().collect(),
            facts: Vec::new(),
            events: Vec::new(),
        };
        if agent == 0 && number.is_multiple_of(4) {
            batch.facts.push(self.fact(number));
            batch.events.push(self.event(number));
        }
        batch
    }

    fn fact(&self, number: u64) -> Fact {
        Fact::Node {
            seen: now(number),
            facts: NodeFacts {
                hostname: format!("host-{number}"),
                ..NodeFacts::default()
            },
        }
    }

    fn event(&self, number: u64) -> Event {
        Event {
            node: node(0),
            seen: now(number),
            kind: EventKind::DomainState {
                domain: DomainId::from_bytes([200; 16]).unwrap(),
                incarnation: None,
                state: DomainState::Started,
                detail: u32::try_from(number).unwrap_or(u32::MAX),
            },
        }
    }

    fn gap(&self, agent: u8, number: u64) -> Option<SampleGap> {
        (agent == 1 && self.dice(number, 902, 11) == 0).then(|| SampleGap {
            node: node(agent),
            session: session(agent),
            first_sequence: number,
            last_sequence: number,
            reading_count: Some(9),
            declared: now(number),
            reason: GapReason::SpoolFull,
        })
    }

    fn word(&self, agent: u8, number: u64) -> Record {
        match self.gap(agent, number) {
            Some(gap) => Record::Gap(gap),
            None => Record::Batch(self.batch(agent, number)),
        }
    }

    fn document(&self, number: u64) -> Option<Document> {
        let length = usize::try_from(self.dice(number, 903, 60)).unwrap_or(0);
        self.dice(number, 904, 2).eq(&0).then(|| Document {
            kind: DOCUMENT_KIND,
            key: vec![u8::try_from(number % DOCUMENT_KEYS).unwrap_or(0)],
            time: now(number),
            payload: [number.to_le_bytes().to_vec(), vec![9; length]].concat(),
        })
    }

    /// Says what is told in one slice, and what the store must answer if it knows all slices before it
    /// and nothing of this one.
    pub(crate) fn slice(&self, number: u64) -> (Vec<Record>, Vec<Appended>) {
        let mut said: Vec<(Record, Appended)> = (0..AGENTS)
            .map(|agent| (self.word(agent, number), Appended::Stored))
            .collect();
        let agent = u8::try_from(self.dice(number, 905, 3)).unwrap_or(0);
        let batch = |number| self.batch(agent, number);
        match self.dice(number, 906, 8) {
            0 => said.push((self.word(agent, number), Appended::Duplicate)),
            1 if number > 1 && self.gap(agent, number - 1).is_none() => {
                let mut fork = batch(number - 1);
                fork.body_crc += 1;
                said.push((Record::Batch(fork), Appended::Forked));
            }
            2 => {
                let expected = number + 1;
                let outcome = Appended::OutOfOrder { expected };
                said.push((Record::Batch(batch(number + 5)), outcome));
            }
            _ => {}
        }
        let document = self.document(number).map(Record::Document);
        said.extend(document.map(|document| (document, Appended::Stored)));
        said.into_iter().unzip()
    }

    /// Says how many slices each agent's word is durable of.
    pub(crate) fn durable(&self, store: &Store) -> Vec<u64> {
        (0..AGENTS)
            .map(|agent| store.durable_sequence(node(agent), session(agent)))
            .map(Option::unwrap_or_default)
            .collect()
    }

    /// Returns the slice that is to be told after a start: the last one of which all words are there, as its
    /// document may not be.
    pub(crate) fn resume(&self, store: &Store) -> u64 {
        self.durable(store).into_iter().min().unwrap_or(0).max(1)
    }

    /// Says which samples that end at the horizon or later were told.
    pub(crate) fn samples(&self, durable: &[u64], horizon: UnixMillis) -> Samples {
        let mut samples = Samples::new();
        for (agent, durable) in (0..).zip(durable) {
            let recent = (1..=*durable).rev().take_while(|n| now(*n) >= horizon);
            let mut recent: Vec<u64> = recent.collect();
            recent.reverse();
            for number in recent.into_iter().filter(|n| self.gap(agent, *n).is_none()) {
                for row in self.batch(agent, number).rows.iter() {
                    note(&mut samples, &row, horizon);
                }
            }
        }
        samples
    }

    /// Holds all that a store answers against what was told. `acked` is the last slice that was
    /// acknowledged; upkeep was done at or before the instant of the last durable one, and may fail now
    /// only where the disk is still made to fail.
    pub(crate) fn holds(&self, store: &Store, acked: u64, disk: Disk) -> anyhow::Result<u64> {
        let durable = self.durable(store);
        let (least, most) = (durable.iter().min(), durable.iter().max());
        let (least, most) = (*least.context("no agent")?, *most.context("no agent")?);
        ensure!(
            least >= acked,
            "{acked} slices were acknowledged, {durable:?} are there"
        );
        ensure!(
            most <= least + 1 && durable.is_sorted_by(|a, b| a >= b),
            "{durable:?} is no state between two records"
        );
        let ghost = store
            .series(&SeriesFilter::default())
            .into_iter()
            .find(|key| {
                let (from, to) = ALWAYS;
                store.range(key, from, to).is_empty()
            });
        ensure!(ghost.is_none(), "{ghost:?} is listed and has no sample");
        let is_done = match (keep_in_order(store, most), disk) {
            (Err(error), Disk::Good) => return Err(error).context("upkeep failed"),
            (Ok(()), _) => true,
            (Err(_), Disk::Failing) => false,
        };
        self.holds_samples(store, &durable, now(most).minus(RETENTION))?;
        self.holds_rollups(store, &durable, is_done)?;
        self.holds_the_rest(store, &durable)?;
        self.holds_documents(store, acked, (least, most))?;
        let holes = store.holes();
        ensure!(holes.is_empty(), "holes: {holes:?}");
        Ok(least)
    }

    fn holds_samples(
        &self,
        store: &Store,
        durable: &[u64],
        horizon: UnixMillis,
    ) -> anyhow::Result<()> {
        let samples = self.samples(durable, horizon);
        let listed: BTreeSet<_> = store.series(&SeriesFilter::default()).into_iter().collect();
        let told: BTreeSet<_> = samples.keys().cloned().collect();
        let differ: Vec<_> = listed.symmetric_difference(&told).collect();
        ensure!(differ.is_empty(), "series differ: {differ:?}");
        for (key, samples) in &samples {
            let told: Vec<(Window, u64)> = samples.iter().map(|(w, v)| (*w, *v)).collect();
            let found = store.range(key, ALWAYS.0, ALWAYS.1);
            ensure!(
                found == told,
                "{key:?}: {} samples were told, {} found; first difference {:?}",
                told.len(),
                found.len(),
                told.iter().zip(&found).find(|(told, found)| told != found)
            );
            let latest = store
                .latest(key)
                .map(|reading| (reading.window, reading.value));
            ensure!(
                latest == told.last().copied(),
                "{key:?}: latest is {latest:?}"
            );
        }
        Ok(())
    }

    fn holds_the_rest(&self, store: &Store, durable: &[u64]) -> anyhow::Result<()> {
        let of_first = durable.first().copied().unwrap_or(0);
        let telling = (1..=of_first).filter(|number| number.is_multiple_of(4));
        let told: Vec<Event> = telling.clone().map(|number| self.event(number)).collect();
        let found = store.events(ALWAYS.0, ALWAYS.1, &EventFilter::default());
        ensure!(
            found == told,
            "{} events were told, {} found",
            told.len(),
            found.len()
        );
        let fact = telling.max().map(|number| self.fact(number));
        let found = store.latest_facts(node(0)).map(|told| Fact::Node {
            seen: told.seen,
            facts: (*told.facts).clone(),
        });
        ensure!(found == fact, "not the newest fact");
        for (agent, durable) in (0..).zip(durable) {
            let told: Vec<_> = (1..=*durable).filter_map(|n| self.gap(agent, n)).collect();
            let found = store.gaps(node(agent));
            ensure!(
                found == told,
                "{} gaps were told, {} found",
                told.len(),
                found.len()
            );
        }
        let listed: Vec<NodeId> = store.nodes().iter().map(|seen| seen.node).collect();
        let batch = |agent: &u8| {
            let durable = durable.get(usize::from(*agent)).copied().unwrap_or(0);
            (1..=durable).any(|number| self.gap(*agent, number).is_none())
        };
        let told: Vec<NodeId> = (0..AGENTS).filter(batch).map(node).collect();
        ensure!(listed == told, "{listed:?} are the nodes");
        Ok(())
    }

    fn holds_documents(
        &self,
        store: &Store,
        acked: u64,
        (least, most): (u64, u64),
    ) -> anyhow::Result<()> {
        let documents = store.documents(DOCUMENT_KIND);
        for key in 0..DOCUMENT_KEYS {
            let of_key = |number: &u64| number % DOCUMENT_KEYS == key;
            let newest = |last| {
                let numbers = (1..=last).rev().filter(of_key);
                numbers.filter_map(|number| self.document(number)).next()
            };
            let found = documents
                .iter()
                .find(|document| document.key.first().map(|k| u64::from(*k)) == Some(key));
            // The document of the last slice is its last record.
            let sure = newest(acked.max(least.saturating_sub(1)));
            let perhaps = newest(most);
            ensure!(
                found == sure.as_ref() || found == perhaps.as_ref(),
                "document {key} is {found:?}, neither {sure:?} nor {perhaps:?}"
            );
        }
        Ok(())
    }

    /// Opens a store after a crash and holds it against what was told; nothing may be damaged, as a
    /// crash damages nothing.
    pub(crate) fn holds_after_crash(
        &self,
        dir: &Path,
        acked: u64,
    ) -> anyhow::Result<(u64, RecoveryReport)> {
        let (store, report) = Store::open(dir, options()).context("it does not open")?;
        ensure!(
            report.holes.is_empty(),
            "holes at the start: {:?}",
            report.holes
        );
        let whole = self.holds(&store, acked, Disk::Good)?;
        drop(store);
        let holes = plimsoll_store::check(dir)?.holes;
        ensure!(holes.is_empty(), "the check finds holes: {holes:?}");
        Ok((whole, report))
    }
}

/// Tells whether a store answered a slice as it must. After a start, the slice told again is there, and
/// the one after it may be in part.
pub(crate) fn fits(found: &[Appended], told: &[Appended], resumed: bool) -> bool {
    let fits = |(found, told): (&Appended, &Appended)| {
        let there = matches!(
            (found, told),
            (Appended::Duplicate, Appended::Stored)
                | (Appended::OutOfOrder { .. }, Appended::OutOfOrder { .. })
        );
        found == told || (resumed && there)
    };
    found.len() == told.len() && found.iter().zip(told).all(fits)
}

/// Does all that is due at the instant of a slice.
fn keep_in_order(store: &Store, number: u64) -> anyhow::Result<()> {
    for _ in 0..UPKEEPS_MAX {
        if store.maintain(now(number))? == Upkeep::default() {
            return Ok(());
        }
    }
    bail!("upkeep finds no end")
}

fn note(samples: &mut Samples, row: &Row<'_>, horizon: UnixMillis) {
    for (metric, part, value) in row.readings() {
        let key = SeriesKey {
            subject: row.subject,
            metric,
            part: part.clone(),
        };
        if row.window.end >= horizon {
            let of_key = samples.entry(key).or_default();
            of_key.entry(row.window).or_insert(value);
        }
    }
}
