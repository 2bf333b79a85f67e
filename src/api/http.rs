//! Every route of the Open Inference Protocol over HTTP but infer, and the one router of a data port.

use std::{borrow::Cow, sync::Arc};

use axum::{
    Json, Router,
    body::{Body, Bytes},
    extract::{FromRequest, FromRequestParts, Path, Request, State, rejection::BytesRejection},
    http::{Method, Response, StatusCode, Uri, request::Parts},
    middleware,
    response::IntoResponse,
    routing::post,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Map, Value};
use utoipa::ToSchema;
use utoipa_axum::routes;

use super::{
    answers,
    auth::roles::Port,
    coded,
    control::{ControlRequest, Verb},
    errors::{Failure, http_response, not_here},
    grpc, health,
    openapi::{MODEL, Routes, VERSION, of_model, with_document},
    proto, reflection, regions,
    schema::{
        Binary, BodyErrors, ControlErrors, InferErrors, InferRequest, InferResponse, ModelErrors,
        example_request,
    },
    settings,
    state::Api,
    v1,
};
use crate::{
    repository::config::ModelConfig,
    types::error::{Code, Error},
};

/// What a handler comes back with.
pub type Outcome = Result<Response<Body>, Failure>;

/// The routes of a data port: gRPC by path, HTTP, and an answer in the caller's own protocol for what is unknown.
pub fn router(api: Arc<Api>) -> Router {
    finish(
        Routes::new()
            .merge(health())
            .merge(repository())
            .merge(models())
            .merge(regions::routes())
            .merge(settings::routes())
            .merge(v1::routes())
            .routes(routes!(alive))
            .routes(routes!(server_metadata))
            .merge(grpc::routes(grpc::PREFIX, grpc::service(api.clone())).into())
            .merge(grpc::routes(health::PREFIX, health::service(api.clone())).into())
            .merge(reflection::routes(&api.shutdown).into()),
        Port::Data,
        api,
    )
}

/// Gives routes their document, their state and their codings, and JSON to what axum would answer in plain text.
pub fn finish(routes: Routes, port: Port, api: Arc<Api>) -> Router {
    with_document(routes, port)
        .fallback(unknown_path)
        .method_not_allowed_fallback(refuse_method)
        .layer(middleware::from_fn_with_state(api.clone(), coded::layer))
        .with_state(api)
}

/// Liveness and readiness, the same on every port.
pub fn health() -> Routes {
    Routes::new().routes(routes!(live)).routes(routes!(ready))
}

/// The model repository extension. What only answers that it is not here is in no document.
pub fn repository() -> Routes {
    Routes::new()
        .routes(routes!(index))
        .routes(routes!(load))
        .routes(routes!(unload))
        .route("/v2/repository/{repository}/index", post(named_repository))
        .route("/v2/repository/{repository}/models/{model}/load", post(named_repository))
        .route("/v2/repository/{repository}/models/{model}/unload", post(named_repository))
}

/// What is asked of one model, or of one version of it.
fn models() -> Routes {
    let documented = [
        routes!(model_metadata),
        routes!(model_ready),
        routes!(model_config),
        routes!(statistics),
        routes!(infer),
    ];
    let mut routes =
        documented.into_iter().fold(Routes::new().routes(routes!(all_statistics)), of_model);
    for base in [MODEL, VERSION] {
        for end in ["generate", "generate_stream"] {
            routes = routes
                .route(&format!("{base}/{end}"), post(async || absent("the generate extension")));
        }
    }
    routes
}

/// The model, and the version where there is one, of a request's path, percent-decoded.
pub struct Target {
    pub model: String,
    /// Empty: the current one.
    pub version: String,
}

#[derive(Deserialize)]
struct TargetPath {
    model: String,
    #[serde(default)]
    version: String,
}

impl<S: Send + Sync> FromRequestParts<S> for Target {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Target, Failure> {
        let Path(TargetPath { model, version }) =
            Path::from_request_parts(parts, state).await.map_err(|_| {
                Error::invalid("the path's model or version is no percent-encoded UTF-8")
            })?;
        Ok(Target { model, version })
    }
}

/// A value as the JSON body of a response.
pub fn reply<T: Serialize>(status: StatusCode, value: &T) -> Response<Body> {
    (status, Json(value)).into_response()
}

fn absent(what: &str) -> Response<Body> {
    http_response(&not_here(what))
}

/// That the process answers: what KServe's older clients ask
#[utoipa::path(get, path = "/", tag = "health", responses((status = 200, body = Alive)))]
async fn alive() -> Json<Alive> {
    Json(Alive { status: "alive" })
}

#[derive(Serialize, ToSchema)]
struct Alive {
    status: &'static str,
}

/// Name, version and extensions of the server
#[utoipa::path(get, path = "/v2", tag = "server",
    responses((status = 200, body = proto::ServerMetadataResponse)))]
async fn server_metadata(State(api): State<Arc<Api>>) -> Json<proto::ServerMetadataResponse> {
    Json(answers::server_metadata(api.regions.allowed()))
}

