//! Series: their last values, or their values within a span.

use std::time::Duration;

use plimsoll_proto::v1;

use super::{Failure, PAGE_SIZE, Server, pretty};
use crate::args::{Series, Tell};
use crate::json;
use crate::table::{ago, id, instant, or_dash, table};

/// What `--since` may ask for at once: beyond it a selector is missing.
const SERIES_MAX: usize = 100;

impl Server {
    /// Makes a selector of what a domain or a node is called; a name that both have is refused.
    async fn selector(&mut self, asked: &Series) -> Result<v1::SeriesSelector, Failure> {
        let mut selector = v1::SeriesSelector {
            metric: asked.metric.clone(),
            part: asked.part.clone(),
            ..v1::SeriesSelector::default()
        };
        let Some(text) = &asked.of else {
            return Ok(selector);
        };
        let domain = self.domain_id(text).await;
        let node = self.node_id(text).await;
        match (domain, node) {
            (Ok(domain), Err(_)) => selector.domain_id = domain,
            (Err(_), Ok(node)) => selector.node_id = node,
            (Ok(domain), Ok(node)) => {
                return Err(Failure::Refused(format!(
                    "{text:?} names domain {} and node {}; give the UUID",
                    id(&domain),
                    id(&node)
                )));
            }
            (Err(Failure::Refused(domain)), Err(Failure::Refused(node))) => {
                return Err(Failure::Refused(format!("{domain}; and {node}")));
            }
            (Err(failure), Err(_)) => return Err(failure),
        }
        Ok(selector)
    }
}

/// Lists series.
pub(super) async fn series(
    server: &mut Server,
    as_json: bool,
    asked: &Series,
) -> Result<String, Failure> {
    let selector = server.selector(asked).await?;
    match asked.since {
        Some(since) => values(server, as_json, selector, (since, asked)).await,
        None => latest(server, as_json, selector).await,
    }
}

