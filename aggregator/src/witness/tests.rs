//! Stories of migrations whose words come late, twice, in the wrong order, or never.

use plimsoll_model::{DomainFacts, Iteration, MigrationRole};
use plimsoll_store::Record;

use super::*;
use crate::scene::Scene;

const ASSUMED: Bandwidth = Bandwidth::from_mbit_per_second(1_000);

fn started(guest: &DomainFacts, role: MigrationRole) -> EventKind {
    EventKind::MigrationStarted {
        domain: guest.domain,
        incarnation: guest.incarnation,
        role,
        downtime_limit_ms: None,
        bandwidth_cap: None,
    }
}

fn pass(guest: &DomainFacts, number: u32) -> EventKind {
    let iteration = Iteration {
        number,
        elapsed_ms: Some(u64::from(number) * 100),
        remaining: None,
        dirty_rate: None,
    };
    EventKind::MigrationIteration {
        domain: guest.domain,
        incarnation: guest.incarnation,
        iteration,
    }
}

fn ended(guest: &DomainFacts, started: UnixMillis) -> EventKind {
    let end = MigrationEnded {
        end: MigrationEnd::Completed,
        started,
        total_ms: Some(3_000),
        downtime_ms: Some(40),
        setup_ms: None,
        iterations: Some(2),
        memory_total: None,
        memory_processed: None,
        memory_normal: None,
        zero_page_count: None,
        throughput: None,
    };
    EventKind::MigrationEnded {
        domain: guest.domain,
        incarnation: guest.incarnation,
        end,
    }
}

fn recorded(scene: &Scene) -> Vec<v1::Migration> {
    let documents = scene.known.store.documents(DOCUMENT_MIGRATION);
    let decode = |one: &Document| v1::Migration::decode(one.payload.as_slice()).unwrap();
    documents.iter().map(decode).collect()
}

fn witness(scene: &Scene) -> Witness {
    Witness::new(scene.known.clone(), ASSUMED)
}

#[test]
fn a_migration_that_runs_while_the_aggregator_restarts_is_told_to_its_end() {
    let scene = Scene::new();
    let (a, b) = (scene.node("a", |_| {}), scene.node("b", |_| {}));
    let guest = scene.guest("web", a);
    let first = witness(&scene);
    let start = scene.now();
    first.see(vec![scene.event(a, started(&guest, MigrationRole::Source))]);
    assert!(recorded(&scene)[0].prediction.is_some());
    scene.pass(1);
    first.see(vec![scene.event(a, pass(&guest, 1))]);
    // The second pass is stored, and the aggregator dies before the witness hears of it.
    scene.pass(1);
    scene.event(a, pass(&guest, 2));
    drop(first);
    let scene = scene.restarted();
    let second = witness(&scene);
    scene.pass(1);
    second.see(vec![
        scene.event(b, started(&guest, MigrationRole::Target)),
        scene.event(a, ended(&guest, start)),
    ]);
    let all = recorded(&scene);
    assert_eq!(all.len(), 1);
    assert_eq!(all[0].iterations.len(), 2);
    assert_eq!(all[0].target_node_id, b.as_bytes());
    assert!(
        all[0].error.is_some(),
        "the prediction outlives the restart"
    );
    assert_eq!(all[0].outcome.unwrap().total_ms, Some(3_000));
    // What ended stays as it is, however often the store is read again.
    let scene = {
        drop(second);
        scene.restarted()
    };
    drop(witness(&scene));
    assert_eq!(recorded(&scene), all);
}

#[test]
fn an_end_that_was_stored_but_not_witnessed_is_made_up_for() {
    let scene = Scene::new();
    let a = scene.node("a", |_| {});
    let guest = scene.guest("web", a);
    let start = scene.now();
    scene.event(a, started(&guest, MigrationRole::Source));
    scene.pass(3);
    scene.event(a, ended(&guest, start));
    let scene = scene.restarted();
    drop(witness(&scene));
    let all = recorded(&scene);
    assert_eq!(all.len(), 1);
    assert!(all[0].outcome.is_some());
    assert!(
        all[0].prediction.is_none(),
        "no prediction is made afterwards"
    );
}

