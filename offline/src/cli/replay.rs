//! `onnxd replay`: asks a version what was logged, and says how its answers differ.

use std::{fs, path::PathBuf, process::ExitCode, time::Duration};

use onnxd::{
    cli::{
        Failure,
        output::{self, Output},
        settings::Settings,
    },
    predlog::{
        condition::Condition,
        reader::{Filter, Log},
    },
};
use serde_json::{Value, json};

use super::{Place, moment, progress::Progress, too_little, unread, usage};
use crate::replay::{
    Target,
    compare::{Difference, Tolerance},
    local::Local,
    page::page,
    run::{Options, Outcome, run as replay},
    server::Server,
};

/// Ask a version what was logged, and hold its answers beside those that were given
#[derive(clap::Args, Debug)]
#[command(
    after_help = "Examples:\n  onnxd replay --model wine --version 2 --models models --from 24h\n  onnxd replay --model wine --url http://localhost:8000 --speed 1 --report replay.json --page replay.html\n  onnxd replay --model wine --version 2 --max-flips 0.01\n\nWithout --url the version is opened in this process, from --models.\n\nExit codes: 0 done, 1 it cannot be done, 3 the answers differ by more than --max-flips or --same allows, 4 no row\ncan be asked."
)]
pub struct Args {
    /// Rows of this model
    #[arg(long, value_name = "NAME")]
    model: String,
    /// The version that is asked [default: the newest; of a server, the one that serves]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    version: Option<u64>,
    /// Rows that this version answered [default: any]
    #[arg(long, value_name = "VERSION")]
    logged: Option<String>,
    /// Received then or later: 2026-01-31, 2026-01-31T12:00:00Z, or 2h (ago)
    #[arg(long, value_name = "TIME")]
    from: Option<String>,
    /// Received before
    #[arg(long, value_name = "TIME")]
    to: Option<String>,
    /// A column compared with a value: = != < <= > >=; several have to hold together
    #[arg(long = "where", value_name = "CONDITION")]
    conditions: Vec<Condition>,
    /// Rows of these routes
    #[arg(long, value_name = "NAME,...", value_delimiter = ',', default_value = "primary,canary")]
    routes: Vec<String>,
    /// A running server's HTTP port: http://HOST:PORT
    #[arg(long, value_name = "URL")]
    url: Option<String>,
    /// Milliseconds to wait for an answer of it
    #[arg(long, value_name = "MS", default_value_t = 30_000, value_parser = clap::value_parser!(u64).range(1..))]
    timeout_ms: u64,
    /// Where the models are, without --url [default: models]
    #[arg(long, value_name = "DIR")]
    models: Option<String>,
    /// The configuration, a YAML file
    #[arg(long, value_name = "FILE", env = "ONNXD_CONFIG", hide_env_values = true)]
    config: Option<PathBuf>,
    /// ONNX Runtime's library [default: looked for beside the executable and on the system]
    #[arg(long, value_name = "FILE")]
    onnxruntime_lib: Option<String>,
    /// Times the speed at which the rows came; without it, as fast as can be
    #[arg(long, value_name = "TIMES")]
    speed: Option<f64>,
    /// Rows asked at once
    #[arg(long, value_name = "ROWS", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=4096))]
    batch: u64,
    /// At most so many rows
    #[arg(long, value_name = "ROWS", default_value_t = u64::MAX, hide_default_value = true, value_parser = clap::value_parser!(u64).range(1..))]
    limit: u64,
    /// Numbers are the same up to this, ...
    #[arg(long, value_name = "DIFFERENCE", default_value_t = 1e-6)]
    absolute: f64,
    /// ... and up to this times the number that was logged
    #[arg(long, value_name = "SHARE", default_value_t = 1e-5)]
    relative: f64,
    /// It holds with this share of other decisions at most (exit code 3)
    #[arg(long, value_name = "SHARE")]
    max_flips: Option<f64>,
    /// It holds only where every answer is the same within the tolerance (exit code 3)
    #[arg(long)]
    same: bool,
    /// Write the report as JSON
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Write the report as a page for people
    #[arg(long, value_name = "FILE")]
    page: Option<PathBuf>,
    #[command(flatten)]
    place: Place,
}

pub fn run(args: &Args) -> Result<ExitCode, Failure> {
    let positive = |v: f64| v.is_finite() && v > 0.0;
    if args.speed.is_some_and(|speed| !positive(speed)) {
        return Err(usage("--speed: expected a number above 0"));
    }
    if ![args.absolute, args.relative].iter().all(|v| v.is_finite() && *v >= 0.0) {
        return Err(usage("--absolute and --relative: expected numbers of at least 0"));
    }
    let filter = filter(args)?;
    let log = Log::open(&args.place.dir).map_err(unread)?;
    let mut files = log.files(&filter).map_err(unread)?;
    files.sort_by_key(|file| (file.partition.begins(), file.clone()));
    let mut target = target(args)?;
    let tolerance = Tolerance { absolute: args.absolute, relative: args.relative };
    let options = Options {
        batch: usize::try_from(args.batch).unwrap_or(1),
        limit: args.limit,
        speed: args.speed,
        tolerance,
        routes: args.routes.clone(),
    };
    let bar = Progress::of(files.len(), "files");
    let outcome =
        replay(&files, &filter, (&mut *target, &options), |done| bar.at(done)).map_err(unread)?;
    drop(bar);
    let report = report(args, &*target, &outcome, tolerance);
    write(args, &report)?;
    match args.place.output {
        Output::Json => output::show(&report, Output::Json),
        Output::Text => person(&report),
    }
    judge(args, &outcome)
}

