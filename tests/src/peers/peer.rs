//! VictoriaMetrics and Prometheus: fed by remote write, asked through the query API that both have.

use std::net::{SocketAddr, TcpListener};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, bail};
use hyper::Method;
use hyper::body::Bytes;
use serde_json::Value;
use tokio::sync::mpsc;

use super::engine::{Answer, Engine, Load, Question, Share};
use super::http::{Http, escaped};
use super::progress::Progress;
use super::remote_write::{Encoder, moments};
use super::server::{Server, bytes_below};
use super::shape::{COLUMNS, SERIES, Size, guest_id, peer_name};
use crate::stage::{Deadline, pause};

const READY_LIMIT: Duration = Duration::from_secs(300);
/// Requests made ahead of each connection.
const AHEAD: usize = 4;
const WRITE_HEADERS: [(&str, &str); 3] = [
    ("Content-Encoding", "snappy"),
    ("Content-Type", "application/x-protobuf"),
    ("X-Prometheus-Remote-Write-Version", "0.1.0"),
];

/// Which peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    VictoriaMetrics,
    Prometheus,
}

impl Kind {
    /// The program, which is also the name of the Debian package.
    pub(super) fn program(self) -> &'static str {
        match self {
            Self::VictoriaMetrics => "victoria-metrics",
            Self::Prometheus => "prometheus",
        }
    }

    fn args(self, data: &str, address: SocketAddr, config: &Path) -> Vec<String> {
        let config = config.display();
        match self {
            Self::VictoriaMetrics => vec![
                format!("-storageDataPath={data}"),
                format!("-httpListenAddr={address}"),
                "-retentionPeriod=100y".to_owned(),
                "-search.latencyOffset=0s".to_owned(),
            ],
            Self::Prometheus => vec![
                format!("--config.file={config}"),
                format!("--storage.tsdb.path={data}"),
                format!("--web.listen-address={address}"),
                "--web.enable-remote-write-receiver".to_owned(),
                "--web.enable-admin-api".to_owned(),
                "--storage.tsdb.retention.time=100y".to_owned(),
                "--storage.tsdb.wal-compression".to_owned(),
            ],
        }
    }
}

/// How a peer is fed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Feeding {
    /// Samples of a request.
    pub(super) batch: usize,
    /// Samples of each series in a request; 1 is how telemetry comes.
    pub(super) rows: u32,
}

/// A peer that runs.
#[derive(Debug)]
pub(super) struct Peer {
    kind: Kind,
    name: String,
    program: PathBuf,
    dir: PathBuf,
    feeding: Feeding,
    address: SocketAddr,
    server: Server,
    http: Http,
}

impl Peer {
    /// Starts one with an empty directory.
    pub(super) async fn start(
        kind: Kind,
        program: &Path,
        dir: &Path,
        feeding: Feeding,
    ) -> anyhow::Result<Self> {
        std::fs::create_dir_all(dir)?;
        std::fs::write(dir.join("config.yml"), "global:\n  scrape_interval: 1h\n")?;
        // Nobody else takes the port in the moment between.
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let (server, http) = serving(kind, program, dir, address).await?;
        Ok(Self {
            kind,
            name: format!("{kind:?} {}", version(kind.program())),
            program: program.to_owned(),
            dir: dir.to_owned(),
            feeding,
            address,
            server,
            http,
        })
    }

    async fn query(&mut self, query: &str, at_ms: i64) -> anyhow::Result<Bytes> {
        let at_s = at_ms as f64 / 1e3;
        let query = escaped(query);
        self.http
            .get(&format!("/api/v1/query?query={query}&time={at_s:.3}"))
            .await
    }

    async fn merges(&mut self) -> anyhow::Result<f64> {
        let text = self.http.get("/metrics").await?;
        let text = String::from_utf8_lossy(&text).into_owned();
        let active = text.lines().filter(|line| {
            line.starts_with("vm_active_force_merges") || line.starts_with("vm_active_merges{")
        });
        Ok(active
            .filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok())
            .sum())
    }
}

