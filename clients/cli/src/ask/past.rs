//! What happened: events, gaps, migrations.

use std::collections::HashMap;
use std::time::Duration;

use plimsoll_proto::v1;

use super::seen::ago_timestamp;
use super::{Failure, PAGE_SIZE, Server, pretty, words};
use crate::json;
use crate::table::{id, instant, or_dash, span, table};

/// Names by id.
type Names = HashMap<Vec<u8>, String>;

impl Server {
    /// Returns the host name of each node.
    pub(super) async fn hostnames(&mut self) -> Result<Names, Failure> {
        let nodes = self.all_nodes().await?.into_iter();
        Ok(nodes
            .map(|node| (node.node_id, node.facts.unwrap_or_default().hostname))
            .collect())
    }

    async fn domain_names(&mut self) -> Result<Names, Failure> {
        let facts = self.all_domains().await?.into_iter();
        let facts = facts.filter_map(|domain| domain.facts);
        Ok(facts.map(|facts| (facts.domain_id, facts.name)).collect())
    }
}

/// Returns the name of a thing; its id where it has none.
pub(super) fn name(names: &Names, bytes: &[u8]) -> String {
    let name = names.get(bytes).filter(|name| !name.is_empty());
    name.cloned().unwrap_or_else(|| id(bytes))
}

/// Lists events.
pub(super) async fn events(
    server: &mut Server,
    as_json: bool,
    (domain, node): (Option<&str>, Option<&str>),
    (since, limit): (Option<Duration>, i32),
) -> Result<String, Failure> {
    let request = v1::ListEventsRequest {
        page_size: limit,
        page_token: String::new(),
        domain_id: server.domain_id_opt(domain).await?,
        node_id: server.node_id_opt(node).await?,
        start_time: since.map(ago_timestamp),
    };
    let events = server.query.list_events(request).await?.into_inner().events;
    if as_json {
        return Ok(pretty(events.iter().map(json::event).collect()));
    }
    let (hosts, domains) = (server.hostnames().await?, server.domain_names().await?);
    let row = |seen: &v1::SeenEvent| {
        let event = seen.event.clone().unwrap_or_default();
        vec![
            instant(event.seen_time.as_ref()),
            name(&hosts, &seen.node_id),
            name(&domains, &event.domain_id),
            what(event.kind.as_ref()),
        ]
    };
    Ok(table(
        &["TIME", "HOST", "DOMAIN", "EVENT"],
        &events.iter().map(row).collect::<Vec<_>>(),
    ))
}

fn word(name: &str, prefix: &str) -> String {
    name.trim_start_matches(prefix)
        .to_lowercase()
        .replace('_', " ")
}

/// Says in words what happened.
fn what(kind: Option<&v1::event::Kind>) -> String {
    use v1::event::Kind;
    match kind {
        None => "something this release does not know".to_owned(),
        Some(Kind::DomainStateChanged(change)) => {
            let state = word(change.state().as_str_name(), "DOMAIN_STATE_");
            format!("{state} ({})", change.detail)
        }
        Some(Kind::MigrationStarted(start)) => match start.role() {
            v1::MigrationRole::Source => "migration away began".to_owned(),
            v1::MigrationRole::Target => "migration here began".to_owned(),
            v1::MigrationRole::Unspecified => "migration began".to_owned(),
        },
        Some(Kind::MigrationIteration(pass)) => format!("migration pass {}", pass.number),
        Some(Kind::MigrationEnded(end)) => {
            let total = end
                .total_ms
                .map_or(String::new(), |ms| format!(" after {}", span(ms as f64)));
            format!(
                "migration {}{total}",
                word(end.end().as_str_name(), "MIGRATION_END_")
            )
        }
    }
}

