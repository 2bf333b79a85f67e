//! `onnxd loadtest compare`: two stored results, figure by figure.

use std::{collections::BTreeMap, path::PathBuf, process::ExitCode};

use super::{
    Failure,
    output::{self, Output},
    show,
};
use crate::{
    compare::{Block, Comparison, Limit},
    record::Cell,
    report::json::Report,
    summary::Ends,
};

/// Compare two stored results: ratios of their figures, with intervals
#[derive(clap::Args, Debug)]
#[command(
    after_help = "Examples:\n  onnxd loadtest compare before.json after.json\n  onnxd loadtest compare before.json after.json --ratio 'p99<1.05' --ratio 'throughput>0.95'\n\nExit codes: 0 the limits hold (or none were stated), 3 one is broken, 4 too little was measured to say."
)]
pub struct Args {
    /// What is compared with: a report that --json wrote
    #[arg(value_name = "BASE.json")]
    base: PathBuf,
    /// What is compared
    #[arg(value_name = "TEST.json")]
    test: PathBuf,
    /// A limit on a ratio, as in p99<1.05 or throughput>0.95; may be repeated
    #[arg(long, value_name = "LIMIT")]
    ratio: Vec<Limit>,
    /// For people or for machines
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

pub fn run(args: &Args) -> Result<ExitCode, Failure> {
    let (base, test) = (Report::read(&args.base)?, Report::read(&args.test)?);
    let names = [&args.base, &args.test].map(|path| path.display().to_string());
    let blocks = [&base, &test].map(blocks);
    let mut comparison = Comparison::of_results(
        (&names[0], &base.summary.total, &blocks[0]),
        (&names[1], &test.summary.total, &blocks[1]),
        base.plan.seed,
    );
    if base.digest != test.digest {
        comparison.notes.push("the two are of different plans".to_owned());
    }
    for (name, report) in names.iter().zip([&base, &test]) {
        if report.interrupted {
            comparison.notes.push(format!("{name} was interrupted"));
        }
    }
    let comparison = comparison.judge(&args.ratio);
    match args.output {
        Output::Text => output::say(&show::compared(&comparison)),
        Output::Json => {
            let text = serde_json::to_string_pretty(&comparison).map_err(|e| e.to_string())?;
            output::say(&text);
        }
    }
    Ok(output::code(comparison.outcome()))
}

/// Seconds of the phases that count: what a result is resampled by.
fn blocks(report: &Report) -> Vec<Block> {
    let counts = |phase: usize| report.frame.phases.get(phase).is_some_and(|p| !p.warm_up);
    let mut seconds: BTreeMap<(usize, u64), Vec<&Cell>> = BTreeMap::new();
    for stretch in report.stretches.iter().filter(|stretch| counts(stretch.phase)) {
        seconds.entry((stretch.phase, stretch.tenth / 10)).or_default().push(&stretch.cell);
    }
    let block = |((phase, _), cells): ((usize, u64), Vec<&Cell>)| {
        let cell = Cell::sum(cells);
        let ends = Ends::of(&cell);
        let within = report.frame.phases.get(phase).and_then(|p| p.within_ns);
        Block {
            good: ends.good,
            within: within.map(|within| cell.latency.up_to(within)),
            ended: ends.all(),
            errors: ends.wrong + ends.failed,
            seconds: 1.0,
            latency: cell.latency,
            service: cell.service,
        }
    };
    seconds.into_iter().map(block).collect()
}
