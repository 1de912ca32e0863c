//! A node with a domain on it, whose agent tells the same things to the store and to a model.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use plimsoll_model::{
    Batch, BootId, DeviceId, DomainId, DomainState, Event, EventKind, Fact, Incarnation, Metric,
    NodeFacts, NodeId, Part, PolledFacts, SeriesKey, SessionId, Subject, Sweep, UnixMillis, Window,
};
use plimsoll_store::{
    Appended, Document, EventFilter, NodeSeen, Record, SeriesFilter, Store, StoreOptions, Told,
};

pub(crate) fn at(seconds: u64) -> UnixMillis {
    UnixMillis::from_millis(i64::try_from(seconds * 1_000).unwrap())
}

pub(crate) const ALWAYS: (UnixMillis, UnixMillis) = (
    UnixMillis::from_millis(i64::MIN),
    UnixMillis::from_millis(i64::MAX),
);

pub(crate) fn small() -> StoreOptions {
    StoreOptions {
        partition: Duration::from_secs(100),
        segment_bytes: 2_000,
        ..StoreOptions::default()
    }
}

pub(crate) fn open(dir: &Path) -> Store {
    Store::open(dir, small()).unwrap().0
}

/// The agent, and what must be found of what it told.
pub(crate) struct Agent {
    pub(crate) node: NodeId,
    pub(crate) session: SessionId,
    pub(crate) domain: DomainId,
    incarnation: Incarnation,
    pub(crate) sequence: u64,
    pub(crate) model: BTreeMap<SeriesKey, BTreeMap<Window, u64>>,
}

impl Agent {
    pub(crate) fn number(number: u8) -> Self {
        Self {
            node: NodeId::from_bytes([number; 16]).unwrap(),
            session: SessionId::from_bytes([100 + number; 16]).unwrap(),
            domain: DomainId::from_bytes([200; 16]).unwrap(),
            incarnation: Incarnation {
                boot: BootId::from_bytes([50; 16]).unwrap(),
                started_ms: 7,
            },
            sequence: 0,
            model: BTreeMap::new(),
        }
    }

    fn guest(&self) -> Subject {
        Subject::Domain {
            domain: self.domain,
            node: self.node,
            incarnation: self.incarnation,
        }
    }

    /// Makes the next batch and notes it in the model: a sweep of the node and one of the domain.
    pub(crate) fn batch(&mut self, seconds: u64, value: u64) -> Batch {
        self.sequence += 1;
        let window = Window {
            end: at(seconds),
            // The store keeps the first of two values in one window, within one set of columns.
            width_ms: if self.sequence.is_multiple_of(3) {
                4
            } else {
                3
            },
        };
        let vda = Part::named("vda").unwrap();
        let mut sweeps = vec![
            Sweep {
                subject: Subject::Node(self.node),
                window,
                values: vec![
                    (Metric::HostMemFree, Part::whole(), value),
                    (Metric::HostMemTotal, Part::whole(), u64::MAX),
                ],
            },
            Sweep {
                subject: self.guest(),
                window,
                values: vec![(Metric::VmState, vda, value * 4_096)],
            },
        ];
        if self.sequence.is_multiple_of(3) {
            // Now and then one value cannot be read.
            sweeps[0].values.pop();
        }
        self.note(&sweeps);
        Batch {
            node: self.node,
            session: self.session,
            sequence: self.sequence,
            made: at(seconds),
            body_crc: 77,
            rows: sweeps.into_iter().collect(),
            facts: Vec::new(),
            events: Vec::new(),
        }
    }

