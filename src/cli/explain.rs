//! `onnxd explain MODEL`.

use std::{process::ExitCode, time::Duration};

use serde_json::Value;

use super::{
    Failure,
    output::{self, Output},
    settings::Settings,
};
use crate::{
    app,
    batcher::pool::Pool,
    config::Config,
    repository::{
        manager::{Deps, Manager},
        options::{Load, Options},
    },
};

/// Load one model, measure it, and say how it would be served and why
#[derive(clap::Args, Debug)]
#[command(
    after_help = "Examples:\n  onnxd explain iris --models models\n  onnxd explain iris --models models --output json\n\nExit codes: 0 it would serve, 1 it could not be tried, 3 it would not serve."
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
    let config = args.settings.load()?.config;
    let explanation = explain(&config, &args.model)?;
    output::show(&explanation, args.output);
    Ok(ExitCode::SUCCESS)
}

/// Loads the one model as a server would, for what the server then knows of it.
fn explain(config: &Config, model: &str) -> Result<Value, Failure> {
    let backends = app::backends(config).map_err(Failure::failed)?;
    let (cores, threads) = app::threads(config);
    let deps = Deps { backends, pool: Pool::new(threads), cores };
    let options = Options { load: Load::Names(vec![model.to_owned()]), ..config.repository() };
    let manager = Manager::start(&options, deps).map_err(Failure::failed)?;
    manager.wait_initial(Duration::MAX);
    let table = manager.table.load_full();
    let entry = table.model(model).map_err(|error| Failure::failed(error.message))?;
    let explanation = match &entry.current {
        Some(version) => version.explanation.clone(),
        None => {
            let error = table.resolve(model, "").err().map(|error| error.message);
            return Err(Failure::does_not_hold(error.unwrap_or_default()));
        }
    };
    Ok(explanation)
}
