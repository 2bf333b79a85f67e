//! Rollouts over the operator's port: a model's traffic rules as they are, and one step of a rollout.

use std::{sync::Arc, time::SystemTime};

use axum::{
    Extension,
    body::Bytes,
    extract::{State, rejection::BytesRejection},
    http::StatusCode,
};
use chrono::{DateTime, SecondsFormat, Utc};
use serde::Deserialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::{
    http::{Outcome, Target, reply, whole},
    schema::{ControlErrors, ModelErrors},
    state::Api,
};
use crate::{
    repository::{
        calls::Command,
        routes::{Routes, Way},
        table::{Model, State as Standing},
    },
    rollout::{
        book::{Book, Refusal},
        change::{self, Step},
    },
    serving::caller::Caller,
    telemetry::shadow::{Copied, ShadowReading},
    types::{
        error::Error,
        traffic::{Change, Traffic},
    },
};

type Who = Option<Extension<Arc<Caller>>>;

/// One step of a rollout.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct StepRequest {
    /// As in `{"action": "set", "primary": 1, "arms": [{"name": "canary", "version": 2, "weight": 10}]}`; further actions are
    /// `promote`, `rollback`, `pause`, `resume` and `clear`.
    #[schema(value_type = Object)]
    step: Step,
    /// Who wants it, for the audit file. Where callers are configured, the caller is named beside it.
    #[serde(default)]
    by: String,
    #[serde(default)]
    why: String,
    /// Only if the rules still have this generation.
    #[serde(default)]
    generation: Option<u64>,
}

/// Who gets what of a model's requests: the rules, and what came of them. Answers this machine only, until callers are configured
#[utoipa::path(get, path = "/admin/v1/models/{model}/traffic", tag = "models",
    responses((status = 200, body = Value), ModelErrors))]
pub async fn traffic(State(api): State<Arc<Api>>, target: Target) -> Outcome {
    status(&api, &target.model)
}

/// Every change of a model's traffic rules, oldest first. Answers this machine only, until callers are configured
#[utoipa::path(get, path = "/admin/v1/models/{model}/traffic/history", tag = "models",
    responses((status = 200, body = [Value]), ModelErrors))]
pub async fn history(State(api): State<Arc<Api>>, target: Target) -> Outcome {
    api.table.load().model(&target.model)?;
    let place = api.place.clone();
    let entries = blocking(move || {
        let book = Book::of(&place, &target.model).map_err(Error::invalid)?;
        book.history().map_err(Error::internal)
    });
    Ok(reply(StatusCode::OK, &entries.await?))
}

/// Make one step of a rollout: everything that the new rules name serves before they come into effect, in one publication; else
/// nothing changes. Answers this machine only, until callers are configured
#[utoipa::path(post, path = "/admin/v1/models/{model}/traffic", tag = "models", request_body = StepRequest,
    responses((status = 200, body = Value), ControlErrors))]
pub async fn step(
    State(api): State<Arc<Api>>,
    who: Who,
    target: Target,
    body: Result<Bytes, BytesRejection>,
) -> Outcome {
    let asked: StepRequest = serde_json::from_slice(&whole(body)?).map_err(|error| {
        Error::invalid(format!(
            "the body is not as in {{\"step\": {{\"action\": \"pause\"}}}}: {error}"
        ))
    })?;
    let model = target.model;
    let current = api.table.load().model(&model)?.current.as_ref().map(|version| version.number);
    let (place, name) = (api.place.clone(), model.clone());
    let (book, before) = blocking(move || {
        let book = Book::of(&place, &name).map_err(Error::invalid)?;
        let before = book.read().map_err(Error::invalid)?;
        Ok((Arc::new(book), before))
    })
    .await?;
    if let Some(expected) = asked.generation.filter(|expected| *expected != before.generation) {
        return Err(conflict(before.generation, expected).into());
    }
    let mut after = change::apply(&before, &asked.step, current).map_err(Error::invalid)?;
    after.change = Some(Change {
        action: asked.step.name().into(),
        by: by(&who, &asked.by),
        at: DateTime::<Utc>::from(SystemTime::now()).to_rfc3339_opts(SecondsFormat::Secs, true),
        why: asked.why,
    });
    let after = Arc::new(after);
    let ask = |asked| Command::Traffic { model: model.clone(), asked };
    api.calls.ask(ask(Some(after.clone()))).await?;
    let written = {
        let (book, after) = (book.clone(), after.clone());
        blocking(move || Ok(book.write(&after))).await?
    };
    // Whatever came of it: what the file says now is what is followed.
    let followed = api.calls.ask(ask(None)).await;
    match written {
        Ok(()) => followed?,
        Err(Refusal::Conflict { there, expected }) => return Err(conflict(there, expected).into()),
        Err(Refusal::Disk(why)) => {
            return Err(
                Error::invalid(format!("the traffic rules cannot be written: {why}")).into()
            );
        }
    }
    let file = book.shown();
    tracing::info!(
        model,
        action = asked.step.name(),
        generation = after.generation,
        file,
        "traffic rules written"
    );
    status(&api, &model)
}

