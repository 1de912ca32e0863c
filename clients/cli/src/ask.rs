//! One function for each command: asks, and returns what is to be printed.

mod advice;
mod devices;
mod failure;
mod moving;
mod past;
mod seen;
mod words;

use std::error::Error as _;
use std::time::Duration;

use plimsoll_proto::dial::{self, Credentials};
use plimsoll_proto::v1;
use plimsoll_proto::v1::estimate_service_client::EstimateServiceClient;
use plimsoll_proto::v1::planner_service_client::PlannerServiceClient;
use plimsoll_proto::v1::query_service_client::QueryServiceClient;
use serde_json::Value;
use tonic::transport::Channel;

pub(crate) use self::failure::Failure;
use self::failure::unreachable;
use crate::args::{Args, Command, Headroom};
use crate::json;
use crate::table::{id, mebibytes, or_dash, table};

/// How long a call may take.
const DEADLINE: Duration = Duration::from_secs(10);
/// Rows asked for at once.
const PAGE_SIZE: i32 = 1_000;

struct Server {
    query: QueryServiceClient<Channel>,
    estimate: EstimateServiceClient<Channel>,
    planner: PlannerServiceClient<Channel>,
}

/// Asks what the command line says.
pub(crate) async fn run(args: &Args) -> Result<String, Failure> {
    let mut server = connect(args).await?;
    match &args.command {
        Command::Nodes => nodes(&mut server, args.json).await,
        Command::Domains { node, fresh } => {
            domains(&mut server, args.json, node.as_deref(), *fresh).await
        }
        Command::Devices { node } => {
            devices::devices(&mut server, args.json, node.as_deref()).await
        }
        Command::Series(asked) => seen::series(&mut server, args.json, asked).await,
        Command::Events {
            domain,
            node,
            since,
            limit,
        } => {
            let about = (domain.as_deref(), node.as_deref());
            past::events(&mut server, args.json, about, (*since, *limit)).await
        }
        command @ (Command::Feasible { .. }
        | Command::Targets { .. }
        | Command::Evacuate { .. }
        | Command::Conflicts) => advice::run(&mut server, args.json, command).await,
        Command::Gaps { node } => past::gaps(&mut server, args.json, node.as_deref()).await,
        Command::Estimate(asked) => moving::estimate(&mut server, args.json, asked).await,
        Command::Compare {
            question,
            downtime_max_ms,
        } => moving::compare(&mut server, args.json, question, *downtime_max_ms).await,
        Command::Headroom(asked) => headroom(&mut server, args.json, asked).await,
        Command::Accuracy { since } => past::accuracy(&mut server, args.json, *since).await,
        Command::Migrations {
            domain,
            node,
            since,
            limit,
        } => {
            let about = (domain.as_deref(), node.as_deref());
            past::migrations(&mut server, args.json, about, (*since, *limit)).await
        }
    }
}

async fn connect(args: &Args) -> Result<Server, Failure> {
    let url = &args.server;
    let credentials = match (&args.ca, &args.cert, &args.key) {
        (Some(ca), Some(certificate), Some(key)) => Some(Credentials {
            ca: ca.clone(),
            certificate: certificate.clone(),
            key: key.clone(),
        }),
        _ => None,
    };
    let endpoint = dial::endpoint(url, credentials.as_ref())
        .map_err(|error| {
            let cause = error.source().map(|source| format!(": {source}"));
            let help = "(--server, --ca, --cert, --key)";
            Failure::Refused(format!("{error}{} {help}", cause.unwrap_or_default()))
        })?
        .connect_timeout(DEADLINE)
        .timeout(DEADLINE);
    let refused = |error: tonic::transport::Error| Failure::Unreachable(unreachable(url, &error));
    let channel = endpoint.connect().await.map_err(refused)?;
    Ok(Server {
        query: QueryServiceClient::new(channel.clone()),
        planner: PlannerServiceClient::new(channel.clone()),
        estimate: EstimateServiceClient::new(channel),
    })
}

impl Server {
    async fn all_nodes(&mut self) -> Result<Vec<v1::Node>, Failure> {
        let (mut all, mut page_token) = (Vec::new(), String::new());
        loop {
            let request = v1::ListNodesRequest {
                page_size: PAGE_SIZE,
                page_token,
            };
            let answer = self.query.list_nodes(request).await?.into_inner();
            all.extend(answer.nodes);
            page_token = answer.next_page_token;
            if page_token.is_empty() {
                return Ok(all);
            }
        }
    }

