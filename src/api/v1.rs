//! The routes of KServe's v1 protocol and of TensorFlow Serving's REST API: inference as the fast lane reads and answers it, the
//! rest on axum.

use std::sync::Arc;

use axum::{
    body::Body as Routed,
    extract::{Path, State},
    http::{Response, StatusCode},
};
use http::{HeaderValue, Request, header};
use hyper::body::Incoming;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{OpenApi, ToSchema};
use utoipa_axum::routes;

use super::{
    body::{self, Body},
    coded,
    compat::{self, Call, Verb, Which},
    fast::{Front, Plain, count_refused, say_route},
    heads::Heads,
    http::{Outcome, reply},
    openapi::Routes,
    schema::{InferErrors, ModelErrors},
    state::Api,
};
use crate::{
    serving::caller::Caller,
    types::{
        error::Error,
        model::Signature,
        request::{InferRequest, InferResponse, RequestedOutput},
        text::Text,
        time::Tick,
    },
    wire::{
        flate::Coding,
        tfs::{self, Form as Written},
        tfs_write,
    },
};

/// An inference call as its head has it.
pub struct Ask {
    call: Result<(Call, Plain), Error>,
    body: Incoming,
}

impl Ask {
    pub fn of(front: &Front, call: Result<Call, Error>, request: Request<Incoming>) -> Ask {
        let plain = || Plain::of(front, &Heads::of(request.headers()));
        let call = call.and_then(|call| Ok((call, plain()?)));
        Ask { call, body: request.into_body() }
    }
}

/// How the answer is to be written.
enum Answer {
    Predictions(Written),
    Scores(Verb),
}

/// Answers an inference call.
pub async fn infer(
    front: &Front,
    ask: Ask,
    caller: Option<&Caller>,
    received: Tick,
) -> Result<Response<Body>, Error> {
    let (call, plain) = ask.call.inspect_err(count_refused)?;
    let budget = &front.engine.budget;
    let mut charge = budget.charge();
    let body = match plain.coding {
        Coding::Identity => body::read(ask.body, front.limits, &mut charge).await,
        coding => body::read_coded(ask.body, coding, front.limits, &mut charge).await,
    };
    let body = charge.go_with(body.inspect_err(count_refused)?);
    let (pending, answer) = {
        if let Some(caller) = caller {
            caller.may_use(&call.model).inspect_err(count_refused)?;
        }
        let (version, signature) = resolve(front, &call).inspect_err(count_refused)?;
        let decoded = decode(&body, &signature, call.verb);
        let (mut request, answer) = decoded.inspect_err(count_refused)?;
        budget.decoded(&mut request, &body).inspect_err(count_refused)?;
        drop(body);
        request.model = call.model;
        request.version = version;
        request.heads = plain.routes;
        (front.engine.begin(request, received, plain.timeout, caller)?, answer)
    };
    let answered = pending.answer().await?;
    let json = budget.written(encode(&answered, &answer)?.into())?;
    let mut response = Response::new(Body::whole(json));
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    say_route(&answered.route, &mut response);
    match plain.answer {
        Coding::Identity => Ok(response),
        coding => coded::answer(response, coding, budget).await,
    }
}

/// The version to ask for, and what it takes.
fn resolve(front: &Front, call: &Call) -> Result<(Text, Arc<Signature>), Error> {
    let table = front.engine.table.load();
    let version = compat::version(&table, &call.model, &call.which)?;
    let resolved = table.resolve(&call.model, &version)?;
    Ok((version, resolved.signature.clone()))
}

fn decode(
    body: &bytes::Bytes,
    signature: &Signature,
    verb: Verb,
) -> Result<(InferRequest, Answer), Error> {
    if verb == Verb::Predict {
        let (request, written) = tfs::decode_predict(body, signature)?;
        return Ok((request, Answer::Predictions(written)));
    }
    let output = compat::scores(signature, verb)?;
    let mut request = tfs::decode_examples(body, signature)?;
    let name = Text::from(&*signature.outputs[output].name);
    request.outputs.push(RequestedOutput { name, ..RequestedOutput::default() });
    Ok((request, Answer::Scores(verb)))
}

fn encode(response: &InferResponse, answer: &Answer) -> Result<Vec<u8>, Error> {
    let mut json = Vec::new();
    match (answer, response.outputs.first()) {
        (Answer::Predictions(written), _) => {
            tfs_write::encode_predict(response, *written, &mut json)?;
        }
        (Answer::Scores(Verb::Classify), Some(output)) => {
            tfs_write::encode_classes(response, output, &mut json)?;
        }
        (Answer::Scores(_), Some(output)) => {
            tfs_write::encode_values(response, output, &mut json)?;
        }
        (Answer::Scores(_), None) => return Err(Error::internal("the model gave no output")),
    }
    Ok(json)
}

/// The routes. Calls come here only to get wrong verbs their answer: the fast lane takes the right ones.
pub fn routes() -> Routes {
    Routes::with_openapi(Calls::openapi())
        .routes(routes!(models))
        .routes(routes!(status))
        .routes(routes!(version_status))
        .routes(routes!(label_status))
        .routes(routes!(metadata))
        .routes(routes!(version_metadata))
        .routes(routes!(label_metadata))
}

#[derive(Deserialize)]
struct Target {
    model: String,
    version: Option<String>,
    label: Option<String>,
}

type TargetPath = Result<Path<Target>, axum::extract::rejection::PathRejection>;

