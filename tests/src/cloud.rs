//! The whole house on the stage: an aggregator in the hub, an agent on every node, and the operator's
//! command to ask them with.
//!
//! Not here: judging what they answer.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, bail};
use serde_json::Value;

use crate::stage::{
    Daemon, Deadline, HUB_ADDRESS, Stage, StageConfig, StageError, pause, wait_until,
};

/// Where agents answer each other's probes, in the networks of the stage.
const PATH_PORT: u16 = 7078;
/// What a cloud is made of.
const PROGRAMS: [&str; 4] = [
    "plimsoll-aggregator",
    "plimsoll-agent",
    "plimsoll-dirty-helper",
    "plimsoll",
];
/// Boot, fill, two windows of the dirty rate for each guest, and two slow cores.
const SEEN_LIMIT: Duration = Duration::from_secs(120);
/// Measurements of each window before an answer is believed: one alone is off by a quarter.
const DIRTY_COUNT: u32 = 3;
/// Asking starts a program, which would load a small machine if it were done all the time.
const ASK_PERIOD: Duration = Duration::from_millis(400);
/// How long a program may take to end well.
const STOP_LIMIT: Duration = Duration::from_secs(10);
/// The source tells the end once it knows that the target runs.
const ENDED_LIMIT: Duration = Duration::from_secs(20);

/// How the agents of a cloud measure dirty rates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Measuring {
    /// The windows.
    pub windows: Vec<Duration>,
    /// Pages of each GiB that QEMU looks at by its monitor; as libvirt does it if absent.
    pub sample_pages: Option<u32>,
    /// Guests that are measured at once; a helper measures one.
    pub at_once: usize,
    /// Whether the agent only reads, and a helper beside it measures.
    pub by_helper: bool,
}

impl Default for Measuring {
    fn default() -> Self {
        Self {
            windows: vec![Duration::from_secs(1), Duration::from_secs(3)],
            sample_pages: None,
            at_once: 1,
            by_helper: false,
        }
    }
}

impl Measuring {
    /// What the configuration of an agent says of it; `helper` is where the helper listens.
    fn toml(&self, helper: &Path) -> String {
        let windows = self.windows.iter();
        let windows: Vec<String> = windows
            .map(|window| format!("{}ms", window.as_millis()))
            .collect();
        let mut dirty = format!(
            "[dirty]\nwindows = {windows:?}\nevery = \"1s\"\nconcurrent_max = {}\n",
            self.at_once
        );
        if self.by_helper {
            dirty.push_str(&format!("helper = {helper:?}\n"));
            return format!("[libvirt]\naccess = \"read-only\"\n{dirty}");
        }
        if let Some(pages) = self.sample_pages {
            dirty.push_str(&format!("sample_pages = {pages}\n"));
        }
        format!("[libvirt]\naccess = \"read-write\"\n{dirty}")
    }
}

/// A stage with an aggregator in its hub and an agent on each node.
#[derive(Debug)]
pub struct Cloud {
    stage: Stage,
    daemons: Vec<Daemon>,
    programs: PathBuf,
}

impl Cloud {
    /// Raises two nodes with their agents and the aggregator; `programs` is where cargo put them, and
    /// `data` where the aggregator keeps what it sees, on the stage if absent.
    ///
    /// # Errors
    ///
    /// Says which part is missing or would not start.
    pub fn raise(
        config: &StageConfig,
        programs: &Path,
        data: Option<&Path>,
    ) -> anyhow::Result<Self> {
        Self::raise_measuring(config, programs, data, &Measuring::default())
    }

    /// The same, with agents that measure dirty rates as told.
    ///
    /// # Errors
    ///
    /// As [`Cloud::raise`].
    pub fn raise_measuring(
        config: &StageConfig,
        programs: &Path,
        data: Option<&Path>,
        measuring: &Measuring,
    ) -> anyhow::Result<Self> {
        for program in PROGRAMS {
            let path = programs.join(program);
            if !path.exists() {
                bail!(
                    "{} is not there; run `cargo build --workspace` first",
                    path.display()
                );
            }
        }
        let stage = Stage::raise(config)?;
        let mut cloud = Self {
            stage,
            daemons: Vec::new(),
            programs: programs.to_owned(),
        };
        cloud.start_aggregator(data)?;
        for index in 0..cloud.stage.nodes().len() {
            if measuring.by_helper {
                cloud.start_helper(index, measuring)?;
            }
            cloud.start_agent(index, config.link_mbit, measuring)?;
        }
        Ok(cloud)
    }

    fn start_aggregator(&mut self, data: Option<&Path>) -> anyhow::Result<()> {
        let on_stage = self.stage.directory().join("aggregator-data");
        let data = data.unwrap_or(&on_stage);
        let program = self.programs.join("plimsoll-aggregator");
        let daemon = self.stage.spawn_in_hub("aggregator", program, |command| {
            command.args(["run", "--allow-plaintext-listen", "--interval", "2s"]);
            command.args(["--listen", &format!("{HUB_ADDRESS}:7077")]);
            command.arg("--data-dir").arg(data);
        })?;
        self.daemons.push(daemon);
        Ok(())
    }

