//! A model's configuration as the gRPC message; over HTTP the repository's own form is the answer.

use super::proto::{
    self, DataType, ModelVersionPolicy, model_config::SchedulingChoice, model_instance_group::Kind,
    model_version_policy::PolicyChoice,
};
use crate::repository::config::{
    ConfigInput, ConfigOutput, InstanceGroup, ModelConfig, VersionPolicy,
};

/// The message that says what `config` says.
pub fn message(config: &ModelConfig) -> proto::ModelConfig {
    proto::ModelConfig {
        name: config.name.clone(),
        platform: config.platform.into(),
        backend: config.backend.into(),
        version_policy: Some(version_policy(&config.version_policy)),
        max_batch_size: config.max_batch_size,
        input: config.input.iter().map(input).collect(),
        output: config.output.iter().map(output).collect(),
        instance_group: config.instance_group.iter().map(instance_group).collect(),
        default_model_filename: config.default_model_filename.into(),
        scheduling_choice: config.dynamic_batching.as_ref().map(|batching| {
            SchedulingChoice::DynamicBatching(proto::ModelDynamicBatching {
                max_queue_delay_microseconds: batching.max_queue_delay_microseconds,
                ..Default::default()
            })
        }),
        model_transaction_policy: Some(proto::ModelTransactionPolicy {
            decoupled: config.model_transaction_policy.decoupled,
        }),
        response_cache: config
            .response_cache
            .as_ref()
            .map(|cache| proto::ModelResponseCache { enable: cache.enable }),
        ..Default::default()
    }
}

fn version_policy(policy: &VersionPolicy) -> ModelVersionPolicy {
    use proto::model_version_policy::{All, Latest, Specific};
    let choice = match policy {
        VersionPolicy::Latest { num_versions } => {
            PolicyChoice::Latest(Latest { num_versions: *num_versions })
        }
        VersionPolicy::All {} => PolicyChoice::All(All {}),
        VersionPolicy::Specific { versions } => {
            PolicyChoice::Specific(Specific { versions: versions.clone() })
        }
    };
    ModelVersionPolicy { policy_choice: Some(choice) }
}

/// The number of a datatype's name; that of TYPE_INVALID for what is none.
fn data_type(name: &str) -> i32 {
    DataType::from_str_name(name).unwrap_or(DataType::TypeInvalid).into()
}

fn input(input: &ConfigInput) -> proto::ModelInput {
    proto::ModelInput {
        name: input.name.clone(),
        data_type: data_type(input.data_type),
        dims: input.dims.clone(),
        optional: input.optional,
        ..Default::default()
    }
}

fn output(output: &ConfigOutput) -> proto::ModelOutput {
    proto::ModelOutput {
        name: output.name.clone(),
        data_type: data_type(output.data_type),
        dims: output.dims.clone(),
        ..Default::default()
    }
}

fn instance_group(group: &InstanceGroup) -> proto::ModelInstanceGroup {
    proto::ModelInstanceGroup {
        name: group.name.clone(),
        kind: Kind::from_str_name(group.kind).unwrap_or(Kind::Auto).into(),
        count: group.count,
        ..Default::default()
    }
}
