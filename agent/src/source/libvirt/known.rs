//! What is known of one domain between two looks. It makes no calls.

use std::collections::HashMap;
use std::time::Duration;

use plimsoll_libvirt::DomainRef;
use plimsoll_model::{ByteSize, DomainFacts, DomainId, Incarnation, Monotonic, NodeId, Subject};

use super::migration::Migration;
use super::table::Shape;
use super::xml::Throttle;
use crate::look::Values;

/// Lists in a row for which libvirt's number stands for a process.
const TRUSTED_MAX: u8 = 5;
const QUARANTINE_MIN: Duration = Duration::from_secs(60);
const QUARANTINE_MAX: Duration = Duration::from_secs(600);
/// How long what the memory was seen to be is told again while its resident size stays.
const SAME_MAX: Duration = Duration::from_secs(600);

/// How far QEMU's own memory wavers.
const SLACK_BYTES: u64 = 1 << 20;

/// What a look through the memory found, and how much of it was resident then.
#[derive(Debug, Clone)]
pub(super) struct Seen {
    pub(super) values: Values,
    pub(super) resident_bytes: Option<u64>,
    pub(super) at: Monotonic,
}

/// A domain.
#[derive(Debug)]
pub(super) struct Known {
    pub(super) domain: DomainRef,
    pub(super) id: DomainId,
    pub(super) node: NodeId,
    pub(super) incarnation: Incarnation,
    /// Whether the incarnation is that of a process that was seen.
    pub(super) is_seen: bool,
    /// How often libvirt's number was taken for it since the process was looked at.
    pub(super) trusted: u8,
    pub(super) facts: Option<DomainFacts>,
    pub(super) macs: HashMap<String, String>,
    /// What its disks are held to.
    pub(super) throttles: Vec<Throttle>,
    /// Size of its disks on the node alone, where it was read.
    pub(super) local_disk_bytes: Option<u64>,
    pub(super) running: bool,
    /// Whether a call for statistics is under way.
    pub(super) busy: bool,
    /// Whether a call about its job is under way.
    pub(super) job_busy: bool,
    /// Whether it is known if it had a job when it was met; a migration may have begun unheard.
    pub(super) job_known: bool,
    shape: Shape,
    quarantined_until: Option<Monotonic>,
    penalty: Duration,
    pub(super) migration: Option<Migration>,
    pub(super) dirty: super::dirty::Plan,
    /// When its memory is next looked through; at once if it never was.
    pub(super) touched_due: Option<Monotonic>,
    /// Whether that is under way, or waits for a place: it is not to wait twice.
    pub(super) walked: bool,
    /// What that found last.
    pub(super) seen: Option<Seen>,
    /// Its resident size when it last told its statistics.
    pub(super) resident_bytes: Option<u64>,
    /// When its process is next looked at; at once if it never was.
    pub(super) survey_due: Option<Monotonic>,
}

impl Known {
    pub(super) fn new(
        domain: DomainRef,
        id: DomainId,
        node: NodeId,
        incarnation: Incarnation,
    ) -> Self {
        Self {
            domain,
            id,
            node,
            incarnation,
            is_seen: false,
            trusted: 0,
            facts: None,
            macs: HashMap::new(),
            throttles: Vec::new(),
            local_disk_bytes: None,
            running: false,
            busy: false,
            job_busy: false,
            job_known: false,
            shape: Shape::default(),
            quarantined_until: None,
            penalty: QUARANTINE_MIN,
            migration: None,
            dirty: super::dirty::Plan::default(),
            touched_due: None,
            walked: false,
            seen: None,
            resident_bytes: None,
            survey_due: None,
        }
    }

    /// Whether a domain that was listed is this process, by its number: within one run of the daemon, whose end
    /// ends the connection, no two have the same. Now and then the process is looked at all the same.
    pub(super) fn is_surely(&mut self, listed: &DomainRef) -> bool {
        let is_numbered = listed.id.is_some() && listed.id == self.domain.id;
        if !self.is_seen || !is_numbered || self.trusted >= TRUSTED_MAX {
            return false;
        }
        self.trusted += 1;
        true
    }

    pub(super) fn subject(&self) -> Subject {
        Subject::Domain {
            domain: self.id,
            node: self.node,
            incarnation: self.incarnation,
        }
    }

    /// Leaves the domain alone for a while, each time longer.
    pub(super) fn quarantine(&mut self, now: Monotonic) {
        tracing::warn!(domain = %self.domain, wait_s = self.penalty.as_secs(), "a domain does not answer; it is read from /proc meanwhile");
        self.quarantined_until = Some(now.plus(self.penalty));
        self.penalty = (self.penalty * 2).min(QUARANTINE_MAX);
    }

    /// Keeps how many parts the domain has; says whether a number became another.
    pub(super) fn reshape(&mut self, seen: Shape) -> bool {
        let mut changed = false;
        for (known, seen) in self.shape.iter_mut().zip(seen) {
            let Some(seen) = seen else { continue };
            let before = known.replace(seen);
            changed |= before.is_some_and(|before| before != seen);
        }
        changed
    }

    pub(super) fn is_quarantined(&self, now: Monotonic) -> bool {
        self.quarantined_until.is_some_and(|until| now < until)
    }

    /// Asks again a domain that timed out for the first time, for it was the daemon that was slow: it has
    /// answered all that was given up.
    pub(super) fn give_second_chance(&mut self) {
        if self.penalty == QUARANTINE_MIN * 2 {
            self.quarantined_until = None;
        }
    }

