//! The answers of every route but infer, as pure functions of the table: gRPC sends them as they are, HTTP as JSON.

use std::sync::Arc;

use serde_json::{Value, json};

use super::{errors::not_here, proto};
use crate::{
    cache::store::Store,
    repository::{
        config::{ModelConfig, on_gpu},
        table::{Model, State, Table, Version},
    },
    telemetry::{registry::Kept, stats::Tally},
    types::{
        error::{Code, Error},
        model::TensorSpec,
    },
};

/// The server's name in its metadata.
pub const NAME: &str = "onnxd";

/// The extensions that are here, by the names that Triton gave them. perf_analyzer reads statistics only where it finds
/// `statistics`.
pub const EXTENSIONS: [&str; 7] = [
    "binary_tensor_data",
    "classification",
    "model_configuration",
    "model_repository",
    "parameters",
    "schedule_policy",
    "statistics",
];

/// Name, version and extensions of the server, which may have shared memory.
pub fn server_metadata(shared_memory: bool) -> proto::ServerMetadataResponse {
    let mut extensions: Vec<String> = EXTENSIONS.map(String::from).into();
    if shared_memory {
        extensions.push("system_shared_memory".into());
    }
    proto::ServerMetadataResponse {
        name: NAME.into(),
        version: env!("CARGO_PKG_VERSION").into(),
        extensions,
    }
}

/// Why the server is not ready, where it isn't.
pub fn not_ready() -> Error {
    Error::new(
        Code::Unavailable,
        "the server is not ready: a wanted model does not serve yet, or it drains",
    )
}

/// What a model takes and gives, with the versions that serve.
///
/// # Errors
/// `NotFound` for what the table does not know, `Unavailable` for what does not serve.
pub fn model_metadata(
    table: &Table,
    model: &str,
    version: &str,
) -> Result<proto::ModelMetadataResponse, Error> {
    let resolved = table.resolve(model, version)?;
    let versions = serving(table.model(model)?).map(|v| v.label.to_string()).collect();
    Ok(proto::ModelMetadataResponse {
        name: resolved.model.to_string(),
        versions,
        platform: resolved.platform.into(),
        inputs: resolved.signature.inputs.iter().map(tensor_metadata).collect(),
        outputs: resolved.signature.outputs.iter().map(tensor_metadata).collect(),
    })
}

fn tensor_metadata(spec: &TensorSpec) -> proto::model_metadata_response::TensorMetadata {
    proto::model_metadata_response::TensorMetadata {
        name: spec.name.to_string(),
        datatype: spec.datatype.name().into(),
        shape: spec.protocol_dims(),
    }
}

/// The versions of a model that serve, lowest first.
fn serving(model: &Model) -> impl Iterator<Item = &Version> {
    model.versions.values().filter_map(|state| match state {
        State::Ready(version) => Some(version.as_ref()),
        _ => None,
    })
}

/// The models in the order of their names, so that answers do not depend on a hash.
fn by_name(table: &Table) -> Vec<&Model> {
    let mut models: Vec<&Model> = table.models.values().map(AsRef::as_ref).collect();
    models.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    models
}

/// The configuration of a version, in Triton's words.
///
/// # Errors
/// As `model_metadata`.
pub fn model_config(table: &Table, model: &str, version: &str) -> Result<ModelConfig, Error> {
    table.resolve(model, version).map(|version| ModelConfig::of(&version))
}

/// What was counted: of every version that serves (`model` empty), of those of one model, or of one version.
///
/// # Errors
/// As `model_metadata`; `InvalidArgument` for a version without a model.
pub fn statistics(
    table: &Table,
    model: &str,
    version: &str,
) -> Result<proto::ModelStatisticsResponse, Error> {
    let model_stats = match (model, version) {
        ("", "") => by_name(table).into_iter().flat_map(serving).map(version_statistics).collect(),
        ("", _) => {
            return Err(Error::invalid(format!(
                "version '{version}' of which model? none is named"
            )));
        }
        (_, "") => {
            let found: Vec<_> = serving(table.model(model)?).map(version_statistics).collect();
            if found.is_empty() {
                table.resolve(model, "")?;
            }
            found
        }
        _ => vec![version_statistics(&*table.resolve(model, version)?)],
    };
    Ok(proto::ModelStatisticsResponse { model_stats })
}

