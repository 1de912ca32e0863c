//! From what a device said to readings. What it did not say has no reading, and what cannot be is not
//! taken: an idle processor that never was, a port of no speed.

use std::collections::BTreeMap;
use std::time::Duration;

use plimsoll_model::{Kind, Metric, Part, Subject, Sweep, Window};

use super::count::{Long, Run};
use super::oid::Oid;
use super::profile::{DISK_METRICS, Port, Scalar};
use super::session::Said;
use super::walk::Column;
use crate::look::Values;

/// Bytes per second of a megabit per second.
const MEGABIT: u64 = 125_000;

/// Where readings of one device come from and go to.
#[derive(Debug)]
pub struct Sheet<'a> {
    /// The run of the device's SNMP agent.
    pub run: Run,
    /// Its short counters.
    pub long: &'a mut Long,
    /// How young an agent may be and tell counters: net-snmp tells zeros at first.
    pub warm_up: Duration,
}

impl Sheet<'_> {
    /// Takes a value for what it is; absent if it is none.
    fn number(
        &mut self,
        subject: Subject,
        metric: Metric,
        part: &Part,
        said: &Said,
    ) -> Option<u64> {
        if metric.kind() == Kind::Counter && self.run.age() < self.warm_up {
            return None;
        }
        match said {
            Said::Integer(value) => u64::try_from(*value).ok(),
            Said::Gauge(value) | Said::Ticks(value) => Some(u64::from(*value)),
            Said::Counter64(value) => Some(*value),
            Said::Counter32(value) => Some(self.long.read((subject, metric, part.clone()), *value)),
            Said::Bytes(_) | Said::Nothing | Said::Other => None,
        }
    }

    /// Reads values of the whole device; of one metric the first that was told holds.
    pub fn scalars(
        &mut self,
        subject: Subject,
        scalars: &[Scalar],
        said: &BTreeMap<Oid, Said>,
    ) -> Values {
        let mut values = Values::default();
        let mut idle_told = false;
        let mut read = Vec::new();
        for scalar in scalars {
            let Some(told) = said.get(&scalar.oid) else {
                continue;
            };
            let number = self.number(subject, scalar.metric, &Part::whole(), told);
            let Some(value) = number.and_then(|number| number.checked_mul(scalar.times)) else {
                continue;
            };
            idle_told |= is_processor_time(scalar.metric) && value > 0;
            if !read.iter().any(|(metric, _)| *metric == scalar.metric) {
                read.push((scalar.metric, value));
            }
        }
        for (metric, value) in read {
            // All processor times at zero are those of an agent that has not looked yet.
            if idle_told || !is_processor_time(metric) {
                values.whole(metric, value);
            }
        }
        let age = u64::try_from(self.run.age().as_millis()).unwrap_or(u64::MAX);
        values.whole(Metric::HostUptime, age);
        values
    }

    /// Reads ports: a sweep for each, since each may count from an instant of its own.
    pub fn ports(&mut self, device: Subject, columns: &[Column], window: Window) -> Vec<Sweep> {
        let column = |port: Port| {
            let place = Port::ALL.iter().position(|other| *other == port)?;
            columns.get(place)
        };
        let of_row = |port: Port, row: u32| column(port)?.get(&row);
        let operational = column(Port::Operational).into_iter().flat_map(Column::keys);
        let wide = column(Port::InOctets).into_iter().flat_map(Column::keys);
        let mut rows: Vec<u32> = operational.chain(wide).copied().collect();
        rows.sort_unstable();
        rows.dedup();
        let mut sweeps = Vec::with_capacity(rows.len());
        for row in rows {
            let since = match of_row(Port::Discontinuity, row) {
                Some(Said::Ticks(ticks)) => self.run.port_since(Some(*ticks)),
                _ => self.run.since,
            };
            let Subject::Device { device, node, .. } = device else {
                continue;
            };
            let subject = Subject::Port {
                device,
                port: row,
                node,
                counting_since: since,
            };
            let values = self.port(subject, row, &|port| of_row(port, row));
            sweeps.extend(values.sweep(subject, window));
        }
        sweeps
    }

    fn port<'a>(
        &mut self,
        subject: Subject,
        row: u32,
        told: &impl Fn(Port) -> Option<&'a Said>,
    ) -> Values {
        let name = [Port::Name, Port::Description]
            .into_iter()
            .find_map(|column| name_of(told(column)?));
        let part = name.unwrap_or_else(|| Part::index(row));
        let mut values = Values::default();
        let mut put = |metric, value: Option<u64>| {
            if let Some(value) = value {
                values.named(metric, part.as_str(), value);
            }
        };
        let up = match told(Port::Operational) {
            Some(Said::Integer(1)) => Some(1),
            // Testing, unknown: nobody can say. The others are ways to be down.
            Some(Said::Integer(2 | 5..=7)) => Some(0),
            _ => None,
        };
        put(Metric::HostNetOperstate, up);
        let speed = match told(Port::MegabitsPerSecond) {
            Some(Said::Gauge(megabits)) if *megabits > 0 => Some(u64::from(*megabits) * MEGABIT),
            _ => None,
        };
        put(Metric::HostNetSpeed, speed);
        let mut one =
            |column: Port, metric: Metric| self.number(subject, metric, &part, told(column)?);
        put(
            Metric::HostNetMtu,
            one(Port::Mtu, Metric::HostNetMtu).filter(|mtu| *mtu > 0),
        );
        for (column, metric) in [
            (Port::InErrors, Metric::HostNetRxErrs),
            (Port::InDiscards, Metric::HostNetRxDrop),
            (Port::OutErrors, Metric::HostNetTxErrs),
            (Port::OutDiscards, Metric::HostNetTxDrop),
        ] {
            put(metric, one(column, metric));
        }
        // Of bytes and packets only the 64-bit counters: a 32-bit one is full within seconds.
        let wide = |column: Port, metric: Metric| match told(column) {
            Some(said @ Said::Counter64(_)) => Some((said, metric)),
            _ => None,
        };
        let mut sum = |columns: &[Port], metric: Metric| {
            columns.iter().try_fold(0_u64, |sum, column| {
                let (said, metric) = wide(*column, metric)?;
                sum.checked_add(self.number(subject, metric, &part, said)?)
            })
        };
        let packets_in = [Port::InUnicast, Port::InMulticast, Port::InBroadcast];
        let packets_out = [Port::OutUnicast, Port::OutMulticast, Port::OutBroadcast];
        put(
            Metric::HostNetRxBytes,
            sum(&[Port::InOctets], Metric::HostNetRxBytes),
        );
        put(
            Metric::HostNetTxBytes,
            sum(&[Port::OutOctets], Metric::HostNetTxBytes),
        );
        put(
            Metric::HostNetRxPackets,
            sum(&packets_in, Metric::HostNetRxPackets),
        );
        put(
            Metric::HostNetTxPackets,
            sum(&packets_out, Metric::HostNetTxPackets),
        );
        values
    }

    /// Reads disks; neither loop nor RAM disks, as on a node with an agent.
    pub fn disks(&mut self, subject: Subject, columns: &[Column]) -> Values {
        let mut values = Values::default();
        let Some((names, metrics)) = columns.split_first() else {
            return values;
        };
        for (row, name) in names {
            let Some(part) = name_of(name) else { continue };
            let is_made_up = ["loop", "ram", "zram"];
            if is_made_up
                .iter()
                .any(|kind| part.as_str().starts_with(kind))
            {
                continue;
            }
            for ((_, metric, times), column) in DISK_METRICS.iter().zip(metrics) {
                let number = column
                    .get(row)
                    .and_then(|said| self.number(subject, *metric, &part, said));
                if let Some(value) = number.and_then(|number| number.checked_mul(*times)) {
                    values.named(*metric, part.as_str(), value);
                }
            }
        }
        values
    }
}

