//! The settings of Triton's trace and logging extensions: both can be read, and no call changes anything, least of all a path.

use std::{collections::BTreeMap, sync::Arc};

use axum::{
    body::Bytes,
    extract::{State, rejection::BytesRejection},
    http::StatusCode,
};
use serde::Serialize;
use serde_json::{Map, Value};
use tracing::level_filters::LevelFilter;
use utoipa::{IntoResponses, ToSchema, openapi::RefOr};
use utoipa_axum::routes;

use super::{
    http::{Outcome, Target, reply, whole},
    openapi::Routes,
    proto::{
        log_settings_request, log_settings_response, trace_setting_request, trace_setting_response,
    },
    schema::{ModelErrors, errors},
    state::Api,
};
use crate::{
    telemetry::logs::Format,
    types::error::{Code, Error},
};

/// Names with their values, as JSON has them.
pub type Settings = Map<String, Value>;

/// What is traced.
#[derive(Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct TraceSettings {
    trace_level: Option<Vec<String>>,
    trace_rate: Option<String>,
    trace_count: Option<String>,
    log_frequency: Option<String>,
    trace_file: Option<String>,
}

/// What is logged.
#[derive(Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct LogSettings {
    log_file: Option<String>,
    log_info: Option<bool>,
    log_warning: Option<bool>,
    log_error: Option<bool>,
    log_verbose_level: Option<u32>,
    #[schema(value_type = Option<String>)]
    log_format: Option<Format>,
}

/// What is traced, in Triton's words: nothing, or one request of so many where spans are sent for a share of them.
pub fn trace(share: Option<f64>) -> Settings {
    let share = share.filter(|share| *share > 0.0);
    object(&TraceSettings {
        trace_level: Some(vec![share.map_or("OFF", |_| "TIMESTAMPS").into()]),
        trace_rate: Some(share.map_or(0, |share| (1.0 / share).round() as u64).to_string()),
        trace_count: Some("0".into()),
        log_frequency: Some("0".into()),
        trace_file: Some(String::new()),
    })
}

/// What is logged, in Triton's words: standard error is no file, and a verbose level is one of ours below `info`.
pub fn log(level: LevelFilter, format: Format) -> Settings {
    let verbose = match level {
        LevelFilter::TRACE => 2,
        LevelFilter::DEBUG => 1,
        _ => 0,
    };
    object(&LogSettings {
        log_file: Some(String::new()),
        log_info: Some(level >= LevelFilter::INFO),
        log_warning: Some(level >= LevelFilter::WARN),
        log_error: Some(level >= LevelFilter::ERROR),
        log_verbose_level: Some(verbose),
        log_format: Some(format),
    })
}

fn object(settings: &impl Serialize) -> Settings {
    match serde_json::to_value(settings) {
        Ok(Value::Object(map)) => map,
        _ => Map::new(),
    }
}

/// Lets pass what would change nothing: what is so already, and null, which asks for the default.
///
/// # Errors
/// `InvalidArgument` for a setting that there is not, `PermissionDenied` for a value that is another.
pub fn unchanged(current: &Settings, asked: &Settings) -> Result<(), Error> {
    for (name, value) in asked {
        match current.get(name) {
            None => {
                let known: Vec<&str> = current.keys().map(String::as_str).collect();
                let shown: String = name.chars().take(64).flat_map(char::escape_debug).collect();
                return Err(Error::invalid(format!(
                    "there is no setting '{shown}', expected one of {}",
                    known.join(", ")
                )));
            }
            Some(now) if now == value || value.is_null() => {}
            Some(now) => {
                return Err(Error::new(
                    Code::PermissionDenied,
                    format!(
                        "the setting '{name}' is {now} and not for a call to change: it comes from the server's \
                         configuration"
                    ),
                ));
            }
        }
    }
    Ok(())
}

impl Api {
    /// The trace settings of a model, or of all (empty), after a request that asks for `asked`.
    ///
    /// # Errors
    /// `NotFound` for an unknown model; as `unchanged`.
    pub fn trace_settings(&self, model: &str, asked: &Settings) -> Result<Settings, Error> {
        if !model.is_empty() {
            self.table.load().model(model)?;
        }
        let current = trace(self.traced);
        unchanged(&current, asked)?;
        Ok(current)
    }

