//! Moves that may be made: judgements, targets, evacuations; and domains that run twice.

use std::time::Duration;

use plimsoll_model::Bandwidth;
use plimsoll_proto::v1;

use super::past::dash_lines;
use super::{Failure, Server, pretty, words};
use crate::args::{Command, Limits};
use crate::json;
use crate::table::{instant, span, table};

/// Asks and tells.
pub(super) async fn run(
    server: &mut Server,
    as_json: bool,
    command: &Command,
) -> Result<String, Failure> {
    match command {
        Command::Feasible {
            domain,
            to,
            all,
            limits,
        } => {
            let request = v1::CheckFeasibilityRequest {
                domain_id: server.domain_id(domain).await?,
                target_node_ids: server.node_ids(to).await?,
                limits: Some(limits_of(limits)),
            };
            let answer = server
                .planner
                .check_feasibility(request)
                .await?
                .into_inner();
            if as_json {
                return Ok(pretty(
                    answer.targets.iter().map(json::feasibility).collect(),
                ));
            }
            Ok(feasible_text(&answer, *all))
        }
        Command::Targets {
            domain,
            strict,
            limit,
            limits,
        } => {
            let request = v1::RankTargetsRequest {
                domain_id: server.domain_id(domain).await?,
                target_count_max: *limit,
                limits: Some(limits_of(limits)),
                strict: *strict,
                ..Default::default()
            };
            let answer = server.planner.rank_targets(request).await?.into_inner();
            if as_json {
                return Ok(format!("{:#}", json::targets(&answer)));
            }
            Ok(targets_text(&answer))
        }
        Command::Evacuate { .. } => evacuate(server, as_json, command).await,
        _ => conflicts(server, as_json).await,
    }
}

impl Server {
    async fn node_ids(&mut self, texts: &[String]) -> Result<Vec<Vec<u8>>, Failure> {
        let mut ids = Vec::new();
        for text in texts {
            ids.push(self.node_id(text).await?);
        }
        Ok(ids)
    }
}

fn limits_of(asked: &Limits) -> v1::FeasibilityLimits {
    let millionths =
        |ratio: plimsoll_model::Ratio| i64::try_from(ratio.millionths()).unwrap_or(i64::MAX);
    v1::FeasibilityLimits {
        rtt_max_ns: asked.rtt_max_us.map(|us| us.saturating_mul(1_000)),
        iops_loss_max_millionths: asked.iops_loss_max.map(millionths),
        moves_max: asked.moves_max,
    }
}

fn outcome(outcome: v1::Outcome) -> String {
    outcome
        .as_str_name()
        .trim_start_matches("OUTCOME_")
        .to_lowercase()
}

fn feasible_text(answer: &v1::CheckFeasibilityResponse, all: bool) -> String {
    let mut rows = Vec::new();
    for target in &answer.targets {
        rows.push(vec![target.hostname.clone(), outcome(target.outcome())]);
        for one in &target.findings {
            if all || one.outcome() != v1::Outcome::Pass {
                rows.push(vec![
                    target.hostname.clone(),
                    outcome(one.outcome()),
                    one.constraint.clone(),
                    one.evidence.clone(),
                ]);
            }
        }
    }
    if rows.is_empty() {
        return "no other node is known".to_owned();
    }
    // The worst of each host leads; what it is about is in the rows below it.
    rows.retain(|row| row.len() > 2 || row.get(1).is_some_and(|word| word == "pass"));
    table(&["HOST", "OUTCOME", "CONSTRAINT", "EVIDENCE"], &rows)
}

fn targets_text(answer: &v1::RankTargetsResponse) -> String {
    let row = |one: &v1::RankedTarget| {
        let said = one.estimate.as_ref().and_then(|said| said.estimate);
        let said = said.map_or("cannot be told".to_owned(), |said| words::verdict(&said));
        let terms = one
            .terms
            .iter()
            .map(|term| format!("{} {:.2}", term.name, term.value));
        vec![
            one.hostname.clone(),
            format!("{:.3}", one.score),
            terms.collect::<Vec<_>>().join(", "),
            said,
        ]
    };
    let rows: Vec<_> = answer.targets.iter().map(row).collect();
    let mut parts = vec![if rows.is_empty() {
        "no node may take it".to_owned()
    } else {
        table(&["HOST", "SCORE", "TERMS", "HOW"], &rows)
    }];
    let excluded = answer.excluded.iter().flat_map(|one| {
        one.reasons.iter().map(move |why| {
            vec![
                one.hostname.clone(),
                why.constraint.clone(),
                why.evidence.clone(),
            ]
        })
    });
    let excluded: Vec<_> = excluded.collect();
    if !excluded.is_empty() {
        parts.push(table(&["LEFT OUT", "CONSTRAINT", "EVIDENCE"], &excluded));
    }
    parts.join("\n\n")
}