/// Lists gaps.
pub(super) async fn gaps(
    server: &mut Server,
    as_json: bool,
    node: Option<&str>,
) -> Result<String, Failure> {
    let node_id = server.node_id_opt(node).await?;
    let (mut all, mut page_token) = (Vec::new(), String::new());
    loop {
        let request = v1::ListGapsRequest {
            page_size: PAGE_SIZE,
            page_token,
            node_id: node_id.clone(),
        };
        let answer = server.query.list_gaps(request).await?.into_inner();
        all.extend(answer.gaps);
        page_token = answer.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    if as_json {
        return Ok(pretty(all.iter().map(json::gap).collect()));
    }
    let hosts = server.hostnames().await?;
    let row = |seen: &v1::SeenGap| {
        let gap = seen.gap.clone().unwrap_or_default();
        vec![
            instant(seen.declared_time.as_ref()),
            name(&hosts, &seen.node_id),
            format!("{}-{}", gap.first_sequence, gap.last_sequence),
            or_dash(gap.reading_count),
            word(gap.reason().as_str_name(), "GAP_REASON_"),
        ]
    };
    Ok(table(
        &["DECLARED", "HOST", "BATCHES", "READINGS", "WHY"],
        &all.iter().map(row).collect::<Vec<_>>(),
    ))
}

/// Lists migrations.
pub(super) async fn migrations(
    server: &mut Server,
    as_json: bool,
    (domain, node): (Option<&str>, Option<&str>),
    (since, limit): (Option<Duration>, i32),
) -> Result<String, Failure> {
    let request = v1::ListMigrationsRequest {
        page_size: limit,
        domain_id: server.domain_id_opt(domain).await?,
        node_id: server.node_id_opt(node).await?,
        start_time: since.map(ago_timestamp),
        ..Default::default()
    };
    let answer = server.estimate.list_migrations(request).await?.into_inner();
    let migrations = answer.migrations;
    if as_json {
        return Ok(pretty(migrations.iter().map(json::migration).collect()));
    }
    let hosts = server.hostnames().await?;
    let head = [
        "BEGAN",
        "DOMAIN",
        "FROM",
        "TO",
        "SAID",
        "ENDED",
        "TOTAL SAID",
        "TOTAL",
        "ERROR",
        "DOWN SAID",
        "DOWN",
    ];
    let rows: Vec<_> = migrations
        .iter()
        .map(|one| migration(&hosts, one))
        .collect();
    Ok(table(&head, &rows))
}

/// Says how true predictions were.
pub(super) async fn accuracy(
    server: &mut Server,
    as_json: bool,
    since: Option<Duration>,
) -> Result<String, Failure> {
    let request = v1::GetModelAccuracyRequest {
        start_time: since.map(ago_timestamp),
        end_time: None,
    };
    let answer = server.estimate.get_model_accuracy(request).await?;
    let answer = answer.into_inner();
    let overall = answer.overall.unwrap_or_default();
    if as_json {
        // All of them first, with empty node ids.
        let rows = std::iter::once(&overall).chain(&answer.paths);
        return Ok(pretty(rows.map(json::accuracy).collect()));
    }
    if overall.migration_count == 0 {
        return Ok("No migration with a prediction has ended in this span.\n".to_owned());
    }
    let head = [
        "FORMULA",
        "TOTAL p50/p90",
        "SENT p50/p90",
        "DOWN p50/p90",
        "VERDICTS RIGHT",
        "BROKEN PROMISES",
    ];
    let rows: Vec<_> = overall.formulas.iter().map(formula).collect();
    Ok(format!(
        "{}\nErrors of {} migrations; the total lay within its bounds {} of {} times (8 of 10 are promised).\n",
        table(&head, &rows).trim_end(),
        overall.migration_count,
        overall.within_bounds_count,
        overall.bounded_count
    ))
}

fn formula(one: &v1::FormulaAccuracy) -> Vec<String> {
    let errors = |spread: Option<v1::ErrorSpread>, show: fn(f64) -> String| {
        spread.map_or("-".to_owned(), |errors| {
            format!("{} / {}", show(errors.p50), show(errors.p90))
        })
    };
    let percent = |share: f64| format!("{:.1} %", share * 100.0);
    vec![
        one.name.clone(),
        errors(one.total_error_ratio, percent),
        errors(one.wire_error_ratio, percent),
        errors(one.downtime_error_ms, span),
        format!("{} of {}", one.verdict_right_count, one.verdict_count),
        one.broken_promise_count.to_string(),
    ]
}

fn migration(hosts: &Names, one: &v1::Migration) -> Vec<String> {
    let said = one.prediction.as_ref().and_then(|said| said.estimate);
    let said = said.unwrap_or_default();
    let was = one.outcome.unwrap_or_default();
    let error = one.error.unwrap_or_default();
    let end = match one.outcome {
        Some(was) => word(was.end().as_str_name(), "MIGRATION_END_"),
        None if one.end_time.is_some() => "unknown".to_owned(),
        None => "running".to_owned(),
    };
    let place = |bytes: &[u8]| {
        if bytes.is_empty() {
            "-".to_owned()
        } else {
            name(hosts, bytes)
        }
    };
    let verdict = match said.verdict() {
        v1::Verdict::Unspecified => "-".to_owned(),
        verdict => word(verdict.as_str_name(), "VERDICT_"),
    };
    let ms = |value: Option<i64>| value.map_or("-".to_owned(), |ms| span(ms as f64));
    let about = |bounds: Option<&v1::Interval>| bounds.map_or("-".to_owned(), words::about);
    vec![
        instant(one.start_time.as_ref()),
        one.domain_name.clone(),
        place(&one.source_node_id),
        place(&one.target_node_id),
        verdict,
        end,
        about(said.total_ms.as_ref()),
        ms(was.total_ms),
        error
            .total_error_ratio
            .map_or("-".to_owned(), |ratio| format!("{:+.0} %", ratio * 100.0)),
        about(said.downtime_ms.as_ref()),
        ms(was.downtime_ms),
    ]
}

/// Writes sentences below a line, each after a dash.
pub(super) fn dash_lines(sentences: &[String]) -> String {
    sentences.iter().map(|one| format!("\n- {one}")).collect()
}
