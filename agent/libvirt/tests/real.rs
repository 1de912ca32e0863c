//! The real daemon with real guests under TCG, in namespaces of its own.

use anyhow::{Context, bail, ensure};
use plimsoll_libvirt::{
    CallError, Connection, DirtyRateMode, DomainEventKind, DomainRef, EventId, JobStatsFlags,
    ListFlags, MonitorFlags, OpenOptions, StatsFlags, StatsGroups, TypedValue, XmlFlags, job,
    lifecycle, state,
};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const DEADLINE: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(50);
const POLLS_MAX: u32 = 600;

const QEMU_CONF: &str = r#"user = "root"
group = "root"
dynamic_ownership = 0
security_driver = "none"
cgroup_controllers = [ ]
namespaces = [ ]
stdio_handler = "file"
"#;
const LIBVIRTD_CONF: &str = r#"auth_unix_ro = "none"
auth_unix_rw = "none"
host_uuid = "5d1f9b0e-6c7c-4d0e-9a53-0d7f0a4f6a11"
"#;
const SCRIPT: &str = r#"set -e
mount --make-rprivate /
hostname ear
mkdir -p "$1/etc" "$1/run/libvirt" "$1/lib" "$1/cache" "$1/log"
mount --bind "$1/etc" /etc/libvirt
mount --bind "$1/lib" /var/lib/libvirt
mount --bind "$1/cache" /var/cache/libvirt
mount --bind "$1/log" /var/log/libvirt
mount --bind "$1/run" /run
exec libvirtd -f /etc/libvirt/libvirtd.conf
"#;

/// A libvirtd of our own; dropping it ends the daemon and its guests.
struct Node {
    place: tempfile::TempDir,
    daemon: Child,
}

fn missing() -> Option<String> {
    for path in [
        "/usr/sbin/libvirtd",
        "/usr/bin/qemu-system-x86_64",
        "/usr/bin/virsh",
    ] {
        if !Path::new(path).exists() {
            return Some(format!("{path} is not installed"));
        }
    }
    let probe = Command::new("unshare")
        .args(["-m", "-n", "-u", "true"])
        .output();
    match probe {
        Ok(output) if output.status.success() => None,
        _ => Some("namespaces need root".to_owned()),
    }
}

/// Starts a node, or says by name that the story is left out.
async fn node(story: &str) -> anyhow::Result<Option<Node>> {
    let Some(reason) = missing() else {
        return Ok(Some(Node::start().await?));
    };
    if std::env::var_os("PLIMSOLL_TESTS_COMPLETE").is_some_and(|value| value == "1") {
        bail!("{story} must not be left out, but {reason}");
    }
    writeln!(
        std::io::stderr(),
        "left out: plimsoll-libvirt real::{story}: {reason}"
    )?;
    Ok(None)
}

