//! `onnxd man [DIR]`: the manual, made from what `--help` says.

use std::{io, path::PathBuf, process::ExitCode};

use clap::CommandFactory;
use clap_mangen::Man;

use super::{Cli, Failure, output};

/// Print the manual page, or write the pages of every command
#[derive(clap::Args, Debug)]
#[command(
    after_help = "Examples:\n  onnxd man | man -l -\n  onnxd man ~/.local/share/man/man1 && man onnxd-serve"
)]
pub struct Args {
    /// Where the pages are written, one a command; made where it is not there
    dir: Option<PathBuf>,
}

pub fn run(args: &Args) -> Result<ExitCode, Failure> {
    let Some(dir) = &args.dir else {
        let mut page = Vec::new();
        // As the pages of a directory: `help` is no page.
        let written = Man::new(Cli::command().disable_help_subcommand(true)).render(&mut page);
        written.map_err(|error| Failure::failed(format!("the page cannot be made: {error}")))?;
        output::say(&String::from_utf8_lossy(&page));
        return Ok(ExitCode::SUCCESS);
    };
    let failed = |error: io::Error| Failure::failed(format!("{}: {error}", dir.display()));
    std::fs::create_dir_all(dir).map_err(failed)?;
    clap_mangen::generate_to(Cli::command(), dir).map_err(failed)?;
    output::say(&format!("the manual's pages are in {}", dir.display()));
    Ok(ExitCode::SUCCESS)
}
