//! Answers as JSON for scripts.

use plimsoll_proto::v1;
use serde_json::{Value, json};

use crate::table::id;

fn time(at: Option<&prost_types::Timestamp>) -> Value {
    at.map_or(Value::Null, |at| {
        json!(at.seconds * 1_000 + i64::from(at.nanos) / 1_000_000)
    })
}

fn span_ms(span: Option<&prost_types::Duration>) -> Value {
    span.map_or(Value::Null, |span| {
        json!(span.seconds * 1_000 + i64::from(span.nanos) / 1_000_000)
    })
}

fn interval(one: Option<&v1::Interval>) -> Value {
    one.map_or(
        Value::Null,
        |one| json!({"p10": one.p10, "p50": one.p50, "p90": one.p90}),
    )
}

/// Renders a node.
pub(crate) fn node(node: &v1::Node) -> Value {
    let facts = node.facts.clone().unwrap_or_default();
    json!({
        "node_id": id(&node.node_id), "hostname": facts.hostname, "cpu_count": facts.cpu_count,
        "memory_bytes": facts.memory_bytes, "libvirt_version": facts.libvirt_version,
        "qemu_version": facts.qemu_version, "freshness": node.freshness().as_str_name(),
        "running_domain_count": node.running_domain_count, "connected": node.connected,
        "last_seen_time_ms": time(node.last_seen_time.as_ref()),
        "migration_bandwidth_bytes_per_second": facts.migration_bandwidth_bytes_per_second,
    })
}

/// Renders a domain.
pub(crate) fn domain(domain: &v1::Domain) -> Value {
    let facts = domain.facts.clone().unwrap_or_default();
    json!({
        "domain_id": id(&facts.domain_id), "name": facts.name, "node_id": id(&facts.node_id),
        "hostname": domain.hostname, "state": domain.state, "owner": domain.owner,
        "vcpu_count": facts.vcpu_count, "memory_max_bytes": facts.memory_max_bytes,
        "freshness": domain.freshness().as_str_name(),
        "last_seen_time_ms": time(domain.last_seen_time.as_ref()),
    })
}

/// Renders a device.
pub(crate) fn device(device: &v1::Device) -> Value {
    let facts = device.facts.clone().unwrap_or_default();
    json!({
        "device_id": id(&facts.device_id), "name": facts.name, "node_id": id(&facts.node_id),
        "hostname": device.hostname, "address": facts.address, "profile": facts.profile,
        "system_name": facts.system_name, "description": facts.description,
        "answers": device.answers, "freshness": device.freshness().as_str_name(),
        "last_asked_time_ms": time(device.last_asked_time.as_ref()),
    })
}

/// Renders a last reading.
pub(crate) fn reading(reading: &v1::LatestReading) -> Value {
    let series = reading.series.clone().unwrap_or_default();
    let sample = reading.sample.unwrap_or_default();
    json!({
        "node_id": id(&series.node_id), "domain_id": id(&series.domain_id),
        "device_id": id(&series.device_id), "port_index": series.port_index, "metric": series.metric,
        "part": series.part, "unit": series.unit, "counter": series.counter, "value": sample.value,
        "end_time_ms": time(sample.end_time.as_ref()),
    })
}

fn findings(all: &[v1::ConstraintFinding]) -> Value {
    let one = |one: &v1::ConstraintFinding| {
        json!({"constraint": one.constraint, "outcome": one.outcome().as_str_name(),
               "evidence": one.evidence})
    };
    all.iter().map(one).collect()
}

/// Renders the judgement of a move to one node.
pub(crate) fn feasibility(one: &v1::TargetFeasibility) -> Value {
    json!({"node_id": id(&one.node_id), "hostname": one.hostname,
           "outcome": one.outcome().as_str_name(), "findings": findings(&one.findings)})
}