impl Node {
    async fn start() -> anyhow::Result<Node> {
        let place = tempfile::Builder::new().prefix("ear").tempdir()?;
        fs::create_dir(place.path().join("etc"))?;
        fs::write(place.path().join("etc/libvirtd.conf"), LIBVIRTD_CONF)?;
        fs::write(place.path().join("etc/qemu.conf"), QEMU_CONF)?;
        let log = fs::File::create(place.path().join("daemon.log"))?;
        let daemon = Command::new("unshare")
            .args(["-m", "-n", "-u", "sh", "-c", SCRIPT, "sh"])
            .arg(place.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        let node = Node { place, daemon };
        for _ in 0..POLLS_MAX {
            if Connection::open(&node.socket(true), OpenOptions::default())
                .await
                .is_ok()
            {
                return Ok(node);
            }
            tokio::time::sleep(POLL).await;
        }
        bail!(
            "libvirtd did not start: {}",
            fs::read_to_string(node.place.path().join("daemon.log"))?
        )
    }

    fn socket(&self, read_only: bool) -> PathBuf {
        let name = if read_only {
            "libvirt-sock-ro"
        } else {
            "libvirt-sock"
        };
        self.place.path().join("run/libvirt").join(name)
    }

    async fn connect(&self, read_only: bool) -> anyhow::Result<Connection> {
        let options = OpenOptions {
            read_only,
            ..OpenOptions::default()
        };
        Ok(Connection::open(&self.socket(read_only), options).await?)
    }

    fn virsh(&self, args: &[&str]) -> anyhow::Result<String> {
        let uri = format!(
            "qemu+unix:///system?socket={}",
            self.socket(false).display()
        );
        let output = Command::new("virsh")
            .args(["-q", "-c", &uri])
            .args(args)
            .output()?;
        ensure!(
            output.status.success(),
            "virsh {args:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(String::from_utf8(output.stdout)?)
    }

    fn create(&self, name: &str) -> anyhow::Result<()> {
        let xml = format!(
            "<domain type='qemu'><name>{name}</name><memory unit='MiB'>64</memory><vcpu>1</vcpu>\
             <os><type arch='x86_64' machine='pc'>hvm</type></os><cpu mode='custom'>\
             <model>qemu64</model></cpu><devices><emulator>/usr/bin/qemu-system-x86_64</emulator>\
             <memballoon model='virtio'/></devices></domain>"
        );
        let path = self.place.path().join(format!("{name}.xml"));
        fs::write(&path, xml)?;
        self.virsh(&["create", &path.to_string_lossy()]).map(|_| ())
    }

    fn qemu_pid(&self, name: &str) -> anyhow::Result<String> {
        let path = self
            .place
            .path()
            .join(format!("run/libvirt/qemu/{name}.pid"));
        Ok(fs::read_to_string(path)?.trim().to_owned())
    }

    fn signal(&self, name: &str, signal: &str) -> anyhow::Result<()> {
        let status = Command::new("kill")
            .args([signal, &self.qemu_pid(name)?])
            .status()?;
        ensure!(status.success(), "kill {signal} of {name}");
        Ok(())
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let guests = fs::read_dir(self.place.path().join("run/libvirt/qemu"));
        for entry in guests.into_iter().flatten().flatten() {
            let path = entry.path();
            if path.extension().is_some_and(|extension| extension == "pid")
                && let Ok(pid) = fs::read_to_string(&path)
            {
                drop(Command::new("kill").args(["-KILL", pid.trim()]).status());
            }
        }
        drop(self.daemon.kill());
        drop(self.daemon.wait());
    }
}

async fn find(connection: &Connection, name: &str) -> anyhow::Result<DomainRef> {
    let domains = connection
        .list_all_domains(ListFlags::ACTIVE, DEADLINE)
        .await?;
    domains
        .into_iter()
        .find(|domain| domain.name == name)
        .with_context(|| format!("no {name}"))
}

#[tokio::test]
async fn what_the_ear_hears_is_what_virsh_says() -> anyhow::Result<()> {
    let Some(node) = node("what_the_ear_hears_is_what_virsh_says").await? else {
        return Ok(());
    };
    let connection = node.connect(true).await?;
    let kinds = [
        EventId::Lifecycle,
        EventId::MigrationIteration,
        EventId::JobCompleted,
    ];
    let mut events = connection.subscribe(&kinds, DEADLINE).await?;
    node.create("one")?;
    let domain = find(&connection, "one").await?;
    assert_eq!(
        connection
            .domain_lookup_by_uuid(domain.uuid, DEADLINE)
            .await?,
        domain
    );
    assert_eq!(
        connection.domain_state(&domain, DEADLINE).await?.state,
        state::RUNNING
    );
    compare_host(&connection, &node).await?;

    compare_domain(&connection, &node, &domain).await?;

    node.virsh(&["destroy", "one"])?;
    let mut seen = Vec::new();
    while seen.last() != Some(&lifecycle::STOPPED) {
        let event = tokio::time::timeout(DEADLINE, events.recv())
            .await?
            .context("no event")?;
        assert_eq!(event.domain.uuid, domain.uuid);
        if let DomainEventKind::Lifecycle { event, .. } = event.kind {
            seen.push(event);
        }
    }
    assert!(seen.contains(&lifecycle::STARTED), "{seen:?}");
    let gone = connection.domain_state(&domain, DEADLINE).await;
    assert!(gone.is_err_and(|error| error.is_no_domain()));
    Ok(connection.close(DEADLINE).await?)
}

async fn compare_domain(
    connection: &Connection,
    node: &Node,
    domain: &DomainRef,
) -> anyhow::Result<()> {
    let groups = StatsGroups::STATE | StatsGroups::BALLOON | StatsGroups::VCPU;
    let heard = connection
        .domain_stats(domain, groups, StatsFlags::NONE, DEADLINE)
        .await?;
    let said = node.virsh(&["domstats", "one", "--state", "--balloon", "--vcpu"])?;
    let mut compared = 0;
    for name in [
        "state.state",
        "state.reason",
        "balloon.current",
        "balloon.maximum",
        "vcpu.current",
    ] {
        let line = said
            .lines()
            .find_map(|line| line.trim().strip_prefix(name)?.strip_prefix('='));
        let number = heard
            .i64(name)
            .with_context(|| format!("no {name} in {heard:?}"))?;
        assert_eq!(line, Some(number.to_string().as_str()), "{name}");
        compared += 1;
    }
    assert_eq!(
        (compared, heard.u64("balloon.maximum")),
        (5, Some(64 * 1024))
    );
    let xml = connection
        .domain_xml(domain, XmlFlags::NONE, DEADLINE)
        .await?;
    assert!(xml.contains("<name>one</name>"), "{xml}");
    let stats = connection
        .job_stats(domain, JobStatsFlags::NONE, DEADLINE)
        .await?;
    assert_eq!(stats.kind, job::kind::NONE);
    assert_eq!(
        connection.job_info(domain, DEADLINE).await?.kind,
        job::kind::NONE
    );
    assert_eq!(
        connection.migrate_max_downtime_ms(domain, DEADLINE).await?,
        300
    );
    Ok(())
}

async fn compare_host(connection: &Connection, node: &Node) -> anyhow::Result<()> {
    assert!(connection.keeps_alive());
    assert_eq!(connection.hostname(DEADLINE).await?, "ear");
    assert_eq!(connection.hypervisor_type(DEADLINE).await?, "QEMU");
    assert_eq!(connection.uri(DEADLINE).await?, "qemu:///system");
    assert!(connection.lib_version(DEADLINE).await? >= 6_000_000);
    assert!(connection.hypervisor_version(DEADLINE).await? >= 4_000_000);
    let info = connection.node_info(DEADLINE).await?;
    let said = node.virsh(&["nodeinfo"])?;
    assert!(
        said.contains(&format!("{} KiB", info.memory_kib)),
        "{info:?} {said}"
    );
    assert!(
        said.contains(&info.model) && info.cpus > 0,
        "{info:?} {said}"
    );
    let xml = connection.capabilities_xml(DEADLINE).await?;
    assert!(
        xml.contains("5d1f9b0e-6c7c-4d0e-9a53-0d7f0a4f6a11"),
        "{xml}"
    );
    Ok(())
}

#[tokio::test]
async fn a_stopped_qemu_costs_only_its_own_call() -> anyhow::Result<()> {
    let Some(node) = node("a_stopped_qemu_costs_only_its_own_call").await? else {
        return Ok(());
    };
    node.create("stuck")?;
    node.create("free")?;
    let connection = node.connect(true).await?;
    let stuck = find(&connection, "stuck").await?;
    let free = find(&connection, "free").await?;
    node.signal("stuck", "-STOP")?;
    let ask = |domain, deadline| {
        connection.domain_stats(
            domain,
            StatsGroups::VCPU | StatsGroups::BALLOON,
            StatsFlags::NONE,
            deadline,
        )
    };
    let (late, in_time) = tokio::join!(
        ask(&stuck, Duration::from_secs(2)),
        ask(&free, Duration::from_secs(2)),
    );
    assert!(matches!(late, Err(CallError::TimedOut { .. })), "{late:?}");
    assert_eq!(in_time?.get("vcpu.current"), Some(&TypedValue::UInt(1)));
    assert_eq!(
        (connection.outstanding_calls(), connection.abandoned_calls()),
        (1, 1)
    );
    assert_eq!(
        connection.domain_state(&stuck, DEADLINE).await?.state,
        state::RUNNING
    );

    node.signal("stuck", "-CONT")?;
    for _ in 0..POLLS_MAX {
        if connection.outstanding_calls() == 0 {
            break;
        }
        tokio::time::sleep(POLL).await;
    }
    assert_eq!(
        (connection.outstanding_calls(), connection.late_replies()),
        (0, 1)
    );
    assert_eq!(ask(&stuck, DEADLINE).await?.u64("vcpu.current"), Some(1));
    Ok(())
}

#[tokio::test]
async fn only_a_read_write_connection_measures_dirty_rates_and_speaks_qmp() -> anyhow::Result<()> {
    let story = "only_a_read_write_connection_measures_dirty_rates_and_speaks_qmp";
    let Some(node) = node(story).await? else {
        return Ok(());
    };
    node.create("one")?;
    let reader = node.connect(true).await?;
    let domain = find(&reader, "one").await?;
    let mode = DirtyRateMode::PageSampling;
    let refused = reader
        .start_dirty_rate_calc(&domain, 1, mode, DEADLINE)
        .await;
    assert!(
        refused.as_ref().is_err_and(CallError::is_denied),
        "{refused:?}"
    );

    let writer = node.connect(false).await?;
    let command = r#"{"execute":"query-status"}"#;
    let answer = writer
        .qemu_monitor_command(&domain, command, MonitorFlags::NONE, DEADLINE)
        .await?;
    assert!(answer.contains("running"), "{answer}");
    assert!(
        writer
            .migrate_max_speed_mib_per_second(&domain, DEADLINE)
            .await?
            > 0
    );
    writer
        .start_dirty_rate_calc(&domain, 1, mode, DEADLINE)
        .await?;
    for _ in 0..POLLS_MAX {
        let groups = StatsGroups::DIRTYRATE;
        let stats = reader
            .domain_stats(&domain, groups, StatsFlags::NONE, DEADLINE)
            .await?;
        if stats.i64("dirtyrate.calc_status") == Some(2) {
            assert!(
                stats.i64("dirtyrate.megabytes_per_second").is_some(),
                "{stats:?}"
            );
            return Ok(());
        }
        tokio::time::sleep(POLL).await;
    }
    bail!("the measurement never ended")
}