    /// Where the helper of a node listens.
    fn helper_socket(&self, index: usize) -> PathBuf {
        let directory = self.stage.directory();
        directory.join(format!("dirty-helper-{index}.sock"))
    }

    fn start_helper(&mut self, index: usize, measuring: &Measuring) -> anyhow::Result<()> {
        let socket = self.helper_socket(index);
        let program = self.programs.join("plimsoll-dirty-helper");
        let name = format!("dirty-helper-{index}");
        let daemon = self.stage.spawn_in_node(index, &name, program, |command| {
            command.args(["--budget-s", "60", "--socket"]).arg(&socket);
            if let Some(pages) = measuring.sample_pages {
                command.args(["--sample-pages", &pages.to_string()]);
            }
        })?;
        self.daemons.push(daemon);
        Ok(())
    }

    fn start_agent(
        &mut self,
        index: usize,
        link_mbit: u32,
        measuring: &Measuring,
    ) -> anyhow::Result<()> {
        let directory = self.stage.directory();
        let path = directory.join(format!("agent-{index}.toml"));
        let state = directory.join(format!("agent-{index}-state"));
        let node = self.stage.node(index)?.uuid();
        let mut text = format!(
            "aggregator = \"http://{HUB_ADDRESS}:7077\"\nstate_dir = {state:?}\ninterval = \"2s\"\n\
             [node]\nid = \"{node}\"\n{}\
             [migration]\nbandwidth = \"{link_mbit}Mbit/s\"\n\
             [path]\nlisten = \"{}:{PATH_PORT}\"\nevery = \"2s\"\n",
            measuring.toml(&self.helper_socket(index)),
            self.stage.node(index)?.address()
        );
        for peer in self.stage.nodes().iter().filter(|peer| peer.uuid() != node) {
            let (uuid, address) = (peer.uuid(), peer.address());
            text.push_str(&format!(
                "[[path.peer]]\nnode = \"{uuid}\"\naddress = \"{address}:{PATH_PORT}\"\n"
            ));
        }
        std::fs::write(&path, text).context("cannot write the configuration of an agent")?;
        let program = self.programs.join("plimsoll-agent");
        let name = format!("agent-{index}");
        let daemon = self.stage.spawn_in_node(index, &name, program, |command| {
            command.args(["run", "--config"]).arg(&path);
        })?;
        self.daemons.push(daemon);
        Ok(())
    }

    /// The stage.
    pub fn stage(&self) -> &Stage {
        &self.stage
    }

    /// Asks the aggregator through the operator's command; says what it complained of.
    ///
    /// # Errors
    ///
    /// Passes on the complaint.
    pub fn ask(&self, args: &[&str]) -> anyhow::Result<Value> {
        let question: Vec<&str> = std::iter::once("--json")
            .chain(args.iter().copied())
            .collect();
        let text = self.ask_in_words(&question)?;
        serde_json::from_str(&text).context("plimsoll answers no JSON")
    }

    /// Asks the same way, but for the words the operator would see.
    ///
    /// # Errors
    ///
    /// Passes on the complaint.
    pub fn ask_in_words(&self, args: &[&str]) -> anyhow::Result<String> {
        let mut command: Command = self.stage.hub_command(self.programs.join("plimsoll"))?;
        command
            .arg("--server")
            .arg(format!("http://{HUB_ADDRESS}:7077"))
            .args(args);
        let output = command.output().context("cannot run plimsoll")?;
        if !output.status.success() {
            bail!("{}", String::from_utf8_lossy(&output.stderr).trim_end());
        }
        String::from_utf8(output.stdout).context("plimsoll answers no text")
    }

    /// Asks for the estimate until each window of the dirty rate was measured three times, and these and the
    /// look through the memory ended after this was called. In a real cloud many more are at hand.
    ///
    /// # Errors
    ///
    /// Says what was answered last.
    pub fn estimate(&self, guest: &str, args: &[&str]) -> anyhow::Result<Value> {
        self.estimate_with_points(guest, args)
            .map(|(answer, _)| answer)
    }

    /// The same, with each measurement of the dirty rate that was seen: window in milliseconds and rate.
    ///
    /// # Errors
    ///
    /// As [`Cloud::estimate`].
    pub fn estimate_with_points(
        &self,
        guest: &str,
        args: &[&str],
    ) -> anyhow::Result<(Value, Vec<(u64, String)>)> {
        self.estimate_telling(guest, args, |_, _| {})
    }

