//! The metrics page in Triton's names as well: the same numbers, for dashboards and autoscalers that know only those.

use super::{
    names::{Metric, nv},
    process::Memory,
    prometheus::{Named, Page},
    registry::ModelRow,
    stats::{Reading, Tally},
};
use crate::types::error::Code;

/// A number of a version.
type Pick = fn(&Reading) -> u64;

/// Writes every `nv_*` metric that there is something to say of.
pub fn write(
    page: &mut Page,
    versions: &[Named<Reading>],
    models: &[Named<ModelRow>],
    memory: Option<Memory>,
) {
    per_version(page, &nv::SUCCESS, versions, |r| r.statistics.success.count);
    failures(page, versions);
    let of: [(&Metric, Pick); 12] = [
        (&nv::COUNT, |r| r.statistics.inference_count),
        (&nv::EXEC_COUNT, |r| r.statistics.execution_count),
        (&nv::REQUEST_US, |r| micros(r.statistics.success)),
        (&nv::QUEUE_US, |r| micros(r.statistics.queue)),
        (&nv::INPUT_US, |r| micros(r.statistics.compute_input)),
        (&nv::INFER_US, |r| micros(r.statistics.compute_infer)),
        (&nv::OUTPUT_US, |r| micros(r.statistics.compute_output)),
        (&nv::CACHE_HITS, |r| r.statistics.cache_hit.count),
        (&nv::CACHE_MISSES, |r| r.statistics.cache_miss.count),
        (&nv::CACHE_HIT_US, |r| micros(r.statistics.cache_hit)),
        (&nv::CACHE_MISS_US, |r| micros(r.statistics.cache_miss)),
        (&nv::PENDING, |r| r.queued),
    ];
    for (metric, value) in of {
        per_version(page, metric, versions, value);
    }
    page.family(&nv::LOAD_SECS);
    for ((model, version), row) in models {
        if let Some(took) = row.load_time {
            let labels = [("model", &**model), ("version", &**version)];
            page.sample(nv::LOAD_SECS.name, &labels, took.as_secs_f64());
        }
    }
    page.single(&nv::CPU_MEMORY_TOTAL, memory.map(|m| m.total_bytes));
    page.single(&nv::CPU_MEMORY_USED, memory.map(|m| m.total_bytes - m.available_bytes));
}

fn per_version(
    page: &mut Page,
    metric: &Metric,
    versions: &[Named<Reading>],
    value: impl Fn(&Reading) -> u64,
) {
    page.family(metric);
    for ((model, version), reading) in versions {
        page.sample(metric.name, &[("model", model), ("version", version)], value(reading));
    }
}

/// Triton's four reasons, each with a series from the start, as it has them.
fn failures(page: &mut Page, versions: &[Named<Reading>]) {
    page.family(&nv::FAILURE);
    for ((model, version), reading) in versions {
        for reason in ["REJECTED", "CANCELED", "BACKEND", "OTHER"] {
            let of_reason = Code::ALL.into_iter().filter(|code| reason_of(*code) == reason);
            let count: u64 = of_reason.map(|code| reading.failed[code as usize]).sum();
            let labels = [("model", &**model), ("version", &**version), ("reason", reason)];
            page.sample(nv::FAILURE.name, &labels, count);
        }
    }
}

/// Rejected: by the queue, full or out of time.
const fn reason_of(code: Code) -> &'static str {
    match code {
        Code::Overloaded | Code::DeadlineExceeded => "REJECTED",
        Code::Cancelled => "CANCELED",
        Code::Internal => "BACKEND",
        _ => "OTHER",
    }
}

fn micros(tally: Tally) -> u64 {
    tally.nanos / 1000
}
