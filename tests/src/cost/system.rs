//! What is measured: how each is told to sample all it can at the same pace, and how many values it has.
//!
//! Not here: what it costs (see `run`).

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use clap::ValueEnum;

use crate::stage::{Daemon, HUB_ADDRESS, Stage, outcome};

/// Where the two exporters listen, in the node's own network.
const EXPORTER_PORTS: [u16; 2] = [9_177, 9_100];
/// What a scrape may take, as Prometheus has it unless told otherwise.
const SCRAPE_LIMIT: Duration = Duration::from_secs(10);
const END_LIMIT: Duration = Duration::from_secs(40);

/// One of those that are measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum System {
    /// The agent, which sends to an aggregator.
    Plimsoll,
    /// prometheus-libvirt-exporter and prometheus-node-exporter, scraped.
    Exporters,
    /// collectd with its plugin virt and those for the host.
    Collectd,
    /// ceilometer-polling in the namespace `compute`.
    Ceilometer,
}

impl System {
    /// All of them.
    pub const ALL: [Self; 4] = [
        Self::Plimsoll,
        Self::Exporters,
        Self::Collectd,
        Self::Ceilometer,
    ];

    /// What the table calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Plimsoll => "Plimsoll",
            Self::Exporters => "exporters",
            Self::Collectd => "collectd",
            Self::Ceilometer => "Ceilometer",
        }
    }

    /// Says which program it lacks here, and the Debian package that has it.
    pub fn missing(self) -> Option<String> {
        let needed: &[(&str, &str)] = match self {
            Self::Plimsoll => &[],
            Self::Exporters => &[
                (
                    "/usr/bin/prometheus-libvirt-exporter",
                    "prometheus-libvirt-exporter",
                ),
                (
                    "/usr/bin/prometheus-node-exporter",
                    "prometheus-node-exporter",
                ),
            ],
            Self::Collectd => &[
                ("/usr/sbin/collectd", "collectd-core"),
                ("/usr/lib/collectd/virt.so", "collectd-core"),
            ],
            Self::Ceilometer => &[("/usr/bin/ceilometer-polling", "ceilometer-agent-compute")],
        };
        let absent = needed.iter().find(|(path, _)| !Path::new(path).exists());
        absent.map(|(path, package)| format!("{path} is not there (Debian package {package})"))
    }
}

/// Where a system is to run.
#[derive(Debug)]
pub(super) struct Site<'a> {
    pub(super) stage: &'a Stage,
    /// Where the agent, the aggregator and the command are.
    pub(super) programs: &'a Path,
    /// Its own files.
    pub(super) directory: PathBuf,
    /// The socket it is to ask.
    pub(super) socket: PathBuf,
    pub(super) interval: Duration,
}

/// Values of the guests and of the host.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Values {
    pub(super) guests: u64,
    pub(super) host: u64,
}

/// A system that runs; [`Running::stop`] ends it.
#[derive(Debug)]
pub(super) struct Running<'a> {
    system: System,
    site: &'a Site<'a>,
    /// Those that are measured come first.
    daemons: Vec<Daemon>,
    measured: usize,
    /// How many were started, each with a log of its own.
    started: usize,
}

impl<'a> Running<'a> {
    /// Starts it.
    pub(super) fn start(system: System, site: &'a Site<'a>) -> anyhow::Result<Self> {
        std::fs::create_dir_all(&site.directory)?;
        let mut running = Self {
            system,
            site,
            daemons: Vec::new(),
            measured: 1,
            started: 0,
        };
        match system {
            System::Plimsoll => running.start_agent()?,
            System::Exporters => running.start_exporters()?,
            System::Collectd => running.start_collectd()?,
            System::Ceilometer => running.start_ceilometer(false)?,
        }
        Ok(running)
    }

    fn spawn(&mut self, program: impl AsRef<std::ffi::OsStr>, args: &[&str]) -> anyhow::Result<()> {
        let name = format!("cost-{}-{}", self.system.name(), self.started);
        self.started += 1;
        let daemon = self
            .site
            .stage
            .spawn_in_node(0, &name, program, |command| {
                command.args(args);
            })?;
        self.daemons.push(daemon);
        Ok(())
    }

    fn write(&self, name: &str, text: &str) -> anyhow::Result<String> {
        let path = self.site.directory.join(name);
        std::fs::write(&path, text).with_context(|| format!("cannot write {name}"))?;
        Ok(path.display().to_string())
    }

    fn uri(&self) -> String {
        format!("qemu+unix:///system?socket={}", self.site.socket.display())
    }

    fn start_agent(&mut self) -> anyhow::Result<()> {
        let text = format!(
            "aggregator = \"http://{HUB_ADDRESS}:7077\"\nstate_dir = {:?}\ninterval = \"{}ms\"\n\
             [node]\nid = \"{}\"\n[libvirt]\nsocket = {:?}\n",
            self.site.directory.join("state"),
            self.site.interval.as_millis(),
            self.site.stage.node(0)?.uuid(),
            self.site.socket
        );
        let config = self.write("agent.toml", &text)?;
        let program = self.site.programs.join("plimsoll-agent");
        self.spawn(program, &["run", "--config", &config])
    }