fn is_processor_time(metric: Metric) -> bool {
    metric.name().starts_with("host.cpu.time.")
}

/// Takes a name that can be a part's.
fn name_of(said: &Said) -> Option<Part> {
    let Said::Bytes(bytes) = said else {
        return None;
    };
    let text = std::str::from_utf8(bytes).ok()?;
    Part::named(text)
        .ok()
        .filter(|part| !text.is_empty() && *part != Part::whole())
}

/// Takes a text for people, cut to what the wire takes; control characters become spaces.
pub fn text(said: Option<&Said>, bytes_max: usize) -> Option<String> {
    let Some(Said::Bytes(bytes)) = said else {
        return None;
    };
    let mut text: String = String::from_utf8_lossy(bytes)
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    while text.len() > bytes_max {
        text.pop();
    }
    (!text.trim().is_empty()).then_some(text)
}

#[cfg(test)]
mod tests {
    use plimsoll_model::{DeviceId, Monotonic, NodeId, UnixMillis};

    use super::super::count::Asked;
    use super::super::profile::Profile;
    use super::*;

    fn run(ticks: u32) -> Run {
        let now = Monotonic::from_duration(Duration::from_secs(5));
        let asked = Asked {
            begin: now,
            end: now,
            at: UnixMillis::from_millis(1_000_000_000),
        };
        Run::read(None, ticks, asked)
    }

    fn device(run: Run) -> Subject {
        Subject::Device {
            device: DeviceId::named("a"),
            node: NodeId::random(),
            counting_since: run.since,
        }
    }

    fn window() -> Window {
        Window::between(UnixMillis::from_millis(1), UnixMillis::from_millis(2))
    }

    fn host(ticks: u32, told: &[(&str, Said)]) -> Vec<(Metric, u64)> {
        let run = run(ticks);
        let told = told
            .iter()
            .map(|(name, said)| (name.parse().unwrap(), said.clone()));
        let mut sheet = Sheet {
            run,
            long: &mut Long::default(),
            warm_up: Duration::from_secs(15),
        };
        let scalars = Profile::own("host").unwrap().scalars;
        let values = sheet.scalars(device(run), &scalars, &told.collect());
        let sweep = values.sweep(device(run), window()).unwrap();
        sweep
            .values
            .into_iter()
            .map(|(metric, _, value)| (metric, value))
            .collect()
    }

