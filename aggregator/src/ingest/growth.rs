//! How many series a node may have, and how many new ones it may bring. What is known goes on whatever comes
//! beside it; what is too much is refused series by series and counted. It keeps nothing on disk.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::{BuildHasher as _, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use plimsoll_model::{Clock, Metric, Monotonic, NodeId, Part, Subject};
use plimsoll_proto::limits::SERIES_PER_SESSION_MAX;
use plimsoll_store::Store;

use crate::guard::limits::{Limit, Met};

/// Series that a node may have told within [`LATELY`], in all its sessions: a node that starts anew has all of
/// them new while the old ones are not long gone.
pub(super) const SERIES_OF_NODE_MAX: usize = 2 * SERIES_PER_SESSION_MAX;
/// Series, never heard of before, that a node may bring at once.
pub(super) const NEW_SERIES_MAX: usize = 2 * SERIES_PER_SESSION_MAX;
/// So many of them it may bring again each hour.
pub(super) const NEW_SERIES_PER_HOUR: usize = 10_000;
/// How long a series counts as one the node has.
const LATELY: Duration = Duration::from_secs(3_600);
/// Nodes whose growth is remembered; of more, the one that was not looked at longest is forgotten.
const NODES_MAX: usize = 16_384;

/// What a node has and may bring.
#[derive(Debug)]
struct Growth {
    /// Series it has, as the store knew and with those let in since.
    has: usize,
    /// New series it may still bring.
    may_bring: usize,
    since: Monotonic,
    /// Those let in that the store does not have yet, as numbers: a stream that breaks off before any of them
    /// is stored, and comes again, brings nothing new.
    let_in: HashSet<u64>,
}

/// The growth of all nodes.
#[derive(Debug, Clone)]
pub struct Nursery {
    store: Arc<Store>,
    met: Arc<Met>,
    clock: Arc<dyn Clock>,
    nodes: Arc<Mutex<HashMap<NodeId, Growth>>>,
    numbers: RandomState,
}

impl Nursery {
    /// Begins with what the store knows.
    pub fn new(store: Arc<Store>, met: Arc<Met>, clock: Arc<dyn Clock>) -> Self {
        Self {
            store,
            met,
            clock,
            nodes: Arc::default(),
            numbers: RandomState::new(),
        }
    }

    /// Judges declarations of one node.
    pub(super) fn judge(&self, node: NodeId) -> Judge<'_> {
        Judge {
            nursery: self,
            node,
            kept: None,
        }
    }

    /// A number of a series that no other one of the node has, but by a chance of one in many millions.
    fn number(&self, series: (Subject, &(Metric, Part))) -> u64 {
        self.numbers.hash_one(series)
    }

    fn nodes(&self) -> MutexGuard<'_, HashMap<NodeId, Growth>> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The store has a series that was let in, so nobody needs to remember it.
    fn is_stored(&self, node: NodeId, series: u64) {
        if let Some(growth) = self.nodes().get_mut(&node) {
            growth.let_in.remove(&series);
        }
    }

    /// Lets a series in that the node did not tell lately, or says at which limit it is refused.
    fn admit(&self, node: NodeId, series: u64, is_new: bool) -> Result<(), Limit> {
        let now = self.clock.monotonic();
        let mut nodes = self.nodes();
        if nodes.len() >= NODES_MAX && !nodes.contains_key(&node) {
            let oldest = nodes.iter().min_by_key(|(_, growth)| growth.since);
            if let Some(oldest) = oldest.map(|(node, _)| *node) {
                nodes.remove(&oldest);
            }
        }
        let counted = || self.store.told_since(node, self.clock.now().minus(LATELY));
        let growth = nodes.entry(node).or_insert_with(|| Growth {
            has: counted(),
            may_bring: NEW_SERIES_MAX,
            since: now,
            let_in: HashSet::new(),
        });
        let passed = now.since(growth.since);
        if passed >= LATELY {
            let hours = passed.as_secs() / LATELY.as_secs();
            let grown = usize::try_from(hours).unwrap_or(usize::MAX);
            let grown = grown.saturating_mul(NEW_SERIES_PER_HOUR);
            growth.may_bring = growth.may_bring.saturating_add(grown).min(NEW_SERIES_MAX);
            growth.has = counted();
            growth.since = now;
            growth.let_in.clear();
        }
        if growth.let_in.contains(&series) {
            return Ok(());
        }
        if growth.has >= SERIES_OF_NODE_MAX {
            return Err(Limit::SeriesOfNode);
        }
        if is_new && growth.may_bring == 0 {
            return Err(Limit::NewSeries);
        }
        growth.let_in.insert(series);
        growth.has += 1;
        growth.may_bring -= usize::from(is_new);
        Ok(())
    }
}

/// Judges declarations, subject by subject as they come.
#[derive(Debug)]
pub(super) struct Judge<'a> {
    nursery: &'a Nursery,
    node: NodeId,
    kept: Option<(Subject, Kept)>,
}

