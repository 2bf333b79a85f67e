//! `onnxd dataset`: makes data sets of the log and its labels.

use std::{path::PathBuf, process::ExitCode};

use clap::Subcommand;
use onnxd::{
    cli::{
        Failure,
        output::{self, Output},
    },
    predlog::{
        condition::Condition,
        reader::{Filter, Log},
    },
};
use serde_json::{Value, json};

use super::{Place, moment, progress::Progress, span, too_little, unread, usage};
use crate::dataset::{
    blobs::Blobs,
    build::{Refused, Request, build, withheld},
    manifest::Manifest,
};

/// Make data sets of logged predictions and their labels
#[derive(clap::Args, Debug)]
#[command(
    after_help = "Examples:\n  onnxd dataset build --model wine --out dataset\n  onnxd dataset build --model churn --from 60d --gap 7d --group subject_key --out churn-set"
)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Join, cut by time, write: OUT has train and valid, OUT-withheld what is kept from whoever trains
    #[command(
        after_help = "Examples:\n  onnxd dataset build --model wine --out dataset\n  onnxd dataset build --model churn --from 60d --maturity 7d --out churn-set\n\nA row is in where it was answered (status 200), its route is asked for, its label is known and mature, and it\nis the first of its label key. The same log gives the same id, whatever its files are called by then.\n\nExit codes: 0 built, 1 the log cannot be read, 2 wrong usage, 3 a column gives the label away, 4 no row is left."
    )]
    Build(Box<Build>),
}

#[derive(clap::Args, Debug)]
struct Build {
    /// Of this model
    #[arg(long, value_name = "NAME")]
    model: String,
    /// The data set's directory; it must not be there
    #[arg(long, value_name = "OUT")]
    out: PathBuf,
    /// Of this version alone
    #[arg(long, value_name = "VERSION")]
    version: Option<String>,
    /// Received then or later: 2026-01-31, 2026-01-31T12:00:00Z, or 60d (ago)
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
    /// These features, in place of all
    #[arg(long, value_name = "NAME,...", value_delimiter = ',')]
    features: Vec<String>,
    /// Rows with the same value of this column never both train and test
    #[arg(long, value_name = "COLUMN")]
    group: Option<String>,
    /// Labels that come later than this after their row are none
    #[arg(long, value_name = "SPAN", default_value = "30d")]
    horizon: String,
    /// Rows younger than this are left out, since early labels are not like late ones [default: the time within which nine of ten labels came]
    #[arg(long, value_name = "SPAN")]
    maturity: Option<String>,
    /// As if it were then: later labels are not looked at [default: the time of the last label]
    #[arg(long, value_name = "TIME")]
    as_of: Option<String>,
    /// Time between two parts of which no row is in [default: the maturity]
    #[arg(long, value_name = "SPAN")]
    gap: Option<String>,
    /// Share of the rows that validates
    #[arg(long, value_name = "SHARE", default_value_t = 0.15)]
    valid: f64,
    /// Share of the rows that is withheld, the latest ones
    #[arg(long, value_name = "SHARE", default_value_t = 0.15)]
    test: f64,
    /// Build it though a column gives the label away
    #[arg(long)]
    allow_leaks: bool,
    /// About so much is held in memory; what is more waits on the disk, beside OUT
    #[arg(long, value_name = "SIZE", default_value = "1GiB", value_parser = super::bytes)]
    memory_limit: u64,
    #[command(flatten)]
    place: Place,
}

pub fn run(args: &Args) -> Result<ExitCode, Failure> {
    let Command::Build(args) = &args.command;
    let request = request(args)?;
    let files = request.log.files(&request.filter).map_err(unread)?.len();
    let bar = Progress::of(files, "files");
    let built = build(&request, |done| bar.at(done));
    drop(bar);
    let manifest = built.map_err(|refused| match refused {
        Refused::Read(error) => unread(error),
        Refused::Usage(why) => usage(why),
        Refused::TooLittle(why) => too_little(why),
        Refused::Leaks(leaks) => {
            let parts: Vec<String> =
                leaks.iter().map(|leak| format!("{}: {}", leak.column, leak.why)).collect();
            Failure::does_not_hold(format!(
                "{}; most likely written after the label was known (--features leaves a column out, --allow-leaks builds it all the same)",
                parts.join("; ")
            ))
        }
    })?;
    show(&manifest, args);
    Ok(ExitCode::SUCCESS)
}

fn request(args: &Build) -> Result<Request, Failure> {
    let shares = [args.valid, args.test];
    if shares.iter().any(|share| !(0.0..1.0).contains(share)) || args.valid + args.test >= 1.0 {
        return Err(usage(format!(
            "--valid and --test: expected shares of at least 0 that leave something to train with, got {} and {}",
            args.valid, args.test
        )));
    }
    let optional =
        |flag: &str, text: &Option<String>| text.as_ref().map(|t| span(flag, t)).transpose();
    Ok(Request {
        log: Log::open(&args.place.dir).map_err(unread)?,
        model: args.model.clone(),
        filter: Filter {
            model: Some(args.model.clone()),
            version: args.version.clone(),
            from: moment("--from", args.from.as_ref())?,
            to: moment("--to", args.to.as_ref())?,
            conditions: args.conditions.clone(),
        },
        routes: args.routes.clone(),
        features: args.features.clone(),
        group: args.group.clone(),
        horizon: span("--horizon", &args.horizon)?,
        maturity: optional("--maturity", &args.maturity)?,
        as_of: moment("--as-of", args.as_of.as_ref())?,
        gap: optional("--gap", &args.gap)?,
        valid: args.valid,
        test: args.test,
        allow_leaks: args.allow_leaks,
        out: args.out.clone(),
        memory_bytes: args.memory_limit,
    })
}

fn show(manifest: &Manifest, args: &Build) {
    match args.place.output {
        Output::Json => output::show(&json!(manifest), Output::Json),
        Output::Text => {
            let line = |file: &crate::dataset::manifest::Written| json!({"rows": file.rows, "slice": file.slice, "first": file.first, "last": file.last});
            let files: Vec<Value> = manifest.files.iter().map(line).collect();
            output::say(&output::text(&Value::Array(files)));
            let parts: Vec<String> = manifest
                .left_out
                .iter()
                .map(|(why, n)| format!("{n} {}", why.replace('_', " ")))
                .collect();
            output::say(&format!(
                "{} rows seen; left out: {}",
                manifest.rows_seen,
                parts.join(", ")
            ));
            let Blobs { files, bytes, gone } = manifest.blobs;
            if files + gone > 0 {
                output::say(&format!(
                    "{files} large tensors, {bytes} bytes, lie in `blobs` beside the rows; {gone} were there no more"
                ));
            }
            for leak in &manifest.suspect_columns {
                output::say(&format!("warning: {}: {}", leak.column, leak.why));
            }
            output::say(&format!("id {}", manifest.id));
            let apart = withheld(&args.out);
            output::say(&format!(
                "it is in {}, and what is withheld in {}",
                args.out.display(),
                apart.display()
            ));
        }
    }
}
