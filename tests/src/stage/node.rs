//! A compute node: a place with its own libvirtd, and the guests on it.
//!
//! Not here: shared storage, images, or anything a cloud would add on top of libvirt.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use uuid::Uuid;

use super::clock::wait_until;
use super::error::StageError;
use super::place::Place;
use super::process::{Process, run};
use super::record::Record;
use crate::guest::{FILLED, Guest};

/// What one call of virsh may take; a migration has its own limit.
const VIRSH_LIMIT: Duration = Duration::from_secs(30);
const LIBVIRTD_LIMIT: Duration = Duration::from_secs(30);
/// A gigabyte fills in about two seconds on an idle machine.
const FILL_LIMIT: Duration = Duration::from_secs(60);

const QEMU_CONF: &str = r#"user = "root"
group = "root"
dynamic_ownership = 0
remember_owner = 0
security_driver = "none"
cgroup_controllers = [ ]
namespaces = [ ]
stdio_handler = "file"
"#;

/// A node of the stage.
#[derive(Debug, Clone)]
pub struct Node {
    place: Place,
    uuid: Uuid,
    /// The directory of the whole stage: guests' images are on it, the same path on all nodes.
    stage_directory: PathBuf,
}

impl Node {
    pub(super) fn new(place: Place, uuid: Uuid, stage_directory: &Path) -> Self {
        Self {
            place,
            uuid,
            stage_directory: stage_directory.to_owned(),
        }
    }

    /// Its host name.
    pub fn name(&self) -> &str {
        self.place.name()
    }

    /// Its address on the migration network.
    pub fn address(&self) -> &str {
        self.place.address()
    }

    /// The host UUID its libvirtd gives.
    pub fn uuid(&self) -> Uuid {
        self.uuid
    }