fn filter(args: &Args) -> Result<Filter, Failure> {
    Ok(Filter {
        model: Some(args.model.clone()),
        version: args.logged.clone(),
        from: moment("--from", args.from.as_ref())?,
        to: moment("--to", args.to.as_ref())?,
        conditions: args.conditions.clone(),
    })
}

fn target(args: &Args) -> Result<Box<dyn Target>, Failure> {
    match &args.url {
        Some(url) => {
            let timeout = Duration::from_millis(args.timeout_ms);
            let server = Server::connect(url, &args.model, args.version, timeout);
            Ok(Box::new(server.map_err(Failure::failed)?))
        }
        None => {
            let mut settings = Settings {
                models: args.models.clone(),
                onnxruntime_lib: args.onnxruntime_lib.clone(),
                ..Settings::default()
            };
            settings.ports.config = args.config.clone();
            let local = Local::open(&settings, &args.model, args.version);
            Ok(Box::new(local.map_err(Failure::failed)?))
        }
    }
}

fn report(args: &Args, target: &dyn Target, outcome: &Outcome, tolerance: Tolerance) -> Value {
    let findings = &outcome.findings;
    let columns: serde_json::Map<String, Value> =
        findings.columns.iter().map(|(name, about)| (name.clone(), column(about))).collect();
    let seconds = outcome.elapsed.as_secs_f64();
    let differ = findings.within_tolerance + findings.beyond;
    json!({
        "format": 1,
        "model": args.model,
        "verdict": format!(
            "{} of {} rows are answered the very same, {} within the tolerance, {} not; {} decisions are others",
            findings.exact, findings.rows, findings.within_tolerance, findings.beyond, findings.flips
        ),
        "target": target.describe(),
        "logged_versions": outcome.versions,
        "tolerance": tolerance,
        "rows": {
            "compared": findings.rows,
            "exact": findings.exact,
            "within_tolerance": findings.within_tolerance,
            "beyond": findings.beyond,
            "different": differ,
            "flips": findings.flips,
            "flip_rate": findings.flip_rate(),
        },
        "columns": columns,
        "worst": findings.worst,
        "skipped": outcome.skipped,
        "refused": outcome.refused,
        "requests": outcome.requests,
        "seconds": seconds,
        "answer_us": {"p50": outcome.took.quantile(0.5), "p99": outcome.took.quantile(0.99), "max": outcome.took.max},
    })
}

fn column(about: &Difference) -> Value {
    let mut value = json!(about);
    value["mean_abs"] = json!(about.sum_abs / about.compared.max(1) as f64);
    value
}

fn write(args: &Args, report: &Value) -> Result<(), Failure> {
    let texts = [(&args.report, format!("{report:#}\n")), (&args.page, page(report))];
    for (path, text) in texts {
        if let Some(path) = path {
            fs::write(path, text)
                .map_err(|error| Failure::failed(format!("{}: {error}", path.display())))?;
        }
    }
    Ok(())
}

fn person(report: &Value) {
    let shown = json!({
        "target": report["target"],
        "columns": report["columns"].as_object().into_iter().flatten().map(|(name, about)| json!({
            "column": name,
            "exact": about["exact"],
            "within_tolerance": about["within_tolerance"],
            "beyond": about["beyond"],
            "max_difference": about["max_abs"],
        })).collect::<Vec<Value>>(),
        "not_asked": report["skipped"],
        "refused": report["refused"],
        "answer_us": report["answer_us"],
    });
    output::say(&output::text(&shown));
    output::say(report["verdict"].as_str().unwrap_or(""));
}

fn judge(args: &Args, outcome: &Outcome) -> Result<ExitCode, Failure> {
    let findings = &outcome.findings;
    if findings.rows == 0 {
        let asked: u64 = outcome.refused.values().sum();
        let skipped: u64 = outcome.skipped.values().sum();
        return Err(too_little(format!(
            "no answer could be compared: {asked} rows were refused, {skipped} could not be asked"
        )));
    }
    if args.same && findings.beyond > 0 {
        return Err(Failure::does_not_hold(format!(
            "{} of {} rows are answered otherwise",
            findings.beyond, findings.rows
        )));
    }
    match args.max_flips {
        Some(most) if findings.flip_rate() > most => Err(Failure::does_not_hold(format!(
            "{} of {} decisions are others, {:.4}, and {most} is allowed",
            findings.flips,
            findings.rows,
            findings.flip_rate()
        ))),
        _ => Ok(ExitCode::SUCCESS),
    }
}
