//! `onnxd log compact`: fewer files of the same rows.

use std::process::ExitCode;

use serde_json::{Value, json};

use super::{Failure, Place, Range, now_us, progress::Progress, unread};
use crate::{
    cli::output::{self, Output},
    predlog::{
        compact::{self, Lock, Merge, Options, journal},
        condition,
        reader::Log,
    },
};

#[derive(clap::Args, Debug)]
pub struct CompactArgs {
    #[command(flatten)]
    range: Range,
    /// Say what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,
    /// Files of fewer MiB are small
    #[arg(long, value_name = "MIB", default_value_t = 16, value_parser = clap::value_parser!(u64).range(1..=1024))]
    small: u64,
    /// How many MiB of small files become one
    #[arg(long, value_name = "MIB", default_value_t = 128, value_parser = clap::value_parser!(u64).range(1..=1024))]
    target: u64,
    /// How long after its end an hour is left alone, as rows of it may still be on their way
    #[arg(long, value_name = "SPAN", default_value = "30m")]
    grace: String,
    #[command(flatten)]
    place: Place,
}

pub fn compact(args: &CompactArgs) -> Result<ExitCode, Failure> {
    let log = args.place.open()?;
    let filter = args.range.filter()?;
    let grace_us = condition::span(&args.grace)
        .map_err(|why| Failure { code: 2, message: format!("--grace: {why}") })?;
    let options =
        Options { small_bytes: args.small << 20, target_bytes: args.target << 20, grace_us };
    let _lock = match args.dry_run {
        true => None,
        false => Some(Lock::wait(&log).map_err(unread)?),
    };
    let recovered = match args.dry_run {
        true => 0,
        false => journal::recover_all(&log, &filter).map_err(unread)?,
    };
    let merges = compact::plan(&log, &filter, &options, now_us()).map_err(unread)?;
    if !args.dry_run {
        let bar = Progress::of(merges.len(), "merges");
        for (n, merge) in merges.iter().enumerate() {
            compact::run(merge).map_err(unread)?;
            bar.at(n + 1);
        }
        journal::recover_all(&log, &filter).map_err(unread)?;
    }
    let lines: Vec<Value> = merges.iter().map(|merge| line(&log, merge)).collect();
    let before: usize = merges.iter().map(|merge| merge.inputs.len()).sum();
    match args.place.output {
        Output::Json => output::show(
            &json!({"merges": lines, "recovered": recovered, "done": !args.dry_run}),
            Output::Json,
        ),
        Output::Text => {
            if !lines.is_empty() {
                output::say(&output::text(&Value::Array(lines)));
            }
            let verb = if args.dry_run { "would become" } else { "became" };
            output::say(&format!("{before} files {verb} {}", merges.len()));
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn line(log: &Log, merge: &Merge) -> Value {
    json!({
        "model": merge.inputs[0].partition.model,
        "version": merge.inputs[0].partition.version,
        "rows": merge.rows,
        "files": merge.inputs.len(),
        "bytes": merge.bytes(),
        "into": merge.output.strip_prefix(&log.root).unwrap_or(&merge.output).display().to_string(),
    })
}
