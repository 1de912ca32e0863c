//! The readers of what libvirt tells, for the fuzzers.

use std::collections::HashMap;

use plimsoll_libvirt::{TypedParams, TypedValue};
use plimsoll_model::{BootId, DomainId, Incarnation, NodeId};

use super::{table, xml};
use crate::look::Values;

/// Reads a description of a domain or of a host; tells how many parts it has.
pub(crate) fn xml(text: &str) -> usize {
    let about = xml::About {
        domain: DomainId::random(),
        node: NodeId::random(),
        incarnation: Incarnation {
            boot: BootId::random(),
            started_ms: 1,
        },
    };
    let of_host = usize::from(xml::host_uuid(text).is_some())
        + usize::from(xml::time_stamp_counter(text).is_some());
    let Some(described) = xml::domain(text, about) else {
        return of_host;
    };
    let facts = &described.facts;
    let parts = facts.disks.len() + facts.network_cards.len();
    assert!(
        described
            .files
            .iter()
            .all(|(at, _)| *at < facts.disks.len())
    );
    1 + parts + described.throttles.len() + of_host
}

/// Reads statistics of a domain and of a job, one `name type value` a line.
pub(crate) fn typed_params(text: &str) -> usize {
    let params = TypedParams::new(text.lines().filter_map(entry).collect());
    let mut values = Values::default();
    table::stats(&params, &HashMap::new(), &mut values);
    table::job(&params, &mut values);
    let told = [
        table::zero_fraction(&params, Some(false)).is_some(),
        table::local_disks(&params, |_| true).is_some(),
        table::shape(&params).iter().any(Option::is_some),
        !values.is_empty(),
    ];
    told.into_iter().filter(|told| *told).count()
}

fn entry(line: &str) -> Option<(String, TypedValue)> {
    let mut words = line.splitn(3, ' ');
    let (name, kind, value) = (words.next()?, words.next()?, words.next()?);
    let value = match kind {
        "int" => TypedValue::Int(value.parse().ok()?),
        "uint" => TypedValue::UInt(value.parse().ok()?),
        "long" => TypedValue::Long(value.parse().ok()?),
        "ulong" => TypedValue::ULong(value.parse().ok()?),
        "double" => TypedValue::Double(value.parse().ok()?),
        "bool" => TypedValue::Boolean(value == "1"),
        _ => TypedValue::String(value.to_owned()),
    };
    Some((name.to_owned(), value))
}
