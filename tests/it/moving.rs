//! The stage itself: guests that dirty memory move between two real libvirt nodes.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};
use std::time::Duration;

use plimsoll_tests::guest::{Guest, PageSet, Pattern};
use plimsoll_tests::stage::{MigrateOptions, Migration, Stage, StageConfig, standing, turn};
use uuid::Uuid;

use crate::house::program;

const MIB: u32 = 1 << 20;

fn guest(name: &str, pattern: Pattern) -> Guest {
    Guest {
        name: name.to_owned(),
        uuid: Uuid::new_v4(),
        memory_mib: 256,
        vcpus: 1,
        fill_bytes: 96 * MIB,
        pattern,
        seed: 7,
    }
}

#[test]
fn a_quiet_guest_moves_a_wild_one_does_not_and_nothing_is_left_behind() {
    let Some(_turn) = turn("a_quiet_guest_moves_a_wild_one_does_not_and_nothing_is_left_behind")
    else {
        return;
    };
    let stage = Stage::raise(&StageConfig::default()).unwrap();
    let directory = stage.directory().to_owned();
    let quiet = guest("quiet", Pattern::Idle);
    // 80 MiB/s over 96 MiB against a link of some 45 MiB/s: what is sent is dirty again.
    let set = PageSet {
        working_set_bytes: 96 * MIB,
        pages_per_second: 20_480,
    };
    let wild = guest("wild", Pattern::Uniform(set));
    stage.node(0).unwrap().define_and_start(&quiet).unwrap();
    stage.node(0).unwrap().define_and_start(&wild).unwrap();

    let moved = stage
        .migrate_live(&quiet, 0, 1, &MigrateOptions::default())
        .unwrap();
    let Migration::Completed(figures) = moved else {
        panic!("the quiet guest stayed: {moved:?}")
    };
    assert!(
        figures.memory_processed_bytes.unwrap() > u64::from(90 * MIB),
        "{figures:?}"
    );
    assert_eq!(stage.node(1).unwrap().guests().unwrap(), ["quiet"]);

    let rate = stage
        .node(0)
        .unwrap()
        .dirty_rate_mib_per_second("wild", 1)
        .unwrap();
    assert!(
        (20..=96).contains(&rate),
        "80 MiB/s over 96 MiB was measured as {rate} MiB/s"
    );
    let options = MigrateOptions {
        timeout: Duration::from_secs(15),
        ..MigrateOptions::default()
    };
    let stayed = stage.migrate_live(&wild, 0, 1, &options).unwrap();
    assert!(
        matches!(stayed, Migration::Aborted { .. }),
        "the wild guest moved: {stayed:?}"
    );
    assert_eq!(stage.node(0).unwrap().guests().unwrap(), ["wild"]);

    let base = directory.parent().unwrap().to_owned();
    stage.fall().unwrap();
    assert!(!directory.exists());
    assert!(
        standing(&base)
            .unwrap()
            .iter()
            .all(|other| other.directory != directory)
    );
}

/// Processes in whose mount namespace something of the directory is mounted.
fn processes_within(directory: &str) -> usize {
    let mut count = 0;
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let mounts = std::fs::read_to_string(entry.path().join("mountinfo"));
        let is_process = entry.file_name().to_string_lossy().parse::<u32>().is_ok();
        count += usize::from(is_process && mounts.is_ok_and(|text| text.contains(directory)));
    }
    count
}

/// Machines that were told of an image in the directory.
fn machines_within(directory: &str) -> usize {
    let told = |entry: &std::fs::DirEntry| {
        let line = std::fs::read_to_string(entry.path().join("cmdline"));
        line.is_ok_and(|line| line.starts_with("/usr/bin/qemu") && line.contains(directory))
    };
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    processes.filter(told).count()
}

#[test]
fn what_the_owner_of_a_stage_left_when_it_was_killed_is_taken_away() {
    let Some(_turn) = turn("what_the_owner_of_a_stage_left_when_it_was_killed_is_taken_away")
    else {
        return;
    };
    let base = tempfile::tempdir().unwrap();
    let stage = || {
        let mut command = Command::new(program("plimsoll-stage"));
        command.arg("--dir").arg(base.path());
        command
    };
    let mut owner = stage()
        .args(["up", "--nodes", "1", "--attend"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut told = String::new();
    let mut out = BufReader::new(owner.stdout.take().unwrap());
    out.read_line(&mut told).unwrap();
    assert!(told.contains("stands in"), "{told}");
    let directory = base.path().to_str().unwrap();
    let begun = stage()
        .args([
            "guest",
            "node-a",
            "orphan",
            "--memory-mib",
            "64",
            "--fill-mib",
            "16",
        ])
        .output()
        .unwrap();
    assert!(begun.status.success(), "{begun:?}");
    assert_eq!(machines_within(directory), 1);
    owner.kill().unwrap();
    owner.wait().unwrap();
    assert_eq!(machines_within(directory), 1, "the guest outlived it");
    assert!(
        processes_within(directory) > 0,
        "libvirtd outlived its owner"
    );
    assert!(standing(base.path()).unwrap()[0].is_stale);

    let mended = stage().arg("down").output().unwrap();
    assert!(mended.status.success(), "{mended:?}");
    assert!(standing(base.path()).unwrap().is_empty());
    assert_eq!(machines_within(directory), 0);
    assert_eq!(processes_within(directory), 0);
}