/// Renders targets in their order.
pub(crate) fn targets(answer: &v1::RankTargetsResponse) -> Value {
    let term = |one: &v1::ScoreTerm| json!({"name": one.name, "value": one.value, "weight": one.weight, "evidence": one.evidence});
    let target = |one: &v1::RankedTarget| {
        json!({"node_id": id(&one.node_id), "hostname": one.hostname, "score": one.score,
               "terms": one.terms.iter().map(term).collect::<Vec<_>>(),
               "concerns": findings(&one.concerns),
               "estimate": one.estimate.as_ref().map_or(Value::Null, estimate)})
    };
    let excluded = |one: &v1::ExcludedTarget| {
        json!({"node_id": id(&one.node_id), "hostname": one.hostname,
               "reasons": findings(&one.reasons)})
    };
    json!({
        "source_node_id": id(&answer.source_node_id),
        "targets": answer.targets.iter().map(target).collect::<Vec<_>>(),
        "excluded": answer.excluded.iter().map(excluded).collect::<Vec<_>>(),
        "envelope": envelope(answer.envelope.as_ref()),
    })
}

/// Renders the plan that empties a node.
pub(crate) fn evacuation(answer: &v1::EstimateEvacuationResponse) -> Value {
    let one = |one: &v1::PlannedMove| {
        json!({"domain_id": id(&one.domain_id), "domain_name": one.domain_name,
               "target_node_id": id(&one.target_node_id), "target_hostname": one.target_hostname,
               "bandwidth_bytes_per_second": one.bandwidth_bytes_per_second,
               "total_p50_ms": one.total_p50_ms, "total_p90_ms": one.total_p90_ms})
    };
    let wave = |wave: &v1::PlannedWave| {
        json!({"moves": wave.moves.iter().map(one).collect::<Vec<_>>(),
               "total_p50_ms": wave.total_p50_ms, "total_p90_ms": wave.total_p90_ms})
    };
    let stuck = |one: &v1::StuckDomain| {
        json!({"domain_id": id(&one.domain_id), "domain_name": one.domain_name,
               "reasons": one.reasons})
    };
    json!({
        "waves": answer.waves.iter().map(wave).collect::<Vec<_>>(),
        "stuck": answer.stuck.iter().map(stuck).collect::<Vec<_>>(),
        "makespan_p50_ms": answer.makespan_p50_ms, "makespan_p90_ms": answer.makespan_p90_ms,
        "concurrent_count": answer.concurrent_count, "meets_deadline": answer.meets_deadline,
        "envelope": envelope(answer.envelope.as_ref()),
    })
}

/// Renders a conflict.
pub(crate) fn conflict(one: &v1::Conflict) -> Value {
    let side = |side: &v1::ConflictSide| {
        json!({"node_id": id(&side.node_id), "hostname": side.hostname, "state": side.state,
               "since_time_ms": time(side.since_time.as_ref()),
               "last_seen_time_ms": time(side.last_seen_time.as_ref())})
    };
    json!({"domain_id": id(&one.domain_id), "domain_name": one.domain_name, "alarm": one.alarm,
           "since_time_ms": time(one.since_time.as_ref()),
           "sides": one.sides.iter().map(side).collect::<Vec<_>>()})
}

/// Renders the values of one series.
pub(crate) fn samples(one: &v1::RangeSeries) -> Value {
    let series = one.series.clone().unwrap_or_default();
    let samples: Vec<Value> = one
        .samples
        .iter()
        .map(|sample| json!({"end_time_ms": time(sample.end_time.as_ref()), "value": sample.value}))
        .collect();
    let step = |step: &v1::StepValue| json!({"end_time_ms": time(step.end_time.as_ref()), "value": step.value});
    let place = |place: &v1::DamagedPlace| {
        json!({
            "file": place.file, "offset_bytes": place.offset_bytes, "problem": place.problem,
        })
    };
    json!({
        "node_id": id(&series.node_id), "domain_id": id(&series.domain_id),
        "device_id": id(&series.device_id), "port_index": series.port_index, "metric": series.metric,
        "part": series.part, "unit": series.unit, "counter": series.counter, "samples": samples,
        "steps": one.steps.iter().map(step).collect::<Vec<_>>(), "partial": one.partial,
        "damaged_places": one.damaged_places.iter().map(place).collect::<Vec<_>>(),
    })
}

