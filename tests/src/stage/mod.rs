//! Raises compute nodes on one machine, and takes them away again whatever happened.
//!
//! A stage is a hub and some nodes, each a set of namespaces ([`Place`]); every [`Node`] runs
//! its own libvirtd, and a bridge in the hub carries the migration network between them over
//! links of a known speed. Nothing of it can be reached from, or reaches, the machine's own
//! network.
//!
//! Not here: the programs under test. They are started as processes, by path, with
//! [`Stage::spawn_in_node`] and [`Stage::spawn_in_hub`].

mod available;
mod clock;
mod config;
mod daemon;
mod error;
mod migrate;
mod network;
mod node;
mod place;
mod process;
mod record;
mod story;
mod sweep;

use std::ffi::OsStr;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use uuid::Uuid;

pub use available::{Missing, available, available_in};
pub use clock::{Deadline, pause, wait_until};
pub use config::{DEFAULT_BASE, StageConfig};
pub use daemon::Daemon;
pub use error::StageError;
pub use migrate::{JobInfo, MigrateOptions, Migration};
pub use network::NODE_LINK;
pub use node::Node;
pub use place::Place;
pub use process::{Outcome, Process, outcome, run};
pub use story::{Turn, turn, turn_on_newer};

use record::uuid_text::UuidText;
use record::{NodeRecord, PlaceRecord, Record};

use crate::guest::Guest;

/// The name of the place that carries the bridge, and where an aggregator runs.
pub const HUB: &str = "hub";
/// The hub's address on the migration network.
pub const HUB_ADDRESS: &str = "10.77.0.1";
/// A raised stage; it falls when this value is dropped, unless it was left standing.
#[derive(Debug)]
pub struct Stage {
    id: String,
    directory: PathBuf,
    hub: Option<Place>,
    nodes: Vec<Node>,
    falls_on_drop: bool,
}

/// What is known of a stage without touching it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// The unique part of its names.
    pub id: String,
    /// Its own directory.
    pub directory: PathBuf,
    /// Its nodes, in order.
    pub nodes: Vec<String>,
    /// The process it falls with; none if it was left standing on purpose.
    pub owner: Option<Process>,
    /// Whether the process it falls with is gone, or nobody can tell which it was.
    pub is_stale: bool,
    /// Whether its state file cannot be read; then nodes and owner are not known.
    pub is_damaged: bool,
}

impl Stage {
    /// Raises a stage, after taking away those in the same base whose owner is gone.
    ///
    /// # Errors
    ///
    /// Says what is missing or what failed; what was raised until then is taken away.
    pub fn raise(config: &StageConfig) -> Result<Self, StageError> {
        available().map_err(StageError::Missing)?;
        config::check(config)?;
        take_away(&config.base, Standing::is_stale)?;
        let record = plan(config);
        let directory = open_directory(&config.base, &record)?;
        let mut stage = Self {
            id: record.id.clone(),
            directory,
            hub: None,
            nodes: Vec::new(),
            falls_on_drop: true,
        };
        stage.build(&record, config.programs.as_deref())?;
        Ok(stage)
    }

    /// Uses a stage that another process has raised; it does not fall with this value.
    ///
    /// # Errors
    ///
    /// Says that there is none in the directory, or that it never stood.
    pub fn attach(directory: &Path) -> Result<Self, StageError> {
        let no_such = |what: String| StageError::NoSuch { what };
        let record = Record::read(directory)?
            .ok_or_else(|| no_such(format!("stage in {}", directory.display())))?;
        let place = |record: &PlaceRecord| {
            let holder = record.holder.filter(Process::is_alive);
            holder
                .map(|holder| Place::of(record, &directory.join(&record.name), holder))
                .ok_or_else(|| no_such(format!("place {}: its holder is gone", record.name)))
        };
        let nodes: Result<Vec<Node>, StageError> = record
            .nodes
            .iter()
            .map(|node| Ok(Node::new(place(&node.place)?, node.uuid.0, directory)))
            .collect();
        Ok(Self {
            hub: Some(place(&record.hub)?),
            nodes: nodes?,
            id: record.id,
            directory: directory.to_owned(),
            falls_on_drop: false,
        })
    }

    fn build(&mut self, record: &Record, programs: Option<&Path>) -> Result<(), StageError> {
        let hosts = hosts(record);
        let hub = self.place(&record.hub, &hosts, None)?;
        network::raise_hub(&hub)?;
        for node in &record.nodes {
            let place = self.place(&node.place, &hosts, programs)?;
            network::connect(record, &hub, &place)?;
            let node = Node::new(place, node.uuid.0, &self.directory);
            node.start_libvirtd()?;
            self.nodes.push(node);
        }
        self.hub = Some(hub);
        self.nodes.iter().try_for_each(Node::await_libvirtd)
    }

