//! Domains that run on several nodes at once. During a migration both ends see the domain for a while,
//! and clocks differ: it is an alarm only when both have run for longer than that explains.

use std::collections::BTreeMap;
use std::time::Duration;

use plimsoll_model::{DomainId, Metric, Part, SeriesKey, UnixMillis};
use plimsoll_proto::{render, v1};

use crate::known::{DomainRow, Known, STATE_RUNNING};

/// Clocks of nodes may differ by so much.
const SKEW: Duration = Duration::from_secs(5);
/// How far back the beginning of a conflict is looked for.
const HORIZON: Duration = Duration::from_secs(3_600);

/// Lists the conflicts there are now, by domain.
pub(crate) fn list(known: &Known) -> Vec<v1::Conflict> {
    let mut running: BTreeMap<DomainId, Vec<DomainRow>> = BTreeMap::new();
    for seen in known.store.nodes() {
        for row in known
            .domains_on(seen.node)
            .into_iter()
            .filter(DomainRow::runs)
        {
            running.entry(row.facts.domain).or_default().push(row);
        }
    }
    running.retain(|_, rows| rows.len() > 1);
    running
        .into_values()
        .filter_map(|rows| conflict(known, &rows))
        .collect()
}

/// Returns since when a domain was seen to run on a node without a break.
fn runs_since(known: &Known, row: &DomainRow, now: UnixMillis) -> UnixMillis {
    let key = SeriesKey {
        subject: row.subject(),
        metric: Metric::VmState,
        part: Part::whole(),
    };
    let states = known.store.range(&key, now.minus(HORIZON), now);
    let unbroken = states
        .iter()
        .rev()
        .take_while(|(_, state)| *state == STATE_RUNNING);
    unbroken
        .last()
        .map_or(row.last_seen, |(window, _)| window.end)
}

fn conflict(known: &Known, rows: &[DomainRow]) -> Option<v1::Conflict> {
    let now = known.clock.now();
    let first = rows.first()?;
    let sides: Vec<(UnixMillis, &DomainRow)> = rows
        .iter()
        .map(|row| (runs_since(known, row, now), row))
        .collect();
    let since = sides.iter().map(|(since, _)| *since).max()?;
    // Until when both are known to have run: the side that was last seen earlier.
    let until = rows.iter().map(|row| row.last_seen).min()?;
    let side = |(since, row): &(UnixMillis, &DomainRow)| v1::ConflictSide {
        node_id: row.facts.node.as_bytes().to_vec(),
        hostname: known.hostname(row.facts.node),
        state: row
            .state
            .and_then(|state| i32::try_from(state).ok())
            .unwrap_or(0),
        since_time: Some(render::timestamp(*since)),
        last_seen_time: Some(render::timestamp(row.last_seen)),
    };
    Some(v1::Conflict {
        domain_id: first.facts.domain.as_bytes().to_vec(),
        domain_name: first.facts.name.clone(),
        sides: sides.iter().map(side).collect(),
        since_time: Some(render::timestamp(since)),
        alarm: until.since(since) > known.interval + SKEW,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scene::Scene;

    #[test]
    fn a_domain_on_two_nodes_raises_an_alarm_only_when_it_lasts() {
        let scene = Scene::new();
        let (a, b) = (scene.node("a", |_| {}), scene.node("b", |_| {}));
        let here = scene.guest("web", a);
        assert!(list(&scene.known).is_empty());
        scene.pass(10);
        let there = scene.arrives(&here, b, 1);
        scene.sees(&here, 1);
        let found = list(&scene.known);
        assert_eq!(found[0].sides.len(), 2);
        assert!(
            !found[0].alarm,
            "one look at both may be a migration that just ended"
        );
        scene.pass(10);
        scene.sees(&here, 1);
        scene.sees(&there, 1);
        assert!(
            !list(&scene.known)[0].alarm,
            "not yet longer than interval and skew"
        );
        scene.pass(10);
        scene.sees(&here, 1);
        scene.sees(&there, 1);
        assert!(list(&scene.known)[0].alarm);
    }

    #[test]
    fn a_target_that_is_still_paused_and_a_source_that_stopped_are_no_conflict() {
        let scene = Scene::new();
        let (a, b) = (scene.node("a", |_| {}), scene.node("b", |_| {}));
        let here = scene.guest("web", a);
        let there = scene.arrives(&here, b, 3);
        assert!(list(&scene.known).is_empty());
        scene.pass(1);
        scene.sees(&there, 1);
        scene.sees(&here, 3);
        assert!(list(&scene.known).is_empty());
        // The source speaks no more: what it said last is stale.
        scene.sees(&here, 1);
        scene.pass(100);
        scene.sees(&there, 1);
        assert!(list(&scene.known).is_empty());
    }
}
