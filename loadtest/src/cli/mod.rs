//! The command line: one subcommand a file. Exit codes: 0 good or held, 1 failed, 2 wrong usage, 3 an objective is broken,
//! 4 too little data to say.

pub mod compare;
pub mod draft;
pub mod echo;
pub mod flags;
pub mod golden;
mod live;
pub mod many;
pub mod merge;
pub mod mlperf;
pub mod output;
pub mod progress;
pub mod report;
pub mod run;
pub mod session;
pub mod show;
pub mod signals;

use std::{ffi::OsString, io::Write, process::ExitCode};

use clap::{CommandFactory, Parser, Subcommand};

/// What a command failed at: its exit code, and the line for standard error.
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

    /// It was asked for in a way that makes no sense.
    pub fn usage(message: String) -> Failure {
        Failure { code: 2, message }
    }
}

/// Put load on an inference server and say whether it holds its objectives
#[derive(Parser, Debug)]
#[command(
    name = "onnxd-loadtest",
    bin_name = "onnxd loadtest",
    version,
    max_term_width = 100,
    after_help = "Examples:\n  onnxd loadtest run --url grpc://localhost:8001 --model wine --rate 500 --duration 30s --slo 'p99<20ms'\n  onnxd loadtest run loadtest/scenarios/sidecar.yaml --html report.html\n  onnxd loadtest compare before.json after.json\n\nA command line that begins with a flag or a scenario is one of `run`.\n\nExit codes: 0 good, or the objectives hold; 1 failed; 2 wrong usage; 3 an objective is broken or an answer was wrong;\n4 too little data to say."
)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    Run(Box<run::Args>),
    Compare(compare::Args),
    Merge(merge::Args),
    Report(report::Args),
    Mlperf(Box<mlperf::Args>),
    Golden(Box<golden::Args>),
    Echo(echo::Args),
}

/// Runs the command that `args` (the program's name first) ask for.
pub fn run(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(with_run(args.into_iter().collect())) {
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
            let _ = writeln!(std::io::stderr(), "onnxd loadtest: {}", failure.message);
            ExitCode::from(failure.code)
        }
    }
}

/// `onnxd loadtest scenario.yaml --search` is `onnxd loadtest run scenario.yaml --search`.
fn with_run(mut args: Vec<OsString>) -> Vec<OsString> {
    let Some(first) = args.get(1).map(|arg| arg.to_string_lossy().into_owned()) else {
        return args;
    };
    let own = ["help", "--help", "-h", "--version", "-V"];
    let command = Cli::command();
    let known = own.contains(&&*first) || command.get_subcommands().any(|c| c.get_name() == first);
    // A word that is neither a command nor a file is a slip, and an error that lists the commands helps most.
    if !known && (first.starts_with('-') || first.contains(['.', '/'])) {
        args.insert(1, "run".into());
    }
    args
}

fn dispatch(command: Command) -> Result<ExitCode, Failure> {
    match command {
        Command::Run(args) => run::run(&args),
        Command::Compare(args) => compare::run(&args),
        Command::Merge(args) => merge::run(&args),
        Command::Report(args) => report::run(&args),
        Command::Mlperf(args) => mlperf::run(&args),
        Command::Golden(args) => golden::run(&args),
        Command::Echo(args) => echo::run(&args),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_commands_are_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn run_may_be_left_out() {
        let with = |args: &[&str]| -> Vec<String> {
            let args = args.iter().map(OsString::from).collect();
            with_run(args).iter().map(|arg| arg.to_string_lossy().into_owned()).collect()
        };
        assert_eq!(with(&["x", "s.yaml", "--search"]), ["x", "run", "s.yaml", "--search"]);
        assert_eq!(with(&["x", "--url", "a"]), ["x", "run", "--url", "a"]);
        for same in [
            &["x"][..],
            &["x", "run"],
            &["x", "--help"],
            &["x", "-V"],
            &["x", "echo"],
            &["x", "ruhn"],
        ] {
            assert_eq!(with(same), same);
        }
    }

    #[test]
    fn wrong_usage_is_two_and_help_is_zero() {
        let run = |args: &[&str]| run(args.iter().map(OsString::from));
        for (args, code) in [
            (&["x", "ruhn"][..], 2),
            (&["x", "run"], 2),
            (&["x", "run", "--url", "grpc://a", "--model", "m"], 2),
            (&["x", "run", "--url", "grpc://a", "--search", "--knee"], 2),
            (&["x", "run", "no/such/scenario.yaml"], 1),
            (&["x", "compare", "no/such/a.json", "no/such/b.json"], 1),
            (&["x", "--version"], 0),
        ] {
            assert_eq!(run(args), ExitCode::from(code), "{args:?}");
        }
    }
}
