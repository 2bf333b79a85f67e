//! Every route of the Open Inference Protocol over HTTP but infer, and the one router of a data port.

use std::sync::Arc;

use axum::{
    Json, Router,
    body::{Body, Bytes},
    extract::{FromRequestParts, Path, Request, State, rejection::BytesRejection},
    http::{Method, Response, StatusCode, Uri, header, request::Parts},
    response::IntoResponse,
    routing::{any, get, post},
};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{
    answers,
    errors::{Failure, http_response, not_here},
    grpc,
    state::Api,
};
use crate::types::error::{Code, Error};

/// What a handler comes back with.
pub type Outcome = Result<Response<Body>, Failure>;

/// The routes of a data port: gRPC by path, HTTP, and an answer in the caller's own protocol for what is unknown.
pub fn router(api: Arc<Api>) -> Router {
    let service = grpc::Service::new(api.clone());
    let methods = any(async move |request: Request| grpc_call(service, request).await);
    finish(
        Router::new()
            .merge(health())
            .merge(repository())
            .merge(models())
            .merge(extensions())
            .route("/", get(async || Json(json!({ "status": "alive" }))))
            .route("/v2", get(async || Json(answers::server_metadata())))
            .route(&format!("{}{{*method}}", grpc::PREFIX), methods),
        api,
    )
}

/// Gives a router its state, and JSON to what axum would answer in plain text.
pub fn finish(router: Router<Arc<Api>>, api: Arc<Api>) -> Router {
    router.fallback(unknown_path).method_not_allowed_fallback(wrong_method).with_state(api)
}

/// Liveness and readiness, the same on every port.
pub fn health() -> Router<Arc<Api>> {
    Router::new().route("/v2/health/live", get(live)).route("/v2/health/ready", get(ready))
}

/// The model repository extension.
pub fn repository() -> Router<Arc<Api>> {
    Router::new()
        .route("/v2/repository/index", post(index))
        .route("/v2/repository/models/{model}/load", post(control))
        .route("/v2/repository/models/{model}/unload", post(control))
        .route("/v2/repository/{repository}/index", post(named_repository))
        .route("/v2/repository/{repository}/models/{model}/load", post(named_repository))
        .route("/v2/repository/{repository}/models/{model}/unload", post(named_repository))
}

/// What is asked of one model, or of one version of it.
fn models() -> Router<Arc<Api>> {
    let mut router = Router::new().route("/v2/models/stats", get(all_statistics));
    for base in ["/v2/models/{model}", "/v2/models/{model}/versions/{version}"] {
        router = router
            .route(base, get(model_metadata))
            .route(&format!("{base}/ready"), get(model_ready))
            .route(&format!("{base}/config"), get(model_config))
            .route(&format!("{base}/stats"), get(statistics))
            // The fast lane takes these before they come here; here they give wrong verbs their answer.
            .route(&format!("{base}/infer"), post(async || absent("infer on this port")))
            .route(&format!("{base}/generate"), post(async || absent("the generate extension")))
            .route(
                &format!("{base}/generate_stream"),
                post(async || absent("the generate extension")),
            );
    }
    router
}