    /// The namespaces it lives in.
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// A program that will run inside the node, where libvirt's sockets are in /run/libvirt.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        self.place.command(program)
    }

    /// Starts libvirtd and notes it; whether it answers yet is another question.
    pub(super) fn start_libvirtd(&self) -> Result<(), StageError> {
        self.configure()?;
        let log = self.place.directory().join("libvirtd.out");
        let open = || std::fs::File::create(&log).map_err(StageError::io("make a log"));
        let child = self
            .command("libvirtd")
            .args(["--listen", "--pid-file", "/run/libvirtd.pid"])
            .stdin(Stdio::null())
            .stdout(open()?)
            .stderr(open()?)
            .process_group(0)
            .spawn()
            .map_err(StageError::io("start libvirtd"))?;
        let libvirtd = Process::observe(child.id());
        Record::change(&self.stage_directory, |record| {
            for node in &mut record.nodes {
                if node.place.name == self.name() {
                    node.libvirtd = libvirtd;
                }
            }
        })?;
        Ok(())
    }

    /// Waits until libvirtd answers.
    pub(super) fn await_libvirtd(&self) -> Result<(), StageError> {
        let socket = self.place.directory().join("run/libvirt/libvirt-sock");
        wait_until("libvirtd to listen", LIBVIRTD_LIMIT, || {
            Ok(socket.exists().then_some(()))
        })?;
        let words = ["-c", "qemu:///system", "-q", "list"];
        wait_until("libvirtd to answer", LIBVIRTD_LIMIT, || {
            Ok(self.place.succeeds("virsh", &words)?.then_some(()))
        })
    }

    fn configure(&self) -> Result<(), StageError> {
        let etc = self.place.directory().join("etc/libvirt");
        let libvirtd_conf = format!(
            "listen_tls = 0\nlisten_tcp = 1\nauth_tcp = \"none\"\nauth_unix_rw = \"none\"\n\
             auth_unix_ro = \"none\"\nhost_uuid = \"{}\"\n\
             log_outputs = \"2:file:/var/log/libvirt/libvirtd.log\"\n",
            self.uuid
        );
        for (file, text) in [
            ("libvirtd.conf", libvirtd_conf.as_str()),
            ("qemu.conf", QEMU_CONF),
        ] {
            let path = etc.join(file);
            std::fs::write(&path, text)
                .map_err(StageError::io(format!("write {}", path.display())))?;
        }
        Ok(())
    }

    /// Asks this node's libvirt through virsh.
    ///
    /// # Errors
    ///
    /// Passes on what virsh complains about, or says that it hung.
    pub fn virsh(&self, args: &[&str]) -> Result<String, StageError> {
        self.virsh_within(args, VIRSH_LIMIT)
    }

    /// Asks this node's libvirt through virsh, with a limit of the caller's.
    ///
    /// # Errors
    ///
    /// Passes on what virsh complains about, or says that it hung.
    pub fn virsh_within(&self, args: &[&str], limit: Duration) -> Result<String, StageError> {
        run(&mut self.virsh_command(args), limit)
    }

    pub(super) fn virsh_command(&self, args: &[&str]) -> Command {
        let mut command = self.command("virsh");
        command.args(["-q", "-c", "qemu:///system"]).args(args);
        command
    }

    /// Starts a guest and waits until it has filled its memory and begun its pattern.
    ///
    /// # Errors
    ///
    /// Refuses a guest that does not fit, and passes on what libvirt complains about.
    pub fn define_and_start(&self, guest: &Guest) -> Result<(), StageError> {
        let image = guest.image().map_err(StageError::Guest)?;
        let directory = self.stage_directory.join("guests");
        let path = |ending: &str| directory.join(format!("{}.{ending}", guest.name));
        let (image_path, serial_path, xml_path) = (path("img"), path("serial"), path("xml"));
        let xml = guest.domain_xml(
            &image_path.display().to_string(),
            &serial_path.display().to_string(),
        );
        std::fs::create_dir_all(&directory)
            .and_then(|()| std::fs::write(&image_path, image))
            .and_then(|()| std::fs::write(&serial_path, ""))
            .and_then(|()| std::fs::write(&xml_path, xml))
            .map_err(StageError::io(format!("write the image of {}", guest.name)))?;
        self.virsh(&["define", &xml_path.display().to_string()])?;
        self.virsh(&["start", &guest.name])?;
        let filled = format!("guest {} to fill its memory", guest.name);
        wait_until(&filled, FILL_LIMIT, || {
            let serial = std::fs::read_to_string(&serial_path)
                .map_err(StageError::io(format!("read {}", serial_path.display())))?;
            Ok(serial.contains(FILLED).then_some(()))
        })
    }

    /// Ends a guest and forgets it.
    ///
    /// # Errors
    ///
    /// Passes on what libvirt complains about.
    pub fn remove(&self, guest: &str) -> Result<(), StageError> {
        self.virsh(&["destroy", guest])?;
        self.virsh(&["undefine", guest]).map(drop)
    }

    /// The names of the guests that are active here.
    ///
    /// # Errors
    ///
    /// Passes on what libvirt complains about.
    pub fn guests(&self) -> Result<Vec<String>, StageError> {
        let list = self.virsh(&["list", "--name"])?;
        let names = list.lines().map(str::trim).filter(|name| !name.is_empty());
        Ok(names.map(str::to_owned).collect())
    }

    /// Measures a guest's dirty rate over `seconds`, as libvirt gives it: whole MiB a second.
    ///
    /// # Errors
    ///
    /// Passes on what libvirt complains about, or says that the answer could not be read.
    pub fn dirty_rate_mib_per_second(&self, guest: &str, seconds: u32) -> Result<u64, StageError> {
        self.virsh(&[
            "domdirtyrate-calc",
            guest,
            "--seconds",
            &seconds.to_string(),
        ])?;
        let limit = VIRSH_LIMIT + Duration::from_secs(seconds.into());
        wait_until("the dirty rate", limit, || {
            let stats = self.virsh(&["domstats", guest, "--dirtyrate"])?;
            if field(&stats, "dirtyrate.calc_status=").as_deref() != Some("2") {
                return Ok(None);
            }
            field(&stats, "dirtyrate.megabytes_per_second=")
                .and_then(|value| value.parse().ok())
                .map(Some)
                .ok_or_else(|| StageError::Answer {
                    what: "virsh domstats".to_owned(),
                    field: "dirtyrate.megabytes_per_second".to_owned(),
                })
        })
    }
}

/// The value on the line that begins with `key`.
pub(super) fn field(text: &str, key: &str) -> Option<String> {
    text.lines()
        .find_map(|line| line.trim().strip_prefix(key))
        .map(|value| value.trim().to_owned())
}