/// Starts a peer on its data and waits until it answers.
async fn serving(
    kind: Kind,
    program: &Path,
    dir: &Path,
    address: SocketAddr,
) -> anyhow::Result<(Server, Http)> {
    let data = dir.join("data").display().to_string();
    let args = kind.args(&data, address, &dir.join("config.yml"));
    let mut server = Server::start(program, &args, &dir.join("log"))?;
    let path = match kind {
        Kind::VictoriaMetrics => "/health",
        Kind::Prometheus => "/-/ready",
    };
    let deadline = Deadline::after(READY_LIMIT);
    while !deadline.is_over() {
        server.must_run()?;
        if let Ok(mut http) = Http::connect(address).await
            && http.get(path).await.is_ok()
        {
            return Ok((server, http));
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    bail!("{} is not ready after {READY_LIMIT:?}", kind.program())
}

/// The version of the Debian package; not every build tells its own.
fn version(program: &str) -> String {
    let mut query = Command::new("dpkg-query");
    let said = query
        .args(["--show", "--showformat=${Version}", program])
        .output();
    said.map_or(String::new(), |said| {
        String::from_utf8_lossy(&said.stdout).into_owned()
    })
}

/// How far each connection has come; none may run away from the others, as none does where telemetry
/// comes when it is read. Prometheus refuses what is an hour older than the newest.
#[derive(Debug)]
struct Pace {
    rows: Vec<AtomicU32>,
}

/// Rows by which one connection may be ahead of another.
const AHEAD_ROWS: u32 = 60;

impl Pace {
    fn note(&self, share: usize, row: u32) {
        if let Some(own) = self.rows.get(share) {
            own.store(row, Ordering::Release);
        }
    }

    /// Tells how far one has come, and waits for those that are too far behind.
    fn come_to(&self, share: usize, row: u32) {
        self.note(share, row);
        let is_behind =
            |other: &AtomicU32| other.load(Ordering::Acquire) < row.saturating_sub(AHEAD_ROWS);
        while self.rows.iter().any(is_behind) {
            pause(Duration::from_millis(1));
        }
    }
}

/// Makes the requests of one connection, ahead of it.
fn produce(
    mut share: Share,
    (number, pace): (usize, &Pace),
    (size, rows, feeding): (Size, Range<u32>, Feeding),
    requests: &mpsc::Sender<(Bytes, usize)>,
) -> anyhow::Result<Share> {
    let made = produce_rows(&mut share, (number, pace), (size, rows, feeding), requests);
    // Nobody waits for one that has ended, however it did.
    pace.note(number, u32::MAX);
    made.map(|()| share)
}

fn produce_rows(
    share: &mut Share,
    (number, pace): (usize, &Pace),
    (size, rows, feeding): (Size, Range<u32>, Feeding),
    requests: &mpsc::Sender<(Bytes, usize)>,
) -> anyhow::Result<()> {
    let mut encoder = Encoder::new();
    let mut row = rows.start;
    while row < rows.end {
        pace.come_to(number, row);
        let some = row..(row + feeding.rows.max(1)).min(rows.end);
        row = some.end;
        for guest in &mut share.guests {
            let moments = moments(guest, &size, some.clone());
            encoder.push(guest.number, &moments);
            if encoder.samples() + COLUMNS * moments.len() > feeding.batch {
                requests.blocking_send(encoder.take()?)?;
            }
        }
        if encoder.samples() > 0 {
            requests.blocking_send(encoder.take()?)?;
        }
    }
    Ok(())
}

async fn send(
    address: SocketAddr,
    mut requests: mpsc::Receiver<(Bytes, usize)>,
    progress: Arc<Progress>,
) -> anyhow::Result<()> {
    let mut http = Http::connect(address).await?;
    while let Some((body, samples)) = requests.recv().await {
        http.call(Method::POST, "/api/v1/write", &WRITE_HEADERS, body)
            .await?;
        progress.add(samples as u64);
    }
    Ok(())
}

fn selector(question: &Question) -> anyhow::Result<String> {
    let node = question.node().map(|node| node.to_string());
    Ok(match *question {
        Question::Series {
            guest,
            column,
            span_s,
            ..
        } => {
            let (metric, part) = SERIES.get(column).context("no such column")?;
            let part = match *part {
                "" => String::new(),
                part => format!(",part=\"{part}\""),
            };
            let (name, domain) = (peer_name(*metric), guest_id(guest));
            format!("{name}{{domain=\"{domain}\"{part}}}[{span_s}s]")
        }
        Question::Node { span_s, .. } => {
            format!("{{node=\"{}\"}}[{span_s}s]", node.unwrap_or_default())
        }
        Question::Last { .. } => format!("{{node=\"{}\"}}", node.unwrap_or_default()),
    })
}

/// A series by guest and column, and its samples.
type Told = ((uuid::Uuid, usize), Vec<(i64, i64)>);

/// Reads one series of an answer.
fn series(one: &Value) -> Option<Told> {
    let label = |name: &str| one.get("metric")?.get(name)?.as_str();
    let name = label("__name__")?;
    let column = SERIES
        .iter()
        .position(|(metric, _)| peer_name(*metric) == name)?;
    let domain = label("domain")?.parse().ok()?;
    let sample = |sample: &Value| {
        let at_ms = (sample.get(0)?.as_f64()? * 1e3).round();
        let value = sample.get(1)?.as_str()?.parse::<f64>().ok()?;
        // Whole numbers below 2^53: both come back as they were.
        Some((
            format!("{at_ms:.0}").parse().ok()?,
            format!("{value:.0}").parse().ok()?,
        ))
    };
    let samples = match one.get("values") {
        Some(values) => values.as_array()?.iter().map(sample).collect::<Option<_>>(),
        None => sample(one.get("value")?).map(|one| vec![one]),
    };
    Some(((domain, column), samples?))
}

impl Engine for Peer {
    type Raw = Bytes;

    fn name(&self) -> &str {
        &self.name
    }

    fn settings(&self) -> String {
        let Feeding { batch, rows } = self.feeding;
        let of_each = match rows {
            1 => "one of each series".to_owned(),
            rows => format!("{rows} of each series"),
        };
        format!(
            "remote write (snappy), up to {batch} samples a request, {of_each}; {}",
            self.kind
                .args("DIR", self.address, Path::new("FILE"))
                .join(" ")
        )
    }

    fn server(&mut self) -> &mut Server {
        &mut self.server
    }

    async fn feed(
        &mut self,
        load: &mut Load,
        rows: Range<u32>,
        progress: &Arc<Progress>,
    ) -> anyhow::Result<()> {
        let mut feeds = Vec::new();
        let shares = std::mem::take(&mut load.shares);
        let start = |_: &Share| AtomicU32::new(rows.start);
        let pace = Arc::new(Pace {
            rows: shares.iter().map(start).collect(),
        });
        for (number, share) in shares.into_iter().enumerate() {
            let (requests, queue) = mpsc::channel(AHEAD);
            let sending = tokio::spawn(send(self.address, queue, Arc::clone(progress)));
            let what = (load.size, rows.clone(), self.feeding);
            let pace = Arc::clone(&pace);
            let making = move || produce(share, (number, &pace), what, &requests);
            feeds.push((tokio::task::spawn_blocking(making), sending));
        }
        for (making, sending) in feeds {
            let made = making.await?;
            // If it cannot send, that is why nothing more could be made.
            sending.await??;
            load.shares.push(made?);
        }
        Ok(())
    }

    async fn show(&mut self) -> anyhow::Result<()> {
        if self.kind == Kind::VictoriaMetrics {
            self.http.get("/internal/force_flush").await?;
        }
        Ok(())
    }

    async fn connect_again(&mut self) -> anyhow::Result<()> {
        self.http = Http::connect(self.address).await?;
        Ok(())
    }

    async fn ask(&mut self, question: &Question) -> anyhow::Result<Bytes> {
        let at_ms = match question {
            Question::Series { to_ms, .. }
            | Question::Node { to_ms, .. }
            | Question::Last { to_ms, .. } => *to_ms,
        };
        let query = selector(question)?;
        self.query(&query, at_ms).await
    }

    fn read(&self, raw: Bytes) -> anyhow::Result<Answer> {
        let answer: Value = serde_json::from_slice(&raw)?;
        let all = answer
            .pointer("/data/result")
            .and_then(Value::as_array)
            .context("there is no result")?;
        all.iter()
            .map(|one| series(one).with_context(|| format!("not understood: {one}")))
            .collect()
    }

    async fn start_again(&mut self) -> anyhow::Result<()> {
        (self.server, self.http) =
            serving(self.kind, &self.program, &self.dir, self.address).await?;
        Ok(())
    }

    fn replayed(&mut self) -> anyhow::Result<Option<u64>> {
        Ok(None)
    }

    async fn settle(&mut self) -> anyhow::Result<(u64, f64)> {
        let data = self.dir.join("data");
        match self.kind {
            Kind::VictoriaMetrics => {
                self.http.get("/internal/force_flush").await?;
                self.http.get("/internal/force_merge").await?;
                // It answers before it has begun.
                let mut idle = 0;
                while idle < 5 {
                    tokio::time::sleep(Duration::from_millis(200)).await;
                    idle = if self.merges().await? > 0.0 {
                        0
                    } else {
                        idle + 1
                    };
                }
                let cpu_s = self.server.cpu_s()?;
                self.server.stop()?;
                let left = bytes_below(&data.join("data"))? + bytes_below(&data.join("indexdb"))?;
                Ok((left, cpu_s))
            }
            Kind::Prometheus => {
                let path = "/api/v1/admin/tsdb/snapshot";
                self.http
                    .call(Method::POST, path, &[], Bytes::new())
                    .await?;
                Ok((bytes_below(&data.join("snapshots"))?, self.server.cpu_s()?))
            }
        }
    }
}