    /// The log settings, after a request that asks for `asked`.
    ///
    /// # Errors
    /// As `unchanged`.
    pub fn log_settings(&self, asked: &Settings) -> Result<Settings, Error> {
        let current = log(LevelFilter::current(), self.log_format);
        unchanged(&current, asked)?;
        Ok(current)
    }
}

// ---- HTTP

/// Both extensions' routes.
pub fn routes() -> Routes {
    Routes::new()
        .routes(routes!(read_trace, write_trace))
        .routes(routes!(read_model_trace, write_model_trace))
        .routes(routes!(read_log, write_log))
}

/// What a call that asks for other settings is refused with.
struct SettingErrors;

impl IntoResponses for SettingErrors {
    fn responses() -> BTreeMap<String, RefOr<utoipa::openapi::Response>> {
        errors(&[Code::InvalidArgument, Code::PermissionDenied, Code::NotFound, Code::TooLarge])
    }
}

type Sent = Result<Bytes, BytesRejection>;

/// What is traced
#[utoipa::path(get, path = "/v2/trace/setting", tag = "settings",
    responses((status = 200, body = TraceSettings)))]
async fn read_trace(State(api): State<Arc<Api>>) -> Outcome {
    Ok(reply(StatusCode::OK, &api.trace_settings("", &Map::new())?))
}

/// Asks for other trace settings: refused, unless they are what holds
#[utoipa::path(post, path = "/v2/trace/setting", tag = "settings",
    request_body = Option<TraceSettings>,
    responses((status = 200, body = TraceSettings), SettingErrors))]
async fn write_trace(State(api): State<Arc<Api>>, body: Sent) -> Outcome {
    Ok(reply(StatusCode::OK, &api.trace_settings("", &asked(body)?)?))
}

/// What is traced of a model
#[utoipa::path(get, path = "/v2/models/{model}/trace/setting", tag = "settings",
    responses((status = 200, body = TraceSettings), ModelErrors))]
async fn read_model_trace(State(api): State<Arc<Api>>, target: Target) -> Outcome {
    Ok(reply(StatusCode::OK, &api.trace_settings(&target.model, &Map::new())?))
}

/// Asks for other trace settings of a model: refused, unless they are what holds
#[utoipa::path(post, path = "/v2/models/{model}/trace/setting", tag = "settings",
    request_body = Option<TraceSettings>,
    responses((status = 200, body = TraceSettings), SettingErrors))]
async fn write_model_trace(State(api): State<Arc<Api>>, target: Target, body: Sent) -> Outcome {
    Ok(reply(StatusCode::OK, &api.trace_settings(&target.model, &asked(body)?)?))
}

/// What is logged
#[utoipa::path(get, path = "/v2/logging", tag = "settings",
    responses((status = 200, body = LogSettings)))]
async fn read_log(State(api): State<Arc<Api>>) -> Outcome {
    Ok(reply(StatusCode::OK, &api.log_settings(&Map::new())?))
}

/// Asks for another log: refused, unless it is what holds
#[utoipa::path(post, path = "/v2/logging", tag = "settings",
    request_body = Option<LogSettings>,
    responses((status = 200, body = LogSettings), SettingErrors))]
async fn write_log(State(api): State<Arc<Api>>, body: Sent) -> Outcome {
    Ok(reply(StatusCode::OK, &api.log_settings(&asked(body)?)?))
}

/// The settings of a body; an empty one, or null, asks for nothing.
fn asked(body: Sent) -> Result<Settings, Error> {
    let body = whole(body)?;
    if body.trim_ascii().is_empty() {
        return Ok(Map::new());
    }
    let read = serde_json::from_slice::<Option<Settings>>(&body).map_err(|error| {
        Error::invalid(format!("the body is no JSON object of settings with their values: {error}"))
    })?;
    Ok(read.unwrap_or_default())
}

// ---- gRPC

