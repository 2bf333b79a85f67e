//! `onnxd check`: a configuration and its repository, tried without serving.

use std::process::ExitCode;

use serde_json::{Value, json};

use super::{
    Failure,
    output::{self, Output},
    settings::Settings,
};
use crate::{app, config::Loaded};

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
    let findings = app::check(&loaded.config).map_err(Failure::failed)?;
    let failed = findings.iter().filter(|finding| finding.outcome.is_err()).count();
    match args.output {
        Output::Json => output::show(&machine(&loaded, &findings), Output::Json),
        Output::Text => output::say(&person(&loaded, &findings)),
    }
    match failed {
        0 => Ok(ExitCode::SUCCESS),
        1 => Err(Failure::does_not_hold("1 version would not serve")),
        n => Err(Failure::does_not_hold(format!("{n} versions would not serve"))),
    }
}

fn machine(loaded: &Loaded, findings: &[app::Finding]) -> Value {
    let values: Vec<Value> = loaded
        .values()
        .into_iter()
        .map(|(key, value, origin)| json!({"key": key, "value": value, "from": origin.to_string()}))
        .collect();
    json!({"configuration": values, "warnings": loaded.warnings, "models": table(findings)})
}

fn table(findings: &[app::Finding]) -> Vec<Value> {
    let row = |finding: &app::Finding| {
        let (result, runtime) = match &finding.outcome {
            Ok(runtime) => ("ok", Some(runtime)),
            Err(why) => (why.as_str(), None),
        };
        json!({
            "model": finding.model,
            "version": finding.version,
            "result": result,
            "runtime": runtime,
        })
    };
    findings.iter().map(row).collect()
}

/// What somebody set, and the warnings, and each version; the other options are counted.
fn person(loaded: &Loaded, findings: &[app::Finding]) -> String {
    let values = loaded.values();
    let set: Vec<Value> = values
        .iter()
        .filter(|(key, ..)| loaded.origins.contains_key(key))
        .map(|(key, value, origin)| json!({"option": key, "value": value, "from": origin.to_string()}))
        .collect();
    let mut text = String::new();
    if !set.is_empty() {
        text.push_str(&output::text(&json!({"configuration": set})));
    }
    let rest = values.len() - set.len();
    text.push_str(&format!(
        "{rest} {} have their defaults (config.example.yaml, or --output json)\n",
        if set.is_empty() { "options, all of them," } else { "further options" }
    ));
    for warning in &loaded.warnings {
        text.push_str(&format!("warning: {warning}\n"));
    }
    if findings.is_empty() {
        text.push_str("models: none\n");
        return text;
    }
    text.push_str(&output::text(&json!({"models": table(findings)})));
    let good = findings.iter().filter(|finding| finding.outcome.is_ok()).count();
    text.push_str(&format!("{good} of {} versions would serve\n", findings.len()));
    text
}