    async fn all_domains(&mut self) -> Result<Vec<v1::Domain>, Failure> {
        self.domains_where(Vec::new(), false).await
    }

    async fn domains_where(
        &mut self,
        node_id: Vec<u8>,
        fresh_only: bool,
    ) -> Result<Vec<v1::Domain>, Failure> {
        let (mut all, mut page_token) = (Vec::new(), String::new());
        loop {
            let request = v1::ListDomainsRequest {
                page_size: PAGE_SIZE,
                page_token,
                node_id: node_id.clone(),
                fresh_only,
            };
            let answer = self.query.list_domains(request).await?.into_inner();
            all.extend(answer.domains);
            page_token = answer.next_page_token;
            if page_token.is_empty() {
                return Ok(all);
            }
        }
    }

    /// Finds a domain by UUID or by a name that only one has.
    async fn domain_id(&mut self, text: &str) -> Result<Vec<u8>, Failure> {
        let mut ids: Vec<Vec<u8>> = Vec::new();
        for facts in self
            .all_domains()
            .await?
            .into_iter()
            .filter_map(|domain| domain.facts)
        {
            if (facts.name == text || id(&facts.domain_id) == text.to_lowercase())
                && !ids.contains(&facts.domain_id)
            {
                ids.push(facts.domain_id);
            }
        }
        one(ids, "domain", text, "`plimsoll domains` lists them")
    }

    async fn domain_id_opt(&mut self, text: Option<&str>) -> Result<Vec<u8>, Failure> {
        match text {
            Some(text) => self.domain_id(text).await,
            None => Ok(Vec::new()),
        }
    }

    async fn node_id_opt(&mut self, text: Option<&str>) -> Result<Vec<u8>, Failure> {
        match text {
            Some(text) => self.node_id(text).await,
            None => Ok(Vec::new()),
        }
    }

    /// Finds a node by UUID or by a host name that only one has.
    async fn node_id(&mut self, text: &str) -> Result<Vec<u8>, Failure> {
        let named = |node: &v1::Node| {
            node.facts
                .as_ref()
                .is_some_and(|facts| facts.hostname == text)
                || id(&node.node_id) == text.to_lowercase()
        };
        let nodes = self.all_nodes().await?;
        let ids = nodes
            .into_iter()
            .filter(named)
            .map(|node| node.node_id)
            .collect();
        one(ids, "node", text, "`plimsoll nodes` lists them")
    }
}

fn one(ids: Vec<Vec<u8>>, what: &str, text: &str, remedy: &str) -> Result<Vec<u8>, Failure> {
    match ids.as_slice() {
        [only] => Ok(only.clone()),
        [] => Err(Failure::Refused(format!(
            "no {what} {text:?} is known; {remedy}"
        ))),
        many => {
            let names: Vec<String> = many.iter().map(|bytes| id(bytes)).collect();
            Err(Failure::Refused(format!(
                "{text:?} names several: {}; give the UUID",
                names.join(", ")
            )))
        }
    }
}

fn pretty(rows: Vec<Value>) -> String {
    format!("{:#}", Value::Array(rows))
}

async fn nodes(server: &mut Server, as_json: bool) -> Result<String, Failure> {
    let nodes = server.all_nodes().await?;
    if as_json {
        return Ok(pretty(nodes.iter().map(json::node).collect()));
    }
    let row = |node: &v1::Node| {
        let facts = node.facts.clone().unwrap_or_default();
        vec![
            facts.hostname,
            id(&node.node_id),
            or_dash(facts.cpu_count),
            facts
                .memory_bytes
                .map_or("-".to_owned(), |bytes| mebibytes(bytes as f64)),
            or_dash(facts.libvirt_version),
            node.running_domain_count.to_string(),
            node.freshness()
                .as_str_name()
                .trim_start_matches("FRESHNESS_")
                .to_lowercase(),
        ]
    };
    let head = [
        "HOST", "NODE", "CPUS", "MEMORY", "LIBVIRT", "RUNNING", "DATA",
    ];
    Ok(table(&head, &nodes.iter().map(row).collect::<Vec<_>>()))
}