/// Clients of Triton read the status, those of KServe the body.
#[derive(Serialize, ToSchema)]
struct ServerHealth {
    live: bool,
    ready: bool,
    /// Why it is not ready.
    #[schema(nullable = false)]
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<Cow<'static, str>>,
    /// What is wrong with the object store that models come from, which need not keep the server from being ready.
    #[schema(nullable = false)]
    #[serde(skip_serializing_if = "Option::is_none")]
    note: Option<&'static str>,
}

/// Whether the process answers
#[utoipa::path(get, path = "/v2/health/live", tag = "health",
    responses((status = 200, body = ServerHealth)))]
async fn live(State(api): State<Arc<Api>>) -> Response<Body> {
    let health = ServerHealth { live: true, ready: api.ready(), error: None, note: None };
    reply(StatusCode::OK, &health)
}

/// Whether every wanted model serves
#[utoipa::path(get, path = "/v2/health/ready", tag = "health",
    responses((status = 200, body = ServerHealth), (status = 503, body = ServerHealth)))]
async fn ready(State(api): State<Arc<Api>>) -> Response<Body> {
    let note = api.note();
    if api.ready() {
        let health = ServerHealth { live: true, ready: true, error: None, note };
        return reply(StatusCode::OK, &health);
    }
    let error = Some(answers::not_ready().message);
    let health = ServerHealth { live: true, ready: false, error, note };
    reply(StatusCode::SERVICE_UNAVAILABLE, &health)
}

#[derive(Serialize, ToSchema)]
struct ModelHealth {
    name: String,
    ready: bool,
    /// Why it is not ready.
    #[schema(nullable = false)]
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<Cow<'static, str>>,
}

/// Whether a model serves
#[utoipa::path(get, path = "/v2/models/{model}/ready", tag = "health",
    responses(ModelErrors, (status = 200, body = ModelHealth), (status = 503, body = ModelHealth)))]
async fn model_ready(State(api): State<Arc<Api>>, target: Target) -> Outcome {
    match api.table.load().resolve(&target.model, &target.version) {
        Ok(version) => {
            let name = version.model.to_string();
            Ok(reply(StatusCode::OK, &ModelHealth { name, ready: true, error: None }))
        }
        Err(error) if error.code == Code::Unavailable => {
            let (name, error) = (target.model, Some(error.message));
            let body = ModelHealth { name, ready: false, error };
            Ok(reply(StatusCode::SERVICE_UNAVAILABLE, &body))
        }
        Err(error) => Err(error.into()),
    }
}

// The fast lane takes these before they come here; here the route gives wrong verbs their answer, and the document its entry.
/// Answer an inference request, sent as JSON or with binary tensors
///
/// The same JSON may be followed by the bytes of binary tensors, in a body of type `application/octet-stream` whose header
/// `Inference-Header-Content-Length` says how many bytes are JSON.
#[utoipa::path(post, path = "/v2/models/{model}/infer", tag = "inference",
    params(
        ("X-Request-Timeout-Ms" = Option<u64>, Header, nullable = false, format = "uint64",
            description = "Milliseconds after which the answer is worth nothing"),
    ),
    request_body(content = InferRequest, content_type = "application/json", example = example_request),
    responses(
        (status = 200, description = "The outputs, as JSON or with binary tensors", content(
            (InferResponse = "application/json"),
            (inline(Binary) = "application/octet-stream"),
        ), headers(("Inference-Header-Content-Length" = u64,
            description = "Bytes of JSON at the head of a body with binary tensors"))),
        InferErrors,
    ))]
async fn infer() -> Response<Body> {
    absent("infer on this port")
}

/// What a model takes and gives, with the versions that serve
#[utoipa::path(get, path = "/v2/models/{model}", tag = "models",
    responses((status = 200, body = proto::ModelMetadataResponse), ModelErrors))]
async fn model_metadata(State(api): State<Arc<Api>>, target: Target) -> Outcome {
    let metadata = answers::model_metadata(&api.table.load(), &target.model, &target.version)?;
    Ok(reply(StatusCode::OK, &metadata))
}

/// The configuration of a version, in Triton's words
#[utoipa::path(get, path = "/v2/models/{model}/config", tag = "models",
    responses((status = 200, body = ModelConfig), ModelErrors))]
async fn model_config(State(api): State<Arc<Api>>, target: Target) -> Outcome {
    let config = answers::model_config(&api.table.load(), &target.model, &target.version)?;
    Ok(reply(StatusCode::OK, &config))
}

/// What was counted of a model
#[utoipa::path(get, path = "/v2/models/{model}/stats", tag = "statistics",
    responses((status = 200, body = proto::ModelStatisticsResponse), ModelErrors))]
async fn statistics(State(api): State<Arc<Api>>, target: Target) -> Outcome {
    let counted = answers::statistics(&api.table.load(), &target.model, &target.version)?;
    Ok(reply(StatusCode::OK, &counted))
}

