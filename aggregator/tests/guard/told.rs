//! What an operator is told of one node.

use plimsoll_model::NodeId;
use plimsoll_proto::v1;
use plimsoll_proto::v1::query_service_client::QueryServiceClient;
use tonic::transport::Channel;

use crate::site::OTHER;

/// The id of the node, as messages have it.
pub(crate) fn other() -> Vec<u8> {
    let node: NodeId = OTHER.parse().unwrap();
    node.as_bytes().to_vec()
}

/// All that is known of the true node, as an operator is told it.
#[expect(clippy::too_many_lines, reason = "one question after the other")]
pub(crate) async fn known(channel: &Channel) -> Vec<String> {
    let mut client = QueryServiceClient::new(channel.clone());
    let selector = v1::SeriesSelector {
        node_id: other(),
        ..v1::SeriesSelector::default()
    };
    let nodes = client
        .list_nodes(v1::ListNodesRequest::default())
        .await
        .unwrap()
        .into_inner();
    let mut node = nodes
        .nodes
        .into_iter()
        .find(|node| node.node_id == other())
        .unwrap();
    node.freshness = 0;
    let domains = v1::ListDomainsRequest {
        node_id: other(),
        ..v1::ListDomainsRequest::default()
    };
    let mut domains = client
        .list_domains(domains)
        .await
        .unwrap()
        .into_inner()
        .domains;
    for domain in &mut domains {
        // Who owns a domain that two nodes tell of depends on both.
        (domain.freshness, domain.owner) = (0, false);
    }
    let columns = v1::QueryColumnsRequest {
        selector: Some(selector.clone()),
        start_time: Some(prost_types::Timestamp::default()),
        ..v1::QueryColumnsRequest::default()
    };
    let mut latest = v1::GetLatestRequest {
        selector: Some(selector.clone()),
        ..v1::GetLatestRequest::default()
    };
    latest.page_size = 1_000;
    let mut latest = client
        .get_latest(latest)
        .await
        .unwrap()
        .into_inner()
        .readings;
    latest.iter_mut().for_each(|reading| reading.freshness = 0);
    let events = v1::ListEventsRequest {
        node_id: other(),
        ..v1::ListEventsRequest::default()
    };
    let gaps = v1::ListGapsRequest {
        node_id: other(),
        ..v1::ListGapsRequest::default()
    };
    let devices = v1::ListDevicesRequest {
        node_id: other(),
        ..v1::ListDevicesRequest::default()
    };
    vec![
        format!("{node:?}"),
        format!("{domains:?}"),
        format!(
            "{:?}",
            client.query_columns(columns).await.unwrap().into_inner()
        ),
        format!("{latest:?}"),
        format!(
            "{:?}",
            client.list_events(events).await.unwrap().into_inner()
        ),
        format!("{:?}", client.list_gaps(gaps).await.unwrap().into_inner()),
        format!(
            "{:?}",
            client.list_devices(devices).await.unwrap().into_inner()
        ),
    ]
}

/// How often a limit was met, as `/metrics` tells.
pub(crate) async fn counted(address: &str, limit: &str) -> u64 {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    stream
        .write_all(b"GET /metrics HTTP/1.1\r\n\r\n")
        .await
        .unwrap();
    let mut page = String::new();
    stream.read_to_string(&mut page).await.unwrap();
    let name = format!("plimsoll_limit_met_total{{limit=\"{limit}\"}} ");
    let line = page.lines().find_map(|line| line.strip_prefix(&name));
    line.unwrap().parse().unwrap()
}
