//! What a request costs between the bytes that came and the bytes that go, on the echo backend: decoding, engine, batcher
//! and encoding, without sockets and without a model. In the turn, and over an executor and back.

use std::{hint::black_box, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use bytes::{Bytes, BytesMut};
use criterion::{Criterion, criterion_group, criterion_main};
use onnxd::{
    batcher::{
        cost::CostModel,
        executor::Executors,
        mode::{Choice, Execution},
        options::BatchOptions,
        pool::{Pool, Threads},
        served::{Served, ServedParts, Sessions},
        turn,
    },
    repository::{
        options::ModelOptions,
        table::{Model, State, Table, Version},
    },
    runtime::echo::{Echo, EchoSession, rows_of},
    serving::engine::{Engine, EngineOptions},
    telemetry::{clock::now, stats::VersionStats},
    types::datatype::Datatype,
    wire,
};

const WIDTH: usize = 32;

/// A version that answers with its input of FP32 [N, 32].
fn version(pool: &Arc<Pool>, name: &str, execution: Execution) -> Arc<Version> {
    let session =
        Arc::new(EchoSession::new(rows_of(Datatype::Fp32, WIDTH as i64), Echo::default()));
    let sessions = Sessions::new(session, pool.threads.slots());
    let signature = sessions.signature().clone();
    let (model, label): (Arc<str>, Arc<str>) = (name.into(), "1".into());
    let stats = Arc::new(VersionStats::new(name, &label));
    let cost = CostModel::new();
    cost.seed(&[(1, Duration::from_micros(1)), (64, Duration::from_micros(4))], 1 << 20);
    let gather = execution != Execution::Single;
    let served = Served::new(ServedParts {
        model: model.clone(),
        version: label.clone(),
        sessions,
        signature: signature.clone(),
        choice: Choice { execution, gather, turn_rows: 64, reserve: true, reason: String::new() },
        options: BatchOptions::default(),
        device: None,
        threads: 1,
        padding: None,
        cost: Arc::new(cost),
        stats: stats.clone(),
        pool: pool.clone(),
        on_panic: None,
        on_wanted: None,
    });
    Arc::new(Version {
        model,
        number: 1,
        label,
        signature,
        served,
        stats,
        cache: None,
        log: None,
        platform: "echo",
        backend: "echo",
        providers: Vec::new(),
        default_timeout: None,
        options: Arc::new(ModelOptions::default()),
        weight_bytes: 300,
        sha256: String::new(),
        explanation: serde_json::Value::Null,
    })
}

fn engine() -> Engine {
    let pool = Pool::new(Threads { network: 1, executors: 1 });
    // Left to the end of the process.
    drop(Executors::start(&pool).expect("threads"));
    let mut table = Table::default();
    for (name, execution) in [("turn", Execution::Turn), ("executor", Execution::Batch)] {
        let version = version(&pool, name, execution);
        let versions = [(1, State::Ready(version.clone()))].into_iter().collect();
        let current = Some(version);
        let model = Model { name: name.into(), versions, current, ..Model::default() };
        table.models.insert(name.into(), Arc::new(model));
    }
    let options = EngineOptions {
        request_memory_bytes: 1 << 30,
        max_deadline: None,
        max_requests: 1000,
        shared_memory: Default::default(),
        max_request_bytes: 1 << 20,
    };
    Engine::new(Arc::new(ArcSwap::from_pointee(table)), &options)
}

/// A ModelInferRequest of one row: model_name = 1, inputs = 5 {name, datatype, shape}, raw_input_contents = 7.
fn request(model: &str) -> Bytes {
    let field = |number: u8, bytes: &[u8]| [&[number << 3 | 2, bytes.len() as u8], bytes].concat();
    let shape = field(3, &[1, WIDTH as u8]);
    let input = [field(1, b"x"), field(2, b"FP32"), shape].concat();
    // Its length takes two bytes.
    let mut raw = vec![7 << 3 | 2, 0x80, 1];
    raw.extend((0..WIDTH).flat_map(|i| (i as f32).to_le_bytes()));
    [field(1, model.as_bytes()), field(5, &input), raw].concat().into()
}

async fn ask(engine: &Engine, message: &Bytes, head: &mut BytesMut) -> usize {
    let request = wire::grpc::decode_request(message).expect("well formed");
    let answer = engine.infer(request, now(), None).await.expect("an answer");
    let chunks = wire::grpc::encode_response(&answer, head).expect("it fits");
    chunks.iter().map(Bytes::len).sum()
}

fn engines(c: &mut Criterion) {
    turn::install(0);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .on_thread_park(turn::flush)
        .build()
        .expect("an event loop");
    let engine = engine();
    let mut head = BytesMut::new();
    for name in ["turn", "executor"] {
        let message = request(name);
        c.bench_function(&format!("engine/{name}/one request"), |b| {
            b.iter(|| black_box(runtime.block_on(ask(&engine, &message, &mut head))));
        });
    }
}

criterion_group!(benches, engines);
criterion_main!(benches);
