//! Stories of one connection, told to a libvirt that answers as a test chooses.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use plimsoll_libvirt::{TypedValue, job as jobs};
use plimsoll_model::{EventKind, MigrationEnd, MigrationRole, SystemClock};
use tokio::sync::{mpsc, watch};

use super::*;
use crate::config::{self, Overrides};
use crate::fake_libvirt::{
    Asked, Daemon, Say, connect, domain, domains, job, numbers, stats, stats_of, text,
};
use crate::limits::Met;

const XML: &str =
    "<domain type='qemu'><name>web</name><memory>262144</memory><vcpu>1</vcpu></domain>";
const RUNNING: [(&str, TypedValue); 1] = [("state.state", TypedValue::Int(1))];

/// A session that looks every second, and what it saw.
struct House {
    looks: mpsc::Receiver<Look>,
    seen: Look,
    root: tempfile::TempDir,
    hypervisor: watch::Receiver<Hypervisor>,
    met: Met,
}

async fn house(
    access: config::Access,
    answer: impl FnMut(Asked, &[u8]) -> Say + Send + 'static,
) -> (House, Daemon) {
    let root = tempfile::tempdir().unwrap();
    let overrides = Overrides {
        interval: Some(Duration::from_secs(1)),
        libvirt_access: Some(access),
        ..Overrides::default()
    };
    let (config, _) = config::load(None, &overrides).unwrap();
    let met = Met::default();
    let (looks, inbox) = mpsc::channel(64);
    let (hypervisor, on_hypervisor) = watch::channel(Hypervisor::default());
    let guests = Guests {
        node: plimsoll_model::NodeId::random(),
        root: root.path().to_owned(),
        libvirt: config.libvirt.clone().unwrap(),
        config: Arc::new(config),
        clock: Arc::new(SystemClock::new()),
        looks,
        beat: crate::beat::Beat::now(),
        hypervisor,
        met: met.clone(),
    };
    let (connection, daemon) = connect(answer).await;
    tokio::spawn(async move { Session::new(&guests, connection).run().await });
    let house = House {
        looks: inbox,
        seen: Look::default(),
        root,
        hypervisor: on_hypervisor,
        met,
    };
    (house, daemon)
}

impl House {
    /// Looks on until it has seen what is wanted.
    async fn sees(&mut self, what: &str, is_so: impl Fn(&Look) -> bool) {
        let seeing = async {
            while !is_so(&self.seen) {
                let look = self.looks.recv().await.expect("the session goes on");
                self.seen.merge(look);
            }
        };
        let limit = tokio::time::timeout(Duration::from_secs(600), seeing);
        assert!(
            limit.await.is_ok(),
            "never: {what}; {:#?}",
            self.seen.events
        );
    }

    /// Looks on for so long.
    async fn watches(&mut self, span: Duration) {
        let seeing = async {
            while let Some(look) = self.looks.recv().await {
                self.seen.merge(look);
            }
        };
        drop(tokio::time::timeout(span, seeing).await);
    }
}

fn values(look: &Look, metric: Metric) -> Vec<u64> {
    let all = look.sweeps.iter().flat_map(|sweep| &sweep.values);
    all.filter(|(told, _, _)| *told == metric)
        .map(|(_, _, value)| *value)
        .collect()
}

fn leaving(elapsed: u64, remaining: u64) -> Say {
    job(
        jobs::kind::UNBOUNDED,
        &[
            ("operation", TypedValue::Int(jobs::operation::MIGRATION_OUT)),
            ("time_elapsed", TypedValue::ULong(elapsed)),
            ("memory_remaining", TypedValue::ULong(remaining)),
        ],
    )
}

