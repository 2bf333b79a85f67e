//! `onnxd serve`: the server itself.

use std::process::ExitCode;

use super::{Failure, settings::Settings};
use crate::app;

/// Serve the models of a repository until told to stop (SIGTERM, SIGINT)
#[derive(clap::Args, Debug)]
#[command(
    after_help = "Examples:\n  onnxd serve --models models\n  onnxd serve --config onnxd.yaml --http 0.0.0.0:8000 --log-format json\n  onnxd serve --models model.onnx --grpc off"
)]
pub struct Args {
    #[command(flatten)]
    settings: Settings,
}

pub fn run(args: &Args) -> Result<ExitCode, Failure> {
    Ok(app::serve(args.settings.load()?))
}
