//! onnxd-loadtest: open-loop load and SLO verification. Not written yet; it says so and fails.

use std::{io::Write, process::ExitCode};

fn main() -> ExitCode {
    // Where standard error is closed, the exit code still says it.
    let _ = writeln!(
        std::io::stderr(),
        "onnxd-loadtest: not written yet; loadtest/README.md says what it will be"
    );
    ExitCode::FAILURE
}