    /// Holds tables against the model; the same window may be in two sets of columns of a subject.
    fn agrees_in_tables(&self, store: &Store) {
        let mut told: BTreeMap<SeriesKey, BTreeMap<Window, Vec<u64>>> = BTreeMap::new();
        for subject in store.subjects(Some(self.node), None) {
            for table in store.tables(subject, |_, _| true, ALWAYS.0..=ALWAYS.1) {
                let windows = table.ends.iter().zip(&table.widths_ms);
                let windows: Vec<Window> = windows
                    .map(|(end, width_ms)| Window {
                        end: *end,
                        width_ms: *width_ms,
                    })
                    .collect();
                assert!(windows.is_sorted_by(|a, b| a < b), "{windows:?}");
                for ((metric, part), values) in table.columns.into_iter().zip(table.values) {
                    let key = SeriesKey {
                        subject,
                        metric,
                        part,
                    };
                    let samples = told.entry(key).or_default();
                    for (window, value) in windows.iter().zip(values) {
                        samples.entry(*window).or_default().push(value);
                    }
                }
            }
        }
        assert!(told.keys().eq(self.model.keys()));
        for (told, samples) in told.values().zip(self.model.values()) {
            assert!(told.keys().eq(samples.keys()));
            let holds = |(told, value): (&Vec<u64>, &u64)| told.contains(value);
            assert!(told.values().zip(samples.values()).all(holds));
        }
    }

    pub(crate) fn tell(&mut self, store: &Store, seconds: u64, value: u64) {
        let batch = self.batch(seconds, value);
        assert_eq!(
            store.append(&[Record::Batch(batch)]).unwrap(),
            [Appended::Stored]
        );
    }

    /// Tells of a device and two of its ports, one of which counts since later.
    pub(crate) fn tell_device(&mut self, store: &Store, seconds: u64, value: u64) {
        self.sequence += 1;
        let (node, device) = (self.node, DeviceId::named("switch-1"));
        let port = |port, since| Subject::Port {
            device,
            port,
            node,
            counting_since: at(since),
        };
        let whole = Subject::Device {
            device,
            node,
            counting_since: at(500),
        };
        let bytes = (Metric::HostNetRxBytes, Part::named("eth0").unwrap(), value);
        let window = Window {
            end: at(seconds),
            width_ms: 5,
        };
        let sweep = |subject, values| Sweep {
            subject,
            window,
            values,
        };
        let sweeps = vec![
            sweep(
                whole,
                vec![
                    (Metric::HostUptime, Part::whole(), value * 7),
                    (Metric::HostLoad1, Part::whole(), 250_000),
                ],
            ),
            sweep(port(1, 500), vec![bytes.clone()]),
            sweep(port(2, 900), vec![bytes]),
        ];
        self.note(&sweeps);
        let facts = PolledFacts {
            device,
            node,
            name: "switch-1".to_owned(),
            address: "192.0.2.1:161".to_owned(),
            profile: "switch".to_owned(),
            interval: Duration::from_secs(30),
            system_name: Some("fabric".to_owned()),
            description: None,
        };
        let batch = Batch {
            node,
            session: self.session,
            sequence: self.sequence,
            made: at(seconds),
            body_crc: 77,
            rows: sweeps.into_iter().collect(),
            facts: vec![Fact::Device {
                seen: at(seconds),
                facts,
            }],
            events: Vec::new(),
        };
        let stored = store.append(&[Record::Batch(batch)]).unwrap();
        assert_eq!(stored, [Appended::Stored]);
    }

    /// Notes in the model what sweeps hold.
    fn note(&mut self, sweeps: &[Sweep]) {
        for sweep in sweeps {
            for (metric, part, value) in &sweep.values {
                let key = SeriesKey {
                    subject: sweep.subject,
                    metric: *metric,
                    part: part.clone(),
                };
                let samples = self.model.entry(key).or_default();
                samples.entry(sweep.window).or_insert(*value);
            }
        }
    }

    /// Tells a fact, an event and a document beside the samples.
    pub(crate) fn tell_more(&mut self, store: &Store, seconds: u64) {
        let mut batch = self.batch(seconds, seconds);
        batch.facts.push(Fact::Node {
            seen: at(seconds),
            facts: NodeFacts {
                hostname: format!("host-{seconds}"),
                ..NodeFacts::default()
            },
        });
        batch.events.push(Event {
            node: self.node,
            seen: at(seconds),
            kind: EventKind::DomainState {
                domain: self.domain,
                incarnation: Some(self.incarnation),
                state: DomainState::Started,
                detail: 3,
            },
        });
        let document = Document {
            kind: 1,
            key: vec![self.node.as_bytes()[0], u8::try_from(seconds % 5).unwrap()],
            time: at(seconds),
            payload: seconds.to_le_bytes().to_vec(),
        };
        let records = [Record::Batch(batch), Record::Document(document)];
        assert_eq!(store.append(&records).unwrap(), [Appended::Stored; 2]);
    }

