//! Labels over the operator's port: what turned out to be true of logged predictions, in whichever form it comes.

use std::{collections::BTreeSet, sync::Arc};

use axum::{
    extract::{Query, Request, State, rejection::QueryRejection},
    http::{HeaderMap, StatusCode, header},
};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{
    body,
    http::{Outcome, Target, reply},
    schema::{Binary, InferErrors, Parameter},
    state::Api,
};
use crate::{
    predlog::labels::{
        Names,
        import::{Imported, Refused},
        parse::{Form, Input},
    },
    repository::store::check_name,
    types::error::{Code, Error},
};

/// What the fields are called, where they have other names, and what goes for all labels.
#[derive(Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct Fields {
    /// The field that holds the key.
    #[param(nullable = false, required = false, default = "label_key")]
    key: String,
    /// The field that holds the label.
    #[param(nullable = false, required = false, default = "label")]
    label: String,
    /// The field that holds when the label became known.
    #[param(nullable = false, required = false, default = "ts_label")]
    time: String,
    /// What is noted as the source of labels that name none.
    #[param(nullable = false, required = false)]
    source: Option<String>,
}

impl Default for Fields {
    fn default() -> Fields {
        let Names { key, label, time } = Names::default();
        Fields { key, label, time, source: None }
    }
}

/// What became of labels.
#[derive(Serialize, ToSchema)]
pub struct Taken {
    model: String,
    /// Labels that came.
    rows: u64,
    /// Those that said something new, and are kept.
    new: u64,
    /// Those that were known: the same key, revision and words.
    same: u64,
    /// Fields that mean nothing to labels.
    ignored_fields: BTreeSet<String>,
}

/// A label: its key, and `label`, `label_value` or `deleted`. docs/labels.md has all fields
#[derive(ToSchema)]
#[allow(dead_code, reason = "the document's alone: the form decides how it is read")]
pub struct Label {
    /// What the row of the log calls `label_key`.
    label_key: Parameter,
    /// What turned out to be true.
    label: Option<Parameter>,
    /// When it became known, as in 2026-01-31T12:00:00Z.
    ts_label: Option<String>,
    /// Of several labels of one key the highest counts, then the latest.
    revision: Option<Parameter>,
}

/// Say what turned out to be true of logged predictions; what is sent twice changes nothing, and of a body with a mistake nothing is
/// kept. Answers this machine only, until callers are configured
///
/// JSON (an array, or objects one after another), CSV with a line of names, Parquet, or an Arrow stream: `Content-Type` says which.
#[utoipa::path(post, path = "/admin/v1/models/{model}/labels", operation_id = "post_labels", tag = "models", params(Fields),
    request_body(content(
        ([Label] = "application/json"),
        (String = "application/x-ndjson"),
        (String = "text/csv"),
        (inline(Binary) = "application/vnd.apache.parquet"),
        (inline(Binary) = "application/vnd.apache.arrow.stream"),
    )),
    responses((status = 200, body = Taken), InferErrors))]
pub async fn post(
    State(api): State<Arc<Api>>,
    target: Target,
    fields: Result<Query<Fields>, QueryRejection>,
    request: Request,
) -> Outcome {
    let Fields { key, label, time, source } =
        fields.map_err(|rejection| Error::invalid(rejection.body_text()))?.0;
    let model = target.model;
    has_log(&api, &model)?;
    let form = form(request.headers())?;
    let body = whole(&api, request).await?;
    let names = Names { key, label, time };
    // One after the other: each holds many labels at once. Who waits has paid for the body.
    let turn = api.labels.turn().await;
    let (labels, name) = (api.labels.clone(), model.clone());
    let work = move || {
        let _turn = turn;
        labels.import(&name, (&names, source.as_deref()), Input::Bytes(body), form)
    };
    let done = tokio::task::spawn_blocking(work).await;
    let done = done.map_err(|error| Error::internal(format!("the labels: {error}")))?;
    let Imported { labels, put, ignored } = done.map_err(|refused| told(&model, refused))?;
    let taken =
        Taken { model, rows: labels, new: put.written, same: put.known, ignored_fields: ignored };
    Ok(reply(StatusCode::OK, &taken))
}

/// Labels are kept for models whose predictions are.
fn has_log(api: &Api, model: &str) -> Result<(), Error> {
    check_name(model).map_err(Error::invalid)?;
    if api.labels.takes(model) {
        return Ok(());
    }
    // Not there, or not yet.
    api.table.load().resolve(model, "")?;
    Err(Error::new(
        Code::NotFound,
        format!(
            "the predictions of model '{model}' are not logged, so that labels would belong to nothing: set log.enabled in its model.yaml"
        ),
    ))
}

fn form(headers: &HeaderMap) -> Result<Form, Error> {
    let expected = Form::MEDIA_TYPES;
    let unsupported = |said: String| Error::new(Code::UnsupportedMedia, said);
    let Some(kind) = headers.get(header::CONTENT_TYPE) else {
        return Err(unsupported(format!("there is no content-type, expected {expected}")));
    };
    let kind = String::from_utf8_lossy(kind.as_bytes());
    Form::of_media_type(&kind).ok_or_else(|| {
        let kind: String = kind.chars().take(128).flat_map(char::escape_debug).collect();
        unsupported(format!("the content-type is '{kind}', expected {expected}"))
    })
}

/// The body, which counts as memory of requests for as long as it is here.
async fn whole(api: &Api, request: Request) -> Result<Bytes, Error> {
    let (limits, mut charge) = (api.limits, api.budget.charge());
    let body = body::read(request.into_body(), limits, &mut charge).await;
    let body = body.map_err(|error| match error.code {
        Code::TooLarge => Error::new(
            Code::TooLarge,
            format!(
                "the body is larger than the limit of {} bytes: send the labels in parts, or import a file with `onnxd labels import`",
                limits.max_bytes
            ),
        ),
        _ => error,
    })?;
    Ok(charge.hold(body))
}

fn told(model: &str, refused: Refused) -> Error {
    match refused {
        Refused::Wrong(why) => Error::invalid(format!("{why}; nothing of the body is kept")),
        Refused::Store(error) => {
            tracing::error!(model, %error, "labels cannot be kept");
            Error::new(
                Code::Unavailable,
                "the labels could not be kept, and nothing of the body is: the server's log has the reason",
            )
        }
    }
}
