//! `onnxd log`: reads the prediction log back, checks it, and puts its small files together.

mod dump;
mod expire;
mod explain;
mod keep;
mod progress;
mod show;
mod tail;
mod verify;

use std::{
    path::PathBuf,
    process::ExitCode,
    time::{SystemTime, UNIX_EPOCH},
};

use clap::Subcommand;

use super::{Failure, output::Output, sibling};
use crate::predlog::{
    condition::{self, Condition},
    reader::{Filter, Log, LogFile, ReadError},
};

/// Read the prediction log: what is there, its rows, whether it holds
#[derive(clap::Args, Debug)]
#[command(
    after_help = "Examples:\n  onnxd log ls\n  onnxd log tail --model wine --follow\n  onnxd log dump --model wine --from 2h --where 'status!=200'\n\nIt reads the files and asks no server.\n\nExit codes: 0 done, 1 the log cannot be read, 3 what is checked does not hold, 4 there is no such row."
)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Which files there are, by model, version and day
    #[command(
        after_help = "Examples:\n  onnxd log ls\n  onnxd log ls --model wine --files --output json"
    )]
    Ls(show::LsArgs),
    /// Count rows: outcomes, routes, latencies, and with --columns what is in each column
    #[command(
        after_help = "Examples:\n  onnxd log stat\n  onnxd log stat --model wine --from 24h --columns\n\nExit codes: 0 done, 1 the log cannot be read, 4 there is no such row."
    )]
    Stat(show::StatArgs),
    /// The latest rows, and with --follow those that come
    #[command(
        after_help = "Examples:\n  onnxd log tail --model wine\n  onnxd log tail --model wine --follow --output json | jq .status\n\nRows are seen as they are committed, within prediction_log.flush_ms of the server."
    )]
    Tail(tail::Args),
    /// Write rows as CSV, JSON lines or Parquet
    #[command(
        after_help = "Examples:\n  onnxd log dump --model wine --from 2026-01-31 --to 2026-02-01 --form csv --out day.csv\n  onnxd log dump --model wine --where 'total_us>10000' --columns ts,request_id,total_us\n  onnxd log dump --model wine --version 3 --form parquet --out rows.parquet"
    )]
    Dump(dump::Args),
    /// Read every row and check it: files as they were written, no row missing or twice
    #[command(
        after_help = "Examples:\n  onnxd log verify\n  onnxd log verify --model wine --output json\n\nChecked are: every file (whole, its columns and types, its hour, its SHA-256 and rows as listed in _manifest), every frame of the write-ahead log (a write that is cut off at its end is no problem), every file that is listed, and of every start of a server that received = written + dropped + in flight, and that what was written is there.\n\nExit codes: 0 all of it holds, 1 the log cannot be read, 3 something does not hold, with the file and what."
    )]
    Verify(verify::Args),
    /// Say which columns a model's log has, and why, and what would be written of a request
    #[command(
        after_help = "Examples:\n  onnxd log explain wine --models models\n  onnxd log explain wine --models models --request request.json\n\nThe request is one of POST /v2/models/MODEL/infer, as JSON. The model is loaded and run here; nothing is written."
    )]
    Explain(explain::Args),
    /// Put small files of closed hours together
    #[command(
        after_help = "Examples:\n  onnxd log compact --dry-run\n  onnxd log compact --model wine\n\nA server may write meanwhile, and others may read. Killed, it loses no row; the next compaction tidies up."
    )]
    Compact(keep::CompactArgs),
    /// Remove files that are too old or too many, as log.retention does, or say which these would be
    #[command(
        after_help = "Examples:\n  onnxd log expire --max-age 30d --dry-run\n  onnxd log expire --model wine --max-bytes 10737418240\n\nA file that goes to an object store (prediction_log.upload) and is not there yet stays, unless --max-bytes leaves no room for it. Large tensors (_blobs) of an hour go after its rows."
    )]
    Expire(expire::Args),
    /// Write rows and labels about a subject out of every file (onnxd-offline)
    #[command(
        disable_help_flag = true,
        after_help = "`onnxd log erase --help` is onnxd-offline's own.\n\nExamples:\n  onnxd log erase --subject 4711 --key-file log.key --dry-run"
    )]
    Erase(sibling::Args),
    /// Ask rows and their labels in SQL (onnxd-offline)
    #[command(
        disable_help_flag = true,
        after_help = "`onnxd log sql --help` is onnxd-offline's own.\n\nExamples:\n  onnxd log sql \"select pred_label, count(*) from log group by 1\""
    )]
    Sql(sibling::Args),
}

