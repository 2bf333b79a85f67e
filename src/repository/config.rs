//! A version as Triton's model configuration describes one, for clients that ask for it (perf_analyzer does).

use serde::Serialize;
use utoipa::ToSchema;

use super::{options::Versions, table::Version};
use crate::types::{datatype::Datatype, model::TensorSpec};

/// The configuration of a model, with the field names of Triton's `ModelConfig`. Serialised it is the answer of
/// `/v2/models/M/config`.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct ModelConfig {
    pub name: String,
    pub platform: &'static str,
    pub backend: &'static str,
    pub version_policy: VersionPolicy,
    /// Rows a batch may hold; 0 where the graph cannot batch.
    pub max_batch_size: i32,
    pub input: Vec<ConfigInput>,
    pub output: Vec<ConfigOutput>,
    pub instance_group: Vec<InstanceGroup>,
    pub default_model_filename: &'static str,
    /// Present where requests can share a batch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dynamic_batching: Option<DynamicBatching>,
    pub model_transaction_policy: TransactionPolicy,
    /// Present where answers are kept.
    #[schema(nullable = false)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub response_cache: Option<ResponseCache>,
}

/// One of Triton's three ways to choose versions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum VersionPolicy {
    Latest { num_versions: u32 },
    All {},
    Specific { versions: Vec<i64> },
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct ConfigInput {
    pub name: String,
    /// As in `TYPE_FP32`.
    pub data_type: &'static str,
    /// Without the batch axis where there is one; -1 for what is dynamic.
    pub dims: Vec<i64>,
    pub optional: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct ConfigOutput {
    pub name: String,
    pub data_type: &'static str,
    pub dims: Vec<i64>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct InstanceGroup {
    pub name: String,
    /// `KIND_CPU` or `KIND_GPU`.
    pub kind: &'static str,
    pub count: i32,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct DynamicBatching {
    pub max_queue_delay_microseconds: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct TransactionPolicy {
    pub decoupled: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct ResponseCache {
    pub enable: bool,
}

impl ModelConfig {
    pub fn of(version: &Version) -> ModelConfig {
        let signature = &version.signature;
        let options = &version.options;
        let batch = signature.can_batch;
        let rows = i32::try_from(options.batching.max_batch_size).unwrap_or(i32::MAX);
        let delay = options.batching.max_queue_delay_us;
        ModelConfig {
            name: version.model.to_string(),
            platform: version.platform,
            backend: if version.backend == "ort" { "onnxruntime" } else { version.backend },
            version_policy: VersionPolicy::of(&options.versions),
            max_batch_size: if batch { rows } else { 0 },
            input: signature
                .inputs
                .iter()
                .map(|spec| ConfigInput {
                    name: spec.name.to_string(),
                    data_type: data_type(spec.datatype),
                    dims: dims(spec, batch),
                    optional: spec.optional,
                })
                .collect(),
            output: signature
                .outputs
                .iter()
                .map(|spec| ConfigOutput {
                    name: spec.name.to_string(),
                    data_type: data_type(spec.datatype),
                    dims: dims(spec, batch),
                })
                .collect(),
            instance_group: vec![InstanceGroup {
                name: version.model.to_string(),
                kind: if on_gpu(&version.providers) { "KIND_GPU" } else { "KIND_CPU" },
                count: i32::try_from(options.batching.instances.max(1)).unwrap_or(i32::MAX),
            }],
            default_model_filename: super::store::MODEL_FILE,
            dynamic_batching: batch
                .then_some(DynamicBatching { max_queue_delay_microseconds: delay }),
            model_transaction_policy: TransactionPolicy { decoupled: false },
            response_cache: version.cache.as_ref().map(|_| ResponseCache { enable: true }),
        }
    }
}

impl VersionPolicy {
    fn of(versions: &Versions) -> VersionPolicy {
        match versions {
            Versions::Latest(n) => {
                VersionPolicy::Latest { num_versions: u32::try_from(*n).unwrap_or(u32::MAX) }
            }
            Versions::All => VersionPolicy::All {},
            Versions::Only(numbers) => VersionPolicy::Specific {
                versions: numbers.iter().map(|n| i64::try_from(*n).unwrap_or(i64::MAX)).collect(),
            },
        }
    }
}

/// Triton's name of a datatype: it says STRING where the protocol says BYTES.
pub fn data_type(datatype: Datatype) -> &'static str {
    match datatype {
        Datatype::Bool => "TYPE_BOOL",
        Datatype::Uint8 => "TYPE_UINT8",
        Datatype::Uint16 => "TYPE_UINT16",
        Datatype::Uint32 => "TYPE_UINT32",
        Datatype::Uint64 => "TYPE_UINT64",
        Datatype::Int8 => "TYPE_INT8",
        Datatype::Int16 => "TYPE_INT16",
        Datatype::Int32 => "TYPE_INT32",
        Datatype::Int64 => "TYPE_INT64",
        Datatype::Fp16 => "TYPE_FP16",
        Datatype::Fp32 => "TYPE_FP32",
        Datatype::Fp64 => "TYPE_FP64",
        Datatype::Bf16 => "TYPE_BF16",
        Datatype::Bytes => "TYPE_STRING",
    }
}

fn dims(spec: &TensorSpec, batch: bool) -> Vec<i64> {
    let mut dims = spec.protocol_dims();
    if batch && !dims.is_empty() {
        dims.remove(0);
    }
    dims
}

/// Whether a version with these execution providers runs on a GPU.
pub fn on_gpu(providers: &[String]) -> bool {
    providers.iter().any(|p| p.starts_with("CUDA") || p.starts_with("Tensorrt"))
}
