//! `onnxd explain MODEL`: how a model would be served, and why.

use std::process::ExitCode;

use super::{
    Failure,
    output::{self, Output},
    settings::Settings,
};
use crate::app;

/// Load one model, measure it, and say how it would be served and why
#[derive(clap::Args, Debug)]
#[command(
    after_help = "Examples:\n  onnxd explain iris --models models\n  onnxd explain iris --models models --output json"
)]
pub struct Args {
    /// The model's name in the repository
    model: String,
    /// For people or for machines
    #[arg(long, value_enum, default_value_t)]
    output: Output,
    #[command(flatten)]
    settings: Settings,
}

pub fn run(args: &Args) -> Result<ExitCode, Failure> {
    let loaded = args.settings.load()?;
    let explanation = app::explain(&loaded.config, &args.model).map_err(Failure::failed)?;
    output::show(&explanation, args.output);
    Ok(ExitCode::SUCCESS)
}