/// The series of a subject, and whether each was told lately.
type Kept = BTreeMap<(Metric, Part), bool>;

impl Judge<'_> {
    /// Says whether a series may be told.
    pub(super) fn allows(&mut self, subject: Subject, metric: Metric, part: &Part) -> bool {
        let Nursery { store, clock, .. } = self.nursery;
        if self.kept.as_ref().is_none_or(|(of, _)| *of != subject) {
            let since = clock.now().minus(LATELY);
            self.kept = Some((subject, store.kept_of(subject, since)));
        }
        let series = (metric, part.clone());
        let kept = self.kept.as_ref().and_then(|(_, kept)| kept.get(&series));
        let number = self.nursery.number((subject, &series));
        if kept == Some(&true) {
            self.nursery.is_stored(self.node, number);
            return true;
        }
        let admitted = self.nursery.admit(self.node, number, kept.is_none());
        let Err(limit) = admitted else {
            return true;
        };
        if self.nursery.met.note(limit, &**clock) {
            tracing::warn!(node = %self.node, limit = limit.word(), %metric, "a series is refused; those known go on");
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scene::Scene;

    fn nursery(scene: &Scene) -> Nursery {
        let known = &scene.known;
        Nursery::new(
            Arc::clone(&known.store),
            Arc::clone(&known.met),
            Arc::clone(&known.clock),
        )
    }

    /// How many of so many new series are let in.
    fn let_in(nursery: &Nursery, node: NodeId, begin: usize, count: usize) -> usize {
        let mut judge = nursery.judge(node);
        let parts = (begin..begin + count).map(|at| Part::named(&format!("d{at}")).unwrap());
        parts
            .filter(|part| judge.allows(Subject::Node(node), Metric::HostDiskRdOps, part))
            .count()
    }

    #[test]
    fn new_series_come_up_to_a_number_and_again_with_time() {
        let scene = Scene::new();
        let (nursery, node) = (nursery(&scene), NodeId::random());
        assert_eq!(
            let_in(&nursery, node, 0, NEW_SERIES_MAX - 1),
            NEW_SERIES_MAX - 1
        );
        assert_eq!(scene.known.met.count(Limit::NewSeries), 0);
        assert_eq!(let_in(&nursery, node, NEW_SERIES_MAX, 1), 1, "the last one");
        assert_eq!(let_in(&nursery, node, NEW_SERIES_MAX, 1), 1, "it is let in");
        // An hour on, none of them was told: it has none, and may bring some.
        scene.pass(3_600);
        let many = NEW_SERIES_PER_HOUR + 1;
        assert_eq!(let_in(&nursery, node, NEW_SERIES_MAX + 1, many), many - 1);
        assert_eq!(scene.known.met.count(Limit::NewSeries), 1);
        let other = NodeId::random();
        assert_eq!(let_in(&nursery, other, 0, 1), 1, "others are not held up");
    }

    #[test]
    fn a_node_has_so_many_series_in_all_its_sessions_and_those_it_has_go_on() {
        let scene = Scene::new();
        let (nursery, node) = (nursery(&scene), scene.node("a", |_| {}));
        let known = [(Metric::HostMemFree, 1), (Metric::HostLoad1, 1)];
        let sweep = scene.sweep(Subject::Node(node), &known);
        scene.tell(node, vec![sweep], Vec::new(), &[]);
        let most = SERIES_OF_NODE_MAX - known.len();
        assert_eq!(let_in(&nursery, node, 0, most - 1), most - 1);
        assert_eq!(let_in(&nursery, node, most, 1), 1, "the last one");
        assert_eq!(scene.known.met.count(Limit::SeriesOfNode), 0);
        assert_eq!(let_in(&nursery, node, most + 1, 1), 0, "one beyond");
        assert_eq!(scene.known.met.count(Limit::SeriesOfNode), 1);
        let mut judge = nursery.judge(node);
        for (metric, _) in known {
            assert!(judge.allows(Subject::Node(node), metric, &Part::whole()));
        }
    }

    #[test]
    fn what_was_kept_long_ago_is_not_new_when_it_comes_again() {
        let scene = Scene::new();
        let (nursery, node) = (nursery(&scene), NodeId::random());
        let sweep = scene.sweep(Subject::Node(node), &[(Metric::HostMemFree, 1)]);
        scene.tell(node, vec![sweep], Vec::new(), &[]);
        scene.pass(7_200);
        assert_eq!(
            let_in(&nursery, node, 0, NEW_SERIES_MAX - 1),
            NEW_SERIES_MAX - 1
        );
        let mut judge = nursery.judge(node);
        assert!(judge.allows(Subject::Node(node), Metric::HostMemFree, &Part::whole()));
        assert_eq!(scene.known.met.count(Limit::NewSeries), 0);
    }
}