/// Every duration is there, zero or not: perf_analyzer's HTTP parser takes each without looking.
fn version_statistics(version: &Version) -> proto::ModelStatistics {
    let counted = version.stats.snapshot();
    let batch_stats = counted.batches.iter().map(|batch| proto::InferBatchStatistics {
        batch_size: batch.batch_size,
        compute_input: duration(batch.compute_input),
        compute_infer: duration(batch.compute_infer),
        compute_output: duration(batch.compute_output),
    });
    proto::ModelStatistics {
        name: version.model.to_string(),
        version: version.label.to_string(),
        last_inference: counted.last_inference,
        inference_count: counted.inference_count,
        execution_count: counted.execution_count,
        inference_stats: Some(proto::InferStatistics {
            success: duration(counted.success),
            fail: duration(counted.fail),
            queue: duration(counted.queue),
            compute_input: duration(counted.compute_input),
            compute_infer: duration(counted.compute_infer),
            compute_output: duration(counted.compute_output),
            cache_hit: duration(counted.cache_hit),
            cache_miss: duration(counted.cache_miss),
        }),
        batch_stats: batch_stats.collect(),
        memory_usage: vec![proto::MemoryUsage {
            r#type: if on_gpu(&version.providers) { "GPU" } else { "CPU" }.into(),
            id: 0,
            byte_size: version.weight_bytes,
        }],
        // Those of decoupled models, which answer one request more than once: there are none.
        response_stats: Default::default(),
    }
}

fn duration(tally: Tally) -> Option<proto::StatisticDuration> {
    Some(proto::StatisticDuration { count: tally.count, ns: tally.nanos })
}

/// Every version of every model with its state; `ready`: only those that serve. A model without a version stands
/// there once, with its reason.
pub fn repository_index(table: &Table, ready: bool) -> proto::RepositoryIndexResponse {
    let mut models = Vec::new();
    for model in by_name(table) {
        for (number, state) in &model.versions {
            let reason = model.reason(*number, state);
            models.push(index_entry(model, number.to_string(), state.index_name(), reason));
        }
        if model.versions.is_empty() {
            let reason = model.failed.as_deref().unwrap_or("it has no version");
            models.push(index_entry(model, String::new(), "UNAVAILABLE", reason));
        }
    }
    models.retain(|entry| !ready || entry.state == "READY");
    proto::RepositoryIndexResponse { models }
}

fn index_entry(
    model: &Model,
    version: String,
    state: &str,
    reason: &str,
) -> proto::repository_index_response::ModelIndex {
    proto::repository_index_response::ModelIndex {
        name: model.name.to_string(),
        version,
        state: state.into(),
        reason: reason.into(),
    }
}

/// There is one repository, without a name.
///
/// # Errors
/// `Unimplemented` where a request names one.
pub fn only_repository(name: &str) -> Result<(), Error> {
    if name.is_empty() { Ok(()) } else { Err(not_here("choosing a repository by its name")) }
}

/// The model that a load or unload call over gRPC means. KServe's contract has the name where Triton's has the
/// repository's.
///
/// # Errors
/// As `only_repository`.
pub fn control_target<'a>(repository: &'a str, model: &'a str) -> Result<&'a str, Error> {
    if model.is_empty() {
        return Ok(repository);
    }
    only_repository(repository)?;
    Ok(model)
}

/// Every model with its versions, for the operator.
pub fn models(table: &Table) -> Value {
    by_name(table).into_iter().map(operator_model).collect()
}

fn operator_model(model: &Model) -> Value {
    let current = model.current.as_ref().map(|version| version.number);
    let version = |(number, state): (&u64, &State)| {
        let mut row = json!({
            "version": number,
            "state": state.index_name(),
            "standing": state.label(),
            "traffic_share": model.share_of(*number),
            "reason": model.reason(*number, state),
        });
        if let State::Ready(version) | State::Kept(version) = state {
            row["platform"] = version.platform.into();
            row["backend"] = version.backend.into();
            row["providers"] = version.providers.clone().into();
            row["memory_bytes"] = version.weight_bytes.into();
            row["sha256"] = version.sha256.clone().into();
        }
        row
    };
    json!({
        "name": model.name,
        "current": current,
        "failed": model.failed,
        "notice": model.notice,
        "decided_by": if model.by_call { "calls" } else { "directory" },
        "versions": model.versions.iter().map(version).collect::<Vec<_>>(),
    })
}

/// Empties a model's cache.
///
/// # Errors
/// `NotFound` for an unknown model, `InvalidArgument` for one without a cache.
pub fn purge(table: &Table, model: &str) -> Result<Value, Error> {
    let model = table.model(model)?;
    // Versions share it, as a rule; one that serves on with other options has its own.
    let mut stores: Vec<&Arc<Store>> = Vec::new();
    for store in serving(model).filter_map(|version| version.cache.as_ref()).map(|c| &c.store) {
        if !stores.iter().any(|known| Arc::ptr_eq(known, store)) {
            stores.push(store);
        }
    }
    if stores.is_empty() {
        return Err(Error::invalid(format!(
            "model '{}' has no cache: 'onnxd explain {0}' says why",
            model.name
        )));
    }
    let purged: Vec<Kept> = stores.into_iter().map(|store| store.purge()).collect();
    Ok(json!({
        "model": model.name,
        "answers": purged.iter().map(|kept| kept.answers).sum::<u64>(),
        "bytes": purged.iter().map(|kept| kept.bytes).sum::<u64>(),
    }))
}

/// What was decided about a version and why.
///
/// # Errors
/// As `model_metadata`.
pub fn explanation(table: &Table, model: &str, version: &str) -> Result<Value, Error> {
    table.resolve(model, version).map(|version| version.explanation.clone())
}