fn usual(asked: Asked) -> Say {
    match asked {
        Asked::Subscription => Say::This(numbers(&[7])),
        Asked::Domains => domains(&[domain()]),
        Asked::Xml => Say::This(text(XML)),
        Asked::Stats => stats(&RUNNING),
        Asked::Jobs => job(jobs::kind::NONE, &[]),
        _ => Say::No("not here"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_migration_that_was_under_way_when_the_agent_came_is_known_and_not_measured() {
    let (mut house, daemon) = house(config::Access::ReadWrite, |asked, _| match asked {
        Asked::Jobs => leaving(4_000, 9),
        other => usual(other),
    })
    .await;
    let is_start = |look: &Look| {
        let mut kinds = look.events.iter().map(|event| &event.kind);
        kinds.any(|kind| {
            let EventKind::MigrationStarted { role, .. } = kind else {
                return false;
            };
            *role == MigrationRole::Source
        })
    };
    house.sees("the start", is_start).await;
    house.watches(Duration::from_secs(90)).await;
    assert!(values(&house.seen, Metric::VmMigActive).contains(&1));
    assert_eq!(daemon.count(Asked::StartDirtyRate), 0);
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_starts_again_is_told_as_another_process() {
    let (mut house, _) = house(config::Access::ReadOnly, |asked, _| usual(asked)).await;
    let start = |root: &Path, ticks: u64| {
        let numbers: Vec<String> = (3..=30)
            .map(|field| match field {
                22 => ticks.to_string(),
                other => other.to_string(),
            })
            .collect();
        let stat = format!("42 (qemu) {}\n", numbers.join(" "));
        std::fs::create_dir_all(root.join("proc/42")).unwrap();
        std::fs::create_dir_all(root.join("run/libvirt/qemu")).unwrap();
        std::fs::write(root.join("proc/42/stat"), stat).unwrap();
        std::fs::write(root.join("run/libvirt/qemu/web.pid"), "42\n").unwrap();
    };
    let root = house.root.path().to_owned();
    for ticks in [1_000, 2_000] {
        start(&root, ticks);
        let started_ms = ticks * 1_000 / rustix::param::clock_ticks_per_second();
        house
            .sees("the process", |look| {
                let mut facts = look.domain_facts.iter();
                facts.any(|facts| facts.incarnation.started_ms == started_ms)
            })
            .await;
    }
    let mut subjects: Vec<_> = house
        .seen
        .sweeps
        .iter()
        .map(|sweep| sweep.subject)
        .collect();
    subjects.retain(|subject| subject.domain().is_some());
    subjects.dedup();
    assert!(subjects.len() >= 2, "{subjects:?}");
}

#[tokio::test(start_paused = true)]
async fn a_failed_job_ends_the_series_that_says_it_runs() {
    let is_over = Arc::new(AtomicBool::new(false));
    let over = Arc::clone(&is_over);
    let (mut house, daemon) = house(config::Access::ReadOnly, move |asked, _| match asked {
        Asked::Jobs if !over.load(Ordering::SeqCst) => leaving(1_000, 9),
        other => usual(other),
    })
    .await;
    house
        .sees("a migration", |look| {
            values(look, Metric::VmMigActive).contains(&1)
        })
        .await;
    is_over.store(true, Ordering::SeqCst);
    let failed = crate::fake_libvirt::params(&[
        ("operation", TypedValue::Int(jobs::operation::MIGRATION_OUT)),
        ("success", TypedValue::Int(0)),
    ]);
    daemon.event(363, &domain(), &failed).await;
    house
        .sees("an end", |look| {
            let mut kinds = look.events.iter().map(|event| &event.kind);
            kinds.any(|kind| matches!(kind, EventKind::MigrationEnded { end, .. } if end.end != MigrationEnd::Aborted))
        })
        .await;
    assert_eq!(values(&house.seen, Metric::VmMigActive).last(), Some(&0));
}

#[tokio::test(start_paused = true)]
async fn each_pass_of_a_migration_is_a_reading_over_its_own_window() {
    let mut elapsed = 0;
    let (mut house, daemon) = house(config::Access::ReadOnly, move |asked, _| match asked {
        Asked::Jobs => {
            elapsed += 500;
            leaving(elapsed, 1_000)
        }
        other => usual(other),
    })
    .await;
    house
        .sees("a migration", |look| {
            !values(look, Metric::VmMigActive).is_empty()
        })
        .await;
    for pass in 1..=2 {
        daemon.event(359, &domain(), &numbers(&[pass])).await;
        house
            .sees("a pass", |look| {
                let mut kinds = look.events.iter().map(|event| &event.kind);
                kinds.any(|kind| {
                    let EventKind::MigrationIteration { iteration, .. } = kind else {
                        return false;
                    };
                    i32::try_from(iteration.number) == Ok(pass)
                })
            })
            .await;
    }
    let pass = house.seen.sweeps.iter().find(|sweep| {
        let mut metrics = sweep.values.iter().map(|(metric, _, _)| *metric);
        metrics.any(|metric| metric == Metric::VmDirtyPassRate)
    });
    let pass = pass.expect("a point");
    let width_ms = u64::from(pass.window.width_ms);
    assert!(width_ms >= 500, "{width_ms}");
    assert_eq!(pass.values[0].2, 1_000 * 1_000 / width_ms);
}

#[tokio::test(start_paused = true)]
async fn a_list_that_hangs_is_not_asked_for_again() {
    let (mut house, daemon) = house(config::Access::ReadOnly, |asked, _| match asked {
        Asked::Domains => Say::Nothing,
        other => usual(other),
    })
    .await;
    house.watches(Duration::from_secs(60)).await;
    assert_eq!(daemon.count(Asked::Domains), 1);
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_hangs_is_left_alone_and_the_others_are_read() {
    let other = DomainRef {
        name: "db".to_owned(),
        uuid: [8; 16],
        id: Some(2),
    };
    let both = [domain(), other.clone()];
    let (mut house, daemon) = house(config::Access::ReadOnly, move |asked, payload| {
        let is_other = payload.windows(16).any(|bytes| bytes == [8; 16]);
        match asked {
            Asked::Domains => domains(&both),
            Asked::Stats | Asked::Jobs if is_other => Say::Nothing,
            kind => usual(kind),
        }
    })
    .await;
    house.watches(Duration::from_secs(50)).await;
    let states = values(&house.seen, Metric::VmState).len();
    assert!(states >= 40, "the one that answers was read {states} times");
    let timed_out = values(&house.seen, Metric::HostLibvirtCallsTimedOut);
    assert_eq!(timed_out.last(), Some(&1), "the other was asked once");
    let hung = daemon.count(Asked::Stats) - states;
    assert_eq!(hung, 1);
}

#[tokio::test(start_paused = true)]
async fn what_libvirt_starts_qemu_for_may_take_long_and_holds_up_nothing_else() {
    const CAPABILITIES: &str = "<capabilities><host><cpu>\
        <counter name='tsc' frequency='2803224000' scaling='no'/></cpu></host></capabilities>";
    let encoded = |words: &[u64]| words.iter().flat_map(|word| word.to_be_bytes()).collect();
    let version: Vec<u8> = encoded(&[7_002_022]);
    let node = [vec![0; 4 * 32], encoded(&[1 << 20]), numbers(&[2; 6])].concat();
    let (mut house, daemon) = house(config::Access::ReadOnly, move |asked, _| match asked {
        Asked::Node => Say::This(node.clone()),
        Asked::Version => Say::Late(Duration::from_secs(4), version.clone()),
        Asked::Capabilities => Say::Late(Duration::from_secs(8), text(CAPABILITIES)),
        other => usual(other),
    })
    .await;
    let promised = |look: &Look| !values(look, Metric::HostAllocMemTotal).is_empty();
    house.sees("what may be promised", promised).await;
    assert_eq!(house.hypervisor.borrow().qemu_version, None);
    house.watches(Duration::from_secs(15)).await;
    let told = house.hypervisor.borrow().clone();
    assert_eq!(told.qemu_version.as_deref(), Some("7.2.22"));
    assert_eq!(told.tsc_hz, Some(2_803_224_000));
    assert_eq!(daemon.count(Asked::Capabilities), 1);
    let timed_out = values(&house.seen, Metric::HostLibvirtCallsTimedOut);
    assert_eq!(timed_out.last(), Some(&0));
}

/// A guest of a number.
fn numbered(number: u8) -> DomainRef {
    DomainRef {
        name: format!("guest-{number}"),
        uuid: [number; 16],
        id: Some(i32::from(number)),
    }
}

#[tokio::test(start_paused = true)]
async fn two_calls_hang_at_most_and_with_them_nothing_more_is_asked_of_guests() {
    const GUESTS: u8 = 6;
    for stuck in [HUNG_MAX - 1, HUNG_MAX, HUNG_MAX + 1] {
        let all: Vec<DomainRef> = (1..=GUESTS).map(numbered).collect();
        let (mut house, daemon) = house(config::Access::ReadOnly, move |asked, payload| {
            let place = all.iter().position(|guest| {
                let mut sixteens = payload.windows(16);
                sixteens.any(|bytes| bytes == guest.uuid)
            });
            match (asked, place) {
                (Asked::Domains, _) => domains(&all),
                (Asked::Stats | Asked::Jobs, Some(place)) if place < stuck => Say::Nothing,
                (Asked::Stats, Some(place)) => stats_of(&all[place], &RUNNING),
                (kind, _) => usual(kind),
            }
        })
        .await;
        // Long enough for every guest to have been asked, and those that hang to be given up.
        house.watches(Duration::from_secs(30)).await;
        let told = || values(&house.seen, Metric::VmState).len();
        let answered = told();
        let hung = daemon.count(Asked::Stats) - answered;
        assert_eq!(hung, stuck.min(HUNG_MAX), "of {stuck} that hang");
        let are_read = stuck < HUNG_MAX;
        assert_eq!(house.met.count(Limit::HungCalls) == 0, are_read, "{stuck}");
        let before = house.seen.sweeps.len();
        house.watches(Duration::from_secs(10)).await;
        let later = values(&house.seen, Metric::VmState).len();
        assert_eq!(later > answered, are_read, "{stuck}: the others");
        assert!(
            house.seen.sweeps.len() > before,
            "{stuck}: the rest goes on"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn of_a_hundred_guests_one_that_is_stuck_costs_the_others_one_look_at_most() {
    use std::io::Write as _;
    const GUESTS: u8 = 100;
    let all: Vec<DomainRef> = (1..=GUESTS).map(numbered).collect();
    let asked: Arc<std::sync::Mutex<HashMap<usize, usize>>> = Arc::default();
    let counted = Arc::clone(&asked);
    let (mut house, daemon) = house(config::Access::ReadOnly, move |kind, payload| {
        let place = all.iter().position(|guest| {
            let mut sixteens = payload.windows(16);
            sixteens.any(|bytes| bytes == guest.uuid)
        });
        match (kind, place) {
            (Asked::Domains, _) => domains(&all),
            (Asked::Stats | Asked::Jobs, Some(0)) => Say::Nothing,
            (Asked::Stats, Some(place)) => {
                *counted.lock().unwrap().entry(place).or_default() += 1;
                stats_of(&all[place], &RUNNING)
            }
            (kind, _) => usual(kind),
        }
    })
    .await;
    // The first look lists them; each of the others reads all.
    let looks = 60;
    house.watches(Duration::from_secs(looks)).await;
    let looks = usize::try_from(looks).unwrap();
    let answered = asked.lock().unwrap().clone();
    let least = answered.values().min().copied().unwrap_or(0);
    let told = values(&house.seen, Metric::VmState).len();
    let hung = daemon.count(Asked::Stats) - told;
    let line = format!(
        "{looks} looks at {GUESTS} guests, one stuck: {} others were read {least} times at least; {hung} call hung",
        answered.len()
    );
    drop(writeln!(std::io::stdout(), "{line}"));
    assert_eq!(answered.len(), usize::from(GUESTS) - 1, "{line}");
    // One look goes to the list that makes them known.
    assert!(least >= looks - 2, "{line}");
    assert!((1..=HUNG_MAX).contains(&hung), "{line}");
}
