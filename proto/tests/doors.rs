//! The two doors: what goes out comes in again, and what is wrong is refused by name.

#![expect(
    clippy::unwrap_used,
    reason = "a story ends where its parts are not what they must be"
)]

use plimsoll_model::{
    BootId, ByteSize, DeviceFacts, DeviceId, DiskFacts, DomainFacts, DomainId, Event, EventKind,
    Fact, FileSystemFacts, HardwareFacts, Incarnation, InterfaceFacts, MemoryFacts, Metric,
    MigrationEnd, MigrationEnded, NetworkCardFacts, NodeFacts, NodeId, Part, PinningFacts,
    PolledFacts, SeriesKey, SessionId, Subject, UnixMillis, Window,
};
use plimsoll_proto::parse::{self, SeriesTable};
use plimsoll_proto::{render, v1};
use prost::Message as _;

struct Sender {
    node: NodeId,
    session: SessionId,
    domain: Subject,
}

impl Sender {
    fn new() -> Self {
        let (node, session) = (NodeId::random(), SessionId::random());
        let incarnation = Incarnation {
            boot: BootId::random(),
            started_ms: 5_000,
        };
        let domain = Subject::Domain {
            domain: DomainId::random(),
            node,
            incarnation,
        };
        Self {
            node,
            session,
            domain,
        }
    }

    fn table(&self) -> SeriesTable {
        let mut table = SeriesTable::new(self.node, self.session);
        let series = vec![
            self.declaration(0, Metric::VmCpuTime, ""),
            self.declaration(1, Metric::VmBlockRdBytes, "vda"),
        ];
        table.declare(self.declarations(series)).unwrap();
        table
    }

    fn declaration(&self, index: u32, metric: Metric, part: &str) -> v1::SeriesDeclaration {
        let part = Part::named(part).unwrap();
        render::declaration(
            index,
            &SeriesKey {
                subject: self.domain,
                metric,
                part,
            },
        )
    }

    fn declarations(&self, series: Vec<v1::SeriesDeclaration>) -> v1::SeriesDeclarations {
        v1::SeriesDeclarations {
            session_id: self.session.as_bytes().to_vec(),
            series,
        }
    }

    fn batch(&self, body: &v1::BatchBody) -> v1::Batch {
        let body = body.encode_to_vec();
        v1::Batch {
            session_id: self.session.as_bytes().to_vec(),
            sequence: 7,
            body_crc32c: i64::from(crc32c::crc32c(&body)),
            body: body.into(),
        }
    }
}

fn window() -> Window {
    Window {
        end: UnixMillis::from_millis(1_795_000_000_123),
        width_ms: 4,
    }
}

fn body(sweeps: Vec<v1::Sweep>) -> v1::BatchBody {
    let made_time = Some(render::timestamp(window().end));
    v1::BatchBody {
        made_time,
        sweeps,
        ..Default::default()
    }
}

#[test]
fn a_batch_comes_in_as_it_went_out() {
    let sender = Sender::new();
    let outcome = MigrationEnded {
        end: MigrationEnd::Completed,
        started: window().end,
        total_ms: Some(8_652),
        downtime_ms: Some(36),
        setup_ms: None,
        iterations: Some(8),
        memory_total: None,
        memory_processed: None,
        memory_normal: None,
        zero_page_count: Some(65_525),
        throughput: None,
    };
    let Subject::Domain {
        domain,
        incarnation,
        ..
    } = sender.domain
    else {
        unreachable!()
    };
    let kind = EventKind::MigrationEnded {
        domain,
        incarnation,
        end: outcome,
    };
    let event = Event {
        node: sender.node,
        seen: window().end,
        kind,
    };
    let mut body = body(vec![render::sweep(window(), &[(0, 77), (1, 512)])]);
    body.events.push(render::event(&event));
    let batch = parse::batch(&mut sender.table(), &sender.batch(&body)).unwrap();
    assert_eq!(
        (batch.node, batch.sequence, batch.made),
        (sender.node, 7, window().end)
    );
    assert_eq!(batch.events, vec![event]);
    assert_eq!(batch.rows.len(), 1);
    let row = batch.rows.iter().next().unwrap();
    assert_eq!((row.window, row.subject), (window(), sender.domain));
    let vda = Part::named("vda").unwrap();
    assert_eq!(
        row.readings().collect::<Vec<_>>(),
        vec![
            (Metric::VmCpuTime, &Part::whole(), 77),
            (Metric::VmBlockRdBytes, &vda, 512)
        ]
    );
}

#[test]
fn a_body_that_was_changed_on_the_way_is_refused() {
    let sender = Sender::new();
    let mut batch = sender.batch(&body(vec![render::sweep(window(), &[(0, 77)])]));
    let mut changed = batch.body.to_vec();
    changed[3] ^= 1;
    batch.body = changed.into();
    let error = parse::batch(&mut sender.table(), &batch).unwrap_err();
    assert_eq!(error.field, "batch.body_crc32c");
}

