//! The program: sets what must be set before any thread, then runs the command line.

use std::process::ExitCode;

fn main() -> ExitCode {
    // SAFETY: the first thing that the process does; there is no other thread yet.
    unsafe { onnxd::runtime::ort::disable_telemetry() };
    onnxd_offline::cli::run(std::env::args_os())
}
