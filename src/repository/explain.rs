//! What `onnxd explain MODEL` shows of a version: what it is, each decision, and the numbers behind it.

use std::time::Duration;

use serde_json::{Value, json};

use super::{candidate::Checked, job::Job, latency::Latency, loader::Opened};
use crate::{
    batcher::mode::Choice,
    types::model::{Signature, TensorSpec},
};

/// All that is known of a version once it serves.
pub struct Facts<'a> {
    pub job: &'a Job,
    pub opened: &'a Opened,
    pub choice: &'a Choice,
    pub checked: &'a Checked,
    /// Threads with a session of their own.
    pub replicas: usize,
    /// Whether answers are kept, and why not.
    pub cache: &'a str,
    /// From the first byte read until now.
    pub took: Duration,
}

/// The explanation, as JSON. `mode` and `mode_reason` are text: log and banner print them.
pub fn explanation(facts: &Facts<'_>) -> Value {
    let Facts { job, opened, choice, .. } = facts;
    let graph = &opened.source.graph;
    json!({
        "model": &*job.model,
        "version": job.number,
        "file": job.file,
        "sha256": opened.sha256,
        "backend": opened.backend.name(),
        "backend_reason": opened.backend_reason,
        "runtime": opened.backend.describe(),
        "providers": opened.session.providers(),
        "device": opened.session.device(),
        "threads_a_run": opened.session_options.intra_op_threads,
        "warnings": opened.session.warnings(),
        "samples": facts.checked.samples.len(),
        "advice": facts.checked.advice,
        "mode": choice.execution.name(),
        "mode_reason": without_mode(&choice.reason, choice.execution.name()),
        "shares_runs": choice.gather,
        "turn_rows": choice.turn_rows,
        "padding": opened.padded.said,
        "cache": facts.cache,
        "signature": signature(&opened.signature),
        "graph": {
            "producer": graph.producer,
            "ir_version": graph.ir_version,
            "opsets": graph.opsets,
            "nodes": graph.nodes,
            "control_flow": graph.control_flow,
            "data_dependent": graph.data_dependent,
            "random": graph.random,
        },
        "weight_bytes": opened.weights,
        "file_bytes": opened.source.bytes.len(),
        "external_files": graph.external,
        "own_sessions": facts.replicas,
        "probe": probe(opened),
        "latency_mode": opened.latency.as_ref().map(Latency::explanation),
        "load_ms": {
            "total": millis(facts.took),
            "open": millis(opened.open_time),
            "probe": millis(opened.probe_time),
        },
        "options": &*job.options,
        "config_pbtxt": job.options.declared.as_ref().map(|declared| &declared.notes),
    })
}

/// The reason, where it opens with the mode, without it: whoever prints one has printed the other.
fn without_mode<'a>(reason: &'a str, mode: &str) -> &'a str {
    let rest = reason.strip_prefix(mode);
    let rest = rest.and_then(|r| r.strip_prefix(": ").or_else(|| r.strip_prefix(", ")));
    rest.unwrap_or(reason)
}

fn probe(opened: &Opened) -> Value {
    let Some(probe) = &opened.probe else { return Value::Null };
    let row = |&(rows, took): &(usize, Duration)| {
        let us = took.as_secs_f64() * 1e6;
        json!({
            "rows": rows,
            "microseconds": round(us),
            "microseconds_per_item": round(us / rows.max(1) as f64),
        })
    };
    json!({
        "measured": opened.measured.to_string(),
        "table": probe.rows.iter().map(row).collect::<Vec<Value>>(),
        "rows_agree": match &probe.consistent {
            Ok(largest) => format!("yes, within {largest:.1e}"),
            Err(why) => why.clone(),
        },
        "error": probe.error,
    })
}

fn signature(signature: &Signature) -> Value {
    let tensor = |spec: &TensorSpec| {
        json!({
            "name": &*spec.name,
            "datatype": spec.datatype.name(),
            "shape": spec.shape_text(),
            "optional": spec.optional,
            "labels": spec.labels.as_ref().map(|l| l.len()),
        })
    };
    json!({
        "inputs": signature.inputs.iter().map(tensor).collect::<Vec<Value>>(),
        "outputs": signature.outputs.iter().map(tensor).collect::<Vec<Value>>(),
        "can_batch": signature.can_batch,
    })
}

fn millis(took: Duration) -> f64 {
    round(took.as_secs_f64() * 1e3)
}

/// To three digits after the point: what comes after is noise.
fn round(value: f64) -> f64 {
    (value * 1e3).round() / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mode_is_said_once() {
        assert_eq!(without_mode("turn: a single run takes 4µs", "turn"), "a single run takes 4µs");
        assert_eq!(without_mode("batch, as set", "batch"), "as set");
        let refused = "'turn' is set and refused: why; instead batch: it pays";
        assert_eq!(without_mode(refused, "batch"), refused);
    }
}