    /// Holds the samples in the store against the model.
    pub(crate) fn agrees(&self, store: &Store) {
        for (key, samples) in &self.model {
            let all: Vec<(Window, u64)> = samples.iter().map(|(w, v)| (*w, *v)).collect();
            assert_eq!(store.range(key, ALWAYS.0, ALWAYS.1), all, "{key:?}");
            let latest = store.latest(key).unwrap();
            assert_eq!((latest.window, latest.value), *all.last().unwrap());
        }
        let filter = SeriesFilter {
            node: Some(self.node),
            ..SeriesFilter::default()
        };
        let keys: Vec<SeriesKey> = self.model.keys().cloned().collect();
        assert_eq!(store.series(&filter), keys);
        let latest = store.latest_of_all(&filter).into_iter();
        let latest = latest.map(|reading| (reading.key, (reading.window, reading.value)));
        let last = self.model.iter().map(|(key, samples)| {
            let (window, value) = samples.last_key_value().unwrap();
            (key.clone(), (*window, *value))
        });
        assert!(latest.eq(last), "the last samples of all series at once");
        self.agrees_in_tables(store);
        let guests = SeriesFilter {
            node: Some(self.node),
            domain: Some(self.domain),
            ..SeriesFilter::default()
        };
        let of_guest = |key: &&SeriesKey| key.subject.domain().is_some();
        assert_eq!(
            store.series(&guests),
            keys.iter().filter(of_guest).cloned().collect::<Vec<_>>()
        );
        let durable = store.durable_sequence(self.node, self.session);
        assert_eq!(durable, (self.sequence > 0).then_some(self.sequence));
    }
}

/// Everything a store answers, for holding two stores against each other.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Answers {
    series: Vec<SeriesKey>,
    by_domain: Vec<SeriesKey>,
    samples: Vec<Vec<(Window, u64)>>,
    nodes: Vec<NodeSeen>,
    documents: Vec<Document>,
    events: Vec<Event>,
    facts: Vec<Option<Told<NodeFacts>>>,
    devices: Vec<Told<PolledFacts>>,
    of_device: Vec<SeriesKey>,
    gaps: Vec<plimsoll_model::SampleGap>,
}

impl Answers {
    pub(crate) fn of(store: &Store) -> Self {
        let series = store.series(&SeriesFilter::default());
        let filter = SeriesFilter {
            domain: Some(DomainId::from_bytes([200; 16]).unwrap()),
            ..SeriesFilter::default()
        };
        let nodes = store.nodes();
        Self {
            by_domain: store.series(&filter),
            samples: series
                .iter()
                .map(|key| store.range(key, ALWAYS.0, ALWAYS.1))
                .collect(),
            devices: store.device_facts(),
            of_device: store.series(&SeriesFilter {
                device: Some(DeviceId::named("switch-1")),
                ..SeriesFilter::default()
            }),
            documents: store.documents(1),
            events: store.events(ALWAYS.0, ALWAYS.1, &EventFilter::default()),
            facts: nodes
                .iter()
                .map(|seen| store.latest_facts(seen.node))
                .collect(),
            gaps: nodes
                .iter()
                .flat_map(|seen| store.gaps(seen.node))
                .collect(),
            series,
            nodes,
        }
    }

    pub(crate) fn sample_count(&self) -> usize {
        self.samples.iter().map(Vec::len).sum()
    }
}

/// Lists all files below a directory.
pub(crate) fn files(dir: &Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// Copies a directory.
pub(crate) fn copy(from: &Path, to: &Path) {
    for path in files(from) {
        let target = to.join(path.strip_prefix(from).unwrap());
        std::fs::create_dir_all(target.parent().unwrap()).unwrap();
        std::fs::copy(&path, &target).unwrap();
    }
}