    fn place(
        &self,
        record: &PlaceRecord,
        hosts: &str,
        programs: Option<&Path>,
    ) -> Result<Place, StageError> {
        let directory = self.directory.join(&record.name);
        let place = Place::raise(record, &directory, hosts, programs)?;
        Record::change(&self.directory, |whole| {
            let nodes = whole.nodes.iter_mut().map(|node| &mut node.place);
            for candidate in nodes.chain(std::iter::once(&mut whole.hub)) {
                if candidate.name == record.name {
                    candidate.holder = Some(place.holder());
                }
            }
        })?;
        Ok(place)
    }

    /// The unique part of this stage's names.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The stage's own directory, which goes when it falls.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The nodes, in order.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// A node by its place in the row.
    ///
    /// # Errors
    ///
    /// Says that the row is shorter.
    pub fn node(&self, index: usize) -> Result<&Node, StageError> {
        self.nodes.get(index).ok_or_else(|| StageError::NoSuch {
            what: format!("node number {index}"),
        })
    }

    /// A node by its host name.
    ///
    /// # Errors
    ///
    /// Says that there is none of that name.
    pub fn node_named(&self, name: &str) -> Result<&Node, StageError> {
        let mut nodes = self.nodes.iter();
        nodes
            .find(|node| node.name() == name)
            .ok_or_else(|| StageError::NoSuch {
                what: format!("node {name}"),
            })
    }

    /// The place that carries the bridge.
    ///
    /// # Errors
    ///
    /// Says that the stage has not got that far.
    pub fn hub(&self) -> Result<&Place, StageError> {
        self.hub.as_ref().ok_or_else(|| StageError::NoSuch {
            what: "hub".to_owned(),
        })
    }

    /// A program that will run in the hub.
    ///
    /// # Errors
    ///
    /// Says that the stage has no hub yet.
    pub fn hub_command(&self, program: impl AsRef<OsStr>) -> Result<Command, StageError> {
        Ok(self.hub()?.command(program))
    }

    /// Starts a program on a node; `arrange` adds its arguments and environment.
    ///
    /// # Errors
    ///
    /// Says that it could not be started.
    pub fn spawn_in_node(
        &self,
        index: usize,
        name: &str,
        program: impl AsRef<OsStr>,
        arrange: impl FnOnce(&mut Command),
    ) -> Result<Daemon, StageError> {
        let mut command = self.node(index)?.command(program);
        arrange(&mut command);
        Daemon::spawn(&self.directory, name, &mut command)
    }

    /// Starts a program in the hub; `arrange` adds its arguments and environment.
    ///
    /// # Errors
    ///
    /// Says that it could not be started.
    pub fn spawn_in_hub(
        &self,
        name: &str,
        program: impl AsRef<OsStr>,
        arrange: impl FnOnce(&mut Command),
    ) -> Result<Daemon, StageError> {
        let mut command = self.hub_command(program)?;
        arrange(&mut command);
        Daemon::spawn(&self.directory, name, &mut command)
    }

    /// Sets the speed of a node's link anew, in both directions.
    ///
    /// # Errors
    ///
    /// Passes on what `tc` complains about.
    pub fn set_link_mbit(&self, index: usize, mbit: u32) -> Result<(), StageError> {
        network::shape(self.hub()?, self.node(index)?.place(), mbit)
    }

    /// Moves a guest from one node to another while it runs.
    ///
    /// # Errors
    ///
    /// Passes on what libvirt complains about; a move that hit its limit is no error.
    pub fn migrate_live(
        &self,
        guest: &Guest,
        from: usize,
        to: usize,
        options: &MigrateOptions,
    ) -> Result<Migration, StageError> {
        self.migrate_named(&guest.name, self.node(from)?, self.node(to)?, options)
    }

    /// Moves a guest that is known by its name alone.
    ///
    /// # Errors
    ///
    /// As [`Stage::migrate_live`].
    pub fn migrate_named(
        &self,
        guest: &str,
        from: &Node,
        to: &Node,
        options: &MigrateOptions,
    ) -> Result<Migration, StageError> {
        migrate::migrate_live(guest, from, to, options)
    }

    /// Leaves the stage standing after this process; `plimsoll-stage down` takes it away.
    ///
    /// # Errors
    ///
    /// Says that the record could not be changed; the stage falls then.
    pub fn leave_standing(mut self) -> Result<PathBuf, StageError> {
        Record::change(&self.directory, |record| record.owner = None)?;
        self.falls_on_drop = false;
        Ok(self.directory.clone())
    }

