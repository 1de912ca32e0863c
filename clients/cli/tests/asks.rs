//! What an operator asks a real aggregator, and what comes back.
#![expect(
    clippy::unwrap_used,
    reason = "a story ends where its parts are not what they must be"
)]

mod cloud;

use std::time::Duration;

use cloud::{Aggregator, Guest, Node, ask};
use plimsoll_model::{Clock as _, SystemClock};
use plimsoll_proto::v1;

fn migration_begins(role: v1::MigrationRole) -> v1::event::Kind {
    v1::event::Kind::MigrationStarted(v1::MigrationStarted {
        role: role.into(),
        ..v1::MigrationStarted::default()
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_and_domains_are_found_by_name_and_by_id() {
    let aggregator = Aggregator::start();
    let web = Guest::new("web");
    let (mut a, mut b) = (Node::new("alpha", |_| {}), Node::new("beta", |_| {}));
    a.tell(&aggregator.url, std::slice::from_ref(&web), Vec::new())
        .await;
    b.tell(&aggregator.url, &[Guest::new("db")], Vec::new())
        .await;

    let nodes = aggregator.ask(&["nodes"]);
    assert_eq!(nodes.code, Some(0), "{}", nodes.err);
    assert!(
        nodes.out.contains("alpha") && nodes.out.contains("beta"),
        "{}",
        nodes.out
    );
    for node in ["alpha", &a.id.to_string()] {
        let domains = aggregator.json(&["domains", "--node", node]);
        assert_eq!(domains.as_array().unwrap().len(), 1);
        assert_eq!(domains[0]["name"], "web");
    }
    for domain in ["web", &web.id.to_string().to_uppercase()] {
        let series = aggregator.json(&["series", domain, "--metric", "vm.mem.*"]);
        let metrics: Vec<_> = series
            .as_array()
            .unwrap()
            .iter()
            .map(|one| one["metric"].clone())
            .collect();
        assert_eq!(metrics, ["vm.mem.max", "vm.mem.rss"]);
    }
    let of_node = aggregator.json(&["series", "alpha", "--metric", "host.mem.total"]);
    assert_eq!(of_node[0]["value"], 64_i64 << 30);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_that_several_bear_is_refused_with_all_of_them() {
    let aggregator = Aggregator::start();
    let twins = [Guest::new("twin"), Guest::new("twin")];
    let mut a = Node::new("alpha", |_| {});
    a.tell(&aggregator.url, &twins, Vec::new()).await;
    let said = aggregator.ask(&["estimate", "twin"]);
    assert_eq!(said.code, Some(1));
    for twin in &twins {
        assert!(said.err.contains(&twin.id.to_string()), "{}", said.err);
    }
    assert!(said.err.contains("give the UUID"), "{}", said.err);
    assert_eq!(said.out, "");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn values_since_some_time_and_their_growth_are_shown() {
    let aggregator = Aggregator::start();
    let web = [Guest::new("web")];
    let mut a = Node::new("alpha", |_| {});
    let now = SystemClock::new().now();
    for seconds in [2, 1] {
        let seen = now.minus(Duration::from_secs(seconds));
        a.tell_at(seen, &aggregator.url, &web, Vec::new()).await;
    }
    let values = aggregator.json(&["series", "web", "--metric", "vm.cpu.time", "--since", "10m"]);
    assert_eq!(values[0]["samples"].as_array().unwrap().len(), 2);
    let rates = aggregator.json(&["series", "web", "--since", "10m", "--rate"]);
    assert_eq!(
        rates.as_array().unwrap().len(),
        1,
        "only counters have a rate"
    );
    // Half a processor, in nanoseconds a second, in millionths.
    assert_eq!(rates[0]["samples"][0]["value"], 500_000_000_000_000_i64);
    let none = aggregator.ask(&[
        "series",
        "web",
        "--metric",
        "vm.mem.max",
        "--since",
        "10m",
        "--rate",
    ]);
    assert_eq!(none.code, Some(1));
    assert!(none.err.contains("no counter matches"), "{}", none.err);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_estimate_is_told_in_words_first_and_then_with_its_reasons() {
    let aggregator = Aggregator::start();
    let web = Guest::new("web");
    let (mut a, mut b) = (Node::new("alpha", |_| {}), Node::new("beta", |_| {}));
    a.tell(&aggregator.url, std::slice::from_ref(&web), Vec::new())
        .await;
    b.tell(&aggregator.url, &[], Vec::new()).await;
    let said = aggregator.ask(&["estimate", "web", "--to", "beta", "--mode", "stop-copy"]);
    assert_eq!(said.code, Some(0), "{}", said.err);
    let first = said.out.lines().next().unwrap();
    assert!(
        first.starts_with("web: moves in ") && first.contains("down"),
        "{first}"
    );
    for part in [
        "INPUT",
        "vm.mem.max",
        "plimsoll-rounds",
        "ram-over-bandwidth",
    ] {
        assert!(said.out.contains(part), "{part} is missing in {}", said.out);
    }
    let compared = aggregator.ask(&["compare", "web", "--to", "beta", "--downtime-max-ms", "500"]);
    assert_eq!(compared.code, Some(0), "{}", compared.err);
    for part in [
        "no mode can be recommended",
        "auto-converge",
        "postcopy",
        "stop-copy",
    ] {
        assert!(
            compared.out.contains(part),
            "{part} is missing in {}",
            compared.out
        );
    }
    let there = aggregator.ask(&["estimate", "web", "--to", "alpha"]);
    assert_eq!(there.code, Some(1));
    assert!(there.err.contains("name another target"), "{}", there.err);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_and_migrations_are_listed_with_names() {
    let aggregator = Aggregator::start();
    let web = Guest::new("web");
    let guests = std::slice::from_ref(&web);
    let (mut a, mut b) = (Node::new("alpha", |_| {}), Node::new("beta", |_| {}));
    a.tell(&aggregator.url, guests, Vec::new()).await;
    // The target speaks first.
    let arrives = b.event(&web, migration_begins(v1::MigrationRole::Target));
    b.tell(&aggregator.url, &[], vec![arrives]).await;
    let leaves = a.event(&web, migration_begins(v1::MigrationRole::Source));
    a.tell(&aggregator.url, guests, vec![leaves]).await;
    let events = aggregator.ask(&["events", "--domain", "web", "--since", "1h"]);
    assert!(
        events.out.contains("migration away began"),
        "{}{}",
        events.out,
        events.err
    );
    let migrations = aggregator.ask(&["migrations", "--node", "beta"]);
    let row = migrations.out.lines().nth(1).unwrap_or_default();
    assert!(
        row.contains("alpha") && row.contains("beta") && row.contains("running"),
        "{row}"
    );
    let elsewhere = aggregator.json(&["events", "--node", "beta"]);
    assert_eq!(elsewhere.as_array().unwrap().len(), 1);
    assert_eq!(aggregator.json(&["gaps"]), serde_json::json!([]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_a_domain_may_go_is_told_with_reasons() {
    let aggregator = Aggregator::start();
    let web = Guest::new("web");
    let mut a = Node::new("alpha", |_| {});
    let mut b = Node::new("beta", |_| {});
    let mut c = Node::new("gamma", |facts| {
        facts.hypervisor_type = Some("Xen".to_owned())
    });
    a.tell(&aggregator.url, std::slice::from_ref(&web), Vec::new())
        .await;
    b.tell(&aggregator.url, &[], Vec::new()).await;
    c.tell(&aggregator.url, &[], Vec::new()).await;
    let judged = aggregator.ask(&["feasible", "web"]);
    assert_eq!(judged.code, Some(0), "{}", judged.err);
    let line = |text: &str, host: &str| {
        text.lines()
            .find(|line| line.starts_with(host))
            .unwrap()
            .to_owned()
    };
    assert!(
        line(&judged.out, "gamma").contains("hypervisor_kind"),
        "{}",
        judged.out
    );
    assert!(
        !judged.out.contains("host_devices"),
        "what passes is left out: {}",
        judged.out
    );
    let all = aggregator.json(&["feasible", "web", "--to", "beta"]);
    let storage = all[0]["findings"]
        .as_array()
        .unwrap()
        .iter()
        .find(|one| one["constraint"] == "shared_storage");
    assert_eq!(storage.unwrap()["outcome"], "OUTCOME_PASS");
    let ranked = aggregator.json(&["targets", "web"]);
    assert_eq!(ranked["targets"][0]["hostname"], "beta");
    assert_eq!(ranked["excluded"][0]["hostname"], "gamma");
    let told = aggregator.ask(&["targets", "web"]);
    assert!(
        told.out.contains("beta") && told.out.contains("gamma"),
        "{}{}",
        told.out,
        told.err
    );
    let emptied = aggregator.ask(&["evacuate", "alpha", "--to", "gamma"]);
    assert_eq!(emptied.code, Some(0), "{}", emptied.err);
    assert!(
        emptied.out.contains("web cannot leave") && emptied.out.contains("Xen there"),
        "{}",
        emptied.out
    );
    assert_eq!(
        aggregator.ask(&["conflicts"]).out.trim(),
        "no domain runs on several nodes"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_domain_that_runs_twice_is_a_conflict() {
    let aggregator = Aggregator::start();
    let web = Guest::new("web");
    let (mut a, mut b) = (Node::new("alpha", |_| {}), Node::new("beta", |_| {}));
    a.tell(&aggregator.url, std::slice::from_ref(&web), Vec::new())
        .await;
    b.tell(&aggregator.url, std::slice::from_ref(&web), Vec::new())
        .await;
    let conflicts = aggregator.json(&["conflicts"]);
    assert_eq!(conflicts[0]["domain_name"], "web");
    assert_eq!(conflicts[0]["sides"].as_array().unwrap().len(), 2);
    assert_eq!(conflicts[0]["alarm"], false, "one look is no proof");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exit_codes_tell_refusal_usage_and_absence_apart() {
    let aggregator = Aggregator::start();
    let unknown = aggregator.ask(&["estimate", "nobody"]);
    assert_eq!(unknown.code, Some(1));
    assert!(unknown.err.contains("plimsoll domains"), "{}", unknown.err);
    assert_eq!(aggregator.ask(&["estimates"]).code, Some(2));
    assert_eq!(aggregator.ask(&["series", "--rate"]).code, Some(2));
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let free = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let absent = ask(&free, &["nodes"]);
    assert_eq!(absent.code, Some(69));
    for words in ["refused", "start plimsoll-aggregator", "--server"] {
        assert!(absent.err.contains(words), "{words}: {}", absent.err);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn room_is_asked_for_by_span_and_percentile_of_use() {
    let aggregator = Aggregator::start();
    let mut a = Node::new("alpha", |_| {});
    a.tell(&aggregator.url, &[], Vec::new()).await;
    let whole = aggregator.ask(&["headroom", "--horizon", "2h", "--percentile", "50"]);
    assert_eq!(whole.code, Some(0), "{}", whole.err);
    assert!(whole.out.contains("alpha"), "{}", whole.out);
    for wrong in [
        ["headroom", "--horizon", "soon"],
        ["headroom", "--percentile", "101"],
    ] {
        let said = aggregator.ask(&wrong);
        assert_eq!(said.code, Some(2), "{wrong:?}: {}", said.err);
        assert_eq!(said.err.lines().count(), 1, "{wrong:?}: {}", said.err);
        assert!(said.err.contains(wrong[2]), "{wrong:?}: {}", said.err);
    }
}
