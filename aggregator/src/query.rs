//! The query service: what was seen, as it was seen. It estimates nothing.

use std::collections::BTreeSet;

use plimsoll_model::{Metric, NodeId, Part, Reading, SeriesKey, UnixMillis};
use plimsoll_proto::parse::{self, Excess, ParseError};
use plimsoll_proto::v1::query_service_server::QueryService;
use plimsoll_proto::{render, v1};
use plimsoll_store::{EventFilter, Rate, SeriesFilter};
use tonic::{Code, Request, Response, Status};

use crate::columns::Question;
use crate::devices;
use crate::guard::limits::Limit;
use crate::guard::view::View;
use crate::known::{DomainRow, Known};
use crate::page::{page, refused, status};
use crate::steps::{self, Told};

/// Usual and largest page of lists of things.
const THINGS: (usize, usize) = (100, 1_000);
/// Usual and largest page of lists of series.
const SERIES: (usize, usize) = (1_000, 10_000);
/// Samples of one series in one answer.
pub(crate) const SAMPLES_MAX: usize = 11_000;
/// Samples and steps that are read for one question.
pub(crate) const SCANNED_MAX: usize = 50_000_000;

/// The service.
#[derive(Debug, Clone)]
pub struct Query {
    /// What is known.
    pub known: Known,
}

impl Query {
    fn node(&self, node: NodeId) -> v1::Node {
        let now = self.known.clock.now();
        let seen = self
            .known
            .store
            .nodes()
            .into_iter()
            .find(|seen| seen.node == node);
        let facts = self.known.node_facts(node);
        let last = seen
            .map(|seen| seen.last)
            .max(facts.as_ref().map(|(_, seen)| *seen));
        let running = self
            .known
            .domains_on(node)
            .iter()
            .filter(|row| row.runs())
            .count();
        v1::Node {
            node_id: node.as_bytes().to_vec(),
            facts: facts.map(|(facts, seen)| render::node_facts(&facts, seen)),
            last_seen_time: last.map(render::timestamp),
            freshness: freshness(last.is_some_and(|last| self.known.is_fresh(last, now))),
            running_domain_count: i32::try_from(running).unwrap_or(i32::MAX),
            connected: self.known.roster.is_open(node),
        }
    }

    fn domain(&self, row: &DomainRow) -> v1::Domain {
        let owner = self.known.owner(row.facts.domain);
        v1::Domain {
            facts: Some(render::domain_facts_with_node(&row.facts, row.facts_seen)),
            state: row.state.and_then(|state| i32::try_from(state).ok()),
            last_seen_time: Some(render::timestamp(row.last_seen)),
            freshness: freshness(row.fresh),
            owner: owner.is_some_and(|owner| owner.facts.node == row.facts.node),
            hostname: self.known.hostname(row.facts.node),
        }
    }

    fn domains(&self, node: Option<NodeId>, fresh_only: bool) -> Vec<DomainRow> {
        let nodes: BTreeSet<NodeId> = match node {
            Some(node) => BTreeSet::from([node]),
            None => self
                .known
                .store
                .nodes()
                .into_iter()
                .map(|seen| seen.node)
                .collect(),
        };
        let mut rows = Vec::new();
        for node in nodes {
            rows.extend(self.known.domains_on(node));
        }
        rows.retain(|row| row.fresh || !fresh_only);
        rows.sort_by_key(|row| (row.facts.domain, row.facts.node));
        rows
    }

    /// Finds series; `past` ones too, of which only rollups are left.
    fn select(
        &self,
        selector: Option<v1::SeriesSelector>,
        past: bool,
        view: &View,
    ) -> Result<Vec<SeriesKey>, ParseError> {
        let selector = selector.unwrap_or_default();
        let (filter, prefix) = filter(&selector)?;
        let filter = SeriesFilter { past, ..filter };
        let mut keys = self.known.store.series(&filter);
        if let Some(prefix) = prefix {
            keys.retain(|key| key.metric.name().starts_with(prefix));
        }
        keys.retain(|key| view.sees_series(&self.known, key));
        Ok(keys)
    }

