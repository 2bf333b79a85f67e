//! `onnxd serve`.

use std::process::ExitCode;

use super::{Failure, settings::Settings};
use crate::{app, telemetry::logs};

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
    let loaded = args.settings.load()?;
    let log = logs::install(&loaded.config.log).map_err(Failure::failed)?;
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
    let served = app::serve(&loaded.config);
    // The last lines of the log come before the last word.
    drop(log);
    served.map_err(Failure::failed)?;
    Ok(ExitCode::SUCCESS)
}
