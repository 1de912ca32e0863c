//! Tables and numbers for people.

use plimsoll_proto::v1;

/// Lines up columns two spaces apart.
pub(crate) fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = head.iter().map(|cell| cell.len()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |cells: Vec<&str>| {
        let padded = cells
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:<width$}"));
        padded.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    let mut lines = vec![line(head.to_vec())];
    lines.extend(
        rows.iter()
            .map(|row| line(row.iter().map(String::as_str).collect())),
    );
    lines.join("\n")
}

/// Writes an id as people do.
pub(crate) fn id(bytes: &[u8]) -> String {
    plimsoll_model::DomainId::from_slice(bytes).map_or_else(|_| "-".to_owned(), |id| id.to_string())
}

/// Writes a span in the unit that fits it.
pub(crate) fn span(ms: f64) -> String {
    if ms >= 120_000.0 {
        format!("{:.1} min", ms / 60_000.0)
    } else if ms >= 1_000.0 {
        format!("{:.1} s", ms / 1_000.0)
    } else {
        format!("{ms:.0} ms")
    }
}

/// Writes an interval: the middle, and its bounds.
pub(crate) fn bounds(interval: Option<&v1::Interval>, show: impl Fn(f64) -> String) -> String {
    interval.map_or_else(
        || "-".to_owned(),
        |one| format!("{} ({} - {})", show(one.p50), show(one.p10), show(one.p90)),
    )
}

/// Writes mebibytes.
pub(crate) fn mebibytes(bytes: f64) -> String {
    format!("{:.0} MiB", bytes / 1_048_576.0)
}

/// Writes what is not known as a dash.
pub(crate) fn or_dash<T: ToString>(value: Option<T>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_whatever_is_in_them() {
        let rows = vec![
            vec!["a".to_owned(), "1".to_owned()],
            vec!["long".to_owned(), "2".to_owned()],
        ];
        assert_eq!(table(&["NAME", "N"], &rows), "NAME  N\na     1\nlong  2");
    }

    #[test]
    fn a_span_is_told_in_the_unit_that_fits() {
        assert_eq!(
            (span(36.2), span(8_652.0), span(600_000.0)),
            ("36 ms".into(), "8.7 s".into(), "10.0 min".into())
        );
    }
}