    /// The same; `tell` is told window in milliseconds and rate of each measurement when it is first seen.
    ///
    /// # Errors
    ///
    /// As [`Cloud::estimate`].
    pub fn estimate_telling(
        &self,
        guest: &str,
        args: &[&str],
        mut tell: impl FnMut(u64, &str),
    ) -> anyhow::Result<(Value, Vec<(u64, String)>)> {
        let what = format!("an estimate of {guest} from two windows measured three times");
        let question: Vec<&str> = ["estimate", guest].iter().chain(args).copied().collect();
        let begin = Deadline::after(SEEN_LIMIT);
        let mut points = Vec::new();
        let mut seen = BTreeSet::new();
        let asked = wait_until(&what, SEEN_LIMIT, || {
            let answer = self.ask(&question).ok();
            for input in answer.iter().flat_map(inputs) {
                if let Some((window_ms, rate)) = point(input)
                    && seen.insert((window_ms, count(input)))
                {
                    tell(window_ms, &rate);
                    points.push((window_ms, rate));
                }
            }
            let asked_s = begin.elapsed().as_secs_f64();
            let answer = answer.filter(|answer| is_whole(answer, asked_s));
            if answer.is_none() {
                pause(ASK_PERIOD);
            }
            Ok(answer)
        });
        match asked {
            Ok(answer) => Ok((answer, points)),
            Err(error) => {
                let last = self.ask(&question);
                bail!("{error}; last answer: {last:#?}; {}", self.logs())
            }
        }
    }

    /// Waits for the outcome of the latest migration of a guest that was not known to have ended before.
    ///
    /// # Errors
    ///
    /// Says what the aggregator knows instead.
    pub fn ended(&self, guest: &str, known: usize) -> anyhow::Result<Value> {
        let found = wait_until("the outcome of the migration", ENDED_LIMIT, || {
            let mut rows = self.migrations(guest);
            if rows.len() <= known {
                pause(ASK_PERIOD);
            }
            Ok((rows.len() > known).then(|| rows.swap_remove(0)))
        });
        found.map_err(|error| {
            anyhow::anyhow!("{error}; {:#?}; {}", self.ask(&["migrations"]), self.logs())
        })
    }

    /// The migrations of a guest that have ended, the newest first.
    pub fn migrations(&self, guest: &str) -> Vec<Value> {
        let all = self.ask(&["migrations"]).unwrap_or_default();
        let rows = all.as_array().cloned().unwrap_or_default().into_iter();
        rows.filter(|row| row["domain_name"] == guest && !row["outcome"].is_null())
            .collect()
    }

    /// Takes everything down, as dropping it does, but says what failed.
    ///
    /// # Errors
    ///
    /// Says which part could not be taken away.
    pub fn fall(self) -> Result<(), StageError> {
        self.stage.fall()
    }

    fn daemon(&self, name: &str) -> Result<&Daemon, StageError> {
        let found = self.daemons.iter().find(|one| one.name() == name);
        found.ok_or_else(|| StageError::NoSuch {
            what: format!("program {name}"),
        })
    }

    /// What one program has said: `aggregator`, `agent-0`, `dirty-helper-0`.
    ///
    /// # Errors
    ///
    /// Says that there is none of that name, or that its log cannot be read.
    pub fn log(&self, name: &str) -> Result<String, StageError> {
        self.daemon(name)?.log()
    }

    /// Ends one program well.
    ///
    /// # Errors
    ///
    /// Says that there is none of that name, or that it did not end in time.
    pub fn stop(&self, name: &str) -> Result<(), StageError> {
        self.daemon(name)?.stop(STOP_LIMIT)
    }

    /// What all programs have said.
    pub fn logs(&self) -> String {
        self.daemons
            .iter()
            .map(|one| format!("{}: {}\n", one.name(), one.log().unwrap_or_default()))
            .collect()
    }
}

/// Reads how many measurements stand behind an input, as in `9.0 MiB/s (last of 3)`.
fn count(input: &Value) -> u32 {
    let count = input["value"].as_str().and_then(|text| {
        let (_, count) = text.split_once("(last of ")?;
        count.strip_suffix(')')?.parse().ok()
    });
    count.unwrap_or(0)
}

fn inputs(answer: &Value) -> impl Iterator<Item = &Value> {
    let inputs = answer.pointer("/envelope/inputs");
    inputs.and_then(Value::as_array).into_iter().flatten()
}

/// Reads the window and the last rate of an input such as `vm.dirty.rate{1000 ms}`.
fn point(input: &Value) -> Option<(u64, String)> {
    let name = input["name"].as_str()?.strip_prefix("vm.dirty.rate{")?;
    let (rate, _) = input["value"].as_str()?.split_once(" (last of ")?;
    let window_ms = name.strip_suffix(" ms}")?.parse().ok()?;
    Some((window_ms, rate.to_owned()))
}

/// Whether an answer rests on two windows and on memory looked through less than `asked_s` ago.
fn is_whole(answer: &Value, asked_s: f64) -> bool {
    let is_young = |input: &&Value| {
        let age_ms = input["age_ms"].as_f64();
        age_ms.is_some_and(|age| age < asked_s * 1e3)
    };
    let windows = inputs(answer).filter(|input| point(input).is_some());
    let sure = windows.filter(|input| is_young(input) && count(input) >= DIRTY_COUNT);
    sure.count() >= 2
        && inputs(answer)
            .filter(is_young)
            .any(|input| input["name"] == "vm.mem.touched")
}