/// Where the log is.
#[derive(clap::Args, Debug)]
struct Place {
    /// The log's directory, prediction_log.dir of the server's configuration
    #[arg(
        long,
        value_name = "DIR",
        default_value = "predictions",
        env = "ONNXD_PREDICTION_LOG_DIR",
        hide_env_values = true
    )]
    dir: PathBuf,
    /// For people or for machines
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

impl Place {
    fn open(&self) -> Result<Log, Failure> {
        Log::open(&self.dir).map_err(unread)
    }
}

/// Which partitions.
#[derive(clap::Args, Debug)]
pub struct Range {
    /// Of this model
    #[arg(long, value_name = "NAME")]
    model: Option<String>,
    /// Of this version
    #[arg(long, value_name = "VERSION")]
    version: Option<String>,
    /// Received then or later: 2026-01-31, 2026-01-31T12:00:00Z, or 2h (ago)
    #[arg(long, value_name = "TIME")]
    from: Option<String>,
    /// Received before
    #[arg(long, value_name = "TIME")]
    to: Option<String>,
}

/// Which rows.
#[derive(clap::Args, Debug)]
struct Rows {
    #[command(flatten)]
    range: Range,
    /// A column compared with a value: = != < <= > >=; several have to hold together
    #[arg(long = "where", value_name = "CONDITION")]
    conditions: Vec<Condition>,
}

impl Range {
    /// # Errors
    /// A time that is none.
    pub fn filter(&self) -> Result<Filter, Failure> {
        let now = now_us();
        let moment = |flag: &str, text: &Option<String>| match text {
            None => Ok(None),
            Some(text) => match condition::moment(text, now) {
                Ok(us) => Ok(Some(us)),
                Err(why) => Err(Failure { code: 2, message: format!("{flag}: {why}") }),
            },
        };
        let (from, to) = (moment("--from", &self.from)?, moment("--to", &self.to)?);
        let (model, version) = (self.model.clone(), self.version.clone());
        Ok(Filter { model, version, from, to, conditions: Vec::new() })
    }
}

impl Rows {
    fn filter(&self) -> Result<Filter, Failure> {
        Ok(Filter { conditions: self.conditions.clone(), ..self.range.filter()? })
    }
}

fn unread(error: ReadError) -> Failure {
    Failure::failed(error.0)
}

/// A file's path below the log's directory.
fn relative(log: &Log, file: &LogFile) -> String {
    file.path.strip_prefix(&log.root).unwrap_or(&file.path).display().to_string()
}

/// Too little to say anything of.
fn nothing() -> Failure {
    Failure { code: 4, message: "no row of the log is asked for by these flags".to_owned() }
}

/// The wall clock, in microseconds since 1970.
fn now_us() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}

pub fn run(args: &Args) -> Result<ExitCode, Failure> {
    match &args.command {
        Command::Ls(args) => show::ls(args),
        Command::Stat(args) => show::stat(args),
        Command::Tail(args) => tail::run(args),
        Command::Dump(args) => dump::run(args),
        Command::Explain(args) => explain::run(args),
        Command::Verify(args) => verify::run(args),
        Command::Compact(args) => keep::compact(args),
        Command::Expire(args) => expire::run(args),
        Command::Erase(args) => sibling::run("onnxd-offline", &["log", "erase"], args),
        Command::Sql(args) => sibling::run("onnxd-offline", &["log", "sql"], args),
    }
}
