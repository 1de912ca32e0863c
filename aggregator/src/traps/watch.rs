//! Finds what has become so since the last looks. It sends nothing.

use std::collections::BTreeMap;

use plimsoll_estimate::headroom::{Flavour, Headroom, HostState, MoveCost};
use plimsoll_estimate::{Policy, Verdict};
use plimsoll_model::{Bandwidth, ByteSize, DomainId, MigrationMode, NodeId};

use super::Warning;
use crate::known::{DomainRow, Known};
use crate::planner::{self, Question};
use crate::room;

/// Looks in a row that must find a thing before it is told: one alone may be an outlier.
const LOOKS_TO_TELL: u32 = 2;
/// Looks in a row that must not find it before it can be told again.
const LOOKS_TO_FORGET: u32 = 5;
/// The least guest that must fit for a node to have room.
const LEAST: Flavour = Flavour {
    vcpu_count: 1,
    memory: ByteSize::from_mib(64),
};

/// What a warning is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Matter {
    Guest(DomainId),
    Room(NodeId),
}

/// How often in a row a matter was found, and since then not found.
#[derive(Debug, Default)]
struct Streak {
    found: u32,
    missed: u32,
}

/// The watch.
#[derive(Debug)]
pub(super) struct Watch {
    known: Known,
    assumed: Bandwidth,
    streaks: BTreeMap<Matter, Streak>,
}

impl Watch {
    /// Makes a watch that has seen nothing yet.
    pub(super) fn new(known: Known, assumed: Bandwidth) -> Self {
        Self {
            known,
            assumed,
            streaks: BTreeMap::new(),
        }
    }

    /// Looks at all nodes and guests; returns what has become so.
    pub(super) fn look(&mut self) -> Vec<Warning> {
        let mut found = self.find();
        let mut new = Vec::new();
        self.streaks.retain(|matter, streak| {
            match found.remove(matter) {
                Some(warning) => {
                    streak.found = streak.found.saturating_add(1);
                    streak.missed = 0;
                    if streak.found == LOOKS_TO_TELL {
                        new.push(warning);
                    }
                }
                None => streak.missed += 1,
            }
            let untold = streak.found < LOOKS_TO_TELL;
            streak.missed == 0 || (!untold && streak.missed < LOOKS_TO_FORGET)
        });
        for (matter, _) in found {
            let first = Streak {
                found: 1,
                missed: 0,
            };
            self.streaks.insert(matter, first);
        }
        new
    }

    fn find(&self) -> BTreeMap<Matter, Warning> {
        let now = self.known.clock.now();
        let mut found = BTreeMap::new();
        for seen in self.known.store.nodes() {
            let Some((facts, _)) = self.known.node_facts(seen.node) else {
                continue;
            };
            if !self.known.is_fresh(seen.last, now) {
                continue;
            }
            let on = (self.known.hostname(seen.node), seen.node);
            let room = room::while_moving(&self.known, (seen.node, &facts), &MoveCost::default());
            if let Some((state, room)) = room
                && room.fits(&LEAST) == 0
            {
                let (on, why) = (on.clone(), shortage(&state, &room));
                found.insert(Matter::Room(seen.node), Warning::HeadroomLost { on, why });
            }
            for row in self.known.domains_on(seen.node) {
                let Some(why) = self.convergence(&row) else {
                    continue;
                };
                let guest = (row.facts.name.clone(), row.facts.domain);
                let on = on.clone();
                let warning = Warning::WillNotConverge { on, guest, why };
                found.insert(Matter::Guest(row.facts.domain), warning);
            }
        }
        found
    }

    /// Says why a guest's migration would not converge, if it is known that it would not.
    fn convergence(&self, row: &DomainRow) -> Option<String> {
        let owner = self.known.owner(row.facts.domain)?;
        if !row.runs() || owner.facts.node != row.facts.node {
            return None;
        }
        let question = Question {
            target: None,
            policy: Policy::qemu(MigrationMode::Precopy),
            path_bandwidth: None,
        };
        let now = self.known.clock.now();
        let answer = planner::plan(&self.known, row, &question, now, self.assumed).ok()?;
        // What rests on old numbers warns of another time.
        if answer.stale || answer.estimate.verdict != Verdict::DoesNotConverge {
            return None;
        }
        Some(answer.estimate.reasons.join("; "))
    }
}

