//! An estimate in one sentence. It rounds, and decides nothing.

use plimsoll_model::Bandwidth;
use plimsoll_proto::v1;

use crate::table::span;

/// Writes a span with its bounds in the unit of the middle: `12 s (9-15 s)`.
pub(crate) fn about(one: &v1::Interval) -> String {
    let (unit, ms) = match one.p50 {
        p50 if p50 >= 120_000.0 => ("min", 60_000.0),
        p50 if p50 >= 1_000.0 => ("s", 1_000.0),
        _ => ("ms", 1.0),
    };
    let show = |value: f64| {
        let value = value / ms;
        if value < 10.0 && ms > 1.0 {
            format!("{value:.1}")
        } else {
            format!("{value:.0}")
        }
    };
    format!(
        "{} {unit} ({}-{} {unit})",
        show(one.p50),
        show(one.p10),
        show(one.p90)
    )
}

/// Says whether a migration ends and how it goes, or what it would take.
pub(crate) fn verdict(said: &v1::MigrationEstimate) -> String {
    let sure = said
        .convergence_probability
        .map_or("how sure is not known".to_owned(), |p| {
            format!("{:.0} % sure", p * 100.0)
        });
    let total = said.total_ms.as_ref().map_or("?".to_owned(), about);
    let down = said
        .downtime_ms
        .as_ref()
        .map_or(String::new(), |down| format!(", {} down", span(down.p50)));
    match said.verdict() {
        v1::Verdict::Converges => format!("moves in {total}{down}, {sure}"),
        v1::Verdict::AtRisk if said.total_ms.is_some() => {
            format!("may not converge, {sure} that it does; if so, moves in {total}{down}")
        }
        v1::Verdict::AtRisk => format!("may not converge, {sure} that it does"),
        v1::Verdict::DoesNotConverge => match needs(said) {
            Some(needs) => format!("will not converge: needs {needs}"),
            None => "will not converge, and no bandwidth or downtime limit would help".to_owned(),
        },
        v1::Verdict::Unspecified => "cannot be told: an input is missing".to_owned(),
    }
}

fn needs(said: &v1::MigrationEstimate) -> Option<String> {
    let rate = said.bandwidth_needed_bytes_per_second.map(|rate| {
        let rate = u64::try_from(rate).unwrap_or(0);
        Bandwidth::from_bytes_per_second(rate).to_string()
    });
    let limit = said
        .downtime_limit_needed_ms
        .map(|limit| format!("a downtime limit of {}", span(limit as f64)));
    let both: Vec<String> = rate.into_iter().chain(limit).collect();
    (!both.is_empty()).then(|| both.join(" or "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interval(p10: f64, p50: f64, p90: f64) -> Option<v1::Interval> {
        Some(v1::Interval { p10, p50, p90 })
    }

    #[test]
    fn a_good_end_is_told_with_its_bounds() {
        let said = v1::MigrationEstimate {
            verdict: v1::Verdict::Converges.into(),
            convergence_probability: Some(0.97),
            total_ms: interval(9_100.0, 12_000.0, 15_300.0),
            downtime_ms: interval(20.0, 40.0, 90.0),
            ..v1::MigrationEstimate::default()
        };
        assert_eq!(
            verdict(&said),
            "moves in 12 s (9.1-15 s), 40 ms down, 97 % sure"
        );
    }

    #[test]
    fn a_bad_end_says_what_it_would_take() {
        let said = v1::MigrationEstimate {
            verdict: v1::Verdict::DoesNotConverge.into(),
            bandwidth_needed_bytes_per_second: Some(262_500_000),
            downtime_limit_needed_ms: Some(4_300),
            ..v1::MigrationEstimate::default()
        };
        assert_eq!(
            verdict(&said),
            "will not converge: needs 2.10 Gbit/s or a downtime limit of 4.3 s"
        );
    }
}
