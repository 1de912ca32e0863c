//! Disks that are slow, full, read-only, or lose their power: file systems of their own on loop devices.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use plimsoll_tests::stage::{Deadline, run, wait_until};

use super::line::Line;
use super::{LIMIT, Way, books, free_address, hears_anew, last};
use crate::units::told;

/// What the aggregator needs to be told of a disk as small as those here.
const SMALL_DISK: &str = "[space]\nfree_size_min = \"8MiB\"\nfree_share_min = \"0.01\"\n";

/// A file system of its own.
struct Disk {
    device: String,
    at: PathBuf,
    // Holds both.
    _place: tempfile::TempDir,
}

impl Disk {
    fn of(size_mib: u32) -> Self {
        let place = tempfile::tempdir().unwrap();
        let (image, at) = (place.path().join("image"), place.path().join("at"));
        std::fs::create_dir(&at).unwrap();
        let file = std::fs::File::create(&image).unwrap();
        file.set_len(u64::from(size_mib) << 20).unwrap();
        run(Command::new("mkfs.ext4").arg("-q").arg(&image), LIMIT).unwrap();
        let mut loops = Command::new("losetup");
        let device = run(loops.args(["--find", "--show"]).arg(&image), LIMIT).unwrap();
        let this = Self {
            device: device.trim().to_owned(),
            at,
            _place: place,
        };
        this.mount();
        this
    }

    fn mount(&self) {
        run(Command::new("mount").arg(&self.device).arg(&self.at), LIMIT).unwrap();
    }

    /// Lets nothing be written any more, or again.
    fn remount(&self, how: &str) {
        let option = format!("remount,{how}");
        run(
            Command::new("mount").args(["-o", &option]).arg(&self.at),
            LIMIT,
        )
        .unwrap();
    }

    /// What was not synced is gone; whoever writes here gets errors from now on.
    fn cut_power(&self) {
        let mut cut = Command::new("xfs_io");
        run(cut.args(["-x", "-c", "shutdown"]).arg(&self.at), LIMIT).unwrap();
    }

    fn restore(&self) {
        run(Command::new("umount").arg(&self.at), LIMIT).unwrap();
        self.mount();
    }

    /// Fills it to the last byte.
    fn fill(&self) {
        let mut file = std::fs::File::create(self.filler()).unwrap();
        for size in [1 << 20, 4 << 10, 1] {
            let filler = vec![7; size];
            while file.write_all(&filler).is_ok() {}
        }
    }

    fn filler(&self) -> PathBuf {
        self.at.join("filler")
    }

    fn free(&self) {
        std::fs::remove_file(self.filler()).unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily, so that the directory can be removed whatever still lives below it.
        Command::new("umount").arg("-l").arg(&self.at).status().ok();
        let mut detach = Command::new("losetup");
        detach.arg("--detach").arg(&self.device).status().ok();
    }
}

/// How long a question takes at most, of so many.
fn slowest_answer(url: &str, questions: usize) -> Duration {
    let mut slowest = Duration::ZERO;
    for _ in 0..questions {
        let asked = Deadline::after(LIMIT);
        assert_eq!(books::ends_ms(url, 0), 1, "every question is answered");
        slowest = slowest.max(asked.elapsed());
    }
    slowest
}

