//! Says what the agent can and cannot see on this node, and how to mend it. It mends nothing itself.

mod devices;
mod guests;
mod node;
mod way;

use std::io::{self, Write};
use std::path::Path;

use plimsoll_model::Clock;
use serde::Serialize;

use crate::config::Config;
use crate::once::Format;

/// How a check came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// As it should be.
    Ok,
    /// The agent works, and something is missing from what it tells.
    Warn,
    /// The agent cannot do its work.
    Fail,
}

impl Verdict {
    const fn word(self) -> &'static str {
        match self {
            Self::Ok => "OK",
            Self::Warn => "WARN",
            Self::Fail => "FAIL",
        }
    }
}

/// What one check saw.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was checked.
    pub check: &'static str,
    /// How it came out.
    pub verdict: Verdict,
    /// What was seen.
    pub seen: String,
    /// What to do about it; absent where all is well.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}

impl Finding {
    fn ok(check: &'static str, seen: impl Into<String>) -> Self {
        Self {
            check,
            verdict: Verdict::Ok,
            seen: seen.into(),
            remedy: None,
        }
    }

    fn warn(check: &'static str, seen: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            verdict: Verdict::Warn,
            remedy: Some(remedy.into()),
            ..Self::ok(check, seen)
        }
    }

    fn fail(check: &'static str, seen: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            verdict: Verdict::Fail,
            ..Self::warn(check, seen, remedy)
        }
    }
}

/// What all checks saw.
#[derive(Debug, Serialize)]
pub struct Report {
    /// In the order in which a sample goes its way.
    pub findings: Vec<Finding>,
}

/// Checks node, guests, state and the way to the aggregator; takes some seconds where one is silent.
pub async fn examine(config: &Config, clock: &dyn Clock) -> Report {
    let mut findings = vec![node::identity(config, clock).await];
    findings.extend(node::host(Path::new("/"), config));
    findings.extend(guests::examine(config).await);
    findings.extend(devices::examine(config).await);
    findings.push(way::state(config));
    findings.push(way::aggregator(config).await);
    Report { findings }
}

impl Report {
    /// Returns the worst verdict.
    pub fn worst(&self) -> Verdict {
        let verdicts = self.findings.iter().map(|finding| finding.verdict);
        verdicts.max().unwrap_or(Verdict::Ok)
    }

    /// Prints it: a line for each check, and its remedy below.
    ///
    /// # Errors
    /// If `out` cannot be written.
    pub fn print(&self, format: Format, out: &mut impl Write) -> io::Result<()> {
        if format == Format::Json {
            serde_json::to_writer_pretty(&mut *out, self)?;
            return writeln!(out);
        }
        for finding in &self.findings {
            let verdict = finding.verdict.word();
            writeln!(out, "{verdict:<4} {:<11} {}", finding.check, finding.seen)?;
            if let Some(remedy) = &finding.remedy {
                writeln!(out, "{:17}-> {remedy}", "")?;
            }
        }
        Ok(())
    }
}
