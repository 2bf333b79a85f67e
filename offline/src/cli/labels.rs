//! `onnxd labels`: brings labels in, and says how far they reach.

use std::{fs::File, io, path::PathBuf, process::ExitCode};

use clap::Subcommand;
use onnxd::{
    cli::{
        Failure,
        output::{self, Output},
    },
    predlog::{
        labels::{
            Names,
            import::{self, Imported, Refused},
            parse::{Form, Input},
            store::Store,
        },
        reader::{Filter, Log},
        value::time_text,
    },
};
use serde_json::{Value, json};

use super::{Place, moment, now_us, span, too_little, unread, usage};
use crate::coverage;

/// Bring in what turned out to be true of logged predictions, and see how far it reaches
#[derive(clap::Args, Debug)]
#[command(
    after_help = "Examples:\n  onnxd labels import labels.csv --model wine\n  onnxd labels coverage --model wine"
)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Import a file: JSON, JSON lines, CSV, Parquet or an Arrow stream
    #[command(
        after_help = "Examples:\n  onnxd labels import labels.csv --model wine\n  onnxd labels import churn.parquet --model churn --key customer --label left --time seen_at\n  cat labels.jsonl | onnxd labels import - --model wine --form json\n\nFields: label_key, and label or label_value or deleted; ts_label (when it became known, now where it is not\nsaid), ts_event, weight, source, revision, event_id. Of several labels of one key the highest revision counts,\nthen the latest. The same file imported twice changes nothing. Labels may come before their rows."
    )]
    Import(Import),
    /// How many rows have a label, by window of time, and how long labels take
    #[command(
        after_help = "Examples:\n  onnxd labels coverage --model wine\n  onnxd labels coverage --model wine --from 7d --by 1h --output json\n\nExit codes: 0 done, 1 the log cannot be read, 4 there is no row."
    )]
    Coverage(Coverage),
}

/// `--form`.
#[derive(clap::ValueEnum, Clone, Copy, Debug)]
enum FormArg {
    Json,
    Csv,
    Parquet,
    Arrow,
}

#[derive(clap::Args, Debug)]
struct Import {
    /// The file, or - for standard input
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Whose predictions the labels are about
    #[arg(long, value_name = "NAME")]
    model: String,
    /// In which form, where the file's name does not say it
    #[arg(long, value_enum)]
    form: Option<FormArg>,
    /// The field that holds the key
    #[arg(long, value_name = "FIELD", default_value = "label_key")]
    key: String,
    /// The field that holds the label
    #[arg(long, value_name = "FIELD", default_value = "label")]
    label: String,
    /// The field that holds when the label became known
    #[arg(long, value_name = "FIELD", default_value = "ts_label")]
    time: String,
    /// What to note as the source of labels that name none
    #[arg(long, value_name = "TEXT")]
    source: Option<String>,
    #[command(flatten)]
    place: Place,
}

pub fn run(args: &Args) -> Result<ExitCode, Failure> {
    match &args.command {
        Command::Import(args) => bring(args),
        Command::Coverage(args) => show(args),
    }
}

