//! The program: runs the command line.

use std::process::ExitCode;

fn main() -> ExitCode {
    onnxd_loadtest::cli::run(std::env::args_os())
}