fn conflict(there: u64, expected: u64) -> Error {
    Error::invalid(format!(
        "the traffic rules have changed meanwhile: they have generation {there}, expected {expected}; look at them and try again"
    ))
}

fn by(who: &Who, said: &str) -> String {
    match (who, said) {
        (Some(Extension(caller)), "") => caller.name.to_string(),
        (Some(Extension(caller)), said) => format!("{} ({said})", caller.name),
        (None, "") => "unknown".into(),
        (None, said) => said.to_owned(),
    }
}

/// Away from the thread that answers health: a disk may hang.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(Error::internal(format!("the traffic rules: {error}"))))
}

fn status(api: &Api, model: &str) -> Outcome {
    let table = api.table.load();
    Ok(reply(StatusCode::OK, &shown(table.model(model)?)))
}

/// Where a version stands, by its number.
fn standing(model: &Model, number: u64) -> &'static str {
    model.versions.get(&number).map_or("missing", Standing::label)
}

fn shown(model: &Model) -> Value {
    let current = model.current.as_ref().map(|version| version.number);
    let Some(routes) = &model.routes else {
        return json!({
            "model": model.name, "rules": null, "notice": model.notice,
            "routes": [{"route": "primary", "version": current, "share": 1.0, "state": current.map_or("missing", |n| standing(model, n))}],
            "shadows": [],
        });
    };
    let Routes { traffic, fallback, breaker, .. } = &**routes;
    let mut ways: Vec<Value> = routes
        .counted()
        .map(|(way, count)| self::way(model, traffic, current, way, count, routes))
        .collect();
    if let (Some(fallback), Some(rule)) = (fallback, &traffic.fallback) {
        ways.push(json!({
            "route": "fallback", "model": rule.model, "version": rule.version, "after_ms": rule.after_ms,
            "requests": fallback.count.total(), "primary_left_alone": breaker.lock().is_open(),
        }));
    }
    let shadows: Vec<Value> = traffic.shadows.iter().map(|shadow| {
        let counts = routes.shadows.iter().find(|s| s.version.number == shadow.version);
        let read = counts.map_or_else(ShadowReading::default, |shadow| shadow.counts.read());
        let of = |copied: Copied| read.outcomes[copied as usize];
        json!({
            "version": shadow.version, "sample": shadow.sample, "state": standing(model, shadow.version),
            "compared": of(Copied::Compared), "dropped": of(Copied::Dropped), "failed": of(Copied::Failed),
            "rows": read.rows, "disagreements": read.flips, "max_difference": read.max,
            "mean_difference": if of(Copied::Compared) > 0 { read.sum / of(Copied::Compared) as f64 } else { 0.0 },
            "seconds": read.shadow.as_secs_f64(), "primary_seconds": read.primary.as_secs_f64(),
        })
    }).collect();
    json!({ "model": model.name, "rules": &**traffic, "notice": model.notice, "routes": ways, "shadows": shadows })
}

fn way(
    model: &Model,
    traffic: &Traffic,
    current: Option<u64>,
    way: &Way,
    count: u64,
    routes: &Routes,
) -> Value {
    let arm = traffic.arms.iter().find(|arm| arm.name == *way.name);
    let number = arm.map(|arm| arm.version).or(current);
    json!({
        "route": &*way.name,
        "version": number,
        "weight": arm.map(|arm| arm.weight),
        "share": routes.share(way),
        "requests": count,
        "state": number.map_or("missing", |number| standing(model, number)),
    })
}
