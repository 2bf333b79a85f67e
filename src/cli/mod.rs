//! The command line: one subcommand a file. Exit codes: 0 good, 1 failed, 2 wrong usage, 3 what was asked does not hold,
//! 4 too little data to say.

pub mod check;
pub mod client;
pub mod completions;
pub mod explain;
pub mod health;
pub mod key;
pub mod log;
pub mod man;
pub mod models;
pub mod output;
pub mod rollout;
pub mod serve;
pub mod settings;
pub mod sibling;

use std::{ffi::OsString, process::ExitCode};

use clap::{Parser, Subcommand};

/// What a command failed at: its exit code, and the line for standard error (none where all is said already).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    pub code: u8,
    pub message: String,
}

impl Failure {
    /// It could not be done.
    pub fn failed(message: impl Into<String>) -> Failure {
        Failure { code: 1, message: message.into() }
    }

    /// It was done, and the answer is no.
    pub fn does_not_hold(message: impl Into<String>) -> Failure {
        Failure { code: 3, message: message.into() }
    }
}

/// Serve ONNX models over gRPC and HTTP, with dynamic batching and the lowest latency the hardware allows.
#[derive(Parser, Debug)]
#[command(
    name = "onnxd",
    version,
    max_term_width = 100,
    after_help = "Examples:\n  onnxd serve --models models\n  onnxd check --config onnxd.yaml\n  onnxd health\n\nExit codes: 0 good, 1 failed, 2 wrong usage, 3 what was checked does not hold,\n4 too little data to say."
)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    Serve(serve::Args),
    Check(check::Args),
    Explain(explain::Args),
    Health(health::Args),
    Models(models::Args),
    Log(log::Args),
    Rollout(rollout::Args),
    Key(key::Args),
    Completions(completions::Args),
    Man(man::Args),
    /// Put load on a server and say whether it keeps its objectives (onnxd-loadtest).
    #[command(
        disable_help_flag = true,
        after_help = "`onnxd loadtest --help` is onnxd-loadtest's own.\n\nExamples:\n  onnxd loadtest run --url grpc://localhost:8001 --model wine --rate 500 --slo 'p99<20ms'"
    )]
    Loadtest(sibling::Args),
    /// Bring in what turned out to be true of logged predictions (onnxd-offline).
    #[command(
        disable_help_flag = true,
        after_help = "`onnxd labels --help` is onnxd-offline's own.\n\nExamples:\n  onnxd labels import labels.csv --model wine\n  onnxd labels coverage --model wine"
    )]
    Labels(sibling::Args),
    /// Make data sets of logged predictions and their labels (onnxd-offline).
    #[command(
        disable_help_flag = true,
        after_help = "`onnxd dataset --help` is onnxd-offline's own.\n\nExamples:\n  onnxd dataset build --model wine --out dataset"
    )]
    Dataset(sibling::Args),
    /// Ask a version what was logged, and compare its answers (onnxd-offline).
    #[command(
        disable_help_flag = true,
        after_help = "`onnxd replay --help` is onnxd-offline's own.\n\nExamples:\n  onnxd replay --model wine --version 2 --from 24h"
    )]
    Replay(sibling::Args),
    // Those below are hidden until their binary does something: what is listed works.
    /// Measure drift in logged predictions (onnxd-offline).
    #[command(hide = true, disable_help_flag = true)]
    Drift(sibling::Args),
    /// Train a candidate (onnxd-offline).
    #[command(hide = true, disable_help_flag = true)]
    Train(sibling::Args),
    /// Compare a candidate with the version that serves (onnxd-offline).
    #[command(hide = true, disable_help_flag = true)]
    Gate(sibling::Args),
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
    match dispatch(cli.command) {
        Ok(code) => code,
        Err(failure) => {
            if !failure.message.is_empty() {
                output::complain(&failure.message);
            }
            ExitCode::from(failure.code)
        }
    }
}

fn dispatch(command: Command) -> Result<ExitCode, Failure> {
    match command {
        Command::Serve(args) => serve::run(&args),
        Command::Check(args) => check::run(&args),
        Command::Explain(args) => explain::run(&args),
        Command::Health(args) => health::run(&args),
        Command::Models(args) => models::run(&args),
        Command::Log(args) => log::run(&args),
        Command::Rollout(args) => rollout::run(args),
        Command::Key(args) => key::run(&args),
        Command::Completions(args) => completions::run(&args),
        Command::Man(args) => man::run(&args),
        Command::Loadtest(args) => sibling::run("onnxd-loadtest", &[], &args),
        Command::Labels(args) => sibling::run("onnxd-offline", &["labels"], &args),
        Command::Drift(args) => sibling::run("onnxd-offline", &["drift"], &args),
        Command::Dataset(args) => sibling::run("onnxd-offline", &["dataset"], &args),
        Command::Train(args) => sibling::run("onnxd-offline", &["train"], &args),
        Command::Gate(args) => sibling::run("onnxd-offline", &["gate"], &args),
        Command::Replay(args) => sibling::run("onnxd-offline", &["replay"], &args),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_commands_are_well_formed() {
        <Cli as clap::CommandFactory>::command().debug_assert();
    }

    #[test]
    fn wrong_usage_is_two_and_help_is_zero() {
        let run = |args: &[&str]| run(args.iter().map(OsString::from));
        assert_eq!(run(&["onnxd", "serv"]), ExitCode::from(2));
        assert_eq!(run(&["onnxd", "explain"]), ExitCode::from(2));
        assert_eq!(run(&["onnxd", "--version"]), ExitCode::SUCCESS);
    }
}