    /// What the last look through its memory found, if that must still be so: a guest that is given pages
    /// grows, and the look costs as much as all else.
    pub(super) fn still_seen(&self, memory: ByteSize, now: Monotonic) -> Option<Values> {
        let seen = self.seen.as_ref()?;
        let moved = self.resident_bytes?.abs_diff(seen.resident_bytes?);
        let is_same = moved <= SLACK_BYTES.max(memory.bytes() / 512);
        (is_same && now.since(seen.at) < SAME_MAX).then(|| seen.values.clone())
    }

    pub(super) fn answered(&mut self) {
        self.quarantined_until = None;
        self.penalty = QUARANTINE_MIN;
    }

    /// Counts the virtual processors that are bound to processors of the node.
    pub(super) fn bound_vcpus(&self) -> u64 {
        let facts = self.facts.as_ref();
        let pinning = facts.and_then(|facts| facts.hardware.pinning.as_ref());
        let is_bound = pinning.is_some_and(|pinning| pinning.cpus.is_some());
        let count = facts.and_then(|facts| facts.vcpu_count).unwrap_or(0);
        if is_bound { u64::from(count) } else { 0 }
    }

    /// Whether a measurement would disturb nothing.
    pub(super) fn may_be_measured(&self, now: Monotonic) -> bool {
        self.running
            && self.job_known
            && self.migration.is_none()
            && self.facts.is_some()
            && !self.is_quarantined(now)
    }
}

#[cfg(test)]
mod tests {
    use plimsoll_model::BootId;

    use super::*;

    fn known() -> Known {
        let incarnation = Incarnation {
            boot: BootId::random(),
            started_ms: 1,
        };
        let domain = DomainRef {
            name: "a".to_owned(),
            uuid: [1; 16],
            id: Some(1),
        };
        Known::new(domain, DomainId::random(), NodeId::random(), incarnation)
    }

    #[test]
    fn another_number_of_parts_is_a_change_and_a_number_not_asked_for_is_none() {
        let mut known = known();
        assert!(!known.reshape([Some(1), Some(2), None, Some(1)]), "first");
        assert!(!known.reshape([Some(1), Some(2), Some(0), None]));
        assert!(!known.reshape([None; 4]));
        assert!(known.reshape([Some(1), Some(2), Some(1), None]));
        assert!(!known.reshape([Some(1), Some(2), Some(1), Some(1)]));
    }

    #[test]
    fn a_process_is_known_by_its_number_but_looked_at_now_and_then() {
        let mut known = known();
        let same = known.domain.clone();
        assert!(!known.is_surely(&same), "its process was never seen");
        known.is_seen = true;
        let other = DomainRef {
            id: Some(2),
            ..same.clone()
        };
        assert!(!known.is_surely(&other));
        let trusted = (0..=TRUSTED_MAX).filter(|_| known.is_surely(&same));
        assert_eq!(trusted.count(), usize::from(TRUSTED_MAX));
    }

    #[test]
    fn a_domain_is_not_measured_before_it_is_known_whether_it_has_a_job() {
        let mut known = known();
        let facts = super::super::xml::domain(
            "<domain type='kvm'><name>a</name></domain>",
            super::super::xml::About {
                domain: known.id,
                node: known.node,
                incarnation: known.incarnation,
            },
        );
        known.facts = facts.map(|described| described.facts);
        known.running = true;
        let now = Monotonic::from_duration(Duration::from_secs(1));
        assert!(!known.may_be_measured(now));
        known.job_known = true;
        assert!(known.may_be_measured(now));
        known.running = false;
        assert!(!known.may_be_measured(now), "paused");
    }

    #[test]
    fn a_domain_that_goes_on_hanging_is_left_alone_for_longer_and_longer() {
        let mut known = known();
        let at = |seconds| Monotonic::from_duration(Duration::from_secs(seconds));
        known.quarantine(at(0));
        assert!(known.is_quarantined(at(59)) && !known.is_quarantined(at(60)));
        known.quarantine(at(60));
        assert!(known.is_quarantined(at(179)) && !known.is_quarantined(at(180)));
        known.answered();
        known.quarantine(at(200));
        assert!(!known.is_quarantined(at(260)));
    }

    #[test]
    fn only_the_first_time_out_is_forgiven_when_nothing_hangs_any_more() {
        let mut known = known();
        let at = |seconds| Monotonic::from_duration(Duration::from_secs(seconds));
        known.quarantine(at(0));
        known.give_second_chance();
        assert!(!known.is_quarantined(at(1)));
        known.quarantine(at(5));
        known.give_second_chance();
        assert!(known.is_quarantined(at(100)), "it hangs by itself");
    }

    #[test]
    fn memory_is_taken_for_the_same_while_its_resident_size_stays_and_not_for_ever() {
        let mut known = known();
        let at = |seconds| Monotonic::from_duration(Duration::from_secs(seconds));
        let memory = ByteSize::from_mib(1 << 10);
        let mut values = Values::default();
        values.whole(plimsoll_model::Metric::VmMemTouched, 7);
        known.resident_bytes = Some(100 << 20);
        assert!(known.still_seen(memory, at(0)).is_none());
        known.seen = Some(Seen {
            values,
            resident_bytes: Some(100 << 20),
            at: at(0),
        });
        known.resident_bytes = Some(101 << 20);
        assert!(known.still_seen(memory, at(599)).is_some());
        assert!(known.still_seen(memory, at(600)).is_none());
        known.resident_bytes = Some(103 << 20);
        assert!(known.still_seen(memory, at(10)).is_none(), "it grew");
        known.resident_bytes = None;
        assert!(known.still_seen(memory, at(10)).is_none(), "not known");
    }
}
