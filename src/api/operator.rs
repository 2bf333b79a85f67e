//! The operator's port: metrics, health, the repository's calls, and what an operator asks about models.

use std::sync::Arc;

use axum::{
    Extension, Router,
    body::{Body, Bytes},
    extract::{State, rejection::BytesRejection},
    http::{Response, StatusCode, header},
    response::IntoResponse,
};
use utoipa_axum::{router::UtoipaMethodRouterExt, routes};

use super::{
    answers,
    auth::roles::Port,
    control::{ModelsRequest, RescanRequest, Verb},
    http::{Outcome, Target, finish, health, read_body, reply, repository, whole},
    labels,
    openapi::Routes,
    rollout,
    schema::{ControlErrors, ModelErrors},
    state::Api,
};
use crate::{repository::calls::Command, types::error::Error};

/// Writes the metrics page.
pub type Metrics = Arc<dyn Fn() -> String + Send + Sync>;

const ROOT: &str = "onnxd, the operator's port\n
GET  /metrics                            metrics, Prometheus text
GET  /v2/health/live                     whether the process answers
GET  /v2/health/ready                    whether every wanted model serves
POST /v2/repository/index                every version with its state
POST /v2/repository/models/NAME/load     load a model
POST /v2/repository/models/NAME/unload   unload a model
POST /admin/v1/models/load               load models, or versions, as one
POST /admin/v1/models/unload             unload models, or versions, as one
POST /admin/v1/models/rescan             look at the repository now
GET  /admin/v1/models                    every model
POST /admin/v1/models/NAME/purge         forget the answers that the model's cache keeps
GET  /admin/v1/models/NAME/traffic       who gets what of its requests; POST: one step of a rollout
POST /admin/v1/models/NAME/labels        what turned out to be true of its logged predictions
GET  /admin/v1/explain/NAME[/VERSION]    what was decided about a version, and why
GET  /openapi.json                       these routes as an OpenAPI document; GET /docs/ is a page to try them
\nWithout configured callers, the repository and /admin answer this machine only.
";

/// The routes of the operator's port. It always carries load and unload calls, whatever `api.control` says of the data
/// ports. Who may call what is the gate's affair.
pub fn router(api: &Api, metrics: Metrics) -> Router {
    let api = Arc::new(Api { control: true, ..api.clone() });
    finish(
        Routes::new()
            .merge(health())
            .merge(repository())
            .routes(routes!(models))
            .routes(routes!(load_models))
            .routes(routes!(unload_models))
            .routes(routes!(rescan))
            .routes(routes!(purge))
            .routes(routes!(rollout::traffic, rollout::step))
            .routes(routes!(rollout::history))
            .routes(routes!(labels::post))
            .routes(routes!(explain))
            .routes(routes!(explain_version))
            .routes(routes!(root))
            .routes(routes!(page).layer(Extension(metrics))),
        Port::Operator,
        api,
    )
}

/// What is where on this port
#[utoipa::path(get, path = "/", tag = "server",
    responses((status = 200, body = String, content_type = "text/plain")))]
async fn root() -> &'static str {
    ROOT
}

/// Every metric, for Prometheus
#[utoipa::path(get, path = "/metrics", tag = "metrics",
    responses((status = 200, body = String, content_type = "text/plain")))]
async fn page(Extension(metrics): Extension<Metrics>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], metrics())
}

/// Every model with its versions and their states. Answers this machine only, until callers are configured
#[utoipa::path(get, path = "/admin/v1/models", tag = "models",
    responses((status = 200, body = [Value])))]
async fn models(State(api): State<Arc<Api>>) -> Response<Body> {
    reply(StatusCode::OK, &answers::models(&api.table.load()))
}

/// What a call about models comes back with: how they stand then.
fn done(api: &Api) -> Outcome {
    Ok(reply(StatusCode::OK, &answers::models(&api.table.load())))
}

/// Several models are named where several are meant: read strictly.
fn read_models(body: Result<Bytes, BytesRejection>) -> Result<ModelsRequest, Error> {
    let like = "{\"models\": [{\"name\": \"wine\", \"version\": 2}]}";
    let read: Option<ModelsRequest> = serde_json::from_slice(&whole(body)?)
        .map_err(|error| Error::invalid(format!("the body is not as in {like}: {error}")))?;
    read.ok_or_else(|| Error::invalid(format!("the body is null, expected as in {like}")))
}

/// Load several models, or versions, as one: all of them serve, or nothing changes. Answers this machine only, until
/// callers are configured
#[utoipa::path(post, path = "/admin/v1/models/load", tag = "models", request_body = ModelsRequest,
    responses((status = 200, body = [Value]), ControlErrors))]
async fn load_models(State(api): State<Arc<Api>>, body: Result<Bytes, BytesRejection>) -> Outcome {
    api.calls.ask(Verb::Load.command(read_models(body)?.targets())).await?;
    done(&api)
}

/// Unload several models, or versions, as one. Answers this machine only, until callers are configured
#[utoipa::path(post, path = "/admin/v1/models/unload", tag = "models", request_body = ModelsRequest,
    responses((status = 200, body = [Value]), ControlErrors))]
