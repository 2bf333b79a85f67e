//! `onnxd completions SHELL`: the script that completes onnxd's commands and flags in a shell.

use std::process::ExitCode;

use clap::CommandFactory;
use clap_complete::Shell;

use super::{Cli, Failure, output};

/// Print the completion script of a shell
#[derive(clap::Args, Debug)]
#[command(
    after_help = "Examples:\n  onnxd completions bash > ~/.local/share/bash-completion/completions/onnxd\n  onnxd completions zsh > ~/.zfunc/_onnxd\n  onnxd completions fish > ~/.config/fish/completions/onnxd.fish"
)]
pub struct Args {
    shell: Shell,
}

pub fn run(args: &Args) -> Result<ExitCode, Failure> {
    // Not straight to standard output: a reader that has gone is no failure.
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "onnxd", &mut script);
    output::say(&String::from_utf8_lossy(&script));
    Ok(ExitCode::SUCCESS)
}
