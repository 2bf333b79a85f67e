//! The command line: one subcommand a file. Exit codes: 0 good or held, 1 failed, 2 wrong usage, 3 an objective is broken,
//! 4 too little data to say.

use std::{ffi::OsString, io::Write, process::ExitCode};

use clap::{Parser, Subcommand};

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
}

/// Put load on an inference server and say whether it holds its objectives
#[derive(Parser, Debug)]
#[command(name = "onnxd loadtest", bin_name = "onnxd loadtest", version, max_term_width = 100)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

/// A command is listed once it does something.
#[derive(Subcommand, Debug)]
enum Command {}

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
            let _ = writeln!(std::io::stderr(), "onnxd loadtest: {}", failure.message);
            ExitCode::from(failure.code)
        }
    }
}

fn dispatch(command: Command) -> Result<ExitCode, Failure> {
    match command {}
}
