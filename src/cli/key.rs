//! `onnxd key`: makes a key for a caller, and the hash that the configuration holds of it.

use std::{fs::File, io::Read, process::ExitCode};

use serde_json::json;

use super::{
    Failure,
    output::{self, Output},
};
use crate::api::auth::keys::{KeyHash, key};

/// Make a key for a caller, and its hash for the configuration
#[derive(clap::Args, Debug)]
#[command(
    after_help = "Examples:\n  onnxd key\n  onnxd key --output json\n\nThe key is shown this once: hand it to the caller, and put the hash under auth.callers (docs/security.md).\n\nExit codes: 0 made, 1 no random bytes."
)]
pub struct Args {
    /// For people or for machines
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

pub fn run(args: &Args) -> Result<ExitCode, Failure> {
    let mut random = [0; 32];
    File::open("/dev/urandom")
        .and_then(|mut source| source.read_exact(&mut random))
        .map_err(|error| Failure::failed(format!("no random bytes from /dev/urandom: {error}")))?;
    let key = key(random);
    let hash = KeyHash::of(key.as_bytes()).text();
    output::show(&json!({"key": key, "hash": hash}), args.output);
    Ok(ExitCode::SUCCESS)
}