/// Extensions that clients call without being asked: what is registered is nothing, the rest says that it is not here.
fn extensions() -> Router<Arc<Api>> {
    let mut router = Router::new();
    for kind in ["systemsharedmemory", "cudasharedmemory"] {
        router = router
            .route(&format!("/v2/{kind}/status"), get(async || Json(json!([]))))
            .route(&format!("/v2/{kind}/region/{{region}}/status"), get(region_status))
            .route(
                &format!("/v2/{kind}/region/{{region}}/register"),
                post(async || absent("shared memory")),
            )
            .route(&format!("/v2/{kind}/region/{{region}}/unregister"), post(unregister))
            .route(&format!("/v2/{kind}/unregister"), post(unregister));
    }
    let trace =
        || get(async || absent("the trace extension")).post(async || absent("the trace extension"));
    let logging = get(async || absent("the logging extension"))
        .post(async || absent("the logging extension"));
    router
        .route("/v2/trace/setting", trace())
        .route("/v2/models/{model}/trace/setting", trace())
        .route("/v2/logging", logging)
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

async fn live(State(api): State<Arc<Api>>) -> Response<Body> {
    reply(StatusCode::OK, &json!({ "live": true, "ready": api.ready() }))
}

/// Clients of Triton read the status, those of KServe the body.
async fn ready(State(api): State<Arc<Api>>) -> Response<Body> {
    if api.ready() {
        return reply(StatusCode::OK, &json!({ "live": true, "ready": true }));
    }
    let why = answers::not_ready().message;
    let body = json!({ "live": true, "ready": false, "error": why });
    reply(StatusCode::SERVICE_UNAVAILABLE, &body)
}

async fn model_ready(State(api): State<Arc<Api>>, target: Target) -> Outcome {
    match api.table.load().resolve(&target.model, &target.version) {
        Ok(version) => Ok(reply(StatusCode::OK, &json!({ "name": version.model, "ready": true }))),
        Err(error) if error.code == Code::Unavailable => {
            let body = json!({ "name": target.model, "ready": false, "error": error.message });
            Ok(reply(StatusCode::SERVICE_UNAVAILABLE, &body))
        }
        Err(error) => Err(error.into()),
    }
}

async fn model_metadata(State(api): State<Arc<Api>>, target: Target) -> Outcome {
    let metadata = answers::model_metadata(&api.table.load(), &target.model, &target.version)?;
    Ok(reply(StatusCode::OK, &metadata))
}

async fn model_config(State(api): State<Arc<Api>>, target: Target) -> Outcome {
    let config = answers::model_config(&api.table.load(), &target.model, &target.version)?;
    Ok(reply(StatusCode::OK, &config))
}

async fn statistics(State(api): State<Arc<Api>>, target: Target) -> Outcome {
    let counted = answers::statistics(&api.table.load(), &target.model, &target.version)?;
    Ok(reply(StatusCode::OK, &counted))
}

async fn all_statistics(State(api): State<Arc<Api>>) -> Outcome {
    Ok(reply(StatusCode::OK, &answers::statistics(&api.table.load(), "", "")?))
}

/// The body of an index request; an empty one is the default.
#[derive(Default, Deserialize)]
#[serde(default)]
struct IndexRequest {
    ready: bool,
}

async fn index(State(api): State<Arc<Api>>, body: Result<Bytes, BytesRejection>) -> Outcome {
    let body = body.map_err(|rejection| match rejection.status() {
        StatusCode::PAYLOAD_TOO_LARGE => Error::new(Code::TooLarge, rejection.body_text()),
        _ => Error::invalid("the body of the request did not arrive whole"),
    })?;
    let asked = if body.trim_ascii().is_empty() {
        IndexRequest::default()
    } else {
        serde_json::from_slice(&body).map_err(|error| {
            Error::invalid(format!("the body is not as in {{\"ready\": true}}: {error}"))
        })?
    };
    let index = answers::repository_index(&api.table.load(), asked.ready);
    Ok(reply(StatusCode::OK, &index.models))
}

/// Load and unload: nothing of the body is read before the call is allowed.
async fn control(State(api): State<Arc<Api>>, target: Target) -> Outcome {
    answers::control(&api.table.load(), &target.model, api.control)?;
    Ok(StatusCode::OK.into_response())
}

async fn named_repository() -> Response<Body> {
    absent("choosing a repository by its name")
}

async fn region_status(
    path: Result<Path<String>, axum::extract::rejection::PathRejection>,
) -> Outcome {
    let Path(region) = path.map_err(|_| Error::invalid("the region's name is no UTF-8"))?;
    answers::no_region(&region)?;
    Ok(Json(json!([])).into_response())
}

/// Succeeds: what is to be forgotten was never known. perf_analyzer calls this at its start and end.
async fn unregister() -> StatusCode {
    StatusCode::OK
}

/// A call of the gRPC service, if it is one.
async fn grpc_call(service: grpc::Service, request: Request) -> Response<Body> {
    if request.method() != Method::POST {
        let mut response = wrong_method(request.method().clone(), request.uri().clone()).await;
        response.headers_mut().insert(header::ALLOW, header::HeaderValue::from_static("POST"));
        return response;
    }
    if !speaks_grpc(&request) {
        return http_response(&Error::new(
            Code::UnsupportedMedia,
            "expected the content type application/grpc on the path of a gRPC method",
        ));
    }
    service.call(request).await
}

fn speaks_grpc(request: &Request) -> bool {
    let content_type = request.headers().get(header::CONTENT_TYPE);
    content_type.is_some_and(|value| grpc::is_grpc(value.as_bytes()))
}

async fn unknown_path(request: Request) -> Response<Body> {
    let path = request.uri().path();
    if speaks_grpc(&request) {
        return grpc::unknown_method(path);
    }
    http_response(&Error::new(Code::UnknownRoute, format!("there is no path {}", shown(path))))
}

/// axum adds `Allow` to this.
async fn wrong_method(method: Method, uri: Uri) -> Response<Body> {
    http_response(&Error::new(
        Code::WrongMethod,
        format!("{} is not a method of {}", shown(method.as_str()), shown(uri.path())),
    ))
}

/// A path for a message: control characters escaped, length capped.
fn shown(path: &str) -> String {
    path.chars().take(128).flat_map(char::escape_debug).collect()
}

#[cfg(test)]
#[path = "http_tests.rs"]
mod tests;
