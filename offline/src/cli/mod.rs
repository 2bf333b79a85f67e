//! The command line: one command a file. Exit codes as onnxd has them.

pub mod dataset;
pub mod erase;
pub mod labels;
pub mod log;
pub mod progress;
pub mod replay;
pub mod sql;

use std::{
    ffi::OsString,
    path::PathBuf,
    process::ExitCode,
    time::{SystemTime, UNIX_EPOCH},
};

use clap::{Parser, Subcommand};
use onnxd::{
    cli::{
        Failure,
        output::{self, Output},
    },
    predlog::{condition, reader::ReadError},
};

/// Read the prediction log: join labels to it, make data sets of it, run it through another version.
#[derive(Parser, Debug)]
#[command(
    name = "onnxd-offline",
    bin_name = "onnxd",
    version,
    max_term_width = 100,
    after_help = "Examples:\n  onnxd labels import labels.csv --model wine\n  onnxd dataset build --model wine --out dataset\n  onnxd replay --model wine --version 2 --from 24h\n\nExit codes: 0 good, 1 failed, 2 wrong usage, 3 what was checked does not hold,\n4 too little data to say."
)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    Labels(labels::Args),
    Dataset(dataset::Args),
    Replay(Box<replay::Args>),
    Log(log::Args),
}

/// Where the log is.
#[derive(clap::Args, Debug)]
pub struct Place {
    /// The log's directory, prediction_log.dir of the server's configuration
    #[arg(
        long,
        value_name = "DIR",
        default_value = "predictions",
        env = "ONNXD_PREDICTION_LOG_DIR",
        hide_env_values = true
    )]
    pub dir: PathBuf,
    /// For people or for machines
    #[arg(long, value_enum, default_value_t)]
    pub output: Output,
}

/// Runs the command that `args` (the program's name first) ask for.
pub fn run(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are no errors: they go to standard output, with code 0. Where that is closed, so be it.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    let ended = match cli.command {
        Command::Labels(args) => labels::run(&args),
        Command::Dataset(args) => dataset::run(&args),
        Command::Replay(args) => replay::run(&args),
        Command::Log(args) => log::run(&args),
    };
    match ended {
        Ok(code) => code,
        Err(failure) => {
            if !failure.message.is_empty() {
                output::complain(&failure.message);
            }
            ExitCode::from(failure.code)
        }
    }
}

fn unread(error: ReadError) -> Failure {
    Failure::failed(error.0)
}

fn usage(message: impl Into<String>) -> Failure {
    Failure { code: 2, message: message.into() }
}

fn too_little(message: impl Into<String>) -> Failure {
    Failure { code: 4, message: message.into() }
}

/// The wall clock, in microseconds since 1970.
fn now_us() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}

/// `--from` and the like.
fn moment(flag: &str, text: Option<&String>) -> Result<Option<i64>, Failure> {
    let read = |text: &String| condition::moment(text, now_us());
    text.map(read).transpose().map_err(|why| usage(format!("{flag}: {why}")))
}

/// `--gap` and the like.
fn span(flag: &str, text: &str) -> Result<i64, Failure> {
    condition::span(text).map_err(|why| usage(format!("{flag}: {why}")))
}

/// A size as `--memory-limit` takes it: bytes, or with KiB, MiB or GiB behind.
fn bytes(text: &str) -> Result<u64, String> {
    let number = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match &text[number.len()..] {
        "" | "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => 0,
    };
    let size = number.parse::<u64>().ok().and_then(|number| number.checked_mul(unit));
    size.filter(|size| *size >= 1 << 20)
        .ok_or_else(|| format!("expected at least 1MiB, as in 512MiB or 4GiB, got {text}"))
}

#[cfg(test)]
mod tests {
    use super::bytes;

    #[test]
    fn sizes_are_read_and_slips_are_named() {
        assert_eq!(bytes("512MiB"), Ok(512 << 20));
        assert_eq!(bytes("2097152"), Ok(2 << 20));
        for slip in ["", "MiB", "1GB", "100KiB", "99999999999GiB", "-1GiB", "1 GiB", "ä"] {
            let error = bytes(slip).expect_err(slip);
            assert_eq!(error, format!("expected at least 1MiB, as in 512MiB or 4GiB, got {slip}"));
        }
    }
}
