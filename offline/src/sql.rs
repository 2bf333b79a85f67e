//! SQL over the log and its labels: DataFusion on the files as they lie, within a limit of memory, beyond which it spills to the disk.

mod ask;
mod files;
mod pool;
pub mod refused;
pub mod rows;
mod tables;

use std::{io::Write, sync::Arc, time::Duration};

use datafusion::{
    arrow::{
        array::{AsArray, RecordBatch},
        datatypes::{Int64Type, SchemaRef},
    },
    common::DataFusionError,
    execution::{
        context::{SQLOptions, SessionContext},
        runtime_env::RuntimeEnvBuilder,
    },
    physical_plan::{ExecutionPlan, SendableRecordBatchStream, execute_stream},
    prelude::SessionConfig,
    sql::parser::Statement,
};
use futures_util::StreamExt;
use onnxd::predlog::reader::{Filter, Log};

use self::{
    pool::Pool,
    refused::Refused,
    rows::{Ended, Form, Sink},
    tables::Tables,
};

/// Between two looks at how far a query is.
const LOOK: Duration = Duration::from_millis(200);
/// How often a query is begun anew because files were put together or removed meanwhile.
const TRIES: usize = 3;
/// With so much memory for it, a query works on batches of as many rows as DataFusion likes best, and with less on smaller ones.
const ROOMY: usize = 512 << 20;
const BATCH_ROWS: usize = 8192;
const LEAST_ROWS: usize = 128;
/// So much memory at least for what works at the same time.
const PART: usize = 16 << 20;
/// What sorting sets aside for its last step: of the memory, and at most.
const SORT_SHARE: usize = 32;
const SORT_BYTES: usize = 10 << 20;
/// What a label takes in memory when it is joined, about.
const LABEL_BYTES: u64 = 200;

/// How many rows that were answered well (status 200, no shadow) have a label, as `onnxd labels coverage` counts them.
const COVERAGE: &str = "select count(*) as answered, count(labels.label_key) as labelled \
    from log left join labels on log.model = labels.model and log.label_key = labels.label_key \
    where log.status = 200 and log.route <> 'shadow'";

/// What is asked.
pub struct Request {
    pub log: Log,
    /// Which rows `log` has; its conditions are those of the query.
    pub filter: Filter,
    pub sql: String,
    pub memory_bytes: u64,
    pub threads: usize,
}

/// How far it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    Rows {
        read: u64,
        of: u64,
    },
    /// The rest is to write what was found.
    All,
}

/// Of rows that wait for a label, how many have one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Coverage {
    pub answered: u64,
    pub labelled: u64,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    pub ended: Ended,
    /// Where labels were asked for. The answer stands where it could not be counted.
    pub coverage: Option<Result<Coverage, Refused>>,
}

/// Runs a query and writes its rows to `out`. `seen` is told how far it is.
pub fn run(
    request: &Request,
    (form, out): (Form, Box<dyn Write + Send>),
    mut seen: impl FnMut(Seen),
) -> Result<Answer, Refused> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(request.threads.max(1))
        .enable_time()
        .build()
        .map_err(|error| Refused::Failed(format!("no threads to run it: {error}")))?;
    runtime.block_on(answer(request, (form, out), &mut seen))
}

async fn answer(
    request: &Request,
    (form, out): (Form, Box<dyn Write + Send>),
    seen: &mut impl FnMut(Seen),
) -> Result<Answer, Refused> {
    let (tables, statement, mut begun) = first_rows(request, seen).await?;
    let mut sink = Sink::new(form, &begun.schema, out).map_err(Refused::Failed)?;
    while let Some(batch) = begun.next.take() {
        if sink.write(&batch).map_err(Refused::Failed)? {
            break;
        }
        begun.next = following(&mut begun, &tables, seen)
            .await
            .map_err(|error| refused::of(&error, &tables, request))?;
    }
    // What it holds is free for the count of labels.
    let asks_for_labels = ask::gives_rows(&statement)
        && tables::names_of(&begun.session, &statement).any(tables::has_labels);
    drop(begun);
    seen(Seen::All);
    let ended = sink.finish().map_err(Refused::Failed)?;
    let coverage = match asks_for_labels && tables.waits_for_labels() {
        true => Some(coverage(request, &tables).await),
        false => None,
    };
    Ok(Answer { ended, coverage })
}

/// A query with the first of its rows. Until there are some, it can be begun anew: where files were put together or removed since
/// they were listed.
async fn first_rows(
    request: &Request,
    seen: &mut impl FnMut(Seen),
) -> Result<(Tables, Statement, Begun), Refused> {
    for tries in 1.. {
        let tables = Tables::of(&request.log, &request.filter)?;
        let statement = ask::parsed(&request.sql, &tables)?;
        match begin_somehow(request, &tables, &statement, seen).await {
            Ok(begun) => return Ok((tables, statement, begun)),
            Err(_) if tries < TRIES && tables.have_changed() => {}
            Err(error) => return Err(refused::of(&error, &tables, request)),
        }
    }
    Err(Refused::Failed("the log changes faster than it is read".to_owned()))
}