async fn domains(
    server: &mut Server,
    as_json: bool,
    node: Option<&str>,
    fresh: bool,
) -> Result<String, Failure> {
    let node_id = server.node_id_opt(node).await?;
    let domains = server.domains_where(node_id, fresh).await?;
    if as_json {
        return Ok(pretty(domains.iter().map(json::domain).collect()));
    }
    let row = |domain: &v1::Domain| {
        let facts = domain.facts.clone().unwrap_or_default();
        vec![
            facts.name,
            id(&facts.domain_id),
            domain.hostname.clone(),
            or_dash(domain.state),
            if domain.owner { "yes" } else { "no" }.to_owned(),
            facts
                .memory_max_bytes
                .map_or("-".to_owned(), |bytes| mebibytes(bytes as f64)),
            domain
                .freshness()
                .as_str_name()
                .trim_start_matches("FRESHNESS_")
                .to_lowercase(),
        ]
    };
    let head = ["NAME", "DOMAIN", "HOST", "STATE", "OWNER", "MEMORY", "DATA"];
    Ok(table(&head, &domains.iter().map(row).collect::<Vec<_>>()))
}

async fn headroom(server: &mut Server, as_json: bool, asked: &Headroom) -> Result<String, Failure> {
    let mut node_ids = Vec::new();
    for text in &asked.nodes {
        node_ids.push(server.node_id(text).await?);
    }
    let ratio =
        |ratio: plimsoll_model::Ratio| i64::try_from(ratio.millionths()).unwrap_or(i64::MAX);
    let size = |size: plimsoll_model::ByteSize| i64::try_from(size.bytes()).unwrap_or(i64::MAX);
    let flavor =
        |(name, vcpu_count, memory): &(String, i32, plimsoll_model::ByteSize)| v1::Flavor {
            name: name.clone(),
            vcpu_count: *vcpu_count,
            memory_bytes: size(*memory),
        };
    let request = v1::GetHeadroomRequest {
        node_ids,
        cpu_ratio_millionths: asked.cpu_ratio.map(ratio),
        memory_ratio_millionths: asked.ram_ratio.map(ratio),
        reserved_cpu_count: asked.reserved_cpus,
        reserved_memory_bytes: asked.reserved_ram.map(size),
        margin_millionths: asked.margin.map_or(0, ratio),
        horizon: asked.horizon.map(wire_span).transpose()?,
        percentile: asked.percentile.unwrap_or_default(),
        flavors: asked.flavor.iter().map(flavor).collect(),
    };
    let nodes = server
        .estimate
        .get_headroom(request)
        .await?
        .into_inner()
        .nodes;
    if as_json {
        return Ok(pretty(nodes.iter().map(json::headroom).collect()));
    }
    Ok(headroom_text(&nodes))
}

fn wire_span(span: Duration) -> Result<prost_types::Duration, Failure> {
    span.try_into()
        .map_err(|_| Failure::Refused("the span is too long".to_owned()))
}

/// Lists resources and what fits, node by node.
fn headroom_text(nodes: &[v1::NodeHeadroom]) -> String {
    let mut rows = Vec::new();
    for node in nodes {
        for one in &node.resources {
            let show = |value: i64| match one.unit.as_str() {
                "bytes" => mebibytes(value as f64),
                _ => format!("{:.1}", value as f64 / 1_000.0),
            };
            rows.push(vec![
                node.hostname.clone(),
                one.resource.clone(),
                show(one.total),
                show(one.reserved),
                format!("{}", one.ratio_millionths as f64 / 1e6),
                show(one.allocated),
                show(one.allocation_headroom),
                one.used.map_or("-".to_owned(), show),
                one.physical_headroom.map_or("-".to_owned(), show),
            ]);
        }
        rows.extend(node.fits.iter().map(|fit| {
            let text = format!(
                "fits {} x {} (ends with {})",
                fit.count, fit.name, fit.binding_resource
            );
            vec![node.hostname.clone(), text]
        }));
    }
    let head = [
        "HOST",
        "RESOURCE",
        "TOTAL",
        "RESERVED",
        "RATIO",
        "ALLOCATED",
        "TO PROMISE",
        "USED",
        "LEFT",
    ];
    table(&head, &rows)
}
