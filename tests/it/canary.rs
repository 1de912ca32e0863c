//! Secrets that are told apart from all else, given to the real programs: whatever these print, log, answer and
//! keep is looked through for them.

use std::collections::BTreeMap;
use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use plimsoll_tests::snmpd;
use plimsoll_tests::stage::wait_until;

use crate::house::{Running, ask, listening, program};

const NODE: &str = "0f0e7c4a-3f10-4a55-9d0e-3a1f7c1b2d11";
const LIMIT: Duration = Duration::from_secs(60);
/// The passwords and communities of this story, by what they are for.
const WORDS: [(&str, &str); 8] = [
    ("community", "canary-b6Qe1-community"),
    ("poll.authentication", "canary-T0xw2-poll-authentication"),
    ("poll.privacy", "canary-Zk9r3-poll-privacy"),
    ("show.authentication", "canary-Hq4m4-show-authentication"),
    ("show.privacy", "canary-Wd7u5-show-privacy"),
    ("traps.authentication", "canary-Nn2y6-traps-authentication"),
    ("traps.privacy", "canary-Jc5p7-traps-privacy"),
    ("open", "canary-Lf8s8-open-to-all"),
];

/// What must not be found, each in every form in which it could be written.
struct Secrets(Vec<(String, Vec<u8>)>);

impl Secrets {
    fn plant(dir: &Path) -> Self {
        let mut forms = Vec::new();
        for (name, word) in WORDS {
            snmpd::secret(dir, name, word).unwrap();
            let hex: String = word.bytes().map(|byte| format!("{byte:02x}")).collect();
            let decimal = format!("{:?}", word.as_bytes());
            let inner = decimal.trim_matches(['[', ']']).to_owned();
            for form in [word.to_owned(), hex.to_uppercase(), hex, inner] {
                forms.push((name.to_owned(), form.into_bytes()));
            }
        }
        Self(forms)
    }

    /// Adds the lines of a private key; each is secret.
    fn add_key(&mut self, path: &Path) {
        let text = std::fs::read_to_string(path).unwrap();
        let lines = text.lines().filter(|line| !line.starts_with("-----"));
        let before = self.0.len();
        for line in lines.filter(|line| line.len() >= 16) {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            self.0.push((name, line.as_bytes().to_vec()));
        }
        assert!(self.0.len() > before, "{} holds no key", path.display());
    }

    /// The names of the secrets that stand in some bytes.
    fn found(&self, bytes: &[u8]) -> Vec<&str> {
        let stands = |form: &[u8]| bytes.windows(form.len()).any(|part| part == form);
        let found = self.0.iter().filter(|(_, form)| stands(form));
        found.map(|(name, _)| name.as_str()).collect()
    }
}

/// All that was said and kept, by where.
struct Told(BTreeMap<String, Vec<u8>>);

impl Told {
    fn add(&mut self, place: &str, bytes: &[u8]) {
        self.0.entry(place.to_owned()).or_default().extend(bytes);
    }

    /// Runs a program to its end.
    fn run(&mut self, name: &str, args: &[&str]) {
        let output = Command::new(program(name))
            .args(args)
            .env("RUST_LOG", "trace")
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let said = [output.stdout, output.stderr].concat();
        assert!(!said.is_empty(), "{name} {args:?} says nothing");
        self.add(&format!("{name} {}", args.join(" ")), &said);
    }

    /// Takes every file below a directory.
    fn keep(&mut self, directory: &Path) {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                self.keep(&path);
            } else if let Ok(bytes) = std::fs::read(&path) {
                self.add(&path.display().to_string(), &bytes);
                self.add("names of files", path.display().to_string().as_bytes());
            }
        }
    }
}

/// A site with its authority, certificates and configurations.
struct Site {
    dir: tempfile::TempDir,
    secrets: Secrets,
    device: UdpSocket,
}

