//! Devices that are polled over SNMP: hosts without an agent, and switches.
//!
//! Each device is asked at its own pace, one question at a time, through the trait [`session::Dial`];
//! [`udp`] is the one place that knows the crate which speaks SNMP. It listens on nothing, writes
//! nothing to a device, and estimates nothing.

pub mod count;
pub mod device;
pub mod login;
pub mod oid;
pub mod profile;
pub mod reading;
pub mod session;
pub mod udp;
pub mod walk;

use std::sync::Arc;
use std::time::Duration;

use plimsoll_model::{Clock, NodeId};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;

use crate::config::Snmp;
use crate::limits::Met;
use crate::look::Look;
use device::{Device, Shared};
use login::Login;
use profile::Profile;
use session::Dial;
use udp::Udp;

/// How often devices are polled, and how long they are waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// Time between two polls of a device.
    pub interval: Duration,
    /// How long one answer is waited for before the question is sent again.
    pub timeout: Duration,
    /// How often a question is sent again.
    pub retries: u32,
    /// How long a whole poll may take.
    pub deadline: Duration,
    /// Questions that are under way at once, over all devices.
    pub outstanding_max: usize,
    /// Failures in a row after which a device is taken for a new one.
    pub rebuild_after: u32,
    /// How young a device's SNMP agent may be and tell counters.
    pub warm_up: Duration,
}

/// A device that is to be polled.
#[derive(Debug, Clone)]
pub struct Target {
    /// Its name, which makes its id.
    pub name: String,
    /// Address and port.
    pub address: String,
    /// What it is asked for.
    pub profile: Arc<Profile>,
    /// Name of what it is asked with.
    pub credential: String,
    /// What it is asked with.
    pub login: Arc<Login>,
}

/// The devices of a node.
#[derive(Debug)]
pub struct Devices {
    /// The node that polls them.
    pub node: NodeId,
    /// How often, and how long.
    pub pace: Pace,
    /// The devices.
    pub targets: Vec<Arc<Target>>,
    /// Who opens sessions.
    pub dial: Arc<dyn Dial>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Counts the limits that are met.
    pub met: Met,
}

impl Devices {
    /// Takes the devices that a configuration names, asked over UDP.
    pub fn of(snmp: &Snmp, node: NodeId, clock: Arc<dyn Clock>) -> Self {
        Self {
            node,
            pace: snmp.pace,
            targets: snmp.targets.clone(),
            dial: Arc::new(Udp::new(snmp.pace)),
            clock,
            met: Met::default(),
        }
    }

    fn each(self) -> Vec<Device> {
        let shared = Shared {
            node: self.node,
            pace: self.pace,
            dial: self.dial,
            slots: Arc::new(Semaphore::new(self.pace.outstanding_max)),
            clock: self.clock,
            met: self.met,
        };
        let targets = self.targets.into_iter();
        targets
            .map(|target| Device::new(target, shared.clone()))
            .collect()
    }

    /// Polls until nobody takes looks any more.
    pub async fn run(self, looks: mpsc::Sender<Look>) {
        let mut polling = JoinSet::new();
        for device in self.each() {
            polling.spawn(device.run(looks.clone()));
        }
        while polling.join_next().await.is_some() {}
    }

    /// Polls each device once; who does not answer is named in the log.
    pub async fn look(self) -> Look {
        let mut polling = JoinSet::new();
        for mut device in self.each() {
            polling.spawn(async move { device.look().await });
        }
        let mut all = Look::default();
        while let Some(look) = polling.join_next().await {
            all.merge(look.unwrap_or_default());
        }
        all
    }
}
