//! `onnxd models`: which versions a running server has, and which it shall have.

use std::process::ExitCode;

use clap::Subcommand;
use serde_json::{Value, json};

use super::{
    Failure,
    client::OperatorArgs,
    output::{self, Output},
};

/// Ask a running server which versions it has, load them and unload them
#[derive(clap::Args, Debug)]
#[command(
    after_help = "Examples:\n  onnxd models ls\n  onnxd models load wine --version 3\n  onnxd models load ranker features\n  onnxd models unload wine\n\nIt asks the operator's port.\n\nExit codes: 0 done, 1 refused, or nobody answers."
)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Every version: state, memory, share of the traffic, and why it does not serve
    #[command(after_help = "Examples:\n  onnxd models ls\n  onnxd models ls wine --output json")]
    Ls(Listed),
    /// Load models as their directories have them now; several change as one, or not at all
    #[command(
        after_help = "Examples:\n  onnxd models load wine\n  onnxd models load wine --version 3\n  onnxd models load ranker features"
    )]
    Load(Named),
    /// Unload models; requests under way are answered
    #[command(
        after_help = "Examples:\n  onnxd models unload wine\n  onnxd models unload wine --version 2"
    )]
    Unload(Named),
    /// Look at the repository now. Models that are named follow their directories again
    #[command(after_help = "Examples:\n  onnxd models rescan\n  onnxd models rescan wine")]
    Rescan(Listed),
}

#[derive(clap::Args, Debug)]
struct Listed {
    /// Models, in place of all
    #[arg(value_name = "NAME")]
    models: Vec<String>,
    #[command(flatten)]
    common: Common,
}

#[derive(clap::Args, Debug)]
struct Named {
    /// Models
    #[arg(required = true, value_name = "NAME")]
    models: Vec<String>,
    /// This version alone
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    version: Option<u64>,
    #[command(flatten)]
    common: Common,
}

#[derive(clap::Args, Debug)]
struct Common {
    /// For people or for machines
    #[arg(long, value_enum, default_value_t)]
    output: Output,
    #[command(flatten)]
    operator: OperatorArgs,
}

pub fn run(args: &Args) -> Result<ExitCode, Failure> {
    match &args.command {
        Command::Ls(Listed { models, common }) => {
            common.ask("GET", "/admin/v1/models", None, models)
        }
        Command::Rescan(Listed { models, common }) => {
            let body = json!({ "models": models });
            common.ask("POST", "/admin/v1/models/rescan", Some(&body), models)
        }
        Command::Load(named) => named.ask("/admin/v1/models/load"),
        Command::Unload(named) => named.ask("/admin/v1/models/unload"),
    }
}

impl Named {
    fn ask(&self, path: &str) -> Result<ExitCode, Failure> {
        let target = |name: &String| match self.version {
            Some(version) => json!({ "name": name, "version": version }),
            None => json!({ "name": name }),
        };
        let models: Vec<Value> = self.models.iter().map(target).collect();
        self.common.ask("POST", path, Some(&json!({ "models": models })), &self.models)
    }
}

impl Common {
    /// Asks, and shows how the models stand then: those of `names`, or all.
    fn ask(
        &self,
        method: &str,
        path: &str,
        body: Option<&Value>,
        names: &[String],
    ) -> Result<ExitCode, Failure> {
        let said = self.operator.ask(method, path, body)?;
        let models = said.as_array().cloned().unwrap_or_default();
        let named = |model: &&Value| {
            names.is_empty() || names.iter().any(|name| model["name"] == name.as_str())
        };
        let models: Vec<Value> = models.iter().filter(named).cloned().collect();
        if let Some(missing) =
            names.iter().find(|name| !models.iter().any(|m| m["name"] == name.as_str()))
        {
            return Err(Failure::failed(format!("there is no model '{missing}'")));
        }
        match self.output {
            Output::Json => output::show(&Value::Array(models), Output::Json),
            Output::Text => output::say(&table(&models)),
        }
        Ok(ExitCode::SUCCESS)
    }
}

const HEAD: [&str; 6] = ["model", "version", "state", "memory", "traffic", "reason"];

/// One line a version.
fn table(models: &[Value]) -> String {
    let mut rows = vec![HEAD.map(String::from)];
    for model in models {
        let versions = model["versions"].as_array().map_or(&[][..], Vec::as_slice);
        let reason = |value: &Value| plain(value.as_str().unwrap_or_default());
        rows.extend(versions.iter().map(|version| {
            let share = version["traffic_share"].as_f64().unwrap_or_default();
            [
                plain(model["name"].as_str().unwrap_or_default()),
                version["version"].to_string(),
                plain(version["standing"].as_str().unwrap_or_default()),
                version["memory_bytes"].as_u64().map_or("-".into(), bytes),
                if share > 0.0 { format!("{}%", (share * 1e4).round() / 1e2) } else { "-".into() },
                reason(&version["reason"]),
            ]
        }));
        if versions.is_empty() {
            let name = plain(model["name"].as_str().unwrap_or_default());
            let dash = || "-".to_owned();
            rows.push([name, dash(), "failed".into(), dash(), dash(), reason(&model["failed"])]);
        }
    }
    let width = |at: usize| rows.iter().map(|row| row[at].chars().count()).max().unwrap_or(0);
    let widths: [usize; 6] = std::array::from_fn(width);
    let line = |row: &[String; 6]| {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// Reasons quote model files: none may break the table or move a terminal's cursor.
fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// With three digits at most, as in `97.5 MiB`.
fn bytes(count: u64) -> String {
    let mut value = count as f64;
    let mut unit = "B";
    for next in ["KiB", "MiB", "GiB", "TiB"] {
        if value < 1000.0 {
            break;
        }
        (value, unit) = (value / 1024.0, next);
    }
    let digits = usize::from(unit != "B" && value < 100.0);
    format!("{value:.digits$} {unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_version_has_a_line() {
        let models = [
            json!({"name": "wine", "versions": [
                {"version": 1, "standing": "kept", "memory_bytes": 2048, "traffic_share": 0.0,
                 "reason": "kept"},
                {"version": 2, "standing": "ready", "memory_bytes": 102_236_160u64,
                 "traffic_share": 1.0, "reason": ""},
            ]}),
            json!({"name": "bad", "failed": "it has\nno version", "versions": []}),
        ];
        let expected = "\
model  version  state   memory    traffic  reason
wine   1        kept    2.0 KiB   -        kept
wine   2        ready   97.5 MiB  100%
bad    -        failed  -         -        it has no version";
        assert_eq!(table(&models), expected);
    }

    #[test]
    fn sizes_are_short() {
        let sizes = [0, 999, 1000, 1 << 20, 500 << 20, 3 << 30].map(bytes);
        assert_eq!(sizes, ["0 B", "999 B", "1.0 KiB", "1.0 MiB", "500 MiB", "3.0 GiB"]);
    }
}