impl Site {
    fn build() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut secrets = Secrets::plant(dir.path());
        let pki = dir.path().join("pki");
        let mut told = Told(BTreeMap::new());
        let at = pki.to_str().unwrap();
        told.run("plimsoll-aggregator", &["pki", "init", at]);
        for holder in [
            ["--server", "localhost"],
            ["--node", NODE],
            ["--operator", "me"],
        ] {
            let args = [&["pki", "issue", at][..], &holder[..]].concat();
            told.run("plimsoll-aggregator", &args);
        }
        for entry in std::fs::read_dir(&pki).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|ending| ending == "key") {
                secrets.add_key(&path);
            }
        }
        for (place, said) in &told.0 {
            assert!(secrets.found(said).is_empty(), "{place}");
        }
        let device = UdpSocket::bind("127.0.0.1:0").unwrap();
        device.set_read_timeout(Some(LIMIT)).unwrap();
        Self {
            dir,
            secrets,
            device,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn of_pki(&self, start: &str, ending: &str) -> PathBuf {
        let mut paths = std::fs::read_dir(self.path("pki")).unwrap();
        let found = paths.find_map(|entry| {
            let path = entry.unwrap().path();
            let name = path.file_name()?.to_str()?.to_owned();
            (name.starts_with(start) && name.ends_with(ending)).then_some(path)
        });
        found.unwrap_or_else(|| panic!("no {start}*{ending}"))
    }

    fn aggregator(&self, metrics: &str) -> PathBuf {
        let text = format!(
            "listen = \"127.0.0.1:0\"\nmetrics_listen = {metrics:?}\ndata_dir = {:?}\ninterval = \"1s\"\n\
             [tls]\ncertificate = {:?}\nkey = {:?}\nclient_ca = {:?}\n\
             [traps]\nto = [{:?}]\nuser = \"plimsoll\"\nauthentication_password_file = {:?}\n\
             privacy_password_file = {:?}\nevery = \"1s\"\n",
            self.path("data"),
            self.of_pki("server", ".pem"),
            self.of_pki("server", ".key"),
            self.of_pki("ca", ".pem"),
            format!("127.0.0.1:{}", snmpd::free_port().unwrap()),
            self.path("traps.authentication"),
            self.path("traps.privacy"),
        );
        let path = self.path("aggregator.toml");
        std::fs::write(&path, text).unwrap();
        path
    }

    fn agent(&self, url: &str) -> PathBuf {
        let device = self.device.local_addr().unwrap().to_string();
        let shown = format!("127.0.0.1:{}", snmpd::free_port().unwrap());
        let text = format!(
            "aggregator = {url:?}\nstate_dir = {:?}\ninterval = \"1s\"\n\
             [node]\nid = {NODE:?}\n[libvirt]\nenabled = false\n\
             [tls]\nca = {:?}\ncertificate = {:?}\nkey = {:?}\n\
             [publish]\nlisten = {shown:?}\nuser = \"reader\"\nauthentication_password_file = {:?}\n\
             privacy_password_file = {:?}\n\
             [snmp]\ninterval = \"1s\"\ntimeout = \"100ms\"\ndeadline = \"1s\"\n\
             [[snmp.credential]]\nname = \"user\"\nuser = \"plimsoll\"\n\
             authentication_password_file = {:?}\nprivacy_password_file = {:?}\n\
             [[snmp.credential]]\nname = \"clear\"\ncommunity_file = {:?}\n",
            self.path("state"),
            self.of_pki("ca", ".pem"),
            self.of_pki("node", ".pem"),
            self.of_pki("node", ".key"),
            self.path("show.authentication"),
            self.path("show.privacy"),
            self.path("poll.authentication"),
            self.path("poll.privacy"),
            self.path("community"),
        );
        let target = |name: &str, credential: &str| {
            format!(
                "[[snmp.target]]\nname = {name:?}\naddress = {device:?}\nprofile = \"switch\"\n\
                 credential = {credential:?}\nallow_insecure = true\n"
            )
        };
        let text = text + &target("by-user", "user") + &target("by-community", "clear");
        let path = self.path("agent.toml");
        std::fs::write(&path, text).unwrap();
        path
    }
}

/// What the operator's command is told by every call there is.
fn ask_all(site: &Site, url: &str, told: &mut Told) {
    let file = |start, ending| site.of_pki(start, ending).display().to_string();
    let (ca, cert, key) = (
        file("ca", ".pem"),
        file("operator", ".pem"),
        file("operator", ".key"),
    );
    let shown = ["--ca", &ca, "--cert", &cert, "--key", &key, "--json"];
    for call in [
        &["nodes"][..],
        &["domains"],
        &["devices"],
        &["series"],
        &[
            "series",
            NODE,
            "--metric",
            "host.mem.available",
            "--since",
            "10m",
        ],
        &["events"],
        &["gaps"],
        &["conflicts"],
        &["migrations"],
        &["accuracy"],
        &["headroom"],
        &["evacuate", NODE],
        &["estimate", "6b1f5a5e-0000-4000-8000-000000000001"],
    ] {
        let (_, out, err) = ask(url, &[&shown[..], call].concat());
        assert!(!out.is_empty() || !err.is_empty(), "{call:?}");
        told.add(&format!("answer to {call:?}"), (out + &err).as_bytes());
    }
}