/// A query that runs: its first rows are there.
struct Begun {
    schema: SchemaRef,
    plan: Arc<dyn ExecutionPlan>,
    stream: SendableRecordBatchStream,
    next: Option<RecordBatch>,
    /// What it runs in, which goes with its files on the disk.
    session: SessionContext,
}

/// A hash join is the faster one, and holds one side in memory. Where that is too large, both sides are sorted, which spills.
async fn begin_somehow(
    request: &Request,
    tables: &Tables,
    statement: &Statement,
    seen: &mut impl FnMut(Seen),
) -> Result<Begun, DataFusionError> {
    let labels = tables.labels_count().saturating_mul(LABEL_BYTES);
    let mut by_hash = labels <= request.memory_bytes / 4;
    loop {
        match begin(request, (tables, statement), by_hash, seen).await {
            Err(error) if by_hash && refused::is_of_memory(&error) => by_hash = false,
            begun => return begun,
        }
    }
}

async fn begin(
    request: &Request,
    (tables, statement): (&Tables, &Statement),
    by_hash: bool,
    seen: &mut impl FnMut(Seen),
) -> Result<Begun, DataFusionError> {
    let session = session(request, by_hash)?;
    tables.register(&session).await?;
    tables.are_there(&session, statement)?;
    let query = session.state().statement_to_plan(statement.clone()).await?;
    // What the statement is was looked at before; this is for what stands within it.
    let only_queries =
        SQLOptions::new().with_allow_ddl(false).with_allow_dml(false).with_allow_statements(false);
    only_queries.verify_plan(&query)?;
    let plan = session.execute_logical_plan(query).await?.create_physical_plan().await?;
    let stream = execute_stream(plan.clone(), session.task_ctx())?;
    let mut begun = Begun { schema: plan.schema(), plan, stream, next: None, session };
    begun.next = following(&mut begun, tables, seen).await?;
    Ok(begun)
}

fn session(request: &Request, by_hash: bool) -> Result<SessionContext, DataFusionError> {
    let bytes = usize::try_from(request.memory_bytes).unwrap_or(usize::MAX);
    // What is read and written meanwhile is not in this account.
    let pool = bytes / 2;
    let runtime = RuntimeEnvBuilder::new()
        .with_memory_pool(Arc::new(Pool::new(pool)))
        .with_metadata_cache_limit(bytes / 16)
        .build_arc()?;
    let batch = (BATCH_ROWS * (pool.min(ROOMY) >> 10) / (ROOMY >> 10)).max(LEAST_ROWS);
    // With one part alone, every join is one by hash.
    let parts = request.threads.min(pool / PART).max(if by_hash { 1 } else { 2 });
    let config = SessionConfig::new()
        .with_information_schema(true)
        .with_target_partitions(parts)
        .with_batch_size(batch)
        .with_sort_spill_reservation_bytes((pool / SORT_SHARE).min(SORT_BYTES))
        .set_usize("datafusion.execution.sort_pushdown_buffer_capacity", pool / 16)
        .set_bool("datafusion.sql_parser.collect_spans", true)
        .set_bool("datafusion.optimizer.prefer_hash_join", by_hash);
    Ok(SessionContext::new_with_config_rt(config, runtime))
}

/// The next rows; meanwhile, `seen` is told how far it is.
async fn following(
    begun: &mut Begun,
    tables: &Tables,
    seen: &mut impl FnMut(Seen),
) -> Result<Option<RecordBatch>, DataFusionError> {
    loop {
        let next = tokio::time::timeout(LOOK, begun.stream.next()).await;
        seen(Seen::Rows { read: read_by(&begun.plan), of: tables.rows() });
        if let Ok(next) = next {
            return next.transpose();
        }
    }
}

/// Rows that the leaves of a plan have given so far.
fn read_by(plan: &Arc<dyn ExecutionPlan>) -> u64 {
    let below = plan.children();
    if below.is_empty() {
        let rows = plan.metrics().and_then(|metrics| metrics.output_rows());
        return rows.unwrap_or(0) as u64;
    }
    below.into_iter().map(read_by).sum()
}

async fn coverage(request: &Request, tables: &Tables) -> Result<Coverage, Refused> {
    let statement = ask::parsed(COVERAGE, tables)?;
    let begun = begin_somehow(request, tables, &statement, &mut |_| ())
        .await
        .map_err(|error| refused::of(&error, tables, request))?;
    let count = |at: usize| {
        let column = begun.next.as_ref()?.columns().get(at)?.as_primitive_opt::<Int64Type>()?;
        u64::try_from(*column.values().first()?).ok()
    };
    match (count(0), count(1)) {
        (Some(answered), Some(labelled)) => Ok(Coverage { answered, labelled }),
        _ => Err(Refused::Failed("the count of labels gave none".to_owned())),
    }
}
