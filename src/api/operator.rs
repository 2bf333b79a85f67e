//! The operator's port: metrics, health, the repository's calls, and what an operator asks about models.

use std::{net::IpAddr, sync::Arc};

use axum::{
    Extension, Router,
    body::Body,
    extract::{Request, State},
    http::{Response, StatusCode, header},
    middleware::{self, Next},
    response::IntoResponse,
    routing::get,
};

use super::{
    answers,
    errors::http_response,
    http::{Outcome, Target, finish, health, reply, repository},
    state::Api,
};
use crate::types::error::{Code, Error};

/// Writes the metrics page.
pub type Metrics = Arc<dyn Fn() -> String + Send + Sync>;

/// Who is at the other end of a connection. The accept loop puts it into every request's extensions; without it a
/// caller counts as remote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// This machine, over loopback or a Unix socket.
    Local,
    Remote,
}

impl Peer {
    /// The peer at this address; `None` for a Unix socket.
    pub fn at(address: Option<IpAddr>) -> Peer {
        match address.map(|ip| ip.to_canonical()) {
            None => Peer::Local,
            Some(ip) if ip.is_loopback() => Peer::Local,
            Some(_) => Peer::Remote,
        }
    }
}

const ROOT: &str = "onnxd, the operator's port\n
GET  /metrics                            metrics, Prometheus text
GET  /v2/health/live                     whether the process answers
GET  /v2/health/ready                    whether every wanted model serves
POST /v2/repository/index                every version with its state
POST /v2/repository/models/NAME/load     load a model
POST /v2/repository/models/NAME/unload   unload a model
GET  /admin/v1/models                    every model (this machine only)
GET  /admin/v1/explain/NAME[/VERSION]    what was decided about a version, and why (this machine only)
";

/// The routes of the operator's port. It always carries load and unload calls, whatever `api.control` says of the data
/// ports.
pub fn router(api: &Api, metrics: Metrics) -> Router {
    let api = Arc::new(Api { control: true, ..api.clone() });
    let page = async |Extension(metrics): Extension<Metrics>| {
        ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], metrics())
    };
    let local = Router::new()
        .merge(repository())
        .route("/admin/v1/models", get(models))
        .route("/admin/v1/explain/{model}", get(explain))
        .route("/admin/v1/explain/{model}/{version}", get(explain))
        .layer(middleware::from_fn(only_local));
    finish(
        Router::new()
            .merge(health())
            .merge(local)
            .route("/", get(async || ROOT))
            .route("/metrics", get(page).layer(Extension(metrics))),
        api,
    )
}

/// Until a token is configured, what can change or reveal something answers this machine alone.
async fn only_local(request: Request, next: Next) -> Response<Body> {
    if request.extensions().get::<Peer>() == Some(&Peer::Local) {
        return next.run(request).await;
    }
    http_response(&Error::new(
        Code::PermissionDenied,
        "this path of the operator's port answers only callers on the same machine",
    ))
}

async fn models(State(api): State<Arc<Api>>) -> Response<Body> {
    reply(StatusCode::OK, &answers::models(&api.table.load()))
}

async fn explain(State(api): State<Arc<Api>>, target: Target) -> Outcome {
    let explanation = answers::explanation(&api.table.load(), &target.model, &target.version)?;
    Ok((StatusCode::OK, axum::Json(explanation)).into_response())
}