fn bring(args: &Import) -> Result<ExitCode, Failure> {
    let form = match args.form {
        Some(FormArg::Json) => Form::Json,
        Some(FormArg::Csv) => Form::Csv,
        Some(FormArg::Parquet) => Form::Parquet,
        Some(FormArg::Arrow) => Form::Arrow,
        None => Form::of_name(&args.file.to_string_lossy()).ok_or_else(|| {
            usage("the form is not known by the file's name: --form json, csv, parquet or arrow")
        })?,
    };
    if !args.place.dir.is_dir() {
        return Err(Failure::failed(format!("{}: no such directory", args.place.dir.display())));
    }
    let done = match args.file.to_str() {
        Some("-") => read(args, form, Input::Stream(&mut io::stdin().lock())),
        _ => {
            let file = File::open(&args.file)
                .map_err(|error| Failure::failed(format!("{}: {error}", args.file.display())))?;
            read(args, form, Input::File(file))
        }
    }?;
    match args.place.output {
        Output::Json => output::show(
            &json!({"labels": done.labels, "written": done.put.written, "known": done.put.known, "ignored_fields": done.ignored}),
            Output::Json,
        ),
        Output::Text => {
            output::say(&format!(
                "{} labels: {} written, {} known already",
                done.labels, done.put.written, done.put.known
            ));
            if !done.ignored.is_empty() {
                let names: Vec<&str> = done.ignored.iter().map(String::as_str).collect();
                output::say(&format!("fields that say nothing of labels: {}", names.join(", ")));
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn read(args: &Import, form: Form, input: Input<'_>) -> Result<Imported, Failure> {
    let names = Names { key: args.key.clone(), label: args.label.clone(), time: args.time.clone() };
    let import = import::Import {
        store: &Store::at(&args.place.dir),
        model: &args.model,
        names: &names,
        source: args.source.as_deref(),
        now: now_us(),
    };
    import.run(input, form).map_err(|refused| match refused {
        Refused::Wrong(why) => Failure::failed(format!("{}: {why}", args.file.display())),
        Refused::Store(error) => unread(error),
    })
}

#[derive(clap::Args, Debug)]
struct Coverage {
    /// Of this model
    #[arg(long, value_name = "NAME")]
    model: String,
    /// Of this version
    #[arg(long, value_name = "VERSION")]
    version: Option<String>,
    /// Received then or later: 2026-01-31, 2026-01-31T12:00:00Z, or 2h (ago)
    #[arg(long, value_name = "TIME")]
    from: Option<String>,
    /// Received before
    #[arg(long, value_name = "TIME")]
    to: Option<String>,
    /// How long a window is
    #[arg(long, value_name = "SPAN", default_value = "1d")]
    by: String,
    /// Labels that come later than this after their row are none
    #[arg(long, value_name = "SPAN", default_value = "30d")]
    horizon: String,
    #[command(flatten)]
    place: Place,
}

fn show(args: &Coverage) -> Result<ExitCode, Failure> {
    let (width, horizon) = (span("--by", &args.by)?, span("--horizon", &args.horizon)?);
    if width == 0 {
        return Err(usage("--by: expected a length of time above 0"));
    }
    let filter = Filter {
        model: Some(args.model.clone()),
        version: args.version.clone(),
        from: moment("--from", args.from.as_ref())?,
        to: moment("--to", args.to.as_ref())?,
        conditions: Vec::new(),
    };
    let log = Log::open(&args.place.dir).map_err(unread)?;
    let files = log.files(&filter).map_err(unread)?;
    let labels = Store::at(&log.root).resolved(&args.model).map_err(unread)?;
    let coverage = coverage::count(&files, &filter, &labels, (width, horizon)).map_err(unread)?;
    if coverage.windows.is_empty() {
        return Err(too_little(format!(
            "no row of model {} is asked for by these flags",
            args.model
        )));
    }
    let windows: Vec<Value> = coverage
        .windows
        .iter()
        .map(|(begins, window)| {
            json!({
                "from": time_text(*begins),
                "rows": window.rows,
                "labelled": window.labelled,
                "coverage": share(window.labelled, window.rows),
                "by_label": labels_text(&window.by_label, args.place.output),
            })
        })
        .collect();
    let sum = |of: fn(&coverage::Window) -> u64| coverage.windows.values().map(of).sum::<u64>();
    let (rows, labelled) = (sum(|w| w.rows), sum(|w| w.labelled));
    let all = json!({
        "model": args.model,
        "rows": rows,
        "labelled": labelled,
        "coverage": share(labelled, rows),
        "labels_without_row": coverage.without_row,
        "delay_seconds": {"p50": coverage.delays.quantile(0.5), "p90": coverage.delays.quantile(0.9), "max": coverage.delays.max},
        "windows": windows,
    });
    output::show(&all, args.place.output);
    Ok(ExitCode::SUCCESS)
}

/// To four digits, as people and diffs read it.
pub fn share(part: u64, whole: u64) -> f64 {
    (part as f64 / whole.max(1) as f64 * 1e4).round() / 1e4
}

/// In a table for people a cell is one text.
fn labels_text(by_label: &std::collections::BTreeMap<String, u64>, output: Output) -> Value {
    match output {
        Output::Json => json!(by_label),
        Output::Text => {
            let parts: Vec<String> =
                by_label.iter().map(|(label, n)| format!("{label}: {n}")).collect();
            Value::from(parts.join(", "))
        }
    }
}