fn scrape(address: &str) -> Option<Vec<u8>> {
    use std::io::{Read as _, Write as _};
    let mut stream = std::net::TcpStream::connect(address).ok()?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\n\r\n").ok()?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).ok()?;
    Some(answer)
}

/// What the programs say when they are only asked about themselves, and when a secret is open to others.
fn ask_programs(agent: &Path, aggregator: &Path, site: &Site, told: &mut Told) {
    use std::os::unix::fs::PermissionsExt as _;
    let config = ["--config", agent.to_str().unwrap()];
    for order in [
        &["check-config"][..],
        &["doctor"],
        &["doctor", "--format", "json"],
        &["once", "--format", "json"],
    ] {
        told.run("plimsoll-agent", &[order, &config].concat());
    }
    let of_aggregator = aggregator.to_str().unwrap();
    let order = ["check-config", "--config", of_aggregator];
    told.run("plimsoll-aggregator", &order);
    let open = site.path("open");
    std::fs::set_permissions(&open, std::fs::Permissions::from_mode(0o644)).unwrap();
    let text = std::fs::read_to_string(agent).unwrap();
    for (name, bent) in [
        ("community", open.clone()),
        ("poll.privacy", open.clone()),
        ("show.privacy", open),
    ] {
        let path = site.path("bent.toml");
        let right = site.path(name).display().to_string();
        let wrong = text.replace(&right, &bent.display().to_string());
        assert_ne!(wrong, text);
        std::fs::write(&path, wrong).unwrap();
        let order = ["check-config", "--config", path.to_str().unwrap()];
        told.run("plimsoll-agent", &order);
    }
}

#[test]
fn no_secret_is_printed_logged_answered_or_kept_anywhere() {
    let site = Site::build();
    let mut told = Told(BTreeMap::new());
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let metrics = port.local_addr().unwrap().to_string();
    drop(port);
    let of_aggregator = site.aggregator(&metrics);
    let mut command = Command::new(program("plimsoll-aggregator"));
    command.args(["run", "--config"]).arg(&of_aggregator);
    let (house, address) = listening(command.env("RUST_LOG", "trace"));
    let url = format!("https://localhost:{}", address.rsplit(':').next().unwrap());
    let of_agent = site.agent(&url);
    let log = site.path("agent.log");
    let agent = Command::new(program("plimsoll-agent"))
        .args(["run", "--config"])
        .arg(&of_agent)
        .env("RUST_LOG", "trace")
        .stdout(Stdio::null())
        .stderr(std::fs::File::create(&log).unwrap())
        .spawn()
        .unwrap();
    let agent = Running(agent);

    // The control: the community is in use, for the device hears it, and is found where it stands.
    let community = "community";
    let mut heard = [0; 2_048];
    wait_until("the device hears the community", LIMIT, || {
        let (count, _) = site.device.recv_from(&mut heard).unwrap();
        let found = site.secrets.found(&heard[..count]);
        Ok(found.contains(&community).then_some(()))
    })
    .unwrap();
    wait_until("samples of the agent", LIMIT, || {
        let told = scrape(&metrics).unwrap_or_default();
        let words = String::from_utf8_lossy(&told).into_owned();
        Ok(words.contains("plimsoll_host_mem_available").then_some(()))
    })
    .unwrap();

    ask_all(&site, &url, &mut told);
    ask_programs(&of_agent, &of_aggregator, &site, &mut told);
    told.add("/metrics", &scrape(&metrics).unwrap());
    drop(agent);
    told.add("log of the agent", &std::fs::read(&log).unwrap());
    told.add("log of the aggregator", house.end().as_bytes());
    told.keep(&site.path("state"));
    told.keep(&site.path("data"));

    for (place, bytes) in &told.0 {
        let found = site.secrets.found(bytes);
        assert!(found.is_empty(), "{place} holds {found:?}");
    }
    let is_there = |part: &str| told.0.keys().any(|place| place.contains(part));
    assert!(
        is_there("/spool/") && is_there(".log"),
        "{:?}",
        told.0.keys()
    );
}
