//! `onnxd log`: the commands of it that are in this binary.

use std::process::ExitCode;

use clap::Subcommand;
use onnxd::cli::Failure;

use super::{erase, sql};

/// Read and keep the prediction log
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Write rows and labels about a subject out of every file, and keep the evidence
    #[command(
        after_help = "Examples:\n  onnxd log erase --subject 4711 --key-file log.key --dry-run\n  onnxd log erase --subject 4711 --key-file log.key --datasets sets/march\n  onnxd log erase --again\n\nThe subject goes into a ledger: rows of it that come later, and those that a running server has\nwritten ahead, are left out when files are made of them. --again erases everybody in it once more.\nCopies elsewhere (backups, buckets with versions) are not reached."
    )]
    Erase(erase::Args),
    /// Ask rows and their labels in SQL
    #[command(
        after_help = "Examples:\n  onnxd log sql \"select pred_label, count(*) from log where status = 200 group by 1\"\n  onnxd log sql --model wine --from 7d \"select date, avg(cast(label = pred_label as int)) from labelled group by 1 order by 1\"\n  onnxd log sql --form parquet --out slow.parquet \"select * from log where total_us > 10000\"\n  onnxd log sql \"describe labelled\"\n\nTables:\n  log              the rows of closed files, with model, version, date and hour of their directories\n  labels           what counts of each key: the highest revision, then the latest\n  labelled         log with its labels; what has none yet is null\n  label_revisions  every label as it came\n\nThe SQL is that of Apache DataFusion. Nothing is written or set. It reads the directory and asks no server; rows that\nare written ahead only are not among them. Where labels are asked for, standard error says how many rows have one.\n\nExit codes: 0 done, 1 the log cannot be read or the query needs more memory, 2 it is no query of what there is,\n4 there is no row."
    )]
    Sql(Box<sql::Args>),
}

pub fn run(args: &Args) -> Result<ExitCode, Failure> {
    match &args.command {
        Command::Erase(args) => erase::run(args),
        Command::Sql(args) => sql::run(args),
    }
}