    fn start_exporters(&mut self) -> anyhow::Result<()> {
        let [libvirt, node] =
            EXPORTER_PORTS.map(|port| format!("--web.listen-address=127.0.0.1:{port}"));
        let uri = format!("--libvirt.uri={}", self.uri());
        self.spawn("prometheus-libvirt-exporter", &[&libvirt, &uri])?;
        self.spawn("prometheus-node-exporter", &[&node])?;
        self.measured = 2;
        Ok(())
    }

    fn start_collectd(&mut self) -> anyhow::Result<()> {
        let directory = self.site.directory.display();
        let text = format!(
            "Hostname \"host\"\nFQDNLookup false\nBaseDir \"{directory}\"\nInterval {}\n\
             PIDFile \"{directory}/pid\"\nTypesDB \"/usr/share/collectd/types.db\"\n\
             LoadPlugin unixsock\nLoadPlugin virt\nLoadPlugin cpu\nLoadPlugin memory\n\
             LoadPlugin interface\nLoadPlugin disk\nLoadPlugin load\n\
             <Plugin unixsock>\nSocketFile \"{directory}/socket\"\n</Plugin>\n\
             <Plugin virt>\nConnection \"{}\"\nHostnameFormat uuid\nExtraStats \"cpu_util disk disk_err \
             domain_state job_stats_background pcpu perf vcpu vcpupin\"\n</Plugin>\n",
            self.site.interval.as_secs_f64(),
            self.uri()
        );
        let config = self.write("collectd.conf", &text)?;
        self.spawn("/usr/sbin/collectd", &["-f", "-C", &config])
    }

    /// Starts it with something that answers "no such flavour" in place of Nova.
    fn start_ceilometer(&mut self, is_talkative: bool) -> anyhow::Result<()> {
        let interval_s = self.site.interval.as_secs().max(1);
        let text = format!(
            "---\nsources:\n    - name: all\n      interval: {interval_s}\n      meters: [\"*\"]\n"
        );
        let polling = self.write("polling.yaml", &text)?;
        let text = format!(
            "[DEFAULT]\ntransport_url = fake://\ndebug = {is_talkative}\nlibvirt_uri = {}\n\
             [polling]\ncfg_file = {polling}\n[compute]\ninstance_discovery_method = libvirt_metadata\n\
             [service_credentials]\nauth_type = none\nendpoint = http://127.0.0.1:8774\n",
            self.uri()
        );
        let config = self.write("ceilometer.conf", &text)?;
        let words = ["--config-file", &config, "--polling-namespaces", "compute"];
        self.spawn("ceilometer-polling", &words)?;
        let empty = self.site.directory.join("nothing");
        std::fs::create_dir_all(&empty)?;
        let empty = empty.display().to_string();
        let stub = [
            "-m",
            "http.server",
            "8774",
            "--bind",
            "127.0.0.1",
            "--directory",
            &empty,
        ];
        self.spawn("python3", &stub)
    }

    /// The processes whose cost it is.
    pub(super) fn processes(&self) -> Vec<u32> {
        let measured = self.daemons.iter().take(self.measured);
        measured.map(|daemon| daemon.process().pid).collect()
    }

    /// Asks those that only answer when asked; the others have a pace of their own. What is not answered in
    /// time is left.
    pub(super) fn scrape(&self) -> anyhow::Result<Vec<String>> {
        if self.system != System::Exporters {
            return Ok(Vec::new());
        }
        let node = self.site.stage.node(0)?;
        let mut pages = Vec::new();
        for port in EXPORTER_PORTS {
            let words = format!(
                "exec 3<>/dev/tcp/127.0.0.1/{port} && printf 'GET /metrics HTTP/1.0\\r\\n\\r\\n' >&3 && cat <&3"
            );
            let mut command = node.command("bash");
            command.args(["-c", &words]);
            let page = outcome(&mut command, SCRAPE_LIMIT);
            pages.push(page.map(|page| page.stdout).unwrap_or_default());
        }
        Ok(pages)
    }

    /// Counts the values it has now.
    pub(super) fn values(&mut self) -> anyhow::Result<Values> {
        match self.system {
            System::Plimsoll => self.told_to_the_aggregator(),
            System::Exporters => Ok(on_pages(&self.scrape()?)),
            System::Collectd => in_collectd(&self.site.directory.join("socket")),
            System::Ceilometer => self.in_the_log(),
        }
    }

    fn told_to_the_aggregator(&self) -> anyhow::Result<Values> {
        let mut command = self
            .site
            .stage
            .hub_command(self.site.programs.join("plimsoll"))?;
        command.args([
            "--json",
            "--server",
            &format!("http://{HUB_ADDRESS}:7077"),
            "series",
        ]);
        let told = crate::stage::run(&mut command, END_LIMIT)?;
        let told: serde_json::Value = serde_json::from_str(&told)?;
        let rows = told.as_array().context("plimsoll lists no series")?;
        let of_guests = rows.iter().filter(|row| {
            let metric = row["metric"].as_str();
            metric.is_some_and(|metric| metric.starts_with("vm."))
        });
        let guests = u64::try_from(of_guests.count())?;
        let host = u64::try_from(rows.len())?.saturating_sub(guests);
        Ok(Values { guests, host })
    }