    /// Takes the stage away, as dropping it does, but says what failed.
    ///
    /// # Errors
    ///
    /// Says which part could not be taken away.
    pub fn fall(mut self) -> Result<(), StageError> {
        self.falls_on_drop = false;
        self.take_away()
    }

    fn take_away(&self) -> Result<(), StageError> {
        match Record::read(&self.directory)? {
            Some(record) => sweep::sweep(&record, &self.directory),
            None => Ok(()),
        }
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if !self.falls_on_drop {
            return;
        }
        if let Err(error) = self.take_away() {
            let directory = self.directory.display();
            // Nobody is left to be told if this cannot be written either.
            drop(writeln!(
                std::io::stderr(),
                "stage {directory} did not fall: {error}"
            ));
        }
    }
}

impl Standing {
    fn is_stale(&self) -> bool {
        self.is_stale
    }

    fn of(record: Record, directory: PathBuf) -> Self {
        let nodes = record.nodes.iter().map(|node| node.place.name.clone());
        Self {
            is_stale: record.is_stale(),
            is_damaged: false,
            nodes: nodes.collect(),
            id: record.id,
            owner: record.owner,
            directory,
        }
    }

    /// A stage of which only the directory is known, which is named after it.
    fn damaged(directory: PathBuf) -> Self {
        let name = directory.file_name().unwrap_or_default();
        Self {
            id: name.to_string_lossy().into_owned(),
            nodes: Vec::new(),
            owner: None,
            is_stale: true,
            is_damaged: true,
            directory,
        }
    }
}

/// The stages in a base directory, raised by whomever.
///
/// # Errors
///
/// Says which record cannot be read.
pub fn standing(base: &Path) -> Result<Vec<Standing>, StageError> {
    let mut found = Vec::new();
    for directory in record::directories(base)? {
        match Record::read(&directory) {
            Ok(Some(record)) => found.push(Standing::of(record, directory)),
            Ok(None) if record::is_stray(&directory) => found.push(Standing::damaged(directory)),
            // It was taken away a moment ago, or has its name now.
            Ok(None) => {}
            Err(StageError::Record { .. }) => found.push(Standing::damaged(directory)),
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

/// Takes away the stages in a base directory that `is_wanted` picks, and names them.
///
/// # Errors
///
/// Says which part of which stage could not be taken away.
pub fn take_away(
    base: &Path,
    is_wanted: impl Fn(&Standing) -> bool,
) -> Result<Vec<Standing>, StageError> {
    let mut gone = Vec::new();
    for candidate in standing(base)? {
        if is_wanted(&candidate) {
            if candidate.is_damaged {
                sweep::sweep_by_name(&candidate.id, &candidate.directory)?;
            } else if let Some(record) = Record::read(&candidate.directory)? {
                sweep::sweep(&record, &candidate.directory)?;
            }
            gone.push(candidate);
        }
    }
    Ok(gone)
}

/// Names everything the stage will make.
fn plan(config: &StageConfig) -> Record {
    let id = format!("{:06x}", fastrand::u32(..1 << 24));
    let place = |name: String, address: String| PlaceRecord {
        network_namespace: format!("{}{name}", record::namespace_prefix(&id)),
        name,
        address,
        holder: None,
    };
    let nodes = ('a'..)
        .zip(10..10 + config.nodes)
        .map(|(letter, last)| NodeRecord {
            place: place(format!("node-{letter}"), format!("10.77.0.{last}")),
            uuid: UuidText(Uuid::new_v4()),
            libvirtd: None,
        })
        .collect();
    Record {
        owner: Process::own(),
        link_mbit: config.link_mbit,
        hub: place(HUB.to_owned(), HUB_ADDRESS.to_owned()),
        nodes,
        daemons: Vec::new(),
        id,
    }
}

/// Makes the stage's directory, which appears under its name with the record already in it.
fn open_directory(base: &Path, record: &Record) -> Result<PathBuf, StageError> {
    let fresh = base.join(record::fresh_name(&record.id, record.owner));
    let directory = base.join(&record.id);
    let what = format!("make {}", directory.display());
    std::fs::create_dir_all(&fresh).map_err(StageError::io(what.clone()))?;
    record.write(&fresh)?;
    std::fs::rename(&fresh, &directory).map_err(StageError::io(what.clone()))?;
    directory.canonicalize().map_err(StageError::io(what))
}

fn hosts(record: &Record) -> String {
    let mut hosts = "127.0.0.1 localhost\n::1 localhost\n".to_owned();
    let nodes = record.nodes.iter().map(|node| &node.place);
    for place in std::iter::once(&record.hub).chain(nodes) {
        hosts.push_str(&format!("{} {}\n", place.address, place.name));
    }
    hosts
}
