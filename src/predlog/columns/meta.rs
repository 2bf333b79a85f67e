//! The columns that every log has, whatever the model: of the request, of what became of it, and of who answered. Pure.

use super::{Kind, Scalar};

/// What is known of every row, whatever the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meta {
    EventId,
    RequestId,
    Row,
    LabelKey,
    Ts,
    ModelName,
    ModelVersion,
    ModelDigest,
    RequestedVersion,
    Route,
    RolloutId,
    RolloutStep,
    Protocol,
    Status,
    ErrorCode,
    Cache,
    BatchSize,
    BatchId,
    QueueUs,
    PreUs,
    InferUs,
    PostUs,
    TotalUs,
    Device,
    Node,
    Caller,
    Tenant,
    TraceId,
    SpanId,
    SubjectKey,
    SampleP,
    RedactionRev,
    SchemaId,
    Tags,
}

const TEXT: Kind = Kind::Scalar(Scalar::String);
const INT: Kind = Kind::Scalar(Scalar::Int32);
const LONG: Kind = Kind::Scalar(Scalar::Int64);

/// (what, name, type, whether it may be null): the first columns of every file, in this order.
pub const META: [(Meta, &str, Kind, bool); 34] = [
    (Meta::EventId, "event_id", TEXT, false),
    (Meta::RequestId, "request_id", TEXT, false),
    (Meta::Row, "row", INT, false),
    (Meta::LabelKey, "label_key", TEXT, false),
    (Meta::Ts, "ts", Kind::Timestamp, false),
    (Meta::ModelName, "model_name", TEXT, false),
    (Meta::ModelVersion, "model_version", TEXT, false),
    (Meta::ModelDigest, "model_digest", TEXT, false),
    (Meta::RequestedVersion, "requested_version", TEXT, true),
    (Meta::Route, "route", TEXT, false),
    (Meta::RolloutId, "rollout_id", TEXT, true),
    (Meta::RolloutStep, "rollout_step", INT, true),
    (Meta::Protocol, "protocol", TEXT, false),
    (Meta::Status, "status", INT, false),
    (Meta::ErrorCode, "error_code", TEXT, true),
    (Meta::Cache, "cache", TEXT, false),
    (Meta::BatchSize, "batch_size", INT, true),
    (Meta::BatchId, "batch_id", LONG, true),
    (Meta::QueueUs, "queue_us", LONG, true),
    (Meta::PreUs, "pre_us", LONG, true),
    (Meta::InferUs, "infer_us", LONG, true),
    (Meta::PostUs, "post_us", LONG, true),
    (Meta::TotalUs, "total_us", LONG, true),
    (Meta::Device, "device", TEXT, true),
    (Meta::Node, "node", TEXT, true),
    (Meta::Caller, "caller", TEXT, true),
    (Meta::Tenant, "tenant", TEXT, true),
    (Meta::TraceId, "trace_id", TEXT, true),
    (Meta::SpanId, "span_id", TEXT, true),
    (Meta::SubjectKey, "subject_key", TEXT, true),
    (Meta::SampleP, "sample_p", Kind::Scalar(Scalar::Double), false),
    (Meta::RedactionRev, "redaction_rev", INT, false),
    (Meta::SchemaId, "schema_id", TEXT, false),
    (Meta::Tags, "tags", Kind::Map, true),
];