    fn range(
        &self,
        request: v1::QueryRangeRequest,
        view: &View,
    ) -> Result<v1::QueryRangeResponse, Status> {
        let from = parse::timestamp("start_time", request.start_time.as_ref())
            .map_err(|error| refused(&error))?;
        let to = match &request.end_time {
            None => self.known.clock.now(),
            at => parse::timestamp("end_time", at.as_ref()).map_err(|error| refused(&error))?,
        };
        let told = steps::asked(&request, (from, to)).map_err(|error| refused(&error))?;
        let keys = self
            .select(request.selector, told.past(), view)
            .map_err(|error| refused(&error))?;
        let mut names = keys
            .iter()
            .map(|key| (key.metric, &key.part, &key.subject))
            .map(|(metric, part, of)| (metric, part, of.domain(), of.device(), of.port()));
        let first = names.next().ok_or_else(|| {
            status(
                Code::NotFound,
                "SERIES_NOT_FOUND",
                "no series matches; ListSeries lists them",
            )
        })?;
        if names.any(|other| other != first) {
            let problem =
                "matches several series; name metric, part, and domain or device and port";
            return Err(refused(&ParseError::new("selector", problem)));
        }
        let mut budget = Budget(SCANNED_MAX);
        let mut series = Vec::with_capacity(keys.len());
        for key in &keys {
            let (one, read) = match told {
                Told::Steps(asked) => steps::series(&self.known.store, key, &asked)?,
                Told::Samples { rate } => self.samples(key, (from, to), rate)?,
            };
            budget.spend(read).map_err(|error| self.refuse(&error))?;
            series.push(one);
        }
        let says = |series: &v1::RangeSeries| {
            series.partial || !(series.samples.is_empty() && series.steps.is_empty())
        };
        let series = series.into_iter().filter(says).collect();
        Ok(v1::QueryRangeResponse { series })
    }

    fn samples(
        &self,
        key: &SeriesKey,
        (from, to): (UnixMillis, UnixMillis),
        rate: bool,
    ) -> Result<(v1::RangeSeries, usize), Status> {
        let store = &self.known.store;
        let range = store.range_with_holes(key, from, to);
        let read = range.samples.len();
        let samples: Vec<v1::Sample> = if rate {
            let rates = Rate::between(&range.samples);
            rates.iter().map(rate_sample).collect()
        } else {
            let samples = range.samples.into_iter();
            samples
                .map(|(window, value)| render::sample(window, value))
                .collect()
        };
        if samples.len() > SAMPLES_MAX {
            let problem = format!(
                "the span holds {} samples, at most {SAMPLES_MAX} fit an answer; ask for less",
                samples.len()
            );
            let refusal = ParseError::new("start_time", problem);
            return Err(self.refuse(&refusal.exceeding(Excess::Answer)));
        }
        let series = v1::RangeSeries {
            series: Some(render::series(key)),
            samples,
            samples_start_time: store.samples_from().map(render::timestamp),
            ..steps::partial(&range.holes)
        };
        Ok((series, read))
    }

    /// Renders a refusal, and counts the limit that it met, if it met one.
    fn refuse(&self, error: &ParseError) -> Status {
        if error.excess.is_some() {
            self.known.met.note(Limit::of(error), &*self.known.clock);
        }
        refused(error)
    }
}

/// Samples that may still be read for a question. One series is always read, for it is no more than was kept
/// of it; the next one is refused where they are used up.
#[derive(Debug)]
struct Budget(usize);

impl Budget {
    fn spend(&mut self, read: usize) -> Result<(), ParseError> {
        let left = self.0.checked_sub(read).ok_or_else(|| {
            let problem = format!(
                "means series of more than {SCANNED_MAX} samples in the span; name fewer, or ask for less"
            );
            ParseError::new("selector", problem).exceeding(Excess::Scan)
        })?;
        self.0 = left;
        Ok(())
    }
}

/// Reads a selector: what the store is asked for, and the beginning of the names that are meant where
/// it is no whole name.
pub(crate) fn filter(
    selector: &v1::SeriesSelector,
) -> Result<(SeriesFilter, Option<&str>), ParseError> {
    let exact = Metric::from_name(&selector.metric);
    let prefix = selector.metric.strip_suffix('*');
    if exact.is_none() && prefix.is_none() && !selector.metric.is_empty() {
        let problem = format!(
            "{:?} is no metric; end it in * to match a beginning",
            selector.metric
        );
        return Err(ParseError::new("selector.metric", problem));
    }
    let part = selector.part.as_deref().map(Part::named).transpose();
    let filter = SeriesFilter {
        node: parse::node_id_opt("selector.node_id", &selector.node_id)?,
        domain: parse::domain_id_opt("selector.domain_id", &selector.domain_id)?,
        device: parse::device_id_opt("selector.device_id", &selector.device_id)?,
        port: parse::unsigned32_opt("selector.port_index", selector.port_index)?,
        metric: exact,
        part: part.map_err(|error| ParseError::new("selector.part", error.to_string()))?,
        past: false,
    };
    Ok((filter, prefix))
}

