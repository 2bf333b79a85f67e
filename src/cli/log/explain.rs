//! `onnxd log explain`: what a model's log holds, and what it would say of a request.

use std::{fs, path::PathBuf, process::ExitCode};

use crate::{
    app::log::explain_log,
    cli::{
        Failure,
        output::{self, Output},
        settings::Settings,
    },
};

#[derive(clap::Args, Debug)]
pub struct Args {
    /// The model's name in the repository
    model: String,
    /// A request as JSON, to be run and shown as it would be written
    #[arg(long, value_name = "FILE")]
    request: Option<PathBuf>,
    /// For people or for machines
    #[arg(long, value_enum, default_value_t)]
    output: Output,
    #[command(flatten)]
    settings: Settings,
}

pub fn run(args: &Args) -> Result<ExitCode, Failure> {
    let loaded = args.settings.load()?;
    let read = |path: &PathBuf| {
        fs::read(path).map_err(|error| {
            Failure::failed(format!("{}: cannot be read: {error}", path.display()))
        })
    };
    let request = args.request.as_ref().map(read).transpose()?;
    let said = explain_log(&loaded.config, &args.model, request.as_deref());
    output::show(&said.map_err(Failure::failed)?, args.output);
    Ok(ExitCode::SUCCESS)
}