    #[test]
    fn a_host_tells_bytes_nanoseconds_and_millionths_and_the_wide_value_before_the_narrow() {
        let values = host(
            6_000,
            &[
                ("1.3.6.1.4.1.2021.11.50.0", Said::Counter32(7)),
                ("1.3.6.1.4.1.2021.10.1.5.1", Said::Integer(434)),
                ("1.3.6.1.4.1.2021.4.5.0", Said::Integer(i32::MAX)),
                ("1.3.6.1.4.1.2021.4.20.0", Said::Counter64(5 << 30)),
                ("1.3.6.1.4.1.2021.4.6.0", Said::Integer(-5)),
            ],
        );
        let wanted = [
            (Metric::HostCpuTimeUser, 70_000_000),
            (Metric::HostLoad1, 4_340_000),
            (Metric::HostMemTotal, 5 << 40),
            (Metric::HostUptime, 60_000),
        ];
        assert_eq!(values, wanted, "free memory below zero is none");
    }

    #[test]
    fn an_agent_that_has_not_looked_yet_tells_no_processor_time_and_a_young_one_no_counter() {
        let names = [50, 51, 53].map(|number| format!("1.3.6.1.4.1.2021.11.{number}.0"));
        let zeros: Vec<(&str, Said)> = names
            .iter()
            .map(|name| (name.as_str(), Said::Counter32(0)))
            .collect();
        assert_eq!(host(6_000, &zeros), [(Metric::HostUptime, 60_000)]);
        let busy: Vec<(&str, Said)> = names
            .iter()
            .map(|name| (name.as_str(), Said::Counter32(9)))
            .collect();
        assert_eq!(host(1_499, &busy), [(Metric::HostUptime, 14_990)]);
        assert_eq!(host(1_500, &busy).len(), 4);
    }

    fn ports(told: &[(Port, u32, Said)]) -> Vec<Sweep> {
        let mut columns = vec![Column::new(); Port::ALL.len()];
        for (port, row, said) in told {
            let place = Port::ALL.iter().position(|other| other == port).unwrap();
            columns[place].insert(*row, said.clone());
        }
        let run = run(6_000);
        let mut sheet = Sheet {
            run,
            long: &mut Long::default(),
            warm_up: Duration::ZERO,
        };
        sheet.ports(device(run), &columns, window())
    }

    fn name(text: &str) -> Said {
        Said::Bytes(text.as_bytes().to_vec())
    }

    #[test]
    fn a_port_has_its_name_its_speed_in_bytes_and_all_kinds_of_packets_in_one_sum() {
        let sweeps = ports(&[
            (Port::Name, 3, name("Gi1/0/3")),
            (Port::Operational, 3, Said::Integer(1)),
            (Port::MegabitsPerSecond, 3, Said::Gauge(10_000)),
            (Port::InOctets, 3, Said::Counter64(1 << 40)),
            (Port::InUnicast, 3, Said::Counter64(5)),
            (Port::InMulticast, 3, Said::Counter64(6)),
            (Port::InBroadcast, 3, Said::Counter64(7)),
            (Port::OutErrors, 3, Said::Counter32(8)),
            (Port::Discontinuity, 3, Said::Ticks(2_000)),
        ]);
        let [sweep] = sweeps.as_slice() else {
            panic!("{sweeps:?}")
        };
        assert_eq!(sweep.subject.port(), Some(3));
        let Subject::Port { counting_since, .. } = sweep.subject else {
            panic!("{sweep:?}")
        };
        assert_eq!(counting_since.millis(), 1_000_000_000 - 40_000);
        let part = Part::named("Gi1/0/3").unwrap();
        let wanted = [
            (Metric::HostNetRxBytes, 1 << 40),
            (Metric::HostNetRxPackets, 18),
            (Metric::HostNetTxErrs, 8),
            (Metric::HostNetSpeed, 1_250_000_000),
            (Metric::HostNetOperstate, 1),
        ]
        .map(|(metric, value)| (metric, part.clone(), value));
        assert_eq!(sweep.values, wanted);
    }

    #[test]
    fn what_a_port_does_not_tell_is_absent_and_never_zero() {
        let sweeps = ports(&[
            (Port::Operational, 1, Said::Integer(4)),
            (Port::MegabitsPerSecond, 1, Said::Gauge(0)),
            (Port::InOctets, 1, Said::Counter32(77)),
            (Port::InUnicast, 1, Said::Counter64(5)),
            (Port::Operational, 2, Said::Integer(7)),
            (Port::Name, 2, name("with\nline")),
        ]);
        // Of port 1: state unknown, no speed, a counter that wraps within seconds, half of the packets.
        let [sweep] = sweeps.as_slice() else {
            panic!("{sweeps:?}")
        };
        assert_eq!(sweep.subject.port(), Some(2));
        let part = Part::index(2);
        assert_eq!(sweep.values, [(Metric::HostNetOperstate, part, 0)]);
    }
}
