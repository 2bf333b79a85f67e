//! `onnxd check`.

use std::process::ExitCode;

use serde_json::{Value, json};

use super::{
    Failure,
    output::{self, Output},
    settings::Settings,
};
use crate::{
    app,
    config::Loaded,
    repository::check::{self, Checked, Verdict},
};

/// Check a configuration and every model of its repository without serving
#[derive(clap::Args, Debug)]
#[command(
    after_help = "Examples:\n  onnxd check --config onnxd.yaml\n  onnxd check --models models --output json\n\nExit codes: 0 all of it would serve, 1 the configuration cannot be used, 3 a model would not serve."
)]
pub struct Args {
    /// For people or for machines
    #[arg(long, value_enum, default_value_t)]
    output: Output,
    #[command(flatten)]
    settings: Settings,
}

pub fn run(args: &Args) -> Result<ExitCode, Failure> {
    let loaded = args.settings.load()?;
    let backends = app::backends(&loaded.config).map_err(Failure::failed)?;
    let verdict =
        check::check(&loaded.config.repository(), &backends).map_err(Failure::failed)?;
    match args.output {
        Output::Json => output::show(&machine(&loaded, &verdict), Output::Json),
        Output::Text => output::say(&person(&loaded, &verdict)),
    }
    let failed = verdict.versions.iter().filter(|checked| checked.outcome.is_err()).count();
    match (verdict.ready, failed) {
        (true, 0) => Ok(ExitCode::SUCCESS),
        (true, n) => Err(Failure::does_not_hold(format!("{n} of these would not serve"))),
        (false, n) => Err(Failure::does_not_hold(format!(
            "{n} of these would not serve, and the server would not become ready"
        ))),
    }
}

fn machine(loaded: &Loaded, verdict: &Verdict) -> Value {
    let values: Vec<Value> = loaded
        .values()
        .into_iter()
        .map(|(key, value, origin)| json!({"key": key, "value": value, "from": origin.to_string()}))
        .collect();
    json!({
        "configuration": values,
        "warnings": loaded.warnings,
        "models": table(verdict),
        "ready": verdict.ready,
    })
}

fn table(verdict: &Verdict) -> Vec<Value> {
    let row = |checked: &Checked| {
        let (serves, says) = match &checked.outcome {
            Ok(runtime) => (true, runtime),
            Err(problem) => (false, problem),
        };
        json!({
            "model": &*checked.model,
            "version": checked.version,
            "serves": serves,
            "says": says,
        })
    };
    verdict.versions.iter().map(row).collect()
}

/// Only what somebody set: the defaults are in config.example.yaml.
fn person(loaded: &Loaded, verdict: &Verdict) -> String {
    let set: Vec<Value> = loaded
        .values()
        .into_iter()
        .filter(|(key, ..)| loaded.origins.contains_key(key))
        .map(|(key, value, origin)| json!({"option": key, "value": value, "from": origin.to_string()}))
        .collect();
    let mut text = String::new();
    if set.is_empty() {
        text.push_str("configuration: every option has its default\n");
    } else {
        text.push_str(&output::text(&json!({"configuration": set})));
    }
    for warning in &loaded.warnings {
        text.push_str(&format!("warning: {warning}\n"));
    }
    if verdict.versions.is_empty() {
        text.push_str("models: none\n");
    } else {
        text.push_str(&output::text(&json!({"models": table(verdict)})));
    }
    text
}