#[test]
fn values_of_series_that_were_never_declared_are_refused() {
    let sender = Sender::new();
    let batch = sender.batch(&body(vec![render::sweep(window(), &[(9, 1)])]));
    let error = parse::batch(&mut sender.table(), &batch).unwrap_err();
    assert_eq!(
        error.to_string(),
        "batch.body.sweeps.index_deltas: 9 is not declared"
    );
}

#[test]
fn a_number_keeps_its_series() {
    let sender = Sender::new();
    let mut table = sender.table();
    let same = vec![sender.declaration(0, Metric::VmCpuTime, "")];
    assert_eq!(table.declare(sender.declarations(same)), Ok(()));
    let other = vec![sender.declaration(0, Metric::VmMemRss, "")];
    let error = table.declare(sender.declarations(other)).unwrap_err();
    assert_eq!(error.field, "declarations.series.index");
}

#[test]
fn a_metric_of_a_later_release_is_dropped_and_the_rest_is_kept() {
    let sender = Sender::new();
    let mut table = sender.table();
    let later = v1::SeriesDeclaration {
        metric_code: 60_000,
        ..sender.declaration(2, Metric::VmCpuTime, "")
    };
    table.declare(sender.declarations(vec![later])).unwrap();
    let sweep = render::sweep(window(), &[(0, 1), (2, 2)]);
    let rows = parse::rows(&mut table, &[sweep]).unwrap();
    assert_eq!(
        rows.iter().next().unwrap().readings().collect::<Vec<_>>(),
        vec![(Metric::VmCpuTime, &Part::whole(), 1)]
    );
}

#[test]
fn a_sweep_of_several_subjects_in_any_order_becomes_the_same_rows_every_time() {
    let sender = Sender::new();
    let mut table = sender.table();
    let of_node = v1::SeriesDeclaration {
        domain_id: Vec::new(),
        incarnation: None,
        ..sender.declaration(2, Metric::HostMemFree, "")
    };
    table.declare(sender.declarations(vec![of_node])).unwrap();
    let sweep = |first| v1::Sweep {
        end_time_ms: first,
        width_ms: 1,
        index_deltas: vec![1, -1, 2],
        values: vec![first, first + 1, first + 2],
    };
    let other = render::sweep(window(), &[(1, 9)]);
    let rows = parse::rows(&mut table, &[sweep(10), other, sweep(20)]).unwrap();
    let told: Vec<(Option<u64>, Vec<u64>)> = rows
        .iter()
        .map(|row| {
            let disk = row.readings().find(|one| one.0 == Metric::VmBlockRdBytes);
            (disk.map(|one| one.2), row.values.to_vec())
        })
        .collect();
    assert_eq!(
        told,
        [
            (None, vec![12]),
            (Some(10), vec![11, 10]),
            (Some(9), vec![9]),
            (None, vec![22]),
            (Some(20), vec![21, 20]),
        ]
    );
    let sets: Vec<_> = rows.iter().map(|row| row.columns.as_ptr()).collect();
    assert_eq!((sets[1], sets[0]), (sets[4], sets[3]), "names are shared");
}

#[test]
fn a_sweep_that_names_a_series_twice_or_goes_below_zero_is_refused_every_time() {
    let sender = Sender::new();
    let mut table = sender.table();
    let sweep = |index_deltas, values| v1::Sweep {
        end_time_ms: 1,
        width_ms: 1,
        index_deltas,
        values,
    };
    for _ in 0..2 {
        let twice = parse::rows(&mut table, &[sweep(vec![0, 0], vec![1, 2])]).unwrap_err();
        assert_eq!(twice.field, "sweeps.index_deltas");
        let below = parse::rows(&mut table, &[sweep(vec![0, 1], vec![1, -2])]).unwrap_err();
        assert_eq!(below.field, "sweeps.values");
    }
}

#[test]
fn what_binds_a_guest_goes_through_both_doors() {
    let text = |text: &str| Some(text.to_owned());
    let node = NodeId::random();
    let hardware = HardwareFacts {
        cpu_mode: text("custom"),
        cpu_features: vec!["aes".to_owned()],
        tsc_hz: Some(2_400_000_000),
        memory: Some(MemoryFacts {
            source: text("memfd"),
            shared: true,
            locked: false,
            page: Some(ByteSize::from_mib(2)),
        }),
        launch_security: text("sev"),
        tpm: text("emulator"),
        devices: vec![DeviceFacts {
            kind: "pci".to_owned(),
            address: "0000:3b:00.1".to_owned(),
        }],
        pinning: Some(PinningFacts {
            cpus: text("0-3"),
            memory_nodes: None,
        }),
    };
    let guest = DomainFacts {
        domain: DomainId::random(),
        node,
        incarnation: Incarnation {
            boot: BootId::random(),
            started_ms: 5,
        },
        name: "web".to_owned(),
        accelerator: None,
        machine: None,
        cpu_model: None,
        vcpu_count: None,
        memory_max: None,
        huge_pages: None,
        disks: vec![DiskFacts {
            target: "vda".to_owned(),
            storage: text("filer:/vol"),
            ..DiskFacts::default()
        }],
        network_cards: vec![NetworkCardFacts {
            mac: "52:54:00:00:00:01".to_owned(),
            connection: "bridge".to_owned(),
            model: text("virtio"),
            bridge: text("br0"),
            mtu_bytes: Some(9_000),
            ..NetworkCardFacts::default()
        }],
        host_device_count: 1,
        hardware,
        project: text("a1b2"),
    };
    let seen = window().end;
    let rendered = render::domain_facts(&guest, seen);
    let read = parse::domain_facts(node, rendered).unwrap();
    assert_eq!(read, Fact::Domain { seen, facts: guest });
}

