//! The one table of a run: each figure, the peers' beside it, and the bar it is held to.

use std::fmt::Write as _;
use std::time::Duration;

use super::System;
use super::run::{Figures, Order, Outcome, Recorded};

/// The agent's share of the processor time of the cheapest peer.
const CPU_SHARE: f64 = 0.2;
const RESIDENT_BYTES_MAX: u64 = 15_000_000;
/// How much dearer a sample may be before many guests than before few, and still be called the same.
const LINEAR: f64 = 1.2;
const LIST_LIMIT: Duration = Duration::from_secs(1);

/// What is wanted, and whether it is met.
type Bar = (String, bool);

struct Row {
    what: &'static str,
    of: fn(&Figures) -> f64,
    digits: usize,
    bar: Option<Bar>,
}

/// Prints what was measured.
///
/// # Errors
///
/// Never in fact: text takes all that is written to it.
pub fn render(order: &Order, outcome: &Outcome) -> Result<String, std::fmt::Error> {
    let mut text = String::new();
    writeln!(
        text,
        "{} real guests with a disk and a card each, all sampled every {} s for {} s, one after the other.\n",
        order.guests,
        order.interval.as_secs_f64(),
        order.window.as_secs_f64()
    )?;
    let names: Vec<&str> = outcome
        .systems
        .iter()
        .map(|(system, _)| system.name())
        .collect();
    writeln!(text, "| | {} | bar | met |", names.join(" | "))?;
    writeln!(text, "|---|{}--:|---|", "--:|".repeat(names.len()))?;
    for row in rows(order, outcome) {
        write!(text, "| {} |", row.what)?;
        for (_, figures) in &outcome.systems {
            match figures {
                Ok(figures) => write!(text, " {} |", number((row.of)(figures), row.digits))?,
                Err(_) => write!(text, " - |")?,
            }
        }
        match row.bar {
            Some((bar, true)) => writeln!(text, " {bar} | yes |")?,
            Some((bar, false)) => writeln!(text, " {bar} | **no** |")?,
            None => writeln!(text, "  |  |")?,
        }
    }
    for (system, figures) in &outcome.systems {
        if let Err(missing) = figures {
            writeln!(text, "\n{} was not measured: {missing}.", system.name())?;
        }
    }
    by_guests(&mut text, &outcome.recorded)?;
    Ok(text)
}

/// What is not a number is what was not answered in time.
fn number(value: f64, digits: usize) -> String {
    if value.is_finite() {
        format!("{value:.digits$}")
    } else {
        "never".to_owned()
    }
}

fn per_sample(value: u64, figures: &Figures) -> f64 {
    value as f64 / figures.samples
}

fn ours(outcome: &Outcome) -> Option<&Figures> {
    let mut all = outcome.systems.iter();
    let (_, figures) = all.find(|(system, _)| *system == System::Plimsoll)?;
    figures.as_ref().ok()
}

/// The figures of the peer that takes the least processor time.
fn cheapest(outcome: &Outcome) -> Option<&Figures> {
    let peers = outcome
        .systems
        .iter()
        .filter(|(system, _)| *system != System::Plimsoll);
    let figures = peers.filter_map(|(_, figures)| figures.as_ref().ok());
    figures.min_by(|one, other| {
        per_sample(one.cpu_ns, one).total_cmp(&per_sample(other.cpu_ns, other))
    })
}

fn row(what: &'static str, of: fn(&Figures) -> f64, digits: usize, bar: Option<Bar>) -> Row {
    Row {
        what,
        of,
        digits,
        bar,
    }
}

fn rows(order: &Order, outcome: &Outcome) -> Vec<Row> {
    let mut rows = costs(outcome);
    rows.extend(patience(order, outcome));
    rows
}

fn values(figures: &Figures) -> u64 {
    figures.guest_values + figures.host_values
}

fn costs(outcome: &Outcome) -> Vec<Row> {
    let ours = ours(outcome);
    let both = ours.zip(cheapest(outcome));
    let share = both.map(|(ours, peer)| {
        let share = per_sample(ours.cpu_ns, ours) / per_sample(peer.cpu_ns, peer);
        ("1/5 of the cheapest peer's".to_owned(), share <= CPU_SHARE)
    });
    let more = both.map(|(ours, peer)| {
        let is_met = values(ours) > values(peer);
        ("more than the cheapest peer's".to_owned(), is_met)
    });
    let small = ours.map(|ours| {
        let is_met = ours.resident_bytes <= RESIDENT_BYTES_MAX;
        ("15 MB".to_owned(), is_met)
    });
    vec![
        row(
            "CPU ms / guest and sample",
            |f| per_sample(f.cpu_ns, f) / 1e6,
            3,
            share,
        ),
        row(
            "CPU us / value and sample",
            |f| f.cpu_ns as f64 / 1e3 / f.samples * f64::from(f.guests) / values(f) as f64,
            2,
            None,
        ),
        row("values", |f| values(f) as f64, 0, more),
        row("of them of the guests", |f| f.guest_values as f64, 0, None),
        row("RSS MB", |f| f.resident_bytes as f64 / 1e6, 1, small),
        row(
            "calls to libvirt / guest and sample",
            |f| per_sample(f.calls, f),
            2,
            None,
        ),
        row(
            "libvirtd's CPU ms / guest and sample",
            |f| per_sample(f.libvirtd_ns, f) / 1e6,
            3,
            None,
        ),
    ]
}

fn patience(order: &Order, outcome: &Outcome) -> Vec<Row> {
    let ours = ours(outcome);
    // One interval passes between two samples in any case.
    let longest = 2 * order.interval + Duration::from_secs(1);
    let silent = ours.map(|ours| {
        let bar = format!("an interval more: {} s", longest.as_secs_f64());
        (bar, ours.silence <= longest)
    });
    let listed = ours.map(|ours| {
        let is_met = ours.list.is_some_and(|list| list <= LIST_LIMIT);
        ("1 s".to_owned(), is_met)
    });
    vec![
        row(
            "one guest stopped: longest silence about another, s",
            |f| f.silence.as_secs_f64(),
            1,
            silent,
        ),
        row(
            "all guests stopped: longest `virsh list`, s",
            |f| f.list.map_or(f64::INFINITY, |list| list.as_secs_f64()),
            2,
            listed,
        ),
    ]
}

fn by_guests(text: &mut String, recorded: &[Recorded]) -> std::fmt::Result {
    let cost = |one: &Recorded| one.cpu_ns as f64 / 1e6 / (one.samples.max(1) as f64);
    let Some(first) = recorded.first() else {
        return Ok(());
    };
    writeln!(
        text,
        "\nThe agent before a libvirtd that answers at once what the real one answered:\n"
    )?;
    writeln!(
        text,
        "| guests | CPU ms / guest and sample | of that with {} | RSS MB |",
        first.guests
    )?;
    writeln!(text, "|--:|--:|--:|--:|")?;
    for one in recorded {
        writeln!(
            text,
            "| {} | {:.3} | {:.2} | {:.1} |",
            one.guests,
            cost(one),
            cost(one) / cost(first),
            one.resident_bytes as f64 / 1e6
        )?;
    }
    let is_linear = recorded.iter().all(|one| cost(one) <= LINEAR * cost(first));
    let verdict = if is_linear { "yes" } else { "**no**" };
    writeln!(
        text,
        "\nLinear (no sample dearer by a fifth than before {}): {verdict}.",
        first.guests
    )
}
