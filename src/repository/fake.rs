//! For tests: real files, and a runtime that does as the model's metadata says.

use std::{
    fs,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    thread,
    time::{Duration, Instant},
};

use bytes::Bytes;
use serde_json::json;

use super::{
    loader::Backends,
    manager::{Deps, Manager},
    options::{ModelOptions, Options},
    table::Version,
};
use crate::{
    batcher::{
        cost::CostModel,
        executor::Executors,
        mode::{Choice, Execution},
        options::BatchOptions,
        pool::{Pool, Threads},
        served::{Request, Served, ServedParts, Sessions},
    },
    predlog::{options::StoreOptions, store::Logs},
    runtime::{
        onnx_writer::{GraphWriter, ModelWriter},
        options::SessionOptions,
        session::{Backend, Cancel, ModelSource, Outputs, RunError, Session},
    },
    telemetry::stats::VersionStats,
    types::{
        datatype::Datatype,
        error::Error,
        model::{Dim, Signature, TensorSpec},
        tensor::{Tensor, TensorView, element_count},
    },
};

pub const SOON: Duration = Duration::from_secs(60);

/// Opens anything; the model's metadata says what goes wrong.
#[derive(Default)]
pub struct Fake {
    pub opened: AtomicUsize,
    at_once: AtomicUsize,
    pub most_at_once: AtomicUsize,
}

pub struct FakeSession {
    signature: Arc<Signature>,
    warnings: Vec<String>,
    /// What it answers: NaN, one column more, or zeros.
    answers: Answers,
    /// Panics where it reads this.
    poison: Option<f32>,
}

#[derive(Clone, Copy, PartialEq)]
enum Answers {
    Zeros,
    Nan,
    Wide,
}

impl Backend for Fake {
    fn name(&self) -> &'static str {
        "tract"
    }

    fn describe(&self) -> String {
        "a fake".into()
    }

    fn open(&self, source: &ModelSource, _: &SessionOptions) -> Result<Arc<dyn Session>, String> {
        self.opened.fetch_add(1, SeqCst);
        let now = self.at_once.fetch_add(1, SeqCst) + 1;
        self.most_at_once.fetch_max(now, SeqCst);
        thread::sleep(Duration::from_millis(2));
        self.at_once.fetch_sub(1, SeqCst);
        let graph = &source.graph;
        match graph.metadata.get("fake").map(String::as_str) {
            Some("refuse") => return Err("no operator Frobnicate".into()),
            Some("panic") => panic!("the fake panics"),
            _ => {}
        }
        let warns = graph.metadata.get("fake").is_some_and(|f| f == "warn");
        let warnings = if warns { vec!["length fixed to 7".to_string()] } else { Vec::new() };
        let (inputs, outputs) = (graph.inputs.clone(), graph.outputs.clone());
        let can_batch = Signature::batchable(&inputs, &outputs);
        let signature = Arc::new(Signature { inputs, outputs, can_batch });
        let poison = graph.metadata.get("fake").is_some_and(|f| f == "poison").then_some(13.0f32);
        let answers = match graph.metadata.get("fake").map(String::as_str) {
            Some("nan") => Answers::Nan,
            Some("wide") => Answers::Wide,
            _ => Answers::Zeros,
        };
        Ok(Arc::new(FakeSession { signature, warnings, answers, poison }))
    }
}

impl Session for FakeSession {
    fn signature(&self) -> &Arc<Signature> {
        &self.signature
    }

    fn providers(&self) -> &[String] {
        &[]
    }

    fn warnings(&self) -> &[String] {
        &self.warnings
    }

