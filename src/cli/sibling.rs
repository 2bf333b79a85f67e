//! The commands that another binary of the project answers, as `git` and `cargo` do it.

use std::{
    ffi::OsString,
    os::unix::process::CommandExt,
    path::Path,
    process::{Command, ExitCode},
};

use super::Failure;

/// Everything after the command's name, help included, belongs to the sibling.
#[derive(clap::Args, Debug)]
pub struct Args {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGS")]
    rest: Vec<OsString>,
}

/// Becomes `binary` (which lies beside this one), with the words of `command` first among its arguments.
pub fn run(binary: &str, command: &[&str], args: &Args) -> Result<ExitCode, Failure> {
    let own = std::env::current_exe()
        .map_err(|error| Failure::failed(format!("the place of onnxd is not known: {error}")))?;
    let path = own.parent().unwrap_or(Path::new("")).join(binary);
    if !path.is_file() {
        let asked = if command.is_empty() { "loadtest".to_owned() } else { command.join(" ") };
        return Err(Failure::failed(format!(
            "onnxd {asked} needs {binary} beside onnxd, and it is not there (`cargo build --release --workspace` makes it)"
        )));
    }
    // Only returns where the binary could not be started.
    let error = Command::new(&path).args(command).args(&args.rest).exec();
    Err(Failure::failed(format!("{binary} could not be started: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_sibling_is_named() {
        let args = Args { rest: vec![] };
        let failure = run("onnxd-nowhere", &["drift"], &args).expect_err("it is not there");
        assert_eq!(failure.code, 1);
        assert!(failure.message.starts_with("onnxd drift needs onnxd-nowhere"), "{failure:?}");
    }
}