#[test]
fn with_a_disk_that_needs_two_seconds_to_sync_samples_wait_and_questions_do_not() {
    if !told("a slow disk", &["strace"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let record = dir.path().join("strace");
    // From the tenth sync on: the first ones are those of opening.
    let way = Way::through(&[
        "strace",
        "-D",
        "-f",
        "--seccomp-bpf",
        "-o",
        record.to_str().unwrap(),
        "-e",
        "trace=fdatasync",
        "-e",
        "inject=fdatasync:delay_enter=2s:when=10..13",
        "--",
    ]);
    let (house, address) = way.aggregator("127.0.0.1:0", &dir.path().join("data"), "");
    let url = format!("http://{address}");
    let agent = Way::default().agent(&url, &dir.path().join("agent"), "");
    hears_anew(&url, 1);
    let before = slowest_answer(&url, 40);
    let syncs = |record: &Path| {
        std::fs::read_to_string(record)
            .unwrap()
            .matches("fdatasync(")
            .count()
    };
    wait_until("the disk to become slow", LIMIT, || {
        Ok((syncs(&record) >= 10).then_some(()))
    })
    .unwrap();
    let slow = Deadline::after(LIMIT);
    let mut during = Duration::ZERO;
    while syncs(&record) < 14 {
        during = during.max(slowest_answer(&url, 5));
    }
    let lasted = slow.elapsed();
    hears_anew(&url, 1);
    let agent = agent.end();
    drop(house);
    let record = std::fs::read_to_string(&record).unwrap();
    assert!(record.matches("(DELAYED)").count() >= 4, "{record}");
    let count = books::settle(&dir.path().join("data"), &[&agent]);
    println!(
        "slow for {lasted:?}; slowest answer before {before:?}, meanwhile {during:?}; {count:?}"
    );
    assert!(lasted > Duration::from_secs(6), "{lasted:?}");
    assert!(during < Duration::from_millis(500), "{during:?}");
    assert_eq!((count.gap, count.in_flight), (0, 0), "{count:?}");
    assert!(count.silence_ms < 2_500, "{count:?}");
}

#[test]
fn a_full_disk_of_the_aggregator_makes_samples_wait_and_is_over_soon_after_there_is_room() {
    if !told("a full disk", &["mkfs.ext4", "losetup", "mount"]) {
        return;
    }
    let (dir, disk) = (tempfile::tempdir().unwrap(), Disk::of(64));
    let data = disk.at.join("data");
    let (house, address) = Way::default().aggregator("127.0.0.1:0", &data, SMALL_DISK);
    let url = format!("http://{address}");
    let agent = Way::default().agent(&url, &dir.path().join("agent"), "");
    hears_anew(&url, 1);
    disk.fill();
    agent.says("samples are kept in the spool", 1);
    last(Duration::from_secs(5));
    slowest_answer(&url, 5);
    disk.free();
    let freed = Deadline::after(LIMIT);
    agent.says("connected to the aggregator", 2);
    hears_anew(&url, 1);
    let back = freed.elapsed();
    let agent = agent.end();
    let log = house.end();
    let count = books::settle(&data, &[&agent]);
    println!("taken again {back:?} after there was room; {count:?}");
    // It looks for room every 5 s, and the agent comes again as often, and a backoff later.
    assert!(back < Duration::from_secs(15), "{back:?}: {log}");
    assert_eq!((count.gap, count.in_flight), (0, 0), "{count:?}");
    assert!(count.silence_ms < 2_500, "{count:?}");
}

#[test]
fn an_agent_whose_disk_is_full_broken_or_read_only_goes_on_in_memory() {
    if !told(
        "a spool without a disk",
        &["mkfs.ext4", "losetup", "mount", "xfs_io"],
    ) {
        return;
    }
    let (dir, disk) = (tempfile::tempdir().unwrap(), Disk::of(16));
    let (data, of_agent) = (dir.path().join("data"), dir.path().join("agent"));
    std::fs::create_dir(&of_agent).unwrap();
    std::os::unix::fs::symlink(disk.at.join("state"), of_agent.join("state")).unwrap();
    let (house, address) = Way::default().aggregator("127.0.0.1:0", &data, "");
    let url = format!("http://{address}");
    let line = Line::to(&address);
    // What is only in memory waits there for the aggregator.
    let waits = || {
        hears_anew(&url, 1);
        line.silence(true);
        last(Duration::from_millis(2_500));
        line.silence(false);
        hears_anew(&url, 1);
    };
    std::fs::create_dir(disk.at.join("state")).unwrap();
    let agent = Way::default().agent(&line.url(), &of_agent, "");
    hears_anew(&url, 1);
    disk.fill();
    waits();
    disk.free();
    disk.cut_power();
    waits();
    let log = agent.log();
    assert!(log.contains("the spool's disk fails"), "{log}");
    agent.end();
    disk.restore();
    disk.remount("ro");
    let agent = Way::default().agent(&line.url(), &of_agent, "");
    waits();
    let log = agent.log();
    let of_agent = agent.end();
    let house = house.end();
    let count = books::settle_with(&data, &[&of_agent], &house);
    println!("{count:?}");
    assert!(log.contains("Read-only file system"), "{log}");
    assert_eq!((count.gap, count.in_flight), (0, 0), "{count:?}");
    assert!(
        count.readings >= 10 && count.silence_ms < 3_500,
        "{count:?}"
    );
}

#[test]
fn a_power_cut_of_an_agent_costs_no_more_than_its_last_second() {
    if !told(
        "a power cut of a spool",
        &["mkfs.ext4", "losetup", "mount", "xfs_io"],
    ) {
        return;
    }
    let (dir, disk) = (tempfile::tempdir().unwrap(), Disk::of(64));
    let (data, address) = (dir.path().join("data"), free_address());
    let (url, state) = (format!("http://{address}"), disk.at.join("agent"));
    let mut kept = Vec::new();
    for cut in 1..=3_u32 {
        // Nobody listens: all that is seen is in the spool.
        let mut agent = Way::default().agent(&url, &state, "");
        let began = Deadline::after(LIMIT);
        last(Duration::from_millis(4_000 + u64::from(cut) * 270));
        disk.cut_power();
        let lived = began.elapsed();
        agent.program.0.kill().unwrap();
        agent.program.0.wait().unwrap();
        drop(agent);
        disk.restore();
        kept.push(lived);
    }
    let (house, _) = Way::default().aggregator(&address, &data, "");
    let agent = Way::default().agent(&url, &state, "");
    hears_anew(&url, 1);
    let last_run = agent.end();
    drop(house);
    let count = books::settle(&data, &[&last_run]);
    let lived: Duration = kept.iter().sum();
    println!("{lived:?} in three runs with a power cut each: {count:?}");
    assert_eq!(count.in_flight, 0, "{count:?}");
    // A run looks within half a second, then every second; a look waits half a second for others, and its
    // batch a second for its sync. Of four seconds two looks are sure to be kept.
    let of_last_run = 1;
    assert!(
        count.readings >= 3 * 2 + of_last_run,
        "{count:?} in {lived:?}"
    );
}