/// Renders an event.
pub(crate) fn event(seen: &v1::SeenEvent) -> Value {
    use v1::event::Kind;
    let event = seen.event.clone().unwrap_or_default();
    let (kind, what) = match event.kind.as_ref() {
        None => ("unknown", Value::Null),
        Some(Kind::DomainStateChanged(change)) => (
            "domain_state_changed",
            json!({"state": change.state().as_str_name(), "detail": change.detail}),
        ),
        Some(Kind::MigrationStarted(start)) => (
            "migration_started",
            json!({"role": start.role().as_str_name(), "downtime_limit_ms": start.downtime_limit_ms,
                   "bandwidth_cap_bytes_per_second": start.bandwidth_cap_bytes_per_second}),
        ),
        Some(Kind::MigrationIteration(pass)) => (
            "migration_iteration",
            json!({"number": pass.number, "elapsed_ms": pass.elapsed_ms,
                   "remaining_bytes": pass.remaining_bytes,
                   "dirty_bytes_per_second": pass.dirty_bytes_per_second}),
        ),
        Some(Kind::MigrationEnded(end)) => (
            "migration_ended",
            json!({"end": end.end().as_str_name(), "total_ms": end.total_ms,
                   "downtime_ms": end.downtime_ms}),
        ),
    };
    json!({
        "seen_time_ms": time(event.seen_time.as_ref()), "node_id": id(&seen.node_id),
        "domain_id": id(&event.domain_id), "kind": kind, "what": what,
    })
}

/// Renders a gap.
pub(crate) fn gap(seen: &v1::SeenGap) -> Value {
    let gap = seen.gap.clone().unwrap_or_default();
    json!({
        "node_id": id(&seen.node_id), "declared_time_ms": time(seen.declared_time.as_ref()),
        "first_sequence": gap.first_sequence, "last_sequence": gap.last_sequence,
        "reading_count": gap.reading_count, "reason": gap.reason().as_str_name(),
    })
}

fn envelope(envelope: Option<&v1::Envelope>) -> Value {
    let Some(one) = envelope else {
        return Value::Null;
    };
    let inputs: Vec<Value> = one
        .inputs
        .iter()
        .map(|input| {
            json!({"name": input.name, "value": input.value, "source": input.source,
                   "age_ms": span_ms(input.age.as_ref())})
        })
        .collect();
    json!({
        "as_of_time_ms": time(one.as_of_time.as_ref()),
        "data_age_max_ms": span_ms(one.data_age_max.as_ref()),
        "qualities": one.qualities().map(|q| q.as_str_name()).collect::<Vec<_>>(),
        "inputs": inputs, "model_name": one.model_name, "model_version": one.model_version,
        "calibration": one.calibration, "expire_time_ms": time(one.expire_time.as_ref()),
    })
}

/// Renders an estimate.
pub(crate) fn estimate(answer: &v1::EstimateMigrationResponse) -> Value {
    let said = answer.estimate.unwrap_or_default();
    let baselines: Vec<Value> = answer
        .baselines
        .iter()
        .map(|one| {
            json!({"name": one.name, "converges": one.converges, "total_ms": one.total_ms,
                   "downtime_ms": one.downtime_ms, "wire_bytes": one.wire_bytes})
        })
        .collect();
    json!({
        "source_node_id": id(&answer.source_node_id), "mode": said.mode().as_str_name(),
        "verdict": said.verdict().as_str_name(),
        "convergence_probability": said.convergence_probability,
        "total_ms": interval(said.total_ms.as_ref()),
        "downtime_ms": interval(said.downtime_ms.as_ref()),
        "wire_bytes": interval(said.wire_bytes.as_ref()),
        "iteration_count": interval(said.iteration_count.as_ref()),
        "bandwidth_needed_bytes_per_second": said.bandwidth_needed_bytes_per_second,
        "downtime_limit_needed_ms": said.downtime_limit_needed_ms,
        "api_overhead_ms": said.api_overhead_ms,
        "degraded_ms": interval(said.degraded_ms.as_ref()),
        "remote_fault_count": interval(said.remote_fault_count.as_ref()),
        "throttle_millionths": said.throttle_millionths,
        "baselines": baselines, "reasons": answer.reasons,
        "envelope": envelope(answer.envelope.as_ref()),
    })
}

