//! What a model's log would hold, and what it would say of one request: for `onnxd log explain`.

use std::sync::Arc;

use bytes::Bytes;
use serde_json::{Map, Value, json};

use super::loaded;
use crate::{
    batcher::assemble::Scratch,
    config::Config,
    predlog::{
        capture::{Ending, VersionLog},
        columns::Source,
        redact::Rule,
    },
    repository::table::Version,
    serving::{
        bind::{Bound, bind},
        engine::pick,
    },
    telemetry::{clock::now, stats::Spans},
    wire,
};

/// The columns that a model's log has and those that it has not, each with the reason; with `body` (a request as JSON), what
/// would be written of it. Nothing is written.
///
/// # Errors
/// The model does not load, its log's options do not fit it, or the request fails.
pub fn explain_log(config: &Config, model: &str, body: Option<&[u8]>) -> Result<Value, String> {
    let manager = loaded(config, model)?;
    let version = manager.table.load().resolve(model, "").map_err(|error| error.to_string())?;
    let log = version.log.clone().ok_or("the log's options do not fit the model")?;
    let rows = body.map(|body| sample(&version, &log, body)).transpose()?;
    let subject = &log.subject;
    let names: Vec<&str> = subject.footer.columns.iter().map(|column| &*column.name).collect();
    let columns =
        subject.columns.columns.iter().zip(&subject.footer.columns).map(|(column, told)| {
            let from = match (&told.tensor, told.index) {
                (Some(tensor), Some(index)) => format!("{tensor}[{index}]"),
                (Some(tensor), None) => tensor.clone(),
                (None, _) if matches!(column.source, Source::Meta(_)) => "the request".into(),
                (None, _) => "the outputs".into(),
            };
            let rule = match &column.rule {
                Rule::Keep => String::new(),
                rule => rule.name().to_owned(),
            };
            let mut row = Map::new();
            row.insert("column".into(), told.name.clone().into());
            row.insert("type".into(), told.kind.clone().into());
            row.insert("from".into(), from.into());
            row.insert("redact".into(), rule.into());
            row
        });
    let columns: Vec<Value> = columns.map(Value::Object).collect();
    let absent: Vec<Value> = subject
        .columns
        .absent
        .iter()
        .map(|absent| json!({"column": absent.name, "why": absent.why}))
        .collect();
    let mut said = Map::new();
    said.insert("model".into(), model.into());
    said.insert("version".into(), version.label.to_string().into());
    let on = if subject.options.enabled { "on" } else { "off (log.enabled is false)" };
    said.insert("log".into(), on.into());
    said.insert("layout".into(), subject.footer.layout.clone().into());
    said.insert("schema_id".into(), subject.footer.schema_id.clone().into());
    said.insert("columns".into(), columns.into());
    said.insert("not_logged".into(), absent.into());
    if let Some(rows) = rows {
        let rows: Vec<Value> = rows
            .into_iter()
            .enumerate()
            .flat_map(|(row, values)| {
                let named = names.iter().zip(values).collect::<Vec<_>>();
                let one = move |(name, value): (&&str, Value)| {
                    json!({"row": row, "column": name, "value": value})
                };
                named.into_iter().map(one).collect::<Vec<_>>()
            })
            .collect();
        said.insert("would_be_written".into(), rows.into());
    }
    Ok(Value::Object(said))
}

/// The rows of one request, each as its columns' values.
fn sample(
    version: &Arc<Version>,
    log: &Arc<VersionLog>,
    body: &[u8],
) -> Result<Vec<Vec<Value>>, String> {
    let failed = |error: crate::types::error::Error| format!("the request: {error}");
    let body = Bytes::copy_from_slice(body);
    let mut request = wire::json::decode_request(&body).map_err(failed)?;
    request.model = (&*version.model).into();
    let begun = now();
    let out = "the request is not in the sample that is logged: another id may be";
    let mut entry = log.begin(&request, begun, None).ok_or(out)?;
    let bound =
        bind(&version.signature, version.served.padding.as_ref(), request).map_err(failed)?;
    let Bound { inputs, rows, wanted, .. } = bound;
    entry.bound(&inputs, rows);
    let mut scratch = Scratch::new();
    let members = [&inputs[..]];
    let stacked = scratch.stack(&version.signature, None, &members).map_err(failed)?;
    let started = now();
    let session = version.served.sessions.shared();
    let outputs = session.run(&stacked.inputs, None).map_err(|error| error.to_string())?;
    let infer = now().since(started);
    entry.answered(&pick(version, wanted, outputs).map_err(failed)?);
    let spans = Spans { total: now().since(begun), infer, ..Spans::default() };
    let batch = Some((u32::try_from(rows).unwrap_or(u32::MAX), started.0));
    // Nobody writes what is offered here: it is fetched back below.
    let _ = entry.end(Ending { code: None, spans, batch });
    let written = log.preview()?;
    if written.is_empty() { Err(out.into()) } else { Ok(written) }
}
