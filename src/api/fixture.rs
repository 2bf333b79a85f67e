//! For tests: a table with models in every state, without a runtime.

use std::{
    collections::BTreeMap,
    sync::{Arc, OnceLock},
    time::Duration,
};

use arc_swap::ArcSwap;
use serde_json::json;
use tokio::sync::watch;

use super::{
    body::BodyLimits,
    state::{Answer, Api, Infer},
};
use crate::{
    batcher::{
        cost::CostModel,
        mode::{Choice, Execution},
        options::BatchOptions,
        pool::{Pool, Threads},
        served::{Served, ServedParts, Sessions},
    },
    predlog::{options::StoreOptions, store::Logs},
    repository::{
        calls::{self, Call, Control},
        options::ModelOptions,
        table::{Model, State, Table, Version},
        traffic::Place,
    },
    runtime::session::{Cancel, Outputs, RunError, Session},
    serving::{
        caller::Caller,
        memory::Budget,
        regions::{RegionOptions, Regions},
    },
    shutdown::{self, Announcer},
    telemetry::{logs::Format, stats::VersionStats},
    types::{
        datatype::Datatype,
        error::{Code, Error},
        model::{Dim, Signature, TensorSpec},
        request::InferRequest,
        tensor::TensorView,
    },
};

/// Refuses everything, as an overloaded engine does.
struct Full;

impl Infer for Full {
    fn infer(
        &self,
        request: InferRequest,
        _: Option<Duration>,
        _: Option<Arc<Caller>>,
    ) -> Answer<'_> {
        let message = format!("the queue of {} is full", request.model);
        Box::pin(async move { Err(Error::overloaded(message, Duration::from_secs(2))) })
    }
}

/// Never run.
struct Still(Arc<Signature>);

impl Session for Still {
    fn signature(&self) -> &Arc<Signature> {
        &self.0
    }

    fn providers(&self) -> &[String] {
        &[]
    }

    fn run(&self, _: &[Option<TensorView<'_>>], _: Option<&Cancel>) -> Result<Outputs, RunError> {
        Err(RunError::Failed("not here to run".into()))
    }
}

/// A server that nobody stops.
pub fn serving() -> shutdown::Listener {
    static FOR_EVER: OnceLock<(Announcer, shutdown::Listener)> = OnceLock::new();
    FOR_EVER.get_or_init(shutdown::channel).1.clone()
}

/// Handlers over `digits` (versions 1 and 2 serve, 3 loads, 4 failed), `broken` (no version serves) and `empty`.
pub fn api() -> Api {
    let digits = vec![
        (1, State::Ready(version("digits", 1))),
        (2, State::Ready(version("digits", 2))),
        (3, State::Loading),
        (4, State::Failed("the file is cut off".into())),
    ];
    let broken = vec![(1, State::Failed("unknown operator Foo".into()))];
    let mut empty = model("empty", vec![]);
    empty.failed = Some("model.yaml: unknown key 'speed'".into());
    let mut table = Table::default();
    for model in [model("digits", digits), model("broken", broken), empty] {
        table.models.insert(model.name.clone(), Arc::new(model));
    }
    Api {
        table: Arc::new(ArcSwap::from_pointee(table)),
        infer: Arc::new(Full),
        ready: watch::channel(true).1,
        store: None,
        shutdown: serving(),
        control: false,
        calls: calls(),
        limits: BodyLimits { max_bytes: 1 << 20, timeout: Duration::from_secs(30) },
        budget: Budget::new(16 << 20),
        place: Place { models: "nowhere".into(), state: None, store: None },
        labels: Logs::idle(&StoreOptions::default()).unwrap().intake(),
        regions: Arc::new(Regions::new(RegionOptions::default(), 1 << 20)),
        log_format: Format::Text,
        traced: None,
    }
}

/// A manager's stand-in: knows the models of `api`, refuses `broken`, and does nothing.
fn calls() -> Control {
    let (control, calls) = calls::channel();
    std::thread::spawn(move || {
        for Call { command, reply } in calls {
            let models = command.models();
            let unknown = |m: &&String| !["digits", "broken", "empty"].contains(&&***m);
            let answer = match models.iter().find(unknown) {
                Some(model) => {
                    Err(Error::new(Code::NotFound, format!("there is no model '{model}'")))
                }
                None if models.contains(&"broken".into()) => Err(Error::invalid("version 1: no")),
                None => Ok(()),
            };
            let _ = reply.send(answer);
        }
    });
    control
}

fn model(name: &str, versions: Vec<(u64, State)>) -> Model {
    let versions: BTreeMap<u64, State> = versions.into_iter().collect();
    let current = versions.values().rev().find_map(|state| match state {
        State::Ready(version) => Some(version.clone()),
        _ => None,
    });
    Model { name: name.into(), versions, current, ..Model::default() }
}

fn spec(name: &str, datatype: Datatype, dims: &[i64]) -> TensorSpec {
    let dims = dims.iter().map(|&n| if n < 0 { Dim::Symbol("N".into()) } else { Dim::Fixed(n) });
    TensorSpec {
        name: name.into(),
        datatype,
        dims: Some(dims.collect()),
        optional: false,
        labels: None,
    }
}

pub fn version(model: &str, number: u64) -> Arc<Version> {
    let signature = Arc::new(Signature {
        inputs: vec![spec("image", Datatype::Fp32, &[-1, 8, 8])],
        outputs: vec![spec("label", Datatype::Bytes, &[-1])],
        can_batch: true,
    });
    let label: Arc<str> = number.to_string().into();
    let stats = Arc::new(VersionStats::new(&format!("api-fixture-{model}"), &label));
    Arc::new(Version {
        model: model.into(),
        number,
        label: label.clone(),
        signature: signature.clone(),
        served: served(model, label, &signature, &stats),
        stats,
        cache: None,
        log: None,
        platform: "onnxruntime_onnx",
        backend: "ort",
        providers: vec!["CPUExecutionProvider".into()],
        default_timeout: None,
        options: Arc::new(ModelOptions::default()),
        weight_bytes: 300,
        sha256: String::new(),
        explanation: json!({ "mode": "single" }),
    })
}

fn served(
    model: &str,
    version: Arc<str>,
    signature: &Arc<Signature>,
    stats: &Arc<VersionStats>,
) -> Arc<Served> {
    Served::new(ServedParts {
        model: model.into(),
        version,
        sessions: Sessions::new(Arc::new(Still(signature.clone())), 0),
        signature: signature.clone(),
        choice: Choice {
            execution: Execution::Single,
            gather: false,
            turn_rows: 0,
            reserve: true,
            reason: String::new(),
        },
        options: BatchOptions::default(),
        device: None,
        threads: 1,
        padding: None,
        cost: Arc::new(CostModel::new()),
        stats: stats.clone(),
        pool: Pool::new(Threads { network: 1, executors: 1 }),
        on_panic: None,
    })
}
