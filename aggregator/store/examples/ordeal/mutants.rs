//! Holds the tests against a store with a fault in it: each mutant is a copy of the repository in which one
//! piece of text was replaced, and the tests named beside it must fail there.
//!
//! Not here: any switch in the store itself. A piece that is not there exactly once ends the program, so
//! the table cannot rot unseen.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, ensure};

use crate::run::run;

/// A store with a fault in it.
struct Mutant {
    name: &'static str,
    file: &'static str,
    text: &'static str,
    becomes: &'static str,
    /// The test that must fail.
    killer: &'static str,
}

const MUTANTS: [Mutant; 18] = [
    Mutant {
        name: "acknowledges before fdatasync",
        file: "log.rs",
        text: "if let Err(error) = self.disk.sync(&self.file) {\n            return Err(self.poisoned(&error));",
        becomes: "if let Err(error) = io::Result::Ok(()) {\n            return Err(self.poisoned(&error));",
        killer: "ordeals::nothing_is_acknowledged_or_removed_before_it_is_durable",
    },
    Mutant {
        name: "does not sync the directory behind a rename",
        file: "frame.rs",
        text: "    std::fs::rename(&temporary, path)?;\n    path.parent().map_or(Ok(()), sync_dir)",
        becomes: "    std::fs::rename(&temporary, path)",
        killer: "ordeals::nothing_is_acknowledged_or_removed_before_it_is_durable",
    },
    Mutant {
        name: "leaves the torn end where it is",
        file: "log.rs",
        text: "    file.set_len(torn.offset)?;\n",
        becomes: "",
        killer: "model::",
    },
    Mutant {
        name: "stores a repeated batch again",
        file: "sessions.rs",
        text: "        if batch.sequence <= durable {\n            let both",
        becomes: "        if batch.sequence < durable {\n            let both",
        killer: "model::",
    },
    Mutant {
        name: "does not verify the checksum of a payload, blocks and footers among them",
        file: "frame.rs",
        text: "if crc32c::crc32c(payload) != number_u32(head, 4) {",
        becomes: "if false {",
        killer: "ordeals::flipped_and_missing_bytes_are_seen_and_cost_one_frame",
    },
    Mutant {
        name: "removes the log before its seal is true",
        file: "store.rs",
        text: "        let change = keeper.seal(&frozen)?;\n",
        becomes: "        self.writer().forget(frozen.begin.id)?;\n        let change = keeper.seal(&frozen)?;\n",
        killer: "ordeals::a_kill_at_a_system_call_leaves_what_was_there_before_or_after_it",
    },
    Mutant {
        name: "writes on after a failed fdatasync",
        file: "log.rs",
        text: "        self.poison = Some(reason.clone());\n        // What was not",
        becomes: "        // What was not",
        killer: "log::tests::the_first_failed_fdatasync_stops_all_writes",
    },
    Mutant {
        name: "leaves a half-written frame when the disk is full",
        file: "log.rs",
        text: "let mended = self.file.set_len(self.end.bytes);",
        becomes: "let mended = io::Result::Ok(());",
        killer: "log::tests::a_frame_that_a_full_disk_cut_short",
    },
    Mutant {
        name: "gives a number out twice",
        file: "keeper.rs",
        text: "if !manifest.is_older_on_disk(&self.dir) {",
        becomes: "if false {",
        killer: "files::a_number_that_a_half_replaced_manifest_gave_out",
    },
    Mutant {
        name: "leaves a segment that remembers a wrong end",
        file: "log.rs",
        text: "                std::fs::remove_file(&path).ok();\n                Err(AppendError::Full {",
        becomes: "                Err(AppendError::Full {",
        killer: "ordeals::a_kill_after_a_refused_call_finds_nothing_half_done",
    },
    Mutant {
        name: "believes an index of another manifest",
        file: "index.rs",
        text: "if stamp != Some(stamp_of(generation, sum)) {",
        becomes: "if stamp.is_none() {",
        killer: "ordeals::a_kill_at_a_system_call_leaves_what_was_there_before_or_after_it",
    },
    Mutant {
        name: "forgets late samples when it merges",
        file: "keeper.rs",
        text: "            for (columns, rows) in all {\n                sealing.add(place, &columns, rows)?;",
        becomes: "            for (columns, rows) in all.into_iter().take(1) {\n                sealing.add(place, &columns, rows)?;",
        killer: "model::",
    },
    Mutant {
        name: "takes a counter that begins anew for one that grew",
        file: "rollup/cell.rs",
        text: "(*first, second.checked_sub(*first))",
        becomes: "(*first, Some(second.abs_diff(*first)))",
        killer: "model::",
    },
    Mutant {
        name: "connects samples that lie too far apart",
        file: "rollup/cell.rs",
        text: "!span.is_zero() && span <= GAP",
        becomes: "!span.is_zero()",
        killer: "model::",
    },
    Mutant {
        name: "leaves rollups as they are when samples come late",
        file: "rollup/keeping.rs",
        text: "                self.stale.push(span);\n",
        becomes: "",
        killer: "model::",
    },
    Mutant {
        name: "forgets the neighbours of samples that are not rolled up",
        file: "rollup/keeping.rs",
        text: "horizon.min(first.minus(GAP))",
        becomes: "horizon.min(first)",
        killer: "rolls::kept::samples_stay_with_their_neighbours_until_rollups_know_them",
    },
    Mutant {
        name: "forgets which samples were damaged when it rolled them up",
        file: "rollup/making.rs",
        text: "            entry.lost = lost.to_vec();\n",
        becomes: "",
        killer: "rolls::damage::rollups_of_damaged_samples_remember_it_when_the_samples_are_gone",
    },
    Mutant {
        name: "believes nothing of rollups whose footer is damaged",
        file: "rollup/file.rs",
        text: "            footer: footer::from_blocks(id, &bytes, told_by(self.entry.tier)),",
        becomes: "            footer: Footer::default(),",
        killer: "rolls::damage::a_damaged_footer_or_a_lost_end_of_rollups",
    },
];