#[test]
fn the_target_may_speak_before_the_source() {
    let scene = Scene::new();
    let (a, b) = (scene.node("a", |_| {}), scene.node("b", |_| {}));
    let guest = scene.guest("web", a);
    let witness = witness(&scene);
    witness.see(vec![scene.event(b, started(&guest, MigrationRole::Target))]);
    scene.pass(2);
    witness.see(vec![scene.event(a, started(&guest, MigrationRole::Source))]);
    assert_eq!(recorded(&scene)[0].target_node_id, b.as_bytes());
    // Half an hour later nobody means that arrival any more.
    let other = scene.guest("db", a);
    witness.see(vec![scene.event(b, started(&other, MigrationRole::Target))]);
    scene.pass(1_800);
    witness.see(vec![scene.event(a, started(&other, MigrationRole::Source))]);
    assert!(recorded(&scene)[1].target_node_id.is_empty());
}

#[test]
fn a_batch_that_comes_twice_changes_nothing() {
    let scene = Scene::new();
    let a = scene.node("a", |_| {});
    let guest = scene.guest("web", a);
    let witness = witness(&scene);
    let start = scene.event(a, started(&guest, MigrationRole::Source));
    let passed = scene.event(a, pass(&guest, 1));
    let end = scene.event(a, ended(&guest, start.seen));
    witness.see(vec![start.clone(), passed.clone(), end.clone()]);
    let all = recorded(&scene);
    witness.see(vec![start, passed, end]);
    assert_eq!(recorded(&scene), all);
}

#[test]
fn a_domain_that_runs_elsewhere_closes_its_migration_and_a_late_word_puts_it_right() {
    let scene = Scene::new();
    let (a, b) = (scene.node("a", |_| {}), scene.node("b", |_| {}));
    let guest = scene.guest("web", a);
    let witness = witness(&scene);
    let start = scene.event(a, started(&guest, MigrationRole::Source));
    witness.see(vec![start.clone()]);
    scene.pass(10);
    let there = scene.arrives(&guest, b, 1);
    scene.pass(55);
    scene.sees(&there, 1);
    witness.close_lost();
    assert!(
        recorded(&scene)[0].end_time.is_none(),
        "the source still has time to tell"
    );
    scene.pass(10);
    scene.sees(&there, 1);
    witness.close_lost();
    let closed = &recorded(&scene)[0];
    assert!(closed.end_time.is_some() && closed.outcome.is_none());
    assert!(
        closed.unknown_end_reason.contains("runs on b"),
        "{}",
        closed.unknown_end_reason
    );
    assert_eq!(closed.target_node_id, b.as_bytes());
    witness.see(vec![scene.event(a, ended(&guest, start.seen))]);
    let all = recorded(&scene);
    assert_eq!(all.len(), 1);
    assert!(all[0].outcome.is_some() && all[0].unknown_end_reason.is_empty());
}

#[test]
fn a_source_that_restarted_closes_its_migration() {
    let scene = Scene::new();
    let a = scene.node("a", |_| {});
    let guest = scene.guest("web", a);
    let witness = witness(&scene);
    witness.see(vec![scene.event(a, started(&guest, MigrationRole::Source))]);
    scene.pass(300);
    scene.arrives(&guest, a, 1);
    witness.close_lost();
    let why = recorded(&scene)[0].unknown_end_reason.clone();
    assert_eq!(why, "the source node has restarted");
}

#[test]
fn a_migration_whose_node_still_sees_it_stays_open() {
    let scene = Scene::new();
    let a = scene.node("a", |_| {});
    let guest = scene.guest("web", a);
    let witness = witness(&scene);
    witness.see(vec![scene.event(a, started(&guest, MigrationRole::Source))]);
    scene.pass(3_000);
    scene.sees(&guest, 1);
    witness.close_lost();
    assert!(recorded(&scene)[0].end_time.is_none());
    // The node speaks on, but not of the guest.
    scene.pass(100);
    scene.tell(a, Vec::new(), Vec::new(), &[]);
    witness.close_lost();
    let why = recorded(&scene)[0].unknown_end_reason.clone();
    assert!(why.contains("no longer sees"), "{why}");
}

#[test]
fn a_record_that_cannot_be_read_stops_nobody() {
    let scene = Scene::new();
    let broken = Document {
        kind: DOCUMENT_MIGRATION,
        key: vec![1],
        time: scene.now(),
        payload: vec![0xff, 0xff],
    };
    scene
        .known
        .store
        .append(&[Record::Document(broken)])
        .unwrap();
    drop(witness(&scene));
}