    /// Starts it once more, talkative, for it tells its values to nobody else here.
    fn in_the_log(&mut self) -> anyhow::Result<Values> {
        self.stop()?;
        self.start_ceilometer(true)?;
        let daemon = self.daemons.first().context("it was not started")?.clone();
        let limit = END_LIMIT + 2 * self.site.interval;
        // The second poll begins with the meter that the first began with.
        let found = crate::stage::wait_until("two polls of Ceilometer", limit, || {
            let log = daemon.log()?;
            let polls = log.matches("Polling pollster cpu in").count();
            Ok((polls >= 2).then_some(log))
        });
        let log = found.or_else(|_| daemon.log())?;
        Ok(Values {
            guests: u64::try_from(in_ceilometer(&log).len())?,
            host: 0,
        })
    }

    /// Ends it.
    pub(super) fn stop(&mut self) -> anyhow::Result<()> {
        for daemon in self.daemons.drain(..) {
            if daemon.stop(END_LIMIT).is_err() {
                daemon.kill(END_LIMIT)?;
            }
        }
        Ok(())
    }
}

/// Counts what exporters told, but for what they told of themselves.
fn on_pages(pages: &[String]) -> Values {
    let mut values = Values::default();
    let own = [
        "go_",
        "process_",
        "promhttp_",
        "node_scrape_",
        "node_exporter_",
    ];
    for line in pages.iter().flat_map(|page| page.lines()) {
        if line.starts_with("libvirt_domain_") {
            values.guests += 1;
        } else if (line.starts_with("node_") || line.starts_with("libvirt_"))
            && !own.iter().any(|own| line.starts_with(own))
        {
            values.host += 1;
        }
    }
    values
}

/// Finds the meters of which Ceilometer told a number: guest and name.
fn in_ceilometer(log: &str) -> BTreeSet<&str> {
    let meter = |line| -> Option<&str> {
        let (before, volume) = str::split_once(line, " volume: ")?;
        let is_number = volume.starts_with(|digit: char| digit.is_ascii_digit());
        is_number.then(|| before.rsplit(' ').next())?
    };
    log.lines().filter_map(meter).collect()
}

/// Asks collectd what it has, and how many values each of it holds.
fn in_collectd(socket: &Path) -> anyhow::Result<Values> {
    let stream = UnixStream::connect(socket).context("collectd does not listen")?;
    stream.set_read_timeout(Some(END_LIMIT))?;
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let mut ask = |question: &str| -> anyhow::Result<Vec<String>> {
        writeln!(&stream, "{question}")?;
        let head = lines.next().context("collectd says nothing")??;
        let count: usize = head.split(' ').next().unwrap_or_default().parse()?;
        let rest: Result<Vec<String>, _> = lines.by_ref().take(count).collect();
        Ok(rest?)
    };
    let mut values = Values::default();
    for line in ask("LISTVAL")? {
        let Some((_, id)) = line.split_once(' ') else {
            bail!("collectd lists {line:?}");
        };
        let count = u64::try_from(ask(&format!("GETVAL \"{id}\""))?.len())?;
        if id.contains("/virt") {
            values.guests += count;
        } else {
            values.host += count;
        }
    }
    Ok(values)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ceilometer_logs_is_counted_once_for_each_guest_and_meter() {
        let log = "16:39:50.427 INFO ceilometer.polling.manager [-] Polling pollster cpu in the context of all\n\
            16:39:50.650 DEBUG ceilometer.compute.pollsters [-] fbed41c3/cpu volume: 1230000000 _stats /usr\n\
            16:39:50.651 DEBUG ceilometer.compute.pollsters [-] 5edac06a/cpu volume: 9 _stats /usr\n\
            16:39:50.652 DEBUG ceilometer.compute.pollsters [-] 5edac06a/perf.instructions volume: Unavailable _\n\
            16:39:54.651 DEBUG ceilometer.compute.pollsters [-] 5edac06a/cpu volume: 12 _stats /usr\n";
        let meters: Vec<&str> = in_ceilometer(log).into_iter().collect();
        assert_eq!(meters, ["5edac06a/cpu", "fbed41c3/cpu"]);
    }

    #[test]
    fn exporters_are_not_credited_with_what_they_tell_of_themselves() {
        let page = "# HELP x y\ngo_threads 1\nlibvirt_domain_state_code{domain=\"a\"} 1\nlibvirt_up 1\n\
                    node_scrape_collector_success{} 1\nnode_load1 0.5\n";
        let values = on_pages(&[page.to_owned()]);
        assert_eq!(values, Values { guests: 1, host: 2 });
    }
}
