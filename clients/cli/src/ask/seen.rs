//! Series: their last values, or their values within a span.

use std::collections::BTreeSet;
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
            port_index: asked.port,
            ..v1::SeriesSelector::default()
        };
        let Some(text) = &asked.of else {
            return Ok(selector);
        };
        let (mut found, mut unknown) = (Vec::new(), Vec::new());
        let asked = [
            ("domain", self.domain_id(text).await),
            ("node", self.node_id(text).await),
            ("device", self.device_id(text).await),
        ];
        for (what, answer) in asked {
            match answer {
                Ok(bytes) => found.push((what, bytes)),
                Err(Failure::Refused(why)) => unknown.push(why),
                Err(failure) => return Err(failure),
            }
        }
        match found.as_slice() {
            [] => return Err(Failure::Refused(unknown.join("; and "))),
            [("domain", bytes)] => selector.domain_id.clone_from(bytes),
            [("node", bytes)] => selector.node_id.clone_from(bytes),
            [(_, bytes)] => selector.device_id.clone_from(bytes),
            several => {
                let named = |(what, bytes): &(&str, Vec<u8>)| format!("{what} {}", id(bytes));
                let all: Vec<String> = several.iter().map(named).collect();
                let all = all.join(" and ");
                return Err(Failure::Refused(format!(
                    "{text:?} names {all}; give the UUID"
                )));
            }
        }
        Ok(selector)
    }
}

/// Says what a series is about: a node, a domain, a device, or a port of one.
fn about(series: &v1::Series) -> String {
    if !series.device_id.is_empty() {
        let device = id(&series.device_id);
        return match series.port_index {
            Some(port) => format!("{device} port {port}"),
            None => device,
        };
    }
    if series.domain_id.is_empty() {
        id(&series.node_id)
    } else {
        id(&series.domain_id)
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
        let end = reading.sample.and_then(|sample| sample.end_time);
        vec![
            series.metric.clone(),
            series.part.clone(),
            or_dash(reading.sample.map(|sample| sample.value)),
            series.unit.clone(),
            ago(end.as_ref()),
            about(&series),
        ]
    };
    // A node's own series come first; those of its domains and devices follow.
    if of_node {
        all.sort_by_key(|one| {
            let series = one.series.as_ref();
            series.is_some_and(|one| !one.domain_id.is_empty() || !one.device_id.is_empty())
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
    // Incarnations of one series are asked for together, and do not stand side by side.
    let mut taken = BTreeSet::new();
    keys.retain(|key| {
        let of = (&key.node_id, &key.domain_id, &key.device_id, key.port_index);
        taken.insert(format!("{of:?} {} {}", key.metric, key.part))
    });
    if keys.len() > SERIES_MAX {
        return Err(Failure::Refused(format!(
            "{} series match, at most {SERIES_MAX} are shown with --since; name a domain, a device or a --metric",
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
                device_id: key.device_id,
                port_index: key.port_index,
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