async fn unload_models(
    State(api): State<Arc<Api>>,
    body: Result<Bytes, BytesRejection>,
) -> Outcome {
    api.calls.ask(Verb::Unload.command(read_models(body)?.targets())).await?;
    done(&api)
}

/// Look at the whole repository now; the models that are named are given back to their directories. Answers this machine
/// only, until callers are configured
#[utoipa::path(post, path = "/admin/v1/models/rescan", tag = "models",
    request_body = Option<RescanRequest>,
    responses((status = 200, body = [Value]), ControlErrors))]
async fn rescan(State(api): State<Arc<Api>>, body: Result<Bytes, BytesRejection>) -> Outcome {
    let asked: RescanRequest = read_body(&whole(body)?, "{\"models\": [\"wine\"]}")?;
    api.calls.ask(Command::Rescan(asked.models)).await?;
    done(&api)
}

/// Forget the answers that a model's cache keeps; how many, and how many bytes, they were. Answers this machine only,
/// until callers are configured
#[utoipa::path(post, path = "/admin/v1/models/{model}/purge", tag = "models",
    responses((status = 200, body = Value), ModelErrors))]
async fn purge(State(api): State<Arc<Api>>, target: Target) -> Outcome {
    let purged = answers::purge(&api.table.load(), &target.model)?;
    Ok(reply(StatusCode::OK, &purged))
}

/// What was decided about a model's current version, and why. Answers this machine only, until callers are configured
#[utoipa::path(get, path = "/admin/v1/explain/{model}", tag = "models",
    responses((status = 200, body = Value), ModelErrors))]
async fn explain(State(api): State<Arc<Api>>, target: Target) -> Outcome {
    let explanation = answers::explanation(&api.table.load(), &target.model, &target.version)?;
    Ok((StatusCode::OK, axum::Json(explanation)).into_response())
}

/// What was decided about a version, and why. Answers this machine only, until callers are configured
#[utoipa::path(get, path = "/admin/v1/explain/{model}/{version}", tag = "models",
    responses((status = 200, body = Value), ModelErrors))]
async fn explain_version(state: State<Arc<Api>>, target: Target) -> Outcome {
    explain(state, target).await
}

#[cfg(test)]
mod tests {
    use axum::http::Request;
    use http_body_util::BodyExt;
    use serde_json::Value;
    use tower::ServiceExt;

    use super::*;
    use crate::api::fixture;

    async fn ask(method: &str, path: &str) -> (u16, String, String) {
        let request = Request::builder().method(method).uri(path).body(Body::empty()).unwrap();
        let metrics: Metrics = Arc::new(|| "onnxd_up 1\n".to_string());
        let response = router(&fixture::api(), metrics).oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        let kind = parts.headers.get(header::CONTENT_TYPE).map_or("", |k| k.to_str().unwrap());
        (parts.status.as_u16(), kind.to_string(), String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn metrics_and_health() {
        let (status, kind, body) = ask("GET", "/metrics").await;
        assert_eq!((status, body.as_str()), (200, "onnxd_up 1\n"));
        assert_eq!(kind, "text/plain; version=0.0.4; charset=utf-8");
        for path in ["/v2/health/live", "/v2/health/ready", "/"] {
            assert_eq!(ask("GET", path).await.0, 200, "{path}");
        }
    }

    #[tokio::test]
    async fn the_repository_and_what_was_decided() {
        for (method, path, status) in [
            ("GET", "/admin/v1/models", 200),
            ("GET", "/admin/v1/explain/digits", 200),
            ("GET", "/admin/v1/explain/digits/1", 200),
            ("GET", "/admin/v1/explain/digits/9", 404),
            ("GET", "/admin/v1/explain/nosuch", 404),
            // It has no cache.
            ("POST", "/admin/v1/models/digits/purge", 400),
            ("POST", "/admin/v1/models/nosuch/purge", 404),
            ("POST", "/v2/repository/index", 200),
            // Not 403, whatever the data ports allow.
            ("POST", "/v2/repository/models/digits/load", 200),
            ("POST", "/v2/repository/models/nosuch/unload", 404),
            ("POST", "/admin/v1/models/digits/labels", 404),
            ("POST", "/admin/v1/models/load", 400),
            ("POST", "/admin/v1/models/rescan", 200),
            ("PUT", "/admin/v1/models", 405),
        ] {
            assert_eq!(ask(method, path).await.0, status, "{path}");
        }
    }

    #[tokio::test]
    async fn models_and_explanations() {
        let json = async |path: &str| {
            let (_, kind, body) = ask("GET", path).await;
            assert_eq!(kind, "application/json");
            serde_json::from_str::<Value>(&body).unwrap()
        };
        let models = json("/admin/v1/models").await;
        let names: Vec<&str> =
            models.as_array().unwrap().iter().map(|m| m["name"].as_str().unwrap()).collect();
        assert_eq!(names, ["broken", "digits", "empty"]);
        assert_eq!(models[1]["current"], 2);
        assert_eq!(models[1]["versions"][0]["backend"], "ort");
        assert_eq!(models[1]["versions"][3]["reason"], "the file is cut off");
        assert_eq!(json("/admin/v1/explain/digits").await["mode"], "single");
        assert!(json("/nope").await["error"].is_string());
    }
}
