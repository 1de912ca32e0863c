//! The table at the end of the demo: what was said beside what came.
//!
//! Not here: judging by any other eyes than libvirt's own figures.

use std::fmt::Write;

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
    /// Whether the verdict and the end of the migration agree.
    pub(super) fn is_right(&self) -> bool {
        let said = self.said.get("verdict").and_then(Value::as_str);
        match self.moved {
            Migration::Completed(_) => said == Some("VERDICT_CONVERGES"),
            Migration::Aborted { .. } => said == Some("VERDICT_DOES_NOT_CONVERGE"),
        }
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
        let judged = if row.is_right() { "right" } else { "WRONG" };
        line(&mut text, row.name, ["verdict", said, was, judged]);
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
            let said = middle(&row.said, said);
            let was = row.outcome.get(was).and_then(Value::as_f64);
            let error = match (said, was) {
                (Some(said), Some(was)) if was > 0.0 => {
                    format!("{:+.0} %", (said / was - 1.0) * 100.0)
                }
                _ => "-".to_owned(),
            };
            let words = [figure, &unit.render(said), &unit.render(was), &error];
            line(&mut text, row.name, words);
        }
    }
    text
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
