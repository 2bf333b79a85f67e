//! The shared memory extensions over both protocols: regions of the system, and CUDA's, of which there are none.

use std::sync::Arc;

use axum::{
    Json,
    body::{Body, Bytes},
    extract::{
        Extension, Path, State,
        rejection::{BytesRejection, PathRejection},
    },
    http::{Response, StatusCode},
    response::IntoResponse,
    routing::{get, post},
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    errors::{http_response, not_here},
    http::{Outcome, whole},
    openapi::Routes,
    proto,
    state::Api,
};
use crate::{
    serving::{caller::Caller, regions::Status},
    types::error::{Code, Error},
};

/// The routes. They are in no document: most servers have no shared memory.
pub fn routes() -> Routes {
    Routes::new()
        .route("/v2/systemsharedmemory/status", get(all))
        .route("/v2/systemsharedmemory/region/{region}/status", get(one))
        .route("/v2/systemsharedmemory/region/{region}/register", post(register))
        .route("/v2/systemsharedmemory/region/{region}/unregister", post(unregister))
        .route("/v2/systemsharedmemory/unregister", post(unregister_all))
        .route("/v2/cudasharedmemory/status", get(async || Json(json!([]))))
        .route("/v2/cudasharedmemory/region/{region}/status", get(no_cuda))
        .route("/v2/cudasharedmemory/region/{region}/register", post(cuda))
        // perf_analyzer forgets all of CUDA's regions, whichever it uses.
        .route("/v2/cudasharedmemory/region/{region}/unregister", post(async || StatusCode::OK))
        .route("/v2/cudasharedmemory/unregister", post(async || StatusCode::OK))
}

/// Who asks, where callers are configured.
type Who = Option<Extension<Arc<Caller>>>;

fn name(who: &Who) -> Option<&Arc<str>> {
    who.as_ref().map(|Extension(caller)| &caller.name)
}

fn named(path: Result<Path<String>, PathRejection>) -> Result<String, Error> {
    let Path(region) = path.map_err(|_| Error::invalid("the region's name is no UTF-8"))?;
    Ok(region)
}

/// The body of a registration.
#[derive(Deserialize)]
struct Place {
    key: String,
    #[serde(default)]
    offset: u64,
    byte_size: u64,
}

async fn register(
    State(api): State<Arc<Api>>,
    who: Who,
    path: Result<Path<String>, PathRejection>,
    body: Result<Bytes, BytesRejection>,
) -> Outcome {
    api.regions.here()?;
    let region = named(path)?;
    let place: Place = serde_json::from_slice(&whole(body)?).map_err(|error| {
        Error::invalid(format!(
            "the body is not as in {{\"key\": \"/data\", \"offset\": 0, \"byte_size\": 64}}: {error}"
        ))
    })?;
    let Place { key, offset, byte_size } = place;
    api.regions.register(name(&who), Status { name: region, key, offset, byte_size })?;
    Ok(StatusCode::OK.into_response())
}

async fn unregister(
    State(api): State<Arc<Api>>,
    who: Who,
    path: Result<Path<String>, PathRejection>,
) -> Outcome {
    api.regions.unregister(name(&who), &named(path)?);
    Ok(StatusCode::OK.into_response())
}

async fn unregister_all(State(api): State<Arc<Api>>, who: Who) -> StatusCode {
    api.regions.unregister(name(&who), "");
    StatusCode::OK
}

async fn one(
    State(api): State<Arc<Api>>,
    who: Who,
    path: Result<Path<String>, PathRejection>,
) -> Outcome {
    let known = api.regions.status(name(&who), &named(path)?)?;
    Ok(Json(as_json(&known)).into_response())
}

async fn all(State(api): State<Arc<Api>>, who: Who) -> Outcome {
    Ok(Json(as_json(&api.regions.status(name(&who), "")?)).into_response())
}

fn as_json(known: &[Status]) -> Value {
    let one = |region: &Status| {
        let Status { name, key, offset, byte_size } = region;
        json!({ "name": name, "key": key, "offset": offset, "byte_size": byte_size })
    };
    known.iter().map(one).collect()
}

async fn no_cuda(path: Result<Path<String>, PathRejection>) -> Outcome {
    no_region(&named(path)?)?;
    Ok(Json(json!([])).into_response())
}

async fn cuda() -> Response<Body> {
    http_response(&not_here("CUDA shared memory"))
}

/// No region of CUDA's is ever registered.
///
/// # Errors
/// `NotFound` where a region is named.
pub fn no_region(name: &str) -> Result<(), Error> {
    if name.is_empty() {
        return Ok(());
    }
    let shown: String = name.chars().take(128).flat_map(char::escape_debug).collect();
    let message = format!("there is no region '{shown}' of CUDA's: none is registered");
    Err(Error::new(Code::NotFound, message))
}

/// Regions as the gRPC message has them.
pub fn message(known: Vec<Status>) -> proto::SystemSharedMemoryStatusResponse {
    use proto::system_shared_memory_status_response::RegionStatus;
    let one = |region: Status| {
        let Status { name, key, offset, byte_size } = region;
        (name.clone(), RegionStatus { name, key, offset, byte_size })
    };
    proto::SystemSharedMemoryStatusResponse { regions: known.into_iter().map(one).collect() }
}
