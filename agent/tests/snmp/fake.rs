//! A device that is not there: answers on a port of the system's choice, honestly or bent.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use plimsoll_agent::look::Look;
use plimsoll_agent::source::snmp::device::{Device, Shared};
use plimsoll_agent::source::snmp::login::Login;
use plimsoll_agent::source::snmp::profile::Profile;
use plimsoll_agent::source::snmp::udp::Udp;
use plimsoll_agent::source::snmp::{Pace, Target};
use plimsoll_model::{Clock as _, Metric, NodeId, SystemClock};
use plimsoll_proto::secret::Secret;
use tokio::net::UdpSocket;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

use crate::wire::{Question, Table, Value};

const IF_ENTRY: [u32; 9] = [1, 3, 6, 1, 2, 1, 2, 2, 1];
const IFX_ENTRY: [u32; 11] = [1, 3, 6, 1, 2, 1, 31, 1, 1, 1, 0];

fn cell(entry: &[u32], column: u32, row: u32) -> Vec<u32> {
    [entry, &[column, row]].concat()
}

/// What a counter of a port stands at: no two cells hold the same.
pub(crate) fn truth(column: u32, row: u32) -> u64 {
    u64::from(column) * 1_000_000 + u64::from(row)
}

/// A switch with so many ports.
pub(crate) fn switch(ports: u32) -> Table {
    let mut table = Table::new();
    let system = |number: u32| vec![1, 3, 6, 1, 2, 1, 1, number, 0];
    table.insert(system(1), Value::Text("a switch".to_owned()));
    table.insert(system(3), Value::Ticks(0));
    table.insert(system(5), Value::Text("fake".to_owned()));
    let ifx = &IFX_ENTRY[..10];
    for row in 1..=ports {
        table.insert(cell(&IF_ENTRY, 8, row), Value::Integer(1));
        table.insert(cell(&IF_ENTRY, 4, row), Value::Integer(1_500));
        table.insert(cell(ifx, 1, row), Value::Text(format!("port-{row}")));
        for column in 6..=13 {
            table.insert(cell(ifx, column, row), Value::Counter64(truth(column, row)));
        }
        table.insert(cell(ifx, 15, row), Value::Gauge(10_000));
    }
    // Something behind the tables, as on every real device.
    table.insert(vec![1, 3, 6, 1, 2, 1, 99, 1, 0], Value::Integer(1));
    table
}

/// What the poller must read of a port's bytes and packets.
pub(crate) fn expected(metric: Metric, row: u32) -> Option<u64> {
    match metric {
        Metric::HostNetRxBytes => Some(truth(6, row)),
        Metric::HostNetTxBytes => Some(truth(10, row)),
        Metric::HostNetRxPackets => Some((7..=9).map(|column| truth(column, row)).sum()),
        Metric::HostNetTxPackets => Some((11..=13).map(|column| truth(column, row)).sum()),
        Metric::HostNetSpeed => Some(1_250_000_000),
        Metric::HostNetMtu => Some(1_500),
        Metric::HostNetOperstate => Some(1),
        _ => None,
    }
}

/// Decides which packets go back, given the question and the honest answer.
pub(crate) type Twist = Box<dyn FnMut(&Question, Vec<u8>) -> Vec<Vec<u8>> + Send>;

/// A device that answers; it ends with its owner.
pub(crate) struct Fake {
    pub(crate) address: SocketAddr,
    pub(crate) questions: Arc<Mutex<u64>>,
    answering: JoinHandle<()>,
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.answering.abort();
    }
}

impl Fake {
    pub(crate) async fn honest(ports: u32) -> Self {
        Self::bent(ports, Box::new(|_, answer| vec![answer])).await
    }

    pub(crate) async fn bent(ports: u32, mut twist: Twist) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let questions = Arc::new(Mutex::new(0));
        let count = Arc::clone(&questions);
        let answering = tokio::spawn(async move {
            let (clock, mut table) = (SystemClock::new(), switch(ports));
            let began = clock.monotonic();
            let mut bytes = vec![0; 65_536];
            while let Ok((length, from)) = socket.recv_from(&mut bytes).await {
                *count.lock().unwrap() += 1;
                let question = Question::read(&bytes[..length]);
                let ticks = clock.monotonic().since(began).as_millis() / 10 + 100_000;
                let ticks = Value::Ticks(u32::try_from(ticks).unwrap());
                table.insert(vec![1, 3, 6, 1, 2, 1, 1, 3, 0], ticks);
                let honest = question.answer(question.id, &question.bindings(&table));
                for packet in twist(&question, honest) {
                    // Who asked may be gone already.
                    socket.send_to(&packet, from).await.ok();
                }
            }
        });
        Self {
            address,
            questions,
            answering,
        }
    }
}

pub(crate) fn pace() -> Pace {
    Pace {
        interval: Duration::from_secs(10),
        timeout: Duration::from_millis(200),
        retries: 2,
        deadline: Duration::from_secs(10),
        outstanding_max: 256,
        rebuild_after: 3,
        warm_up: Duration::ZERO,
    }
}

pub(crate) fn target(name: &str, address: SocketAddr) -> Arc<Target> {
    Arc::new(Target {
        name: name.to_owned(),
        address: address.to_string(),
        profile: Arc::new(Profile::own("switch").unwrap()),
        credential: "public".to_owned(),
        login: Arc::new(Login::Community(Secret::of("public"))),
    })
}

/// A poller of one fake device.
pub(crate) fn device(fake: &Fake) -> Device {
    let shared = Shared {
        node: NodeId::random(),
        pace: pace(),
        dial: Arc::new(Udp::new(pace())),
        slots: Arc::new(Semaphore::new(256)),
        clock: Arc::new(SystemClock::new()),
        met: plimsoll_agent::limits::Met::default(),
    };
    Device::new(target("fake", fake.address), shared)
}

/// Whether a look says that the device answered.
pub(crate) fn is_up(look: &Look) -> bool {
    let mut values = look.sweeps.iter().flat_map(|sweep| &sweep.values);
    values.any(|(metric, _, value)| *metric == Metric::HostSnmpUp && *value == 1)
}

/// Counts the readings of ports; each must be the true one of its own port.
pub(crate) fn hold_ports(look: &Look) -> usize {
    let mut count = 0;
    for sweep in &look.sweeps {
        let Some(row) = sweep.subject.port() else {
            continue;
        };
        for (metric, part, value) in &sweep.values {
            assert_eq!(part.as_str(), format!("port-{row}"), "{sweep:?}");
            assert_eq!(
                Some(*value),
                expected(*metric, row),
                "{metric} of port {row}"
            );
            count += 1;
        }
    }
    count
}
