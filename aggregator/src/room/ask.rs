//! What a caller asks of the room of nodes, checked. It measures nothing.

use std::time::Duration;

use plimsoll_estimate::headroom::Flavour;
use plimsoll_model::{ByteSize, Ratio};
use plimsoll_proto::parse::{self, ParseError};
use plimsoll_proto::v1;

/// Use is measured over this span unless asked otherwise.
const HORIZON_USUAL: Duration = Duration::from_secs(3_600);
/// Use is taken at this percentile unless asked otherwise.
const PERCENTILE_USUAL: i32 = 95;

/// What a caller asks, checked.
#[derive(Debug)]
pub(super) struct Question {
    pub(super) cpu_ratio: Option<Ratio>,
    pub(super) memory_ratio: Option<Ratio>,
    pub(super) reserved_cpus: Option<u64>,
    pub(super) reserved_memory: Option<u64>,
    pub(super) margin: Ratio,
    pub(super) horizon: Duration,
    pub(super) percentile: i32,
    pub(super) flavours: Vec<(String, Flavour)>,
}

impl Question {
    /// What is asked where the caller says nothing.
    pub(super) fn usual() -> Self {
        Self {
            cpu_ratio: None,
            memory_ratio: None,
            reserved_cpus: None,
            reserved_memory: None,
            margin: Ratio::from_millionths(0),
            horizon: HORIZON_USUAL,
            percentile: PERCENTILE_USUAL,
            flavours: Vec::new(),
        }
    }

    /// Whether use is measured as it is for those who say nothing of span and percentile.
    pub(super) fn measures_as_usual(&self) -> bool {
        self.horizon == HORIZON_USUAL && self.percentile == PERCENTILE_USUAL
    }

    pub(super) fn read(request: &v1::GetHeadroomRequest) -> Result<Self, ParseError> {
        let optional = |field, value: Option<i64>| {
            value.map(|value| parse::unsigned(field, value)).transpose()
        };
        let ratio = |field, value: Option<i64>| {
            value
                .map(|value| parse::sequence(field, value).map(Ratio::from_millionths))
                .transpose()
        };
        let margin = parse::unsigned("margin_millionths", request.margin_millionths)?;
        if margin > 999_999 {
            return Err(ParseError::new(
                "margin_millionths",
                "must lie in 0 to 999999",
            ));
        }
        let percentile = match request.percentile {
            0 => PERCENTILE_USUAL,
            one @ 1..=100 => one,
            _ => {
                return Err(ParseError::new(
                    "percentile",
                    "must lie in 1 to 100, or be 0 for 95",
                ));
            }
        };
        let horizon = match request.horizon {
            None => HORIZON_USUAL,
            Some(span) => Duration::try_from(span)
                .map_err(|_| ParseError::new("horizon", "must be 0 or longer"))?,
        };
        let flavour = |flavor: &v1::Flavor| {
            let vcpus = parse::sequence("flavors.vcpu_count", i64::from(flavor.vcpu_count))?;
            let memory = parse::sequence("flavors.memory_bytes", flavor.memory_bytes)?;
            let vcpu_count = u32::try_from(vcpus).unwrap_or(u32::MAX);
            let memory = ByteSize::from_bytes(memory);
            Ok((flavor.name.clone(), Flavour { vcpu_count, memory }))
        };
        Ok(Self {
            cpu_ratio: ratio("cpu_ratio_millionths", request.cpu_ratio_millionths)?,
            memory_ratio: ratio("memory_ratio_millionths", request.memory_ratio_millionths)?,
            reserved_cpus: optional(
                "reserved_cpu_count",
                request.reserved_cpu_count.map(i64::from),
            )?,
            reserved_memory: optional("reserved_memory_bytes", request.reserved_memory_bytes)?,
            margin: Ratio::from_millionths(margin),
            horizon,
            percentile,
            flavours: request
                .flavors
                .iter()
                .map(flavour)
                .collect::<Result<_, _>>()?,
        })
    }
}