fn rate_sample(rate: &Rate) -> v1::Sample {
    let span = rate.end.since(rate.begin);
    let millis = span.as_millis().max(1);
    let millionths = u128::from(rate.increase) * 1_000_000_000 / millis;
    v1::Sample {
        end_time: Some(render::timestamp(rate.end)),
        width: Some(render::duration(span)),
        value: i64::try_from(millionths).unwrap_or(i64::MAX),
    }
}

/// Takes out where a domain runs, which is not for those who see domains only.
fn hide_node(domain: &mut v1::Domain) {
    domain.hostname.clear();
    if let Some(facts) = &mut domain.facts {
        facts.node_id.clear();
        facts.disks.clear();
    }
}

fn freshness(fresh: bool) -> i32 {
    if fresh {
        v1::Freshness::Fresh.into()
    } else {
        v1::Freshness::Stale.into()
    }
}

#[tonic::async_trait]
impl QueryService for Query {
    async fn list_nodes(
        &self,
        request: Request<v1::ListNodesRequest>,
    ) -> Result<Response<v1::ListNodesResponse>, Status> {
        let request = request.into_inner();
        let all = self.known.store.nodes();
        let (nodes, next_page_token) = page(all, request.page_size, &request.page_token, THINGS)
            .map_err(|error| refused(&error))?;
        let nodes = nodes.into_iter().map(|seen| self.node(seen.node)).collect();
        Ok(Response::new(v1::ListNodesResponse {
            nodes,
            next_page_token,
        }))
    }

    async fn list_domains(
        &self,
        request: Request<v1::ListDomainsRequest>,
    ) -> Result<Response<v1::ListDomainsResponse>, Status> {
        let view = View::of(&request);
        let request = request.into_inner();
        let node = parse::node_id_opt("node_id", &request.node_id).map_err(|e| refused(&e))?;
        let mut all = self.domains(node, request.fresh_only);
        all.retain(|row| view.sees(&row.facts));
        let (rows, next_page_token) = page(all, request.page_size, &request.page_token, THINGS)
            .map_err(|error| refused(&error))?;
        let mut domains: Vec<v1::Domain> = rows.iter().map(|row| self.domain(row)).collect();
        if !view.is_all() {
            domains.iter_mut().for_each(hide_node);
        }
        Ok(Response::new(v1::ListDomainsResponse {
            domains,
            next_page_token,
        }))
    }

    async fn list_devices(
        &self,
        request: Request<v1::ListDevicesRequest>,
    ) -> Result<Response<v1::ListDevicesResponse>, Status> {
        let request = request.into_inner();
        let node = parse::node_id_opt("node_id", &request.node_id).map_err(|e| refused(&e))?;
        let all = devices::list(&self.known, node);
        let (devices, next_page_token) = page(all, request.page_size, &request.page_token, THINGS)
            .map_err(|error| refused(&error))?;
        Ok(Response::new(v1::ListDevicesResponse {
            devices,
            next_page_token,
        }))
    }

    async fn list_series(
        &self,
        request: Request<v1::ListSeriesRequest>,
    ) -> Result<Response<v1::ListSeriesResponse>, Status> {
        let view = View::of(&request);
        let request = request.into_inner();
        let all = self
            .select(request.selector, request.past, &view)
            .map_err(|error| refused(&error))?;
        let (keys, next_page_token) = page(all, request.page_size, &request.page_token, SERIES)
            .map_err(|error| refused(&error))?;
        let series = keys.iter().map(render::series).collect();
        Ok(Response::new(v1::ListSeriesResponse {
            series,
            next_page_token,
        }))
    }

