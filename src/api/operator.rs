//! The operator's port: metrics, health, the repository's calls, and what an operator asks about models.

use std::sync::Arc;

use axum::{
    Extension, Router,
    body::Body,
    extract::{Request, State},
    http::{Response, StatusCode, header},
    middleware::{self, Next},
    response::IntoResponse,
    routing::get,
};
use utoipa_axum::routes;

use super::{
    answers,
    errors::http_response,
    http::{Outcome, Target, finish, health, reply, repository},
    openapi::Routes,
    peer::Peer,
    schema::{LocalErrors, ModelErrors},
    state::Api,
};
use crate::types::error::{Code, Error};

/// Writes the metrics page.
pub type Metrics = Arc<dyn Fn() -> String + Send + Sync>;

const ROOT: &str = "onnxd, the operator's port\n
GET  /metrics                            metrics, Prometheus text
GET  /v2/health/live                     whether the process answers
GET  /v2/health/ready                    whether every wanted model serves
POST /v2/repository/index                every version with its state
POST /v2/repository/models/NAME/load     load a model
POST /v2/repository/models/NAME/unload   unload a model
GET  /admin/v1/models                    every model (this machine only)
GET  /admin/v1/explain/NAME[/VERSION]    what was decided about a version, and why (this machine only)
GET  /openapi.json                       these routes as an OpenAPI document; GET /docs/ is a page to try them
";

/// The routes of the operator's port. It always carries load and unload calls, whatever `api.control` says of the data
/// ports.
pub fn router(api: &Api, metrics: Metrics) -> Router {
    let api = Arc::new(Api { control: true, ..api.clone() });
    let page = async |Extension(metrics): Extension<Metrics>| {
        ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], metrics())
    };
    let local = Routes::new()
        .merge(repository())
        .routes(routes!(models))
        .routes(routes!(explain))
        .routes(routes!(explain_version))
        .layer(middleware::from_fn(only_local));
    finish(
        Routes::new()
            .merge(health())
            .merge(local)
            .route("/", get(async || ROOT))
            .route("/metrics", get(page).layer(Extension(metrics))),
        "onnxd, the operator's port",
        api,
    )
}

/// Until a token is configured, what can change or reveal something answers this machine alone.
async fn only_local(request: Request, next: Next) -> Response<Body> {
    if request.extensions().get::<Arc<Peer>>().is_some_and(|peer| peer.is_local()) {
        return next.run(request).await;
    }
    http_response(&Error::new(
        Code::PermissionDenied,
        "this path of the operator's port answers only callers on the same machine",
    ))
}

/// Every model with its versions and their states. Answers callers on the same machine only
#[utoipa::path(get, path = "/admin/v1/models", tag = "models",
    responses((status = 200, body = [Value]), LocalErrors))]
async fn models(State(api): State<Arc<Api>>) -> Response<Body> {
    reply(StatusCode::OK, &answers::models(&api.table.load()))
}

/// What was decided about a model's current version, and why. Answers callers on the same machine only
#[utoipa::path(get, path = "/admin/v1/explain/{model}", tag = "models",
    responses((status = 200, body = Value), LocalErrors, ModelErrors))]
async fn explain(State(api): State<Arc<Api>>, target: Target) -> Outcome {
    let explanation = answers::explanation(&api.table.load(), &target.model, &target.version)?;
    Ok((StatusCode::OK, axum::Json(explanation)).into_response())
}

/// What was decided about a version, and why. Answers callers on the same machine only
#[utoipa::path(get, path = "/admin/v1/explain/{model}/{version}", tag = "models",
    responses((status = 200, body = Value), LocalErrors, ModelErrors))]
async fn explain_version(state: State<Arc<Api>>, target: Target) -> Outcome {
    explain(state, target).await
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;
    use serde_json::Value;
    use tower::ServiceExt;

    use super::*;
    use crate::api::fixture;

    /// From this machine, or from another.
    fn local() -> Option<Peer> {
        Some(Peer::at(None))
    }

    fn remote() -> Option<Peer> {
        Some(Peer::at(Some([10, 0, 0, 1].into())))
    }

    async fn ask(peer: Option<Peer>, method: &str, path: &str) -> (u16, String, String) {
        let mut request = Request::builder().method(method).uri(path).body(Body::empty()).unwrap();
        if let Some(peer) = peer {
            request.extensions_mut().insert(Arc::new(peer));
        }
        let metrics: Metrics = Arc::new(|| "onnxd_up 1\n".to_string());
        let response = router(&fixture::api(), metrics).oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        let kind = parts.headers.get(header::CONTENT_TYPE).map_or("", |k| k.to_str().unwrap());
        (parts.status.as_u16(), kind.to_string(), String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn anyone_may_read_metrics_and_health() {
        let (status, kind, body) = ask(remote(), "GET", "/metrics").await;
        assert_eq!((status, body.as_str()), (200, "onnxd_up 1\n"));
        assert_eq!(kind, "text/plain; version=0.0.4; charset=utf-8");
        for path in ["/v2/health/live", "/v2/health/ready", "/"] {
            assert_eq!(ask(None, "GET", path).await.0, 200, "{path}");
        }
    }

    #[tokio::test]
    async fn only_this_machine_may_administer() {
        for (method, path, status) in [
            ("GET", "/admin/v1/models", 200),
            ("GET", "/admin/v1/explain/digits", 200),
            ("GET", "/admin/v1/explain/digits/1", 200),
            ("GET", "/admin/v1/explain/digits/9", 404),
            ("GET", "/admin/v1/explain/nosuch", 404),
            ("POST", "/v2/repository/index", 200),
            // Not 403, whatever the data ports allow.
            ("POST", "/v2/repository/models/digits/load", 501),
            ("PUT", "/admin/v1/models", 405),
        ] {
            assert_eq!(ask(local(), method, path).await.0, status, "{path}");
            if status != 405 {
                assert_eq!(ask(remote(), method, path).await.0, 403, "{path}");
                assert_eq!(ask(None, method, path).await.0, 403, "{path}");
            }
        }
    }

    #[tokio::test]
    async fn models_and_explanations() {
        let json = async |path: &str| {
            let (_, kind, body) = ask(local(), "GET", path).await;
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
