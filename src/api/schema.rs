//! The shapes of HTTP's JSON for the OpenAPI document: of errors, from the table of codes, and of infer, whose codec has no
//! types to derive them from.

use std::collections::{BTreeMap, HashMap};

use serde::Serialize;
use utoipa::{
    IntoResponses, PartialSchema, ToSchema,
    openapi::{
        ContentBuilder, HeaderBuilder, KnownFormat, ObjectBuilder, Ref, RefOr, Response,
        ResponseBuilder, Schema, SchemaFormat, Type,
    },
};

use crate::types::{datatype::Datatype, error::Code};

/// The body of every error
#[derive(Serialize, ToSchema)]
pub struct ErrorBody<'a> {
    /// Names the thing, what was expected and what came.
    pub error: &'a str,
}

/// What the routes of one model refuse.
pub struct ModelErrors;

impl IntoResponses for ModelErrors {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        errors(&[Code::InvalidArgument, Code::NotFound, Code::Unavailable])
    }
}

/// What infer refuses, and what takes labels.
pub struct InferErrors;

impl IntoResponses for InferErrors {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        errors(&[
            Code::InvalidArgument,
            Code::NotFound,
            Code::TooLarge,
            Code::UnsupportedMedia,
            Code::UnsupportedEncoding,
            Code::Overloaded,
            Code::Internal,
            Code::Unavailable,
            Code::DeadlineExceeded,
        ])
    }
}

/// What a route with a small body refuses.
pub struct BodyErrors;

impl IntoResponses for BodyErrors {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        errors(&[Code::InvalidArgument, Code::TooLarge, Code::UnsupportedEncoding])
    }
}

/// What a call that changes which versions serve is refused with.
pub struct ControlErrors;

impl IntoResponses for ControlErrors {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        errors(&[
            Code::InvalidArgument,
            Code::PermissionDenied,
            Code::NotFound,
            Code::TooLarge,
            Code::UnsupportedEncoding,
            Code::Overloaded,
            Code::Unavailable,
        ])
    }
}

/// These codes as responses: status and condition are the table's. Codes of one status share its response.
pub fn errors(codes: &[Code]) -> BTreeMap<String, RefOr<Response>> {
    let mut conditions: BTreeMap<u16, Vec<&str>> = BTreeMap::new();
    for code in codes {
        conditions.entry(code.http()).or_default().push(code.condition());
    }
    let response = |(status, conditions): (u16, Vec<&str>)| {
        let body = ContentBuilder::new().schema(Some(Ref::from_schema_name("ErrorBody"))).build();
        let mut response = ResponseBuilder::new()
            .description(conditions.join("; "))
            .content("application/json", body);
        if status == Code::Overloaded.http() {
            let seconds = ObjectBuilder::new().schema_type(Type::Integer).minimum(Some(1));
            let header = HeaderBuilder::new()
                .schema(Some(seconds))
                .description(Some("Seconds after which another try makes sense"));
            response = response.header("Retry-After", header.build());
        }
        (status.to_string(), RefOr::T(response.build()))
    };
    conditions.into_iter().map(response).collect()
}

impl PartialSchema for Datatype {
    fn schema() -> RefOr<Schema> {
        ObjectBuilder::new()
            .schema_type(Type::String)
            .description(Some("An element type of the Open Inference Protocol"))
            .enum_values(Some(Datatype::ALL.map(Datatype::name)))
            .into()
    }
}

impl ToSchema for Datatype {}

/// An inference request as JSON
#[derive(ToSchema)]
pub struct InferRequest {
    /// Comes back in the answer.
    pub id: Option<String>,
    /// `timeout` in microseconds, `priority`, `binary_data_output` for every output that says nothing itself.
    pub parameters: Option<HashMap<String, Parameter>>,
    /// One for each input of the model, in any order.
    pub inputs: Vec<InferInput>,
    /// The outputs wanted; absent: all of them.
    pub outputs: Option<Vec<WantedOutput>>,
}

#[derive(ToSchema)]
pub struct InferInput {
    #[schema(min_length = 1)]
    pub name: String,
    pub datatype: Datatype,
    pub shape: Vec<u64>,
    /// Row-major, flat or nested as the shape is.
    pub data: Vec<Element>,
}

#[derive(ToSchema)]
pub struct WantedOutput {
    #[schema(min_length = 1)]
    pub name: String,
    pub parameters: Option<OutputParameters>,
}

#[derive(ToSchema)]
pub struct OutputParameters {
    /// Whether the output comes as bytes after the JSON.
    #[schema(nullable = false)]
    pub binary_data: Option<bool>,
}

/// The answer to an inference request; with binary tensors, the JSON at the head of the body
#[derive(ToSchema)]
pub struct InferResponse {
    pub model_name: String,
    pub model_version: String,
    #[schema(nullable = false)]
    pub id: Option<String>,
    #[schema(nullable = false)]
    pub parameters: Option<HashMap<String, Parameter>>,
    pub outputs: Vec<InferOutput>,
}

#[derive(ToSchema)]
pub struct InferOutput {
    pub name: String,
    pub datatype: Datatype,
    pub shape: Vec<u64>,
    #[schema(nullable = false)]
    pub parameters: Option<HashMap<String, Parameter>>,
    /// Row-major and flat; absent for a binary tensor.
    #[schema(nullable = false)]
    pub data: Option<Vec<Element>>,
}

/// JSON, and after it the bytes of the binary tensors.
pub struct Binary;

impl PartialSchema for Binary {
    fn schema() -> RefOr<Schema> {
        let binary = SchemaFormat::KnownFormat(KnownFormat::Binary);
        ObjectBuilder::new().schema_type(Type::String).format(Some(binary)).into()
    }
}

impl ToSchema for Binary {}

/// A request to the classifier of the example models, for whoever tries the page.
pub fn example_request() -> serde_json::Value {
    serde_json::json!({ "inputs": [{
        "name": "features",
        "datatype": "FP32",
        "shape": [1, 13],
        "data": [13.23, 3.3, 2.28, 18.5, 98, 1.8, 0.83, 0.61, 1.87, 10.52, 0.56, 1.51, 675],
    }] })
}

/// The value of a parameter
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
pub enum Parameter {
    Flag(bool),
    Number(f64),
    Text(String),
}

/// An element of a tensor, or a row of them: numbers, also "NaN", "Infinity" and "-Infinity"; true and false for BOOL;
/// text for BYTES
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
pub enum Element {
    Flag(bool),
    Number(f64),
    Text(String),
    #[schema(no_recursion)]
    Row(Vec<Element>),
}
