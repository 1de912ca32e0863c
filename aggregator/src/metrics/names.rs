//! Names of metrics as Prometheus wants them: derived from the catalogue, not written down twice.

use plimsoll_model::{Kind, Metric, Unit};

/// Returns the name of a metric: dots become underscores, the unit comes last, a counter ends in `_total`.
pub(super) fn name(metric: Metric) -> String {
    let mut name = format!("plimsoll_{}", metric.name().replace('.', "_"));
    if let Some(unit) = unit(metric.unit())
        && !name.ends_with(unit)
    {
        name.push('_');
        name.push_str(unit);
    }
    if metric.kind() == Kind::Counter && !name.ends_with("_total") {
        name.push_str("_total");
    }
    name
}

fn unit(unit: Unit) -> Option<&'static str> {
    Some(match unit {
        Unit::Enumeration | Unit::Count => return None,
        Unit::Bytes => "bytes",
        Unit::BytesPerSecond => "bytes_per_second",
        Unit::Pages => "pages",
        Unit::PagesPerSecond => "pages_per_second",
        Unit::Packets => "packets",
        Unit::Nanoseconds => "nanoseconds",
        Unit::Milliseconds | Unit::UnixMilliseconds => "milliseconds",
        Unit::UnixSeconds => "seconds",
        Unit::Hertz => "hertz",
        Unit::Millionths => "millionths",
        Unit::PerSecond => "per_second",
    })
}

/// Escapes the value of a label.
pub(super) fn escape(value: &str) -> String {
    let mut escaped = String::with_capacity(value.len());
    for c in value.chars() {
        match c {
            '\\' => escaped.push_str("\\\\"),
            '"' => escaped.push_str("\\\""),
            '\n' => escaped.push_str("\\n"),
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use plimsoll_model::metric::CATALOGUE;

    use super::*;

    #[test]
    fn every_metric_has_a_name_of_its_own_that_prometheus_takes() {
        let names: std::collections::BTreeSet<String> =
            CATALOGUE.iter().map(|entry| name(entry.metric)).collect();
        assert_eq!(names.len(), CATALOGUE.len());
        for name in names {
            assert!(
                name.chars()
                    .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_'),
                "{name}"
            );
        }
        assert_eq!(
            name(Metric::VmCpuTime),
            "plimsoll_vm_cpu_time_nanoseconds_total"
        );
        assert_eq!(
            name(Metric::HostMemAvailable),
            "plimsoll_host_mem_available_bytes"
        );
    }

    #[test]
    fn a_label_cannot_break_out_of_its_quotes() {
        assert_eq!(escape("a\"} 1\n\\"), "a\\\"} 1\\n\\\\");
    }
}
