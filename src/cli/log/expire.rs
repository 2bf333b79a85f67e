//! `onnxd log expire`: what retention would remove, or does, by a policy of the command's own.

use std::{collections::BTreeSet, process::ExitCode};

use serde_json::{Value, json};

use super::{Failure, Place, now_us, relative, unread};
use crate::{
    cli::output::{self, Output},
    predlog::{
        compact::Lock, condition, inventory::Inventory, layout::HOUR_US, options::Retention,
        reader::Filter, retention, upload::book::Book, value::time_text,
    },
};

#[derive(clap::Args, Debug)]
#[command(group = clap::ArgGroup::new("policy").required(true).multiple(true).args(["max_age", "max_bytes"]))]
pub struct Args {
    /// Of this model alone
    #[arg(long, value_name = "NAME")]
    model: Option<String>,
    /// Files whose hour ended longer ago go, as 30d; whole hours
    #[arg(long, value_name = "SPAN")]
    max_age: Option<String>,
    /// The oldest files of a model go until it has no more bytes than these
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u64).range(1..))]
    max_bytes: Option<u64>,
    /// Say what would go, and remove nothing
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    place: Place,
}

pub fn run(args: &Args) -> Result<ExitCode, Failure> {
    let (log, policy) = (args.place.open()?, policy(args)?);
    let _lock = match args.dry_run {
        true => None,
        false => Some(Lock::wait(&log).map_err(unread)?),
    };
    let (books, inventory) = (Book::all(&log.root), Inventory::of_command(&log.root));
    let asked = Filter { model: args.model.clone(), ..Filter::default() };
    let hours = log.hours(&asked).map_err(unread)?.into_iter();
    let models: BTreeSet<String> = hours.map(|(_, of)| of.model).collect();
    let (mut lines, mut bytes) = (Vec::new(), 0);
    for model in models {
        let files = retention::files(&log, &model, &books).map_err(unread)?;
        for (file, cause) in retention::expired(&files, now_us(), policy) {
            if !args.dry_run {
                let gone = retention::remove(&log.root, file, &inventory);
                gone.map_err(|e| Failure::failed(format!("{}: {e}", file.path.display())))?;
            }
            bytes += file.bytes;
            lines.push(json!({
                "model": model,
                "version": file.partition.version,
                "hour": time_text(file.partition.begins()),
                "bytes": file.bytes,
                "reason": cause.label(),
                "file": relative(&log, file),
            }));
        }
    }
    let count = lines.len();
    match args.place.output {
        Output::Json => output::show(
            &json!({"files": lines, "bytes": bytes, "done": !args.dry_run}),
            Output::Json,
        ),
        Output::Text => {
            if !lines.is_empty() {
                output::say(&output::text(&Value::Array(lines)));
            }
            let verb = if args.dry_run { "would go" } else { "are removed" };
            output::say(&format!("{count} files, {bytes} bytes, {verb}"));
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn policy(args: &Args) -> Result<Retention, Failure> {
    let usage = |why: String| Failure { code: 2, message: format!("--max-age: {why}") };
    let max_age_hours = match &args.max_age {
        None => 0,
        Some(text) => {
            let hours = condition::span(text).map_err(usage)? / HOUR_US;
            match u64::try_from(hours) {
                Ok(hours) if hours > 0 => hours,
                _ => return Err(usage(format!("expected an hour or more, got {text}"))),
            }
        }
    };
    Ok(Retention { max_age_hours, max_bytes: args.max_bytes.unwrap_or(0) })
}