async fn evacuate(
    server: &mut Server,
    as_json: bool,
    command: &Command,
) -> Result<String, Failure> {
    let Command::Evacuate {
        node,
        to,
        at_once,
        deadline,
        strict,
        limits,
    } = command
    else {
        return Ok(String::new());
    };
    let whole = |span: &Duration| prost_types::Duration {
        seconds: i64::try_from(span.as_secs()).unwrap_or(i64::MAX),
        nanos: 0,
    };
    let request = v1::EstimateEvacuationRequest {
        node_id: server.node_id(node).await?,
        candidate_node_ids: server.node_ids(to).await?,
        concurrent_max: *at_once,
        deadline: deadline.as_ref().map(whole),
        limits: Some(limits_of(limits)),
        strict: *strict,
    };
    let answer = server
        .planner
        .estimate_evacuation(request)
        .await?
        .into_inner();
    if as_json {
        return Ok(format!("{:#}", json::evacuation(&answer)));
    }
    Ok(evacuation_text(node, &answer))
}

fn evacuation_text(node: &str, answer: &v1::EstimateEvacuationResponse) -> String {
    let leaving: usize = answer.waves.iter().map(|wave| wave.moves.len()).sum();
    let ms = |ms: i64| span(ms as f64);
    let mut first = format!(
        "{node}: {leaving} leave in {} (with luck), {} (at worst), {} at once",
        ms(answer.makespan_p50_ms),
        ms(answer.makespan_p90_ms),
        answer.concurrent_count
    );
    match answer.meets_deadline {
        Some(true) => first.push_str("; the deadline is met"),
        Some(false) => first.push_str("; the deadline is not met"),
        None => {}
    }
    let mut rows = Vec::new();
    for (number, wave) in answer.waves.iter().enumerate() {
        for one in &wave.moves {
            let rate = u64::try_from(one.bandwidth_bytes_per_second).unwrap_or(0);
            rows.push(vec![
                (number + 1).to_string(),
                one.domain_name.clone(),
                one.target_hostname.clone(),
                Bandwidth::from_bytes_per_second(rate).to_string(),
                format!(
                    "{} (at worst {})",
                    ms(one.total_p50_ms),
                    ms(one.total_p90_ms)
                ),
            ]);
        }
    }
    let mut parts = vec![first];
    if !rows.is_empty() {
        parts.push(table(&["WAVE", "DOMAIN", "TO", "GETS", "TAKES"], &rows));
    }
    for stuck in &answer.stuck {
        parts.push(format!(
            "{} cannot leave:{}",
            stuck.domain_name,
            dash_lines(&stuck.reasons)
        ));
    }
    parts.join("\n\n")
}

async fn conflicts(server: &mut Server, as_json: bool) -> Result<String, Failure> {
    let request = v1::ListConflictsRequest {};
    let conflicts = server
        .planner
        .list_conflicts(request)
        .await?
        .into_inner()
        .conflicts;
    if as_json {
        return Ok(pretty(conflicts.iter().map(json::conflict).collect()));
    }
    if conflicts.is_empty() {
        return Ok("no domain runs on several nodes".to_owned());
    }
    let mut rows = Vec::new();
    for one in &conflicts {
        for side in &one.sides {
            rows.push(vec![
                one.domain_name.clone(),
                if one.alarm { "ALARM" } else { "watch" }.to_owned(),
                side.hostname.clone(),
                instant(side.since_time.as_ref()),
                instant(side.last_seen_time.as_ref()),
            ]);
        }
    }
    Ok(table(
        &["DOMAIN", "", "RUNS ON", "SINCE", "LAST SEEN"],
        &rows,
    ))
}