/// The settings of a gRPC request; one without a value asks for the default.
pub fn trace_asked(
    settings: impl IntoIterator<Item = (String, trace_setting_request::SettingValue)>,
) -> Settings {
    let value = |name: &str, mut values: Vec<String>| match values.len() {
        0 => Value::Null,
        1 if name != "trace_level" => Value::from(values.remove(0)),
        _ => Value::from(values),
    };
    settings.into_iter().map(|(name, set)| (name.clone(), value(&name, set.value))).collect()
}

/// As `trace_asked`.
pub fn log_asked(
    settings: impl IntoIterator<Item = (String, log_settings_request::SettingValue)>,
) -> Settings {
    use log_settings_request::setting_value::ParameterChoice;
    let value = |set: log_settings_request::SettingValue| match set.parameter_choice {
        None => Value::Null,
        Some(ParameterChoice::BoolParam(flag)) => flag.into(),
        Some(ParameterChoice::Uint32Param(number)) => number.into(),
        Some(ParameterChoice::StringParam(text)) => text.into(),
    };
    settings.into_iter().map(|(name, set)| (name, value(set))).collect()
}

/// The settings as the gRPC message has them: every one a list.
pub fn trace_message(settings: Settings) -> crate::api::proto::TraceSettingResponse {
    let text = |value: Value| match value {
        Value::String(text) => text,
        other => other.to_string(),
    };
    let list = |value: Value| match value {
        Value::Array(values) => values.into_iter().map(text).collect(),
        one => vec![text(one)],
    };
    let settings = settings
        .into_iter()
        .map(|(name, value)| (name, trace_setting_response::SettingValue { value: list(value) }));
    crate::api::proto::TraceSettingResponse { settings: settings.collect() }
}

/// The settings as the gRPC message has them.
pub fn log_message(settings: Settings) -> crate::api::proto::LogSettingsResponse {
    use log_settings_response::setting_value::ParameterChoice;
    let choice = |value: Value| match value {
        Value::Bool(flag) => ParameterChoice::BoolParam(flag),
        Value::Number(number) => {
            let number = number.as_u64().and_then(|n| u32::try_from(n).ok());
            ParameterChoice::Uint32Param(number.unwrap_or_default())
        }
        Value::String(text) => ParameterChoice::StringParam(text),
        other => ParameterChoice::StringParam(other.to_string()),
    };
    let settings = settings.into_iter().map(|(name, value)| {
        (name, log_settings_response::SettingValue { parameter_choice: Some(choice(value)) })
    });
    crate::api::proto::LogSettingsResponse { settings: settings.collect() }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_log_says_what_is_logged() {
        let level = |level| {
            let log = log(level, Format::Json);
            assert_eq!((&log["log_file"], &log["log_format"]), (&json!(""), &json!("json")));
            let flags = ["log_error", "log_warning", "log_info"].map(|f| log[f].as_bool().unwrap());
            (flags, log["log_verbose_level"].as_u64().unwrap())
        };
        assert_eq!(level(LevelFilter::OFF), ([false, false, false], 0));
        assert_eq!(level(LevelFilter::WARN), ([true, true, false], 0));
        assert_eq!(level(LevelFilter::INFO), ([true, true, true], 0));
        assert_eq!(level(LevelFilter::DEBUG), ([true, true, true], 1));
        assert_eq!(level(LevelFilter::TRACE), ([true, true, true], 2));
    }

    #[test]
    fn nothing_is_changed() {
        let current = trace(None);
        let code = |asked: Value| unchanged(&current, &object(&asked)).map_err(|error| error.code);
        assert_eq!(unchanged(&current, &current), Ok(()));
        assert_eq!(code(json!({ "trace_file": null, "trace_level": ["OFF"] })), Ok(()));
        for asked in [
            json!({ "trace_file": "/tmp/x" }),
            json!({ "trace_level": ["TIMESTAMPS"] }),
            json!({ "trace_rate": 1 }),
        ] {
            assert_eq!(code(asked), Err(Code::PermissionDenied));
        }
        assert_eq!(code(json!({ "trace_speed": "1" })), Err(Code::InvalidArgument));
    }
}
