//! Writes the newest values. What is stale is left out: a scraper would take it for new.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use plimsoll_model::{DeviceId, DomainId, Kind, Metric, NodeId, PolledFacts, Reading, Subject};
use plimsoll_store::SeriesFilter;

use super::names::{escape, name};
use crate::guard::limits::Limit;
use crate::known::{DomainRow, Known};

/// What is written under one name.
#[derive(Default)]
struct Family {
    counter: bool,
    help: String,
    lines: String,
}

#[derive(Default)]
struct Page {
    families: BTreeMap<String, Family>,
}

impl Page {
    fn add(&mut self, (name, counter, help): (&str, bool, &str), labels: &str, value: f64) {
        let family = self.families.entry(name.to_owned()).or_default();
        family.counter = counter;
        family.help = help.to_owned();
        let line = format!("{name}{{{labels}}} {value}\n");
        family.lines.push_str(&line);
    }

    fn text(self) -> String {
        let mut text = String::new();
        for (name, family) in self.families {
            let kind = if family.counter { "counter" } else { "gauge" };
            let help = family.help.replace('\\', "\\\\").replace('\n', " ");
            let head = format!("# HELP {name} {help}\n# TYPE {name} {kind}\n");
            text.push_str(&head);
            text.push_str(&family.lines);
        }
        text
    }
}

/// Renders all that is fresh.
pub(super) fn render(known: &Known) -> String {
    let now = known.clock.now();
    let mut page = Page::default();
    let mut hosts: HashMap<NodeId, String> = HashMap::new();
    let mut names = Names::default();
    limits(&mut page, known);
    for seen in known.store.nodes() {
        hosts.insert(seen.node, known.hostname(seen.node));
        let fresh = known.is_fresh(seen.last, now);
        let labels = format!(
            "node=\"{}\",host=\"{}\"",
            seen.node,
            escape(&known.hostname(seen.node))
        );
        let up = (
            "plimsoll_node_fresh",
            false,
            "Whether the node was heard within three intervals.",
        );
        page.add(up, &labels, if fresh { 1.0 } else { 0.0 });
        for row in known.domains_on(seen.node) {
            if row.runs() {
                watchers_domain(&mut page, known, &row);
            }
            names
                .domains
                .insert(row.facts.domain, row.facts.name.clone());
        }
    }
    for told in known.store.device_facts() {
        names.devices.insert(told.facts.device, told.facts);
    }
    for key in known.store.series(&SeriesFilter::default()) {
        let Some(reading) = known.latest(&key) else {
            continue;
        };
        let device = key
            .subject
            .device()
            .and_then(|device| names.devices.get(&device));
        let fresh = match device {
            // A device has a pace of its own.
            Some(device) => now.since(reading.window.end) <= device.interval * 3,
            None => known.is_fresh(reading.window.end, now),
        };
        if !fresh {
            continue;
        }
        let host = hosts.get(&key.subject.node()).cloned().unwrap_or_default();
        own(&mut page, &reading, &host, &names);
        watchers(&mut page, &reading, &host);
    }
    page.text()
}

fn limits(page: &mut Page, known: &Known) {
    let met = "plimsoll_limit_met_total";
    let help = "How often something was refused or ended at a limit.";
    for limit in Limit::ALL {
        let labels = format!("limit=\"{}\"", limit.word());
        page.add((met, true, help), &labels, known.met.count(limit) as f64);
    }
}

/// What people call things.
#[derive(Default)]
struct Names {
    domains: HashMap<DomainId, String>,
    devices: HashMap<DeviceId, Arc<PolledFacts>>,
}

fn own(page: &mut Page, reading: &Reading, host: &str, names: &Names) {
    let key = &reading.key;
    let mut labels = format!("node=\"{}\",host=\"{}\"", key.subject.node(), escape(host));
    if let Some(domain) = key.subject.domain() {
        let name = names.domains.get(&domain).map_or("", String::as_str);
        labels.push_str(&format!(",domain=\"{domain}\",name=\"{}\"", escape(name)));
    }
    if let Some(device) = key.subject.device() {
        let name = names
            .devices
            .get(&device)
            .map_or("", |facts| facts.name.as_str());
        labels.push_str(&format!(",device=\"{device}\",name=\"{}\"", escape(name)));
    }
    if let Some(port) = key.subject.port() {
        labels.push_str(&format!(",port=\"{port}\""));
    }
    if !key.part.as_str().is_empty() {
        labels.push_str(&format!(",part=\"{}\"", escape(key.part.as_str())));
    }
    let entry = key.metric.entry();
    let counter = key.metric.kind() == Kind::Counter;
    let named = (name(key.metric), counter, entry.meaning);
    page.add((&named.0, named.1, named.2), &labels, reading.value as f64);
}