    async fn get_latest(
        &self,
        request: Request<v1::GetLatestRequest>,
    ) -> Result<Response<v1::GetLatestResponse>, Status> {
        let view = View::of(&request);
        let request = request.into_inner();
        let selector = request.selector.unwrap_or_default();
        let (filter, prefix) = filter(&selector).map_err(|error| refused(&error))?;
        let mut all = self.known.latest_of_all(&filter);
        if let Some(prefix) = prefix {
            all.retain(|read| read.key.metric.name().starts_with(prefix));
        }
        all.retain(|read| view.sees_series(&self.known, &read.key));
        let (read, next_page_token) = page(all, request.page_size, &request.page_token, SERIES)
            .map_err(|error| refused(&error))?;
        let now = self.known.clock.now();
        let paces = devices::intervals(&self.known);
        let is_fresh = |read: &Reading| {
            let device = read.key.subject.device();
            match device.and_then(|device| paces.get(&device)) {
                None => self.known.is_fresh(read.window.end, now),
                Some(pace) => now.since(read.window.end) <= *pace * devices::STALE_INTERVALS,
            }
        };
        let reading = |read: &Reading| v1::LatestReading {
            series: Some(render::series(&read.key)),
            sample: Some(render::sample(read.window, read.value)),
            freshness: freshness(is_fresh(read)),
        };
        let readings = read.iter().map(reading).collect();
        Ok(Response::new(v1::GetLatestResponse {
            readings,
            next_page_token,
        }))
    }

    async fn query_range(
        &self,
        request: Request<v1::QueryRangeRequest>,
    ) -> Result<Response<v1::QueryRangeResponse>, Status> {
        let view = View::of(&request);
        self.range(request.into_inner(), &view).map(Response::new)
    }

    async fn query_columns(
        &self,
        request: Request<v1::QueryColumnsRequest>,
    ) -> Result<Response<v1::QueryColumnsResponse>, Status> {
        let now = self.known.clock.now();
        let question = Question::read(request.into_inner(), now).map_err(|e| refused(&e))?;
        let answer = question.answer(&self.known.store);
        answer
            .map(Response::new)
            .map_err(|error| self.refuse(&error))
    }

    async fn list_events(
        &self,
        request: Request<v1::ListEventsRequest>,
    ) -> Result<Response<v1::ListEventsResponse>, Status> {
        let request = request.into_inner();
        let domain =
            parse::domain_id_opt("domain_id", &request.domain_id).map_err(|e| refused(&e))?;
        let node = parse::node_id_opt("node_id", &request.node_id).map_err(|e| refused(&e))?;
        let filter = EventFilter { node, domain };
        let first = match &request.start_time {
            None => UnixMillis::from_millis(0),
            at => parse::timestamp("start_time", at.as_ref()).map_err(|e| refused(&e))?,
        };
        let last = UnixMillis::from_millis(i64::MAX);
        let mut all = self.known.store.events(first, last, &filter);
        all.reverse();
        let (events, next_page_token) = page(all, request.page_size, &request.page_token, THINGS)
            .map_err(|error| refused(&error))?;
        let events = events
            .iter()
            .map(|event| v1::SeenEvent {
                node_id: event.node.as_bytes().to_vec(),
                event: Some(render::event(event)),
            })
            .collect();
        Ok(Response::new(v1::ListEventsResponse {
            events,
            next_page_token,
        }))
    }

    async fn list_gaps(
        &self,
        request: Request<v1::ListGapsRequest>,
    ) -> Result<Response<v1::ListGapsResponse>, Status> {
        let request = request.into_inner();
        let nodes =
            match parse::node_id_opt("node_id", &request.node_id).map_err(|e| refused(&e))? {
                Some(node) => vec![node],
                None => self
                    .known
                    .store
                    .nodes()
                    .into_iter()
                    .map(|seen| seen.node)
                    .collect(),
            };
        let mut all: Vec<_> = nodes
            .into_iter()
            .flat_map(|node| self.known.store.gaps(node))
            .collect();
        all.sort_by_key(|gap| gap.declared);
        let (gaps, next_page_token) = page(all, request.page_size, &request.page_token, THINGS)
            .map_err(|error| refused(&error))?;
        let gaps = gaps
            .iter()
            .map(|gap| v1::SeenGap {
                node_id: gap.node.as_bytes().to_vec(),
                gap: Some(render::gap(gap)),
                declared_time: Some(render::timestamp(gap.declared)),
            })
            .collect();
        Ok(Response::new(v1::ListGapsResponse {
            gaps,
            next_page_token,
        }))
    }
}

#[cfg(test)]
mod tests;
