//! The real agent and the real aggregator in a simulated world: one thread, a clock that stands still, dice
//! with a seed. A seed always takes the same course:
//!
//!     PLIMSOLL_SEED=17 cargo test -p plimsoll-tests --test sim a_seed
//!     PLIMSOLL_SEEDS=10000 cargo test -p plimsoll-tests --test sim in_every_world
//!
//! Not here: sockets, HTTP/2, TLS, threads, and power cuts of the aggregator, which `ordeal` tries.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::indexing_slicing,
    reason = "a simulation ends where its world is not what it must be"
)]

mod house;
mod ledger;
mod wire;
mod world;

use ledger::Count;

/// Worlds of the short form.
const SEEDS: u64 = 200;

fn told(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

#[test]
fn in_every_world_what_was_produced_is_stored_once_or_in_a_gap() {
    let seeds = told("PLIMSOLL_SEEDS").unwrap_or(SEEDS);
    let mut sum = Count::default();
    let mut failed = Vec::new();
    let mut longest = std::time::Duration::ZERO;
    for seed in 1..=seeds {
        match world::run(seed) {
            Ok(outcome) => {
                sum.produced += outcome.count.produced;
                sum.stored += outcome.count.stored;
                sum.gap += outcome.count.gap;
                sum.lost_unsynced += outcome.count.lost_unsynced;
                longest = longest.max(outcome.after);
            }
            Err(error) => failed.push(format!("PLIMSOLL_SEED={seed}: {error}")),
        }
        if failed.len() >= 3 {
            break;
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
    assert_eq!(sum.produced, sum.stored + sum.gap + sum.lost_unsynced);
    assert!(
        sum.stored > 0 && sum.gap > 0 && sum.lost_unsynced > 0,
        "{sum:?}"
    );
    println!("{seeds} worlds: {sum:?}; the last of a backlog came after {longest:?}");
}

#[test]
fn a_seed_takes_the_same_course_each_time() {
    if let Some(seed) = told("PLIMSOLL_SEED") {
        tracing_subscriber::fmt()
            .with_max_level(tracing_subscriber::filter::LevelFilter::DEBUG)
            .with_test_writer()
            .init();
        let outcome = world::run(seed).unwrap_or_else(|error| panic!("{error}"));
        println!("{outcome:#?}");
        return;
    }
    for seed in 1..=10 {
        assert_eq!(world::run(seed), world::run(seed), "seed {seed}");
    }
}
