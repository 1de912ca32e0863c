//! The devices that are polled: which answer, which reject who asks, which are silent.

use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::Finding;
use crate::config::Config;
use crate::source::snmp::login::Login;
use crate::source::snmp::session::AskError;
use crate::source::snmp::{Target, udp};

const CHECK: &str = "devices";

/// Asks every device once, a few at a time.
pub(super) async fn examine(config: &Config) -> Vec<Finding> {
    let slots = Arc::new(Semaphore::new(config.snmp.pace.outstanding_max));
    let mut asking = JoinSet::new();
    for target in &config.snmp.targets {
        let (target, pace, slots) = (Arc::clone(target), config.snmp.pace, Arc::clone(&slots));
        asking.spawn(async move {
            let _slot = slots.acquire().await;
            let answer = udp::greet(&target, pace).await;
            (target, answer)
        });
    }
    let (mut well, mut ill) = (0_usize, Vec::new());
    while let Some(asked) = asking.join_next().await {
        match asked {
            Ok((_, Ok(()))) => well += 1,
            Ok((target, Err(error))) => ill.push((target, error)),
            Err(_) => {}
        }
    }
    ill.sort_by(|(a, _), (b, _)| a.name.cmp(&b.name));
    let mut findings = Vec::new();
    if well > 0 {
        findings.push(Finding::ok(CHECK, format!("{well} answer")));
    }
    findings.extend(ill.iter().map(|(target, error)| wrong(target, error)));
    findings
}

fn wrong(target: &Target, error: &AskError) -> Finding {
    let seen = format!("{} ({}): {error}", target.name, target.address);
    let remedy = match (error, &*target.login) {
        (AskError::Rejected, _) => {
            "correct the user, its passwords and their kinds in its [[snmp.credential]], as the device has them"
        }
        (AskError::Silent, Login::Community(_)) => {
            "see whether it is on and its address is right; a wrong community is silence, too"
        }
        (AskError::Silent, Login::User { .. }) => {
            "see whether it is on, its address is right, and nothing drops UDP on the way"
        }
        (AskError::Refused { .. } | AskError::Nonsense { .. } | AskError::Slow, _) => {
            "look at the device; what it tells cannot be used"
        }
        (AskError::Local { .. }, _) => "correct its `address`, or the network of this node",
    };
    Finding::warn(CHECK, seen, remedy)
}
