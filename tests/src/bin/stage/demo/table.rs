//! The table at the end of the demo: what was said beside what came.
//!
//! Not here: judging by any other eyes than libvirt's own figures.

use std::fmt::Write;

use plimsoll_tests::TOTAL_ERROR_MAX;
use plimsoll_tests::stage::Migration;
use serde_json::Value;

/// One guest: the prediction, and what happened.
pub(super) struct Row {
    /// The guest.
    pub(super) name: &'static str,
    /// The answer of `plimsoll estimate` before the migration.
    pub(super) said: Value,
    /// How the migration ended, by libvirt.
    pub(super) moved: Migration,
    /// The outcome as the aggregator keeps it.
    pub(super) outcome: Value,
}

impl Row {
    /// Whether the guest was called right: the end as foretold, and where it moved, in a time within the bar.
    pub(super) fn is_right(&self) -> bool {
        let total = self.error("/total_ms", "total_ms");
        self.end_is_right()
            && match self.moved {
                // A figure that is missing was not foretold.
                Migration::Completed(_) => {
                    total.is_some_and(|error| error.abs() <= TOTAL_ERROR_MAX)
                }
                Migration::Aborted { .. } => true,
            }
    }

    /// Whether the verdict and the end of the migration agree.
    fn end_is_right(&self) -> bool {
        let said = self.said.get("verdict").and_then(Value::as_str);
        match self.moved {
            Migration::Completed(_) => said == Some("VERDICT_CONVERGES"),
            Migration::Aborted { .. } => said == Some("VERDICT_DOES_NOT_CONVERGE"),
        }
    }

    /// How far a figure was foretold off, as a share of what it was; absent if either side is.
    fn error(&self, said: &str, was: &str) -> Option<f64> {
        let was = self.was(was).filter(|was| *was > 0.0)?;
        Some(middle(&self.said, said)? / was - 1.0)
    }

    fn was(&self, field: &str) -> Option<f64> {
        self.outcome.get(field).and_then(Value::as_f64)
    }

    /// The end that was foretold, and the end that came.
    fn ends(&self) -> (&str, &'static str) {
        let said = match self.said.get("verdict").and_then(Value::as_str) {
            Some("VERDICT_CONVERGES") => "ends",
            Some("VERDICT_DOES_NOT_CONVERGE") => "never ends",
            Some(other) => other,
            None => "nothing",
        };
        let was = match self.moved {
            Migration::Completed(_) => "ended",
            Migration::Aborted { .. } => "aborted",
        };
        (said, was)
    }
}

/// Renders the table, a line for each figure that both sides know.
pub(super) fn render(rows: &[Row]) -> String {
    let mut text = format!(
        "\n{:<6} {:<12} {:>14} {:>14} {:>9}\n",
        "guest", "figure", "said", "was", "error"
    );
    for row in rows {
        let (said, was) = row.ends();
        let words = ["verdict", said, was, judged(row.end_is_right())];
        line(&mut text, row.name, words);
        let Migration::Completed(_) = row.moved else {
            continue;
        };
        for (figure, said, was, unit) in [
            ("total", "/total_ms", "total_ms", Unit::Milliseconds),
            (
                "downtime",
                "/downtime_ms",
                "downtime_ms",
                Unit::Milliseconds,
            ),
            ("sent", "/wire_bytes", "memory_processed_bytes", Unit::Bytes),
        ] {
            let error = row
                .error(said, was)
                .map_or("-".to_owned(), |error| format!("{:+.0} %", error * 100.0));
            let (said, was) = (middle(&row.said, said), row.was(was));
            let words = [figure, &unit.render(said), &unit.render(was), &error];
            line(&mut text, row.name, words);
        }
        let bar = format!("{:.0} %", TOTAL_ERROR_MAX * 100.0);
        let words = ["total within", &bar, "", judged(row.is_right())];
        line(&mut text, row.name, words);
    }
    text
}

fn judged(right: bool) -> &'static str {
    if right { "right" } else { "WRONG" }
}

fn line(text: &mut String, name: &str, [figure, said, was, error]: [&str; 4]) {
    // Writing to a string cannot fail.
    writeln!(
        text,
        "{name:<6} {figure:<12} {said:>14} {was:>14} {error:>9}"
    )
    .ok();
}

/// The middle of a bounded figure, or the figure itself.
fn middle(answer: &Value, path: &str) -> Option<f64> {
    let figure = answer.pointer(path)?;
    let inner = figure.get("p50").or_else(|| figure.get("expected"));
    inner.unwrap_or(figure).as_f64()
}

#[derive(Debug, Clone, Copy)]
enum Unit {
    Milliseconds,
    Bytes,
}

impl Unit {
    fn render(self, value: Option<f64>) -> String {
        match (self, value) {
            (_, None) => "-".to_owned(),
            (Self::Milliseconds, Some(ms)) => format!("{ms:.0} ms"),
            (Self::Bytes, Some(bytes)) => format!("{:.1} MiB", bytes / f64::from(1 << 20)),
        }
    }
}

#[cfg(test)]
mod tests {
    use plimsoll_tests::stage::JobInfo;
    use serde_json::json;

    use super::*;

    fn moved(said: Value, was: Value) -> Row {
        Row {
            name: "calm",
            said: json!({"verdict": "VERDICT_CONVERGES", "total_ms": said}),
            moved: Migration::Completed(JobInfo::default()),
            outcome: json!({"total_ms": was}),
        }
    }

    #[test]
    fn a_total_beyond_a_quarter_or_missing_is_wrong_although_the_verdict_was_right() {
        let said = |ms: u32| json!({"p10": 1, "p50": ms, "p90": 9_999});
        assert!(moved(said(1_250), json!(1_000)).is_right());
        assert!(moved(said(750), json!(1_000)).is_right());
        for (said, was) in [
            (said(1_260), json!(1_000)),
            (said(740), json!(1_000)),
            (Value::Null, json!(1_000)),
            (said(1_000), Value::Null),
        ] {
            let row = moved(said, was);
            assert!(!row.is_right(), "{} {}", row.said, row.outcome);
            assert!(render(&[row]).contains("WRONG"));
        }
    }

    #[test]
    fn a_guest_that_stayed_is_judged_by_the_verdict_alone() {
        let stayed = |verdict: &str| Row {
            name: "wild",
            said: json!({"verdict": verdict}),
            moved: Migration::Aborted { last: None },
            outcome: Value::Null,
        };
        assert!(stayed("VERDICT_DOES_NOT_CONVERGE").is_right());
        assert!(!stayed("VERDICT_AT_RISK").is_right());
        assert!(!stayed("VERDICT_CONVERGES").is_right());
    }
}