fn shortage(state: &HostState, room: &Headroom) -> String {
    let mebibytes = |bytes: i128| bytes / (1 << 20);
    let mut text = format!(
        "to be promised: {} MiB of memory, {} virtual processors",
        mebibytes(room.memory.allocation),
        room.cpu.allocation / 1_000_000
    );
    if let Some(left) = room.memory.physical {
        let total = mebibytes(i128::from(state.memory.total));
        text.push_str(&format!("; in no use: {} of {total} MiB", mebibytes(left)));
    }
    text
}

#[cfg(test)]
mod tests {
    use plimsoll_model::{Metric, OvercommitFacts, Part, Ratio, Subject};

    use super::*;
    use crate::scene::{Scene, subject};

    fn watch(scene: &Scene) -> Watch {
        Watch::new(scene.known.clone(), Bandwidth::from_mbit_per_second(1_000))
    }

    /// A guest that makes so much of its 4 GiB dirty within one second, and all within five.
    fn dirties(scene: &Scene, facts: &plimsoll_model::DomainFacts, mib_per_second: u64) {
        let state = scene.sweep(subject(facts), &[(Metric::VmState, 1)]);
        let mut sweeps = vec![state];
        for (window_ms, rate) in [(1_000_u32, mib_per_second), (5_000, mib_per_second * 2 / 5)] {
            let mut sweep = scene.sweep(subject(facts), &[]);
            sweep.window.width_ms = window_ms;
            let part = Part::named(&window_ms.to_string()).unwrap();
            sweep.values.push((Metric::VmDirtyRate, part, rate << 20));
            sweeps.push(sweep);
        }
        scene.tell(facts.node, sweeps, Vec::new(), &[]);
    }

    #[test]
    fn a_guest_that_would_not_converge_is_told_once_and_again_after_it_was_well() {
        let scene = Scene::new();
        let node = scene.node("a", |_| {});
        let facts = scene.guest("busy", node);
        let mut watch = watch(&scene);
        scene.pass(20);
        let round = |watch: &mut Watch, rate: u64| {
            scene.pass(10);
            dirties(&scene, &facts, rate);
            watch.look()
        };
        assert_eq!(round(&mut watch, 1_900), []);
        let told = round(&mut watch, 1_900);
        let [Warning::WillNotConverge { on, guest, why }] = told.as_slice() else {
            panic!("{told:?}")
        };
        assert_eq!((on.0.as_str(), guest.0.as_str()), ("a", "busy"));
        assert!(!why.is_empty());
        for _ in 0..3 {
            assert_eq!(round(&mut watch, 1_900), [], "it is known");
        }
        for _ in 0..LOOKS_TO_FORGET {
            // The last measurements of a busy time must be out of sight.
            scene.pass(1_000);
            assert_eq!(round(&mut watch, 0), []);
        }
        assert_eq!(round(&mut watch, 1_900), []);
        assert_eq!(round(&mut watch, 1_900).len(), 1);
    }

    #[test]
    fn a_node_without_room_is_told_once_and_one_that_is_silent_never() {
        let scene = Scene::new();
        let node = scene.node("full", |facts| {
            facts.overcommit = Some(OvercommitFacts {
                cpu_ratio: Ratio::ONE,
                memory_ratio: Ratio::ONE,
                reserved_cpu_count: 0,
                reserved_memory: ByteSize::from_mib(64 << 10),
            });
        });
        let mut watch = watch(&scene);
        assert_eq!(watch.look(), []);
        let told = watch.look();
        let [Warning::HeadroomLost { on, why }] = told.as_slice() else {
            panic!("{told:?}")
        };
        assert_eq!(on.0, "full");
        assert!(why.contains("0 MiB of memory"), "{why}");
        assert_eq!(watch.look(), []);
        scene.pass(600);
        for _ in 0..LOOKS_TO_FORGET {
            assert_eq!(watch.look(), []);
        }
        let values = scene.sweep(Subject::Node(node), &[(Metric::HostLoad1, 1)]);
        scene.tell(node, vec![values], Vec::new(), &[]);
        assert_eq!(watch.look(), []);
        assert_eq!(watch.look().len(), 1);
    }
}
