//! A measurement by the monitor of QEMU: more pages of each GiB, and windows below a second.

use std::time::Duration;

use plimsoll_libvirt::MonitorFlags;
use plimsoll_model::DirtyRate;
use serde_json::{Value, json};

use super::{
    MeasureError, Measured, Order, PAGES_PER_GIB, RESULT_LOOKS, RESULT_PAUSE, START_DEADLINE,
    WINDOW_MAX, WINDOW_MIN,
};
use plimsoll_libvirt::Connection;

/// Version of QEMU from which windows are told in milliseconds.
const MILLISECONDS_SINCE: (u64, u64) = (8, 2);

/// A window in the words of one release of QEMU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Span {
    amount: u64,
    /// Absent before QEMU knew units.
    unit: Option<&'static str>,
}

pub(super) async fn measure(
    connection: &Connection,
    order: &Order<'_>,
    pages_per_gib: u32,
) -> Result<Measured, MeasureError> {
    if !(WINDOW_MIN..=WINDOW_MAX).contains(&order.window) || !PAGES_PER_GIB.contains(&pages_per_gib)
    {
        return Err(MeasureError::Window(order.window));
    }
    let asked = |command: Value, deadline: Duration| async move {
        let command = command.to_string();
        let reply = connection
            .qemu_monitor_command(order.domain, &command, MonitorFlags::NONE, deadline)
            .await?;
        answer(&reply)
    };
    let version = asked(json!({"execute": "query-version"}), order.deadline).await?;
    let span = span(order.window, &version).ok_or(MeasureError::Window(order.window))?;
    // QEMU refuses while a measurement is under way, and forgets the result of the one before when it
    // begins: what is whole after this and fits is of this order.
    asked(begin(span, pages_per_gib), START_DEADLINE).await?;
    tokio::time::sleep(order.window).await;
    for _ in 0..RESULT_LOOKS {
        let told = asked(look(span), order.deadline).await?;
        if let Some(measured) = proven(&told, span, pages_per_gib) {
            return Ok(measured);
        }
        tokio::time::sleep(RESULT_PAUSE).await;
    }
    Err(MeasureError::NotOurs)
}

/// Takes what QEMU answered, or its complaint.
fn answer(reply: &str) -> Result<Value, MeasureError> {
    let mut reply: Value =
        serde_json::from_str(reply).map_err(|error| MeasureError::Qemu(error.to_string()))?;
    if let Some(complaint) = reply.pointer("/error/desc").and_then(Value::as_str) {
        return Err(MeasureError::Qemu(complaint.to_owned()));
    }
    let told = reply.get_mut("return").map(Value::take);
    told.ok_or_else(|| MeasureError::Qemu("neither an answer nor a complaint".to_owned()))
}

fn span(window: Duration, version: &Value) -> Option<Span> {
    let part = |name: &str| version.pointer(&format!("/qemu/{name}"))?.as_u64();
    let version = (part("major")?, part("minor")?);
    if version >= MILLISECONDS_SINCE {
        let amount = u64::try_from(window.as_millis()).ok()?;
        return Some(Span {
            amount,
            unit: Some("millisecond"),
        });
    }
    let is_whole = window.subsec_nanos() == 0 && window.as_secs() > 0;
    is_whole.then_some(Span {
        amount: window.as_secs(),
        unit: None,
    })
}

fn begin(span: Span, pages_per_gib: u32) -> Value {
    let mut arguments = json!({
        "calc-time": span.amount,
        "sample-pages": pages_per_gib,
        "mode": "page-sampling",
    });
    if let (Some(unit), Some(arguments)) = (span.unit, arguments.as_object_mut()) {
        arguments.insert("calc-time-unit".to_owned(), json!(unit));
    }
    json!({"execute": "calc-dirty-rate", "arguments": arguments})
}

fn look(span: Span) -> Value {
    match span.unit {
        Some(unit) => {
            json!({"execute": "query-dirty-rate", "arguments": {"calc-time-unit": unit}})
        }
        None => json!({"execute": "query-dirty-rate"}),
    }
}

fn proven(told: &Value, span: Span, pages_per_gib: u32) -> Option<Measured> {
    let word = |name: &str| told.get(name).and_then(Value::as_str);
    let number = |name: &str| told.get(name).and_then(Value::as_u64);
    let fits = word("status") == Some("measured")
        && word("mode") == Some("page-sampling")
        && number("calc-time") == Some(span.amount)
        && number("sample-pages") == Some(u64::from(pages_per_gib));
    let rate = number("dirty-rate").filter(|_| fits)?;
    let rate = DirtyRate::from_mib_per_second(rate);
    Some(Measured::sampled(rate, pages_per_gib))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn qemu(major: u64, minor: u64) -> Value {
        json!({"qemu": {"major": major, "minor": minor, "micro": 0}, "package": ""})
    }

    #[test]
    fn windows_below_a_second_are_measured_by_releases_that_know_milliseconds() {
        let half = Duration::from_millis(500);
        assert_eq!(span(half, &qemu(8, 1)), None);
        let told = span(half, &qemu(8, 2)).unwrap();
        assert_eq!((told.amount, told.unit), (500, Some("millisecond")));
        let told = span(Duration::from_secs(2), &qemu(7, 2)).unwrap();
        assert_eq!((told.amount, told.unit), (2, None));
        assert_eq!(span(half, &json!({})), None, "no version, no guess");
    }

    #[test]
    fn only_a_whole_result_of_page_sampling_with_our_numbers_is_taken() {
        let span = Span {
            amount: 500,
            unit: Some("millisecond"),
        };
        let told = |status: &str, mode: &str, time: u64, pages: u64| {
            json!({"status": status, "mode": mode, "calc-time": time, "sample-pages": pages,
                "dirty-rate": 9, "start-time": 1})
        };
        let take = |told: Value| proven(&told, span, 16_384).map(|one| one.rate);
        let nine = DirtyRate::from_mib_per_second(9);
        assert_eq!(
            take(told("measured", "page-sampling", 500, 16_384)),
            Some(nine)
        );
        for other in [
            told("measuring", "page-sampling", 500, 16_384),
            told("measured", "dirty-bitmap", 500, 16_384),
            told("measured", "page-sampling", 1_000, 16_384),
            told("measured", "page-sampling", 500, 512),
            json!({}),
        ] {
            assert_eq!(take(other.clone()), None, "{other}");
        }
    }

    #[test]
    fn no_command_asks_for_a_mode_that_could_harm_the_guest() {
        for unit in [None, Some("millisecond")] {
            let command = begin(Span { amount: 1, unit }, 512);
            assert_eq!(command["arguments"]["mode"], "page-sampling");
            assert_eq!(
                command["arguments"].get("calc-time-unit").is_some(),
                unit.is_some()
            );
        }
    }

    #[test]
    fn a_complaint_of_qemu_is_told_in_its_words() {
        let error = answer(r#"{"id":"1","error":{"class":"GenericError","desc":"busy"}}"#);
        assert_eq!(error.unwrap_err().to_string(), "QEMU did not measure: busy");
        assert!(answer("{}").is_err() && answer("?").is_err());
        assert_eq!(answer(r#"{"return":{"a":1}}"#).unwrap(), json!({"a": 1}));
    }
}
