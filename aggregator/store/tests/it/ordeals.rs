//! The short forms of what the program `ordeal` does; its long forms are for a night (TRACK_RECORD.md).

use std::path::PathBuf;
use std::process::Command;

/// What a machine must have.
enum Needs {
    Nothing,
    Program(&'static str),
    Root(&'static [&'static str]),
}

fn is_on_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|directory| directory.join(program).is_file())
}

impl Needs {
    /// Says what is missing.
    fn missing(&self) -> Option<String> {
        let programs = match self {
            Self::Nothing => return None,
            Self::Program(program) => vec![*program],
            Self::Root(programs) if rustix::process::geteuid().is_root() => programs.to_vec(),
            Self::Root(_) => return Some("root".to_owned()),
        };
        let missing = programs.into_iter().find(|program| !is_on_path(program));
        missing.map(str::to_owned)
    }
}

/// Cargo builds it with the tests.
fn program() -> PathBuf {
    let mut path = std::env::current_exe().unwrap();
    path.pop();
    path.pop();
    path.join("examples").join("ordeal")
}

fn ordeal(needs: &Needs, order: &str) {
    if let Some(missing) = needs.missing() {
        assert!(
            std::env::var_os("PLIMSOLL_TESTS_COMPLETE").is_none(),
            "ordeal {order} needs {missing}"
        );
        println!("left out: ordeal {order} (needs {missing})");
        return;
    }
    let output = Command::new(program())
        .args(order.split(' '))
        .output()
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (said, complained) = (text(&output.stdout), text(&output.stderr));
    assert!(
        output.status.success(),
        "ordeal {order}: {said}{complained}"
    );
    assert!(!said.is_empty(), "ordeal {order} says nothing");
    print!("{said}");
}

#[test]
fn kill_9_loses_nothing_that_was_acknowledged() {
    ordeal(&Needs::Nothing, "kill --cycles 10");
}

#[test]
fn a_power_cut_loses_nothing_that_was_acknowledged() {
    let needs = Needs::Root(&["mount", "mkfs.ext4", "mkfs.xfs", "xfs_io"]);
    ordeal(&needs, "power --cycles 6");
}

#[test]
fn a_kill_at_a_system_call_leaves_what_was_there_before_or_after_it() {
    ordeal(&Needs::Program("strace"), "calls --fault kill --stride 13");
}

#[test]
fn a_call_refused_for_want_of_space_costs_nothing_and_life_goes_on() {
    ordeal(
        &Needs::Program("strace"),
        "calls --fault full --stride 19 --seed 2",
    );
}

#[test]
fn a_disk_that_stays_full_lets_the_store_open_and_answer() {
    ordeal(
        &Needs::Program("strace"),
        "calls --fault full-from --stride 19 --seed 3",
    );
}

#[test]
fn a_kill_after_a_refused_call_finds_nothing_half_done() {
    let order = "calls --fault full-kill --call fsync --stride 2 --seed 2";
    ordeal(&Needs::Program("strace"), order);
}

#[test]
fn a_call_that_fails_is_never_taken_for_done() {
    ordeal(
        &Needs::Program("strace"),
        "calls --fault broken --stride 19 --seed 4",
    );
}

#[test]
fn nothing_is_acknowledged_or_removed_before_it_is_durable() {
    ordeal(&Needs::Program("strace"), "order --slices 60");
}

#[test]
fn a_small_disk_that_is_full_again_and_again_loses_nothing() {
    let needs = Needs::Root(&["mount", "mkfs.ext4"]);
    ordeal(&needs, "full --cycles 3");
}

#[test]
fn a_disk_near_its_end_makes_room_refuses_and_goes_on_and_is_never_full() {
    let needs = Needs::Root(&["mount", "mkfs.ext4"]);
    ordeal(&needs, "low --seconds 2");
}

#[test]
fn a_write_cut_short_is_taken_back() {
    ordeal(&Needs::Program("prlimit"), "short --stride 397");
}

#[test]
fn flipped_and_missing_bytes_are_seen_and_cost_one_frame() {
    ordeal(&Needs::Nothing, "flips --stride 211 --of-stores 40");
}

#[test]
fn a_damaged_index_changes_no_answer() {
    ordeal(&Needs::Nothing, "index --cycles 12 --series 4000");
}

#[test]
fn a_write_or_sync_of_the_index_that_is_refused_ends_nothing() {
    let needs = Needs::Program("strace");
    ordeal(&needs, "calls --fault full --call pwrite64");
}

#[test]
fn every_mutant_of_the_store_can_still_be_made() {
    ordeal(&Needs::Nothing, "mutants --check");
}