    fn run(
        &self,
        inputs: &[Option<TensorView<'_>>],
        _: Option<&Cancel>,
    ) -> Result<Outputs, RunError> {
        let first = inputs.iter().flatten().next().and_then(|i| i.dims.first().copied());
        let start = inputs.iter().flatten().next().and_then(|i| i.data.first_chunk::<4>());
        let start = start.map(|bytes| f32::from_le_bytes(*bytes));
        assert!(self.poison.is_none() || start != self.poison, "the fake was poisoned");
        let output = |spec: &crate::types::model::TensorSpec| {
            let dims = spec.dims.iter().flatten().enumerate().map(|(at, dim)| match dim {
                Dim::Fixed(n) => *n,
                _ if at == 0 => first.unwrap_or(1),
                _ => 1,
            });
            let mut dims: crate::types::tensor::Dims = dims.collect();
            dims[1] += i64::from(self.answers == Answers::Wide);
            let bytes = element_count(&dims).unwrap() * spec.datatype.size().unwrap();
            let fill = if self.answers == Answers::Nan { 0xff } else { 0 };
            Tensor { datatype: spec.datatype, dims, data: Bytes::from(vec![fill; bytes]) }
        };
        Ok(self.signature.outputs.iter().map(output).collect())
    }
}

pub fn graph() -> GraphWriter {
    GraphWriter::new()
        .input("x", Datatype::Fp32, &["N", "4"])
        .output("y", Datatype::Fp32, &["N", "3"])
        .node("Relu", &["x"], &["y"])
}

pub fn model(fake: &str) -> Vec<u8> {
    ModelWriter::default().property("fake", fake).write(&graph())
}

pub fn put(root: &Path, file: &str, bytes: &[u8]) {
    let path = root.join(file);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
}

pub fn backends(fake: &Arc<Fake>) -> Backends {
    Backends { ort: Err("there is no ONNX Runtime here".into()), tract: Some(fake.clone()) }
}

/// A log that nobody writes.
pub fn logs() -> Arc<Logs> {
    Arc::new(Logs::idle(&StoreOptions::default()).expect("the defaults are sound"))
}

pub fn deps(fake: &Arc<Fake>) -> Deps {
    let pool = Pool::new(Threads { network: 1, executors: 1 });
    Deps {
        backends: backends(fake),
        pool,
        logs: logs(),
        devices: Arc::default(),
        cores: 2,
        state: None,
    }
}

pub fn options(root: &Path) -> Options {
    Options { models: root.to_path_buf(), ..Options::default() }
}

pub fn started(options: &Options) -> (Manager, Arc<Fake>) {
    let fake = Arc::new(Fake::default());
    let manager = Manager::start(options, deps(&fake)).unwrap();
    assert!(manager.wait_initial(SOON));
    (manager, fake)
}

/// As `started`, with executors that run what is asked.
pub fn running(options: &Options) -> (Manager, Arc<Fake>, Executors) {
    let fake = Arc::new(Fake::default());
    let deps = deps(&fake);
    let executors = Executors::start(&deps.pool).unwrap();
    let manager = Manager::start(options, deps).unwrap();
    assert!(manager.wait_initial(SOON));
    (manager, fake, executors)
}

pub fn current(manager: &Manager, name: &str) -> Result<u64, String> {
    manager.table.load().resolve(name, "").map(|v| v.number).map_err(|e| e.to_string())
}

/// Asks the version that serves for one row that begins with `value`.
pub fn ask(manager: &Manager, value: f32) -> Result<(), Error> {
    let version = manager.table.load().resolve("iris", "")?;
    let row: Vec<u8> = [value, 0.0, 0.0, 0.0].iter().flat_map(|v| v.to_le_bytes()).collect();
    let data = Bytes::from(row);
    let dims = crate::types::tensor::Dims::from_slice(&[1, 4]);
    let request = Request {
        inputs: [Some(Tensor { datatype: Datatype::Fp32, dims, data })].into_iter().collect(),
        rows: 1,
        bytes: 16,
        bucket: 0,
        deadline: None,
        priority: 0,
        favoured: false,
    };
    let awaited = version.served.submit(request, crate::telemetry::clock::now())?;
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(awaited).outputs.map(drop)
}

pub fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let limit = Instant::now() + SOON;
    while !holds() {
        assert!(Instant::now() < limit, "{what}: not within {SOON:?}");
        thread::sleep(Duration::from_millis(1));
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

/// A version that is never run: `model` takes images and gives labels.
pub fn version(model: &str, number: u64) -> Arc<Version> {
    let signature = Arc::new(Signature {
        inputs: vec![spec("image", Datatype::Fp32, &[-1, 8, 8])],
        outputs: vec![spec("label", Datatype::Bytes, &[-1])],
        can_batch: true,
    });
    let label: Arc<str> = number.to_string().into();
    let stats = Arc::new(VersionStats::new(&format!("fixture-{model}"), &label));
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
        on_wanted: None,
    })
}
