//! Devices that nodes poll.

use plimsoll_proto::v1;

use super::{Failure, PAGE_SIZE, Server, one, pretty};
use crate::json;
use crate::table::{ago, id, or_dash, table};

impl Server {
    async fn all_devices(&mut self, node_id: Vec<u8>) -> Result<Vec<v1::Device>, Failure> {
        let (mut all, mut page_token) = (Vec::new(), String::new());
        loop {
            let request = v1::ListDevicesRequest {
                page_size: PAGE_SIZE,
                page_token,
                node_id: node_id.clone(),
            };
            let answer = self.query.list_devices(request).await?.into_inner();
            all.extend(answer.devices);
            page_token = answer.next_page_token;
            if page_token.is_empty() {
                return Ok(all);
            }
        }
    }

    /// Finds a device by UUID or by a name that only one has.
    pub(super) async fn device_id(&mut self, text: &str) -> Result<Vec<u8>, Failure> {
        let devices = self.all_devices(Vec::new()).await?.into_iter();
        let mut ids: Vec<Vec<u8>> = devices
            .filter_map(|device| device.facts)
            .filter(|facts| facts.name == text || id(&facts.device_id) == text.to_lowercase())
            .map(|facts| facts.device_id)
            .collect();
        ids.dedup();
        one(ids, "device", text, "`plimsoll devices` lists them")
    }
}

/// Lists devices.
pub(super) async fn devices(
    server: &mut Server,
    as_json: bool,
    node: Option<&str>,
) -> Result<String, Failure> {
    let node_id = server.node_id_opt(node).await?;
    let devices = server.all_devices(node_id).await?;
    if as_json {
        return Ok(pretty(devices.iter().map(json::device).collect()));
    }
    let row = |device: &v1::Device| {
        let facts = device.facts.clone().unwrap_or_default();
        let answers = device
            .answers
            .map(|answers| if answers { "yes" } else { "no" });
        vec![
            facts.name,
            id(&facts.device_id),
            facts.address,
            facts.profile,
            device.hostname.clone(),
            or_dash(answers),
            ago(device.last_asked_time.as_ref()),
            or_dash(facts.system_name),
        ]
    };
    let head = [
        "NAME",
        "DEVICE",
        "ADDRESS",
        "PROFILE",
        "BY",
        "ANSWERS",
        "AGO",
        "CALLS ITSELF",
    ];
    Ok(table(&head, &devices.iter().map(row).collect::<Vec<_>>()))
}
