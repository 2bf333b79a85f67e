//! `onnxd log dump`: rows for other programs.

use std::{io, path::PathBuf, process::ExitCode};

use super::{Failure, Place, Rows, nothing, progress::Progress, unread};
use crate::{
    cli::output,
    predlog::export::{Export, Form},
};

/// `--form`.
#[derive(clap::ValueEnum, Clone, Copy, Debug, Default)]
enum FormArg {
    Csv,
    #[default]
    Jsonl,
    Parquet,
}

#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(flatten)]
    rows: Rows,
    /// In which form
    #[arg(long, value_enum, default_value_t)]
    form: FormArg,
    /// These columns, in this order, in place of all
    #[arg(long, value_name = "NAME,...", value_delimiter = ',')]
    columns: Vec<String>,
    /// At most so many rows
    #[arg(long, value_name = "ROWS", default_value_t = u64::MAX, hide_default_value = true, value_parser = clap::value_parser!(u64).range(1..))]
    limit: u64,
    /// The file that is written, in place of standard output (Parquet needs one)
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    #[command(flatten)]
    place: Place,
}

pub fn run(args: &Args) -> Result<ExitCode, Failure> {
    let form = match args.form {
        FormArg::Csv => Form::Csv,
        FormArg::Jsonl => Form::JsonLines,
        FormArg::Parquet => Form::Parquet,
    };
    if form == Form::Parquet && args.out.is_none() {
        let message = "--form parquet needs --out FILE: a terminal or a pipe takes no Parquet";
        return Err(Failure { code: 2, message: message.to_owned() });
    }
    let log = args.place.open()?;
    let filter = args.rows.filter()?;
    let files = log.files(&filter).map_err(unread)?;
    if files.is_empty() {
        return Err(nothing());
    }
    let columns = (!args.columns.is_empty()).then_some(args.columns.as_slice());
    let export = Export { files: &files, filter: &filter, columns, form, limit: args.limit };
    let bar = Progress::of(files.len(), "files");
    let seen = |done| bar.at(done);
    match &args.out {
        None => export.run(io::BufWriter::new(io::stdout()), seen).map_err(unread)?,
        Some(path) => output::to_file(path, |file| {
            export.run(io::BufWriter::new(file), seen).map_err(unread)
        })?,
    };
    Ok(ExitCode::SUCCESS)
}
