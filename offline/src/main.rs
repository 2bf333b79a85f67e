//! onnxd-offline: what reads the prediction log. Not written yet; it says so and fails.

use std::{io::Write, process::ExitCode};

fn main() -> ExitCode {
    // Where standard error is closed, the exit code still says it.
    let _ = writeln!(
        std::io::stderr(),
        "onnxd-offline: not written yet; offline/README.md says what it will be"
    );
    ExitCode::FAILURE
}