fn root() -> anyhow::Result<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    Ok(root.canonicalize()?)
}

/// Reads the file of a mutant, whole and with its fault.
fn mutated(mutant: &Mutant) -> anyhow::Result<(String, String)> {
    let path = root()?.join("aggregator/store/src").join(mutant.file);
    let text = std::fs::read_to_string(&path)?;
    let count = text.matches(mutant.text).count();
    ensure!(
        count == 1,
        "mutant \"{}\": its text is {count} times in {}",
        mutant.name,
        path.display()
    );
    let faulty = text.replace(mutant.text, mutant.becomes);
    Ok((text, faulty))
}

/// Verifies that all mutants can be made.
pub(crate) fn check() -> anyhow::Result<usize> {
    MUTANTS
        .iter()
        .try_for_each(|mutant| mutated(mutant).map(|_| ()))?;
    Ok(MUTANTS.len())
}

fn cargo(copy: &Path, target: &Path, args: &[&str]) -> anyhow::Result<(bool, String)> {
    let output = Command::new(std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned()))
        .args(["test", "-p", "plimsoll-store"])
        .args(args)
        .current_dir(copy)
        .env("CARGO_TARGET_DIR", target)
        .env("RUST_BACKTRACE", "0")
        .output()
        .context("cannot start cargo")?;
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    Ok((output.status.success(), said))
}

/// Builds every mutant and lets its test kill it; says one line of each.
pub(crate) fn mutants(say: impl Fn(&str)) -> anyhow::Result<()> {
    check()?;
    let root = root()?;
    let below = root.join("target/mutants");
    let (copy, target) = (below.join("copy"), below.join("target"));
    let listed = run(&[
        "git",
        "-C",
        root.to_str().context("no path")?,
        "ls-files",
        "-co",
        "--exclude-standard",
    ])?;
    for name in listed.lines().filter(|name| root.join(name).is_file()) {
        let to = copy.join(name);
        std::fs::create_dir_all(to.parent().context("no parent")?)?;
        let bytes = std::fs::read(root.join(name))?;
        // What did not change is not built again.
        if std::fs::read(&to).ok() != Some(bytes.clone()) {
            std::fs::write(&to, bytes)?;
        }
    }
    let mut killers: Vec<&str> = MUTANTS.iter().map(|mutant| mutant.killer).collect();
    killers.sort_unstable();
    killers.dedup();
    let (passes, said) = cargo(&copy, &target, &[&["--"], killers.as_slice()].concat())?;
    ensure!(passes, "the tests fail without a mutant: {said}");
    say("without a mutant, all tests pass");
    let mut alive = Vec::new();
    for mutant in &MUTANTS {
        let path = copy.join("aggregator/store/src").join(mutant.file);
        let (whole, faulty) = mutated(mutant)?;
        std::fs::write(&path, faulty)?;
        let (builds, said) = cargo(&copy, &target, &["--no-run"])?;
        let outcome = cargo(&copy, &target, &["--", mutant.killer]);
        std::fs::write(&path, whole)?;
        ensure!(builds, "mutant \"{}\" cannot be built: {said}", mutant.name);
        let is_killed = !outcome?.0;
        let fate = if is_killed {
            "killed by"
        } else {
            "LIVES in spite of"
        };
        say(&format!("{}: {fate} {}", mutant.name, mutant.killer));
        alive.extend((!is_killed).then_some(mutant.name));
    }
    ensure!(alive.is_empty(), "these live: {alive:?}");
    Ok(())
}
