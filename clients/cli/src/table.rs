//! Tables and numbers for people.

use std::io::IsTerminal as _;
use std::time::Duration;

use plimsoll_model::Clock as _;
use plimsoll_proto::v1;

/// Columns are not cut below this many characters.
const CUT_MIN: usize = 8;

/// Lines up columns two spaces apart; on a terminal the widest are cut until a line fits.
pub(crate) fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let width = std::io::stdout()
        .is_terminal()
        .then(terminal_size::terminal_size)
        .flatten()
        .map(|(width, _)| usize::from(width.0));
    table_within(head, rows, width)
}

fn fit(widths: &mut [usize], limit: usize) {
    let gaps = widths.len().saturating_sub(1) * 2;
    while widths.iter().sum::<usize>() + gaps > limit {
        let Some(widest) = widths.iter_mut().max() else {
            return;
        };
        if *widest <= CUT_MIN {
            return;
        }
        *widest -= 1;
    }
}

fn cut(cell: &str, width: usize) -> String {
    if cell.chars().count() <= width {
        return cell.to_owned();
    }
    let kept: String = cell.chars().take(width.saturating_sub(1)).collect();
    format!("{kept}\u{2026}")
}

fn table_within(head: &[&str], rows: &[Vec<String>], limit: Option<usize>) -> String {
    let mut widths: Vec<usize> = head.iter().map(|cell| cell.len()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    if let Some(limit) = limit {
        fit(&mut widths, limit);
    }
    let line = |cells: Vec<&str>| {
        let padded = cells
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{:<width$}", cut(cell, *width)));
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

/// Writes an instant in UTC, to the second: `2026-11-24 05:03:07Z`.
pub(crate) fn instant(at: Option<&prost_types::Timestamp>) -> String {
    let Some(at) = at else {
        return "-".to_owned();
    };
    let (days, second) = (at.seconds.div_euclid(86_400), at.seconds.rem_euclid(86_400));
    // The calendar repeats every 400 years of 146097 days; years are counted from March.
    let shifted = days + 719_468;
    let (era, day) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (month, over) = if month < 10 {
        (month + 3, 0)
    } else {
        (month - 9, 1)
    };
    let year = year + era * 400 + over;
    format!(
        "{year:04}-{month:02}-{day:02} {:02}:{:02}:{:02}Z",
        second / 3_600,
        second / 60 % 60,
        second % 60
    )
}

/// Writes how long ago an instant was, by this machine's clock.
pub(crate) fn ago(at: Option<&prost_types::Timestamp>) -> String {
    let now = plimsoll_model::SystemClock::new().now().millis();
    at.map_or("-".to_owned(), |at| {
        let passed = now.saturating_sub(at.seconds.saturating_mul(1_000));
        let passed = Duration::from_millis(u64::try_from(passed).unwrap_or(0));
        format!("{} s", passed.as_secs())
    })
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
    fn a_line_is_cut_where_it_would_not_fit() {
        let rows = vec![vec![
            "short".to_owned(),
            "a very long cell indeed".to_owned(),
        ]];
        let text = table_within(&["A", "B"], &rows, Some(20));
        assert!(
            text.lines().all(|line| line.chars().count() <= 20),
            "{text}"
        );
        assert!(
            text.contains("short") && text.contains('\u{2026}'),
            "{text}"
        );
    }

    #[test]
    fn an_instant_is_told_as_people_write_it() {
        let at = |seconds| instant(Some(&prost_types::Timestamp { seconds, nanos: 0 }));
        assert_eq!(at(0), "1970-01-01 00:00:00Z");
        assert_eq!(at(951_782_399), "2000-02-28 23:59:59Z");
        assert_eq!(at(951_868_799), "2000-02-29 23:59:59Z");
        assert_eq!(at(1795496587), "2026-11-24 05:03:07Z");
    }

    #[test]
    fn a_span_is_told_in_the_unit_that_fits() {
        assert_eq!(
            (span(36.2), span(8_652.0), span(600_000.0)),
            ("36 ms".into(), "8.7 s".into(), "10.0 min".into())
        );
    }
}
