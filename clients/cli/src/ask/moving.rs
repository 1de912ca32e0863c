//! How a migration of one guest would go: in one mode with all reasons, or in every mode side by side.

use plimsoll_proto::v1;
use serde_json::json;

use super::{Failure, Server, words};
use crate::args::{Estimate, Mode, Question};
use crate::json;
use crate::table::{bounds, mebibytes, or_dash, span, table};

pub(super) async fn estimate(
    server: &mut Server,
    as_json: bool,
    asked: &Estimate,
) -> Result<String, Failure> {
    let mode = match asked.mode {
        Mode::Precopy => v1::MigrationMode::Precopy,
        Mode::AutoConverge => v1::MigrationMode::PrecopyAutoConverge,
        Mode::Postcopy => v1::MigrationMode::Postcopy,
        Mode::StopCopy => v1::MigrationMode::StopCopy,
    };
    let request = v1::EstimateMigrationRequest {
        mode: mode.into(),
        ..request(server, &asked.question).await?
    };
    let answer = server
        .estimate
        .estimate_migration(request)
        .await?
        .into_inner();
    if as_json {
        return Ok(format!("{:#}", json::estimate(&answer)));
    }
    Ok(estimate_text(&asked.question.domain, &answer))
}

pub(super) async fn compare(
    server: &mut Server,
    as_json: bool,
    asked: &Question,
    downtime_max_ms: Option<i64>,
) -> Result<String, Failure> {
    let request = v1::CompareModesRequest {
        question: Some(request(server, asked).await?),
        downtime_max_ms,
    };
    let answer = server.estimate.compare_modes(request).await?.into_inner();
    if as_json {
        let answers: Vec<_> = answer.answers.iter().map(json::estimate).collect();
        let shown = json!({"recommended_mode": answer.recommended_mode().as_str_name(),
                           "reasons": answer.reasons, "answers": answers});
        return Ok(format!("{shown:#}"));
    }
    Ok(compare_text(&asked.domain, &answer))
}

/// The request for a migration, but for its mode.
async fn request(
    server: &mut Server,
    asked: &Question,
) -> Result<v1::EstimateMigrationRequest, Failure> {
    let rate = |rate: plimsoll_model::Bandwidth| {
        i64::try_from(rate.bytes_per_second()).unwrap_or(i64::MAX)
    };
    Ok(v1::EstimateMigrationRequest {
        domain_id: server.domain_id(&asked.domain).await?,
        target_node_id: match &asked.to {
            Some(text) => server.node_id(text).await?,
            None => Vec::new(),
        },
        mode: v1::MigrationMode::Unspecified.into(),
        downtime_profile: asked.downtime_ms.map(|limit| v1::DowntimeProfile {
            profile: Some(v1::downtime_profile::Profile::ConstantMs(limit)),
        }),
        completion_timeout: asked
            .timeout_s
            .map(|seconds| prost_types::Duration { seconds, nanos: 0 }),
        bandwidth_cap_bytes_per_second: asked.bandwidth_cap.map(rate),
        path_bandwidth_bytes_per_second: asked.path_bandwidth.map(rate),
    })
}

/// The mode as `--mode` takes it.
fn mode_name(mode: v1::MigrationMode) -> &'static str {
    match mode {
        v1::MigrationMode::Unspecified | v1::MigrationMode::Precopy => "precopy",
        v1::MigrationMode::PrecopyAutoConverge => "auto-converge",
        v1::MigrationMode::Postcopy => "postcopy",
        v1::MigrationMode::StopCopy => "stop-copy",
    }
}

fn compare_text(name: &str, answer: &v1::CompareModesResponse) -> String {
    let row = |one: &v1::EstimateMigrationResponse| {
        let said = one.estimate.unwrap_or_default();
        let sure = said.convergence_probability;
        vec![
            mode_name(said.mode()).to_owned(),
            sure.map_or("-".to_owned(), |p| format!("{:.0} %", p * 100.0)),
            bounds(said.total_ms.as_ref(), span),
            bounds(said.downtime_ms.as_ref(), span),
            bounds(said.wire_bytes.as_ref(), mebibytes),
        ]
    };
    let head = [
        "MODE",
        "ENDS",
        "TOTAL p50 (p10 - p90)",
        "DOWNTIME",
        "ON THE WIRE",
    ];
    let rows: Vec<_> = answer.answers.iter().map(row).collect();
    let verdict = match answer.recommended_mode() {
        v1::MigrationMode::Unspecified => "no mode can be recommended".to_owned(),
        mode => format!("take {}", mode_name(mode)),
    };
    let mut parts = vec![format!("{name}: {verdict}"), table(&head, &rows)];
    parts.extend(answer.reasons.iter().map(|reason| format!("- {reason}")));
    parts.join("\n\n").replace("\n\n- ", "\n- ")
}

fn estimate_text(name: &str, answer: &v1::EstimateMigrationResponse) -> String {
    let said = answer.estimate.unwrap_or_default();
    let verdict = words::verdict(&said);
    let rows = vec![
        vec!["total".to_owned(), bounds(said.total_ms.as_ref(), span)],
        vec![
            "downtime".to_owned(),
            bounds(said.downtime_ms.as_ref(), span),
        ],
        vec![
            "on the wire".to_owned(),
            bounds(said.wire_bytes.as_ref(), mebibytes),
        ],
        vec![
            "passes".to_owned(),
            bounds(said.iteration_count.as_ref(), |n| format!("{n:.0}")),
        ],
    ];
    let mut parts = vec![
        format!("{name}: {verdict}"),
        table(&["", "p50 (p10 - p90)"], &rows),
    ];
    let row = |one: &v1::Baseline| {
        let total = one.total_ms.map_or("does not converge".to_owned(), span);
        vec![
            one.name.clone(),
            total,
            one.downtime_ms.map_or("-".to_owned(), span),
        ]
    };
    let baselines: Vec<_> = answer.baselines.iter().map(row).collect();
    parts.push(table(
        &["SIMPLER FORMULAS", "TOTAL", "DOWNTIME"],
        &baselines,
    ));
    if let Some(around) = &answer.envelope {
        let row = |input: &v1::Input| {
            let age = input.age.map(|age| format!("{} s", age.seconds));
            vec![
                input.name.clone(),
                input.value.clone(),
                input.source.clone(),
                or_dash(age),
            ]
        };
        let inputs: Vec<_> = around.inputs.iter().map(row).collect();
        parts.push(table(&["INPUT", "VALUE", "SOURCE", "AGE"], &inputs));
        let qualities: Vec<_> = around.qualities().map(|one| one.as_str_name()).collect();
        parts.push(format!(
            "{} {}; bounds: {}; {}",
            around.model_name,
            around.model_version,
            around.calibration,
            qualities.join(" ")
        ));
    }
    parts.extend(answer.reasons.iter().map(|reason| format!("- {reason}")));
    parts.join("\n\n").replace("\n\n- ", "\n- ")
}