/// The names that Watcher's Prometheus data source asks for, with the labels it asks by.
fn watchers(page: &mut Page, reading: &Reading, host: &str) {
    let key = &reading.key;
    let value = reading.value as f64;
    let of_host = format!("fqdn=\"{}\"", escape(host));
    match (key.subject, key.metric) {
        (Subject::Node(_), Metric::HostCpuTimeIdle) => {
            let family = (
                "node_cpu_seconds_total",
                true,
                "Seconds of a processor in a mode.",
            );
            let cpu = escape(key.part.as_str());
            let labels = format!("{of_host},cpu=\"{cpu}\",mode=\"idle\"");
            page.add(family, &labels, value / 1e9);
        }
        (Subject::Node(_), Metric::HostMemTotal) => {
            let family = ("node_memory_MemTotal_bytes", false, "Memory installed.");
            page.add(family, &of_host, value);
        }
        (Subject::Node(_), Metric::HostMemAvailable) => {
            let family = (
                "node_memory_MemAvailable_bytes",
                false,
                "Memory that could be used.",
            );
            page.add(family, &of_host, value);
        }
        _ => {}
    }
}

/// The same for a domain, on the one node where it runs: two nodes may see it during a migration.
fn watchers_domain(page: &mut Page, known: &Known, row: &DomainRow) {
    if known
        .owner(row.facts.domain)
        .is_none_or(|owner| owner.facts.node != row.facts.node)
    {
        return;
    }
    let labels = format!("resource=\"{}\"", row.facts.domain);
    let value = |metric| {
        known
            .whole(row.subject(), metric)
            .map(|read| read.value as f64)
    };
    if let Some(time) = value(Metric::VmCpuTime) {
        let family = (
            "ceilometer_cpu",
            true,
            "Processor time of an instance in nanoseconds.",
        );
        page.add(family, &labels, time);
    }
    // What the guest uses, where it tells it; else what its process holds, which is more.
    let told = value(Metric::VmMemGuestAvailable).zip(value(Metric::VmMemGuestUsable));
    let used = told.map(|(all, usable)| (all - usable).max(0.0));
    if let Some(used) = used.or_else(|| value(Metric::VmMemRss)) {
        let family = (
            "ceilometer_memory_usage",
            false,
            "Memory used by an instance in MiB.",
        );
        page.add(family, &labels, used / 1_048_576.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scene::{Scene, subject};

    #[test]
    fn what_watcher_asks_for_is_there_once_and_what_is_stale_is_not() {
        let scene = Scene::new();
        let (a, b) = (scene.node("a\"b", |_| {}), scene.node("b", |_| {}));
        let guest = scene.guest("web", a);
        let there = scene.arrives(&guest, b, 3);
        for one in [&guest, &there] {
            let values = [
                (Metric::VmCpuTime, 5_000_000_000),
                (Metric::VmMemRss, 3 << 30),
                (Metric::VmMemGuestAvailable, 4 << 30),
                (Metric::VmMemGuestUsable, 3 << 30),
            ];
            let sweep = scene.sweep(subject(one), &values);
            scene.tell(one.node, vec![sweep], Vec::new(), &[]);
        }
        let memory = [(Metric::HostMemTotal, 64 << 30)];
        let sweep = scene.sweep(Subject::Node(a), &memory);
        scene.tell(a, vec![sweep], Vec::new(), &[]);
        let text = render(&scene.known);
        let lines = |start: &str| text.lines().filter(|line| line.starts_with(start)).count();
        assert_eq!(
            lines("ceilometer_cpu{"),
            1,
            "a scraper refuses a series that comes twice: {text}"
        );
        let used = format!(
            "ceilometer_memory_usage{{resource=\"{}\"}} 1024\n",
            guest.domain
        );
        assert!(text.contains(&used), "{text}");
        assert!(
            text.contains("node_memory_MemTotal_bytes{fqdn=\"a\\\"b\"} 68719476736"),
            "{text}"
        );
        assert_eq!(
            lines("plimsoll_vm_cpu_time_nanoseconds_total{"),
            2,
            "both nodes see it"
        );
        let unique: std::collections::BTreeSet<&str> = text.lines().collect();
        assert_eq!(unique.len(), text.lines().count(), "no line comes twice");
        scene.pass(31);
        let later = render(&scene.known);
        assert!(
            !later.contains("ceilometer_cpu{") && !later.contains("plimsoll_vm_"),
            "{later}"
        );
        assert!(later.contains("plimsoll_node_fresh"), "{later}");
    }
}
