//! One look at everything the agent can see, for people and scripts. It sends nothing.

mod facts;

use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use plimsoll_model::{Clock, DeviceId, DomainId, Metric, NodeId, Subject, SystemClock};
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};

use crate::beat::Beat;
use crate::config::{Access, Config};
use crate::identity::{self, IdentityError};
use crate::limits::Met;
use crate::look::Look;
use crate::source::host::{self, Host, mounts};
use crate::source::libvirt::{Guests, Hypervisor};
use crate::source::slow::SlowPaths;
use crate::source::snmp::Devices;

const LOOKS_MAX: usize = 64;
/// Time between two looks at the guests; the second tells whether all were described.
const INTERVAL: Duration = Duration::from_secs(1);
/// Intervals after which guests that have not answered are left out.
const INTERVALS_MAX: u32 = 5;

/// Form of what is printed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// A line for each reading.
    #[default]
    Text,
    /// One JSON object.
    Json,
}

/// What was seen, and by which node.
#[derive(Debug)]
pub struct Sample {
    node: NodeId,
    hostname: String,
    look: Look,
}

/// Looks once at the host and at every guest that answers. Dirty rates are not measured: that takes
/// longer than a look, and changes something on the node.
///
/// # Errors
/// If it cannot be said which node this is.
pub async fn take(config: Config) -> Result<Sample, IdentityError> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let (node, _) = identity::peek(&config, &*clock).await?;
    let facts = host::facts::read(Path::new("/"), &config);
    let hostname = facts.hostname.clone();
    let mut host = Host::new(Path::new("/"), node, Arc::clone(&clock));
    let mut look = Look {
        sweeps: host.read(),
        node_facts: Some(facts),
        ..Look::default()
    };
    let slow = SlowPaths::default();
    let shared = mounts::read_shared(host.shared_mounts(), (node, &*clock), &slow);
    look.sweeps.extend(shared.await);
    let devices = Devices::of(&config.snmp, node, Arc::clone(&clock));
    look.merge(devices.look().await);
    if let Some(libvirt) = config.libvirt.clone() {
        let (looks, inbox) = mpsc::channel(LOOKS_MAX);
        let (hypervisor, told) = watch::channel(Hypervisor::default());
        let mut quick = config;
        quick.interval = INTERVAL;
        let guests = Guests {
            node,
            root: Path::new("/").to_owned(),
            libvirt: crate::config::Libvirt {
                access: Access::ReadOnly,
                ..libvirt
            },
            config: Arc::new(quick),
            clock,
            beat: Beat::now(),
            looks,
            hypervisor,
            met: Met::default(),
        };
        let watching = tokio::spawn(guests.run());
        gather(inbox, &mut look).await;
        watching.abort();
        if let Some(facts) = look.node_facts.as_mut() {
            told.borrow().clone().tell(facts);
        }
    }
    Ok(Sample {
        node,
        hostname,
        look,
    })
}

/// Takes looks until every guest was described and read, or libvirt cannot be reached.
async fn gather(mut inbox: mpsc::Receiver<Look>, all: &mut Look) {
    let enough = async {
        while let Some(look) = inbox.recv().await {
            all.merge(look);
            if is_whole(all) {
                return;
            }
        }
    };
    // What came until then is shown; who did not answer has no line.
    drop(tokio::time::timeout(INTERVAL * INTERVALS_MAX, enough).await);
}

fn is_whole(look: &Look) -> bool {
    let told = |metric: Metric, subject: Option<DomainId>| {
        look.sweeps
            .iter()
            .filter(|sweep| subject.is_none() || sweep.subject.domain() == subject)
            .flat_map(|sweep| &sweep.values)
            .find(|(told, _, _)| *told == metric)
            .map(|(_, _, value)| *value)
    };
    if told(Metric::HostLibvirtUp, None) == Some(0) {
        return true;
    }
    let all_described = told(Metric::HostAllocVcpuUsed, None).is_some();
    let read = |domain| told(Metric::VmState, Some(domain)).is_some();
    all_described && look.domain_facts.iter().all(|facts| read(facts.domain))
}