/// What was counted of every version that serves
#[utoipa::path(get, path = "/v2/models/stats", tag = "statistics",
    responses((status = 200, body = proto::ModelStatisticsResponse)))]
async fn all_statistics(State(api): State<Arc<Api>>) -> Outcome {
    Ok(reply(StatusCode::OK, &answers::statistics(&api.table.load(), "", "")?))
}

/// A body that axum has read, or why it could not.
pub fn whole(body: Result<Bytes, BytesRejection>) -> Result<Bytes, Error> {
    body.map_err(|rejection| match rejection.status() {
        StatusCode::PAYLOAD_TOO_LARGE => Error::new(Code::TooLarge, rejection.body_text()),
        _ => Error::invalid("the body of the request did not arrive whole"),
    })
}

/// The body of an index request; an empty one is the default.
#[derive(Default, Deserialize, ToSchema)]
#[serde(default)]
struct IndexRequest {
    /// Only the versions that serve.
    ready: bool,
}

/// Every version of every model with its state
#[utoipa::path(post, path = "/v2/repository/index", tag = "repository",
    request_body = Option<IndexRequest>,
    responses((status = 200, body = [proto::repository_index_response::ModelIndex]), BodyErrors))]
async fn index(State(api): State<Arc<Api>>, body: Result<Bytes, BytesRejection>) -> Outcome {
    let body = whole(body)?;
    let asked: IndexRequest = read_body(&body, "{\"ready\": true}")?;
    let index = answers::repository_index(&api.table.load(), asked.ready);
    Ok(reply(StatusCode::OK, &index.models))
}

/// A small body as JSON, `like` an example; an empty one is the default.
pub fn read_body<T: Default + DeserializeOwned>(body: &[u8], like: &str) -> Result<T, Error> {
    if body.trim_ascii().is_empty() {
        return Ok(T::default());
    }
    // By way of a map: a struct would be read from an array too.
    serde_json::from_slice::<Option<Map<String, Value>>>(body)
        .and_then(|read| serde_json::from_value(Value::Object(read.unwrap_or_default())))
        .map_err(|error| Error::invalid(format!("the body is not as in {like}: {error}")))
}

/// What KServe's clients read; Triton's read the status.
#[derive(Serialize, ToSchema)]
struct Loaded {
    name: String,
    load: bool,
}

/// As `Loaded`.
#[derive(Serialize, ToSchema)]
struct Unloaded {
    name: String,
    unload: bool,
}

/// Load a model as its directory has it now, or one version of it
///
/// Answers once the version serves, or is refused. What serves meanwhile goes on.
#[utoipa::path(post, path = "/v2/repository/models/{model}/load", tag = "repository",
    request_body = Option<ControlRequest>,
    responses((status = 200, body = Loaded), ControlErrors))]
async fn load(State(api): State<Arc<Api>>, target: Target, request: Request) -> Outcome {
    control(&api, Verb::Load, &target.model, request).await?;
    Ok(reply(StatusCode::OK, &Loaded { name: target.model, load: true }))
}

/// Unload a model, or one version of it
///
/// Answers once no new request can reach it; requests under way are answered.
#[utoipa::path(post, path = "/v2/repository/models/{model}/unload", tag = "repository",
    request_body = Option<ControlRequest>,
    responses((status = 200, body = Unloaded), ControlErrors))]
async fn unload(State(api): State<Arc<Api>>, target: Target, request: Request) -> Outcome {
    control(&api, Verb::Unload, &target.model, request).await?;
    Ok(reply(StatusCode::OK, &Unloaded { name: target.model, unload: true }))
}

/// Nothing of the body is read before the call is allowed.
async fn control(api: &Arc<Api>, verb: Verb, model: &str, request: Request) -> Result<(), Error> {
    api.may_control(model)?;
    let body = whole(Bytes::from_request(request, api).await)?;
    let asked: ControlRequest = read_body(&body, "{\"parameters\": {\"version\": 1}}")?;
    api.control(verb, model, &asked.parameters).await
}

async fn named_repository() -> Response<Body> {
    absent("choosing a repository by its name")
}

async fn unknown_path(request: Request) -> Response<Body> {
    let path = request.uri().path();
    if grpc::spoken(request.headers()) {
        return grpc::unknown_method(path);
    }
    http_response(&Error::new(Code::UnknownRoute, format!("there is no path {}", shown(path))))
}

/// axum adds `Allow` to this.
pub async fn refuse_method(method: Method, uri: Uri) -> Response<Body> {
    http_response(&wrong_method(&method, uri.path()))
}

/// A path that is there, and a method that is not.
pub fn wrong_method(method: &Method, path: &str) -> Error {
    let said = format!("{} is not a method of {}", shown(method.as_str()), shown(path));
    Error::new(Code::WrongMethod, said)
}

/// A path for a message: control characters escaped, length capped.
fn shown(path: &str) -> String {
    path.chars().take(128).flat_map(char::escape_debug).collect()
}

#[cfg(test)]
#[path = "http_tests.rs"]
mod tests;