#[test]
fn what_a_node_mounts_goes_through_both_doors() {
    let text = |text: &str| Some(text.to_owned());
    let seen = window().end;
    let facts = NodeFacts {
        hostname: "a".to_owned(),
        agent_version: "1".to_owned(),
        interfaces: vec![InterfaceFacts {
            name: "eth0".to_owned(),
            full_duplex: Some(true),
            master: text("bond0"),
            addresses: vec!["10.0.0.5/24".to_owned()],
            ..InterfaceFacts::default()
        }],
        tsc_hz: Some(7),
        tsc_scaling: Some(false),
        file_systems: vec![FileSystemFacts {
            mount: "/srv".to_owned(),
            kind: "nfs4".to_owned(),
            shared_id: text("filer:/vol"),
        }],
        ..NodeFacts::default()
    };
    let read = parse::node_facts(render::node_facts(&facts, seen)).unwrap();
    assert_eq!(read, Fact::Node { seen, facts });
}

#[test]
fn devices_and_their_ports_come_in_as_they_went_out_and_half_a_device_is_refused() {
    let sender = Sender::new();
    let (node, device) = (sender.node, DeviceId::named("switch-1"));
    let counting_since = UnixMillis::from_millis(1_790_000_000_123);
    let subjects = [
        Subject::Device {
            device,
            node,
            counting_since,
        },
        Subject::Port {
            device,
            port: 7,
            node,
            counting_since,
        },
    ];
    let mut table = SeriesTable::new(sender.node, sender.session);
    for (index, subject) in (0..).zip(subjects) {
        let key = SeriesKey {
            subject,
            metric: Metric::HostNetRxBytes,
            part: Part::named("eth0").unwrap(),
        };
        let told = render::declaration(index, &key);
        let half = v1::SeriesDeclaration {
            counting_since_ms: None,
            ..told.clone()
        };
        let both = v1::SeriesDeclaration {
            domain_id: vec![1; 16],
            ..told.clone()
        };
        let none = v1::SeriesDeclaration {
            port_index: Some(0),
            ..told.clone()
        };
        for (wrong, field) in [
            (half, "counting_since_ms"),
            (both, "device_id"),
            (none, "port_index"),
        ] {
            let error = table.declare(sender.declarations(vec![wrong])).unwrap_err();
            assert_eq!(error.field, format!("declarations.series.{field}"));
        }
        table.declare(sender.declarations(vec![told])).unwrap();
    }
    let sweep = render::sweep(window(), &[(0, 5), (1, 6)]);
    let rows = parse::rows(&mut table, &[sweep]).unwrap();
    let seen: Vec<_> = rows.iter().map(|row| row.subject).collect();
    assert_eq!(seen, subjects);

    let facts = PolledFacts {
        device,
        node,
        name: "switch-1".to_owned(),
        address: "192.0.2.1:161".to_owned(),
        profile: "switch".to_owned(),
        interval: std::time::Duration::from_secs(30),
        system_name: None,
        description: Some("a switch".to_owned()),
    };
    let told = render::device_facts(&facts, window().end);
    let read = parse::device_facts(node, told.clone()).unwrap();
    let seen = window().end;
    assert_eq!(read, Fact::Device { seen, facts });
    let foreign = v1::PolledFacts {
        node_id: vec![1; 16],
        ..told
    };
    let error = parse::device_facts(node, foreign).unwrap_err();
    assert_eq!(error.field, "device_facts.node_id");
}

#[test]
fn an_agent_cannot_speak_for_another_node() {
    let facts = v1::DomainFacts {
        node_id: vec![1; 16],
        ..Default::default()
    };
    let error = parse::domain_facts(NodeId::random(), facts).unwrap_err();
    assert_eq!(error.field, "domain_facts.node_id");
}

#[test]
fn a_gap_has_an_order_and_a_reason() {
    let node = NodeId::random();
    let gap = v1::Gap {
        session_id: SessionId::random().as_bytes().to_vec(),
        first_sequence: 5,
        last_sequence: 4,
        reading_count: None,
        reason: v1::GapReason::SpoolFull.into(),
    };
    let refused = |gap: &v1::Gap| parse::gap(node, window().end, gap).unwrap_err().field;
    assert_eq!(refused(&gap), "gap.last_sequence");
    let whole = v1::Gap {
        last_sequence: 9,
        ..gap
    };
    assert_eq!(
        refused(&v1::Gap {
            reason: 0,
            ..whole.clone()
        }),
        "gap.reason"
    );
    let read = parse::gap(node, window().end, &whole).unwrap();
    assert_eq!(render::gap(&read), whole);
}