impl Sample {
    /// Prints it; values are whole numbers in the unit beside them, times are ms since 1970.
    ///
    /// # Errors
    /// If `out` cannot be written.
    pub fn print(&self, format: Format, out: &mut impl Write) -> io::Result<()> {
        match format {
            Format::Text => self.print_text(out),
            Format::Json => {
                serde_json::to_writer_pretty(&mut *out, &self.json())?;
                writeln!(out)
            }
        }
    }

    /// The name of a device; its id where it was not told.
    fn device(&self, device: DeviceId) -> String {
        let mut facts = self.look.device_facts.iter();
        let told = facts.find(|facts| facts.device == device);
        told.map_or_else(|| device.to_string(), |facts| facts.name.clone())
    }

    fn print_text(&self, out: &mut impl Write) -> io::Result<()> {
        writeln!(out, "node {} {}", self.node, self.hostname)?;
        for facts in &self.look.domain_facts {
            writeln!(out, "domain {} {}", facts.domain, facts.name)?;
        }
        if let Some(told) = self.look.node_facts.as_ref().map(facts::node) {
            for (key, value) in facts::entries(&told) {
                writeln!(out, "fact node {key} {value}")?;
            }
        }
        for told in &self.look.domain_facts {
            for (key, value) in facts::entries(&facts::domain(told)) {
                writeln!(out, "fact {} {key} {value}", told.domain)?;
            }
        }
        for told in &self.look.device_facts {
            writeln!(out, "device {} {} {}", told.device, told.name, told.address)?;
        }
        for event in &self.look.events {
            writeln!(out, "event {:?}", event.kind)?;
        }
        for sweep in &self.look.sweeps {
            let subject = match sweep.subject {
                Subject::Node(_) => "node".to_owned(),
                Subject::Domain { domain, .. } => domain.to_string(),
                Subject::Device { device, .. } => self.device(device),
                Subject::Port { device, port, .. } => format!("{}:{port}", self.device(device)),
            };
            for (metric, part, value) in &sweep.values {
                let (name, unit) = (metric.name(), metric.unit().symbol());
                let part = match part.as_str() {
                    "" => String::new(),
                    part => format!("[{part}]"),
                };
                writeln!(out, "{subject} {name}{part} {value} {unit}")?;
            }
        }
        Ok(())
    }

    fn json(&self) -> Value {
        let readings = self.look.sweeps.iter().flat_map(|sweep| {
            sweep.values.iter().map(|(metric, part, value)| {
                json!({
                    "domain": sweep.subject.domain().map(|domain| domain.to_string()),
                    "device": sweep.subject.device().map(|device| device.to_string()),
                    "port": sweep.subject.port(),
                    "metric": metric.name(),
                    "part": part.as_str(),
                    "value": value,
                    "unit": metric.unit().symbol(),
                    "begin_ms": sweep.window.begin().millis(),
                    "end_ms": sweep.window.end.millis(),
                })
            })
        });
        let devices = self.look.device_facts.iter().map(|told| {
            json!({ "id": told.device.to_string(), "name": told.name, "address": told.address })
        });
        let domains = self.look.domain_facts.iter().map(|told| {
            json!({
                "id": told.domain.to_string(),
                "name": told.name.as_str(),
                "facts": facts::domain(told),
            })
        });
        json!({
            "node": {
                "id": self.node.to_string(),
                "hostname": self.hostname,
                "facts": self.look.node_facts.as_ref().map(facts::node),
            },
            "domains": domains.collect::<Vec<_>>(),
            "devices": devices.collect::<Vec<_>>(),
            "events": self.look.events.iter().map(facts::event).collect::<Vec<_>>(),
            "readings": readings.collect::<Vec<_>>(),
        })
    }
}
