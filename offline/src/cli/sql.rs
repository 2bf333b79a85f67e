//! `onnxd log sql`: asks the log and its labels in SQL.

use std::{
    io::{self, IsTerminal, Write},
    path::PathBuf,
    process::ExitCode,
    thread,
};

use onnxd::{
    cli::{
        Failure,
        log::Range,
        output::{self, Output},
    },
    predlog::reader::Log,
};

use super::{Place, progress::Progress, too_little, unread, usage};
use crate::sql::{
    self, Answer, Coverage, Request, Seen,
    refused::Refused,
    rows::{Ended, Form, TABLE_ROWS},
};

#[derive(clap::Args, Debug)]
pub struct Args {
    /// One query
    #[arg(value_name = "SQL")]
    sql: String,
    #[command(flatten)]
    range: Range,
    /// In which form [default: table, and with --output json jsonl]
    #[arg(long, value_enum)]
    form: Option<Form>,
    /// The file that is written, in place of standard output (Parquet needs one)
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// About so much is held in memory; what is more waits on the disk, in the directory for temporary files (TMPDIR)
    #[arg(long, value_name = "SIZE", default_value = "1GiB", value_parser = super::bytes)]
    memory_limit: u64,
    #[command(flatten)]
    place: Place,
}

pub fn run(args: &Args) -> Result<ExitCode, Failure> {
    let form = args.form.unwrap_or(match args.place.output {
        Output::Text => Form::Table,
        Output::Json => Form::Jsonl,
    });
    if form == Form::Parquet && args.out.is_none() {
        return Err(usage(
            "--form parquet needs --out FILE: a terminal or a pipe takes no Parquet",
        ));
    }
    let request = Request {
        log: Log::open(&args.place.dir).map_err(unread)?,
        filter: args.range.filter()?,
        sql: args.sql.clone(),
        memory_bytes: args.memory_limit,
        threads: thread::available_parallelism().map_or(1, usize::from),
    };
    let answer = match &args.out {
        Some(path) => output::to_file(path, |file| {
            ask(&request, (form, Box::new(io::BufWriter::new(file))), true)
        })?,
        None => {
            // A line that is written over and rows cannot share a terminal, but where these come last.
            let bar = form == Form::Table || !io::stdout().is_terminal();
            ask(&request, (form, Box::new(io::BufWriter::new(io::stdout()))), bar)?
        }
    };
    if answer.ended == Ended::Cut {
        output::complain(&format!(
            "these are the first {TABLE_ROWS} rows; --form csv, jsonl or parquet writes them all"
        ));
    }
    match &answer.coverage {
        Some(Ok(coverage)) => output::complain(&covered(coverage)),
        Some(Err(refused)) => output::complain(&format!(
            "how many rows have a label is not known: {}",
            failure(refused.clone()).message
        )),
        None => {}
    }
    Ok(ExitCode::SUCCESS)
}

fn covered(coverage: &Coverage) -> String {
    let Coverage { answered, labelled } = *coverage;
    format!(
        "{labelled} of {answered} answered rows have a label (coverage {})",
        super::labels::share(labelled, answered)
    )
}

fn ask(
    request: &Request,
    (form, out): (Form, Box<dyn Write + Send>),
    shows: bool,
) -> Result<Answer, Failure> {
    let mut bar = None;
    let answer = sql::run(request, (form, out), |seen| match seen {
        Seen::Rows { read, of } if shows => {
            let number = |rows: u64| usize::try_from(rows).unwrap_or(usize::MAX);
            bar.get_or_insert_with(|| Progress::of(number(of), "rows read")).at(number(read));
        }
        Seen::Rows { .. } => {}
        Seen::All => bar = None,
    });
    answer.map_err(failure)
}

fn failure(refused: Refused) -> Failure {
    match refused {
        Refused::Read(error) => unread(error),
        Refused::Query(why) => usage(why),
        Refused::TooLittle(why) => too_little(why),
        Refused::Failed(why) => Failure::failed(why),
    }
}
