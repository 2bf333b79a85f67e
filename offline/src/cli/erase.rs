//! `onnxd log erase`: writes a subject out of the log.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    process::ExitCode,
};

use onnxd::{
    cli::{
        Failure,
        output::{self, Output},
    },
    predlog::{
        erased::Ledger,
        layout,
        reader::{Filter, Log},
        redact::Key,
        value::time_text,
    },
};
use serde_json::{Value, json};

use super::{Place, now_us, progress::Progress, unread, usage};
use crate::erase::{Evidence, Request, Rewritten, erase};

#[derive(clap::Args, Debug)]
pub struct Args {
    /// Whom: what the model's log calls subject
    #[arg(long, value_name = "SUBJECT", requires = "key_file", conflicts_with = "again")]
    subject: Option<String>,
    /// The key that the server hashes subjects with, prediction_log.key_file
    #[arg(long, value_name = "FILE")]
    key_file: Option<PathBuf>,
    /// Whom, as the column subject_key has it
    #[arg(long, value_name = "HASH", conflicts_with_all = ["subject", "again"])]
    subject_key: Option<String>,
    /// Everybody in the ledger: rows that came since
    #[arg(long)]
    again: bool,
    /// Data sets to look into: those that hold the subject are listed
    #[arg(long, value_name = "DIR,...", value_delimiter = ',')]
    datasets: Vec<PathBuf>,
    /// The folder for labels, prediction_log.labels_folder: files there that hold some go
    #[arg(
        long,
        value_name = "DIR",
        env = "ONNXD_PREDICTION_LOG_LABELS_FOLDER",
        hide_env_values = true
    )]
    labels_folder: Option<PathBuf>,
    /// Say what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    place: Place,
}

pub fn run(args: &Args) -> Result<ExitCode, Failure> {
    let log = log(&args.place.dir)?;
    let subject_keys = subject_keys(args, &log)?;
    let files = log.files(&Filter::default()).map_err(unread)?.len();
    let request = Request {
        log,
        subject_keys,
        datasets: args.datasets.clone(),
        labels_folder: args.labels_folder.clone(),
        dry_run: args.dry_run,
        at: time_text(now_us()),
    };
    let bar = Progress::of(files, "files");
    let evidence = erase(&request, |done| bar.at(done)).map_err(unread)?;
    drop(bar);
    match args.place.output {
        Output::Json => output::show(&json!(evidence), Output::Json),
        Output::Text => show(&evidence),
    }
    Ok(ExitCode::SUCCESS)
}

/// The log, which need not have a file yet: a server may have written ahead only.
fn log(root: &Path) -> Result<Log, Failure> {
    match layout::wal(root).is_dir() {
        true => Ok(Log { root: root.to_owned() }),
        false => Log::open(root).map_err(unread),
    }
}

fn show(evidence: &Evidence) {
    let line = |file: &Rewritten| json!({"rows": file.rows_erased, "file": file.file});
    let files = evidence.log.iter().chain(&evidence.wal).chain(&evidence.labels);
    let lines: Vec<Value> = files.map(line).collect();
    if !lines.is_empty() {
        output::say(&output::text(&Value::Array(lines)));
    }
    let sum = |files: &[Rewritten]| files.iter().map(|file| file.rows_erased).sum::<u64>();
    output::say(&format!(
        "{} rows and {} labels {}",
        sum(&evidence.log) + sum(&evidence.wal),
        sum(&evidence.labels),
        if evidence.done { "are erased" } else { "would be erased" }
    ));
    let open: u64 = evidence.wal_open.iter().map(|open| open.rows).sum();
    if open > 0 {
        output::say(&format!(
            "{open} rows are written ahead by a server that runs, which leaves them out when it makes files of them"
        ));
    }
    if !evidence.blobs.is_empty() {
        let (count, bytes) =
            (evidence.blobs.len(), evidence.blobs.iter().map(|b| b.bytes).sum::<u64>());
        let verb = if evidence.done { "are removed" } else { "would be removed" };
        output::say(&format!("{count} large tensors, {bytes} bytes, {verb}"));
    }
    for file in &evidence.label_files {
        output::say(&match &file.left {
            None if evidence.done => format!("{} is removed", file.file),
            None => format!("{} would be removed", file.file),
            Some(why) => format!("{} stays: {why}", file.file),
        });
    }
    for set in &evidence.tainted_datasets {
        output::say(&format!("the data set {set} holds rows of the subject"));
    }
    for (objects, what) in [
        (
            &evidence.objects_pending,
            "objects change or go once the server that uploads runs (_erased/objects.jsonl says when)",
        ),
        (
            &evidence.objects_not_looked_at,
            "objects have no file here any more, and were not looked into (the evidence names them)",
        ),
    ] {
        if !objects.is_empty() {
            output::say(&format!("{} {what}", objects.len()));
        }
    }
}

fn subject_keys(args: &Args, log: &Log) -> Result<BTreeSet<String>, Failure> {
    if args.again {
        let ledger = Ledger::read(&log.root).map_err(unread)?;
        return Ok(ledger.keys().cloned().collect());
    }
    if let Some(key) = &args.subject_key {
        return Ok(BTreeSet::from([key.clone()]));
    }
    let (Some(subject), Some(path)) = (&args.subject, &args.key_file) else {
        return Err(usage("whom? --subject with --key-file, --subject-key or --again"));
    };
    let secret = std::fs::read(path)
        .map_err(|error| Failure::failed(format!("{}: {error}", path.display())))?;
    let key = Key::new(secret.trim_ascii()).ok_or_else(|| {
        Failure::failed(format!("{}: expected a key of 16 bytes or more", path.display()))
    })?;
    Ok(BTreeSet::from([key.hash("subject", subject.as_bytes())]))
}