/// Renders the room of a node.
pub(crate) fn headroom(node: &v1::NodeHeadroom) -> Value {
    let resources: Vec<Value> = node
        .resources
        .iter()
        .map(|one| {
            json!({"resource": one.resource, "unit": one.unit, "total": one.total,
                   "reserved": one.reserved, "ratio_millionths": one.ratio_millionths,
                   "allocated": one.allocated, "in_flight": one.in_flight,
                   "allocation_headroom": one.allocation_headroom, "used": one.used,
                   "physical_headroom": one.physical_headroom})
        })
        .collect();
    let fits: Vec<Value> = node
        .fits
        .iter()
        .map(|fit| json!({"name": fit.name, "count": fit.count, "binding_resource": fit.binding_resource}))
        .collect();
    json!({
        "node_id": id(&node.node_id), "hostname": node.hostname, "resources": resources,
        "binding_resource": node.binding_resource, "fits": fits, "reasons": node.reasons,
        "envelope": envelope(node.envelope.as_ref()),
    })
}

/// Renders a migration beside its prediction.
pub(crate) fn migration(one: &v1::Migration) -> Value {
    let outcome = one.outcome.map_or(Value::Null, |was| {
        json!({"end": was.end().as_str_name(), "total_ms": was.total_ms,
               "downtime_ms": was.downtime_ms, "iteration_count": was.iteration_count,
               "memory_processed_bytes": was.memory_processed_bytes,
               "memory_normal_bytes": was.memory_normal_bytes, "setup_ms": was.setup_ms,
               "zero_page_count": was.zero_page_count,
               "throughput_bytes_per_second": was.throughput_bytes_per_second})
    });
    let iterations: Vec<Value> = one
        .iterations
        .iter()
        .map(|pass| {
            json!({"number": pass.number, "elapsed_ms": pass.elapsed_ms,
                   "remaining_bytes": pass.remaining_bytes,
                   "dirty_bytes_per_second": pass.dirty_bytes_per_second})
        })
        .collect();
    let error = one.error.map_or(Value::Null, |error| {
        json!({"total_error_ratio": error.total_error_ratio,
               "downtime_error_ms": error.downtime_error_ms,
               "wire_error_ratio": error.wire_error_ratio,
               "total_within_bounds": error.total_within_bounds,
               "verdict_right": error.verdict_right})
    });
    json!({
        "domain_id": id(&one.domain_id), "domain_name": one.domain_name,
        "source_node_id": id(&one.source_node_id), "target_node_id": id(&one.target_node_id),
        "start_time_ms": time(one.start_time.as_ref()), "end_time_ms": time(one.end_time.as_ref()),
        "outcome": outcome, "error": error, "iterations": iterations,
        "prediction": one.prediction.as_ref().map_or(Value::Null, estimate),
        "prediction_origin": one.prediction_origin().as_str_name(),
        "unknown_end_reason": one.unknown_end_reason,
    })
}

/// Renders how true predictions were.
pub(crate) fn accuracy(one: &v1::PathAccuracy) -> Value {
    let spread = |errors: Option<v1::ErrorSpread>| {
        errors.map_or(
            Value::Null,
            |errors| json!({"p50": errors.p50, "p90": errors.p90, "count": errors.count}),
        )
    };
    let formula = |one: &v1::FormulaAccuracy| {
        json!({"name": one.name, "total_error_ratio": spread(one.total_error_ratio),
               "wire_error_ratio": spread(one.wire_error_ratio),
               "downtime_error_ms": spread(one.downtime_error_ms),
               "verdict_count": one.verdict_count,
               "verdict_right_count": one.verdict_right_count,
               "broken_promise_count": one.broken_promise_count})
    };
    json!({
        "source_node_id": id(&one.source_node_id), "target_node_id": id(&one.target_node_id),
        "migration_count": one.migration_count, "bounded_count": one.bounded_count,
        "within_bounds_count": one.within_bounds_count,
        "formulas": one.formulas.iter().map(formula).collect::<Value>(),
    })
}
