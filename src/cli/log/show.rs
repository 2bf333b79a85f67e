//! `onnxd log ls` and `stat`: what a log holds.

use std::{collections::BTreeMap, process::ExitCode};

use serde_json::{Map, Value, json};

use super::{Failure, Place, Range, Rows, nothing, progress::Progress, unread};
use crate::{
    cli::output::{self, Output},
    predlog::{
        reader::{LogFile, Opened},
        stat::{Spread, Summary},
        value::time_text,
    },
};

#[derive(clap::Args, Debug)]
pub struct LsArgs {
    #[command(flatten)]
    range: Range,
    /// Every file, in place of sums by day
    #[arg(long)]
    files: bool,
    #[command(flatten)]
    place: Place,
}

pub fn ls(args: &LsArgs) -> Result<ExitCode, Failure> {
    let log = args.place.open()?;
    let files = log.files(&args.range.filter()?).map_err(unread)?;
    let bar = Progress::of(files.len(), "files");
    let mut lines = Vec::new();
    for (n, file) in files.iter().enumerate() {
        // What cannot be read is listed as that: `verify` says more.
        lines.push((file, Opened::at(&file.path).map(|opened| opened.rows).ok()));
        bar.at(n + 1);
    }
    drop(bar);
    let table = if args.files { by_file(&lines, &log.root) } else { by_day(&lines) };
    match (args.place.output, table.is_empty()) {
        (Output::Text, true) => output::say("the log has no such file"),
        _ => output::show(&Value::Array(table), args.place.output),
    }
    Ok(ExitCode::SUCCESS)
}

fn by_file(lines: &[(&LogFile, Option<u64>)], root: &std::path::Path) -> Vec<Value> {
    let line = |(file, rows): &(&LogFile, Option<u64>)| {
        json!({
            "model": file.partition.model,
            "version": file.partition.version,
            "rows": rows,
            "bytes": file.bytes,
            "file": file.path.strip_prefix(root).unwrap_or(&file.path).display().to_string(),
        })
    };
    lines.iter().map(line).collect()
}

fn by_day(lines: &[(&LogFile, Option<u64>)]) -> Vec<Value> {
    let same = |a: &(&LogFile, Option<u64>), b: &(&LogFile, Option<u64>)| {
        let (a, b) = (&a.0.partition, &b.0.partition);
        (&a.model, &a.version, a.date) == (&b.model, &b.version, b.date)
    };
    let line = |day: &[(&LogFile, Option<u64>)]| {
        let partition = &day[0].0.partition;
        let unread = day.iter().filter(|(_, rows)| rows.is_none()).count();
        let mut hours: Vec<u32> = day.iter().map(|(file, _)| file.partition.hour).collect();
        hours.dedup();
        let mut line = json!({
            "model": partition.model,
            "version": partition.version,
            "rows": day.iter().filter_map(|(_, rows)| *rows).sum::<u64>(),
            "date": partition.date.to_string(),
            "hours": hours.len(),
            "files": day.len(),
            "bytes": day.iter().map(|(file, _)| file.bytes).sum::<u64>(),
        });
        if unread > 0 {
            line["unreadable"] = json!(unread);
        }
        line
    };
    lines.chunk_by(same).map(line).collect()
}

#[derive(clap::Args, Debug)]
pub struct StatArgs {
    #[command(flatten)]
    rows: Rows,
    /// What is in each column as well
    #[arg(long)]
    columns: bool,
    #[command(flatten)]
    place: Place,
}

pub fn stat(args: &StatArgs) -> Result<ExitCode, Failure> {
    let log = args.place.open()?;
    let filter = args.rows.filter()?;
    let files = log.files(&filter).map_err(unread)?;
    let bar = Progress::of(files.len(), "files");
    let mut versions: BTreeMap<(String, String), Summary> = BTreeMap::new();
    for (n, file) in files.iter().enumerate() {
        let key = (file.partition.model.clone(), file.partition.version.clone());
        versions.entry(key).or_default().add(file, &filter, args.columns).map_err(unread)?;
        bar.at(n + 1);
    }
    drop(bar);
    versions.retain(|_, summary| summary.rows > 0);
    if versions.is_empty() {
        return Err(nothing());
    }
    let all: Vec<Value> = versions.iter().map(|((m, v), summary)| about(m, v, summary)).collect();
    match args.place.output {
        Output::Json => output::show(&Value::Array(all), Output::Json),
        Output::Text => {
            let texts: Vec<String> = all.iter().map(output::text).collect();
            output::say(&texts.join("\n"));
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn about(model: &str, version: &str, summary: &Summary) -> Value {
    let counts: Map<String, Value> =
        summary.counts.iter().map(|(name, values)| ((*name).to_owned(), json!(values))).collect();
    let mut about = json!({
        "model": model,
        "version": version,
        "rows": summary.rows,
        "rows_before_sampling": summary.estimated_rows.round(),
        "first": summary.first.map(time_text),
        "last": summary.last.map(time_text),
        "files": summary.files,
        "bytes": summary.bytes,
        "by": counts,
        "times": summary.times.iter().filter_map(|(name, spread)| times(name, spread)).collect::<Vec<_>>(),
    });
    if !summary.columns.is_empty() {
        about["columns"] = summary.columns.iter().map(|(name, c)| column(name, c)).collect();
    }
    about
}

fn times(name: &str, spread: &Spread) -> Option<Value> {
    Some(json!({
        "column": name,
        "p50": spread.quantile(0.5)?,
        "p90": spread.quantile(0.9)?,
        "p99": spread.quantile(0.99)?,
        "max": spread.max,
    }))
}

fn column(name: &str, about: &crate::predlog::stat::Column) -> Value {
    let numbers = about.values.saturating_sub(about.not_finite);
    json!({
        "column": name,
        "type": about.kind,
        "nulls": about.nulls,
        "min": about.min,
        "mean": about.min.map(|_| about.sum / numbers as f64),
        "max": about.max,
        "not_finite": about.not_finite,
    })
}