/// The model, and the version where one is named.
fn target(api: &Api, path: TargetPath) -> Result<(String, String), Error> {
    let Path(Target { model, version, label }) =
        path.map_err(|_| Error::invalid("the path is no percent-encoded UTF-8"))?;
    let which = match (version, label) {
        (Some(number), _) => Which::Number(number.into()),
        (None, Some(label)) => Which::Label(label.into()),
        (None, None) => Which::Current,
    };
    let version = compat::version(&api.table.load(), &model, &which)?;
    Ok((model, version.to_string()))
}

fn standing(api: &Api, path: TargetPath) -> Outcome {
    let (model, version) = target(api, path)?;
    let (ready, body) = compat::status(&api.table.load(), &model, &version)?;
    // KServe's clients read the code.
    let code = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    Ok(reply(code, &body))
}

fn described(api: &Api, path: TargetPath) -> Outcome {
    let (model, version) = target(api, path)?;
    let version = api.table.load().resolve(&model, &version)?;
    Ok(reply(StatusCode::OK, &compat::metadata(&version)))
}

/// The models that serve
#[utoipa::path(get, path = "/v1/models", tag = "v1", responses((status = 200, body = Value)))]
async fn models(State(api): State<Arc<Api>>) -> Response<Routed> {
    reply(StatusCode::OK, &compat::models(&api.table.load()))
}

/// Whether a model serves, and how its versions stand
#[utoipa::path(get, path = "/v1/models/{model}", tag = "v1",
    responses(ModelErrors, (status = 200, body = Value), (status = 503, body = Value)))]
async fn status(State(api): State<Arc<Api>>, path: TargetPath) -> Outcome {
    standing(&api, path)
}

/// Whether a version serves
#[utoipa::path(get, path = "/v1/models/{model}/versions/{version}", tag = "v1",
    responses(ModelErrors, (status = 200, body = Value), (status = 503, body = Value)))]
async fn version_status(State(api): State<Arc<Api>>, path: TargetPath) -> Outcome {
    standing(&api, path)
}

/// Whether the version with a label serves
#[utoipa::path(get, path = "/v1/models/{model}/labels/{label}", tag = "v1",
    responses(ModelErrors, (status = 200, body = Value), (status = 503, body = Value)))]
async fn label_status(State(api): State<Arc<Api>>, path: TargetPath) -> Outcome {
    standing(&api, path)
}

/// What a model takes and gives, in TensorFlow Serving's words
#[utoipa::path(get, path = "/v1/models/{model}/metadata", tag = "v1",
    responses(ModelErrors, (status = 200, body = Value)))]
async fn metadata(State(api): State<Arc<Api>>, path: TargetPath) -> Outcome {
    described(&api, path)
}

/// What a version takes and gives
#[utoipa::path(get, path = "/v1/models/{model}/versions/{version}/metadata", tag = "v1",
    responses(ModelErrors, (status = 200, body = Value)))]
async fn version_metadata(State(api): State<Arc<Api>>, path: TargetPath) -> Outcome {
    described(&api, path)
}

/// What the version with a label takes and gives
#[utoipa::path(get, path = "/v1/models/{model}/labels/{label}/metadata", tag = "v1",
    responses(ModelErrors, (status = 200, body = Value)))]
async fn label_metadata(State(api): State<Arc<Api>>, path: TargetPath) -> Outcome {
    described(&api, path)
}

/// The calls, whose paths no router has: a colon ends the model's name in them.
#[derive(OpenApi)]
#[openapi(paths(predict, predict_version, predict_label, classify, regress))]
struct Calls;

/// Values without datatypes: rows in `instances`, or whole tensors in `inputs`
#[derive(Serialize, ToSchema)]
struct PredictRequest {
    /// One entry for each row: a value where the model takes one input, or an object of values by input.
    #[schema(nullable = false)]
    instances: Option<Vec<Value>>,
    /// In place of `instances`: a tensor where the model takes one input, or an object of tensors by input.
    #[schema(nullable = false)]
    inputs: Option<Value>,
    /// `serving_default`, the only one there is.
    #[schema(nullable = false)]
    signature_name: Option<String>,
}

/// Examples, as TensorFlow Serving's classification and regression take them
#[derive(Serialize, ToSchema)]
struct ExamplesRequest {
    /// One object of features, by input, for each row.
    examples: Vec<Value>,
    /// Features that all examples share.
    #[schema(nullable = false)]
    context: Option<Value>,
    /// `serving_default`, the only one there is.
    #[schema(nullable = false)]
    signature_name: Option<String>,
}

macro_rules! document {
    ($name:ident, $path:literal, $body:ty, $summary:literal) => {
        #[utoipa::path(post, path = $path, tag = "v1", summary = $summary,
                            request_body(content = $body, content_type = "application/json"),
                            responses((status = 200, body = Value), InferErrors))]
        #[allow(dead_code, reason = "only its description is used")]
        fn $name() {}
    };
}

document!(
    predict,
    "/v1/models/{model}:predict",
    PredictRequest,
    "Answer rows or tensors, as KServe's v1 and TensorFlow Serving do"
);
document!(
    predict_version,
    "/v1/models/{model}/versions/{version}:predict",
    PredictRequest,
    "The same by a version"
);
document!(
    predict_label,
    "/v1/models/{model}/labels/{label}:predict",
    PredictRequest,
    "The same by the version with a label"
);
document!(
    classify,
    "/v1/models/{model}:classify",
    ExamplesRequest,
    "The score of each class for each example"
);
document!(regress, "/v1/models/{model}:regress", ExamplesRequest, "One number for each example");
