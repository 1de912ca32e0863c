//! The one table of a run: each figure, how it stands to those of the peers, and the bar it is held to.

use std::fmt::Write as _;

use super::run::{Figures, Name, Order, series};

/// What is wanted of a figure against both peers.
#[derive(Debug, Clone, Copy)]
enum Bar {
    None,
    /// At most so much of VictoriaMetrics' and of Prometheus'.
    Share(f64, f64),
    /// At most so much of VictoriaMetrics'.
    OfVictoria(f64),
    /// At most so much of the better one's.
    OfBetter(f64),
    /// Nothing.
    Zero,
    /// At least so much.
    Least(f64),
}

struct Row {
    what: &'static str,
    of: fn(&Figures, u64) -> Option<f64>,
    digits: usize,
    bar: Bar,
}

fn per_million(seconds: f64, figures: &Figures) -> f64 {
    seconds / figures.samples as f64 * 1e6
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

fn row(what: &'static str, of: fn(&Figures, u64) -> Option<f64>, digits: usize, bar: Bar) -> Row {
    Row {
        what,
        of,
        digits,
        bar,
    }
}

/// What is a cost: taking samples, keeping them.
fn costs() -> Vec<Row> {
    vec![
        row(
            "server CPU s / M samples, fed until at rest",
            |f, _| Some(per_million(f.cpu_s, f)),
            3,
            Bar::Share(1.0 / 8.0, 1.0 / 30.0),
        ),
        row(
            "the same and the forced end form on disk",
            |f, _| Some(per_million(f.cpu_s + f.settle_cpu_s, f)),
            3,
            Bar::None,
        ),
        row(
            "ingest k samples/s, the feeder on the same cores",
            |f, _| Some(f.samples as f64 / f.feed_s / 1e3),
            0,
            Bar::None,
        ),
        row(
            "B/sample on disk, end form",
            |f, _| Some(f.disk_bytes as f64 / f.held as f64),
            3,
            Bar::OfVictoria(0.85),
        ),
        row(
            "RSS MiB, fed and at rest",
            |f, _| Some(mib(f.resident_bytes)),
            0,
            Bar::None,
        ),
        row(
            "of it no mapped file, MiB",
            |f, _| Some(mib(f.anonymous_bytes)),
            0,
            Bar::None,
        ),
        row(
            "RSS MiB / M series",
            |f, series| Some(mib(f.resident_bytes) / series as f64 * 1e6),
            0,
            Bar::OfBetter(0.5),
        ),
    ]
}

/// What is waited for: answers, and the start after a kill.
fn waits() -> Vec<Row> {
    let fifth = Bar::Share(0.2, 0.2);
    let p99 = "the same, p99 ms";
    let ms = |what, of, bar| row(what, of, 2, bar);
    vec![
        ms(
            "one series, whole span, p50 ms",
            |f, _| Some(f.series.p50_ms),
            fifth,
        ),
        ms(p99, |f, _| Some(f.series.p99_ms), Bar::None),
        ms(
            "1,000 series, last 10 min, p50 ms",
            |f, _| Some(f.node.p50_ms),
            fifth,
        ),
        ms(p99, |f, _| Some(f.node.p99_ms), Bar::None),
        ms(
            "last value of 1,000 series, p50 ms",
            |f, _| Some(f.last.p50_ms),
            fifth,
        ),
        ms(p99, |f, _| Some(f.last.p99_ms), Bar::None),
        row("open after kill -9, s", |f, _| Some(f.open_s), 2, Bar::None),
        row(
            "log read back at that, M samples/s",
            |f, _| f.replayed.map(|samples| samples as f64 / f.open_s / 1e6),
            1,
            Bar::Least(5.0),
        ),
        row(
            "samples lost of those acknowledged right before it",
            |f, _| Some(f.lost as f64),
            0,
            Bar::Zero,
        ),
    ]
}

/// Renders the table of a run.
///
/// # Errors
///
/// Says that the text could not be written.
pub fn render(order: &Order, all: &[Figures]) -> Result<String, std::fmt::Error> {
    let series = series(&order.size);
    let find = |name: Name| {
        let place = order.names.iter().position(|one| *one == name)?;
        all.get(place)
    };
    let ours = find(Name::Plimsoll);
    let peers = [find(Name::VictoriaMetrics), find(Name::Prometheus)];
    let mut out = String::new();
    head(&mut out, order, series, all)?;
    for row in costs().into_iter().chain(waits()) {
        let value = |figures: Option<&Figures>| figures.and_then(|one| (row.of)(one, series));
        let (own, [victoria, prometheus]) = (value(ours), peers.map(value));
        let told = |value: Option<f64>| {
            value.map_or("-".to_owned(), |value| format!("{value:.0$}", row.digits))
        };
        let ratio = |other: Option<f64>| match (own, other) {
            (Some(own), Some(other)) if other > 0.0 && own > 0.0 => {
                if own < other {
                    format!("1/{:.1}", other / own)
                } else {
                    format!("{:.2}", own / other)
                }
            }
            _ => "-".to_owned(),
        };
        let (bar, met) = judged(row.bar, own, (victoria, prometheus));
        writeln!(
            out,
            "| {} | {} | {} | {} | {} | {} | {bar} | {met} |",
            row.what,
            ratio(victoria),
            ratio(prometheus),
            told(own),
            told(victoria),
            told(prometheus),
        )?;
    }
    Ok(out)
}

fn head(out: &mut String, order: &Order, series: u64, all: &[Figures]) -> std::fmt::Result {
    let size = &order.size;
    let hours = f64::from(size.rows) * size.interval_ms as f64 / 3.6e6;
    writeln!(
        out,
        "{series} series, {hours:.2} h at {} s, {:.1} M samples, {} asks of each question; answers held \
         against what was fed.",
        size.interval_ms / 1_000,
        size.samples(size.rows) as f64 / 1e6,
        order.asks,
    )?;
    for figures in all {
        writeln!(out, "- {}: {}", figures.name, figures.settings)?;
    }
    writeln!(
        out,
        "\n| | of VictoriaMetrics | of Prometheus | Plimsoll | VictoriaMetrics | Prometheus | bar | met |\n\
         |---|--:|--:|--:|--:|--:|--:|---|"
    )
}

fn judged(bar: Bar, own: Option<f64>, peers: (Option<f64>, Option<f64>)) -> (String, String) {
    let (victoria, prometheus) = peers;
    let share = |part: f64, other: Option<f64>| Some(own? <= other? * part);
    let word = |met: Option<bool>| match met {
        None => String::new(),
        Some(true) => "yes".to_owned(),
        Some(false) => "**no**".to_owned(),
    };
    let both = |one: Option<bool>, two: Option<bool>| match (one, two) {
        (Some(one), Some(two)) => Some(one && two),
        (one, two) => one.or(two),
    };
    match bar {
        Bar::None => (String::new(), String::new()),
        Bar::Share(first, second) => {
            let met = both(share(first, victoria), share(second, prometheus));
            let bar = format!("1/{:.0}, 1/{:.0}", 1.0 / first, 1.0 / second);
            (bar, word(met))
        }
        Bar::OfVictoria(part) => (format!("{part}"), word(share(part, victoria))),
        Bar::OfBetter(part) => {
            let met = both(share(part, victoria), share(part, prometheus));
            (format!("{part} of the better"), word(met))
        }
        Bar::Zero => ("0".to_owned(), word(own.map(|own| own == 0.0))),
        Bar::Least(least) => (format!("{least}"), word(own.map(|own| own >= least))),
    }
}

/// Renders how the cost of each engine grows with the number of series.
///
/// # Errors
///
/// Says that the text could not be written.
pub fn by_size(runs: &[(u64, Figures)]) -> Result<String, std::fmt::Error> {
    let mut out = String::from(
        "| | series | M samples | server ns/sample | RSS MiB | RSS B/series | open s | read back M samples/s |\n\
         |---|--:|--:|--:|--:|--:|--:|--:|\n",
    );
    let mut runs: Vec<_> = runs.iter().collect();
    runs.sort_by_key(|(series, figures)| (&figures.name, *series));
    for (series, figures) in runs {
        let replayed = figures.replayed.map_or("-".to_owned(), |samples| {
            format!("{:.1}", samples as f64 / figures.open_s / 1e6)
        });
        writeln!(
            out,
            "| {} | {series} | {:.1} | {:.0} | {:.0} | {:.0} | {:.2} | {replayed} |",
            figures.name,
            figures.samples as f64 / 1e6,
            per_million(figures.cpu_s, figures) * 1e3,
            mib(figures.resident_bytes),
            figures.resident_bytes as f64 / *series as f64,
            figures.open_s,
        )?;
    }
    Ok(out)
}