async fn latest(
    server: &mut Server,
    as_json: bool,
    selector: v1::SeriesSelector,
) -> Result<String, Failure> {
    let of_node = !selector.node_id.is_empty();
    let (mut all, mut page_token) = (Vec::new(), String::new());
    loop {
        let request = v1::GetLatestRequest {
            selector: Some(selector.clone()),
            page_size: PAGE_SIZE,
            page_token,
        };
        let answer = server.query.get_latest(request).await?.into_inner();
        all.extend(answer.readings);
        page_token = answer.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    if as_json {
        return Ok(pretty(all.iter().map(json::reading).collect()));
    }
    let row = |reading: &v1::LatestReading| {
        let series = reading.series.clone().unwrap_or_default();
        let about = if series.domain_id.is_empty() {
            &series.node_id
        } else {
            &series.domain_id
        };
        let end = reading.sample.and_then(|sample| sample.end_time);
        vec![
            series.metric.clone(),
            series.part.clone(),
            or_dash(reading.sample.map(|sample| sample.value)),
            series.unit.clone(),
            ago(end.as_ref()),
            id(about),
        ]
    };
    // A node's own series come first; those of its domains follow.
    if of_node {
        all.sort_by_key(|one| {
            let series = one.series.as_ref();
            series.is_some_and(|series| !series.domain_id.is_empty())
        });
    }
    Ok(table(
        &["METRIC", "PART", "VALUE", "UNIT", "AGO", "OF"],
        &all.iter().map(row).collect::<Vec<_>>(),
    ))
}

async fn values(
    server: &mut Server,
    as_json: bool,
    selector: v1::SeriesSelector,
    (since, asked): (Duration, &Series),
) -> Result<String, Failure> {
    let rate = asked.rate;
    let request = v1::ListSeriesRequest {
        selector: Some(selector),
        page_size: PAGE_SIZE,
        page_token: String::new(),
        past: asked.step.is_some(),
    };
    let mut keys = server.query.list_series(request).await?.into_inner().series;
    keys.retain(|key| !rate || key.counter);
    // Incarnations of one series are asked for together.
    keys.dedup_by(|a, b| {
        (&a.node_id, &a.domain_id, &a.metric, &a.part)
            == (&b.node_id, &b.domain_id, &b.metric, &b.part)
    });
    if keys.len() > SERIES_MAX {
        return Err(Failure::Refused(format!(
            "{} series match, at most {SERIES_MAX} are shown with --since; name a domain or a --metric",
            keys.len()
        )));
    }
    if keys.is_empty() {
        let what = if rate {
            "no counter matches"
        } else {
            "no series matches"
        };
        return Err(Failure::Refused(format!(
            "{what}; `plimsoll series` lists them"
        )));
    }
    let mut all = Vec::new();
    for key in keys {
        let request = v1::QueryRangeRequest {
            selector: Some(v1::SeriesSelector {
                node_id: key.node_id,
                domain_id: key.domain_id,
                metric: key.metric,
                part: Some(key.part),
            }),
            start_time: Some(ago_timestamp(since)),
            end_time: None,
            function: function(asked).into(),
            step: asked.step.map(plimsoll_proto::render::duration),
            ..v1::QueryRangeRequest::default()
        };
        all.extend(server.query.query_range(request).await?.into_inner().series);
    }
    if as_json {
        return Ok(pretty(all.iter().map(json::samples).collect()));
    }
    Ok(values_text(&all, rate) + &partial_text(&all))
}

fn function(asked: &Series) -> v1::RangeFunction {
    use v1::RangeFunction as Function;
    match (asked.rate, asked.step, asked.tell) {
        (true, ..) => Function::Rate,
        (false, None, _) => Function::Unspecified,
        (false, Some(_), tell) => match tell {
            Tell::Mean => Function::Mean,
            Tell::MeanOverTime => Function::MeanOverTime,
            Tell::Min => Function::Min,
            Tell::Max => Function::Max,
            Tell::Sum => Function::Sum,
            Tell::Count => Function::Count,
            Tell::Last => Function::Last,
            Tell::P95 => Function::P95,
            Tell::Increase => Function::Increase,
        },
    }
}

/// Names the damage that hides some of the values.
fn partial_text(all: &[v1::RangeSeries]) -> String {
    let mut text = String::new();
    for place in all.iter().flat_map(|one| &one.damaged_places) {
        let v1::DamagedPlace {
            file,
            offset_bytes,
            problem,
        } = place;
        text.push_str(&format!(
            "partial: {file} is damaged at byte {offset_bytes}: {problem}\n"
        ));
    }
    text
}

fn values_text(all: &[v1::RangeSeries], rate: bool) -> String {
    let mut rows = Vec::new();
    for one in all {
        let series = one.series.clone().unwrap_or_default();
        for sample in &one.samples {
            let (value, unit) = if rate {
                let value = format!("{:.3}", sample.value as f64 / 1e6);
                (value, format!("{}/s", series.unit))
            } else {
                (sample.value.to_string(), series.unit.clone())
            };
            rows.push(vec![
                instant(sample.end_time.as_ref()),
                series.metric.clone(),
                series.part.clone(),
                value,
                unit,
            ]);
        }
        for step in &one.steps {
            let per_second = if rate { "/s" } else { "" };
            rows.push(vec![
                instant(step.end_time.as_ref()),
                series.metric.clone(),
                series.part.clone(),
                format!("{:.3}", step.value),
                format!("{}{per_second}", series.unit),
            ]);
        }
    }
    table(&["TIME", "METRIC", "PART", "VALUE", "UNIT"], &rows)
}

/// The instant so long ago.
pub(super) fn ago_timestamp(since: Duration) -> prost_types::Timestamp {
    use plimsoll_model::Clock as _;
    let now = plimsoll_model::SystemClock::new().now();
    plimsoll_proto::render::timestamp(now.minus(since))
}
